"""Terms that keep a field a signed distance of a thing in its box: eikonal loss, first sphere, bound of the box."""

from jaxtyping import Float
from torch import Tensor


def eikonal_loss(gradient: Float[Tensor, "*points 3"]) -> Float[Tensor, ""]:
    """(|grad sdf| - 1)^2, the mean over points: a distance grows by one unit a unit (ShapeClipper Sec. 3.4)."""
    return (gradient.norm(dim=-1) - 1).square().mean()


def sphere_sdf(points: Float[Tensor, "*points 3"], radius: float = 0.5) -> Float[Tensor, "*points"]:
    """Signed distance of a centred sphere: the shape that training starts from (Sec. 3.4)."""
    return points.norm(dim=-1) - radius


def cube_distance(points: Float[Tensor, "*points 3"], half: float = 0.5) -> Float[Tensor, "*points"]:
    """Distance to the centred cube of side 2 `half`, 0 inside: no object in the cube is nearer to the point.

    Examples
    --------
    >>> import torch
    >>> cube_distance(torch.tensor([[0.8, 0.0, 0.9], [0.1, 0.2, 0.3]]))
    tensor([0.5000, 0.0000])
    """
    return (points.abs() - half).relu().norm(dim=-1)


def cube_loss(
    points: Float[Tensor, "*points 3"], sdf: Float[Tensor, "*points"], half: float = 0.5
) -> Float[Tensor, ""]:
    """How far a field falls below the least value that an object in the cube allows, the mean over points (ours).

    The same thought as SDF-SRN's Eq. 4, with the box that the data's objects are known to be in for a silhouette.
    """
    least = cube_distance(points, half)
    return ((least - sdf).relu() * (least > 0)).mean()  # inside the cube the field may be anything
