"""Which quarter turn of a viewpoint (ours): the one nearest to another, or the one that explains an image best."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from lib.data.loading import Batch
from lib.geometry.cameras import Viewpoint
from lib.losses.normal import to_canonical
from lib.losses.reprojection import soft_iou
from lib.rendering.sampling import sample_pixels, values_at
from lib.rendering.volume import RenderedMaps
from lib.systems.shapeclipper_config import ShapeClipperConfig


def nearest_quarter(viewpoint: Viewpoint, other: Viewpoint) -> Viewpoint:
    """The viewpoint, turned by 0, 90, 180 or 270 degrees so that its azimuth is closest to the other's."""
    turns = _turns(viewpoint)
    likeness = [(viewpoint.turned(turn).azimuth * other.azimuth).sum(-1) for turn in turns]
    return viewpoint.turned(turns[torch.stack(likeness).argmax(dim=0), 0])


@torch.no_grad()
def _scores(render, target, shape_code, viewpoint, config, generator) -> Float[Tensor, "quarters batch"]:
    index = sample_pixels(target.ray_weights, config.quarter_rays, generator)
    mask, normal = values_at(target.mask, index), values_at(target.normal, index)
    scores = []
    for turn in _turns(viewpoint):
        view = viewpoint.turned(turn)
        maps = render(shape_code, None, view, index, target.rgb.shape[1], None, config.quarter_samples)
        angular = 1 - (maps.normal * to_canonical(normal, view.rotation())).sum(-1) * maps.mask
        scores.append(1 - soft_iou(maps.mask, mask) + (angular * mask).sum(-1) / (mask.sum(-1) + 1e-6))
    return torch.stack(scores)


def best_quarter(
    render: Callable[..., RenderedMaps],
    target: Batch,
    shape_code: Float[Tensor, "batch code"],
    viewpoint: Viewpoint,
    config: ShapeClipperConfig,
    generator: torch.Generator,
) -> Viewpoint:
    """The viewpoint, turned by a quarter or two where the shape explains the image better then, by a margin.

    Scores are 1 - IoU of the mask plus the mean angular error (1 - cos) of the normals on the object; all turns see
    the same pixels and depths, so that equal ones score equally.

    Parameters
    ----------
    render : callable
        ``ShapeClipper._render``: codes, viewpoint, pixels, image size, generator, samples -> maps.
    """
    scores = _scores(render, target, shape_code, viewpoint, config, generator)
    scores[0] -= config.quarter_margin
    return viewpoint.turned(_turns(viewpoint)[scores.argmin(dim=0), 0])


def _turns(viewpoint: Viewpoint) -> Float[Tensor, "quarters batch"]:
    quarters = torch.arange(4, device=viewpoint.azimuth.device) * (math.pi / 2)
    return quarters[:, None].expand(4, len(viewpoint))
