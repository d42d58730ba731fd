"""A published collection of photographs -> a prepared folder: cut out, with masks, and with viewpoints and meshes
where the collection has CAD models and cameras.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_scripts.arrays import Mask, Rgb
from data_scripts.cad_models import CadFile, Camera, crop_viewpoint, load_cad, overlap, write_mesh
from data_scripts.cad_sizes import apparent_size, check_apparent_size, extents
from data_scripts.crops import MARGIN, Look, first_crop, write_crop
from data_scripts.jobs import Rejected, Work, prepare_jobs
from lib.data.images import INSIDE, check_mask, crop_to_mask, on_white
from lib.data.photos_reading import read_photo_file
from lib.errors import InputError

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
    box : tuple of float, optional
        Annotated left, top, right, bottom in pixels of the photo; only checked, the crop follows the mask.
    whole : bool
        The image is a rendering that is used as it is, not cut out.
    visible : bool
        Nothing hides a part of the object, so the CAD model appears as large as the box.
    """

    id: str
    category: str
    model: str
    source: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None
    split: str = ""
    group: str = ""
    cad: CadFile | None = None
    camera: Camera | None = None
    box: tuple[float, float, float, float] | None = None
    whole: bool = False
    visible: bool = False


MaskOf = Callable[[Photo, Rgb], Mask]


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
    """
    groups, rejected = _by_group(photos)
    make = partial(cut_out, mask_of=mask_of, look=Look.of(options))
    work = Work(make, "photo", any(photo.cad for photo in photos), notes)
    sizes = sum(photo.source.stat().st_size for group in groups.values() for photo in group)
    prepare_jobs(groups, work, options, info | normals_info(options), [*rejected, *strays], sizes)


def open_upright(path: Path) -> Rgb:
    """Colours of a photo, upright, in its full size: boxes count its pixels."""
    return read_photo_file(path, FULL).rgb


def open_mask(path: Path) -> Mask:
    """A mask as grey levels."""
    return np.asarray(Image.fromarray(open_upright(path)).convert("L"))


def resized_mask(mask: Mask, rgb: Rgb) -> Mask:
    """A mask in the size of its photo, 0 or 255: some collections store masks smaller or larger."""
    resized = Image.fromarray(mask).resize(rgb.shape[1::-1], Image.Resampling.NEAREST)
    return (np.asarray(resized) > 127).astype(np.uint8) * 255


def stored_mask(photo: Photo, rgb: Rgb) -> Mask:
    """The mask file of a photo, which has the photo's size; InputError if it is missing, damaged or has not."""
    if not photo.mask.is_file():
        raise InputError(f"The mask {photo.mask.name} is missing; unpack the data set again.")
    mask = open_mask(photo.mask)
    if mask.shape != rgb.shape[:2]:
        raise InputError(f"The mask {photo.mask.name} is of another size than the photo.")
    return mask


def with_article(noun: str) -> str:
    """The noun after "a" or "an", by its first letter."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def cut_out(photo: Photo, folder: Path, mask_of: MaskOf, look: Look) -> list[dict[str, Any]]:
    """Write the files of a photo's sample; its row. InputError where the photo cannot be used."""
    rgb = open_upright(photo.source)
    mask = mask_of(photo, rgb)
    place = photo.id if photo.model == photo.id else f"{photo.model}/{photo.id}"
    kinds = ("image", "normal") if look.normals else ("image",)
    files = {kind: f"{kind}s/{photo.category}/{place}.png" for kind in kinds}
    cut = partial(_whole_image, rgb, mask) if photo.whole else partial(crop_to_mask, rgb, mask, margin=MARGIN)
    crop = first_crop(cut, look, photo.source.name)
    if photo.box is not None:
        _check_box(photo, mask)
    shape = _shape(photo, mask, crop[1], folder) if photo.cad else {}
    write_crop(folder, files, crop, cut, look)
    known = {"id": photo.id, "category": photo.category, "model": photo.model, **files}
    return [{**known, **photo.about, **shape, **({"split": photo.split} if photo.split else {})}]


def normals_info(options: argparse.Namespace) -> dict[str, str]:
    """The entry of ``dataset.json`` on where normals come from."""
    if not options.normals:
        return {}
    return {"normals": f"guessed by {options.normals.name} (convention {options.convention})"}


def _by_group(photos: list[Photo]) -> tuple[dict[str, list[Photo]], Rejected]:
    groups: dict[str, list[Photo]] = {}
    rejected, seen = [], set()
    for photo in sorted(photos, key=lambda photo: (photo.group or photo.model, photo.id, str(photo.source))):
        if photo.id in seen:
            rejected.append((photo.source, f"a second photo would get the id {photo.id}; rename one of them."))
        elif not photo.source.is_file():
            rejected.append((photo.source, "the file is missing; unpack the data set again."))
        else:
            seen.add(photo.id)
            groups.setdefault(photo.group or photo.model, []).append(photo)
    return groups, rejected


def _mask_box(mask: Mask) -> tuple[np.ndarray, np.ndarray]:
    """(left, top) and (right, bottom) of a mask that is not empty, the latter exclusive."""
    rows, columns = np.nonzero(mask >= INSIDE)
    return np.array([columns.min(), rows.min()]), np.array([columns.max(), rows.max()]) + 1


def _check_box(photo: Photo, mask: Mask) -> None:
    """Refuse photos whose annotated box cannot be, or is of another object than the mask."""
    left, top, right, bottom = photo.box
    height, width = mask.shape
    if not (right - left >= 1 and bottom - top >= 1 and left < width and top < height and right > 0 and bottom > 0):
        raise InputError(f"The annotated box of {photo.source.name} is empty or outside the photo.")
    low, high = _mask_box(mask)
    inner = np.clip(np.minimum(high, (right, bottom)) - np.maximum(low, (left, top)), 0, None).prod()
    union = (high - low).prod() + (right - left) * (bottom - top) - inner
    if inner < SAME_BOX * union:
        raise InputError(f"The annotated box of {photo.source.name} and its mask are of different objects.")


def _shape(photo: Photo, mask: Mask, small: Mask, folder: Path) -> dict[str, Any]:
    """Viewpoint of the crop and mesh of a photo, with the measures that tell how well they fit the mask."""
    cad = load_cad(photo.cad)
    columns, measures = dict(photo.about), extents(cad.whole)
    if photo.camera:
        low, high = _mask_box(mask)  # the square that `crop_to_mask` cuts out
        side = int(np.ceil(MARGIN * (high - low).max()))
        left, top = np.rint((low + high - side) / 2).astype(int)
        columns, measures["error"] = crop_viewpoint(cad, photo.camera, (int(left), int(top), side))
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


def _whole_image(rgb: Rgb, mask: Mask, size: int) -> tuple[Rgb, Mask]:
    """Colours on white and mask of an image that is square already, in another size."""
    if rgb.shape[0] != rgb.shape[1]:
        raise InputError("The rendering is not square; it is none of this data set.")
    check_mask(mask, "the rendering")
    images = (Image.fromarray(array) for array in (on_white(rgb, mask), mask))
    return tuple(np.asarray(image.resize((size, size), Image.Resampling.BOX)) for image in images)
