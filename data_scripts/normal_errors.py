"""How far guessed normals are from the true ones, on models that were not learned from."""

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from data_scripts.arrays import Normals, Vector
from lib.data.images import INSIDE
from lib.data.loading import PreparedDataset
from lib.data.normals import NormalEstimator, furniture_estimator, unit
from lib.errors import InputError
from lib.evaluation import commit, machine
from lib.evaluation.summary import bootstrap_interval, weighted_mean

WITHIN = (11.25, 22.5, 30.0)  # degrees, as in the literature on normals
BATCH = 32


def measure_network(folder: Path, datasets: list[Path], train: Path, about: dict) -> list[dict]:
    """Rows of ``results.json``: the network of `folder` and two baselines on the held-out models of data sets.

    Parameters
    ----------
    train : Path
        Prepared folder that the network was trained on: its training models must not be among those held out. Its mean
        normal is one of the baselines.
    about : dict
        seed, steps and seconds of the training.

    Raises
    ------
    InputError
        A held-out model was learned from, or a data set has no normals.
    """
    learned = PreparedDataset(train, "train")
    normal = learned.normal.numpy()[learned.mask.numpy() >= INSIDE].astype(np.float32)
    constant = unit(normal.mean(axis=0))
    estimators = [furniture_estimator(folder), constant_estimator(constant), sphere_estimator()]
    rows = []
    for data in datasets:
        held_out = PreparedDataset(data, "test")
        both = set(held_out.metadata["model"]) & set(learned.metadata["model"])
        if both:
            raise InputError(f"{data}: the held-out model {min(both)!r} was learned from; use the same split")
        for estimator in estimators:
            protocol = f"{held_out.rgb.shape[1]} pixels a side"
            rows += result_rows(measure(estimator, held_out), estimator.name, held_out.name, protocol, about)
    return rows


def measure(estimator: NormalEstimator, dataset: PreparedDataset) -> pd.DataFrame:
    """Errors of each image: columns category, model, and the metrics of `image_errors`."""
    if dataset.normal is None:
        raise InputError(f"{dataset.prepared.folder} has images without normals; prepare it with prepare_furniture.py")
    rows = []
    for start in range(0, len(dataset), BATCH):
        part = slice(start, start + BATCH)
        masks = dataset.mask[part].numpy()
        guessed = estimator.estimate(dataset.rgb[part].numpy(), masks)
        true = dataset.normal[part].float().numpy()
        rows += [image_errors(*maps) for maps in zip(guessed, true, masks >= INSIDE, strict=True)]
    return pd.concat([dataset.metadata[["category", "model"]], pd.DataFrame(rows)], axis=1)


def image_errors(guessed: Normals, true: Normals, inside: Bool[np.ndarray, "height width"]) -> dict[str, float]:
    """Mean and median angle in degrees over the object's pixels, and the shares of pixels within some angles."""
    cosine = (guessed * unit(true)).sum(axis=-1)[inside]
    angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    shares = {f"within_{limit:g}": float((angle <= limit).mean()) for limit in WITHIN}
    return {"angular_error_mean": float(angle.mean()), "angular_error_median": float(np.median(angle)), **shares}


def result_rows(errors: pd.DataFrame, system: str, dataset: str, protocol: str, about: dict) -> list[dict]:
    """Means over images, of all and of each category, with 95 % intervals over models."""
    rows = []
    metrics = [name for name in errors if name not in ("category", "model")]
    groups = {"all": errors, **dict(tuple(errors.groupby("category")))}
    for category, part in groups.items():
        for metric in metrics:
            value, low, high = bootstrap_interval(part[metric].to_numpy(), part["model"], weighted_mean)
            what = {"category": category, "protocol": protocol, "metric": metric, "value": value}
            unit_name = "degrees" if metric.startswith("angular") else "share"
            where = {"system": system, "dataset": dataset, "split": "test", "n": len(part), "profile": "small"}
            source = {"commit": commit(), "machine": machine(), **about}
            rows.append(where | what | {"unit": unit_name, "low": low, "high": high} | source)
    return rows


def constant_estimator(normal: Vector) -> NormalEstimator:
    """The same normal everywhere."""
    return NormalEstimator("constant", "ours", lambda images, masks: np.broadcast_to(normal, images.shape))


def sphere_estimator() -> NormalEstimator:
    """The half ellipsoid that fills the box around the mask, seen from ahead."""
    return NormalEstimator("inflated", "ours", lambda images, masks: np.stack([inflated(m >= INSIDE) for m in masks]))


def inflated(inside: Bool[np.ndarray, "height width"]) -> Normals:
    """Normals of the sphere whose picture was stretched to the mask's box; at its rim, beyond it too."""
    if not inside.any():
        return np.tile(np.float32([0, 0, -1]), (*inside.shape, 1))
    sides = []
    for size, occupied in zip(inside.shape, np.nonzero(inside), strict=True):
        low, high = occupied.min(), occupied.max() + 1
        sides.append((np.arange(size) + 0.5 - (low + high) / 2) / ((high - low) / 2))  # -1 to 1 over the box
    y, x = np.meshgrid(*sides, indexing="ij")
    depth = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
    return unit(np.stack([x, y, -depth], axis=-1).astype(np.float32))
