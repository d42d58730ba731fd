"""Points or rays of several images in parts that one core of a processor works on alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

PART = 1024  # points of one image: what a layer makes of them stays in a core's cache

Part = tuple[int, slice]  # the image, and which of its points


def even(points: int, most: int = PART) -> int:
    """The size of parts that are as few as may be and alike."""
    return -(-points // max(1, -(-points // most)))


def parts_of(images: int, points: int, size: int) -> list[Part]:
    """Image after image; the last part of each may be smaller."""
    starts = range(0, points, max(1, size))
    return [(image, slice(first, min(first + size, points))) for image in range(images) for first in starts]


def taken(tensor: Tensor, part: Part, size: int = 0) -> Tensor:
    """The part (1, P, C) of a tensor (B, points, C), without gaps in memory; zeros fill it up to `size`."""
    image, points = part
    own = tensor[image, points].contiguous()
    return (own if len(own) >= size else F.pad(own, (0, 0, 0, size - len(own))))[None]


def together(found: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """What was found for all parts, (1, P, C) each, as one tensor (B, points, C)."""
    rows = [value[0, : points.stop - points.start] for value, (_, points) in zip(found, parts, strict=True)]
    return torch.cat(rows).unflatten(0, (parts[-1][0] + 1, -1))


def added(total: list[Tensor] | None, found: Sequence[Tensor]) -> list[Tensor]:
    """`total`, to which all that was found is added in place; what was found, where there is no total yet."""
    if total is None:
        return list(found)
    torch._foreach_add_(total, list(found))
    return total


def summed(found: Sequence[Sequence[Tensor]], parts: Sequence[Part]) -> list[Tensor]:
    """What each part says about its image's matrices, (1, ...), summed over the parts of each image: (B, ...).

    The sums take the place of what was found for the first parts.
    """
    of_images = {}
    for (image, _), own in zip(parts, found, strict=True):
        of_images[image] = added(of_images.get(image), own)
    return [torch.cat(column) for column in zip(*of_images.values(), strict=True)]
