"""A photo of a folder -> a sample: decode, find the mask, check, crop, guess normals, write.

What is written for a photo depends on that photo and the settings only.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from data_scripts.arrays import Mask, Rgb
from data_scripts.crops import DETAIL, MARGIN, Look, estimator, first_crop, write_crop
from data_scripts.photo_copies import signature
from data_scripts.photo_names import Item
from lib.data.images import INSIDE, crop_to_mask
from lib.data.photos_reading import Photo, read_photo_file
from lib.data.silhouettes import SilhouetteModel, check_silhouette, find_silhouette, load_silhouette_model
from lib.errors import InputError

THUMBNAIL = 112
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


@dataclass(frozen=True)
class Settings:
    """What all photos of a run share.

    Attributes
    ----------
    folder, masks : str
        Where photos and (if not empty) their masks are.
    look : Look
        Size of the images, and the network for normals.
    silhouettes : str
        Path of the network for masks.
    allow : tuple of str
        Checks of `lib.data.silhouettes` that do not reject a photo.
    """

    folder: str
    masks: str
    look: Look
    silhouettes: str
    allow: tuple[str, ...] = ()


def try_networks(settings: Settings) -> None:
    """Refuse networks that cannot be used: better known now than for each photo again."""
    blank = np.full((1, DETAIL, DETAIL, 3), 255, dtype=np.uint8)
    silhouette_model(settings.silhouettes).predict(blank[0])
    estimator(settings.look.normals, settings.look.convention).estimate(blank, blank[..., 0])


@cache
def silhouette_model(path: str) -> SilhouetteModel:
    """The network for masks, loaded once a process."""
    return load_silhouette_model(path)


def prepare_photo(item: Item, folder: Path, settings: Settings) -> list[dict[str, Any]]:
    """Write image, normals and thumbnail of a photo; its row, with its `signature` in hexadecimal digits.

    InputError says why a photo cannot be used.
    """
    if item.trouble:
        raise InputError(item.trouble)
    photo = read_photo_file(Path(settings.folder) / item.source)
    if settings.masks:
        silhouette = check_silhouette(_given_mask(photo, item, Path(settings.masks)))
    elif photo.alpha is not None:
        silhouette = check_silhouette(photo.alpha >= INSIDE)
    else:
        silhouette = find_silhouette(photo.rgb, silhouette_model(settings.silhouettes))
    failed = [name for name in silhouette.problems if name not in settings.allow]
    if failed:
        raise InputError("; ".join(f"{name}: {silhouette.problems[name]}" for name in failed))
    cut = partial(crop_to_mask, photo.rgb, silhouette.mask, margin=MARGIN)
    files = {kind: f"{kind}s/{item.category}/{item.id}.png" for kind in ("image", "normal")}
    write_crop(folder, files, first_crop(cut, settings.look, item.source), cut, settings.look)
    write_thumbnail(folder / "contact_sheet" / "thumbnails" / f"{item.id}.jpg", photo.rgb, silhouette.mask)
    row = {"id": item.id, "category": item.category, "model": item.model, **files}
    return [row | {"signature": signature(photo).tobytes().hex()}]


def write_thumbnail(path: Path, rgb: Rgb, mask: Mask) -> None:
    """Photo and mask, side by side."""
    pair = Image.fromarray(np.concatenate([rgb, np.broadcast_to(mask[..., None], rgb.shape)], axis=1))
    pair.thumbnail((2 * THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    path.parent.mkdir(parents=True, exist_ok=True)
    pair.save(path, quality=80)


def assign_splits(rows: Iterable[dict[str, Any]], shares: dict[str, float], seed: int) -> list[dict[str, Any]]:
    """Rows with their split: of each category, rounded shares of the models, drawn by seed and name.

    A model that is in several categories counts in the first.
    """
    rows = list(rows)
    home: dict[str, str] = {}
    for row in rows:
        home[row["model"]] = min(row["category"], home.get(row["model"], row["category"]))
    models: dict[str, list[str]] = {}
    for model, category in home.items():
        models.setdefault(category, []).append(model)
    splits: dict[str, str] = {}
    for category, names in models.items():
        order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{category}/{name}".encode()).digest())
        bounds = np.rint(np.cumsum(list(shares.values())) * len(order)).astype(int)
        for split, low, high in zip(shares, [0, *bounds], bounds, strict=False):
            splits |= dict.fromkeys(order[low:high], split)
    return [row | {"split": splits[row["model"]]} for row in rows]


def _given_mask(photo: Photo, item: Item, folder: Path) -> np.ndarray:
    stem = folder / PurePosixPath(item.source).with_suffix("")
    paths = (stem.with_name(stem.name + suffix) for suffix in MASK_SUFFIXES)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise InputError(f"no mask: {folder} holds no file {stem.relative_to(folder).as_posix()}.png")
    mask = read_photo_file(path, max(photo.size))
    if mask.size != photo.size:
        sizes = "{} x {} pixels but the photo {} x {}".format(*mask.size, *photo.size)
        raise InputError(f"no mask: {path.name} has {sizes}; they must be equal")
    small = Image.fromarray(mask.rgb).convert("L").resize(photo.rgb.shape[1::-1], Image.Resampling.BOX)
    return np.asarray(small) >= INSIDE
