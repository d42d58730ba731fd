"""Terms that keep a field a signed distance: the eikonal loss and the sphere it starts from."""

from jaxtyping import Float
from torch import Tensor


def eikonal_loss(gradient: Float[Tensor, "*points 3"]) -> Float[Tensor, ""]:
    """(|grad sdf| - 1)^2, the mean over points: a distance grows by one unit a unit (ShapeClipper Sec. 3.4)."""
    return (gradient.norm(dim=-1) - 1).square().mean()


def sphere_sdf(points: Float[Tensor, "*points 3"], radius: float = 0.5) -> Float[Tensor, "*points"]:
    """Signed distance of a centred sphere: the shape that training starts from (Sec. 3.4)."""
    return points.norm(dim=-1) - radius
