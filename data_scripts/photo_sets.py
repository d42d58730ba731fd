"""A published collection of photographs -> a prepared folder: cut out, with masks, and with viewpoints and meshes
where the collection has CAD models and cameras.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from data_scripts.cad_models import CadFile, Camera, crop_viewpoint, load_cad, overlap, write_mesh
from data_scripts.cad_sizes import apparent_size, check_apparent_size, extents
from data_scripts.jobs import Work, prepare_jobs, split_of_models
from data_scripts.photo_folder import DETAIL, reduced, straight
from data_scripts.sources import add_common_options
from lib.data.images import INSIDE, check_mask, crop_to_mask, on_white, write_normals
from lib.data.normals import NormalEstimator, load_estimator
from lib.data.photos_reading import read_photo_file
from lib.errors import InputError

__all__ = [
    "Photo",
    "add_common_options",
    "open_mask",
    "open_upright",
    "prepare_photo_set",
    "split_of_models",
    "stored_mask",
    "with_article",
]

MARGIN = 1.2
FULL = 16_384  # pixels: photos of a collection are not reduced before they are cut out
SAME_BOX = 0.1  # annotated box and box of the mask overlap at least this much, or one of them is of another object


@dataclass(frozen=True)
class Photo:
    """One photo of a collection: the columns of its row that are known before it is opened, and its file.

    Attributes
    ----------
    about : mapping
        Further columns of `lib.data.prepared.COLUMNS`.
    mask : Path, optional
        Of a mask that comes with the collection.
    split : str
        Empty: by model, 70/10/20.
    group : str
        Photos of one group are prepared together; empty: those of one model. All show the same CAD model.
    cad : CadFile, optional
        The shape.
    camera : Camera, optional
        Of the photo, in the frame of the CAD file; without it ``about`` has the viewpoint, if it is known.
    whole : bool
        The image is a rendering that is used as it is, not cut out.
    box : tuple of float, optional
        Annotated left, top, right, bottom in pixels of the photo; only checked, the crop follows the mask.
    visible : bool
        Nothing hides a part of the object, so the CAD model appears as large as the box.
    """

    id: str
    category: str
    model: str
    image: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    split: str = ""
    group: str = ""
    cad: CadFile | None = None
    camera: Camera | None = None
    box: tuple[float, float, float, float] | None = None
    whole: bool = False
    visible: bool = False


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


MaskOf = Callable[[Photo, UInt8[np.ndarray, "height width 3"]], UInt8[np.ndarray, "height width"]]


def prepare_photo_set(
    photos: list[Photo],
    mask_of: MaskOf,
    options: argparse.Namespace,
    info: dict[str, Any],
    strays: Iterable[tuple[object, str]] = (),
    notes: Callable[[list[dict]], list[str]] = lambda rows: [],
) -> None:
    """Make the prepared folder ``options.output`` of images with ``options.image_size`` pixels a side.

    Parameters
    ----------
    mask_of : callable
        Photo and its upright colours -> opacities of the object; raises InputError if there is none. With CAD models
        it runs in other processes, so it is a function of a module, or a `partial` of one.
    info : dict
        name, source, licence and version; whatever else changes the result belongs here too.
    strays : pairs of Path and str
        Files that are no photos of the collection, each with the reason, for ``rejected.csv``.
    notes : callable
        See `data_scripts.jobs.Work`.

    Raises
    ------
    InputError
        If not one photo can be used.
    """
    groups, rejected = _by_group(photos)
    make = partial(cut_out, mask_of=mask_of, look=Look.of(options))
    work = Work(make, "photo", any(photo.cad for photo in photos), notes)
    sizes = sum(photo.image.stat().st_size for group in groups.values() for photo in group)
    prepare_jobs(groups, work, options, info | normals_info(options), [*rejected, *strays], sizes)


def open_upright(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of a photo, upright, in its full size: boxes count its pixels.

    Raises
    ------
    InputError
        See `lib.data.photos_reading.read_photo_file`.
    """
    return read_photo_file(path, FULL).rgb


def open_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """A mask as grey levels."""
    return np.asarray(Image.fromarray(open_upright(path)).convert("L"))


