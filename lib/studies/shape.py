"""What one view, and one neighbour more, says about a shape (notebook 04)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lib.data.loading import Batch
from lib.fields.sdf import SDFField
from lib.geometry.cameras import Viewpoint, camera_rays, index_to_pixel
from lib.geometry.distance_grid import DistanceGrid
from lib.geometry.meshes import marching_cubes
from lib.losses.field import eikonal_loss
from lib.losses.normal import normal_loss
from lib.losses.reprojection import mask_loss, rgb_loss, soft_iou
from lib.rendering.sampling import sample_pixels
from lib.rendering.volume import Field, RenderedMaps, render_rays, sample_depths
from lib.systems.shapeclipper import ShapeClipper

REACH = 0.7  # half of the depth that is searched for the surface, world units


def view_loss(
    field: Field,
    target: Batch,
    index: Int[Tensor, "1 rays"],
    beta: float,
    samples: int,
    generator=None,
    rgb: bool = True,
) -> tuple[Float[Tensor, ""], RenderedMaps]:
    """Eq. 5 for some rays of one image: L_I + 0.5 L_M + 0.01 L_N, all pixels' normals kept; and what was rendered.

    Parameters
    ----------
    target : Batch
        One image with mask, normals and viewpoint.
    index : Tensor
        Row-major pixels to render.
    rgb : bool
        False leaves L_I out, for a field without a texture.
    """
    rays = camera_rays(target.viewpoint, index_to_pixel(index, target.mask.shape[-1]))
    middle = target.viewpoint.distance
    depths = sample_depths(middle - REACH, middle + REACH, index.shape[1], samples, generator)
    maps = render_rays(field, rays, depths, beta)
    seen = target.mask.flatten(1)[:, index[0]]
    visible = (seen > 0.5) & (maps.mask > 0.5)
    rotation = target.viewpoint.rotation()
    loss = 0.5 * mask_loss(maps.mask, seen)
    loss = loss + 0.01 * normal_loss(maps.normal, target.normal.flatten(1, 2)[:, index[0]], rotation, visible, keep=1.0)
    if rgb:
        loss = loss + rgb_loss(maps.rgb, target.rgb.flatten(1, 2)[:, index[0]])
    return loss, maps


def surface_gradient(
    system: ShapeClipper,
    shape_code: Float[Tensor, "1 code"],
    target: Batch,
    texture_code: Float[Tensor, "1 code"],
    resolution: int = 36,
    samples: int = 48,
) -> DistanceGrid:
    """How the loss of one view changes if the distance changes at a place: the derivative of Eq. 5 by the sdf.

    The distance is offset by a grid of zeros, and the gradient with respect to that grid is taken: the network's
    weights, which tie all places together, play no part, nor does its symmetry (see `added`).

    Parameters
    ----------
    target, texture_code : Batch, Tensor
        The image to explain with the shape, and the texture to do it with: the query with its own, a neighbour
        with the neighbour's (Eq. 3).

    Returns
    -------
    DistanceGrid
        The gradient; positive where a smaller distance, that is more material, lowers the loss.
    """
    offset = DistanceGrid(torch.zeros((resolution,) * 3, requires_grad=True), 0.6)
    every = torch.arange(target.mask[0].numel())[None]
    field = _offset_field(system.field(shape_code, texture_code), offset)
    view_loss(field, target, every, float(system.beta()), samples)[0].backward()
    return DistanceGrid(offset.values.grad, offset.bound)


def added(gradients: Sequence[DistanceGrid], mirrored: bool = False) -> DistanceGrid:
    """The gradient of a sum of losses; `mirrored`: for a shape that must be symmetric in x, where g(x) + g(-x) acts."""
    total = torch.stack([gradient.values for gradient in gradients]).sum(0)
    return DistanceGrid(total + total.flip(0) if mirrored else total, gradients[0].bound)


def _offset_field(field: Field, offset: DistanceGrid) -> Field:
    def evaluate(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            sdf, gradient, rgb = field(points)
        more, slope = offset(points)
        return sdf + more, gradient + slope, rgb

    return evaluate


@dataclass(frozen=True)
class Sides:
    """Points on a surface, sorted by the side that they turn to a camera.

    Attributes
    ----------
    points : Tensor, shape (P, 3)
        Uniform by area, world frame.
    towards, away, aside : Tensor, shape (P,), bool
        The normal's angle to the direction of the camera is under 60, over 120 degrees, or between.
    """

    points: Float[Tensor, "points 3"]
    towards: Bool[Tensor, " points"]
    away: Bool[Tensor, " points"]
    aside: Bool[Tensor, " points"]

    def shares(self, gradient: DistanceGrid, threshold: float) -> dict[str, float]:
        """Share of the area of each side, and of all, where the gradient's size is over the threshold."""
        large = gradient(self.points)[0].abs() > threshold
        sides = {"towards": self.towards, "aside": self.aside, "away": self.away}
        return {name: float(large[side].float().mean()) for name, side in sides.items()} | {
            "all": float(large.float().mean())
        }


