"""Prepare Pix3D: photos of furniture and tools with masks, CAD models and cameras.

    python data_scripts/prepare_pix3d.py pix3d --output runs/data/pix3d --categories chair

The official layout is ``pix3d.json``, a list of annotations that name ``img/``, ``mask/`` and ``model/`` files. Only
photos that are neither truncated nor occluded, not even slightly, are used: of chairs, 2,894. Models decide on the
split, 70/10/20, unless ``--lists`` names the folder of ShapeClipper's lists (``lists/`` in its Pix3D.tar): files
``<category>_<train|val|test>.txt``, a photo's name without ending on each line; with them, exactly the listed photos
are used. Those lists split photos, not models.

Viewpoints are those of the crop, as if the camera looked at the middle of the object; the official ``cam_position``
means the same. The official ``rot_mat`` is of the camera that took the whole photo.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.cad_models import CadFile, Camera
from data_scripts.jobs import Rejected, count_notes
from data_scripts.options import run_command
from data_scripts.photo_sets import Photo, prepare_photo_set, stored_mask, with_article
from data_scripts.sources import check_source, chosen, collection, command_line, read_json_of, safe_name
from lib.errors import InputError

PIX3D = collection("pix3d")
AXES = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))  # theirs: y up, the front towards -z
TO_OPENCV = np.diag([-1.0, -1.0, 1.0])  # their camera: x to the left, y up, z forward
FILM = 32.0  # millimetres, the width that their focal lengths refer to
HIDDEN = ("truncated", "occluded", "slightly_occluded")
PAPER = {("chair", "train"): 2007, ("chair", "val"): 303, ("chair", "test"): 584}
PHOTOS = 10_069  # annotations of the full release
SPLITS = ("train", "val", "test")

Annotation = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(PIX3D, __doc__, image_size=224)
    parser.add_argument("--lists", type=Path, help="folder of <category>_<split>.txt (default: split by model)")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_source(options.source, ("pix3d.json", "img", "mask", "model"), PIX3D)
    annotations, rejected = read_annotations(options.source / "pix3d.json")
    total = len(annotations) + len(rejected)
    categories = chosen(options.categories, (name_of(row)[0] for row in annotations))
    rows = [row for row in annotations if name_of(row)[0] in categories]
    rejected += strays(options.source, annotations, categories)
    if options.lists:
        splits = read_lists(options.lists, categories)
        known = {name_of(row) for row in rows}
        missing = [name for name in splits if name not in known]
        rejected += [("/".join(name), "a list names it, pix3d.json does not.") for name in missing]
        pairs = [(row, splits.get(name_of(row), "")) for row in rows]
        rejected += [(row["img"], "no list names it.") for row, split in pairs if not split]
    else:
        pairs = [(row, "model") for row in rows if not hidden(row)]
        rejected += [(row["img"], f"the object is {hidden(row)}.") for row in rows if hidden(row)]
    photos = list(make_photos(options.source, [pair for pair in pairs if pair[1]], rejected))
    prepare_photo_set(
        photos,
        stored_mask,
        options,
        PIX3D.info(splits="lists" if options.lists else "by model, 70/10/20"),
        rejected,
        lambda made: count(made, total, options.lists is not None),
    )


def count(rows: list[dict], annotations: int, lists: bool) -> list[str]:
    """Notes where numbers are not the paper's, whose splits only its lists give, or not the full release's."""
    notes = count_notes(rows, PAPER) if lists else []
    chairs, wanted = sum(row["category"] == "chair" for row in rows), sum(PAPER.values())
    if not lists and chairs not in (0, wanted):
        notes.append(f"chair: {chairs} samples; the paper has {wanted} in all.")
    if annotations != PHOTOS:
        notes.append(f"pix3d.json has {annotations} annotations, the full release {PHOTOS}; is the download partial?")
    return notes


def read_annotations(path: Path) -> tuple[list[Annotation], Rejected]:
    """The annotations that name a photo and its category, and the others by their place in the list."""
    rows = read_json_of(path, PIX3D)
    good = [row for row in rows if _names_photo(row)] if isinstance(rows, list) else []
    if not good:
        raise InputError(f"{path} is no list of annotations with an entry 'img'; is it Pix3D's?")
    nameless = (number for number, row in enumerate(rows) if not _names_photo(row))
    return good, [(f"{path.name}, entry {number} (from 0)", "its entry 'img' names no photo.") for number in nameless]


def _names_photo(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("img"), str) and all(name_of(row))


def name_of(row: Annotation) -> tuple[str, str]:
    """Category and name of a photo: ``img/chair/0001.png`` is ("chair", "0001")."""
    path = Path(row["img"])
    return str(row.get("category") or path.parent.name), path.stem


def hidden(row: Annotation) -> str:
    """How the object is not wholly visible, as words; empty if it is."""
    # some releases write the words "true" and "false"
    return " and ".join(name.replace("_", " ") for name in HIDDEN if str(row.get(name)).lower() == "true")


def read_lists(folder: Path, categories: list[str]) -> dict[tuple[str, str], str]:
    """Split of each listed (category, name)."""
    splits: dict[tuple[str, str], str] = {}
    for category in categories:
        for split in SPLITS:
            path = folder / f"{category}_{split}.txt"
            if not path.is_file():
                raise InputError(f"--lists: {folder} has no {path.name}; choose categories that have lists.")
            for line in path.read_text(encoding="utf-8").split():
                name = (category, Path(line).stem)
                if name in splits:
                    raise InputError(f"--lists: {path.name} names {line}, and so does {category}_{splits[name]}.txt.")
                splits[name] = split
    return splits


def make_photos(source: Path, pairs: list[tuple[Annotation, str]], rejected: Rejected) -> Iterator[Photo]:
    """Photos of annotations with their splits ("model": as the model's); what cannot be used joins ``rejected``."""
    for row, split in pairs:
        category, name = name_of(row)
        try:
            camera, box = read_camera(row), tuple(float(value) for value in row["bbox"])
            model = safe_name("-".join(Path(row["model"]).with_suffix("").parts[1:]))
            mask = source / row["mask"]
            if len(box) != 4:
                raise ValueError(box)
        except (KeyError, TypeError, ValueError):
            rejected.append((row["img"], "its annotation lacks an entry, or has one of another form."))
            continue
        yield Photo(
            id=safe_name(f"{category}-{name}"),
            category=category,
            model=model,
            source=source / row["img"],
            about={"caption": f"a photo of {with_article(category)}"},
            mask=mask,
            split="" if split == "model" else split,
            cad=CadFile(source / row["model"], AXES),
            camera=camera,
            box=box,
            visible=True,
        )


def read_camera(row: Annotation) -> Camera:
    """The camera of a photo: the object is turned by ``rot_mat`` and moved by ``trans_mat`` before their camera."""
    rotation = np.array(row["rot_mat"], dtype=np.float64)
    translation = np.array(row["trans_mat"], dtype=np.float64)
    width, height = (float(side) for side in row["img_size"])
    focal = float(row["focal_length"]) / FILM * width
    if translation.shape != (3,) or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-2) or not focal > 0:
        raise ValueError(row["img"])
    left, _, right = np.linalg.svd(rotation)  # the nearest rotation: theirs are rounded
    rotation = left @ np.diag([1.0, 1.0, np.linalg.det(left @ right)]) @ right
    return Camera(TO_OPENCV @ rotation, TO_OPENCV @ translation, focal, np.array([width, height]) / 2)


def strays(source: Path, annotations: list[Annotation], categories: list[str]) -> Iterator[tuple[Path, str]]:
    """Files in the folders of photos that no annotation names."""
    known = {source / row["img"] for row in annotations}
    for category in categories:
        for path in sorted((source / "img" / category).glob("*")):
            if path not in known:
                yield path, "pix3d.json does not name it."


if __name__ == "__main__":
    sys.exit(main())
