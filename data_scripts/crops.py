"""A photo and its mask -> the files of a sample: a square crop, and normals where a network guesses them."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from data_scripts.arrays import Mask, Normals, Rgb, Rgba
from lib.data.images import INSIDE, write_normals
from lib.data.normals import NormalEstimator, load_estimator, unit
from lib.errors import InputError

MARGIN = 1.2
DETAIL = 128  # normals are estimated at no less than this, then reduced

Cut = Callable[..., tuple[Rgb, Mask]]  # size, pixels a side -> colours on white and mask of a square crop


@dataclass(frozen=True)
class Look:
    """What all samples of a run have in common: pixels a side, and where normals come from (empty: nowhere)."""

    size: int
    normals: str = ""
    convention: str = "ours"

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Look":
        """From the command line."""
        return cls(options.image_size, str(options.normals or ""), options.convention)


def first_crop(cut: Cut, look: Look, name: str) -> tuple[Rgb, Mask]:
    """Colours on white and mask of a sample; InputError where no pixel shows the object of the photo ``name``."""
    rgb, mask = cut(size=look.size)
    if not (mask >= INSIDE).any():
        raise InputError(f"The object of {name} is thinner than the pixels of the crop.")
    return rgb, mask


def write_crop(folder: Path, files: dict[str, str], crop: tuple[Rgb, Mask], cut: Cut, look: Look) -> None:
    """Write image and normals of a sample.

    Parameters
    ----------
    files : dict
        Path below ``folder`` of "image" and, where normals are wanted, "normal".
    crop : tuple
        What `first_crop` gave.
    cut : callable
        The same crop at another ``size``, for the normals.
    """
    rgb, mask = crop
    normal = None
    if "normal" in files:
        fine, fine_mask = cut(size=look.size * math.ceil(DETAIL / look.size))
        # one image at a time, so that its normals do not depend on what else is in a batch
        normal = reduced(estimator(look.normals, look.convention).estimate(fine[None], fine_mask[None])[0], mask)
    write_images(folder, files, np.dstack([straight(rgb, mask), mask]), normal)


def write_images(folder: Path, files: dict[str, str], rgba: Rgba, normal=None, level: int = 6) -> None:
    """Write the image (straight alpha), with a level of compression up to 9, and the normals, where there are any."""
    for path in files.values():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(folder / files["image"], compress_level=level)
    if normal is not None:
        write_normals(folder / files["normal"], normal)


@cache
def estimator(path: str, convention: str) -> NormalEstimator:
    """The network that guesses normals, loaded once a process."""
    return load_estimator(path, convention)


def reduced(normal: Normals, mask: Mask) -> Normals:
    """Mean directions in square blocks; 0 where the mask is 0."""
    size = len(mask)
    block = len(normal) // size
    mean = normal.reshape(size, block, size, block, 3).mean(axis=(1, 3))
    return np.ascontiguousarray(unit(mean) * (mask > 0)[..., None])


def straight(rgb: Rgb, mask: Mask) -> Rgb:
    """The colours that, composited on white with the mask as opacity, give `rgb`; white where the mask is 0."""
    ink = (255.0 - rgb) * 255.0 / np.maximum(mask, 1)[..., None]
    return np.rint(np.clip(255.0 - ink, 0, 255)).astype(np.uint8)
