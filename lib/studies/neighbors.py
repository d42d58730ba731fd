"""Which neighbours an image has, and how one of them is chosen (notebook 04)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.geometry.meshes import sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances
from lib.losses.reprojection import soft_iou
from lib.losses.semantic import neighbor_probabilities
from lib.rendering.sampling import sample_pixels


@dataclass(frozen=True)
class TellingQuery:
    """Rows of an image seen from the front, and of two of its neighbours that are seen from the side.

    Attributes
    ----------
    query, near, far : int
        The shape of `near` is much like the query's, that of `far` is not.
    near_distance, far_distance : float
        Chamfer distances of their true shapes to the query's, world units.
    """

    query: int
    near: int
    far: int
    near_distance: float
    far_distance: float


def telling_query(data: PreparedDataset, neighbors: Int[Tensor, "samples count"], limit: float = 0.06) -> TellingQuery:
    """Find the frontal image whose side-view neighbours differ most in shape, one of them being within `limit`."""
    azimuth = np.degrees(data.viewpoint.angles()[0].numpy())
    frontal = [row for row in range(len(data)) if abs(azimuth[row]) < 20]
    best = None
    for query in frontal:
        side = [row for row in neighbors[query].tolist() if 60 < abs(azimuth[row]) < 120]
        found = sorted((shape_distance(data, query, row), row) for row in side)
        if len(found) > 1 and found[0][0] < limit:
            spread = found[-1][0] - found[0][0]
            if best is None or spread > best[0]:
                best = (spread, TellingQuery(query, found[0][1], found[-1][1], found[0][0], found[-1][0]))
    if best is None:
        raise InputError(f"{data.prepared.folder}: no frontal image has two neighbours seen from the side, one alike")
    return best[1]


def shape_distance(data: PreparedDataset, a: int, b: int, count: int = 1500) -> float:
    """Chamfer distance of the true shapes of two samples, canonical frame, world units."""
    points = [sample_surface(data.mesh(row), count, 0) for row in (a, b)]
    return float(chamfer_distance(*nearest_distances(*points)))


@dataclass(frozen=True)
class Weighting:
    """Overlaps of images with their neighbours, and the probabilities that follow; arrays (N, K).

    Attributes
    ----------
    aligned, released : ndarray
        IoU of whole masks, and of masks at independently drawn pixels as in the released code.
    intended_probability, released_probability : ndarray
        p ~ (1 - IoU)^4 with either; the paper's are all 1 / K.
    """

    aligned: Float[np.ndarray, "images neighbors"]
    released: Float[np.ndarray, "images neighbors"]
    intended_probability: Float[np.ndarray, "images neighbors"]
    released_probability: Float[np.ndarray, "images neighbors"]


def compare_weightings(
    data: PreparedDataset, rows: Int[Tensor, " images"], neighbors: Int[Tensor, "samples count"], rays: int, generator
) -> Weighting:
    """Weigh the neighbours of some images as the code intends and as it was released."""
    batch, count = data.batch(rows), neighbors.shape[1]
    others = data.batch(neighbors[rows].flatten())
    own = batch.mask[:, None].expand(-1, count, -1, -1).flatten(0, 1)
    own_weights = batch.ray_weights[:, None].expand(-1, count, -1, -1).flatten(0, 1)
    shape = (len(rows), count)
    aligned = soft_iou(own.flatten(1), others.mask.flatten(1)).unflatten(0, shape)
    released = independent_iou(own, own_weights, others.mask, others.ray_weights, rays, generator).unflatten(0, shape)
    intended = neighbor_probabilities(batch.mask, others.mask.unflatten(0, shape), "silhouette")
    preference = (1 - released) ** 4
    return Weighting(*(t.numpy() for t in (aligned, released, intended, preference / preference.sum(1, keepdim=True))))


def independent_iou(
    a: Float[Tensor, "batch height width"],
    a_weights: Float[Tensor, "batch height width"],
    b: Float[Tensor, "batch height width"],
    b_weights: Float[Tensor, "batch height width"],
    rays: int,
    generator: torch.Generator,
) -> Float[Tensor, " batch"]:
    """IoU as the released code computes it: each mask is sampled at pixels of its own, and the two lists are compared.

    If a share p of each list is foreground the result is about p^2 / (2 p - p^2) = p / (2 - p), whatever the masks.
    """
    lists = [
        mask.flatten(1).gather(1, sample_pixels(w, rays, generator)) for mask, w in ((a, a_weights), (b, b_weights))
    ]
    return soft_iou(*lists)
