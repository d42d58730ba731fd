"""A signed distance must not be smaller than its silhouette's distance transform allows: SDF-SRN Eq. 4."""

import torch
from jaxtyping import Float
from torch import Tensor


def importance_weight(distance: Float[Tensor, "*pixels"]) -> Float[Tensor, "*pixels"]:
    """w(u) = 1 / D(u), so that what is near the silhouette counts most (SDF-SRN Sec. 3.1).

    Parameters
    ----------
    distance : Tensor
        D(u) in any unit, since weights are used as shares; 0 on the silhouette, where the weight is 0, because Eq. 4
        is about the pixels outside. Infinite distances have weight 0 too.

    Examples
    --------
    >>> importance_weight(torch.tensor([0.0, 0.5, 4.0, float("inf")]))
    tensor([0.0000, 2.0000, 0.2500, 0.0000])
    """
    outside = distance > 0
    return torch.where(outside, 1 / torch.where(outside, distance, torch.ones_like(distance)), 0)


def sdf_bound_loss(
    sdf: Float[Tensor, "batch rays depths"],
    bound: Float[Tensor, "batch rays depths"],
    distance: Float[Tensor, "batch rays"],
    weighted: bool = True,
) -> Float[Tensor, ""]:
    """L_SDF = sum_u w(u) sum_z max(0, b(z; u) - f(z ū)) / sum_u w(u), over the pixels of all images (SDF-SRN Eq. 4).

    Parameters
    ----------
    sdf : Tensor, shape (B, R, M)
        f at M depths on each of R rays, world units.
    bound : Tensor, shape (B, R, M)
        `lib.geometry.distance_transform.sdf_lower_bound` there; values that are not finite are left out.
    distance : Tensor, shape (B, R)
        D(u) of each ray, 0 on the silhouette (such rays are left out); the unit cancels.
    weighted : bool
        False is Table 3's ablation: every outside pixel counts the same.

    Returns
    -------
    Tensor
        World units, 0 or more; the sum over depths is Eq. 4's, so divide by M to compare different M. As in the
        released code an image with much near its silhouette counts more. 0 without a usable outside pixel.
    """
    weight = importance_weight(distance)
    weight = weight if weighted else (weight > 0).to(weight)
    missing = torch.where(bound.isfinite(), bound - sdf, 0).clamp(min=0)
    total = weight.sum()
    return (weight * missing.sum(-1)).sum() / torch.where(total > 0, total, torch.ones_like(total))
