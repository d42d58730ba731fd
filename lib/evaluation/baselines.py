"""Predictors that need no learning: what a learned reconstruction has to beat.

Every baseline knows the training shapes; none looks into a test image except the two retrievals. A name ends
with the viewpoint that it is measured with: ``(true view)`` is given the answer, ``(own view)`` takes the view
of the retrieved training image, ``(fixed view)`` always guesses azimuth 0 and the mean training elevation.
"""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from lib.data.loading import Batch, PreparedDataset
from lib.data.neighbors import image_features
from lib.errors import InputError
from lib.evaluation.predictors import Prediction, Predictor
from lib.geometry.alignment import Clouds, aligned_chamfer_distance
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import carve_occupancy, is_empty, marching_cubes, sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances

Describe = Callable[[Float[Tensor, "batch height width 3"]], Float[Tensor, "batch size"]]
Answer = Callable[[Batch], tuple[list[trimesh.Trimesh], Float[np.ndarray, "batch 3 3"]]]  # shapes, views without truth

THRESHOLDS = tuple(np.arange(0.1, 0.6, 0.025).round(3))  # tried for the mean shape
BASELINES = ("sphere", "box", "mean_shape", "medoid", "retrieval_feature", "retrieval_mask")


def make_baselines(
    train: PreparedDataset,
    measured: PreparedDataset,
    names: Sequence[str] | None = None,
    *,
    shapes: int = 64,
    describe: Describe | None = None,
) -> dict[str, Predictor]:
    """Baselines by their full names, in the order of `BASELINES`.

    Parameters
    ----------
    train, measured : PreparedDataset
        Training split, with meshes and viewpoints; and what will be measured, whose samples' categories are looked up.
    shapes : int
        Training shapes of a category, spread evenly over its samples, that the box, the mean and the medoid are
        made of.
    describe : callable, optional
        Images in [0, 1] to features for ``retrieval_feature``; ImageNet features of `lib.data.neighbors` without it.

    Raises
    ------
    InputError
        An unknown name, a category that was not trained on, or training samples without meshes or viewpoints.
    """
    unknown = sorted(set(names or ()) - set(BASELINES))
    if unknown:
        raise InputError(f"Unknown baseline {unknown[0]!r}: choose from {', '.join(BASELINES)}.")
    _check(train, measured)
    elevation = train.viewpoint.angles()[1].mean()[None]
    fixed_view = _rotations(Viewpoint.from_angles(torch.zeros(1), elevation))

    @cache  # a category's shape is made when its first sample comes
    def shape_of(name: str, category: str) -> trimesh.Trimesh:
        return category_shape(name, train, category_rows(train, category, shapes))

    def constant(name: str) -> Answer:
        def answer(batch: Batch):
            categories = measured.metadata["category"].iloc[batch.index.numpy()]
            return [shape_of(name, category) for category in categories], fixed_view.repeat(len(categories), axis=0)

        return answer

    def retrieved(name: str) -> Answer:
        find = mask_retrieval(train) if name == "retrieval_mask" else feature_retrieval(train, describe)

        def answer(batch: Batch):
            rows = find(batch)
            return [train.mesh(row) for row in rows.tolist()], _rotations(train.viewpoint[rows])

        return answer

    predictors = {}
    for name in [name for name in BASELINES if names is None or name in names]:
        if name.startswith("retrieval"):
            answer, view = retrieved(name), "own view"
        else:
            answer, view = constant(name), "fixed view"
        if name == "sphere":  # the same from every side
            predictors[name] = _predictor(answer, True)
        else:
            predictors[f"{name} (true view)"] = _predictor(answer, True)
            predictors[f"{name} ({view})"] = _predictor(answer, False)
    return predictors


def _predictor(answer: Answer, true_view: bool) -> Predictor:
    def predict(batch: Batch) -> list[Prediction]:
        meshes, rotations = answer(batch)
        rotations = _rotations(batch.viewpoint) if true_view else rotations
        return [Prediction(*pair, true_view) for pair in zip(meshes, rotations, strict=True)]

    return predict


def category_rows(train: PreparedDataset, category: str, count: int) -> list[int]:
    """At most `count` training samples of a category, spread evenly."""
    rows = np.flatnonzero(train.metadata["category"] == category)
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))].tolist()


