"""The numbers of every sample: predict a mesh and a viewpoint, sample, align, measure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float
from torch import nn
from tqdm.auto import tqdm

from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.geometry.alignment import PROTOCOLS, Clouds, aligned_chamfer_distance
from lib.geometry.meshes import clean_mesh, is_empty, sample_surface
from lib.geometry.metrics import (
    accuracy,
    camera_azimuth,
    chamfer_distance,
    completeness,
    f_score,
    nearest_distances,
    rotation_error,
    wrap_degrees,
)

DEFAULT_PROTOCOLS = ("raw", "view", "icp")
DEFAULT_THRESHOLDS = (0.01, 0.05, 0.1)
HALF_TURN = np.diag([-1.0, -1.0, 1.0])  # about the world's z: it keeps the mirror plane x = 0


@dataclass(frozen=True)
class Prediction:
    """What a system says about one image.

    Attributes
    ----------
    mesh : trimesh.Trimesh
        In the system's canonical frame; empty where it found no surface.
    rotation : ndarray, shape (3, 3)
        World to camera (OpenCV).
    true_view : bool
        The rotation was given, not predicted: it is not measured.
    """

    mesh: trimesh.Trimesh
    rotation: Float[np.ndarray, "3 3"]
    true_view: bool = False


Predictor = Callable[[Batch], list[Prediction]]


def system_predictor(
    system: nn.Module, resolution: int = 100, min_area_fraction: float = 0.0, colored: bool = True
) -> Predictor:
    """A system of `lib.systems` as a predictor.

    A system that was trained with given viewpoints (``config.viewpoint == "given"``) gets those of the batch.

    Parameters
    ----------
    resolution : int
        Of marching cubes, samples an axis.
    min_area_fraction : float
        Drop loose parts of the mesh below this fraction of its area (`clean_mesh`); 0, as in the released code,
        keeps all.
    colored : bool
        Give the meshes their texture, to be looked at; measuring needs none.
    """
    given = getattr(system.config, "viewpoint", "predicted") == "given"

    def predict(batch: Batch) -> list[Prediction]:
        if given and batch.viewpoint is None:
            raise InputError("This system was trained with given viewpoints, and the dataset has none.")
        batch = batch.to(next(system.parameters()).device)
        shapes = system.reconstruct(batch.rgb, batch.viewpoint) if given else system.reconstruct(batch.rgb)
        rotations = shapes.viewpoint.rotation().detach().double().cpu().numpy()
        meshes = [shapes.mesh(resolution, i, colored=colored) for i in range(len(rotations))]
        if min_area_fraction > 0:
            meshes = [clean_mesh(mesh, min_area_fraction) for mesh in meshes]
        return [Prediction(mesh, rotation, given) for mesh, rotation in zip(meshes, rotations, strict=True)]

    return predict


def evaluate_instances(
    predictor: Predictor | nn.Module,
    dataset: PreparedDataset,
    *,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    resolution: int = 100,
    points: int = 100_000,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure a predictor on every sample of a dataset.

    Parameters
    ----------
    predictor : callable or Module
        Gives a `Prediction` for each image of a batch; a system is wrapped by `system_predictor`.
    dataset : PreparedDataset
        With meshes, and viewpoints for any protocol but ``raw``.
    protocols : sequence of str
        Keys of `lib.geometry.alignment.PROTOCOLS`, which explains them.
    thresholds : sequence of float
        Of the F-scores, in the unit of the protocol.
    resolution : int
        Of marching cubes, where `predictor` is a system.
    points : int
        Drawn from each surface. The draw depends on `seed` and the sample's id alone.
    rows : sequence of int, optional
        Measure these samples only.

    Returns
    -------
    DataFrame
        Long: ``id, category, model, protocol, metric, value``. Metrics that no protocol changes (``empty``, the
        viewpoint's) have protocol ``none``. An empty mesh is measured as a point at the origin, as in the released
        code, and marked by ``empty`` = 1.

    Raises
    ------
    InputError
        An unknown protocol, or a dataset without meshes or viewpoints.
    """
    _check(dataset, protocols, thresholds, points, resolution)
    if isinstance(predictor, nn.Module):
        predictor = system_predictor(predictor, resolution, colored=False)
    rows = range(len(dataset)) if rows is None else rows
    bar = tqdm(total=len(rows), desc="evaluate", unit="image", **({} if progress else {"disable": True}))
    records = []
    with torch.no_grad(), bar:
        for start in range(0, len(rows), batch_size):
            batch = dataset.batch(torch.as_tensor(list(rows[start : start + batch_size])))
            rotations = None if batch.viewpoint is None else batch.viewpoint.rotation().double().cpu().numpy()
            for i, prediction in enumerate(predictor(batch)):
                row = int(batch.index[i])
                rotation = None if rotations is None else rotations[i]
                records += _measure(dataset, row, prediction, rotation, protocols, thresholds, points, seed)
                bar.update()
    return pd.DataFrame(records, columns=["id", "category", "model", "protocol", "metric", "value"])


