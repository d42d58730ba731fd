"""Volume rendering that asks for normal and colour only where a ray's weight is: an approximation with a known error.

The thinner the surface, the fewer of a ray's samples have a weight. The signed distance is computed everywhere, so the
weights are exact, and with them mask and depth; the gradient of the distance and the texture network, which cost more
than the distance itself, only where a weight exceeds `skip_weight`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.errors import InputError
from lib.geometry.cameras import Rays, points_along
from lib.rendering.volume import Field, LastInterval, RenderedMaps, compositing_weights, laplace_density


@dataclass(frozen=True)
class Skip:
    """Leave out points whose weight is at most `weight` (0: none), where the surface is thinner than `below` (beta).

    On a thick surface nearly every point has a weight, and choosing costs more than it saves.
    """

    weight: float = 0.0
    below: float = 0.02

    def __post_init__(self):
        if not 0 <= self.weight < 1:
            raise InputError(f"skip weight: {self.weight} is not in [0, 1)")

    def applies(self, beta: float | Tensor) -> bool:
        """Whether to leave out points at this width of the surface."""
        return self.weight > 0 and float(torch.as_tensor(beta).detach()) < self.below


def render_rays_skipping(
    distance: Callable[[Tensor], Tensor],
    field: Field,
    rays: Rays,
    depths: Float[Tensor, "1 rays samples"],
    beta: float | Tensor,
    skip_weight: float,
    last_interval: LastInterval = "zero",
) -> RenderedMaps:
    """The maps of `lib.rendering.volume.render_rays` for one image, without the points that hardly count.

    Parameters
    ----------
    distance : callable
        Points (1, P, 3) -> signed distance (1, P): the cheap part of `field`.
    skip_weight : float
        Points whose weight is at most this have no colour (black) and no normal; 0 leaves out what is exactly 0.

    Returns
    -------
    RenderedMaps
        Mask and depth are exact, with their gradients. `skipped` is the sum of the weights that were left out: each
        channel of the colour is too dark by at most that, and the blended normal, whose length is at most the mask
        before it is made a unit vector, is off by at most that.
    """
    points = points_along(rays, depths).flatten(1, 2)
    density = laplace_density(distance(points).unflatten(1, depths.shape[1:]), beta)
    weights = compositing_weights(density, depths, last_interval)
    mask, flat = weights.sum(dim=-1), weights.flatten()
    kept = (flat.detach() > skip_weight).nonzero()[:, 0]
    _, gradient, color = field(points[:, kept])
    seen = torch.cat([color, F.normalize(gradient, dim=-1), torch.ones_like(color[..., :1])], dim=-1)[0]
    ray = kept // depths.shape[-1]
    total = flat.new_zeros(depths.shape[1], 7).index_add(0, ray, flat[kept, None] * seen)[None]
    rgb, normal, counted = total.split([3, 3, 1], dim=-1)
    depth = ((weights * depths).sum(dim=-1) + 1e-6 * depths[..., -1]) / (mask + 1e-6)
    skipped = (mask - counted[..., 0]).detach().clamp(min=0)
    return RenderedMaps(rgb + (1 - mask)[..., None], mask, F.normalize(normal, dim=-1), depth, skipped)
