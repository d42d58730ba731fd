"""Prepare ETH-80: eight kinds of objects on a turntable, 41 photos of each, with masks and known viewpoints.

    python data_scripts/prepare_eth80.py ETH-80 --output runs/data/eth80

Leibe and Schiele, "Analyzing appearance and contour based methods for object categorization", CVPR 2003. The official
layout is ``<class>/<instance>/<name>.png`` beside ``maps/<name>-map.png``; ``<class>/img/<name>.jpg`` beside
``mask/<name>.png`` is read as well. A name like ``car3-066-153`` says which object, the camera's angle from straight
above, and its azimuth. No licence comes with the photos: use them where you may, and pass none of them on.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.options import run_command
from data_scripts.photo_sets import Photo, open_mask, prepare_photo_set, resized_mask, with_article
from data_scripts.sources import check_source, collection, command_line
from lib.errors import InputError

NAME = re.compile(r"(?P<kind>[a-z]+)(?P<number>\d+)-(?P<polar>\d{3})-(?P<azimuth>\d{3})")
FRONT = 90  # their azimuth of the camera that faces the front; both count counter-clockwise seen from above
SUFFIXES = (".png", ".jpg", ".jpeg")
MASK_FOLDERS = ("maps", "mask")
ETH80 = collection("eth80")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(ETH80, __doc__, categories=False)
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_source(options.source, (), ETH80)
    photos = list(find_photos(options.source))
    if not photos:
        raise InputError(f"{options.source} holds no photo with a name like car3-066-153.png; is it ETH-80?")
    known = {photo.source for photo in photos}
    strays = [(path, "is not named like car3-066-153.png.") for path in image_files(options.source)]
    prepare_photo_set(photos, read_map, options, ETH80.info(), [stray for stray in strays if stray[0] not in known])


def find_photos(source: Path) -> Iterator[Photo]:
    """All photos below a folder, in the order of their paths, with masks where these should be."""
    for path in image_files(source):
        found = NAME.fullmatch(path.stem)
        if found:
            flat = path.parent.name == "img"
            mask = path.parent.with_name("mask") / path.stem if flat else path.parent / "maps" / f"{path.stem}-map"
            model = found["kind"] + found["number"]
            angles = viewpoint(int(found["polar"]), int(found["azimuth"]))
            about = {**angles, "caption": f"a photo of {with_article(found['kind'])}"}
            yield Photo(path.stem, found["kind"], model, path, about, mask.with_name(f"{mask.name}.png"))


def image_files(source: Path) -> Iterator[Path]:
    """Files below a folder that are images by their endings, except those in folders of masks."""
    for path in sorted(source.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.parent.name not in MASK_FOLDERS:
            yield path


def viewpoint(polar: int, azimuth: int) -> dict[str, float]:
    """Angles of the prepared format from those in a name, all in degrees; distance and lens are not known.

    Examples
    --------
    >>> viewpoint(90, 180)  # from the side, the front on the left
    {'azimuth': 90.0, 'elevation': 0.0, 'tilt': 0.0}
    """
    return {"azimuth": float((azimuth - FRONT) % 360), "elevation": float(90 - polar), "tilt": 0.0}


def read_map(photo: Photo, rgb: np.ndarray) -> np.ndarray:
    """The mask that comes with a photo, white on black: uint8, 0 or 255."""
    if not photo.mask.is_file():
        raise InputError(f"The mask {photo.mask.name} of {photo.source.name} is missing; unpack ETH-80 again.")
    return resized_mask(open_mask(photo.mask), rgb)  # some copies have photos and masks at different sizes


if __name__ == "__main__":
    sys.exit(main())
