"""Copies among the photos of a folder: files that are called alike, and pictures that are nearly the same.

Nothing is dropped: copies count as views of one object, so they share a split and are no neighbours of each other.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from data_scripts.photo_names import Item
from lib.data.images import on_white
from lib.data.neighbors import find_neighbors
from lib.data.photos_reading import Photo

SIDE = 16  # pixels a side of what copies are known by
NEAR_DUPLICATE = 0.999  # between copies and neighbouring views of one object; README.md says what was measured


def signature(photo: Photo) -> UInt8[np.ndarray, " values"]:
    """The whole photo on white at 16 x 16 pixels: what is left of it in any format, quality and size.

    Not the crop: masks that a network guesses move by a pixel from copy to copy.
    """
    rgb = photo.rgb if photo.alpha is None else on_white(photo.rgb, photo.alpha)
    return np.asarray(Image.fromarray(rgb).resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)


def merge_copies(
    signatures: UInt8[np.ndarray, "samples values"], rows: list[dict[str, Any]], threshold: float = NEAR_DUPLICATE
) -> tuple[list[dict[str, Any]], list[list[str]]]:
    """Give near-duplicates one model, whatever their categories, and so on along chains of them.

    Parameters
    ----------
    signatures : array, shape (N, D)
        Of the samples; see `signature`.
    rows : list of N dicts
        With id and model.
    threshold : float
        Correlation of signatures above which two photos are copies; 1 or more looks for none.

    Returns
    -------
    tuple
        The rows with their models, and [id, reason] of each sample that has a near-duplicate under another model.
    """
    names = np.array([row["model"] for row in rows], dtype=object)
    vectors = torch.from_numpy(signatures.astype(np.float32))
    # their products are correlations; 0 for photos of one colour, which can be compared with nothing
    vectors = F.normalize(vectors - vectors.mean(dim=1, keepdim=True), dim=1)
    label, found = _linked(vectors, pd.factorize(names, sort=True)[0], threshold)
    first = pd.Series(names).groupby(label).transform("min")
    told = "near-duplicate: correlation {:.4f} with {!r}; both count as views of one object, {!r}"
    listed = [[rows[i]["id"], told.format(score, rows[j]["id"], first[i])] for i, (j, score) in sorted(found.items())]
    return [row | {"model": name} for row, name in zip(rows, first, strict=True)], listed


def _linked(
    vectors: Float[Tensor, "samples size"], label: Int[np.ndarray, " samples"], threshold: float
) -> tuple[Int[np.ndarray, " samples"], dict[int, tuple[int, float]]]:
    """Labels joined where vectors are alike, and of each row so joined the most similar of another label.

    Boruvka's algorithm: each row with a copy under another label joins that one's label, until none has any.
    """
    found: dict[int, tuple[int, float]] = {}
    left = vectors.norm(dim=1).gt(0.5).numpy().nonzero()[0] if threshold < 1 else np.arange(0)
    while len(left):
        nearest = find_neighbors(vectors[left], 1, exclude=label[left], fill=True)
        near = (nearest.score[:, 0] > threshold).numpy()  # not so where there is none
        rows, others, scores = left[near], left[nearest.index[near, 0].numpy()], nearest.score[near, 0].tolist()
        for row, other, score in zip(rows.tolist(), others.tolist(), scores, strict=True):
            found.setdefault(row, (other, score))
        count, ones = int(label.max()) + 1, np.ones(len(rows))
        links = coo_array((ones, (label[rows], label[others])), (count, count))
        label = connected_components(links, directed=False)[1][label]
        left = rows  # what has no copy elsewhere now has none later
    return label, found


def called_alike(items: Iterable[Item], rows: Iterable[dict[str, Any]]) -> list[list[str]]:
    """[id, reason] of each sample whose file has another one's name but for the ending."""
    kept = {row["id"] for row in rows}
    told = "duplicate name: {0} is called alike, so this one is {1!r}; both count as views of one object"
    return [[item.id, told.format(item.twin, item.id)] for item in items if item.twin and item.id in kept]
