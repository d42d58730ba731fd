"""The signed distance of a mesh on a grid, so that a designer's mesh can be volume rendered like a learned field."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Bool, Float, Int
from pykdtree.kdtree import KDTree
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lib.geometry.meshes import first_hits, grid_points, look_directions, ray_scene

Color = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DistanceGrid:
    """Signed distance and its gradient at the samples of `lib.geometry.meshes.grid_points`.

    Attributes
    ----------
    values : Tensor, shape (4, R, R, R)
        Distance (world units, negative inside), then its unit gradient; indexed [channel, x, y, z].
    bound : float
        Half the side of the grid in world units.
    """

    values: Float[Tensor, "4 x y z"]
    bound: float

    @property
    def spacing(self) -> float:
        """Between samples, world units."""
        return 2 * self.bound / (self.values.shape[-1] - 1)

    def __call__(self, points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, Tensor]:
        """Distance (B, P) and gradient (B, P, 3) by trilinear interpolation; beyond the grid, its border's."""
        inside = points.clamp(-self.bound, self.bound)
        where = inside.flip(-1)[None, None] / self.bound  # grid_sample wants the last axis first
        volume = self.values[None].to(points.dtype)
        sampled = F.grid_sample(volume, where.flatten(2, 3)[:, :, None], align_corners=True, padding_mode="border")
        sampled = sampled[0, :, 0, 0].unflatten(-1, points.shape[:2])
        return sampled[0] + (points - inside).norm(dim=-1), sampled[1:].movedim(0, -1)

    def field(self, color: Color | None = None):
        """The grid as a field for `lib.rendering.volume.render_rays`, coloured by a function of the point."""

        def evaluate(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            distance, gradient = self(points)
            return distance, gradient, torch.full_like(points, 0.5) if color is None else color(points)

        return evaluate


def distance_grid(
    mesh: trimesh.Trimesh, resolution: int = 112, bound: float = 0.56, samples: int = 150_000, seed: int = 0
) -> DistanceGrid:
    """Signed distance of a mesh that need not be closed.

    The distance is to the face of the nearest of many points drawn on the surface; beyond two grid spacings that
    point is found by way of the nearest grid cell, which is exact up to the choice of the face. A grid point is inside
    if it cannot be seen from outside (`hidden`), so a sheet without thickness has no inside: there the distance is 0
    at the sheet and positive on both sides.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Within the grid.
    resolution, bound
        As in `lib.geometry.meshes.grid_points`.
    samples, seed : int
        Points drawn on the surface.
    """
    grid = grid_points(resolution, bound)
    points, face = trimesh.sample.sample_surface(mesh, samples, seed=seed)
    nearest = _nearest(points.astype(np.float32), grid, resolution, bound)
    on_surface = trimesh.triangles.closest_point(mesh.triangles[face[nearest]], grid)
    offset = grid - on_surface
    distance = np.linalg.norm(offset, axis=1)
    sign = np.where(hidden(mesh, grid), -1.0, 1.0)
    gradient = sign[:, None] * offset / np.maximum(distance, 1e-9)[:, None]
    table = np.concatenate([(sign * distance)[:, None], gradient], axis=1).astype(np.float32)
    cube = table.reshape(*[resolution] * 3, 4)
    return DistanceGrid(torch.from_numpy(np.ascontiguousarray(np.moveaxis(cube, -1, 0))), bound)


def hidden(mesh: trimesh.Trimesh, points: Float[np.ndarray, "points 3"]) -> Bool[np.ndarray, " points"]:
    """Which points see no way out along any of `look_directions`: the inside, whichever way the faces turn."""
    inside = np.ones(len(points), dtype=bool)
    scene = ray_scene(mesh)
    for direction in look_directions():
        left = points[inside]
        if len(left):
            inside[inside] = np.isfinite(first_hits(scene, left, np.broadcast_to(direction, left.shape)))
    return inside


def _nearest(points: np.ndarray, grid: np.ndarray, resolution: int, bound: float) -> Int[np.ndarray, " grid"]:
    """Index of the nearest point for each grid point: cheap where it is far away, exact where it is near."""
    spacing = 2 * bound / (resolution - 1)
    cell = tuple(np.rint((points + bound) / spacing).astype(int).clip(0, resolution - 1).T)
    owner = np.full((resolution,) * 3, -1)
    owner[cell] = np.arange(len(points))
    distance, where = distance_transform_edt(owner < 0, return_indices=True)
    nearest = owner[tuple(where)].ravel()
    near = distance.ravel() < 3
    nearest[near] = KDTree(points).query(np.ascontiguousarray(grid[near]))[1]
    return nearest
