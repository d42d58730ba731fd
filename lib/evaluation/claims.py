"""The claims ledger: what the five papers print (``claims.yaml``) beside what our runs measured.

Our side comes from files of results alone: those of experiments in ``lib/results`` (`kept_name`; written by
``python -m lib.course.experiment NAME --keep``) and the ``results.json`` of checkpoints in ``lib/weights``. Quick and
small runs are on the built-in furniture; a number of paper size counts only where it was measured on the paper's
dataset. What has no such rows was not run.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

from lib.errors import InputError
from lib.evaluation.results import DISTANCES, kept_name, metric_title, read_results
from lib.paths import FURNITURE, RESULTS

LEDGER = Path(__file__).with_name("claims.yaml")
SIZES = ("quick", "small", "paper")
NOT_RUN = "not run"
IN_THE_TEXT = "in the text"
RECIPES = {  # of a system's experiments, by size
    "shapeclipper": {"quick": "quick", "small": "small-given", "paper": "paper"},
    "sdf_srn": {"quick": "sdf-srn-quick", "small": "sdf-srn-small", "paper": "sdf-srn"},
}
TITLES = {"chamfer_distance": "CD", "completeness": "coverage", "azimuth_error": "azimuth error, °"}


@dataclass(frozen=True)
class Reference:
    """Where our number is: in a file below ``lib/`` (with ``*`` in several), in the one row with these columns.

    `scale` leads from it to the paper's unit. `subject` are the columns that say whose number it is, and of what:
    where no row has their values, it was not run.
    """

    file: str
    columns: dict[str, object]
    scale: float = 1.0
    subject: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A cell of a paper's table, or a statement with a number.

    `where` is "Table 2" or "Sec. 3.2". `row` and `column` of a statement are its text and its unit, and its protocol is
    empty. `value` is None where the paper prints "-". `ours`: size -> where our number is, if it was run.
    """

    paper: str
    where: str
    row: str
    column: str
    dataset: str
    protocol: str
    value: float | None
    ours: dict[str, Reference]

    @property
    def place(self) -> str:
        """Its table, or `IN_THE_TEXT`."""
        return self.where if self.protocol else IN_THE_TEXT

    def values(self, folder: Path) -> dict[str, float]:
        """Our numbers by size, those that were run."""
        values = {size: our_value(reference, folder) for size, reference in self.ours.items()}
        return {size: value for size, value in values.items() if value is not None}


@cache
def read_ledger() -> dict:
    """``claims.yaml`` as it stands."""
    return yaml.safe_load(LEDGER.read_text(encoding="utf-8"))


def all_claims() -> list[Claim]:
    """Every cell of every table, then every statement, in the file's order."""
    ledger, claims = read_ledger(), []
    for table in ledger["tables"]:
        where = f"Table {table['table']}" if isinstance(table["table"], int) else table["table"]
        for row, values in table["rows"].items():
            for column, value in zip(table["columns"], values, strict=True):
                title, ours = _title(column, table["scale"]), _references(table, row, column)
                about = (table["dataset"], table["protocol"])
                claims.append(Claim(table["paper"], where, row, title, *about, value, ours))
    for entry in ledger["statements"]:
        where = f"Sec. {entry['section']}" if entry["section"][0].isdigit() else entry["section"]
        ours = {}
        for size, picked in entry.get("ours", {}).items():
            columns = {"category": "all"} | picked
            ours[size] = Reference(columns.pop("file"), scale=columns.pop("scale", 1), columns=columns)
        about = (entry["says"], entry["unit"], entry["dataset"], "", entry["value"])
        claims.append(Claim(entry["paper"], where, *about, ours))
    return claims


def _references(table: dict, row: str, column: str) -> dict[str, Reference]:
    """Where our numbers of a cell are, by size: rows of an experiment, or of a measured checkpoint."""
    experiment, checkpoint = table.get("grid_rows", {}).get(row), table.get("checkpoints", {}).get(row)
    if experiment is None and checkpoint is None:
        return {}
    references = {}
    for size in SIZES:
        dataset = table["prepared"] if size == "paper" else FURNITURE.name
        columns = {"metric": column, "protocol": table["protocol"], "category": "all", "dataset": dataset}
        if experiment is not None:
            kept = kept_name(table["grid"], dataset, table.get("category", "chair"), size)
            file, subject = f"results/{kept}.json", ("system", "dataset")
            columns |= {"system": f"{RECIPES[table['paper']][size]}: {experiment}", "seed": None}
        else:
            file, subject = "weights/*/results.json", ("system", "dataset", "profile", "protocol")
            columns |= {"system": checkpoint, "profile": size}
        references[size] = Reference(file, columns, table["scale"] if column in DISTANCES else 1, subject)
    return references