def category_shape(name: str, train: PreparedDataset, rows: list[int]) -> trimesh.Trimesh:
    """The shape that stands for a category, made of these training samples."""
    if name == "sphere":
        return trimesh.creation.icosphere(subdivisions=4, radius=0.5)  # touches the sides of the unit cube
    meshes = [train.mesh(row) for row in rows]
    if name == "box":
        return mean_box(meshes)
    if name == "medoid":
        return meshes[medoid(meshes)]
    return mean_shape(meshes, _rotations(train.viewpoint[rows]))[0]


def mean_box(meshes: Sequence[trimesh.Trimesh]) -> trimesh.Trimesh:
    """A box with the mean side lengths of the meshes' bounding boxes."""
    return trimesh.creation.box(np.mean([mesh.extents for mesh in meshes], axis=0))


def mean_shape(
    meshes: Sequence[trimesh.Trimesh], rotations: Float[np.ndarray, "shapes 3 3"], resolution: int = 64, seed: int = 0
) -> tuple[trimesh.Trimesh, float]:
    """Surface of the points that are inside at least a fraction of the meshes, and that fraction.

    Insides are those of `carve_occupancy`. Of `THRESHOLDS` the one with the least mean Chamfer distance to the same
    meshes is taken, in the protocol ``view`` with their world-to-camera rotations, which ignores that a thinner mean
    is a smaller one; nothing of a test split is looked at.
    """
    occupied = np.mean([carve_occupancy(mesh, resolution) for mesh in meshes], axis=0)
    clouds = [sample_surface(mesh, 2000, [seed, i]) for i, mesh in enumerate(meshes)]
    best = (np.inf, trimesh.Trimesh(), 0.0)
    for threshold in THRESHOLDS:
        mesh = marching_cubes(-occupied, level=-threshold)
        if is_empty(mesh):
            continue
        points = sample_surface(mesh, 2000, seed)
        pairs = [Clouds(points, cloud, turn, turn) for cloud, turn in zip(clouds, rotations, strict=True)]
        distance = np.mean([aligned_chamfer_distance(pair, "view") for pair in pairs])
        best = min(best, (distance, mesh, float(threshold)), key=lambda entry: entry[0])
    return best[1:]


def medoid(meshes: Sequence[trimesh.Trimesh], seed: int = 0) -> int:
    """Index of the mesh with the least mean Chamfer distance (``raw``, 1,000 points) to the others."""
    clouds = [sample_surface(mesh, 1000, [seed, i]) for i, mesh in enumerate(meshes)]
    distance = np.zeros((len(clouds), len(clouds)))
    for i, cloud in enumerate(clouds):
        for j in range(i):
            distance[i, j] = distance[j, i] = chamfer_distance(*nearest_distances(cloud, clouds[j]))
    return int(distance.mean(1).argmin())


def feature_retrieval(
    train: PreparedDataset, describe: Describe | None = None
) -> Callable[[Batch], Int[Tensor, " batch"]]:
    """A function from a batch to the training row whose image has the most similar feature (cosine)."""
    describe = describe or (lambda rgb: image_features(rgb * 255))
    known = F.normalize(torch.cat([describe(part.float() / 255) for part in train.rgb.split(256)]), dim=-1)
    return lambda batch: (F.normalize(describe(batch.rgb), dim=-1) @ known.T).argmax(1)


def mask_retrieval(train: PreparedDataset) -> Callable[[Batch], Int[Tensor, " batch"]]:
    """A function from a batch to the training row whose mask has the largest intersection over union."""
    known = (train.mask > 127).flatten(1).float()

    def find(batch: Batch) -> Int[Tensor, " batch"]:
        mask = (batch.mask > 0.5).flatten(1).float()
        both = mask @ known.T
        return (both / (mask.sum(1)[:, None] + known.sum(1) - both)).argmax(1)

    return find


def _rotations(viewpoint: Viewpoint) -> Float[np.ndarray, "batch 3 3"]:
    return viewpoint.rotation().double().numpy()


def _check(train: PreparedDataset, measured: PreparedDataset) -> None:
    if train.viewpoint is None or train.metadata["mesh"].isna().any():
        raise InputError("Baselines need training samples with meshes and viewpoints; this dataset lacks some.")
    if measured.viewpoint is None:
        raise InputError("Baselines need the true viewpoints of what they are measured on; this dataset lacks some.")
    unknown = sorted(set(measured.metadata["category"]) - set(train.metadata["category"]))
    if unknown:
        raise InputError(f"There is no training sample of category {unknown[0]!r} to make a baseline of.")
