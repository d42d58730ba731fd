"""Images, masks and normal maps of samples, side by side with what a system renders."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.data.loading import Batch
from lib.figures.shapes import draw_mesh, viewpoint_at
from lib.figures.style import image_grid
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
