"""The claims ledger: what the five papers print (``lib/claims.yaml``) beside what our runs measured.

Our side comes from files of results alone: those of experiments in ``lib/results`` (`kept_name`; written by
``python -m lib.course.experiment NAME --keep``) and the ``results.json`` of checkpoints in ``lib/weights``. Quick and
small runs are on the built-in furniture; a number of paper size counts only where it was measured on the paper's
dataset. What has no such rows was not run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from lib.course.grids import kept_name
from lib.errors import InputError
from lib.evaluation.results import read_results
from lib.paths import FURNITURE, RESULTS

LEDGER = Path(__file__).parent.parent / "claims.yaml"
SIZES = ("quick", "small", "paper")
NOT_RUN = "not run"
RECIPES = {  # of a system's experiments, by size
    "shapeclipper": {"quick": "quick", "small": "small-given", "paper": "paper"},
    "sdf_srn": {"quick": "sdf-srn-quick", "small": "sdf-srn-small", "paper": "sdf-srn"},
}
LENGTHS = ("chamfer_distance", "accuracy", "completeness")
TITLES = {"chamfer_distance": "CD", "completeness": "coverage", "azimuth_error": "azimuth error, °"}


@dataclass(frozen=True)
class Reference:
    """Where our number stands.

    Attributes
    ----------
    file : str
        Below ``lib/``; with ``*`` several.
    row : tuple of (column, value)
        They pick one row.
    scale : float
        From our number to the paper's unit.
    subject : tuple of str
        Columns of `row` that say whose number it is, and of what: where no row has these values it was not run.
    """

    file: str
    row: tuple[tuple[str, object], ...]
    scale: float = 1.0
    subject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A cell of a paper's table, or a statement with a number.

    Attributes
    ----------
    paper, where : str
        Key of the paper; "Table 2" or "Sec. 3.2".
    row, column : str
        Of the table; a statement is its text, and its unit.
    value : float or None
        As printed; None where the paper prints "-".
    ours : dict
        Size -> where our number is, if it was run.
    """

    paper: str
    where: str
    section: str
    row: str
    column: str
    dataset: str
    protocol: str
    value: float | None
    ours: dict[str, Reference]


@cache
def read_ledger() -> dict:
    """``claims.yaml`` as it stands."""
    return yaml.safe_load(LEDGER.read_text(encoding="utf-8"))


def all_claims() -> list[Claim]:
    """Every cell of every table, then every statement, in the file's order."""
    ledger = read_ledger()
    cells = [claim for table in ledger["tables"] for claim in _table_claims(table)]
    return cells + [_statement(entry) for entry in ledger["statements"]]


def _table_claims(table: dict) -> Iterable[Claim]:
    where = f"Table {table['table']}" if isinstance(table["table"], int) else table["table"]
    about = {name: table[name] for name in ("paper", "section", "dataset", "protocol")}
    for row, values in table["rows"].items():
        for column, value in zip(table["columns"], values, strict=True):
            ours = _grid_references(table, row, column) | _checkpoint_references(table, row, column)
            yield Claim(where=where, row=row, column=_title(column, table["scale"]), value=value, ours=ours, **about)


def _grid_references(table: dict, row: str, column: str) -> dict[str, Reference]:
    if row not in table.get("grid_rows", {}):
        return {}
    references, category = {}, table.get("category", "chair")
    for size, recipe in RECIPES[table["paper"]].items():
        about = {"system": f"{recipe}: {table['grid_rows'][row]}", "dataset": _dataset(table, size)}
        file = f"results/{kept_name(table['grid'], about['dataset'], category, size)}.json"
        references[size] = _reference(file, table, column, about, {"seed": None})
    return references


def _checkpoint_references(table: dict, row: str, column: str) -> dict[str, Reference]:
    if row not in table.get("checkpoints", {}):
        return {}
    references = {}
    for size in SIZES:
        about = {"system": table["checkpoints"][row], "dataset": _dataset(table, size), "profile": size}
        about["protocol"] = table["protocol"]
        references[size] = _reference("weights/*/results.json", table, column, about)
    return references


def _reference(file: str, table: dict, column: str, about: dict, more: dict | None = None) -> Reference:
    keys = {"metric": column, "protocol": table["protocol"], "category": "all"} | about | (more or {})
    return Reference(file, tuple(keys.items()), table["scale"] if column in LENGTHS else 1, tuple(about))


def _dataset(table: dict, size: str) -> str:
    """Name of the prepared dataset that a run of this size is on."""
    return table["prepared"] if size == "paper" else FURNITURE.name


def _statement(entry: dict) -> Claim:
    ours = {}
    for size, reference in entry.get("ours", {}).items():
        keys = {"category": "all"} | {k: v for k, v in reference.items() if k not in ("file", "scale")}
        ours[size] = Reference(reference["file"], tuple(keys.items()), reference.get("scale", 1))
    about = {name: entry[name] for name in ("paper", "section", "dataset", "value")}
    where = f"Sec. {entry['section']}" if entry["section"][0].isdigit() else entry["section"]
    return Claim(where=where, row=entry["says"], column=entry["unit"], protocol="", ours=ours, **about)


