"""Positional encoding of points (NeRF Sec. 5.1): without the factor pi as in ShapeClipper, with it as in SDF-SRN."""

import torch
from jaxtyping import Float
from torch import Tensor


def encoded_size(frequencies: int) -> int:
    """Number of values that `encode` gives for a 3D point."""
    return 3 + 6 * frequencies


def encode(points: Float[Tensor, "*shape 3"], frequencies: int, factor: float = 1.0) -> Float[Tensor, "*shape encoded"]:
    """The point itself, then sin(2^k factor x) for k = 0 .. frequencies - 1, then cos(2^k factor x).

    Examples
    --------
    >>> encode(torch.zeros(2, 3), 6).shape
    torch.Size([2, 39])
    """
    angles = _angles(points, frequencies, factor)
    return torch.cat([points, angles.sin(), angles.cos()], dim=-1)


def encoding_gradient(
    encoded: Float[Tensor, "*shape encoded"],
    upstream: Float[Tensor, "*shape encoded"],
    frequencies: int,
    factor: float = 1.0,
) -> Float[Tensor, "*shape 3"]:
    """Gradient with respect to the point of a function whose gradient with respect to its encoding is `upstream`.

    The encoding holds its own derivatives: d sin = cos and d cos = -sin, times the octave.
    """
    point, sine, cosine = _parts(upstream, frequencies)
    _, sin_angle, cos_angle = _parts(encoded, frequencies)
    per_angle = sine * cos_angle - cosine * sin_angle
    for k, octave in enumerate(_octaves(frequencies, factor)):
        point = point + octave * per_angle[..., 3 * k : 3 * k + 3]
    return point


def _parts(encoded: Tensor, frequencies: int) -> tuple[Tensor, ...]:
    return encoded.split([3, 3 * frequencies, 3 * frequencies], dim=-1)


def _angles(points: Tensor, frequencies: int, factor: float) -> Float[Tensor, "*shape angles"]:
    return torch.cat([points[..., :0], *(octave * points for octave in _octaves(frequencies, factor))], dim=-1)


def _octaves(frequencies: int, factor: float) -> list[float]:
    return [2.0**k * factor for k in range(frequencies)]