def measure_shape(clouds: Clouds, protocol: str, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> dict[str, float]:
    """Chamfer distance, its two halves and F-scores of a pair of clouds under a protocol."""
    aligned = PROTOCOLS[protocol](clouds)
    if protocol != "raw":  # distances do not change with the axes; along those of the true shape trees find them sooner
        aligned = [np.ascontiguousarray(cloud @ clouds.target_rotation.astype(cloud.dtype)) for cloud in aligned]
    to_target, to_predicted = nearest_distances(*aligned)
    return {
        "chamfer_distance": chamfer_distance(to_target, to_predicted),
        "accuracy": accuracy(to_target),
        "completeness": completeness(to_predicted),
        **{f"f_score@{threshold:g}": f_score(to_target, to_predicted, threshold) for threshold in thresholds},
    }


def measure_viewpoint(predicted: Float[np.ndarray, "3 3"], target: Float[np.ndarray, "3 3"]) -> dict[str, float]:
    """Differences of two world-to-camera rotations in degrees.

    ``azimuth`` is the predicted one, ``azimuth_difference`` and ``elevation_difference`` are predicted minus true in
    [-180, 180); ``rotation_error`` is the geodesic angle, ``rotation_error_half_turn`` the same when the prediction's
    canonical frame is turned by 180 degrees about z.
    """
    azimuth = camera_azimuth(predicted)
    elevation = [np.degrees(np.arcsin(np.clip(-rotation[2, 2], -1, 1))) for rotation in (predicted, target)]
    return {
        "azimuth": float(azimuth),
        "azimuth_difference": float(wrap_degrees(azimuth - camera_azimuth(target))),
        "elevation_difference": float(elevation[0] - elevation[1]),
        "rotation_error": float(rotation_error(predicted, target)),
        "rotation_error_half_turn": float(rotation_error(predicted @ HALF_TURN, target)),
    }


def validation_chamfer_distance(
    system: nn.Module,
    dataset: PreparedDataset,
    rows: Iterable[int],
    seed: int = 0,
    *,
    resolution: int = 64,
    points: int = 10_000,
) -> float:
    """Mean Chamfer distance (``view``) on some samples, by a coarse grid and few points: for early validation."""
    rows = list(rows)
    batch = dataset.batch(torch.as_tensor(rows))
    rotations = batch.viewpoint.rotation().double().cpu().numpy()
    predict = system_predictor(system, resolution, colored=False)
    pairs = zip(rows, predict(batch), rotations, strict=True)
    clouds = (_clouds(dataset, row, prediction, rotation, points, seed) for row, prediction, rotation in pairs)
    return float(np.mean([aligned_chamfer_distance(pair, "view") for pair in clouds]))


def _measure(dataset, row, prediction, rotation, protocols, thresholds, points, seed) -> list[tuple]:
    about = tuple(dataset.metadata.loc[row, ["id", "category", "model"]])
    clouds = _clouds(dataset, row, prediction, rotation, points, seed)
    values = {("none", "empty"): float(is_empty(prediction.mesh))}
    for protocol in protocols:
        measured = measure_shape(clouds, protocol, thresholds)
        values |= {(protocol, metric): value for metric, value in measured.items()}
    if rotation is not None and not prediction.true_view:
        measured = measure_viewpoint(prediction.rotation, rotation)
        values |= {("none", metric): value for metric, value in measured.items()}
    return [(*about, *key, value) for key, value in values.items()]


def _clouds(dataset, row: int, prediction: Prediction, rotation, points: int, seed: int) -> Clouds:
    draw = crc32(str(dataset.metadata.loc[row, "id"]).encode())  # the same whatever else is measured
    target = sample_surface(dataset.mesh(row), points, [seed, draw, 0])
    if is_empty(prediction.mesh):
        predicted = np.zeros_like(target[:1])  # one point or many in one place: the distances are the same
    else:
        predicted = sample_surface(prediction.mesh, points, [seed, draw, 1])
    return Clouds(predicted, target, prediction.rotation, np.eye(3) if rotation is None else rotation)


def _check(
    dataset: PreparedDataset, protocols: Sequence[str], thresholds: Sequence[float], points: int, resolution: int
) -> None:
    unknown = [protocol for protocol in protocols if protocol not in PROTOCOLS]
    if unknown:
        raise InputError(f"Unknown protocol {unknown[0]!r}: choose from {', '.join(PROTOCOLS)}.")
    if resolution < 2:
        raise InputError(f"The resolution of marching cubes must be at least 2 samples an axis, not {resolution}.")
    if points < 1 or any(threshold <= 0 for threshold in thresholds):
        raise InputError("The number of points and the thresholds of the F-score must be positive.")
    table = dataset.metadata
    without = table[table["mesh"].isna()]
    if len(without):
        raise InputError(f"Sample {without['id'].iloc[0]!r} has no true mesh: shapes cannot be measured here.")
    if dataset.batch(torch.tensor([0])).viewpoint is None and set(protocols) - {"raw"}:
        raise InputError("The dataset has samples without a true viewpoint: only protocol 'raw' can be measured.")
