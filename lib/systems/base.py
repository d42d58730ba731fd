"""What every system promises, and what it gives back: a shape that can be asked, meshed and rendered."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.meshes import marching_cubes
from lib.geometry.surface_grid import surface_grid
from lib.networks.backbones import Backbone
from lib.rendering.volume import DepthBins, RenderedMaps, render_rays, sample_depths

CHUNK = 65536  # points evaluated at once
CACHED = 4096  # the same where a processor's cache should hold what the layers give


@dataclass(frozen=True)
class SystemConfig:
    """Everything that defines a system: each paper's file has its own, with the paper's values as defaults."""

    def for_category(self, category: str) -> "SystemConfig":
        """The setting that the paper uses for this category alone. Default: all categories are alike."""
        return self


class System(nn.Module):
    """A paper's parts and objective. Training, evaluation and the course know a system by this face alone.

    Attributes
    ----------
    name : str
        What checkpoints call it.
    config : SystemConfig
        Everything that defines it.
    needs_viewpoint : bool
        Training images must come with their viewpoints, and `reconstruct` should be given them.
    can_refine : bool
        It has `refine`.
    neighbor_weighting : str or None
        How a neighbour of each training image is chosen (`lib.losses.semantic.neighbor_probabilities`); None: the
        system wants no neighbours.
    mesh_grid : tuple of int and float
        The grid on which its shapes are measured: samples along each axis, and half of its side.
    fresh_parts : tuple of str
        Modules that begin with new weights in a run that starts from a checkpoint.
    counts : dict
        What was counted in the last training step, for the log; the parts of a batch are added up.
    status : dict
        Numbers that describe the system now, for the log, such as the width of its surface.
    """

    name = ""
    config: SystemConfig
    needs_viewpoint = False
    can_refine = False
    neighbor_weighting: str | None = None
    fresh_parts: tuple[str, ...] = ()
    mesh_grid = (100, 0.7)

    @property
    def counts(self) -> dict[str, int]:
        """Default: nothing."""
        return {}

    @property
    def status(self) -> dict[str, float]:
        """Default: nothing."""
        return {}

    def prepare(self, data: PreparedDataset) -> None:
        """Look at the whole training set once, before training. Default: nothing."""

    def begin_step(self, done: float) -> None:
        """Be told what share of the training is done, in [0, 1). Default: nothing."""

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of the objective by name; training minimises their sum."""
        raise NotImplementedError

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The terms of the steps before training. Default: those of training."""
        return self.losses(batch, generator)

    def forward(self, batch: Batch, generator: torch.Generator, pretraining: bool = False) -> dict[str, Tensor]:
        """`losses`, or `pretrain_losses`: what a wrapper for several devices calls."""
        return self.pretrain_losses(batch, generator) if pretraining else self.losses(batch, generator)

    def reconstruct(
        self, images: Float[Tensor, "batch height width 3"], viewpoint: Viewpoint | None = None
    ) -> "Reconstruction":
        """Shapes of segmented images on white, in [0, 1]; `viewpoint` where it is known."""
        raise NotImplementedError

    def reconstruct_batch(self, batch: Batch) -> "Reconstruction":
        """Shapes of a batch, wherever it is stored; a system that does not find viewpoints is given the batch's."""
        batch = batch.to(next(self.parameters()).device)
        return self.reconstruct(batch.rgb, batch.viewpoint if self.needs_viewpoint else None)

    def refine(self, batch: Batch, generator: torch.Generator, steps: int | None = None) -> "Reconstruction":
        """Shapes that are optimised for the images themselves; only where `can_refine`."""
        raise NotImplementedError

    def pretrained_parameters(self) -> list[nn.Parameter]:
        """The image networks' parameters that learn, which training may move more slowly than the rest."""
        networks = [module.network for module in self.modules() if isinstance(module, Backbone)]
        return [p for network in networks for p in network.parameters() if p.requires_grad]

    def set_precision(self, precision: torch.dtype | None) -> None:
        """Compute the image networks, and nothing else, in mixed precision."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.precision = precision


def require_viewpoint(batch: Batch, name: str) -> Viewpoint:
    """The batch's viewpoints; `InputError` where the dataset has none."""
    if batch.viewpoint is None:
        raise InputError(f"{name} needs a dataset whose metadata holds azimuth, elevation and tilt")
    return batch.viewpoint


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
    bins : {"equal", "released"}
        Of the depths that volume rendering looks at (`lib.rendering.volume.sample_depths`).
    mesh_grid : tuple of int and float
        Of marching cubes: samples along each axis, and half of the side, unless `mesh` is asked for another.
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
    bins: DepthBins = "equal"
    mesh_grid: tuple[int, float] = (100, 0.7)

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
    def mesh(
        self, resolution: int | None = None, index: int = 0, bound: float | None = None, colored: bool = True
    ) -> trimesh.Trimesh:
        """Marching cubes of one shape with the texture at its vertices.

        Parameters
        ----------
        resolution : int, optional
            Samples along each axis of [-bound, bound]^3; the system's own without it.
        index : int
            Which of the B shapes.
        bound : float, optional
            Half the side of the grid, in world units. The released codes stop at 0.6 and so cut the top off a tall
            object that a predicted camera sees from farther away; ours go to 0.7, as far as the renderer looks.
        colored : bool
            False leaves the texture out, which nobody sees who measures.

        Returns
        -------
        trimesh.Trimesh
            In the canonical frame; empty when the field has no zero crossing.
        """
        resolution, bound = resolution or self.mesh_grid[0], bound or self.mesh_grid[1]
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
    def render(
        self,
        viewpoint: Viewpoint | None = None,
        image_size: int = 64,
        samples: int = 64,
        progress: bool = False,
    ) -> RenderedMaps:
        """Images (B, image_size, image_size, ...) from the given viewpoints (default: the images' own).

        With `progress`, a bar counts the images.
        """
        viewpoint = self.viewpoint if viewpoint is None else viewpoint
        pixels = pixel_centers(image_size, viewpoint.distance.device)[None]
        rows = range(len(viewpoint))
        rows = tqdm(rows, "render", unit="image") if progress else rows
        images = [self._render_one(i, viewpoint[i], pixels, samples) for i in rows]
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
        depths = sample_depths(near, far, pixels.shape[1], samples, bins=self.bins)
        return render_rays(lambda p: _in_chunks(lambda q: self.field(index, q), p), rays, depths, self.beta)


def _in_chunks(function, points: Float[Tensor, "1 points 3"], size: int = CHUNK):
    parts = [function(chunk) for chunk in points.split(size, dim=1)]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True))
    return torch.cat(parts, dim=1)
