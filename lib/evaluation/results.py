"""``results.json``: rows of numbers that say what they are and where they come from; and tables of them."""

import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas as pd
import torch

from lib.errors import InputError
from lib.files import read_json, write_atomically
from lib.paths import FURNITURE, REPOSITORY

WHAT = ("system", "dataset", "split", "category", "protocol", "metric")
NUMBER = ("value", "unit", "low", "high", "n")
WHENCE = ("seed", "profile", "steps", "commit", "machine", "seconds")
RESULT_COLUMNS = (*WHAT, *NUMBER, *WHENCE)
DISTANCES = {"chamfer_distance": "10 x CD", "accuracy": "10 x accuracy", "completeness": "10 x completeness"}
SHOWN = ("chamfer_distance", "f_score@0.01", "f_score@0.05", "f_score@0.1")
SHOWN_VIEWPOINT = ("azimuth_error", "azimuth_entropy", "empty_meshes")


@cache
def commit() -> str:
    """Short git commit of the code, with ``+changes`` where files differ from it; "unknown" outside git."""
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True, "check": True, "timeout": 10}
    try:
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changed else "")


@cache
def machine() -> str:
    """What kind of machine this is, without its name: system, cores, versions, GPU."""
    parts = [f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores"]
    parts += [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if torch.cuda.is_available():
        parts.append(f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}")
    return ", ".join(parts)


def result_row(**known) -> dict:
    """One row: the columns that are known, this commit and machine, None for the rest."""
    return dict.fromkeys(RESULT_COLUMNS) | {"commit": commit(), "machine": machine()} | known


def study_row(system: str, protocol: str, metric: str, value: float, unit: str, *, n: int, **about) -> dict:
    """Row of results for a number that a notebook measures about a method instead of a trained system.

    `system` is what was measured, e.g. "volume renderer, beta 0.02, 64 samples", `protocol` what it was measured
    against, e.g. "exact ray casting", and `n` the number of rays, images or starts that the value is a mean of.
    """
    usual = {"dataset": "none", "split": "none", "category": "all", "profile": "quick"}
    number = {"system": system, "protocol": protocol, "metric": metric, "value": float(value), "unit": unit, "n": n}
    return result_row(**usual | number | about)


def check_one_commit(commits: Iterable[str], what: object) -> None:
    """Numbers that are compared with each other must come from one commit without changes.

    Parameters
    ----------
    commits : iterable of str
        As rows of results hold them: one, or several with commas between them.
    what : object
        Whose numbers they are, for the message.

    Raises
    ------
    InputError
        There are several, one ends in ``+changes``, or it is not known.
    """
    found = sorted({one for several in commits for one in several.split(", ")})
    if len(found) > 1:
        raise InputError(f"{what} mixes numbers of the commits {', '.join(found)}: run all its cells at one commit")
    if found and (found[0] == "unknown" or found[0].endswith("+changes")):
        raise InputError(f"{what} has numbers of commit {found[0]!r}: commit the changes and run its cells again")


def kept_name(grid: str, dataset: str, category: str, size: str) -> str:
    """File in ``lib/results`` of an experiment's rows, without its ending; what is most usual is left out of the name.

    Examples
    --------
    >>> kept_name("tables-2-3", "furniture", "chair", "small"), kept_name("tables-2-3", "pascal3d", "", "paper")
    ('tables-2-3', 'tables-2-3-pascal3d-all-paper')
    """
    usual = {dataset: FURNITURE.name, category or "all": "chair", size: "small"}
    return "-".join([grid, *(part for part, left_out in usual.items() if part != left_out)])


def write_results(path: Path | str, rows: Sequence[dict]) -> None:
    """Write rows as JSON, whole or not at all; numbers that are not finite become null."""
    _check_columns(rows, path)
    clean = [{name: _finite(row[name]) for name in RESULT_COLUMNS} for row in rows]
    lines = ",\n ".join(json.dumps(row) for row in clean)  # one line for each row: readable, and small in a diff
    write_atomically(Path(path), lambda temporary: temporary.write_text(f"[\n {lines}\n]\n"))


def read_results(path: Path | str) -> list[dict]:
    """Rows of a ``results.json``; one sentence where it is missing, broken, or holds something else."""
    rows = read_json(Path(path))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is not a list of result rows; write it with lib.evaluation.")
    _check_columns(rows, path)
    return rows


def write_instances(path: Path | str, instances: pd.DataFrame) -> None:
    """Write the numbers of every sample (`evaluate_instances`) as parquet, whole or not at all."""
    write_atomically(Path(path), lambda temporary: instances.to_parquet(temporary, index=False))


def read_instances(path: Path | str) -> pd.DataFrame:
    """What `write_instances` wrote; one sentence if it is missing or broken."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; evaluate with --instances to write it.") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a parquet file; evaluate again to write it.") from error


def results_table(
    rows: Sequence[dict],
    *,
    protocol: str | None = "view",
    category: str | None = "all",
    metrics: Sequence[str] = SHOWN + SHOWN_VIEWPOINT,
    intervals: bool = False,
) -> pd.DataFrame:
    """Rows as a table: systems down, metrics across; distances times 10, as the papers print them.

    Parameters
    ----------
    protocol, category : str or None
        Show this one; None: all, as a level of the index. What no protocol changes is shown with each. Dataset, split,
        profile and seed are levels, too, where they differ.
    intervals : bool
        Cells as text "value [low, high]" instead of numbers.
    """
    table = pd.DataFrame(list(rows), columns=list(RESULT_COLUMNS))
    keep = table["metric"].isin(metrics)
    keep &= table["protocol"].isin([protocol, "none"]) if protocol else True
    keep &= (table["category"] == category) if category else True
    table = table[keep]
    # what no protocol changes (protocol "none") is repeated for each that the same system was measured with
    keys = ["system", "dataset", "split", "category", "seed", "profile"]
    shape, other = table[table["protocol"] != "none"], table[table["protocol"] == "none"].drop(columns="protocol")
    table = pd.concat([shape, other.merge(shape[[*keys, "protocol"]].drop_duplicates(), on=keys)])
    if table.empty:
        raise InputError(f"There are no results for protocol {protocol!r} and category {category!r}.")
    table["cell"] = [_cell(row, intervals) for row in table.itertuples()]
    index = ["dataset", "split", "profile", "seed", "category", "protocol", "system"]
    index = [name for name in index if name == "system" or table[name].nunique() > 1]
    order = table[index].drop_duplicates().apply(tuple, axis=1)
    wide = table.pivot_table(index=index, columns="metric", values="cell", aggfunc="last", sort=False)
    wide = wide.reindex(order.tolist() if len(index) > 1 else [key[0] for key in order])
    wide = wide[[metric for metric in metrics if metric in wide]]
    return wide.rename(columns={metric: metric_title(metric) for metric in wide}).rename_axis(columns=None)


def metric_title(metric: str) -> str:
    """How tables name a metric: "10 x CD", "FS@5"."""
    if metric.startswith("f_score@"):
        return f"FS@{100 * float(metric.removeprefix('f_score@')):g}"
    return DISTANCES.get(metric, metric.replace("_", " "))


def _cell(row, intervals: bool) -> float | str:
    scale = 10 if row.metric in DISTANCES else 1
    if not intervals:
        return scale * row.value
    digits = 0 if row.metric == "empty_meshes" else 1 if row.unit == "degree" else 3
    return f"{scale * row.value:.{digits}f} [{scale * row.low:.{digits}f}, {scale * row.high:.{digits}f}]"


def _check_columns(rows: Sequence[dict], path: Path | str) -> None:
    for row in rows:
        odd = sorted(set(RESULT_COLUMNS) ^ set(row))
        if odd:
            raise InputError(f"{path}: a result row must have exactly the columns of RESULT_COLUMNS; see {odd[0]!r}.")


def _finite(value):
    return None if isinstance(value, float) and not math.isfinite(value) else value
