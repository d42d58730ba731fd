"""A prepared folder in memory, and batches of it.

Images are kept as uint8 (64 x 64: 16 kB a sample; 2,007 at 224 x 224: 0.4 GB) and become floats in the batches that
are asked for, so that a training step never waits for a disk. For training on an accelerator they are kept there, or
travel as uint8 where they do not fit.
"""

from copy import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, load_mesh, read_prepared
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint
from lib.rendering.sampling import ray_weights

FREE_SHARE = 0.25  # of an accelerator's free memory may be filled with images; the network and its step take the rest
CAMERA = ["azimuth", "elevation", "tilt", "distance", "focal_length", "center_x", "center_y"]


@dataclass(frozen=True)
class Batch:
    """B samples as tensors."""

    index: Int[Tensor, " batch"]  # rows of the dataset
    rgb: Float[Tensor, "batch height width 3"]  # in [0, 1], on white
    mask: Float[Tensor, "batch height width"]  # in [0, 1]
    normal: Float[Tensor, "batch height width 3"] | None  # unit, camera frame (OpenCV), zero outside the mask
    viewpoint: Viewpoint | None  # where the dataset knows it
    ray_weights: Float[Tensor, "batch height width"]  # probability of each pixel to be rendered in training
    neighbor: "Batch | None" = None  # one semantic neighbour of each sample

    def to(self, device) -> "Batch":
        """Move every tensor to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in moved.items() if value is not None})

    def with_hard_masks(self) -> "Batch":
        """The batch with masks of 0 and 1, and its images composited on white with these.

        Images with soft masks are mixed with white at the silhouette; there the object's own colour is put back.
        """
        hard = (self.mask > 0.5).to(self.mask)
        opacity, inside = self.mask.clamp(min=0.5)[..., None], hard[..., None]
        rgb = (1 - (1 - self.rgb) / opacity * inside).clamp(0, 1)
        neighbor = None if self.neighbor is None else self.neighbor.with_hard_masks()
        return replace(self, rgb=rgb, mask=hard, neighbor=neighbor)


class PreparedDataset:
    """A part of a prepared folder, decoded once.

    Parameters
    ----------
    split : str, optional
        "train", "val" or "test"; all without it.
    categories : list of str, optional
        All without it.
    views : int, optional
        How many samples of each model, the first ones; 1 is SDF-SRN's single-view supervision. All without it.

    Raises
    ------
    InputError
        The folder or an image is not what the format asks for, or nothing is selected.
    """

    in_memory = True  # `lib.data.shards` has a subclass that reads images as batches ask
    home = torch.device("cpu")  # where the images are kept; see `near`

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        categories: list[str] | None = None,
        views: int | None = None,
    ):
        self.prepared = read_prepared(folder)
        self.metadata = select_rows(self.prepared, split, categories, views).reset_index(drop=True)
        self.viewpoint = viewpoints_of(self.metadata)
        with_normals = bool(self.metadata["normal"].notna().all())
        samples = [read_row_images(self.prepared, row, with_normals) for row in self.metadata.itertuples()]
        self.rgb, self.mask, self.normal, self.ray_weights = stacked(samples, self.prepared.folder)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.prepared.info["name"]

    def __len__(self) -> int:
        return len(self.metadata)

    def batch(
        self,
        index: Int[Tensor, " batch"],
        neighbor: Int[Tensor, " batch"] | None = None,
        device: torch.device | str = "cpu",
    ) -> Batch:
        """Samples by row, each with the neighbour at row `neighbor` if given; they become floats on the device."""
        rows = index.to(self.home)
        rgb, mask, normal, weights = self.stored(rows)
        return Batch(
            rows.to(device),
            fractions(rgb.to(device)),
            fractions(mask.to(device)),
            None if normal is None else normal.to(device).float(),
            None if self.viewpoint is None else self.viewpoint[rows].to(device),
            weights.to(device),
            None if neighbor is None else self.batch(neighbor, device=device),
        )

    def stored(self, rows: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Images, masks, normals and ray weights by row, as they are kept at `home`."""
        normal = None if self.normal is None else self.normal[rows]
        return self.rgb[rows], self.mask[rows], normal, self.ray_weights[rows]

    def masks(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch height width"]:
        """Masks by row, in [0, 1]."""
        return fractions(self.mask[index.to(self.home)])

    def near(self, device: torch.device) -> "PreparedDataset":
        """The dataset with its images on an accelerator; itself on the CPU, and where `FREE_SHARE` is too little."""
        kept = {name: getattr(self, name) for name in ("rgb", "mask", "normal", "ray_weights", "viewpoint")}
        kept = {name: values for name, values in kept.items() if values is not None}
        size = sum(values.nbytes for values in kept.values() if isinstance(values, Tensor))
        if size > FREE_SHARE * free_memory(device):
            return self
        moved = copy(self)
        moved.home = device
        vars(moved).update({name: values.to(device) for name, values in kept.items()})
        return moved

    def mesh(self, row: int) -> trimesh.Trimesh:
        """The true shape of a sample, in the canonical frame and unit cube."""
        return load_mesh(self.prepared, self.metadata.iloc[row])


def free_memory(device: torch.device) -> int:
    """Bytes that an accelerator has left; 0 where torch cannot say, and of the CPU, where images are kept anyway."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def fractions(values: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Bytes as numbers in [0, 1]. Divided by a tensor: a GPU rounds that as a CPU does."""
    return values.float() / torch.full((), 255.0, device=values.device)


def read_row_images(prepared: Prepared, row, normals: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What `read_sample_images` gives for a row of the metadata (of ``itertuples``), with its normals or without."""
    mask = prepared.path(row.mask) if isinstance(row.mask, str) else None
    return read_sample_images(prepared.path(row.image), mask, prepared.path(row.normal) if normals else None)


def stacked(samples: list[tuple], folder: Path) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Samples of `read_sample_images` as they are kept: colours and masks uint8, normals float16; and ray weights."""
    sizes = {rgb.shape for rgb, _, _ in samples}
    if len(sizes) > 1:
        raise InputError(f"{folder}: images differ in size ({sorted(sizes)[:2]}); prepare them at one size")
    rgb, mask, normal = zip(*samples, strict=True)
    weights = np.stack([ray_weights(m > 127) for m in mask])
    normals = None if normal[0] is None else torch.from_numpy(np.stack(normal).astype(np.float16))
    return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(mask)), normals, torch.from_numpy(weights)


def select_rows(prepared: Prepared, split: str | None, categories: list[str] | None, views: int | None) -> pd.DataFrame:
    """Rows of the metadata, as `PreparedDataset` describes; the index says where they were."""
    table = prepared.metadata
    if split is not None:
        table = table[table["split"] == split]
    if categories:
        unknown = sorted(set(categories) - set(prepared.metadata["category"]))
        if unknown:
            raise InputError(f"categories: {prepared.folder} has no {unknown[0]!r}")
        table = table[table["category"].isin(categories)]
    if views is not None:
        table = table.groupby("model", sort=False).head(views)
    if len(table) == 0:
        raise InputError(f"{prepared.folder} has no samples of split {split!r} and categories {categories}")
    return table


def viewpoints_of(table: pd.DataFrame) -> Viewpoint | None:
    """The cameras of rows of the metadata; None where some are not known."""
    if table[CAMERA].isna().any(axis=None):
        return None
    values = torch.tensor(table[CAMERA].to_numpy(np.float32))
    azimuth, elevation, roll = values[:, :3].deg2rad().unbind(-1)
    return Viewpoint.from_angles(
        azimuth, elevation, roll, distance=values[:, 3], focal=values[:, 4], center=values[:, 5:]
    )
