"""The tables of OpenImages: classes, masks and boxes of each subset; and what is known of its archives."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.sources import collection
from lib.errors import InputError

OPENIMAGES = collection("openimages")
SUBSETS = ("train", "validation", "test")
CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
SEGMENTS = ("{subset}-annotations-object-segmentation.csv",)
BOXES = ("{subset}-annotations-bbox.csv", "oidv6-{subset}-annotations-bbox.csv")
OFFICIAL_ROWS = {  # of V5 to V7, as its page of figures states them
    "masks": {"train": 2_686_666, "validation": 24_730, "test": 74_102},
    "boxes": {"train": 14_610_229, "validation": 303_980, "test": 937_327},
}
FLAGS = {
    "IsOccluded": "occluded", "IsTruncated": "truncated", "IsGroupOf": "a group", "IsDepiction": "a depiction",
    "IsInside": "seen from inside",
}  # fmt: skip
SIDES = ("XMin", "XMax", "YMin", "YMax")
SAME = 0.002  # of the photo's sides, by which the sides of a mask's box and of a box may differ
ROWS = 1_000_000  # of a table that are read at once
TAIL = 1_000_000  # bytes; the longest rows, with the clicks on a mask, have thousands


def read_classes(source: Path) -> dict[str, str]:
    """Label, such as /m/0k4j, of each class by its name."""
    path = _table(source, CLASSES, "class descriptions")
    table = _read(path, header=None, names=["label", "name"])
    return {row.name: row.label for row in table.itertuples(index=False) if str(row.label).startswith("/m/")}


def read_objects(source: Path, names: dict[str, str]) -> tuple[pd.DataFrame, dict[str, dict[str, int]]]:
    """A row an object: mask, image, subset, class, box in fractions of the photo, and the box's flags.

    Parameters
    ----------
    names : dict
        Class by label.

    Returns
    -------
    objects : DataFrame
    rows : dict
        Of each table that was read, by its name: how many rows it has, and how many the official one.

    Raises
    ------
    InputError
        If no subset has its tables, or one is damaged.
    """
    found, rows = [], {}
    for subset in SUBSETS:
        if any((source / name.format(subset=subset)).is_file() for name in SEGMENTS):
            segments, boxes = (_read_table(source, what, subset, names, rows) for what in ("masks", "boxes"))
            found.append(joined(segments, boxes).assign(subset=subset))
    if not found:
        raise InputError(f"{source} has no {SEGMENTS[0].format(subset='train')}. {OPENIMAGES.how_to_get()}")
    objects = pd.concat(found, ignore_index=True)
    objects["name"] = objects["LabelName"].map(names)
    return objects, rows


def row_notes(rows: dict[str, dict[str, int]]) -> list[str]:
    """Sentences on tables with other numbers of rows than the official ones: a cut between two rows shows so only."""
    return [
        f"{name} has {count['rows']:,} rows, the official table {count['official']:,}; is the download partial?"
        for name, count in rows.items()
        if count["rows"] != count["official"]
    ]


def joined(segments: pd.DataFrame, boxes: pd.DataFrame) -> pd.DataFrame:
    """Segments with the flags of the box that has the same image, class and sides; without flags if there is none."""
    numbered = segments.reset_index(drop=True).reset_index(names="segment")
    pairs = numbered.merge(boxes, on=["ImageID", "LabelName"], suffixes=("", "_box"))
    pairs["far"] = np.max([(pairs[side] - pairs[f"{side}_box"]).abs() for side in SIDES], axis=0)
    nearest = pairs[pairs["far"] <= SAME].sort_values("far", kind="stable").drop_duplicates("segment")
    return numbered.merge(nearest[["segment", *FLAGS]], on="segment", how="left").drop(columns="segment")


def _table(source: Path, names: tuple[str, ...], what: str, subset: str = "") -> Path:
    for name in names:
        path = source / name.format(subset=subset)
        if path.is_file():
            return path
    wanted = names[0].format(subset=subset)
    raise InputError(f"{source} has no {wanted}, the table of {what}. {OPENIMAGES.how_to_get()}")


def _read_table(source: Path, what: str, subset: str, names: dict[str, str], rows: dict) -> pd.DataFrame:
    """The wanted classes of the masks or boxes of a subset; the number of the table's rows joins ``rows``."""
    path, official = (
        _table(source, {"masks": SEGMENTS, "boxes": BOXES}[what], what, subset),
        OFFICIAL_ROWS[what][subset],
    )
    renamed = {f"Box{side}": side for side in SIDES} if what == "masks" else {}
    table, count = _chosen_rows(path, names, renamed)
    _check_end(path, count == official)
    rows[path.name] = {"rows": count, "official": official}
    return table


def _read(path: Path, **how) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8", **how)
    except (ValueError, OSError) as error:  # pandas's errors derive from ValueError
        raise InputError(f"{path} is damaged or another table ({type(error).__name__}); fetch it again.") from error


def _chosen_rows(path: Path, names: dict[str, str], renamed: dict[str, str]) -> tuple[pd.DataFrame, int]:
    """The rows of the wanted classes, and how many rows there are; read piece by piece: all boxes are 2 GB."""
    wanted = ["ImageID", "LabelName", *(["MaskPath", *renamed] if renamed else [*SIDES, *FLAGS])]
    pieces, count = [], 0
    try:
        for piece in _read(path, usecols=wanted, chunksize=ROWS, dtype={"ImageID": str}):
            if piece.isna().any(axis=None):
                raise ValueError("a row ends early")
            count += len(piece)
            pieces.append(piece[piece["LabelName"].isin(names)])
        return pd.concat(pieces).rename(columns=renamed).astype(dict.fromkeys(SIDES, float)), count
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is damaged or half downloaded; fetch it again.") from error


def _check_end(path: Path, all_rows: bool) -> None:
    """Refuse a table whose last row is short, or lacks its end of line although rows are missing.

    A cut inside a number, or in a column that is not used, leaves a row that can be read.
    """
    with path.open("rb") as file:
        columns = _fields(file.readline())
        file.seek(max(0, path.stat().st_size - TAIL))
        *_, last = file.read().splitlines(keepends=True)
    if _fields(last) != columns or not (all_rows or last.endswith(b"\n")):
        raise InputError(f"{path} ends in the middle of a row: it is half downloaded; fetch it again.")


def _fields(line: bytes) -> int:
    return len(next(csv.reader([line.decode("utf-8", "replace")])))
