"""Photos of a folder, a chunk at a time: decode, mask, check, crop, estimate normals, write.

What is written for a photo depends on that photo and the settings only. A chunk is done when its file in ``parts/``,
written last, is there.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from lib.checkpoints import write_json
from lib.data.images import INSIDE, crop_to_mask, write_normals
from lib.data.normals import NormalEstimator, load_estimator, unit
from lib.data.photos_reading import Photo, read_photo_file
from lib.data.silhouettes import Silhouette, SilhouetteModel, check_silhouette, find_silhouette, load_silhouette_model
from lib.errors import InputError

MARGIN = 1.2
DETAIL = 128  # normals are estimated at no less than this, then reduced
CHUNK = 32
THUMBNAIL = 112
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Item:
    """A file of the folder and what its sample will be called.

    Attributes
    ----------
    file : str
        Path below the folder, with forward slashes.
    id, category, model : str
    twin : str
        An earlier file that has the same id; empty for none.
    """

    file: str
    id: str
    category: str
    model: str
    twin: str = ""


@dataclass(frozen=True)
class Settings:
    """What all photos of a run share.

    Attributes
    ----------
    folder, masks : str
        Where photos and (if not empty) their masks are.
    image_size : int
        Pixels a side.
    silhouettes, normals, convention : str
        Paths of the two networks, and how the second writes normals.
    allow : tuple of str
        Checks of `lib.data.silhouettes` that do not reject a photo.
    """

    folder: str
    masks: str
    image_size: int
    silhouettes: str
    normals: str
    convention: str
    allow: tuple[str, ...] = ()


def list_items(folder: Path, category: str = "", separator: str = "") -> list[Item]:
    """All files of a folder and the folders in it, but hidden ones, sorted by path.

    Parameters
    ----------
    category : str
        Of all photos; without it, the name of the folder (in `folder`) that a photo is in, else "photo".
    separator : str
        Photos of one folder whose names agree up to this character show one object; without it, each its own.

    Raises
    ------
    InputError
        The folder is missing, cannot be listed, or is empty.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder with the photos.")
    files = sorted(_files(folder))
    if not files:
        raise InputError(f"The folder {folder} holds no files; give the folder with the photos.")
    items, first = [], {}
    for file in files:
        path = PurePosixPath(file)
        name = _safe("-".join((*path.parts[:-1], path.stem)))
        prefix = path.stem.split(separator)[0] if separator else path.stem
        kind = category or (_safe(path.parts[0]) if len(path.parts) > 1 else "photo")
        model = _safe("-".join((*path.parts[:-1], prefix)))
        items.append(Item(file, name, kind, model, first.get(name.casefold(), "")))
        first.setdefault(name.casefold(), file)
    return items


def chunks(items: list[Item], size: int = CHUNK) -> list[list[Item]]:
    """Items in lists of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def part_path(work: Path, number: int) -> Path:
    """Where the rows of a finished chunk are."""
    return work / "parts" / f"{number:06d}.json"


def prepare_chunk(items: list[Item], number: int, settings: Settings, work: Path) -> None:
    """Write the files of a chunk, then ``{"rows": [...], "rejected": [[file, reason], ...]}``."""
    silhouettes, normals = tools(settings)
    taken, crops, rejected = [], [], []
    for item in items:
        try:
            crops.append(prepare_photo(item, settings, silhouettes, work))
            taken.append(item)
        except InputError as error:
            rejected.append([item.file, str(error)])
    if taken:
        images, masks = (np.stack(arrays) for arrays in zip(*[crop[0] for crop in crops], strict=True))
        guessed = normals.estimate(images, masks)
        for item, (_, (rgb, mask)), normal in zip(taken, crops, guessed, strict=True):
            write_sample(work, item, rgb, mask, reduced(normal, mask))
    rows = [sample_row(item) for item in taken]
    write_json(part_path(work, number), {"rows": rows, "rejected": rejected})


def tools(settings: Settings) -> tuple[SilhouetteModel, NormalEstimator]:
    """The two networks, loaded and tried once a process."""
    return _networks(settings.silhouettes, settings.normals, settings.convention)


@cache
def _networks(silhouettes: str, normals: str, convention: str) -> tuple[SilhouetteModel, NormalEstimator]:
    found = load_silhouette_model(silhouettes), load_estimator(normals, convention)
    blank = np.full((1, DETAIL, DETAIL, 3), 255, dtype=np.uint8)
    found[0].predict(blank[0])  # a network that cannot be used is better known now than for each photo anew
    found[1].estimate(blank, blank[..., 0])
    return found


Crop = tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]


def prepare_photo(item: Item, settings: Settings, silhouettes: SilhouetteModel, work: Path) -> tuple[Crop, Crop]:
    """The square crop of a photo, with its mask, at the size for normals and at the size to keep.

    Raises
    ------
    InputError
        Why this photo cannot be used.
    """
    if item.twin:
        raise InputError(f"duplicate name: {item.twin} would have the same id {item.id!r}; rename one of them")
    photo = read_photo_file(Path(settings.folder) / item.file)
    silhouette = silhouette_of(photo, item, settings, silhouettes)
    failed = [name for name in silhouette.problems if name not in settings.allow]
    if failed:
        raise InputError("; ".join(f"{name}: {silhouette.problems[name]}" for name in failed))
    write_thumbnail(work / "contact_sheet" / "thumbnails" / f"{item.id}.jpg", photo.rgb, silhouette.mask)
    detail = settings.image_size * math.ceil(DETAIL / settings.image_size)
    fine = crop_to_mask(photo.rgb, silhouette.mask, MARGIN, detail)
    coarse = crop_to_mask(photo.rgb, silhouette.mask, MARGIN, settings.image_size)
    if not (coarse[1] >= INSIDE).any():
        raise InputError(f"thin: no pixel of the crop of {settings.image_size} pixels a side is mostly object")
    return fine, coarse


def silhouette_of(photo: Photo, item: Item, settings: Settings, model: SilhouetteModel) -> Silhouette:
    """From the folder of masks, else from the photo's own opacity, else from the network."""
    if settings.masks:
        return check_silhouette(_given_mask(photo, item, Path(settings.masks)))
    if photo.alpha is not None:
        return check_silhouette(photo.alpha >= INSIDE)
    return find_silhouette(photo.rgb, model)


