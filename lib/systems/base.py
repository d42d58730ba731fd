"""What every system gives back: a shape that can be asked, meshed and rendered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.meshes import marching_cubes
from lib.geometry.surface_grid import surface_grid
from lib.rendering.volume import RenderedMaps, render_rays, sample_depths

CHUNK = 65536  # points evaluated at once
CACHED = 4096  # the same where a processor's cache should hold what the layers give


@dataclass(frozen=True)
class Reconstruction:
    """Shapes read from B images, in the canonical frame.

    Attributes
    ----------
    field : callable
        (index of the image, points (1, P, 3)) -> sdf (1, P), gradient (1, P, 3), rgb (1, P, 3).
    distance : callable
        (index of the image, points (1, P, 3)) -> sdf (1, P): the cheap part of `field`.
    viewpoint : Viewpoint
        Of the B images: predicted, or given with them.
    beta, depth_range : float
        Width of the rendered surface, and half of the depth that is searched for it, in world units.
    cast : callable, optional
        (index of the image, one viewpoint, its image points (1, N, 2)) -> RenderedMaps of shapes (1, N, ...): how a
        system renders that does not by volume rendering.
    slope : float
        The field is no steeper than this; marching cubes asks it only where it may be 0.
    """

    field: Callable[[int, Tensor], tuple[Tensor, Tensor, Tensor]]
    distance: Callable[[int, Tensor], Tensor]
    viewpoint: Viewpoint
    beta: float
    depth_range: float = 0.7
    cast: Callable[[int, Viewpoint, Tensor], RenderedMaps] | None = None
    slope: float = 4.0

    def __len__(self) -> int:
        return len(self.viewpoint)

    @torch.no_grad()
    def sdf(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance at world points, one set an image; negative inside."""
        rows = [_in_chunks(lambda p, i=i: self.distance(i, p), row[None]) for i, row in enumerate(points)]
        return torch.cat(rows)

    @torch.no_grad()
    def texture(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
        """RGB in [0, 1] at world points, one set an image."""
        rows = [_in_chunks(lambda p, i=i: self.field(i, p)[2], row[None]) for i, row in enumerate(points)]
        return torch.cat(rows)

    @torch.no_grad()
    def mesh(self, resolution: int = 100, index: int = 0, bound: float = 0.7, colored: bool = True) -> trimesh.Trimesh:
        """Marching cubes of one shape with the texture at its vertices.

        Parameters
        ----------
        resolution : int
            Samples along each axis of [-bound, bound]^3.
        index : int
            Which of the B shapes.
        bound : float
            Half the side of the grid, in world units. The released code stops at 0.6 and so cuts the top off a tall
            object that a predicted camera sees from farther away; 0.7 is as far as the renderer looks.
        colored : bool
            False leaves the texture out, which nobody sees who measures.

        Returns
        -------
        trimesh.Trimesh
            In the canonical frame; empty when the field has no zero crossing.
        """
        device = self.viewpoint.distance.device
        chunk = CACHED if device.type == "cpu" else CHUNK

        def distance(points: np.ndarray) -> np.ndarray:
            points = torch.as_tensor(points, dtype=torch.float32, device=device)[None]
            return _in_chunks(lambda p: self.distance(index, p), points, chunk)[0].cpu().numpy()

        mesh = marching_cubes(surface_grid(distance, resolution, bound, slope=self.slope), bound)
        if colored and len(mesh.vertices):
            vertices = torch.as_tensor(np.asarray(mesh.vertices), dtype=torch.float32, device=device)[None]
            color = _in_chunks(lambda p: self.field(index, p)[2], vertices)[0]
            mesh.visual.vertex_colors = (color * 255).round().to(torch.uint8).cpu().numpy()
        return mesh

    @torch.no_grad()
    def render(self, viewpoint: Viewpoint | None = None, image_size: int = 64, samples: int = 64) -> RenderedMaps:
        """Images (B, image_size, image_size, ...) from the given viewpoints (default: the images' own)."""
        viewpoint = self.viewpoint if viewpoint is None else viewpoint
        pixels = pixel_centers(image_size, viewpoint.distance.device)[None]
        images = [self._render_one(i, viewpoint[i], pixels, samples) for i in range(len(viewpoint))]
        stacked = {
            name: torch.cat([getattr(image, name) for image in images]).unflatten(1, (image_size, image_size))
            for name in ("rgb", "mask", "normal", "depth")
        }
        return RenderedMaps(**stacked)

    def _render_one(self, index: int, viewpoint: Viewpoint, pixels: Tensor, samples: int) -> RenderedMaps:
        if self.cast is not None:
            return self.cast(index, viewpoint, pixels)
        rays = camera_rays(viewpoint, pixels)
        near, far = viewpoint.distance - self.depth_range, viewpoint.distance + self.depth_range
        depths = sample_depths(near, far, pixels.shape[1], samples)
        return render_rays(lambda p: _in_chunks(lambda q: self.field(index, q), p), rays, depths, self.beta)


def _in_chunks(function, points: Float[Tensor, "1 points 3"], size: int = CHUNK):
    parts = [function(chunk) for chunk in points.split(size, dim=1)]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return torch.cat(parts, dim=1)
