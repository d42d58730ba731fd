"""First guesses of viewpoints that nobody gave, from normals alone (ours; the paper's estimator starts from nothing).

Most made objects have faces along three directions, and cameras stand above the ground. So the normals of one image
tell its elevation, and its azimuth up to quarter turns. Which quarter, many images tell together: two of them with
look-alike normals are seen from nearly the same side, so their azimuths differ by what their quarter angles differ by,
wrapped to +-45 degrees. Angular synchronisation (Singer, 2011) finds azimuths that agree with all such differences.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import eigsh
from torch import Tensor

from lib.data.neighbors import find_neighbors
from lib.geometry.cameras import Viewpoint
from lib.geometry.metrics import azimuth_entropy
from lib.losses.camera import axis_alignment

QUARTER = np.pi / 2
LOOK_ALIKES = 5  # an image
COARSE = 16  # pixels a side in which normals are compared
SPREAD = 0.9  # entropy from which azimuths count as spread over the circle


@dataclass(frozen=True)
class Guesses:
    """Angles in radians of N images; azimuths as a whole are known up to a half turn (both fit the mirror plane)."""

    azimuth: Float[Tensor, " images"]
    elevation: Float[Tensor, " images"]


def guess_viewpoints(images: Iterable[tuple[Tensor, Tensor]], models: np.ndarray) -> Guesses:
    """Guess the viewpoints of images of one category of objects that are symmetric in x and seen from all sides.

    Parameters
    ----------
    images : iterable of (normal, mask)
        N in all, some at a time: unit normals in the camera frame (OpenCV), shape (n, H, W, 3), and masks in [0, 1],
        shape (n, H, W). Of each image a few kilobytes are kept.
    models : array of N labels
        Look-alikes are images of other models. Photos of unknown models have a label each.
    """
    seen = [(*axis_aligned_angles(normal, mask), _coarse(normal, mask)) for normal, mask in images]
    quarter, elevation, coarse = (torch.cat(parts) for parts in zip(*seen, strict=True))
    mirrored = coarse.flip(3) * coarse.new_tensor([-1.0, 1.0, 1.0, 1.0])[:, None, None]
    vectors = F.normalize(torch.cat([coarse, mirrored]).flatten(1), dim=-1)
    found = find_neighbors(vectors, LOOK_ALIKES, exclude=np.concatenate([models, models]))
    both = np.concatenate([quarter.numpy(), -quarter.numpy()])  # the mirrored image has the mirrored azimuth
    azimuth = synchronized_azimuths(both, np.asarray(found.index), np.asarray(found.score))
    return Guesses(torch.from_numpy(azimuth[: len(quarter)]).float(), elevation)


def _coarse(normal: Tensor, mask: Tensor) -> Float[Tensor, "images 4 coarse coarse"]:
    maps = torch.cat([normal * mask[..., None], mask[..., None]], dim=-1).permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(maps, COARSE)


def axis_aligned_angles(
    normal: Float[Tensor, "images height width 3"], mask: Float[Tensor, "images height width"], step: float = 3.0
) -> tuple[Float[Tensor, " images"], Float[Tensor, " images"]]:
    """Azimuth in [0, pi/2) and elevation in [-6, 45] degrees that lay the normals along the axes; both in radians.

    The best of a grid with `step` degrees between its points, by `lib.losses.camera.axis_alignment`.
    """
    azimuth, elevation = torch.meshgrid(torch.arange(0, 90, step), torch.arange(-6, 46, step), indexing="ij")
    azimuth, elevation = azimuth.flatten().deg2rad(), elevation.flatten().deg2rad()
    rotation = Viewpoint.from_angles(azimuth, elevation).rotation()
    best = []
    for directions, inside in zip(normal, mask > 0.5, strict=True):
        seen = directions[inside]
        seen = seen[:: max(1, len(seen) // 300)]  # a few hundred pixels tell as much as all
        best.append(axis_alignment(seen @ rotation).mean(dim=-1).argmax())
    best = torch.stack(best)
    return azimuth[best], elevation[best]


def synchronized_azimuths(
    quarter: Float[np.ndarray, " nodes"],
    look_alikes: Int[np.ndarray, "nodes k"],
    likeness: Float[np.ndarray, "nodes k"],
) -> Float[np.ndarray, " nodes"]:
    """Azimuths that are `quarter` modulo quarter turns and agree between look-alikes.

    Parameters
    ----------
    quarter : array of N + N angles in radians
        Of images, then of the same images mirrored.
    look_alikes, likeness : arrays (2N, K)
        Indices of the K most similar nodes, -1 for none, and their cosine similarities.

    Returns
    -------
    array (2N,)
        In radians, up to a half turn of all.
    """
    vectors = _agreements(quarter, look_alikes, likeness)
    candidates = [_snapped(vector, quarter) for vector in vectors.T]
    # The leading vector is often the trivial one, with every image in one quarter. Viewpoints spread (Sec. 3.4).
    spread = [azimuth_entropy(np.rad2deg(azimuth)) for azimuth in candidates]
    chosen = next((i for i, entropy in enumerate(spread) if entropy > SPREAD), int(np.argmax(spread)))
    return candidates[chosen]


def _agreements(quarter, look_alikes, likeness, count: int = 6) -> np.ndarray:
    """Leading eigenvectors of the Hermitian matrix of wrapped differences, best first."""
    nodes, k = look_alikes.shape
    row, column = np.repeat(np.arange(nodes), k), look_alikes.ravel()
    keep = column >= 0
    weight = np.clip(likeness.ravel(), 1e-3, None) ** 4
    weights = csr_matrix((weight[keep], (row[keep], column[keep])), (nodes, nodes))
    weights = weights.maximum(weights.T).tocoo()
    difference = (quarter[weights.row] - quarter[weights.col] + QUARTER / 2) % QUARTER - QUARTER / 2
    degree = np.maximum(np.asarray(weights.sum(axis=1)).ravel(), 1e-9)
    entries = weights.data * np.exp(1j * difference) / np.sqrt(degree[weights.row] * degree[weights.col])
    matrix = csr_matrix((entries, (weights.row, weights.col)), weights.shape)
    values, vectors = eigsh(matrix, k=min(count, nodes - 2), which="LA", v0=np.ones(nodes, dtype=complex))
    return vectors[:, np.argsort(-values)]


def _snapped(vector: np.ndarray, quarter: np.ndarray) -> np.ndarray:
    """Phases of an eigenvector, turned so that mirrored images have opposite azimuths, moved to the nearest quarter."""
    images = len(vector) // 2
    turn = np.angle((vector[:images] * vector[images:]).sum()) / 2
    azimuth = np.angle(vector * np.exp(-1j * turn))
    return quarter + QUARTER * np.round((azimuth - quarter) / QUARTER)
