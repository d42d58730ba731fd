"""Prepare OpenImages: photos with masks of any of its 350 segmented classes; no viewpoints and no shapes.

    python data_scripts/prepare_openimages.py openimages --categories "Airplane,Car,Chair" --output runs/data/openimages

Wanted in the folder, under their official names: ``class-descriptions-boxable.csv`` (or ``oidv7-...``); for each of
train, validation and test that you want ``<subset>-annotations-object-segmentation.csv`` and
``<subset>-annotations-bbox.csv`` (or ``oidv6-...``); masks in ``masks/`` or ``<subset>-masks-<digit>/``; photos in
``<subset>/`` or ``images/<subset>/``. Not all photos need to be there: 513 GB are more than 20 classes need.

An object is used if its box is not marked as occluded, truncated, a group, a depiction or seen from inside (SSMP's
occlusion scores, which ShapeClipper used, are not part of OpenImages). Of each class the largest are taken.
"""

import argparse
import csv
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone


from data_scripts.arrays import Mask, Rgb
from data_scripts.jobs import Rejected
from data_scripts.options import positive, run_command
from data_scripts.photo_sets import Photo, open_mask, prepare_photo_set, resized_mask, with_article
from data_scripts.sources import check_source, chosen, collection, command_line, safe_name
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
MASK_PLACES = ("masks", "masks/{subset}", "{subset}-masks-{digit}", "masks/{subset}-masks-{digit}")
PHOTO_PLACES = ("{subset}", "images/{subset}", "images")
TEST_SHARE = 0.1
FEWEST, MOST = 1000, 3000  # samples of a class in the paper
STRETCHED = 0.02  # relative difference of the shapes of a mask and its photo that rounding explains


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(OPENIMAGES, __doc__, image_size=224)
    parser.add_argument("--most", type=positive, default=MOST, help="samples of a class (default: %(default)s)")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_source(options.source, (), OPENIMAGES)
    labels = read_classes(options.source)
    if not options.categories:
        raise InputError('--categories must name classes, such as "Airplane,Car,Chair"; OpenImages has 350 with masks.')
    names = chosen(options.categories, labels)
    rejected: Rejected = []
    objects, rows = read_objects(options.source, {labels[name]: name for name in names})
    photos = list(make_photos(options.source, visible(objects, rejected), options.most, rejected))
    info = OPENIMAGES.info(most=options.most, table_rows=rows)
    prepare_photo_set(photos, read_mask, options, info, rejected, lambda made: row_notes(rows) + count(made))


def visible(objects: pd.DataFrame, rejected: Rejected) -> pd.DataFrame:
    """Objects with a box that carries none of the flags; how many have which is listed."""
    keep = objects["IsOccluded"].notna()
    rejected += [(objects["MaskPath"][i], "no box fits this mask.") for i in objects.index[~keep]]
    for flag, word in FLAGS.items():
        marked = keep & (objects[flag] == 1)
        rejected += [
            (name, f"{number} objects are {word}.") for name, number in objects["name"][marked].value_counts().items()
        ]
        keep &= ~marked
    return objects[keep]


def make_photos(source: Path, objects: pd.DataFrame, most: int, rejected: Rejected) -> Iterator[Photo]:
    """The largest objects of each class whose photo is there, with splits."""
    found = {}  # one listing of a folder is faster than a question for each of a million photos
    for place in reversed(PHOTO_PLACES):
        for subset in SUBSETS:
            folder = source / place.format(subset=subset)
            if folder.is_dir():
                found |= {(subset, path.stem): path for path in folder.iterdir() if path.suffix == ".jpg"}
    for name, group in objects.groupby("name"):
        group = group.assign(image=[found.get((row.subset, row.ImageID)) for row in group.itertuples()])
        missing = group["image"].isna()
        if missing.any():
            rejected.append((name, f"{missing.sum()} objects are in photos that are not in the folder."))
        group = group[~missing]
        size = (group["XMax"] - group["XMin"]) * (group["YMax"] - group["YMin"])
        group = group.assign(size=size).sort_values(["size", "MaskPath"], ascending=[False, True])
        if len(group) > most:
            rejected.append((name, f"{len(group) - most} objects are smaller than the {most} largest."))
        group = group[:most]
        images = sorted(set(group["ImageID"]), key=digest)
        test = set(images[: round(TEST_SHARE * len(images))])  # the same whatever the order
        for row in group.itertuples():
            yield make_photo(source, row, "test" if row.ImageID in test else "train")


def digest(name: str) -> str:
    """Hexadecimal digits that look random, always the same for a name."""
    return hashlib.sha256(name.encode()).hexdigest()


def make_photo(source: Path, row, split: str) -> Photo:
    """A sample from a row of `read_objects`."""
    category = safe_name(row.name.lower())
    stem = safe_name(Path(row.MaskPath).stem)
    place = {"subset": row.subset, "digit": row.ImageID[:1]}
    masks = [source / folder.format(**place) / row.MaskPath for folder in MASK_PLACES]
    return Photo(
        id=stem,
        category=category,
        model=stem,
        source=row.image,
        about={"caption": f"a photo of {with_article(row.name.lower())}"},
        mask=next((path for path in masks if path.is_file()), masks[0]),
        split=split,
        group=f"{category}-{digest(row.ImageID)[:2]}",
        box=_box_in_pixels(row),
    )


def read_mask(photo: Photo, rgb: Rgb) -> Mask:
    """The mask of a photo in the photo's size; InputError if it is missing, damaged or of another shape."""
    if not photo.mask.is_file():
        raise InputError(f"The mask {photo.mask.name} is missing; fetch the masks whose names begin with its digit.")
    mask = open_mask(photo.mask)
    height, width = rgb.shape[:2]
    if abs(mask.shape[1] / mask.shape[0] * height / width - 1) > STRETCHED:
        raise InputError(f"The mask {photo.mask.name} is of another shape than its photo.")
    return resized_mask(mask, rgb)


def count(rows: list[dict]) -> list[str]:
    """Notes on classes with fewer samples than the paper takes."""
    counts = pd.Series([row["category"] for row in rows]).value_counts().sort_index()
    return [
        f"{name}: {number} samples; ShapeClipper takes {FEWEST} to {MOST} of a class."
        for name, number in counts.items()
        if number < FEWEST
    ]


def _box_in_pixels(row) -> tuple[float, float, float, float] | None:
    try:
        with Image.open(row.image) as image:  # reads the header only
            width, height = image.size
    except OSError:
        return None  # the reason is listed when the photo is cut out
    return row.XMin * width, row.YMin * height, row.XMax * width, row.YMax * height


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


if __name__ == "__main__":
    sys.exit(main())
