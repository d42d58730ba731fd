"""Prepare Pascal3D+: photos of 12 categories from ImageNet, with CAD models and fitted cameras.

    python data_scripts/prepare_pascal3d.py PASCAL3D+_release1.1 --output runs/data/pascal3d --masks mask

The official layout is ``Annotations/<category>_imagenet/<name>.mat``, ``Images/<category>_imagenet/<name>.JPEG``,
``CAD/<category>/<number>.off`` and ``Image_sets/<category>_imagenet_<train|val>.txt``; their val is the papers' test.
Each object of an image's category that has a viewpoint is a sample.

Pascal3D+ has no masks. ``--masks`` names a folder ``<category>/<name>_<object, from 0>.png`` (SDF-SRN's authors share
one); without it a mask is what the CAD model covers at its annotated pose, which is as good as the nearest of about
ten models can be, and hides no occluder. Ten CAD models stand for thousands of things: the column ``model`` is
different for each object, ``mesh`` is not.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.arrays import Mask, Rgb
from data_scripts.cad_models import CadFile, Camera, check_camera, load_cad, silhouette
from data_scripts.cad_sizes import apparent_size_notes
from data_scripts.jobs import Rejected, count_notes
from data_scripts.options import run_command
from data_scripts.photo_sets import Photo, prepare_photo_set, stored_mask, with_article
from data_scripts.sources import check_masks, check_source, chosen, collection, command_line, safe_name
from lib.errors import InputError

PASCAL3D = collection("pascal3d")
CATEGORIES = {  # theirs -> a word
    "aeroplane": "airplane", "bicycle": "bicycle", "boat": "boat", "bottle": "bottle", "bus": "bus", "car": "car",
    "chair": "chair", "diningtable": "dining table", "motorbike": "motorbike", "sofa": "sofa", "train": "train",
    "tvmonitor": "monitor",
}  # fmt: skip
AXES = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))  # theirs: z up, the front towards -y
TO_OPENCV = np.diag([1.0, -1.0, -1.0])  # their camera: x to the right, y up, z backward
SPLITS = {"train": "train", "val": "test"}  # theirs -> ours
TOTALS = {"train": 11_317, "test": 11_421}  # ShapeClipper, of all categories
PAPER = {  # SDF-SRN's lists
    ("aeroplane", "train"): 991, ("aeroplane", "test"): 974, ("car", "train"): 2847, ("car", "test"): 2777,
    ("chair", "train"): 539, ("chair", "test"): 514,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(PASCAL3D, __doc__, image_size=224)
    parser.add_argument("--masks", type=Path, help="folder <category>/<name>_<object>.png (default: CAD projections)")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_source(options.source, ("Annotations", "Images", "CAD", "Image_sets"), PASCAL3D)
    check_masks(options.masks)
    there = (name for name in CATEGORIES if (options.source / "Annotations" / f"{name}_imagenet").is_dir())
    categories = chosen(options.categories, there)
    rejected: Rejected = []
    photos = [
        photo for category in categories for photo in category_photos(options.source, category, options.masks, rejected)
    ]
    how = "given" if options.masks else "CAD projections"
    mask_of = stored_mask if options.masks else projected_mask
    prepare_photo_set(photos, mask_of, options, PASCAL3D.info(masks=how), rejected, count)


def category_photos(source: Path, category: str, masks: Path | None, rejected: Rejected) -> Iterator[Photo]:
    """All objects of a category that the lists of splits name; what cannot be used joins ``rejected``."""
    splits = read_splits(source, category)
    places = {kind: source / kind / f"{category}_imagenet" for kind in ("Annotations", "Images")}
    for path in sorted(places["Images"].glob("*")):
        if path.stem not in splits:
            rejected.append((path, "no list of Image_sets names it."))
    for name, split in splits.items():
        annotation, image = places["Annotations"] / f"{name}.mat", places["Images"] / f"{name}.JPEG"
        try:
            objects = read_objects(annotation, category)
        except InputError as error:
            rejected.append((image, str(error)))
            continue
        for number, found in objects:
            try:
                yield make_photo(source, category, image, split, number, found, masks)
            except (AttributeError, TypeError, ValueError):
                rejected.append((image, f"its object {number} has no viewpoint, box or CAD model."))


def read_splits(source: Path, category: str) -> dict[str, str]:
    """Split of each image that a list names."""
    splits: dict[str, str] = {}
    for theirs, ours in SPLITS.items():
        path = source / "Image_sets" / f"{category}_imagenet_{theirs}.txt"
        if not path.is_file():
            raise InputError(f"{path} is missing; unpack Pascal3D+ again.")
        for line in path.read_text(encoding="utf-8").splitlines():
            name = line.split()[0] if line.strip() else ""
            if splits.get(name, ours) != ours:
                raise InputError(f"{path} names {name}, and so does the list for train; unpack Pascal3D+ again.")
            splits |= {name: ours} if name else {}
    return splits


def read_objects(path: Path, category: str) -> list[tuple[int, Any]]:
    """Number (from 0) and record of each object of the category in an annotation."""
    if not path.is_file():
        raise InputError(f"the annotation {path.name} is missing; unpack Pascal3D+ again.")
    try:
        record = loadmat(path, squeeze_me=True, struct_as_record=False)["record"]
        objects = list(enumerate(np.atleast_1d(record.objects)))
    except Exception as error:  # scipy's reader fails in many ways; all mean that the file is damaged
        raise InputError(f"the annotation {path.name} is damaged; unpack Pascal3D+ again.") from error
    found = [(number, thing) for number, thing in objects if getattr(thing, "class", "") == category]
    if not found:
        raise InputError(f"the annotation {path.name} has no {category}.")
    return found


def make_photo(
    source: Path, category: str, image: Path, split: str, number: int, found: Any, masks: Path | None
) -> Photo:
    """A sample from the record of an object; AttributeError, TypeError or ValueError if an entry is wrong."""
    left, top, right, bottom = (float(value) for value in found.bbox)
    cad = int(found.cad_index)
    name = safe_name(f"{category}-{image.stem}-{number}")
    return Photo(
        id=name,
        category=category,
        model=name,
        source=image,
        about={"caption": f"a photo of {with_article(CATEGORIES[category])}"},
        mask=masks / category / f"{image.stem}_{number}.png" if masks else None,
        split=split,
        group=f"{category}-{cad:02d}",
        cad=CadFile(source / "CAD" / category / f"{cad:02d}.off", AXES),
        camera=camera_of(found.viewpoint),
        box=(left - 1, top - 1, right, bottom),  # MATLAB counts from 1, both ends included
    )


def camera_of(viewpoint: Any) -> Camera:
    """The camera of an annotated viewpoint: it stands on a sphere about the CAD model's origin and looks there.

    At azimuth and elevation 0 it stands at -y; azimuths count towards +x. The image is turned by theta
    counter-clockwise, and its middle is (px, py). ValueError if the distance is 0: then nothing was annotated.
    """
    names = ("azimuth", "elevation", "theta", "distance", "focal", "viewport", "px", "py")
    azimuth, elevation, theta, distance, focal, viewport, x, y = (float(getattr(viewpoint, name)) for name in names)
    if not (distance > 0 and focal > 0 and viewport > 0):
        raise ValueError(distance)
    rotation = Rotation.from_euler("ZXZ", [theta, elevation - 90.0, -azimuth], degrees=True).as_matrix()
    center = np.array([x, y]) - 0.5  # MATLAB's first pixel has its centre at 1, ours at 0.5
    return Camera(TO_OPENCV @ rotation, np.array([0.0, 0.0, distance]), focal * viewport, center)


def projected_mask(photo: Photo, rgb: Rgb) -> Mask:
    """What the CAD model covers in a photo."""
    cad = load_cad(photo.cad)
    check_camera(cad, photo.camera)
    mask = silhouette(cad.whole, photo.camera, rgb.shape[1], rgb.shape[0])
    if mask.all():
        away = np.linalg.norm(photo.camera.translation)
        raise InputError(f"The CAD model {cad.name} covers the whole photo: it is {cad.scale:.3g} long, and the "
                         f"annotated camera {away:.3g} away; are the two in the same units?")  # fmt: skip
    return mask


def count(rows: list[dict]) -> list[str]:
    """Notes where the numbers of samples are not the papers', or CAD models not of the annotations' size."""
    notes, totals = apparent_size_notes(rows) + count_notes(rows, PAPER), Counter(row["split"] for row in rows)
    if {row["category"] for row in rows} == set(CATEGORIES):
        notes += [
            f"all categories, {split}: {totals[split]} samples; ShapeClipper has {wanted}."
            for split, wanted in TOTALS.items()
            if totals[split] != wanted
        ]
    return notes


if __name__ == "__main__":
    sys.exit(main())
