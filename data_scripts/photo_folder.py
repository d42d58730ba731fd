"""Photos of a folder, a chunk at a time: decode, mask, check, crop, estimate normals, write.

What is written for a photo depends on that photo and the settings only. A chunk is done when its file in ``parts/``,
written last, is there.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from data_scripts.photo_copies import SIDE, signature
from data_scripts.photo_names import Item
from lib.data.images import INSIDE, crop_to_mask, write_normals
from lib.data.normals import NormalEstimator, load_estimator, unit
from lib.data.photos_reading import Photo, read_photo_file
from lib.data.silhouettes import Silhouette, SilhouetteModel, check_silhouette, find_silhouette, load_silhouette_model
from lib.errors import InputError
from lib.files import write_json

MARGIN = 1.2
DETAIL = 128  # normals are estimated at no less than this, then reduced
CHUNK = 32
THUMBNAIL = 112
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif")


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


def chunks(items: list[Item], size: int = CHUNK) -> list[list[Item]]:
    """Items in lists of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def part_path(work: Path, number: int) -> Path:
    """Where the rows of a finished chunk are."""
    return work / "parts" / f"{number:06d}.json"


def signatures_path(work: Path, number: int) -> Path:
    """Where the signatures of its samples are, if it has any."""
    return part_path(work, number).with_suffix(".npy")


def prepare_chunk(
    items: list[Item], number: int, settings: Settings, work: Path, count: Callable[[int], object] = lambda more: None
) -> None:
    """Write the files of a chunk, then ``{"rows": [...], "rejected": [[file, reason], ...]}``; `count` each photo."""
    silhouettes, normals = tools(settings)
    taken, crops, rejected = [], [], []
    for item in items:
        try:
            crops.append(prepare_photo(item, settings, silhouettes, work))
            taken.append(item)
        except InputError as error:
            rejected.append([printable(item.file), printable(str(error))])
        count(1)
    if taken:
        images, masks = (np.stack(arrays) for arrays in zip(*[crop[0] for crop in crops], strict=True))
        guessed = normals.estimate(images, masks)
        for item, (_, (rgb, mask), _), normal in zip(taken, crops, guessed, strict=True):
            write_sample(work, item, rgb, mask, reduced(normal, mask))
        np.save(signatures_path(work, number), np.stack([crop[2] for crop in crops]))
    rows = [sample_row(item) for item in taken]
    write_json(part_path(work, number), {"rows": rows, "rejected": rejected})


def printable(text: str) -> str:
    """Names of files need not be text in UTF-8: other bytes of them as they are written in code."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


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


def prepare_photo(
    item: Item, settings: Settings, silhouettes: SilhouetteModel, work: Path
) -> tuple[Crop, Crop, UInt8[np.ndarray, " values"]]:
    """The square crop of a photo, with its mask, at the size for normals and at the size to keep; its signature.

    Raises
    ------
    InputError
        Why this photo cannot be used.
    """
    if item.trouble:
        raise InputError(item.trouble)
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
    return fine, coarse, signature(photo)


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


def read_parts(work: Path, count: int) -> tuple[list[dict[str, Any]], list[list[str]], UInt8[np.ndarray, "rows size"]]:
    """Rows and rejected files of all chunks, in order, and the signatures of the rows."""
    parts = [json.loads(part_path(work, number).read_text()) for number in range(count)]
    rows, rejected = ([entry for part in parts for entry in part[key]] for key in ("rows", "rejected"))
    known = [np.load(signatures_path(work, number)) for number, part in enumerate(parts) if part["rows"]]
    return rows, rejected, np.concatenate([np.zeros((0, 3 * SIDE**2), np.uint8), *known])


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
