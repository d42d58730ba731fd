"""A prepared folder in memory, and batches of it.

Images are kept as uint8 (64 x 64: 16 kB a sample; 2,007 at 224 x 224: 0.4 GB) and cut into float batches when asked
for, so that a training step never waits for a disk.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, load_mesh, read_prepared
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint
from lib.rendering.sampling import ray_weights

CAMERA = ["azimuth", "elevation", "tilt", "distance", "focal_length", "center_x", "center_y"]


@dataclass(frozen=True)
class Batch:
    """B samples as tensors.

    Attributes
    ----------
    index : Tensor, shape (B,)
        Rows of the dataset.
    rgb : Tensor, shape (B, H, W, 3)
        In [0, 1], on white.
    mask : Tensor, shape (B, H, W)
        In [0, 1].
    normal : Tensor, shape (B, H, W, 3), or None
        Unit, camera frame (OpenCV), zero outside the mask.
    viewpoint : Viewpoint or None
        Where the dataset knows it.
    ray_weights : Tensor, shape (B, H, W)
        Probability of each pixel to be rendered in training.
    neighbor : Batch or None
        One semantic neighbour of each sample.
    """

    index: Int[Tensor, " batch"]
    rgb: Float[Tensor, "batch height width 3"]
    mask: Float[Tensor, "batch height width"]
    normal: Float[Tensor, "batch height width 3"] | None
    viewpoint: Viewpoint | None
    ray_weights: Float[Tensor, "batch height width"]
    neighbor: "Batch | None" = None

    def to(self, device) -> "Batch":
        """Move every tensor to a device."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value.to(device) for name, value in moved.items() if value is not None})


class PreparedDataset:
    """A part of a prepared folder, decoded once.

    Parameters
    ----------
    folder : path
        A prepared folder.
    split : str, optional
        "train", "val" or "test"; all without it.
    categories : list of str, optional
        All without it.
    views : int, optional
        So many samples of each model, the first ones; 1 is SDF-SRN's single-view supervision. All without it.

    Raises
    ------
    InputError
        The folder or an image is not what the format asks for, or nothing is selected.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        categories: list[str] | None = None,
        views: int | None = None,
    ):
        self.prepared = read_prepared(folder)
        self.metadata = select_rows(self.prepared, split, categories, views).reset_index(drop=True)
        self.rgb, self.mask, self.normal = self._decode()
        self.ray_weights = torch.from_numpy(np.stack([ray_weights(m.numpy() > 127) for m in self.mask]))
        self.viewpoint = viewpoints_of(self.metadata)

    @property
    def name(self) -> str:
        """The dataset's name."""
        return self.prepared.info["name"]

    def __len__(self) -> int:
        return len(self.metadata)

    def batch(self, index: Int[Tensor, " batch"], neighbor: Int[Tensor, " batch"] | None = None) -> Batch:
        """Samples by row, each with the neighbour at row `neighbor` if given."""
        return Batch(
            index,
            self.rgb[index].float() / 255,
            self.mask[index].float() / 255,
            None if self.normal is None else self.normal[index].float(),
            None if self.viewpoint is None else self.viewpoint[index],
            self.ray_weights[index],
            None if neighbor is None else self.batch(neighbor),
        )

    def mesh(self, row: int) -> trimesh.Trimesh:
        """The true shape of a sample, in the canonical frame and unit cube."""
        return load_mesh(self.prepared, self.metadata.iloc[row])

    def _decode(self) -> tuple[Tensor, Tensor, Tensor | None]:
        folder, table = self.prepared.folder, self.metadata
        with_normals = bool(table["normal"].notna().all())
        decoded = [read_row_images(self.prepared, row, with_normals) for row in table.itertuples()]
        sizes = {rgb.shape for rgb, _, _ in decoded}
        if len(sizes) > 1:
            raise InputError(f"{folder}: images differ in size ({sorted(sizes)[:2]}); prepare them at one size")
        rgb, mask, normal = zip(*decoded, strict=True)
        normals = torch.from_numpy(np.stack(normal)).half() if with_normals else None
        return torch.from_numpy(np.stack(rgb)), torch.from_numpy(np.stack(mask)), normals


def read_row_images(prepared: Prepared, row, normals: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """What `read_sample_images` gives for a row of the metadata (of ``itertuples``), with its normals or without."""
    mask = prepared.path(row.mask) if isinstance(row.mask, str) else None
    return read_sample_images(prepared.path(row.image), mask, prepared.path(row.normal) if normals else None)


def select_rows(prepared: Prepared, split: str | None, categories: list[str] | None, views: int | None) -> pd.DataFrame:
    """Rows of the metadata, as `PreparedDataset` describes; the index says where they were.

    Raises
    ------
    InputError
        An unknown category, or nothing is selected.
    """
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
    if not set(CAMERA[:3]) <= set(table) or table[CAMERA].isna().any(axis=None):
        return None
    values = torch.tensor(table[CAMERA].to_numpy(np.float32))
    azimuth, elevation, roll = values[:, :3].deg2rad().unbind(-1)
    return Viewpoint.from_angles(
        azimuth, elevation, roll, distance=values[:, 3], focal=values[:, 4], center=values[:, 5:]
    )
