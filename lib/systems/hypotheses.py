"""Viewpoint hypotheses (ours): would the same shape, turned, explain an image better?"""

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


@torch.no_grad()
def best_turn(
    render: Callable[..., RenderedMaps],
    target: Batch,
    shape_code: Float[Tensor, "batch code"],
    viewpoint: Viewpoint,
    config: ShapeClipperConfig,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """The angle in radians to add to each azimuth: 0 unless another hypothesis wins by a margin.

    The hypotheses stand evenly around the object. Each is scored by 1 - IoU of the mask plus the mean angular error
    (1 - cos) of the normals on the object; all see the same pixels and depths, so that equal ones score equally.

    Parameters
    ----------
    render : callable
        ``ShapeClipper._render``: codes, viewpoint, pixels, image size, generator, samples -> maps.
    viewpoint : Viewpoint
        As predicted; the reference of the turns.
    """
    index = sample_pixels(target.ray_weights, config.hypothesis_rays, generator)
    mask, normal = values_at(target.mask, index), values_at(target.normal, index)
    turns = torch.arange(config.hypotheses, device=mask.device) * (2 * math.pi / config.hypotheses)
    scores = []
    for turn in turns:
        view = viewpoint.turned(turn.expand(len(mask)))
        maps = render(shape_code, None, view, index, target.rgb.shape[1], None, config.hypothesis_samples)
        angular = 1 - (maps.normal * to_canonical(normal, view.rotation())).sum(-1) * maps.mask
        scores.append(1 - soft_iou(maps.mask, mask) + (angular * mask).sum(-1) / (mask.sum(-1) + 1e-6))
    scores = torch.stack(scores, dim=-1)
    scores[:, 0] -= config.hypothesis_margin
    return turns[scores.argmin(dim=-1)]