def surface_sides(mesh: trimesh.Trimesh, viewpoint: Viewpoint, count: int = 20_000, seed: int = 0) -> Sides:
    """Points of a mesh by the side that they turn to a camera, whether or not something hides them."""
    points, face = trimesh.sample.sample_surface(mesh, count, seed=seed)
    to_camera = -viewpoint.rotation()[0, 2].numpy()
    cosine = torch.from_numpy(np.asarray(mesh.face_normals)[face] @ to_camera)
    return Sides(torch.from_numpy(points).float(), cosine > 0.5, cosine < -0.5, cosine.abs() <= 0.5)


@dataclass(frozen=True)
class FitSettings:
    """How `fit_field` learns: the schedule of beta is log-linear, lengths are in world units."""

    steps: int = 120
    rays: int = 128
    samples: int = 24
    learning_rate: float = 2e-3
    beta_start: float = 0.08
    beta_end: float = 0.02
    radius: float = 0.4


def fit_field(views: Sequence[Batch], settings: FitSettings = FitSettings(), seed: int = 0) -> SDFField:
    """A new shape field that explains the masks and normals of some views, starting from a sphere; nothing else.

    There is no encoder and there are no other images: what the views do not say, nobody says.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network, code = SDFField(code_size=1, radius=settings.radius), torch.zeros(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.learning_rate)
    for step in range(settings.steps):
        done = step / max(settings.steps - 1, 1)
        beta = settings.beta_start * (settings.beta_end / settings.beta_start) ** done
        loss = 0.03 * eikonal_loss(
            network.with_gradient(torch.rand(1, 500, 3, generator=generator) * 1.4 - 0.7, code)[2]
        )
        for view in views:
            index = sample_pixels(view.ray_weights, settings.rays, generator)
            loss = (
                loss
                + view_loss(plain_field(network, code), view, index, beta, settings.samples, generator, rgb=False)[0]
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def plain_field(network: SDFField, code: Tensor) -> Field:
    """A shape field as a field for the renderer, all white."""

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sdf, _, gradient = network.with_gradient(points, code)
        return sdf, gradient, torch.ones_like(points)

    return evaluate


@torch.no_grad()
def field_mesh(network: SDFField, resolution: int = 56) -> trimesh.Trimesh:
    """Marching cubes of what `fit_field` gives."""
    code = torch.zeros(1, 1)
    return marching_cubes(lambda p: network(torch.from_numpy(p)[None], code)[0][0].numpy(), resolution=resolution)


@torch.no_grad()
def view_iou(network: SDFField, target: Batch, beta: float = 0.02, samples: int = 48) -> float:
    """Intersection over union of the rendered and the true mask of a view, all pixels."""
    every = torch.arange(target.mask[0].numel())[None]
    maps = view_loss(plain_field(network, torch.zeros(1, 1)), target, every, beta, samples, rgb=False)[1]
    return float(soft_iou(maps.mask, target.mask.flatten(1)))


@torch.no_grad()
def render_view(
    system: ShapeClipper, shape_code: Tensor, texture_code: Tensor, target: Batch, samples: int = 48
) -> RenderedMaps:
    """R(f_S, f_T, v) of Eq. 3: a shape with any texture, seen from the viewpoint of a target; shapes (1, H, W, ...)."""
    size = target.mask.shape[-1]
    field, every = system.field(shape_code, texture_code), torch.arange(size**2)[None]
    maps = view_loss(field, target, every, float(system.beta()), samples)[1]
    return RenderedMaps(*(part.unflatten(1, (size, size)) for part in (maps.rgb, maps.mask, maps.normal, maps.depth)))
