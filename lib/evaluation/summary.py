"""From the numbers of every sample to rows of results: by category and overall, with intervals."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from lib.data.loading import PreparedDataset
from lib.evaluation.instances import evaluate_instances
from lib.evaluation.predictors import Predictor
from lib.evaluation.results import result_row
from lib.geometry.metrics import azimuth_entropy, wrap_degrees

Values = Float[np.ndarray, " instances"]
Weights = Float[np.ndarray, "resamples instances"]
# statistics take the values once and many weightings of them, so that a bootstrap is a few array operations
Statistic = Callable[[Values, Weights], Float[np.ndarray, " resamples"]]

SHAPE_UNITS = {"raw": "longest side"} | dict.fromkeys(("view", "icp", "rotation"), "projected extent")


@dataclass(frozen=True)
class Run:
    """Whose numbers these are: a name for tables, and how it was trained.

    The profile is "quick", "small", "full" or "paper", and "none" for what is not trained. Without a seed of the
    training that of the evaluation is written.
    """

    system: str
    profile: str = "none"
    steps: int | None = None
    seed: int | None = None


def evaluate(
    predictor: Predictor, dataset: PreparedDataset, *, seed: int = 0, run: Run | None = None, **settings
) -> list[dict]:
    """Measure a predictor on a dataset: `evaluate_instances` with its settings, then `summarize`.

    `seed` is that of the drawn points and of the bootstrap.
    """
    start = time.perf_counter()
    instances = evaluate_instances(predictor, dataset, seed=seed, **settings)
    return summarize(instances, dataset, run or Run("unnamed"), seed=seed, seconds=time.perf_counter() - start)


def summarize(
    instances: pd.DataFrame, dataset: PreparedDataset, run: Run, *, seed: int = 0, seconds: float = float("nan")
) -> list[dict]:
    """Rows of results from the output of `evaluate_instances`.

    One row for each category (and ``all``), protocol and metric. Shape metrics are means over instances. Of the
    viewpoint, which no protocol changes (protocol ``none``): ``azimuth_error`` (median, degrees),
    ``azimuth_error_iqr`` (its interquartile range), ``azimuth_within_30`` (fraction of instances), ``elevation_error``
    and ``rotation_error`` (medians), all after turning the canonical frame by 0 or 180 degrees, whichever makes the
    median azimuth error smaller for the whole category; and ``azimuth_entropy`` of the predicted azimuths (12 bins,
    1 even, 0 collapsed). ``empty_meshes`` is a count.

    ``low`` and ``high`` bound the middle 95 % of 1,000 bootstrap resamples of the *models*, with all their
    views: two views of one chair are not two independent chairs. ``n`` counts instances.
    """
    common = {
        "system": run.system,
        "dataset": dataset.name,
        "split": "+".join(sorted(set(dataset.metadata["split"]))),
        "seed": seed if run.seed is None else run.seed,
        "profile": run.profile,
        "steps": run.steps,
        "seconds": round(seconds, 2),
    }
    rows = []
    for category in ["all", *sorted(set(instances["category"]))]:
        part = instances if category == "all" else instances[instances["category"] == category]
        for protocol, metric, unit, statistic, values, models in _measurements(part):
            value, low, high = bootstrap_interval(values, models, statistic, seed=seed)
            number = {"value": value, "unit": unit, "low": low, "high": high, "n": len(values)}
            rows.append(result_row(**common, category=category, protocol=protocol, metric=metric, **number))
    return rows


def bootstrap_interval(
    values: Values, groups: Iterable, statistic: Statistic, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """A statistic, and the ends of the middle 95 % of its values when whole groups are drawn again with replacement.

    `groups` says of each value which group it belongs to.
    """
    _, group = np.unique(np.asarray(list(groups), dtype=str), return_inverse=True)
    count = group.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    resampled = statistic(values, drawn[:, group].astype(float))
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return float(statistic(values, np.ones((1, len(values))))[0]), float(low), float(high)


def weighted_mean(values: Values, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Mean of values for each row of weights."""
    return weights @ values / weights.sum(1)


def weighted_sum(values: Values, weights: Weights) -> Float[np.ndarray, " resamples"]:
    """Sum of values for each row of weights."""
    return weights @ values


def weighted_quantile(values: Values, weights: Weights, quantile: float = 0.5) -> Float[np.ndarray, " resamples"]:
    """Quantile for each row of weights; halfway between two values where it falls on a step, as a median does."""
    order = np.argsort(values)
    cumulative = np.cumsum(weights[:, order], axis=1)
    goal = quantile * cumulative[:, -1:]
    # integer weights make ties exact; the tolerance covers the product above
    below = values[order][np.argmax(cumulative > goal - 1e-9, axis=1)]
    above = values[order][np.argmax(cumulative > goal + 1e-9, axis=1)]
    return (below + above) / 2


def azimuth_errors(differences: Values) -> tuple[int, Values]:
    """By how many degrees, 0 or 180, all of a system's azimuths are turned, and how far each is off then.

    The better of the two by the median: a symmetric system that never saw a viewpoint may have its front at either end.
    """
    errors = {turn: np.abs(wrap_degrees(differences + turn)) for turn in (0, 180)}
    turn = min(errors, key=lambda turn: np.median(errors[turn]))
    return turn, errors[turn]


def _measurements(part: pd.DataFrame):
    """(protocol, metric, unit, statistic, values, models) of one category."""
    groups = dict(list(part.groupby(["protocol", "metric"], sort=False)))
    for (protocol, metric), group in groups.items():
        values, models = group["value"].to_numpy(float), group["model"].to_numpy()
        if protocol != "none":
            unit = "fraction" if metric.startswith("f_score") else SHAPE_UNITS[protocol]
            yield protocol, metric, unit, weighted_mean, values, models
        elif metric == "empty":
            yield protocol, "empty_meshes", "count", weighted_sum, values, models
    if ("none", "azimuth") not in groups:
        return
    models = groups["none", "azimuth"]["model"].to_numpy()
    value = {metric: group["value"].to_numpy(float) for (kind, metric), group in groups.items() if kind == "none"}
    turn, errors = azimuth_errors(value["azimuth_difference"])
    rotation_error = value["rotation_error" if turn == 0 else "rotation_error_half_turn"]
    within = (errors <= 30).astype(float)
    yield "none", "azimuth_error", "degree", weighted_quantile, errors, models
    yield "none", "azimuth_error_iqr", "degree", _interquartile_range, errors, models
    yield "none", "azimuth_within_30", "fraction", weighted_mean, within, models
    yield "none", "azimuth_entropy", "fraction of log 12", _entropy, value["azimuth"], models
    yield "none", "elevation_error", "degree", weighted_quantile, np.abs(value["elevation_difference"]), models
    yield "none", "rotation_error", "degree", weighted_quantile, rotation_error, models


def _interquartile_range(values: Values, weights: Weights) -> Float[np.ndarray, " resamples"]:
    return weighted_quantile(values, weights, 0.75) - weighted_quantile(values, weights, 0.25)


def _entropy(values: Values, weights: Weights) -> Float[np.ndarray, " resamples"]:
    return np.array([azimuth_entropy(values, 12, row) for row in weights])
