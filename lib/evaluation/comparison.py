"""From cells (a row of a table, trained with one seed) to the table: means, spread over seeds, paired comparisons."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.evaluation.summary import SHAPE_UNITS, azimuth_errors, bootstrap_interval, weighted_mean

# metric -> its title in the table, what a printed number is multiplied by, its digits, whether differences are shown
SHOWN = {
    "chamfer_distance": ("10 x CD", 10, 3, True),
    "accuracy": ("10 x accuracy", 10, 3, False),
    "completeness": ("10 x coverage", 10, 3, False),
    "f_score@0.05": ("FS@5", 1, 3, True),
    "azimuth_error_mean": ("azimuth off by (°)", 1, 1, True),  # where viewpoints are predicted
}


def compare_rows(cells: pd.DataFrame, about: dict[str, dict], reference: str, seed: int = 0) -> list[dict]:
    """Rows of ``results.json`` over all seeds, from the numbers of every image of every cell.

    For each row of the table, protocol and metric four numbers, each with ``seed`` null:

    - ``<metric>``: the mean over images and seeds;
    - ``<metric>_spread``: the standard deviation of the seeds' means (n - 1), ``n`` seeds;
    - ``<metric>_difference``: the mean of the image's value minus the same image's in the reference row, over the
      seeds that both have;
    - ``<metric>_agreeing``: the number of those seeds whose own difference has the same sign.

    ``low`` and ``high`` bound the middle 95 % of 1,000 bootstrap resamples of the models with all their images. A
    difference whose interval leaves out 0 is beyond the chance of *which objects were measured*; spread and agreement
    show the chance of training.

    Parameters
    ----------
    cells : DataFrame
        ``row, seed, id, category, model, protocol, metric, value``: the cells' instances, one below the other.
    about : dict
        Row -> the columns that its rows of results have in common (system, dataset, split, profile, ...).
    """
    results = []
    compared = pd.concat([cells[cells["protocol"] != "none"], _azimuth_errors(cells)])
    for (protocol, metric), part in compared.groupby(["protocol", "metric"], sort=False):
        # for each row of the table: images down, seeds across
        tables = {
            row: group.pivot(index=["id", "category", "model"], columns="seed", values="value")
            for row, group in part.groupby("row", sort=False)
        }
        unit = "fraction" if metric.startswith("f_score") else SHAPE_UNITS.get(protocol, "degree")
        for row, table in tables.items():
            common = about[row] | {"category": "all", "protocol": protocol, "seed": None, "unit": unit}
            results += [common | number for number in _means(table, metric, seed)]
            if row != reference and reference in tables:
                results += [common | number for number in _differences(table, tables[reference], metric, seed)]
    return results


def _azimuth_errors(cells: pd.DataFrame) -> pd.DataFrame:
    """How far each image's azimuth is off, in degrees; the frame of a cell may be turned around as a whole."""
    part = cells[cells["metric"] == "azimuth_difference"]
    values = part.groupby(["row", "seed"])["value"].transform(lambda cell: azimuth_errors(cell.to_numpy())[1])
    return part.assign(metric="azimuth_error_mean", value=values)


def _means(table: pd.DataFrame, metric: str, seed: int) -> list[dict]:
    """Mean with its interval, and the spread over seeds."""
    means = table.mean(axis=0)
    spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    number = {"metric": f"{metric}_spread", "value": spread, "low": None, "high": None, "n": len(means)}
    return [_interval(metric, table.mean(axis=1), seed), number]


def _differences(table: pd.DataFrame, reference: pd.DataFrame, metric: str, seed: int) -> list[dict]:
    """Mean difference with its interval, and how many seeds agree with its sign."""
    difference = (table - reference).dropna(axis=1, how="all").dropna(axis=0)  # the same image, the same seed
    if difference.empty:
        return []
    signs = np.sign(difference.mean(axis=0))
    agreeing = int((signs == np.sign(difference.to_numpy().mean())).sum())
    number = {"metric": f"{metric}_agreeing", "value": agreeing, "low": None, "high": None, "n": len(signs)}
    return [_interval(f"{metric}_difference", difference.mean(axis=1), seed), number | {"unit": "seeds"}]


def _interval(metric: str, values: pd.Series, seed: int) -> dict:
    models = values.index.get_level_values("model")
    value, low, high = bootstrap_interval(values.to_numpy(), models, weighted_mean, seed=seed)
    return {"metric": metric, "value": value, "low": low, "high": high, "n": len(values)}


def comparison_table(results: Sequence[dict], protocol: str) -> pd.DataFrame:
    """What `compare_rows` wrote as a table of text: means, ± spread over seeds, differences with 95 %.

    Lengths are times ten, as in the papers. A difference is marked ``*`` where its interval leaves out 0 and every
    seed, of at least two, has its sign; otherwise it says that we cannot tell.
    """
    rows = [row for row in results if row["seed"] is None and row["protocol"] in (protocol, "none")]
    if not rows:
        raise InputError(f"There are no results over seeds in protocol {protocol!r}.")
    systems: dict[str, dict[str, dict]] = {}
    for row in rows:
        systems.setdefault(row["system"].split(": ", 1)[-1], {})[row["metric"]] = row
    table = {}
    for name, numbers in systems.items():
        cells = table[name] = {}
        for metric, (title, scale, digits, compared) in SHOWN.items():
            if metric not in numbers:
                continue
            spread = numbers[f"{metric}_spread"]["value"]
            around = "" if spread is None or np.isnan(spread) else f" ± {scale * spread:.{digits}f}"
            cells[title] = f"{scale * numbers[metric]['value']:.{digits}f}{around}"
            if compared and f"{metric}_difference" in numbers:
                one, agreeing = numbers[f"{metric}_difference"], numbers[f"{metric}_agreeing"]
                value, low, high = (scale * one[key] for key in ("value", "low", "high"))
                beyond_chance = (low > 0 or high < 0) and agreeing["value"] == agreeing["n"] > 1
                verdict = "*" if beyond_chance else "the same" if low == high == 0 else "cannot tell"
                cells[f"{title}, difference"] = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] {verdict}"
        cells["seeds"] = str(numbers["chamfer_distance_spread"]["n"])
    return pd.DataFrame.from_dict(table, orient="index").fillna("").rename_axis("row")


def markdown_table(table: pd.DataFrame) -> str:
    """A table of text as Markdown, its index in the first column."""
    head = [table.index.name or "", *table.columns]
    body = [[str(name), *row] for name, row in zip(table.index, table.values, strict=True)]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
