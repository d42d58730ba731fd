"""The smallest system, batch and prepared folder that still have every part."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

import lib.systems
from lib.data.images import write_normals
from lib.data.loading import Batch
from lib.data.prepared import write_metadata
from lib.geometry.cameras import Viewpoint
from lib.systems.base import System
from lib.systems.shapeclipper import PAPER
from lib.systems.shapeclipper_small import SMALL

SIZE = 16  # pixels
SIZES = {
    "backbone": "test_resnet",
    "viewpoint_backbone": "test_resnet",
    "backbone_weights": "random",
    "image_size": 32,
    "latent_size": 16,
    "rays": 24,
    "neighbor_rays": 16,
    "samples": 8,
    "pretrain_points": 50,
}
TINY = replace(PAPER, **SIZES)
# every term and every extra, and nothing that mixes the images of a batch
EVERYTHING = replace(SMALL, **SIZES, viewpoint_channels=0, beta_final=0.1, guess_weight=0.1)


def make_system(config=TINY, seed: int = 0, shake: float = 0.0) -> System:
    """A system with random weights; `shake` moves every one, also those that start at zero.

    Where it takes guesses it has some for images 0 to 15, and is far enough in its training to turn them.
    """
    torch.manual_seed(seed)
    system = lib.systems.make_system(config)
    if getattr(config, "guess_weight", 0) > 0 and config.viewpoint == "predicted":
        angles = torch.arange(16.0)
        system.guesses = torch.stack([angles, 0.02 * angles], dim=-1)
        system.begin_step(0.2)
    with torch.no_grad():
        for parameter in system.parameters():
            order = torch.channels_last if parameter.ndim == 4 else torch.contiguous_format  # of drawing, for all
            parameter.add_(shake * torch.randn_like(parameter, memory_format=order))
    return system


def disc(radius: float = 0.3) -> torch.Tensor:
    axis = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    return (axis[:, None] ** 2 + axis[None] ** 2 < radius**2).float()


def make_batch(size: int = 3, seed: int = 0, mask: torch.Tensor | None = None, neighbor: bool = True) -> Batch:
    """Random colours and normals inside a disc (or the given mask), seen from anywhere."""
    generator = torch.Generator().manual_seed(seed)
    mask = (disc() if mask is None else mask).expand(size, SIZE, SIZE)
    rgb = 1 - mask[..., None] * torch.rand(size, SIZE, SIZE, 3, generator=generator)
    normal = torch.randn(size, SIZE, SIZE, 3, generator=generator) - torch.tensor([0.0, 0.0, 2.0])
    azimuth, elevation = torch.rand(2, size, generator=generator) * torch.tensor([[6.0], [0.5]])
    return Batch(
        torch.arange(size),
        rgb,
        mask,
        nn.functional.normalize(normal, dim=-1) * mask[..., None],
        Viewpoint.from_angles(azimuth, elevation),
        torch.full((size, SIZE, SIZE), 1 / SIZE**2),
        make_batch(size, seed + 100, mask[0], neighbor=False) if neighbor else None,
    )


def write_prepared(folder: Path, train: int = 8, val: int = 4, views: int = 1) -> Path:
    """A prepared folder of discs of several sizes and colours, a model each, with normals and viewpoints."""
    (folder / "images").mkdir(parents=True)
    numbers = [(number, "train" if number < train else "val") for number in range(train + val)]
    rows = [_sample(folder, number, view, split) for number, split in numbers for view in range(views)]
    info = {"name": "discs", "source": "tests", "licence": "CC0", "version": "1", "image_size": SIZE}
    write_metadata(folder, rows, info)
    _write_neighbors(folder, rows)
    return folder


def _sample(folder: Path, number: int, view: int, split: str) -> dict:
    generator = np.random.default_rng([number, view])
    mask = disc(0.2 + 0.02 * number).numpy()
    colour = generator.integers(0, 256, 3)
    rgba = np.concatenate([np.broadcast_to(colour, (SIZE, SIZE, 3)), 255 * mask[..., None]], axis=-1).astype(np.uint8)
    name = f"{number:02d}-{view}"
    Image.fromarray(rgba).save(folder / "images" / f"{name}.png")
    normal = generator.normal(size=(SIZE, SIZE, 3)) - [0, 0, 2]
    normal *= mask[..., None] / np.linalg.norm(normal, axis=-1, keepdims=True)
    write_normals(folder / "images" / f"{name}-normal.png", normal.astype(np.float32))
    return {
        "id": name,
        "category": "disc",
        "model": f"model-{number:02d}",
        "split": split,
        "image": f"images/{name}.png",
        "normal": f"images/{name}-normal.png",
        "azimuth": float(generator.uniform(0, 360)),
        "elevation": 20.0,
        "tilt": 0.0,
        "distance": 5.0,
        "focal_length": 4.0,
        "center_x": 0.5,
        "center_y": 0.5,
    }


def _write_neighbors(folder: Path, rows: list[dict], count: int = 2):
    """Each sample's next ones of its split, never of its own model."""
    table = []
    for row in rows:
        others = [o["id"] for o in rows if o["split"] == row["split"] and o["model"] != row["model"]]
        start = rows.index(row) % len(others)
        chosen = (others[start:] + others[:start])[:count]
        table += [{"id": row["id"], "neighbor": n, "rank": r, "score": 1 - 0.1 * r} for r, n in enumerate(chosen)]
    (folder / "neighbors").mkdir()
    pd.DataFrame(table).to_parquet(folder / "neighbors" / "efficientnet_lite0.parquet", index=False)
