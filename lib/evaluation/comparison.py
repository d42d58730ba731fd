"""From cells (a row of a table, trained with one seed) to the table: means, spread over seeds, paired comparisons."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.errors import InputError
from lib.evaluation.summary import SHAPE_UNITS, bootstrap_interval, weighted_mean

LENGTHS = {"chamfer_distance": "10 x CD", "accuracy": "10 x accuracy", "completeness": "10 x coverage"}
SCORES = {"f_score@0.05": "FS@5"}
KEY = ["id", "category", "model"]


def compare_rows(cells: pd.DataFrame, about: dict[str, dict], reference: str, seed: int = 0) -> list[dict]:
    """Rows of ``results.json`` over all seeds, from the numbers of every image of every cell.

    For each row of the table, protocol and metric four numbers, each with ``seed`` null:

    - ``<metric>``: the mean over images and seeds;
    - ``<metric>_spread``: the standard deviation of the seeds' means (n - 1), ``n`` seeds;
    - ``<metric>_difference``: the mean of the image's value minus the same image's in the reference row, over the
      seeds that both have;
    - ``<metric>_agreeing``: the number of those seeds whose own difference has the same sign.

    ``low`` and ``high`` bound the middle 95 % of 1,000 bootstrap resamples of the models with all their images. A
    difference whose interval leaves out 0 is beyond the chance of *which objects were measured*; what chance of
    training there is, spread and agreement show.

    Parameters
    ----------
    cells : DataFrame
        ``row, seed, id, category, model, protocol, metric, value``: the cells' instances, one below the other.
    about : dict
        Row -> the columns that its rows of results have in common (system, dataset, split, profile, ...).
    reference : str
        The row that others are compared with.
    """
    cells = cells[cells["protocol"] != "none"]
    results = []
    for (protocol, metric), part in cells.groupby(["protocol", "metric"], sort=False):
        values = {row: _images_by_seeds(group) for row, group in part.groupby("row", sort=False)}
        for row, table in values.items():
            common = about[row] | {"category": "all", "protocol": protocol, "seed": None}
            common["unit"] = "fraction" if metric.startswith("f_score") else SHAPE_UNITS[protocol]
            numbers = _own(table, metric, seed)
            if row != reference and reference in values:
                numbers += _paired(table, values[reference], metric, seed)
            results += [common | number for number in numbers]
    return results


def _images_by_seeds(part: pd.DataFrame) -> pd.DataFrame:
    return part.pivot(index=KEY, columns="seed", values="value")


def _own(table: pd.DataFrame, metric: str, seed: int) -> list[dict]:
    means = table.mean(axis=0)
    spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    return [_number(metric, table.mean(axis=1), seed), _bare(f"{metric}_spread", spread, len(means))]


def _paired(table: pd.DataFrame, reference: pd.DataFrame, metric: str, seed: int) -> list[dict]:
    difference = (table - reference).dropna(axis=1, how="all").dropna(axis=0)  # the same image, the same seed
    if difference.empty:
        return []
    signs = np.sign(difference.mean(axis=0))
    agreeing = int((signs == np.sign(difference.to_numpy().mean())).sum())
    return [
        _number(f"{metric}_difference", difference.mean(axis=1), seed),
        _bare(f"{metric}_agreeing", agreeing, len(signs)) | {"unit": "seeds"},
    ]


def _number(metric: str, values: pd.Series, seed: int) -> dict:
    models = values.index.get_level_values("model")
    value, low, high = bootstrap_interval(values.to_numpy(), models, weighted_mean, seed=seed)
    return {"metric": metric, "value": value, "low": low, "high": high, "n": len(values)}


def _bare(metric: str, value: float, n: int) -> dict:
    return {"metric": metric, "value": value, "low": None, "high": None, "n": n}


def comparison_table(results: Sequence[dict], protocol: str) -> pd.DataFrame:
    """What `compare_rows` wrote as a table of text, a row a row: means, ± spread over seeds, differences with 95 %.

    Lengths are times ten, as in the papers. A difference is marked ``*`` where its interval leaves out 0 and every
    seed, of at least two, has its sign.

    Raises
    ------
    InputError
        There are no numbers over seeds in this protocol.
    """
    rows = [row for row in results if row["seed"] is None and row["protocol"] == protocol]
    if not rows:
        raise InputError(f"There are no results over seeds in protocol {protocol!r}.")
    systems: dict[str, dict[str, dict]] = {}
    for row in rows:
        systems.setdefault(row["system"].split(": ", 1)[-1], {})[row["metric"]] = row
    cells = {name: _cells(numbers) for name, numbers in systems.items()}
    return pd.DataFrame.from_dict(cells, orient="index").fillna("").rename_axis("row")


def _cells(numbers: dict[str, dict]) -> dict[str, str]:
    cells = {}
    for metric, title in {**LENGTHS, **SCORES}.items():
        scale = 10 if metric in LENGTHS else 1
        spread = numbers[f"{metric}_spread"]
        around = "" if spread["value"] is None or np.isnan(spread["value"]) else f" ± {scale * spread['value']:.3f}"
        cells[title] = f"{scale * numbers[metric]['value']:.3f}{around}"
        if metric in ("chamfer_distance", "f_score@0.05") and f"{metric}_difference" in numbers:
            cells[f"{title}, difference"] = _difference(numbers, metric, scale)
    return cells | {"seeds": str(numbers["chamfer_distance_spread"]["n"])}


def _difference(numbers: dict[str, dict], metric: str, scale: int) -> str:
    one, agreeing = numbers[f"{metric}_difference"], numbers[f"{metric}_agreeing"]
    beyond = one["low"] > 0 or one["high"] < 0
    star = " *" if beyond and agreeing["value"] == agreeing["n"] > 1 else ""
    return f"{scale * one['value']:+.3f} [{scale * one['low']:+.3f}, {scale * one['high']:+.3f}]{star}"


def markdown_table(table: pd.DataFrame) -> str:
    """A table of text as Markdown, its index in the first column."""
    head = [table.index.name or "", *table.columns]
    body = [[str(name), *row] for name, row in zip(table.index, table.values, strict=True)]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)
