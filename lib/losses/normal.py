"""Off-the-shelf normals as supervision, compared in the canonical frame: ShapeClipper Sec. 3.3, Eq. 4."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

RankBy = Literal["loss", "angle"]


def to_canonical(
    normal: Float[Tensor, "batch rays 3"], rotation: Float[Tensor, "batch 3 3"]
) -> Float[Tensor, "batch rays 3"]:
    """Turn camera-frame normals into the world frame: R^T n for a world-to-camera rotation R.

    The gradient flows into the rotation, so the viewpoint learns from local geometry.
    """
    return normal @ rotation


def normal_errors(
    rendered: Float[Tensor, "*rays 3"], target: Float[Tensor, "*rays 3"], l1_weight: float = 5.0
) -> tuple[Float[Tensor, "*rays"], Float[Tensor, "*rays"]]:
    """Per-pixel error of unit normals in one frame: the loss of Eq. 4 and its angular part 1 - cos.

    The paper writes -cos; the released code adds the constant 1, so that a perfect normal costs nothing.
    """
    angular = 1 - (rendered * target).sum(dim=-1)
    return l1_weight * (rendered - target).abs().sum(dim=-1) + angular, angular


def inliers(errors: Float[Tensor, " pixels"], keep: float) -> Bool[Tensor, " pixels"]:
    """Outlier dropout: the share `keep` of a minibatch's pixels with the smallest errors."""
    if keep >= 1 or len(errors) == 0:
        return torch.ones_like(errors, dtype=torch.bool)
    count = max(1, int(keep * len(errors)))
    selected = torch.zeros_like(errors, dtype=torch.bool)
    selected[errors.detach().argsort(stable=True)[:count]] = True
    return selected


def normal_loss(
    rendered: Float[Tensor, "batch rays 3"],
    target: Float[Tensor, "batch rays 3"],
    rotation: Float[Tensor, "batch 3 3"],
    visible: Bool[Tensor, "batch rays"],
    keep: float = 0.8,
    rank_by: RankBy = "angle",
    l1_weight: float = 5.0,
) -> Float[Tensor, ""]:
    """L_N of Eq. 4 with batchwise outlier dropout.

    Parameters
    ----------
    rendered : Tensor
        Unit normals in the world frame.
    target : Tensor
        Off-the-shelf unit normals in the camera frame.
    rotation : Tensor
        World-to-camera rotations of the (predicted) viewpoints.
    visible : Tensor
        Where both the image and the rendering show the object; other rays do not count.
    keep : float
        Share of the minibatch's pixels that count, lowest error first; 1 turns the dropout off. The paper gives no
        value, the released code 0.8.
    rank_by : {"loss", "angle"}
        What that error is: the paper sorts the normal loss itself (Sec. 3.3), the released code 1 - cos.

    Returns
    -------
    Tensor
        Mean over the kept pixels, in [0, 5 * 2 sqrt(3) + 2]; 0 when no pixel is visible.
    """
    target = to_canonical(target, rotation)
    error, angular = normal_errors(rendered[visible], target[visible], l1_weight)
    kept = inliers(error if rank_by == "loss" else angular, keep)
    return (error * kept).sum() / kept.sum().clamp(min=1)
