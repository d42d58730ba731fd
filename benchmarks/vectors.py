"""What the neighbour search is measured on: embeddings of crops of real images, clustered and uniform vectors."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lib.data.neighbors import image_features
from lib.errors import InputError
from lib.paths import FURNITURE

CROP = 64  # pixels of a side: small, so that 136,000 are embedded in minutes
CHUNK = 4096


def source_images(folders: list[Path]) -> list[Path]:
    """All pictures below some folders, the shipped furniture renders first; masks are none."""
    paths = sorted((FURNITURE / "images").rglob("*.png"))
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--images {folder} is no folder; name one with .jpg or .png photographs")
        found = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in (".jpg", ".png")]
        paths += [p for p in found if not {"mask", "masks", "maps"} & set(p.parts)]
    return paths


def real_vectors(paths: list[Path], count: int, size: int, cache: Path) -> Float[Tensor, "images size"]:
    """Embeddings of `count` random crops and flips, each picture cropped as often as the others; kept in `cache`."""
    if not cache.is_file():
        parts = []
        for start in tqdm(range(0, count, CHUNK), unit="chunk", desc="embedding crops"):
            crops = [_crop(paths[i % len(paths)], i) for i in range(start, min(start + CHUNK, count))]
            parts.append(image_features(np.stack(crops), image_size=CROP))
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, project(torch.cat(parts), size).numpy())
    return torch.from_numpy(np.load(cache))


def project(features: Float[Tensor, "images wide"], size: int) -> Float[Tensor, "images size"]:
    """The `size` directions that carry most of the features' length, L2-normalised again."""
    _, directions = torch.linalg.eigh(features.T @ features)
    return F.normalize(features @ directions[:, -size:], dim=1)


def clustered_vectors(count: int, size: int, seed: int = 0, spread: float = 0.5) -> Float[Tensor, "images size"]:
    """Unit vectors about sqrt(N) centres, noise of length `spread` about each: what an index likes best."""
    generator = torch.Generator().manual_seed(seed)
    centers = F.normalize(torch.randn(round(count**0.5), size, generator=generator), dim=1)
    result = torch.empty(count, size)
    for part in result.split(100_000):
        chosen = torch.randint(len(centers), (len(part),), generator=generator)
        noise = torch.randn(part.shape, generator=generator) * (spread / size**0.5)
        part.copy_(F.normalize(centers[chosen] + noise, dim=1))
    return result


def uniform_vectors(count: int, size: int, seed: int = 0) -> Float[Tensor, "images size"]:
    """Uniform on the sphere: all about equally far from each other, so that an index has nothing to go by."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, size, generator=generator), dim=1)


def _crop(path: Path, number: int) -> np.ndarray:
    """The `number`-th crop: a square of 0.4 to 1 of the shorter side, at times mirrored; on white."""
    draw = np.random.default_rng(number)
    with Image.open(path) as file:
        image = file.convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, (255,) * 4), image).convert("RGB")
    side = min(image.size) * draw.uniform(0.4, 1.0)
    left, top = (draw.uniform(0, length - side) for length in image.size)
    crop = image.resize((CROP, CROP), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = np.asarray(crop)
    return pixels[:, ::-1].copy() if draw.random() < 0.5 else pixels
