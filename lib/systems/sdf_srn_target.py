"""What SDF-SRN compares with: some pixels of images with known viewpoints, their rays and distance transforms."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lib.data.augment import augmented
from lib.data.loading import Batch
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, index_to_pixel
from lib.geometry.distance_transform import Beyond, Unusable, count_unusable, distance_transform, sdf_lower_bound
from lib.rendering.parallel import draw_rows, largest
from lib.rendering.sampling import sample_pixels, values_at


@dataclass(frozen=True)
class Target:
    """R pixels of each of B images.

    Attributes
    ----------
    viewpoint : Viewpoint
        Of the images.
    rays : Rays
        Through the pixels, world frame.
    plane : Tensor, shape (B, R, 2)
        The pixels at focal length 1 with the principal point at 0.
    rgb : Tensor, shape (B, R, 3)
        In [0, 1].
    inside : Tensor, shape (B, R)
        In the silhouette.
    distance : Tensor, shape (B, R)
        To the silhouette, on the plane; 0 inside, infinite where the image has no silhouette.
    weights : Tensor, shape (B, R)
        Importance 1 / (distance to the silhouette's boundary, on both sides), in 1 / pixels; or 1.
    unusable : Unusable
        How many of the B silhouettes are empty, full, or touch the border.
    """

    viewpoint: Viewpoint
    rays: Rays
    plane: Float[Tensor, "batch rays 2"]
    rgb: Float[Tensor, "batch rays 3"]
    inside: Bool[Tensor, "batch rays"]
    distance: Float[Tensor, "batch rays"]
    weights: Float[Tensor, "batch rays"]
    unusable: Unusable


def sample_target(
    batch: Batch, rays: int, importance: bool, generator: torch.Generator, beyond: Beyond = "background"
) -> Target:
    """Draw pixels, all alike (Sec. 4), and look up what belongs to them.

    The boundary of a silhouette is half-way between two pixel centres, so half a pixel is taken off all distances.

    **Silhouettes that say little** are used as they are, and counted (`Target.unusable`), so that nothing is divided by
    nothing. An image that is silhouette everywhere, or nowhere, has no boundary: all its pixels then count as an
    image's width away from one. An empty one has infinite distances, which bound nothing, and a full one has no pixel
    outside: Eq. 4 leaves both out. One that touches the border is taken for whole: where the crop cut the object, that
    forbids what is there.

    Parameters
    ----------
    beyond : {"background", "unknown"}
        With "unknown" the border counts as boundary, on both sides: nothing is then forbidden that may only be cut off,
        pixels are as important as they are near the border, and empty and full images have a boundary, too.
    """
    size = batch.rgb.shape[1]
    index = sample_pixels(torch.ones_like(batch.mask), rays, generator)
    viewpoint, pixels = batch.viewpoint, index_to_pixel(index, size)
    inside = (batch.mask > 0.5).cpu()  # once, for three that look at it there
    outer, inner = (
        values_at(distance_transform(part, beyond=beyond, margin=0.5).to(batch.mask.device), index)
        for part in (inside, ~inside)
    )
    focal = viewpoint.focal[:, None]
    weights = 1 / torch.maximum(outer, inner).clamp(max=size)
    return Target(
        viewpoint,
        camera_rays(viewpoint, pixels),
        (pixels - viewpoint.center[:, None]) / focal[..., None],
        values_at(batch.rgb, index),
        values_at(batch.mask, index) > 0.5,
        outer / (focal * size),
        weights if importance else torch.ones_like(weights),
        count_unusable(inside),
    )


def outside_only(target: Target) -> Target:
    """Only rays outside the silhouettes, as many an image as the image with most of them has; at least one."""
    outside = ~target.inside
    count = largest(max(1, int(outside.sum(dim=1).max())), outside.device)
    order = outside.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    rays = Rays(values_of(target.rays.origins, order), values_of(target.rays.directions, order))
    chosen = [values_of(getattr(target, name), order) for name in ("plane", "rgb", "inside", "distance", "weights")]
    return Target(target.viewpoint, rays, *chosen, target.unusable)


def values_of(values: Tensor, order: Tensor) -> Tensor:
    """Values of some rays: (B, R, ...) at (B, K)."""
    return values[torch.arange(len(values), device=values.device)[:, None], order]


def silhouette_bound(target: Target, depth: Float[Tensor, "batch rays depths"]) -> Float[Tensor, "batch rays depths"]:
    """b(z; u) of Eq. 1 at depths along unit rays, whose projective depth is z = depth * cos(angle to the axis)."""
    view = target.viewpoint
    if view.projection == "perspective":
        cosine = (target.rays.directions * view.rotation()[:, None, 2]).sum(-1)
        depth = (depth * cosine[..., None]).clamp(min=0)  # of grazing rays rounding may make it -1e-8
    else:
        depth = view.distance[:, None, None].expand_as(depth)
    return sdf_lower_bound(target.plane[..., None, :], target.distance[..., None], depth, view.projection)


def augmented_batch(batch: Batch, jitter: float, rescale: float, generator: torch.Generator) -> Batch:
    """Other colours, and other sizes with the focal length that goes with them."""
    if rescale > 0:
        noise = draw_rows(torch.rand, (len(batch.rgb),), generator).to(batch.rgb)
        batch = rescaled(batch, 1 + rescale * (2 * noise - 1))
    if jitter > 0:
        batch = replace(batch, rgb=augmented(batch.rgb, generator, colour=jitter, size=0.0))
    return batch


def rescaled(batch: Batch, scale: Float[Tensor, " batch"]) -> Batch:
    """Images magnified about their middle, white where nothing was; the viewpoint's camera magnifies as much."""
    images = torch.cat([1 - batch.rgb, batch.mask[..., None]], dim=-1).permute(0, 3, 1, 2)
    matrix = torch.diag_embed((1 / scale)[:, None].expand(-1, 2))
    grid = F.affine_grid(F.pad(matrix, (0, 1)), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)
    view = batch.viewpoint
    center = 0.5 + scale[:, None] * (view.center - 0.5)
    view = replace(view, focal=view.focal * scale, center=center)
    return replace(batch, rgb=1 - moved[..., :3], mask=moved[..., 3], viewpoint=view)


def silhouette_iou(
    rendered: Float[Tensor, "batch height width"], mask: Float[Tensor, "batch height width"]
) -> Float[Tensor, " batch"]:
    """Intersection over union of silhouettes, each thresholded at 1/2; 1 where both are empty."""
    a, b = rendered > 0.5, mask > 0.5
    union = (a | b).flatten(1).sum(1)
    return torch.where(union > 0, (a & b).flatten(1).sum(1) / union.clamp(min=1), 1.0)
