"""Prepare CompCars: 136,726 photographs of 1,716 car models from the web, the set of the paper's neighbour study.

    python data_scripts/prepare_compcars.py CompCars/data --output runs/data/compcars

Yang, Luo, Loy and Tang, "A large-scale car dataset for fine-grained categorization and verification", CVPR 2015; free
for research, on request from its authors. The official layout is ``image/<make>/<model>/<year>/<name>.jpg`` beside
``label/<make>/<model>/<year>/<name>.txt``, whose lines are the viewpoint (-1 uncertain, 1 front, 2 rear, 3 side,
4 front and side, 5 rear and side), the number of boxes, which is 1, and the box ``x1 y1 x2 y2``, counted from 1.
Names of makes and models come from ``misc/make_model_name.mat`` if it is there.

Only a coarse viewpoint is known, without the side: azimuths are given for photos from the front and the rear, and the
viewpoint's name is in the caption.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.io import loadmat

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone


from data_scripts.arrays import Mask, Rgb
from data_scripts.jobs import Rejected
from data_scripts.options import run_command
from data_scripts.photo_folder import silhouette_model
from data_scripts.photo_sets import Photo, prepare_photo_set, stored_mask, with_article
from data_scripts.sources import check_masks, check_source, collection, command_line
from lib.data.silhouettes import U2NETP, find_silhouette
from lib.errors import InputError

VIEWPOINTS = {
    -1: "",
    1: ", seen from the front",
    2: ", seen from the rear",
    3: ", seen from the side",
    4: ", seen from the front and side",
    5: ", seen from the rear and side",
}
AZIMUTHS = {1: 0.0, 2: 180.0}
ABOUT = 0.1  # of the box's sides, seen by the salient-object network around the box
NO_MASK = {"no_foreground", "all_foreground"}  # its other complaints are answered by the box, which people drew
SUFFIXES = (".jpg", ".jpeg", ".png")
COMPCARS = collection("compcars")

Box = tuple[int, int, int, int]  # left, top, right, bottom, counted from 0, the last two exclusive
Label = tuple[int, Box]  # viewpoint, a key of `VIEWPOINTS`, and box


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(COMPCARS, __doc__, categories=False)
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--masks", type=Path, help="folder of masks like image/ with .png files, white on black")
    masks.add_argument("--boxes", action="store_true", help="keep all that is in the box, background included")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    source = options.source / "data" if (options.source / "data" / "image").is_dir() else options.source
    check_source(source, ("image", "label"), COMPCARS)
    check_masks(options.masks)
    rejected: Rejected = []
    labels: dict[Path, Label] = {}
    photos = list(find_photos(source, options.masks, labels, rejected))
    if not photos and not rejected:
        raise InputError(f"{source / 'image'} holds no photo <make>/<model>/<year>/<name>.jpg; is it CompCars?")
    how = "boxes" if options.boxes else str(options.masks or "salient object")

    def mask_of(photo: Photo, rgb: Rgb) -> Mask:
        left, top, right, bottom = box = labels[photo.source][1]
        if right > rgb.shape[1] or bottom > rgb.shape[0]:
            raise InputError(f"The box of {photo.source.name} leaves the photo; unpack CompCars again.")
        if options.boxes:
            found = np.full(rgb.shape[:2], 255, np.uint8)
        else:
            found = stored_mask(photo, rgb) if options.masks else salient_object(photo, rgb, box)
        inside = np.s_[max(top, 1) : bottom, max(left, 1) : right]  # a mask needs some background
        mask = np.zeros(rgb.shape[:2], np.uint8)
        mask[inside] = found[inside]
        return mask

    prepare_photo_set(photos, mask_of, options, COMPCARS.info(masks=how), rejected)


def find_photos(source: Path, masks: Path | None, labels: dict[Path, Label], rejected: Rejected) -> Iterator[Photo]:
    """All photos of the official layout, in the order of their paths; fills ``labels`` and ``rejected``."""
    names = model_names(source / "misc" / "make_model_name.mat")
    for path in sorted((source / "image").glob("*/*/*/*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        place = path.relative_to(source / "image")
        make, model, year = place.parts[:3]
        try:
            labels[path] = read_label((source / "label" / place).with_suffix(".txt"))
        except InputError as error:
            rejected.append((path, str(error)))
            continue
        viewpoint = labels[path][0]
        name = names.get(int(model), "car") if model.isdigit() else "car"
        caption = with_article(name) + (f" of {year}" if year.isdigit() else "") + VIEWPOINTS[viewpoint]
        about = {"caption": caption, "azimuth": AZIMUTHS.get(viewpoint)}
        mask = masks / place.with_suffix(".png") if masks else None
        yield Photo(f"{make}-{model}-{year}-{path.stem}", "car", f"{make}-{model}", path, about, mask)


def read_label(path: Path) -> Label:
    """The label of a photo; InputError if it is missing or not of the official form."""
    if not path.is_file():
        raise InputError(f"The photo has no label {path.name}; unpack CompCars again.")
    try:
        viewpoint, count, left, top, right, bottom = (int(word) for word in path.read_text().split())
    except ValueError as error:
        raise InputError(f"The label {path.name} is not viewpoint, number of boxes and one box.") from error
    if viewpoint not in VIEWPOINTS or count != 1 or not (1 <= left < right and 1 <= top < bottom):
        raise InputError(f"The label {path.name} holds an unknown viewpoint or an impossible box.")
    return viewpoint, (left - 1, top - 1, right, bottom)


def model_names(path: Path) -> dict[int, str]:
    """Names of the models by number; none without the file."""
    if not path.is_file():
        return {}
    try:
        cells = loadmat(path)["model_names"].ravel()
    except Exception as error:  # scipy's reader fails in many ways; all mean that the file is damaged
        raise InputError(f"{path} is damaged ({type(error).__name__}); unpack CompCars again.") from error
    return {i + 1: str(cell.ravel()[0]) for i, cell in enumerate(cells) if cell.size}


def salient_object(photo: Photo, rgb: Rgb, box: Box) -> Mask:
    """What the shipped salient-object network finds in the box, seeing some of what is about it."""
    left, top, right, bottom = box
    x, y = (round(ABOUT * side) for side in (right - left, bottom - top))
    about = np.s_[max(0, top - y) : bottom + y, max(0, left - x) : right + x]
    found = find_silhouette(np.ascontiguousarray(rgb[about]), silhouette_model(str(U2NETP)))
    for name in NO_MASK & set(found.problems):
        raise InputError(f"{photo.source.name}: {found.problems[name]}.")
    mask = np.zeros(rgb.shape[:2], np.uint8)
    mask[about] = found.mask
    return mask


if __name__ == "__main__":
    sys.exit(main())
