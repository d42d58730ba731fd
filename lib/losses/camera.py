"""Priors on viewpoints that nobody gave: ShapeClipper Sec. 3.4, and two terms of its released code."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lib.geometry.cameras import Viewpoint

SQUARED_FLOOR = 1e-4  # of a chord


def azimuth_prior_loss(azimuth: Float[Tensor, "count 2"], power: int = 2) -> Float[Tensor, ""]:
    """Distance of a set of azimuths from a uniform spread over the circle.

    The sorted values of cos, sin and cos * sin are compared with those of an even grid: a Wasserstein distance in one
    dimension, for each. With `power` 2 the released code's form, the three L2 norms summed over 3 B; with 1 the mean
    absolute difference, its form in pretraining. 0 for an even spread.
    """
    count = len(azimuth)
    grid = (2 * torch.arange(1, count + 1, device=azimuth.device, dtype=azimuth.dtype) - 1) * math.pi / count
    total = azimuth.new_zeros(())
    for ours, even in zip(
        _projections(azimuth[:, 0], azimuth[:, 1]), _projections(grid.cos(), grid.sin()), strict=True
    ):
        difference = ours.sort().values - even.sort().values
        total = total + (difference.norm() / count if power == 2 else difference.abs().mean())
    return total / 3


def camera_margin_loss(viewpoint: Viewpoint, limit: float = 90.0, slack: float = 5.0) -> Float[Tensor, ""]:
    """Hinge in degrees on elevations and rolls beyond limit + slack (released code; not in the paper).

    The mean over the batch of the elevation's excess plus that of the roll's; 0 up to 95 degrees.
    """
    _, elevation, roll = viewpoint.angles()
    excess = torch.stack([elevation, roll]).rad2deg().abs() - (limit + slack)  # (2, B)
    return excess.clamp(min=0).mean(dim=1).sum()


def mirror_loss(viewpoint: Viewpoint, of_mirrored: Viewpoint) -> Float[Tensor, ""]:
    """The mirrored image must be seen from (-azimuth, elevation, -roll) (released code).

    The paper cites a symmetry constraint without a formula (Sec. 3.4). Squared distance between unit pairs (cos, sin),
    the mean over the batch, summed over the three angles; in [0, 12].
    """
    expected = viewpoint.mirrored()
    pairs = ("azimuth", "elevation", "roll")
    return sum((getattr(of_mirrored, p) - getattr(expected, p)).square().sum(dim=-1).mean() for p in pairs)


def axis_alignment(normal: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
    """How well unit normals in the world frame point along an axis, but not downwards (ours).

    max(|n_x|, |n_y|, n_z): most made objects have faces along three directions, and a camera above the ground sees no
    face from below. At most 1, for a normal along an axis; at least 1 / sqrt(3) for one that points upwards.
    """
    return torch.cat([normal[..., :2].abs(), normal[..., 2:]], dim=-1).amax(dim=-1)


def viewpoint_distance(viewpoint: Viewpoint, target: Viewpoint) -> Float[Tensor, " batch"]:
    """How far two viewpoints are apart: the chord between their azimuths, and 5 (1 - cos) of elevation and roll (ours).

    The chord, 2 |sin(difference / 2)|, pulls a small difference as strongly as a large one, so that targets of which a
    fifth are wrong by a quarter turn are met where most of them lie, not at their mean. Equal viewpoints have distance
    0.01: a chord with a corner at 0 has no gradient there.
    """
    away = {p: 1 - (getattr(viewpoint, p) * getattr(target, p)).sum(-1) for p in ("azimuth", "elevation", "roll")}
    chord = (2 * away["azimuth"].clamp(min=0) + SQUARED_FLOOR).sqrt()
    return chord + 5 * (away["elevation"] + away["roll"])


def _projections(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return cos, sin, cos * sin
