"""Positional encoding of points (NeRF Sec. 5.1), without the factor pi, as VolSDF and ShapeClipper use it."""

import torch
from jaxtyping import Float
from torch import Tensor


def encoded_size(frequencies: int) -> int:
    """Number of values that `encode` gives for a 3D point."""
    return 3 + 6 * frequencies


def encode(points: Float[Tensor, "*shape 3"], frequencies: int) -> Float[Tensor, "*shape encoded"]:
    """The point itself, then sin(2^k x) for k = 0 .. frequencies - 1, then cos(2^k x).

    Examples
    --------
    >>> encode(torch.zeros(2, 3), 6).shape
    torch.Size([2, 39])
    """
    angles = (points[..., None, :] * _octaves(points, frequencies)).flatten(-2)
    return torch.cat([points, angles.sin(), angles.cos()], dim=-1)


def encoding_gradient(
    encoded: Float[Tensor, "*shape encoded"], upstream: Float[Tensor, "*shape encoded"], frequencies: int
) -> Float[Tensor, "*shape 3"]:
    """Gradient with respect to the point of a function whose gradient with respect to its encoding is `upstream`.

    The encoding holds its own derivatives: d sin = cos and d cos = -sin, times the octave.
    """
    point, sine, cosine = upstream.split([3, 3 * frequencies, 3 * frequencies], dim=-1)
    _, sin_angle, cos_angle = encoded.split([3, 3 * frequencies, 3 * frequencies], dim=-1)
    per_octave = (sine * cos_angle - cosine * sin_angle).unflatten(-1, (frequencies, 3))
    return point + (per_octave * _octaves(encoded, frequencies)).sum(dim=-2)


def _octaves(like: Tensor, frequencies: int) -> Float[Tensor, "frequencies 1"]:
    return 2.0 ** torch.arange(frequencies, device=like.device, dtype=like.dtype)[:, None]
