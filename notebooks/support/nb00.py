"""Companion of notebook 00: a prediction seen from any side, a photo to try, and pages of the data."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import trimesh
from PIL import Image
from torch import nn

from lib.data.loading import PreparedDataset
from lib.figures.maps import normal_colors
from lib.figures.style import BLUE, plain, styled
from lib.figures.viewer import turned_views
from lib.systems.base import Reconstruction

# --- Look around it ---------------------------------------------------------------------------------------------------


def prediction_viewer(system: nn.Module, dataset: PreparedDataset) -> Callable[..., Any]:
    """A function of row, azimuth and elevation (degrees) that draws what a system predicts for a sample."""
    last: dict[int, tuple[Reconstruction, trimesh.Trimesh]] = {}

    def draw(row: int, azimuth: float, elevation: float):
        if row not in last:
            last.clear()
            shape = system.reconstruct_batch(dataset.batch(torch.tensor([row])))
            last[row] = shape, shape.mesh(resolution=64)
        return turned_views(*last[row], azimuth, elevation, size=64)

    return draw


# --- Your own photo ---------------------------------------------------------------------------------------------------


def example_upload(dataset: PreparedDataset, row: int, maker: str = "") -> dict:
    """A picture as the file of a reader, for `lib.figures.upload.upload_control`: on white, without its mask.

    Parameters
    ----------
    maker : str, optional
        Who made the object.
    """
    sample, content = dataset.metadata.iloc[row], io.BytesIO()
    Image.fromarray(np.asarray(dataset.rgb[row])).save(content, "PNG")
    about = f"An example from the data's {sample['split']} split, {dataset.rgb.shape[2]} pixels wide"
    about += f": {maker}." if maker else "."
    return {"name": f"{sample['id']}.png", "content": content.getvalue(), "about": about}


# --- The data ---------------------------------------------------------------------------------------------------------


def read_makers(folder: Path) -> dict[str, str]:
    """Model -> its name, who made it and under which licence; empty where a prepared folder does not say."""
    path = folder / "ATTRIBUTION.csv"
    if not path.is_file():
        return {}
    return {c.model: f"{c.name} by {c.creator}, {c.licence}" for c in pd.read_csv(path).itertuples(index=False)}


def sample_page(dataset: PreparedDataset, category: str, page: int, page_size: int = 4, makers: dict | None = None):
    """A page of samples of one category (`sample_sheet`); pages beyond the last show the last.

    Parameters
    ----------
    makers : dict, optional
        Model -> who made it.
    """
    rows = page_rows(dataset.metadata["category"].tolist(), category, page, page_size)
    models = dataset.metadata["model"].iloc[rows]
    return sample_sheet(dataset, rows, [makers.get(model, "") for model in models] if makers else None)


def page_rows(categories: list[str], category: str, page: int, page_size: int) -> list[int]:
    """Rows on a page (from 1) of one category, spread over its models: neighbouring rows show the same object.

    Examples
    --------
    >>> page_rows(["chair", "lamp", "chair", "chair", "chair"], "chair", 1, 2)
    [0, 3]
    """
    rows = [row for row, name in enumerate(categories) if name == category]
    pages = max(1, -(-len(rows) // page_size))
    return rows[min(page, pages) - 1 :: pages][:page_size]


@styled()
def sample_sheet(dataset: PreparedDataset, rows: list[int], makers: list[str] | None = None):
    """Samples with all that the dataset knows of them: a row each; returns the matplotlib figure.

    Parameters
    ----------
    rows : list of int
        Of the dataset.
    makers : list of str, optional
        Who made the object of each row.
    """
    import matplotlib.pyplot as plt

    layout = {"squeeze": False, "layout": "constrained", "width_ratios": [1] * 4 + [1.5]}
    figure, axes = plt.subplots(len(rows), 5, figsize=(8.6, 1.55 * len(rows) + 0.3), **layout)
    for axis, title in zip(axes[0], ("image", "mask", "normals", "viewpoint", "caption"), strict=True):
        axis.set_title(title, fontsize=10)
    for line, row, maker in zip(axes, rows, makers or [""] * len(rows), strict=True):
        for axis in line:
            plain(axis)
        image, mask, normal, dial, words = line
        sample = dataset.metadata.iloc[row]
        image.imshow(dataset.rgb[row])
        mask.imshow(dataset.mask[row], cmap="gray", vmin=0, vmax=255)
        if dataset.normal is not None:
            normal.imshow(normal_colors(dataset.normal[row]))
        if dataset.viewpoint is None:
            dial.text(0.5, 0.5, "not known", ha="center", va="center", transform=dial.transAxes)
        else:
            draw_dial(dial, sample.azimuth, sample.elevation)
        caption = f"“{sample.caption}”" if isinstance(sample.caption, str) else "no caption"
        words.text(0, 0.62, caption, fontsize=9, transform=words.transAxes, wrap=True)
        words.text(0, 0.25, maker, fontsize=8, color="0.35", transform=words.transAxes, va="center", wrap=True)
    return figure


def draw_dial(axis, azimuth: float, elevation: float):
    """Where the camera stands, seen from above: the object in the middle, its front towards the top."""
    axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5), aspect="equal")
    angle = np.radians(azimuth)
    x, y = -np.sin(angle), np.cos(angle)
    circle = np.radians(np.linspace(0, 360, 90))
    axis.plot(np.cos(circle), np.sin(circle), color="0.8", lw=1)
    axis.plot([-0.25, 0, 0.25, -0.25], [-0.2, 0.3, -0.2, -0.2], color="0.4", lw=1.2)
    axis.plot([x, 0.4 * x], [y, 0.4 * y], color=BLUE, lw=1)
    axis.plot(x, y, "o", color=BLUE, ms=7)
    axis.text(0, -1.42, f"{azimuth:.0f}°, {elevation:.0f}° up", ha="center", fontsize=8)
