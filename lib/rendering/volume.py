"""Volume rendering of a signed distance field (VolSDF; ShapeClipper Sec. 3.1).

Along a ray with samples at depths z_i and intervals d_i:

    density        sigma_i = (1 / beta) Psi(-sdf_i),  Psi the Laplace CDF with scale beta   (VolSDF Eq. 2-3)
    opacity        alpha_i = 1 - exp(-sigma_i d_i)
    transmittance  T_i = exp(-sum_{j < i} sigma_j d_j)
    weights        w_i = T_i alpha_i
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lib.errors import InputError
from lib.geometry.cameras import Rays, points_along

LastInterval = Literal["zero", "infinite"]
DepthBins = Literal["equal", "released"]
PART_POINTS = 2**14  # rendered at once by `render_rays_in_parts`: about 4 MB a layer
# points (batch, points, 3) -> sdf (batch, points), unit-free gradient (batch, points, 3), rgb (batch, points, 3)
Field = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class RenderedMaps:
    """What cameras see along their rays.

    Attributes
    ----------
    rgb : Tensor, shape (..., 3)
        Colour in [0, 1], composited on white.
    mask : Tensor, shape (...)
        Accumulated weight in [0, 1].
    normal : Tensor, shape (..., 3)
        Unit outward normal in the world (canonical) frame, as in Eq. 4 whatever the mask: it means nothing where the
        mask is near 0.
    depth : Tensor, shape (...)
        Mean depth of what was hit, along the unit ray, in world units; the far depth where nothing was hit.
    """

    rgb: Float[Tensor, "*shape 3"]
    mask: Float[Tensor, "*shape"]
    normal: Float[Tensor, "*shape 3"]
    depth: Float[Tensor, "*shape"]


def laplace_density(sdf: Float[Tensor, "*shape"], beta: float | Tensor) -> Float[Tensor, "*shape"]:
    """Density from signed distance: VolSDF Eq. 2-3 with alpha = 1 / beta.

    Range (0, 1 / beta): half of 1 / beta on the surface, 1 / beta deep inside, falling as exp(-sdf / beta) outside.

    Raises
    ------
    InputError
        `beta` is a number, and not above 0.

    Examples
    --------
    >>> laplace_density(torch.tensor([0.0]), 0.1)
    tensor([5.])
    """
    check_width(beta)
    tail = 0.5 * torch.exp(-sdf.abs() / beta)
    return torch.where(sdf > 0, tail, 1 - tail) / beta


def check_width(beta: float | Tensor) -> None:
    """Refuse numbers that are no width; a tensor is a system's own, and looking at it would wait for the device."""
    if not isinstance(beta, Tensor) and not beta > 0:
        raise InputError(f"beta, the width of the rendered surface, must be above 0, not {beta}")


def sample_depths(
    near: Float[Tensor, " batch"],
    far: Float[Tensor, " batch"],
    rays: int,
    samples: int,
    generator: torch.Generator | None = None,
    bins: DepthBins = "equal",
) -> Float[Tensor, "batch rays samples"]:
    """Depths from near to far, one a bin: at random within the bin with a generator, else in its middle.

    Parameters
    ----------
    bins : {"equal", "released"}
        "equal" are S bins of one width. The released ShapeClipper (and VolSDF) places S depths evenly with the first at
        near and the last at far; a bin reaches half-way to its neighbours, so that the outer two are half as wide, and
        without a generator the depths are these themselves.
    """
    share = torch.arange(samples + 1, device=near.device, dtype=near.dtype)
    if bins == "equal":
        edges = share / samples  # of the way from near to far
        low, high = edges[:-1], edges[1:]
        middle = (low + high) / 2
    else:
        middle = share[:-1] / max(samples - 1, 1)
        edges = (middle[:-1] + middle[1:]) / 2
        low, high = torch.cat([middle[:1], edges]), torch.cat([edges, middle[-1:]])
    steps = middle.expand(len(near), rays, samples)
    if generator is not None:
        drawn = torch.rand(steps.shape, generator=generator, device=generator.device, dtype=near.dtype)
        steps = low + drawn.to(near.device) * (high - low)
    return near[:, None, None] + steps * (far - near)[:, None, None]