def _title(column: str, scale: float) -> str:
    *before, metric = column.split(", ")
    title = TITLES.get(metric) or metric_title(metric).removeprefix("10 x ")
    if metric in DISTANCES and scale != 1:
        title = f"{scale:g} x {title}"
    return ", ".join([*before, title])


def our_value(reference: Reference, folder: Path = RESULTS.parent) -> float | None:
    """Our number in the paper's unit; None where no file, or no row of its `subject`, exists: where it was not run."""
    columns = reference.columns
    subject = {name: columns[name] for name in reference.subject}
    rows = [row for path in sorted(folder.glob(reference.file)) for row in _rows(path)]
    rows = [row for row in rows if subject.items() <= row.items()]
    if not rows:
        return None
    found = [row for row in rows if columns.items() <= row.items()]
    if len(found) != 1:
        path = folder / reference.file
        raise InputError(f"{path} has {len(found)} rows with {columns}, and claims.yaml asks for one; correct either")
    return reference.scale * found[0]["value"]


@cache
def _rows(path: Path) -> list[dict]:
    return read_results(path)


def places() -> list[tuple[str, str]]:
    """(label, key) of every table and of every paper's statements, to choose from; the key is for `place_table`."""
    papers = read_ledger()["papers"]
    found = {f"{c.paper}|{c.place}": f"{papers[c.paper]['short']}: {c.place}" for c in all_claims()}
    return [(label, key) for key, label in found.items()]


def place_table(key: str, folder: Path = RESULTS.parent) -> pd.DataFrame:
    """One table as the paper prints it, with ours behind a bar: "0.618 | small 0.489"; statements as a list."""
    claims = [claim for claim in all_claims() if f"{claim.paper}|{claim.place}" == key]
    if not claims:
        raise InputError(f"claims.yaml has no {key!r}; there are {', '.join(key for _, key in places())}")
    if claims[0].place == IN_THE_TEXT:
        return pd.DataFrame([_statement_record(claim, folder) for claim in claims]).set_index("row")
    cells = {}
    for claim in claims:
        ours = [f"{size} {value:.3f}" for size, value in claim.values(folder).items()]
        printed = "-" if claim.value is None else f"{claim.value:g}"
        cells.setdefault(claim.row, {})[claim.column] = " | ".join([printed, *ours])
    return pd.DataFrame.from_dict(cells, orient="index")


def _statement_record(claim: Claim, folder: Path) -> dict:
    ours = claim.values(folder)
    record = {name: getattr(claim, name) for name in ("where", "row", "column", "dataset", "value")}
    return record | {f"ours, {size}": f"{ours[size]:.3f}" if size in ours else NOT_RUN for size in SIZES}


def summary_table(folder: Path = RESULTS.parent) -> pd.DataFrame:
    """For each table: how many of its numbers we have, at each size; "not run" where none."""
    groups: dict[tuple[str, str], list[Claim]] = {}
    for claim in all_claims():
        groups.setdefault((claim.paper, claim.place), []).append(claim)
    records = []
    for (paper, place), claims in groups.items():
        datasets = ", ".join(dict.fromkeys(claim.dataset for claim in claims))
        record = {"paper": read_ledger()["papers"][paper]["short"], "where": place, "dataset": datasets}
        found = [claim.values(folder) for claim in claims]
        counts = {size: sum(size in values for values in found) for size in SIZES}
        ours = {f"ours, {size}": str(count) if count else NOT_RUN for size, count in counts.items()}
        records.append(record | {"numbers": len(claims)} | ours)
    return pd.DataFrame(records)


def purposeful_differences() -> pd.DataFrame:
    """What the recipes `paper` and `released` do on purpose otherwise than the released codes."""
    ledger = read_ledger()
    table = pd.DataFrame(ledger["differences"])
    return table.assign(paper=[ledger["papers"][paper]["short"] for paper in table["paper"]])


def paper_table(table: int, paper: str = "shapeclipper") -> pd.DataFrame:
    """A table of a paper as it is printed: methods down, metrics across; ``.attrs["source"]`` says what it is."""
    claims = [claim for claim in all_claims() if (claim.paper, claim.where) == (paper, f"Table {table}")]
    if not claims:
        raise InputError(f"{LEDGER} has no table {table} of {paper!r}; add its numbers there.")
    cells = {}
    for claim in claims:
        cells.setdefault(claim.row, {})[claim.column] = claim.value
    printed = pd.DataFrame.from_dict(cells, orient="index")
    cite = read_ledger()["papers"][paper]["cite"]
    printed.attrs["source"] = f"{cite}, Table {table}: {claims[0].dataset}, protocol {claims[0].protocol}"
    return printed
