"""The stored mesh of a model: what can be seen of it from outside, with few faces."""

from dataclasses import dataclass

import fast_simplification
import numpy as np
import trimesh
from jaxtyping import Bool
from scipy import ndimage

from data_scripts.arrays import Faces, Points, Vector, Vertices
from data_scripts.raycasting import Caster

FAR = 3.0  # rays start outside the unit cube
ATTEMPTS = ((1500, 4), (2500, 4), (4000, 4), (6000, 4), (4000, 2), (6000, 1))  # faces, aggressiveness
GRID = 128  # rays along each side of a square of parallel rays


def sphere_directions(count: int) -> Points:
    """Evenly spread unit vectors on a Fibonacci spiral, straight down and up excluded."""
    height = 1.0 - 2.0 * (np.arange(count) + 0.5) / count
    turn = np.pi * (3.0 - np.sqrt(5.0)) * np.arange(count)
    radius = np.sqrt(1.0 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1)


def parallel_rays(direction: Vector, grid: int = GRID) -> tuple[np.ndarray, np.ndarray]:
    """A square of parallel rays that covers the unit cube: origins and directions, (grid * grid, 3) each."""
    helper = np.eye(3)[np.argmin(np.abs(direction))]
    right = np.cross(direction, helper)
    right /= np.linalg.norm(right)
    up = np.cross(right, direction)
    steps = ((np.arange(grid) + 0.5) / grid - 0.5) * np.sqrt(3.0)
    offset = steps[:, None, None] * right + steps[None, :, None] * up
    origins = offset.reshape(-1, 3) - FAR * direction
    return origins, np.broadcast_to(direction, origins.shape)


def visible_faces(vertices: Vertices, faces: Faces, directions: int = 96) -> Bool[np.ndarray, " faces"]:
    """Which faces can be seen from outside, from around, above and below.

    A face counts as seen if a grid of parallel rays meets it, or if its centre sees the sky in one of the
    directions: the first finds large faces that are mostly hidden, the second faces that rays miss.
    """
    caster = Caster(vertices, faces)
    sky = sphere_directions(directions)
    seen = np.zeros(len(faces), dtype=bool)
    for direction in sky:
        prim = caster.first(*parallel_rays(direction))["primID"]
        seen[prim[prim >= 0]] = True
    centres = vertices[faces].mean(axis=1)
    for direction in sky:
        hidden = np.flatnonzero(~seen)
        origins = centres[hidden] + 1e-4 * direction
        seen[hidden] = ~caster.blocked(origins, np.broadcast_to(direction, origins.shape))
    return seen


def clean(vertices: Vertices, faces: Faces) -> tuple[np.ndarray, np.ndarray]:
    """Merge equal vertices and drop faces without area and faces given twice (whichever way they are wound)."""
    _, first, index = np.unique(np.round(vertices, 5), axis=0, return_index=True, return_inverse=True)
    faces = index.reshape(-1)[faces]
    corners = np.sort(faces, axis=1)
    keep = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    _, once = np.unique(corners[keep], axis=0, return_index=True)
    faces = faces[keep][np.sort(once)]
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[first][used], faces.reshape(-1, 3)


@dataclass(frozen=True)
class Likeness:
    """How well one mesh stands for another, seen in parallel rays from seven sides.

    Attributes
    ----------
    overlap : float
        Intersection over union of the silhouettes.
    lost : float
        Share of the silhouettes' pixels that have nothing of the other mesh within one pixel: thin parts
        that vanished, which the overlap hardly notices.
    gap : float
        Mean difference of depth where both are hit.
    """

    overlap: float
    lost: float
    gap: float

    @property
    def good(self) -> bool:
        """Whether a reader would take one for the other."""
        return self.overlap >= 0.98 and self.lost <= 0.003 and self.gap <= 0.004


def likeness(original: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Likeness:
    """Compare a mesh (vertices, faces) with another."""
    casters = Caster(*original), Caster(*other)
    overlap, union, lost, area, gaps = 0, 0, 0, 0, []
    for direction in sphere_directions(7):
        first, second = (caster.first(*parallel_rays(direction)) for caster in casters)
        hit = first["primID"] >= 0, second["primID"] >= 0
        both = hit[0] & hit[1]
        near = ndimage.binary_dilation(hit[1].reshape(GRID, GRID), np.ones((3, 3))).ravel()
        overlap, union = overlap + both.sum(), union + (hit[0] | hit[1]).sum()
        lost, area = lost + (hit[0] & ~near).sum(), area + hit[0].sum()
        gaps.append(np.abs(first["tfar"][both] - second["tfar"][both]))
    gap = np.concatenate(gaps)
    return Likeness(overlap / max(union, 1), lost / max(area, 1), float(gap.mean()) if len(gap) else 1.0)


def outer_mesh(vertices: Vertices, faces: Faces, attempts: tuple[tuple[int, int], ...] = ATTEMPTS) -> trimesh.Trimesh:
    """The outer surface, decimated as far as it still looks the same.

    The first of the ``attempts`` (faces to reach, aggressiveness) that is a good likeness is taken, or else
    the best of all. The bounding box is kept exactly.
    """
    outer = clean(vertices, faces[visible_faces(vertices, faces)])
    best, best_score = outer, 0.0
    for target, aggressiveness in attempts:
        if len(outer[1]) <= target:
            best = outer
            break
        candidate = decimate(*outer, target, aggressiveness)
        like = likeness(outer, candidate)
        if like.good or like.overlap - like.lost > best_score:
            best, best_score = candidate, like.overlap - like.lost
        if like.good:
            break
    # scale and shift each axis by the hair that decimation took off the bounding box
    low, high = best[0].min(axis=0), best[0].max(axis=0)
    reference = vertices[faces.ravel()]
    target = reference.min(axis=0)
    scale = (reference.max(axis=0) - target) / np.where(high > low, high - low, 1.0)
    return trimesh.Trimesh((best[0] - low) * scale + target, best[1], process=False)


def decimate(vertices: Vertices, faces: Faces, target: int, aggressiveness: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadric decimation that respects open borders: vertices and faces of the result."""
    points, triangles = fast_simplification.simplify(
        *_with_flaps(vertices, faces), target_count=target, agg=aggressiveness
    )
    return clean(points.astype(np.float64), triangles)


def _with_flaps(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stand a tiny triangle on each open edge.

    All planes at the border of a flat open sheet are one plane, so moving its border within that plane costs
    quadric decimation nothing: boards vanished. The flaps' planes hold the border; the flaps themselves cost
    nothing to collapse and go first, or remain as slivers of 1/500.
    """
    edges = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, index, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    open_edges = np.flatnonzero(count[index.reshape(-1)] == 1)
    corners = vertices[faces[open_edges // 3]]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    tips = vertices[edges[open_edges]].mean(axis=1) + 0.002 * normals
    flaps = np.column_stack([edges[open_edges], len(vertices) + np.arange(len(tips))])
    return np.concatenate([vertices, tips]).astype(np.float32), np.concatenate([faces, flaps]).astype(np.int32)
