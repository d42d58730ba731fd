"""The signed distance of a mesh on a grid, so that a designer's mesh can be volume rendered like a learned field."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from pykdtree.kdtree import KDTree
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lib.geometry.meshes import first_hits, grid_points, look_directions, ray_scene

Color = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DistanceGrid:
    """Signed distance at the samples of `lib.geometry.meshes.grid_points`.

    Attributes
    ----------
    values : Tensor, shape (R, R, R)
        World units, negative inside; indexed [x, y, z].
    bound : float
        Half the side of the grid in world units.
    """

    values: Float[Tensor, "x y z"]
    bound: float

    @property
    def spacing(self) -> float:
        """Between samples, world units."""
        return 2 * self.bound / (len(self.values) - 1)

    def __call__(self, points: Float[Tensor, "*batch 3"]) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3"]]:
        """Distance by trilinear interpolation, and the gradient of the interpolation within its cell.

        Beyond the grid: the distance at its border plus the distance to the border.
        """
        inside = points.clamp(-self.bound, self.bound)
        position = (inside + self.bound) / self.spacing
        cell = position.detach().floor().clamp(0, len(self.values) - 2)
        x, y, z = (position - cell).unbind(-1)
        corner = self._corners(cell.long())  # (2, 2, 2, ...)
        over_x = corner[0] + (corner[1] - corner[0]) * x
        over_xy = over_x[0] + (over_x[1] - over_x[0]) * y
        distance = over_xy[0] + (over_xy[1] - over_xy[0]) * z
        rise_x, rise_y = corner[1] - corner[0], over_x[1] - over_x[0]
        rise_x = rise_x[0] + (rise_x[1] - rise_x[0]) * y
        slopes = [rise_x[0] + (rise_x[1] - rise_x[0]) * z, rise_y[0] + (rise_y[1] - rise_y[0]) * z]
        gradient = torch.stack([*slopes, over_xy[1] - over_xy[0]], dim=-1) / self.spacing
        return distance + (points - inside).norm(dim=-1), gradient

    def _corners(self, cell: Int[Tensor, "*batch 3"]) -> Float[Tensor, "2 2 2 *batch"]:
        side = len(self.values)
        first = (cell[..., 0] * side + cell[..., 1]) * side + cell[..., 2]
        steps = [(i * side + j) * side + k for i, j, k in itertools.product((0, 1), repeat=3)]
        return torch.stack([self.values.flatten()[first + step] for step in steps]).unflatten(0, (2, 2, 2))

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
    distance = np.linalg.norm(grid - on_surface, axis=1)
    signed = np.where(hidden(mesh, grid), -distance, distance).astype(np.float32)
    return DistanceGrid(torch.from_numpy(signed.reshape((resolution,) * 3)), bound)


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
