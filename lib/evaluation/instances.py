"""The numbers of every sample: predict a mesh and a viewpoint, sample, align, measure."""

from collections.abc import Sequence
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation.predictors import Prediction, Predictor
from lib.geometry import metrics
from lib.geometry.alignment import PROTOCOLS, Clouds
from lib.geometry.meshes import is_empty, sample_surface

DEFAULT_PROTOCOLS = ("raw", "view", "icp")
DEFAULT_THRESHOLDS = (0.01, 0.05, 0.1)
HALF_TURN = np.diag([-1.0, -1.0, 1.0])  # about the world's z: it keeps the mirror plane x = 0


def evaluate_instances(
    predictor: Predictor,
    dataset: PreparedDataset,
    *,
    protocols: Sequence[str] = DEFAULT_PROTOCOLS,
    thresholds: Sequence[float] = DEFAULT_THRESHOLDS,
    points: int = 100_000,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure a predictor on every sample of a dataset.

    Parameters
    ----------
    predictor : callable
        Gives a `Prediction` for each image of a batch; `system_predictor` makes one of a system.
    dataset : PreparedDataset
        With meshes, and viewpoints for any protocol but ``raw``.
    protocols, thresholds
        Keys of `lib.geometry.alignment.PROTOCOLS`, which explains them; distances of the F-scores, in their units.
    points, rows
        How many are drawn from each surface, by `seed` and the sample's id alone; the samples to measure (all).

    Returns
    -------
    DataFrame
        Long: ``id, category, model, protocol, metric, value``. Metrics that no protocol changes (``empty``, the
        viewpoint's) have protocol ``none``. An empty mesh is measured as a point at the origin, as in the released
        code, and marked by ``empty`` = 1.
    """
    _check(dataset, protocols, thresholds, points)
    rows = range(len(dataset)) if rows is None else rows
    bar = tqdm(total=len(rows), desc="evaluate", unit="image", **({} if progress else {"disable": True}))
    records = []
    with torch.no_grad(), bar:
        for start in range(0, len(rows), batch_size):
            batch = dataset.batch(torch.as_tensor(list(rows[start : start + batch_size])))
            rotations = [None] * len(batch.rgb)
            if batch.viewpoint is not None:
                rotations = batch.viewpoint.rotation().double().cpu().numpy()
            for row, prediction, rotation in zip(batch.index.tolist(), predictor(batch), rotations, strict=True):
                sample = tuple(dataset.metadata.loc[row, ["id", "category", "model"]])
                clouds = sampled_clouds(dataset, row, prediction, rotation, points, seed)
                values = {("none", "empty"): float(is_empty(prediction.mesh))}
                for protocol in protocols:
                    measured = measure_shape(clouds, protocol, thresholds)
                    values |= {(protocol, metric): value for metric, value in measured.items()}
                if rotation is not None and not prediction.true_view:
                    measured = measure_viewpoint(prediction.rotation, rotation)
                    values |= {("none", metric): value for metric, value in measured.items()}
                records += [(*sample, *key, value) for key, value in values.items()]
                bar.update()
    return pd.DataFrame(records, columns=["id", "category", "model", "protocol", "metric", "value"])


def sampled_clouds(
    dataset: PreparedDataset,
    row: int,
    prediction: Prediction,
    rotation: Float[np.ndarray, "3 3"] | None,
    points: int,
    seed: int,
) -> Clouds:
    """Points of a predicted and the true surface; those of one sample are the same whatever else is measured."""
    draw = crc32(str(dataset.metadata.loc[row, "id"]).encode())
    target = sample_surface(dataset.mesh(row), points, [seed, draw, 0])
    if is_empty(prediction.mesh):
        predicted = np.zeros_like(target[:1])  # one point or many in one place: the distances are the same
    else:
        predicted = sample_surface(prediction.mesh, points, [seed, draw, 1])
    return Clouds(predicted, target, prediction.rotation, np.eye(3) if rotation is None else rotation)


def measure_shape(clouds: Clouds, protocol: str, thresholds: Sequence[float] = DEFAULT_THRESHOLDS) -> dict[str, float]:
    """Chamfer distance, its two halves and F-scores of a pair of clouds under a protocol."""
    aligned = PROTOCOLS[protocol](clouds)
    if protocol != "raw":  # turns change no distance; along the true shape's own axes trees search faster
        aligned = [np.ascontiguousarray(cloud @ clouds.target_rotation.astype(cloud.dtype)) for cloud in aligned]
    to_target, to_predicted = metrics.nearest_distances(*aligned)
    scores = {f"f_score@{limit:g}": metrics.f_score(to_target, to_predicted, limit) for limit in thresholds}
    return {
        "chamfer_distance": metrics.chamfer_distance(to_target, to_predicted),
        "accuracy": metrics.accuracy(to_target),
        "completeness": metrics.completeness(to_predicted),
        **scores,
    }


def measure_viewpoint(predicted: Float[np.ndarray, "3 3"], target: Float[np.ndarray, "3 3"]) -> dict[str, float]:
    """Differences of two world-to-camera rotations in degrees.

    ``azimuth`` is the predicted one, ``azimuth_difference`` and ``elevation_difference`` are predicted minus true in
    [-180, 180); ``rotation_error`` is the geodesic angle, ``rotation_error_half_turn`` the same when the prediction's
    canonical frame is turned by 180 degrees about z.
    """
    azimuth = metrics.camera_azimuth(predicted)
    elevation = [np.degrees(np.arcsin(np.clip(-rotation[2, 2], -1, 1))) for rotation in (predicted, target)]
    return {
        "azimuth": float(azimuth),
        "azimuth_difference": float(metrics.wrap_degrees(azimuth - metrics.camera_azimuth(target))),
        "elevation_difference": float(elevation[0] - elevation[1]),
        "rotation_error": float(metrics.rotation_error(predicted, target)),
        "rotation_error_half_turn": float(metrics.rotation_error(predicted @ HALF_TURN, target)),
    }


def _check(dataset: PreparedDataset, protocols, thresholds, points: int) -> None:
    unknown = [protocol for protocol in protocols if protocol not in PROTOCOLS]
    if unknown:
        raise InputError(f"Unknown protocol {unknown[0]!r}: choose from {', '.join(PROTOCOLS)}.")
    if points < 1 or any(threshold <= 0 for threshold in thresholds):
        raise InputError("The number of points and the thresholds of the F-score must be positive.")
    without = dataset.metadata[dataset.metadata["mesh"].isna()]
    if len(without):
        raise InputError(f"Sample {without['id'].iloc[0]!r} has no true mesh: shapes cannot be measured here.")
    if dataset.batch(torch.tensor([0])).viewpoint is None and set(protocols) - {"raw"}:
        raise InputError("The dataset has samples without a true viewpoint: only protocol 'raw' can be measured.")
