"""The tables of OpenImages: classes, masks and boxes of each subset; and what is known of its archives."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.sources import collection
from lib.errors import InputError

OPENIMAGES = collection("openimages")
SUBSETS = ("train", "validation", "test")
CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
SEGMENTS = "{subset}-annotations-object-segmentation.csv"
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
    """
    found, rows = [], {}
    for subset in SUBSETS:
        if not (source / SEGMENTS.format(subset=subset)).is_file():
            continue
        tables = {}
        for what, places in (("masks", (SEGMENTS,)), ("boxes", BOXES)):
            path = _table(source, [place.format(subset=subset) for place in places], what)
            official = OFFICIAL_ROWS[what][subset]
            tables[what], count = _chosen_rows(path, names, what)
            _check_end(path, count == official)
            rows[path.name] = {"rows": count, "official": official}
        found.append(joined(tables["masks"], tables["boxes"]).assign(subset=subset))
    if not found:
        raise InputError(f"{source} has no {SEGMENTS.format(subset='train')}. {OPENIMAGES.how_to_get()}")
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


def _table(source: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (source / name).is_file():
            return source / name
    raise InputError(f"{source} has no {names[0]}, the table of {what}. {OPENIMAGES.how_to_get()}")


def _read(path: Path, **how):
    try:
        return pd.read_csv(path, encoding="utf-8", **how)
    except (ValueError, OSError) as error:  # pandas's errors derive from ValueError
        raise InputError(f"{path} is damaged or another table ({type(error).__name__}); fetch it again.") from error


def _chosen_rows(path: Path, names: dict[str, str], what: str) -> tuple[pd.DataFrame, int]:
    """The rows of the wanted classes, and how many rows there are; read piece by piece: all boxes are 2 GB."""
    sides = {f"Box{side}" if what == "masks" else side: side for side in SIDES}
    columns = ["ImageID", "LabelName", *sides, *(["MaskPath"] if what == "masks" else FLAGS)]
    pieces, count = [], 0
    try:
        for piece in _read(path, usecols=columns, chunksize=ROWS, dtype={"ImageID": str}):
            if piece.isna().any(axis=None):
                raise ValueError("a row ends early")
            count += len(piece)
            pieces.append(piece[piece["LabelName"].isin(names)])
        return pd.concat(pieces).rename(columns=sides).astype(dict.fromkeys(SIDES, float)), count
    except ValueError as error:
        if isinstance(error, InputError):
            raise
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
