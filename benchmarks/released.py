"""The renderer as the released ShapeClipper code builds it: the baseline that the course's is timed against.

Written from what the code does, not from its text: the code is repeated for every point and goes through the layers
next to it, each field encodes the points for itself, the density is evaluated twice, and the normals come from a second
differentiation. The numbers are those of `lib.rendering.volume`, which is asserted before anything is timed.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.fields.encoding import encode
from lib.fields.sdf import SHARPNESS, SDFField, mirror
from lib.fields.texture import TextureField
from lib.geometry.cameras import Rays, points_along
from lib.rendering.volume import LastInterval, RenderedMaps, compositing_weights, laplace_density
from lib.systems.base import System


def compute_as_released(system: System) -> None:
    """Let a ShapeClipper render its training images so; quarter turns, which are ours, stay as they are."""
    ours = system.render

    def render(shape_code, texture_code, rays, depths, *only_ours) -> RenderedMaps:
        if texture_code is None:
            return ours(shape_code, texture_code, rays, depths, *only_ours)
        fields, codes = (system.sdf_field, system.texture_field), (shape_code, texture_code)
        return render_rays_released(*fields, *codes, rays, depths, system.beta(), system.config.last_interval)

    system.render = render


def render_rays_released(
    sdf_field: SDFField,
    texture_field: TextureField,
    shape_code: Float[Tensor, "batch code"],
    texture_code: Float[Tensor, "batch code"],
    rays: Rays,
    depths: Float[Tensor, "batch rays samples"],
    beta: float | Tensor,
    last_interval: LastInterval = "zero",
) -> RenderedMaps:
    """The maps of `render_rays`, by the released code's route."""
    grid = depths.shape
    points = points_along(rays, depths)
    points = points.reshape(-1, 3)
    if not points.requires_grad:
        points.requires_grad_()
    with torch.enable_grad():
        shape_codes = _repeated(shape_code, grid)
        sdf, feature = _distance(sdf_field, points, shape_codes)
        density = laplace_density(sdf, beta)
        (slope,) = torch.autograd.grad(density.sum(), points, create_graph=True)
    color = _color(texture_field, points, _repeated(texture_code, grid), feature)
    weights = compositing_weights(laplace_density(sdf, beta).view(grid), depths, last_interval)[..., None]
    mask = weights.sum(dim=(-2, -1))
    rgb = (weights * color.view(*grid, 3)).sum(dim=-2) + (1 - mask)[..., None]
    normal = F.normalize((weights * F.normalize(-slope, dim=-1).view(*grid, 3)).sum(dim=-2), dim=-1)
    depth = (weights[..., 0] * depths).sum(dim=-1) + 1e-6 * depths[..., -1]
    return RenderedMaps(rgb, mask, normal, depth / (mask + 1e-6))


def _repeated(code: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """One code a point."""
    return code[:, None, None].expand(*grid, code.shape[-1]).reshape(-1, code.shape[-1])


def _distance(field: SDFField, points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """The shape field layer by layer, its input joined again at every skip."""
    seen = torch.cat([encode(mirror(points) if field.symmetric else points, field.frequencies), codes], dim=-1)
    value = seen
    for index, layer in enumerate(field.hidden):
        if index in field.skips:
            value = torch.cat([value, seen], dim=-1) / math.sqrt(2)
        value = F.softplus(layer(value), beta=SHARPNESS)
    output = field.head(value)
    return output[..., 0], output[..., 1:]


def _color(field: TextureField, points: Tensor, codes: Tensor, feature: Tensor) -> Tensor:
    """The texture field on the joined encoding, code and feature."""
    encoded = encode(mirror(points) if field.symmetric else points, field.frequencies)
    return field.rest(field.first(torch.cat([encoded, codes, feature], dim=-1)))