def reduced(
    normal: Float[np.ndarray, "detail detail 3"], mask: UInt8[np.ndarray, "size size"]
) -> Float[np.ndarray, "size size 3"]:
    """Mean directions in square blocks; 0 where the mask is 0."""
    size = len(mask)
    block = len(normal) // size
    mean = normal.reshape(size, block, size, block, 3).mean(axis=(1, 3))
    return np.ascontiguousarray(unit(mean) * (mask > 0)[..., None])


def write_sample(work: Path, item: Item, rgb: np.ndarray, mask: np.ndarray, normal: np.ndarray) -> None:
    """Image (straight alpha) and normals of one sample."""
    row = sample_row(item)
    for kind in ("image", "normal"):
        (work / row[kind]).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([straight(rgb, mask), mask])).save(work / row["image"])
    write_normals(work / row["normal"], normal)


def straight(rgb: UInt8[np.ndarray, "size size 3"], mask: UInt8[np.ndarray, "size size"]) -> np.ndarray:
    """The colours that, composited on white with the mask as opacity, give `rgb`; white where the mask is 0."""
    ink = (255.0 - rgb) * 255.0 / np.maximum(mask, 1)[..., None]
    return np.rint(np.clip(255.0 - ink, 0, 255)).astype(np.uint8)


def sample_row(item: Item) -> dict[str, Any]:
    """The row of ``metadata.parquet``, without its split."""
    files = {kind: f"{kind}s/{item.category}/{item.id}.png" for kind in ("image", "normal")}
    return {"id": item.id, "category": item.category, "model": item.model, **files}


def write_thumbnail(path: Path, rgb: UInt8[np.ndarray, "height width 3"], mask: np.ndarray) -> None:
    """Photo and mask, side by side."""
    pair = Image.fromarray(np.concatenate([rgb, np.broadcast_to(mask[..., None], rgb.shape)], axis=1))
    pair.thumbnail((2 * THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    path.parent.mkdir(parents=True, exist_ok=True)
    pair.save(path, quality=80)


def assign_splits(rows: Iterable[dict[str, Any]], shares: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """Rows with their split: of each category, rounded shares of the models, drawn by seed and name."""
    rows = list(rows)
    models: dict[str, set[str]] = {}
    for row in rows:
        models.setdefault(row["category"], set()).add(row["model"])
    splits = {}
    for category, names in models.items():
        order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{category}/{name}".encode()).digest())
        bounds = np.rint(np.cumsum(list(shares.values())) * len(order)).astype(int)
        for split, low, high in zip(shares, [0, *bounds], bounds, strict=False):
            splits |= {(category, name): split for name in order[low:high]}
    return [row | {"split": splits[row["category"], row["model"]]} for row in rows]


def read_parts(work: Path, count: int) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Rows and rejected files of all chunks, in order."""
    parts = [json.loads(part_path(work, number).read_text()) for number in range(count)]
    return [row for part in parts for row in part["rows"]], [pair for part in parts for pair in part["rejected"]]


def _files(folder: Path) -> Iterable[str]:
    def stop(error: OSError):
        raise InputError(f"The folder {error.filename} cannot be read ({error.strerror}); change its permissions.")

    for place, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _safe(name: str) -> str:
    """Letters, digits, point, dash and underscore, for names of files and in web addresses."""
    return re.sub(r"[^\w.-]+", "_", name).strip(".") or "_"


def _given_mask(photo: Photo, item: Item, folder: Path) -> np.ndarray:
    stem = folder / PurePosixPath(item.file).with_suffix("")
    for suffix in MASK_SUFFIXES:
        path = stem.with_name(stem.name + suffix)
        if path.is_file():
            break
    else:
        raise InputError(f"no mask: {folder} holds no file {stem.relative_to(folder).as_posix()}.png")
    mask = read_photo_file(path, max(photo.size))
    if mask.size != photo.size:
        sizes = "{} x {} pixels but the photo {} x {}".format(*mask.size, *photo.size)
        raise InputError(f"no mask: {path.name} has {sizes}; they must be equal")
    small = Image.fromarray(mask.rgb).convert("L").resize(photo.rgb.shape[1::-1], Image.Resampling.BOX)
    return np.asarray(small) >= INSIDE
