"""One chunk of rays through ShapeClipper's fields, written so that it is cheap (see `lib.rendering.fast`).

The mathematics of `render_rays`, `SDFField.with_gradient` and `TextureField`, rearranged. Features run along rows and
points along columns, so that also three numbers a point lie side by side in memory.
"""

import math
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.errors import InputError
from lib.fields.sdf import SHARPNESS, SDFField
from lib.fields.texture import TextureField
from lib.rendering.volume import LastInterval, compositing_weights, laplace_density

THRESHOLD = 20.0  # from here on PyTorch's softplus is the identity, and its derivative 1
FLAT = 1 / (1 + math.exp(-THRESHOLD))  # the slope there


@dataclass(frozen=True)
class Layout:
    """What is fixed while a chunk's function is compiled.

    Attributes
    ----------
    frequencies, symmetric, layers, width
        Of the shape field.
    users : tuple of int
        Layers of the shape field that see the encoded point: the first and the skips.
    textured : bool
        False: everything is white.
    """

    frequencies: int
    symmetric: bool
    layers: int
    width: int
    users: tuple[int, ...]
    textured: bool
    last_interval: LastInterval


class Weights(NamedTuple):
    """Both fields with the codes folded in.

    Attributes
    ----------
    encoding : Tensor, shape (B, outputs, encoded + 1)
        What the encoded point is multiplied with for all layers that see it, one after the other: those of the shape
        field, then the texture's first one. The last column is the bias, which holds the image's code.
    head, head_bias : Tensor, shapes (1, width), (1,)
        Of the signed distance.
    previous : tuple of Tensor, shapes (width, width)
        The layers after the first, as seen by the layer before.
    biases : tuple of Tensor, shapes (width, 1)
        Of the layers that do not see the point.
    texture : tuple of Tensor
        The shape feature's layer and the texture's first one in one matrix, then a weight and a bias (column) for
        each of the texture's other layers; empty without texture.
    """

    encoding: Tensor
    head: Tensor
    head_bias: Tensor
    previous: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    texture: tuple[Tensor, ...]

    def flat(self) -> list[Tensor]:
        """All tensors in a row."""
        return [self.encoding, self.head, self.head_bias, *self.previous, *self.biases, *self.texture]

    @classmethod
    def of(cls, layout: Layout, flat) -> "Weights":
        """Put together again what `flat` took apart."""
        rest = iter(flat)
        single, chain = list(islice(rest, 3)), tuple(islice(rest, layout.layers - 1))
        return cls(*single, chain, tuple(islice(rest, layout.layers - len(layout.users))), tuple(rest))


def fold(
    sdf: SDFField,
    texture: TextureField,
    shape_code: Float[Tensor, "batch code"],
    texture_code: Float[Tensor, "batch code"] | None,
    last_interval: LastInterval = "zero",
) -> tuple[Layout, Weights]:
    """Fold codes and constants into the weights; the gradient flows back through this.

    Raises
    ------
    InputError
        The two fields encode points in different ways.
    """
    if (sdf.frequencies, sdf.symmetric) != (texture.frequencies, texture.symmetric):
        raise InputError("render_path: fields that encode points differently can only be rendered by 'plain'")
    parts = [sdf.split(index) for index in range(len(sdf.hidden))]
    users = tuple(index for index, (_, point, _) in enumerate(parts) if point is not None)
    matrices = [parts[index][1] for index in users]
    shifts = [sdf.hidden[index].bias + shape_code @ parts[index][2].mT for index in users]
    rest = ()
    if texture_code is not None:
        point, latent, feature = texture.first.weight.split(texture.sizes, dim=1)
        matrices.append(point)
        shifts.append(texture.first.bias + feature @ sdf.head.bias[1:] + texture_code @ latent.mT)
        linear = [layer for layer in texture.rest if isinstance(layer, nn.Linear)]
        rest = (feature @ sdf.head.weight[1:], *(t for layer in linear for t in (layer.weight, layer.bias[:, None])))
    shift = torch.cat(shifts, dim=-1)[..., None]
    encoding = torch.cat([torch.cat(matrices).expand(len(shift), -1, -1), shift], dim=-1)
    previous = tuple(part[0] for part in parts[1:])
    biases = tuple(layer.bias[:, None] for index, layer in enumerate(sdf.hidden) if index not in users)
    layout = Layout(
        sdf.frequencies, sdf.symmetric, len(parts), sdf.sizes[0], users, texture_code is not None, last_interval
    )
    return layout, Weights(encoding, sdf.head.weight[:1], sdf.head.bias[:1], previous, biases, rest)


