"""Which neighbour supervises an image in the semantic shape consistency loss: ShapeClipper Sec. 3.2.

The loss itself (Eq. 3 and 6) is the reprojection loss of the neighbour's image, rendered from the query's shape with
the neighbour's texture and viewpoint; `lib.systems.shapeclipper` puts it together.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.losses.reprojection import soft_iou
from lib.rendering.sampling import ray_weights, sample_pixels, values_at

NeighborWeighting = Literal["uniform", "silhouette", "released"]
RELEASED_RAYS, RELEASED_DRAWS = 512, 8


def neighbor_probabilities(
    mask: Float[Tensor, "batch height width"],
    neighbor_masks: Float[Tensor, "batch neighbors height width"],
    weighting: NeighborWeighting,
    power: int = 4,
) -> Float[Tensor, "batch neighbors"]:
    """Probability of each neighbour.

    "uniform" is the paper's sampling. "silhouette" is what the released code intends: p ~ (1 - IoU)^4, so that a
    neighbour seen from another side is preferred; it compares whole aligned masks. "released" is what that code does:
    it compares the rays of a training step, which are drawn at different pixels of the two images, and so hardly
    prefers any. A step draws its rays anew; what counts is the mean of the probabilities, here over a few draws.
    """
    if weighting == "uniform":
        return torch.full(neighbor_masks.shape[:2], 1 / neighbor_masks.shape[1], device=mask.device)
    if weighting == "released":
        return _preference(unaligned_overlap(mask, neighbor_masks), power).mean(dim=0)
    query = mask[:, None].expand_as(neighbor_masks)
    overlap = soft_iou(query.flatten(0, 1).flatten(1), neighbor_masks.flatten(0, 1).flatten(1))
    return _preference(overlap.unflatten(0, neighbor_masks.shape[:2]), power)


def _preference(overlap: Float[Tensor, "*rows neighbors"], power: int) -> Float[Tensor, "*rows neighbors"]:
    preference = (1 - overlap).clamp(min=1e-3) ** power
    return preference / preference.sum(dim=-1, keepdim=True)


def unaligned_overlap(
    mask: Float[Tensor, "batch height width"],
    neighbor_masks: Float[Tensor, "batch neighbors height width"],
    seed: int = 0,
) -> Float[Tensor, "draws batch neighbors"]:
    """IoU as the released code computes it, some draws: between mask values at rays drawn for each image by itself.

    The n-th ray of one image has nothing to do with the n-th of the other, so even a mask and itself overlap little.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.cat([mask[:, None], neighbor_masks], dim=1)
    flat = images.flatten(0, 1)
    weights = torch.stack([torch.from_numpy(ray_weights(one.cpu().numpy() > 0.5)) for one in flat])
    overlaps = []
    for _ in range(RELEASED_DRAWS):
        index = sample_pixels(weights, RELEASED_RAYS, generator).to(mask.device)
        drawn = values_at(flat, index).unflatten(0, images.shape[:2])
        query = drawn[:, :1].expand_as(drawn[:, 1:])
        overlaps.append(soft_iou(query.flatten(0, 1), drawn[:, 1:].flatten(0, 1)).unflatten(0, drawn[:, 1:].shape[:2]))
    return torch.stack(overlaps)


def choose_neighbors(
    neighbors: Int[Tensor, "batch neighbors"],
    probabilities: Float[Tensor, "batch neighbors"],
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    """One neighbour for each image, drawn from its probabilities."""
    choice = torch.multinomial(probabilities.to(generator.device), 1, generator=generator).to(neighbors.device)
    return neighbors.gather(1, choice)[:, 0]