def _title(column: str, scale: float) -> str:
    *before, metric = column.split(", ")
    title = TITLES.get(metric, metric.replace("_", " "))
    if metric.startswith("f_score@"):
        title = f"FS@{100 * float(metric.removeprefix('f_score@')):g}"
    elif metric in LENGTHS and scale != 1:
        title = f"{scale:g} x {title}"
    return ", ".join([*before, title])


def our_value(reference: Reference, folder: Path = RESULTS.parent) -> float | None:
    """Our number in the paper's unit; None where no file, or no row of its `subject`, exists: where it was not run.

    Raises
    ------
    InputError
        There is no such row, or several.
    """
    wanted = dict(reference.row)
    subject = {name: wanted[name] for name in reference.subject}
    rows = [row for path in sorted(folder.glob(reference.file)) for row in _rows(path)]
    rows = [row for row in rows if subject.items() <= row.items()]
    if not rows:
        return None
    found = [row for row in rows if wanted.items() <= row.items()]
    if len(found) != 1:
        path = folder / reference.file
        raise InputError(f"{path} has {len(found)} rows with {wanted}, and claims.yaml asks for one; correct either")
    return reference.scale * found[0]["value"]


@cache
def _rows(path: Path) -> list[dict]:
    return read_results(path)


def ledger_table(claims: Sequence[Claim], folder: Path = RESULTS.parent) -> pd.DataFrame:
    """Claims as a table, a row each: where it stands, what it says, the paper's value, ours at each size."""
    papers = read_ledger()["papers"]
    records = []
    for claim in claims:
        ours = {f"ours, {size}": _shown(claim.ours.get(size), folder) for size in SIZES}
        about = {"paper": papers[claim.paper]["short"], "where": claim.where, "row": claim.row, "column": claim.column}
        protocol = {"dataset": claim.dataset, "protocol": claim.protocol}
        records.append(about | protocol | {"value": claim.value} | ours)
    return pd.DataFrame(records)


def _shown(reference: Reference | None, folder: Path) -> str:
    value = our_value(reference, folder) if reference else None
    return NOT_RUN if value is None else f"{value:.3f}"


def places() -> list[tuple[str, str]]:
    """(label, key) of every table and of every paper's statements, to choose from; the key is for `place_table`."""
    papers = read_ledger()["papers"]
    found = {f"{c.paper}|{_place(c)}": f"{papers[c.paper]['short']}: {_place(c)}" for c in all_claims()}
    return [(label, key) for key, label in found.items()]


def _place(claim: Claim) -> str:
    return "in the text" if claim.protocol == "" else claim.where


def place_table(key: str, folder: Path = RESULTS.parent) -> pd.DataFrame:
    """One table as the paper prints it, with ours behind a bar: "0.618 | small 0.489"; statements as a list."""
    claims = [claim for claim in all_claims() if f"{claim.paper}|{_place(claim)}" == key]
    if not claims:
        raise InputError(f"claims.yaml has no {key!r}; there are {', '.join(key for _, key in places())}")
    if claims[0].protocol == "":
        return ledger_table(claims, folder).drop(columns=["paper", "protocol"]).set_index("row")
    rows = dict.fromkeys(claim.row for claim in claims)
    columns = dict.fromkeys(claim.column for claim in claims)
    cells = {(claim.row, claim.column): _cell(claim, folder) for claim in claims}
    return pd.DataFrame([[cells[row, column] for column in columns] for row in rows], list(rows), list(columns))


def _cell(claim: Claim, folder: Path) -> str:
    printed = "-" if claim.value is None else f"{claim.value:g}"
    ours = {size: our_value(reference, folder) for size, reference in claim.ours.items()}
    return " | ".join([printed, *(f"{size} {value:.3f}" for size, value in ours.items() if value is not None)])


def summary_table(folder: Path = RESULTS.parent) -> pd.DataFrame:
    """A row a table: how many of its numbers we have, at each size; "not run" where none."""
    table = ledger_table(all_claims(), folder)
    table["where"] = table["where"].mask(table["protocol"] == "", "in the text")
    records = []
    for (paper, where), part in table.groupby(["paper", "where"], sort=False):
        datasets = ", ".join(part["dataset"].unique())
        counts = {size: int((part[f"ours, {size}"] != NOT_RUN).sum()) for size in SIZES}
        ours = {f"ours, {size}": str(count) if count else NOT_RUN for size, count in counts.items()}
        records.append({"paper": paper, "where": where, "dataset": datasets, "numbers": len(part)} | ours)
    return pd.DataFrame(records)


def paper_table(table: int, paper: str = "shapeclipper") -> pd.DataFrame:
    """A table of a paper as it is printed: methods down, metrics across; ``.attrs["source"]`` says what it is.

    Raises
    ------
    InputError
        The ledger has no such table.
    """
    claims = [claim for claim in all_claims() if (claim.paper, claim.where) == (paper, f"Table {table}")]
    if not claims:
        raise InputError(f"{LEDGER} has no table {table} of {paper!r}; add its numbers there.")
    frame = pd.DataFrame([{"row": c.row, "column": c.column, "value": c.value} for c in claims])
    wide = frame.pivot(index="row", columns="column", values="value")
    wide = wide.loc[frame["row"].unique(), frame["column"].unique()].rename_axis(index=None, columns=None)
    cite, first = read_ledger()["papers"][paper]["cite"], claims[0]
    wide.attrs["source"] = f"{cite}, Table {table}: {first.dataset}, protocol {first.protocol}"
    return wide
