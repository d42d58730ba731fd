"""Images, masks and normal maps of samples, side by side with what a system renders."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.data.loading import Batch, PreparedDataset
from lib.figures.shapes import draw_mesh, viewpoint_at
from lib.figures.style import BLUE, image_grid, plain, styled
from lib.rendering.volume import RenderedMaps


def normal_colors(normal: Float[Tensor, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Colours of unit normals in the camera frame: red to the right, green up, blue towards the camera; white for 0."""
    axes = torch.tensor([1.0, -1.0, -1.0], device=normal.device)  # OpenCV's y points down and z away
    empty = (normal == 0).all(-1, keepdim=True)
    return torch.where(empty, 1.0, (normal.float() * axes + 1) / 2).clamp(0, 1).cpu().numpy()


def to_camera(
    normal: Float[Tensor, "batch height width 3"], rotation: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch height width 3"]:
    """Turn world-frame normals into the camera frame: R n."""
    return (normal.flatten(1, 2) @ rotation.mT).reshape(normal.shape)


def on_white_normals(maps: RenderedMaps, rotation: Float[Tensor, "batch 3 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Colours of rendered normals, faded to white where little was hit."""
    colors = normal_colors(to_camera(maps.normal, rotation))
    mask = maps.mask[..., None].clamp(0, 1).cpu().numpy()
    return colors * mask + (1 - mask)


def reconstruction_sheet(batch: Batch, maps: RenderedMaps, rotation: Float[Tensor, "batch 3 3"], meshes: list):
    """What went in and what came out: image, rendering, true and rendered normals, the mesh from two other sides.

    Parameters
    ----------
    maps : RenderedMaps
        Of the batch, rendered from the viewpoints whose world-to-camera rotations are `rotation`.
    meshes : list of trimesh.Trimesh
        One an image, world frame.

    Returns
    -------
    matplotlib.figure.Figure
    """
    titles = ("image", "rendering", "true normals", "rendered normals", "mesh, from 40°", "mesh, from 220°")
    count = len(batch.rgb)
    true = [None] * count if batch.normal is None else normal_colors(batch.normal)
    drawn = [batch.rgb.cpu().numpy(), maps.rgb.cpu().numpy(), true, on_white_normals(maps, rotation)]
    drawn += [[draw_mesh(mesh, viewpoint_at(azimuth)) for mesh in meshes] for azimuth in (40, 220)]
    return image_grid([[images[row] for images in drawn] for row in range(count)], titles)


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
        words.text(0, 0.25, maker, fontsize=7, color="0.35", transform=words.transAxes, va="center", wrap=True)
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