def render_chunk(
    layout: Layout,
    with_normals: bool,
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    depths: Float[Tensor, "rays samples"],
    beta: Float[Tensor, ""],
    weights: Weights,
) -> tuple[Tensor, ...]:
    """Mask and depth (rays,), then the colour (rays, 3) of a textured shape, then the normal (rays, 3) if asked for.

    All rays are of one image, whose `encoding` is (outputs, encoded + 1).
    """
    grid = depths.shape
    points = (origins.mT[..., None] + directions.mT[..., None] * depths).flatten(1)  # (3, points)
    encoded = _encode(points, layout)
    mixed = weights.encoding @ encoded
    value, slopes = _shape_layers(layout, mixed, weights)
    sdf = (weights.head @ value)[0] + weights.head_bias
    blend = compositing_weights(laplace_density(sdf.reshape(grid), beta), depths, layout.last_interval, _opacity)
    mask = blend.sum(dim=-1)
    maps = [mask, ((blend * depths).sum(dim=-1) + 1e-6 * depths[..., -1]) / (mask + 1e-6)]
    if layout.textured:
        color = _texture_layers(mixed[len(layout.users) * layout.width :], value, weights.texture)
        maps.append(((color.unflatten(1, grid) * blend).sum(dim=-1) + (1 - mask)).mT)
    if with_normals:
        outward = F.normalize(_gradient(layout, points, encoded, slopes, weights), dim=0)
        maps.append(F.normalize((outward.unflatten(1, grid) * blend).sum(dim=-1), dim=0).mT)
    return tuple(maps)


class _Softplus(torch.autograd.Function):
    """Softplus and its slope from one exponential, and the derivatives of both from the slope alone."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        z = SHARPNESS * x
        small = torch.exp(-z.abs())
        # The error of log(1 + small) against log1p is 1e-7 at most, and divided by the sharpness.
        value = torch.where(z > THRESHOLD, x, (z.clamp(min=0) + torch.log(1 + small)) / SHARPNESS)
        return value, torch.where(z > 0, torch.ones_like(small), small) / (1 + small)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, to_value: Tensor, to_slope: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        of_slope = SHARPNESS * (1 - slope) * to_slope
        if slope.dtype == torch.float64:  # in single precision the slope is 1 there by itself
            return torch.where(slope > FLAT, to_value, slope * to_value) + slope * of_slope
        return slope * (to_value + of_slope)


def _opacity(thickness: Tensor) -> Tensor:
    """1 - exp(-x) with a relative error of some roundings for every x, also when compiled.

    The compiler takes expm1(x) for exp(x) - 1, which leaves nothing of the thin density that rays beside an object see.
    """
    if thickness.dtype != torch.float32:
        return -torch.expm1(-thickness)
    x = thickness.clamp(max=0.1)  # the series is chosen below, and must not overflow where it is not
    series = x * (1 - x / 2 * (1 - x / 3 * (1 - x / 4 * (1 - x / 5))))
    return torch.where(thickness < 0.1, series, 1 - torch.exp(-thickness))


def _octaves(layout: Layout, like: Tensor) -> Tensor:
    return 2.0 ** torch.arange(layout.frequencies, device=like.device, dtype=like.dtype)[:, None, None]


def _encode(points: Tensor, layout: Layout) -> Tensor:
    """Rows as in `lib.fields.encoding.encode`, then ones, which the bias is multiplied with."""
    folded = torch.cat([points[:1].abs(), points[1:]]) if layout.symmetric else points
    angles = (_octaves(layout, points) * folded).flatten(0, 1)
    return torch.cat([folded, angles.sin(), angles.cos(), torch.ones_like(points[:1])])


def _shape_layers(layout: Layout, mixed: Tensor, weights: Weights) -> tuple[Tensor, list[Tensor]]:
    """The last layer's value, and the slope of the activation at every layer."""
    seen, biases = iter(mixed[: len(layout.users) * layout.width].split(layout.width)), iter(weights.biases)
    value, slopes = None, []
    for index in range(layout.layers):
        total = next(seen) if index in layout.users else next(biases)
        if index > 0:
            total = weights.previous[index - 1] @ value + total
        value, slope = _Softplus.apply(total)
        slopes.append(slope)
    return value, slopes


def _texture_layers(mixed: Tensor, value: Tensor, texture: tuple[Tensor, ...]) -> Tensor:
    hidden = texture[0] @ value + mixed
    for weight, bias in zip(texture[1::2], texture[2::2], strict=True):
        hidden = weight @ hidden.relu() + bias
    return hidden.sigmoid()


def _gradient(layout: Layout, points: Tensor, encoded: Tensor, slopes: list[Tensor], weights: Weights) -> Tensor:
    """Gradient of the signed distance, (3, points): the chain rule from the top, as in `SDFField.with_gradient`."""
    upstream, seen = weights.head.mT, []
    for index in reversed(range(layout.layers)):
        upstream = upstream * slopes[index]
        if index in layout.users:
            seen.insert(0, upstream)
        if index > 0:
            upstream = weights.previous[index - 1].mT @ upstream
    of_shape = weights.encoding[: len(layout.users) * layout.width]
    sizes = [3, 3 * layout.frequencies, 3 * layout.frequencies, 1]
    point, sine, cosine, _ = (of_shape.mT @ torch.cat(seen)).split(sizes)
    _, sin_angle, cos_angle, _ = encoded.split(sizes)
    per_octave = (sine * cos_angle - cosine * sin_angle).unflatten(0, (layout.frequencies, 3))
    gradient = point + (per_octave * _octaves(layout, points)).sum(dim=0)
    if not layout.symmetric:
        return gradient
    return torch.cat([torch.where(points[:1] < 0, -gradient[:1], gradient[:1]), gradient[1:]])
