"""What is rendered should look like what was seen: ShapeClipper Eq. 1-2."""

from jaxtyping import Float
from torch import Tensor


def rgb_loss(rendered: Float[Tensor, "batch rays 3"], target: Float[Tensor, "batch rays 3"]) -> Float[Tensor, ""]:
    """L_I, the mean squared colour difference (Eq. 1) over rays and channels, background included. In [0, 1]."""
    return (rendered - target).square().mean()


def soft_iou(a: Float[Tensor, "batch rays"], b: Float[Tensor, "batch rays"]) -> Float[Tensor, " batch"]:
    """Intersection over union of soft masks (Eq. 2), per image, in [0, 1]; two empty masks agree fully.

    Examples
    --------
    >>> soft_iou(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]]))
    tensor([0.5000])
    """
    intersection = (a * b).sum(dim=-1)
    union = (a + b - a * b).sum(dim=-1)
    return (intersection + 1e-6) / (union + 1e-6)


def mask_loss(rendered: Float[Tensor, "batch rays"], target: Float[Tensor, "batch rays"]) -> Float[Tensor, ""]:
    """L_M = 1 - IoU (Eq. 1), the mean over images. In [0, 1]."""
    return 1 - soft_iou(rendered, target).mean()