def stored_mask(photo: Photo, rgb: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
    """The mask file of a photo, which has the photo's size.

    Raises
    ------
    InputError
        If it is missing, damaged or of another size.
    """
    if photo.mask is None or not photo.mask.is_file():
        name = photo.mask.name if photo.mask else f"of {photo.image.name}"
        raise InputError(f"The mask {name} is missing; unpack the data set again.")
    mask = open_mask(photo.mask)
    if mask.shape != rgb.shape[:2]:
        raise InputError(f"The mask {photo.mask.name} is of another size than the photo.")
    return mask


def with_article(noun: str) -> str:
    """The noun after "a" or "an", by its first letter."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def crop_box(mask: UInt8[np.ndarray, "height width"]) -> tuple[int, int, int]:
    """Left, top and side of the square that `lib.data.images.crop_to_mask` cuts out."""
    low, high = mask_box(mask)
    side = int(np.ceil(MARGIN * (high - low).max()))
    left, top = np.rint((low + high - side) / 2).astype(int)
    return int(left), int(top), side


def mask_box(mask: UInt8[np.ndarray, "height width"]) -> tuple[np.ndarray, np.ndarray]:
    """(left, top) and (right, bottom) of a mask that is not empty, the latter exclusive."""
    rows, columns = np.nonzero(mask >= INSIDE)
    return np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1


def _by_group(photos: list[Photo]) -> tuple[dict[str, list[Photo]], list[tuple[Path, str]]]:
    groups: dict[str, list[Photo]] = {}
    rejected, seen = [], set()
    for photo in sorted(photos, key=lambda photo: (photo.group or photo.model, photo.id, str(photo.image))):
        if photo.id in seen:
            rejected.append((photo.image, f"a second photo would get the id {photo.id}; rename one of them."))
        elif not photo.image.is_file():
            rejected.append((photo.image, "the file is missing; unpack the data set again."))
        else:
            seen.add(photo.id)
            groups.setdefault(photo.group or photo.model, []).append(photo)
    return groups, rejected


def cut_out(group: list[Photo], folder: Path, mask_of: MaskOf, look: Look) -> dict[str, list]:
    """Cut out the photos of one group, and write their normals and mesh."""
    rows, rejected = [], []
    for photo in group:
        try:
            rows.append(_cut_out_one(photo, mask_of, folder, look))
        except InputError as error:
            rejected.append([str(photo.image), str(error)])
    return {"rows": rows, "rejected": rejected}


def _cut_out_one(photo: Photo, mask_of: MaskOf, folder: Path, look: Look) -> dict[str, Any]:
    rgb = open_upright(photo.image)
    mask = mask_of(photo, rgb)
    cut = _whole_image if photo.whole else partial(crop_to_mask, margin=MARGIN)
    colour, small = cut(rgb, mask, size=look.size)
    if not (small >= INSIDE).any():
        raise InputError(f"The object of {photo.image.name} is thinner than the pixels of the crop.")
    if photo.box is not None:
        _check_box(photo, mask)
    shape = _shape(photo, mask, small, folder) if photo.cad else {}
    place = photo.id if photo.model == photo.id else f"{photo.model}/{photo.id}"
    kinds = ("image", "normal") if look.normals else ("image",)
    files = {kind: f"{kind}s/{photo.category}/{place}.png" for kind in kinds}
    for relative in files.values():
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([straight(colour, small), small])).save(folder / files["image"])
    if look.normals:
        fine = cut(rgb, mask, size=look.size * math.ceil(DETAIL / look.size))
        write_normals(folder / files["normal"], reduced(_estimate(look, *fine), small))
    known = {"id": photo.id, "category": photo.category, "model": photo.model, **files}
    return {**known, **photo.about, **shape, **({"split": photo.split} if photo.split else {})}


def _check_box(photo: Photo, mask: UInt8[np.ndarray, "height width"]) -> None:
    """Refuse photos whose annotated box cannot be, or is of another object than the mask."""
    left, top, right, bottom = photo.box
    height, width = mask.shape
    if not (right - left >= 1 and bottom - top >= 1 and left < width and top < height and right > 0 and bottom > 0):
        raise InputError(f"The annotated box of {photo.image.name} is empty or outside the photo.")
    low, high = mask_box(mask)
    inner = np.clip(np.minimum(high, (right, bottom)) - np.maximum(low, (left, top)), 0, None).prod()
    union = (high - low).prod() + (right - left) * (bottom - top) - inner
    if inner < SAME_BOX * union:
        raise InputError(f"The annotated box of {photo.image.name} and its mask are of different objects.")


def _shape(photo: Photo, mask: np.ndarray, small: np.ndarray, folder: Path) -> dict[str, Any]:
    """Viewpoint of the crop and mesh of a photo, with the measures that tell how well they fit the mask."""
    cad = load_cad(photo.cad)
    columns, measures = dict(photo.about), extents(cad.whole)
    if photo.camera:
        columns, measures["error"] = crop_viewpoint(cad, photo.camera, crop_box(mask))
        if photo.box:
            cut_off = None if photo.visible else mask.shape[::-1]
            measures["apparent_size"] = apparent_size(cad, photo.camera, photo.box, cut_off)
            if photo.visible:
                check_apparent_size(measures["apparent_size"], cad.name)
    if "focal_length" in columns:
        measures["overlap"] = overlap(cad.mesh, columns, small)
    relative = f"meshes/{photo.category}/{photo.group or photo.model}.ply"
    if not (folder / relative).is_file():
        write_mesh(cad.mesh, folder / relative)
    return {**columns, "mesh": relative, **measures}


def normals_info(options: argparse.Namespace) -> dict[str, str]:
    """The entry of ``dataset.json`` on where normals come from."""
    if not options.normals:
        return {}
    return {"normals": f"guessed by {options.normals.name} (convention {options.convention})"}


def _estimate(look: Look, rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Normals of one image; one at a time, so that they do not depend on what else is in a batch."""
    return _estimator(look.normals, look.convention).estimate(rgb[None], mask[None])[0]


@cache
def _estimator(path: str, convention: str) -> NormalEstimator:
    return load_estimator(path, convention)


def _whole_image(rgb: np.ndarray, mask: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Colours on white and mask of an image that is square already, in another size."""
    if rgb.shape[0] != rgb.shape[1]:
        raise InputError("The rendering is not square; it is none of this data set.")
    check_mask(mask, "the rendering")
    images = (Image.fromarray(array) for array in (on_white(rgb, mask), mask))
    return tuple(np.asarray(image.resize((size, size), Image.Resampling.BOX)) for image in images)
