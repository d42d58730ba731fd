"""Which neighbour supervises an image in the semantic shape consistency loss: ShapeClipper Sec. 3.2.

The loss itself (Eq. 3 and 6) is the reprojection loss of the neighbour's image, rendered from the query's shape with
the neighbour's texture and viewpoint; `lib.systems.shapeclipper` puts it together.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.losses.reprojection import soft_iou

NeighborWeighting = Literal["uniform", "silhouette"]


def neighbor_probabilities(
    mask: Float[Tensor, "batch height width"],
    neighbor_masks: Float[Tensor, "batch neighbors height width"],
    weighting: NeighborWeighting,
    power: int = 4,
) -> Float[Tensor, "batch neighbors"]:
    """Probability of each neighbour.

    "uniform" is the paper's sampling. "silhouette" is what the released code intends: p ~ (1 - IoU)^4, so that a
    neighbour seen from another side is preferred; it compares whole aligned masks, where the released code compares
    rays drawn at different pixels of the two images and so hardly prefers any.
    """
    if weighting == "uniform":
        return torch.full(neighbor_masks.shape[:2], 1 / neighbor_masks.shape[1], device=mask.device)
    query = mask[:, None].expand_as(neighbor_masks)
    overlap = soft_iou(query.flatten(0, 1).flatten(1), neighbor_masks.flatten(0, 1).flatten(1))
    preference = (1 - overlap).clamp(min=1e-3) ** power
    preference = preference.unflatten(0, neighbor_masks.shape[:2])
    return preference / preference.sum(dim=-1, keepdim=True)


def choose_neighbors(
    neighbors: Int[Tensor, "batch neighbors"],
    probabilities: Float[Tensor, "batch neighbors"],
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    """One neighbour for each image, drawn from its probabilities."""
    choice = torch.multinomial(probabilities.to(generator.device), 1, generator=generator).to(neighbors.device)
    return neighbors.gather(1, choice)[:, 0]
