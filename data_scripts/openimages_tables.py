"""The tables of OpenImages: classes, masks and boxes of each subset; and what is known of its archives."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from data_scripts.archives import Checksum
from data_scripts.sources import Collection
from lib.errors import InputError

PHOTO_ARCHIVES = {  # SHA-256
    "test.tar.gz": "346314b1820eae6543f862cf1d8f48c16ee81202eceb79ed4d484a1520e96695",
    "train_0.tar.gz": "0cf97b0666d4c11e0ba8c2380816f2bf09c9f7750abebd658bd9204d0aa10397",
    "train_1.tar.gz": "4c7d751e9f7d2f6774b70a903b7abc084adde2019cb030144ab2cb0c251a06bc",
    "train_2.tar.gz": "a83f0b60f4390680c01c00e199b546ec0333e76513f35b3cadb5024f29ee266e",
    "train_3.tar.gz": "f139398421624535bf79199dc82e32f48f062e2db43410487b2e7d768a1aea88",
    "train_4.tar.gz": "ff2053e039c0cbd890a85f68ce71f3c97b48895c96b1f20c090bc8ca5221939e",
    "train_5.tar.gz": "09e32c82c51c89b56782678cfbb61c0debc9d81a62cd03bdbb50cbe3a0a65fcd",
    "train_6.tar.gz": "6f16913f9eed07e8bb5115fc9bb56cf64831e7c73194ff9005be93a57366d181",
    "train_7.tar.gz": "669d15ba911ba40f3af28eb3dbfe2f293813bcdc9a7a08666eb4e8832b3bfaf9",
    "train_8.tar.gz": "784b8305c226b89c506fc4f95e7bd41ff7c40f6e46c9a2af22d2d95a78429923",
    "train_9.tar.gz": "65fcac6b7ca8d8ce464ed1a7e75cee70a801be27cf80ded719e3b7e801fc1bbb",
    "train_a.tar.gz": "74e5787afbf7a4d57346420eed055f1d4763b74b411d8040dc54bfe1165cf7ee",
    "train_b.tar.gz": "a3538e9233ad013f1907354b7e67b991b765569b18139e7526f5fcb23b1b5a4f",
    "train_c.tar.gz": "13e439d0f09251e3c1e559aa36b7058220273083e1186de08ce882919d12b5b2",
    "train_d.tar.gz": "8cc4cbb08d3d2ada32d1ff17adfc2d79b5c3145198c97ddaf058e0749f57f41b",
    "train_e.tar.gz": "4916d467d0d8c741de70a1de25985543a19b3fa72547771c7b69474176ffec56",
    "train_f.tar.gz": "172ef8c26dad6330151d820e342396fdd7d84956713956d5ad1bae74adb7f33a",
    "validation.tar.gz": "515fefdf310e17e204cfe84bb3d05e53d8a6b5465ef3b9a3164383082b506df3",
}
OPENIMAGES = Collection(
    "openimages",
    "OpenImages V5 to V7",
    "Kuznetsova et al., The Open Images Dataset V4, IJCV 2020; Benenson et al., Large-scale interactive object "
    "segmentation with human annotators, CVPR 2019",
    "annotations CC-BY 4.0; photos listed as CC-BY 2.0, each of its own author",
    "storage.googleapis.com/openimages/web/download.html",
    "photos 513 + 12 + 36 GB, masks 4.4 GB, tables 3 GB",
    {name: Checksum("sha256", digest, "TensorFlow Datasets") for name, digest in PHOTO_ARCHIVES.items()},
)
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
