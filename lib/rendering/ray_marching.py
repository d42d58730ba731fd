"""Learned ray marching: a recurrent network strides along each ray, bisection pins the surface (SDF-SRN Sec. 3.2).

A ray is x(z) = o + z d. From z^(0) the marcher takes N strides (Eq. 6)

    dz^(j) = |h(x(z^(j)); state^(j))|,    z^(j+1) = z^(j) + dz^(j)

and the losses of Eq. 7 ask that the signed distance f be positive at all z^(j) but the last, and negative there if the
pixel is inside the silhouette. Then the last interval holds a zero z*, which bisection finds.

**Which interval.** The first one over which f goes from positive to not positive: the nearest zero of Eq. 5. When
Eq. 7 is met it is the last one, the paper's. `Surface.counts` says how often it was an earlier one. A ray without such
an interval has no surface: its depth is that of its last point, where the released code's bisection ends too, `hit` is
false, and nothing is divided.

**The gradient of z*.** z* is defined by f(x(z*); theta) = 0. Differentiating that identity with respect to any theta
that f or the ray depends on, df/dtheta + f'(z*) dz*/dtheta = 0 with f'(z*) = grad f . d, gives the implicit function
theorem's

    dz*/dtheta = -(df/dtheta) / (grad f . d)

which needs one evaluation of f at z*, whatever found it. Unrolled bisection, which the paper and the released code
differentiate, is something else: every halving picks an end by a *sign*, whose derivative is 0, so that z* is a fixed
blend (1 - t) z^(j) + t z^(j+1) of the marcher's points. Its gradient moves the marcher and not the surface: it is
exactly 0 with respect to f where f does not feed the marcher.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.geometry.cameras import Rays

Distance = Callable[[Tensor], Tensor]  # points (batch, points, 3) -> signed distance (batch, points)
HitGradient = Literal["implicit", "unrolled"]
LEAST_SLOPE = 0.05  # of f along a ray: where the ray grazes the surface the implicit gradient would be infinite


class Marcher(nn.Module):
    """h of Eq. 6: an LSTM cell on the field's features and a linear layer; the stride is its absolute value.

    The forget gate's biases start at 1, as in the released code, so that the state survives the first steps.
    """

    def __init__(self, feature_size: int, hidden_size: int = 32):
        super().__init__()
        self.cell = nn.LSTMCell(feature_size, hidden_size)
        self.to_stride = nn.Linear(hidden_size, 1)
        with torch.no_grad():
            for bias in (self.cell.bias_ih, self.cell.bias_hh):
                bias[hidden_size : 2 * hidden_size] = 1.0

    def forward(
        self, feature: Float[Tensor, "batch rays feature"], state: tuple[Tensor, Tensor] | None
    ) -> tuple[Float[Tensor, "batch rays"], tuple[Tensor, Tensor]]:
        """Stride >= 0 in world units, and the state of all rays after it."""
        state = self.cell(feature.flatten(0, 1), state)
        return self.to_stride(state[0]).abs().reshape(feature.shape[:2]), state


def points_at(rays: Rays, depth: Float[Tensor, "batch rays"]) -> Float[Tensor, "batch rays 3"]:
    """Points o + z d in the world frame."""
    return rays.origins + depth[..., None] * rays.directions


def march(
    field: Callable[[Tensor], tuple[Tensor, Tensor]],
    marcher: Marcher,
    rays: Rays,
    start: Float[Tensor, " batch"],
    steps: int = 10,
) -> tuple[Float[Tensor, "batch rays points"], Float[Tensor, "batch rays points"]]:
    """N strides of Eq. 6.

    Parameters
    ----------
    field : callable
        Points (B, P, 3) -> signed distance (B, P) and the feature (B, P, C) that the marcher sees.
    rays : Rays
        World frame, unit directions.
    start : Tensor, shape (B,)
        z^(0), in front of every object, in world units along the rays.
    steps : int
        N.

    Returns
    -------
    depths, values : Tensor, shape (B, R, N + 1)
        z^(0) .. z^(N), never decreasing, and the signed distances there; both with gradient.
    """
    depths, values, state = [start[:, None].expand(rays.origins.shape[:2])], [], None
    for _ in range(steps):
        value, feature = field(points_at(rays, depths[-1]))
        stride, state = marcher(feature, state)
        depths.append(depths[-1] + stride)
        values.append(value)
    values.append(field(points_at(rays, depths[-1]))[0])
    return torch.stack(depths, dim=-1), torch.stack(values, dim=-1)


@torch.no_grad()
def sphere_trace(
    distance: Distance, rays: Rays, start: Float[Tensor, " batch"], steps: int
) -> tuple[Float[Tensor, "batch rays points"], Float[Tensor, "batch rays points"]]:
    """The classical stride, the signed distance itself (Hart 1996): what the learned one is compared with.

    Same results as `march`: exact for a true distance, which never lets a stride pass the surface.
    """
    depth = start[:, None].expand(rays.origins.shape[:2])
    depths, values = [depth], [distance(points_at(rays, depth))]
    for _ in range(steps):
        depths.append(depths[-1] + values[-1].clamp(min=0))
        values.append(distance(points_at(rays, depths[-1])))
    return torch.stack(depths, dim=-1), torch.stack(values, dim=-1)


@dataclass(frozen=True)
class Surface:
    """Where rays meet the surface.

    Attributes
    ----------
    depth : Tensor, shape (B, R)
        z* where `hit`, else the last marched depth; world units along the ray.
    hit : Tensor, shape (B, R)
        Some interval goes from outside to inside.
    interval : Tensor, shape (B, R)
        Number of the first such interval, 0 .. N - 1; N - 1 without one.
    counts : dict
        Rays whose zero lies in the "last" interval, in an "early" one, "none": they never hit; and those "inside":
        of "none", the ones that start inside the surface.
    """

    depth: Float[Tensor, "batch rays"]
    hit: Bool[Tensor, "batch rays"]
    interval: Int[Tensor, "batch rays"]
    counts: dict[str, int]


def find_surface(
    distance: Distance,
    rays: Rays,
    depths: Float[Tensor, "batch rays points"],
    values: Float[Tensor, "batch rays points"],
    iterations: int = 10,
    gradient: HitGradient = "implicit",
) -> Surface:
    """The first zero of the signed distance along marched rays, by bisection.

    Parameters
    ----------
    distance : callable
        Points (B, P, 3) -> signed distance (B, P), the one that gave `values`.
    depths, values : Tensor, shape (B, R, N + 1)
        Of `march`; N >= 1.
    iterations : int
        Halvings of the interval: z* is known to its width / 2^(iterations + 1).
    gradient : {"implicit", "unrolled"}
        What `Surface.depth` hands back to the field, or to the marcher; see the module.
    """
    enters = (values[..., :-1] > 0) & (values[..., 1:] <= 0)
    hit, last = enters.any(dim=-1), depths.shape[-1] - 2
    interval = torch.where(hit, enters.int().argmax(dim=-1), last)
    near, far = (depths.gather(-1, (interval + k)[..., None])[..., 0] for k in (0, 1))
    depth = bisect(distance, rays, near, far, hit, iterations)
    if gradient == "implicit":
        attached = with_implicit_gradient(distance, rays, depth)
    else:
        attached = with_unrolled_gradient(near, far, depth)
    kinds = {
        "last": hit & (interval == last),
        "early": hit & (interval < last),
        "none": ~hit,
        "inside": ~hit & (values[..., 0] <= 0),
    }
    counts = {name: int(where.sum()) for name, where in kinds.items()}
    return Surface(torch.where(hit, attached, far), hit, interval, counts)


@torch.no_grad()
def bisect(
    distance: Distance,
    rays: Rays,
    near: Float[Tensor, "batch rays"],
    far: Float[Tensor, "batch rays"],
    hit: Bool[Tensor, "batch rays"],
    iterations: int = 10,
) -> Float[Tensor, "batch rays"]:
    """Halve [near, far], with f > 0 at near and f <= 0 at far, so often; gives its middle, without gradient.

    Only rays that hit are evaluated (as many an image as hit in the image with most of them); the others keep `far`.
    """
    if not hit.any():
        return far.clone()
    order = hit.int().argsort(dim=1, descending=True, stable=True)[:, : int(hit.sum(dim=1).max())]
    chosen = Rays(*(part.gather(1, order[..., None].expand(-1, -1, 3)) for part in (rays.origins, rays.directions)))
    low, high = near.gather(1, order), far.gather(1, order)
    for _ in range(iterations):
        middle = (low + high) / 2
        outside = distance(points_at(chosen, middle)) > 0
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    return torch.where(hit, near.scatter(1, order, (low + high) / 2), far)


def with_implicit_gradient(
    distance: Distance, rays: Rays, depth: Float[Tensor, "batch rays"]
) -> Float[Tensor, "batch rays"]:
    """The same depths, with the gradient -(df/dtheta) / (grad f . d) of the implicit function theorem.

    A ray enters where it hits, so grad f . d < 0; it is kept at -`LEAST_SLOPE` or steeper, which makes the gradient of
    grazing rays too small instead of infinite.
    """
    if not torch.is_grad_enabled():
        return depth
    leaf = depth.detach().requires_grad_()
    value = distance(points_at(rays, leaf))
    (slope,) = torch.autograd.grad(value.sum(), leaf, retain_graph=True)
    return leaf.detach() - (value - value.detach()) / slope.clamp(max=-LEAST_SLOPE)


def with_unrolled_gradient(
    near: Float[Tensor, "batch rays"], far: Float[Tensor, "batch rays"], depth: Float[Tensor, "batch rays"]
) -> Float[Tensor, "batch rays"]:
    """The same depths as the blend of their interval's ends that bisection's halvings amount to."""
    width = (far - near).detach()
    share = (depth - near.detach()) / torch.where(width > 0, width, torch.ones_like(width))
    blend = (1 - share) * near + share * far
    return depth + (blend - blend.detach())


def sign_losses(
    values: Float[Tensor, "batch rays points"],
    inside: Bool[Tensor, "batch rays"],
    weights: Float[Tensor, "batch rays"],
    margin: float = 0.01,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Eq. 7 with its two parts apart, since they are weighted apart (1 and 0.1).

    Parameters
    ----------
    values : Tensor, shape (B, R, N + 1)
        f at the marched points.
    inside : Tensor, shape (B, R)
        The pixel belongs to the silhouette.
    weights : Tensor, shape (B, R)
        Importance of the pixels (Sec. 3.1), >= 0; only their ratios matter.
    margin : float
        Epsilon, in world units.

    Returns
    -------
    last : scalar Tensor
        max(0, margin + f) at the last point of inside pixels and max(0, margin - f) of the others: the weighted mean
        over the inside pixels plus that over the others, as in the released code. A side without pixels adds 0.
    free : scalar Tensor
        max(0, margin - f) at all earlier points, the plain mean.
    """
    final = values[..., -1]
    last = weighted_mean(F.relu(margin + final), weights * inside) + weighted_mean(
        F.relu(margin - final), weights * ~inside
    )
    return last, F.relu(margin - values[..., :-1]).mean()


def weighted_mean(values: Float[Tensor, "*shape"], weights: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """sum(w v) / sum(w); 0 where all weights are 0."""
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0, total, torch.ones_like(total))


def soft_mask(values: Float[Tensor, "*rays points"], sharpness: float = 30.0) -> Float[Tensor, "*rays"]:
    """Cat3D's differentiable mask: sigmoid(-sharpness * the smallest signed distance that the ray met).

    1/2 where a marched point touches the surface. SDF-SRN itself needs none: Eq. 7 supervises the signs.
    """
    return torch.sigmoid(-sharpness * values.amin(dim=-1))