def compositing_weights(
    density: Float[Tensor, "*rays samples"],
    depths: Float[Tensor, "*rays samples"],
    last_interval: LastInterval = "zero",
) -> Float[Tensor, "*rays samples"]:
    """Weights w_i = T_i alpha_i of the samples of each ray; they sum to at most 1.

    The last sample has no right neighbour. The released ShapeClipper gives it length 0, VolSDF 1e10 ("infinite"):
    then whatever density is left at the far end becomes opaque.
    """
    last = torch.full_like(depths[..., :1], 0.0 if last_interval == "zero" else 1e10)
    optical_depth = density * torch.cat([depths.diff(dim=-1), last], dim=-1)
    before = torch.cumsum(F.pad(optical_depth, (1, 0))[..., :-1], dim=-1)
    return torch.exp(-before) * -torch.expm1(-optical_depth)


def render_rays(
    field: Field,
    rays: Rays,
    depths: Float[Tensor, "batch rays samples"],
    beta: float | Tensor,
    last_interval: LastInterval = "zero",
    needs_normal: Bool[Tensor, "batch rays"] | None = None,
) -> RenderedMaps:
    """Render B x N rays.

    Parameters
    ----------
    field : callable
        Points (B, P, 3) -> signed distance (B, P), its gradient (B, P, 3), colour (B, P, 3); with `needs_normal` it is
        also given booleans (B, P) that say where the gradient is needed.
    rays : Rays
        In the world frame, with unit directions.
    depths : Tensor, shape (B, N, S)
        Increasing sample depths along each ray.
    beta : float or scalar Tensor
        Width of the surface in world units, > 0.
    last_interval : {"zero", "infinite"}
        See `compositing_weights`.
    needs_normal : Tensor, optional
        Rays whose normal is needed; the normal of the others is 0. Default: all.

    Returns
    -------
    RenderedMaps
        With shapes (B, N, ...).
    """
    points = points_along(rays, depths).flatten(1, 2)  # (B, N S, 3)
    grid = depths.shape[1:]
    if needs_normal is None:
        sdf, gradient, color = field(points)
    else:
        sdf, gradient, color = field(points, needs_normal[..., None].expand(-1, *grid).flatten(1))
    density = laplace_density(sdf.unflatten(1, grid), beta)  # (B, N, S)
    weights = compositing_weights(density, depths, last_interval)
    mask = weights.sum(dim=-1)
    blend = weights[..., None, :]  # (B, N, 1, S)
    rgb = (blend @ color.unflatten(1, grid)).squeeze(-2) + (1 - mask)[..., None]  # on white
    # Density falls as the distance grows, so the unit of -grad(density) is the unit of grad(sdf).
    outward = F.normalize(gradient, dim=-1).unflatten(1, grid)
    normal = F.normalize((blend @ outward).squeeze(-2), dim=-1)
    far_weighted = (weights * depths).sum(dim=-1) + 1e-6 * depths[..., -1]
    return RenderedMaps(rgb, mask, normal, far_weighted / (mask + 1e-6))


def render_rays_in_parts(
    field: Field,
    rays: Rays,
    depths: Float[Tensor, "batch rays samples"],
    beta: float | Tensor,
    last_interval: LastInterval = "zero",
    needs_normal: Bool[Tensor, "batch rays"] | None = None,
    points: int = PART_POINTS,
) -> RenderedMaps:
    """`render_rays` in little memory: some rays at a time, computed again in the backward pass instead of being kept.

    Parameters
    ----------
    points : int
        Computed at once, of all images together. The other arguments are those of `render_rays`.
    """
    batch, count, samples = depths.shape
    size = max(1, points // (batch * samples))
    parts = []
    for start in range(0, count, size):
        part = slice(start, start + size)
        some_rays = Rays(rays.origins[:, part], rays.directions[:, part])
        needed = None if needs_normal is None else needs_normal[:, part]
        arguments = (field, some_rays, depths[:, part], beta, last_interval, needed)
        parts.append(checkpoint(render_rays, *arguments, use_reentrant=False, preserve_rng_state=False))
    names = ("rgb", "mask", "normal", "depth")
    return RenderedMaps(*(torch.cat([getattr(part, name) for part in parts], dim=1) for name in names))
