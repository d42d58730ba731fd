"""What it matters where the papers' text, their released code and this course differ: effects that need no training.

Each function measures one difference on real data; `lib.course.grids` has those whose effect only a training can show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor, nn

from lib.data.loading import Batch, PreparedDataset
from lib.evaluation import Prediction, evaluate_instances, measure_shape
from lib.evaluation.comparison import compare_rows
from lib.evaluation.studies import study_row
from lib.geometry.alignment import Clouds
from lib.geometry.cameras import camera_rays, pixel_centers, points_along
from lib.geometry.meshes import marching_cubes, sample_surface
from lib.geometry.metrics import wrap_degrees
from lib.losses.reprojection import soft_iou
from lib.losses.semantic import NeighborWeighting, neighbor_probabilities, unaligned_overlap
from lib.networks.backbones import Backbone
from lib.rendering.volume import compositing_weights, laplace_density, sample_depths

RELEASED_GRID, RELEASED_BOUND = 100, 0.6  # samples an axis and half side of the released evaluation

EFFECTS = {
    "azimuth_difference": "drawn neighbour turned by (°)",
    "overlap": "drawn neighbour's mask, IoU",
    "effective": "neighbours that take part",
}


def released_mesh(
    mesh: trimesh.Trimesh, samples: int = RELEASED_GRID, bound: float = RELEASED_BOUND
) -> trimesh.Trimesh:
    """A mesh as if the released marching cubes had made it: index i of a vertex divided by N where N - 1 is the last.

    x = -b + 2 b i / (N - 1) becomes -b + 2 b i / N: smaller by (N - 1) / N and moved towards the corner at -b.
    """
    moved = mesh.copy()
    moved.vertices = (np.asarray(mesh.vertices) + bound) * (samples - 1) / samples - bound
    return moved


def shrink_on_sphere(samples: int, points: int = 100_000, radius: float = 0.5, seed: int = 0) -> dict[str, dict]:
    """Numbers of marching cubes against the sphere itself: the right divisor, and the released one.

    Returns
    -------
    dict
        "right" and "released", each with the metrics of `measure_shape` in protocol ``raw``.
    """
    direction = np.random.default_rng(seed).normal(size=(points, 3))
    truth = radius * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    found = {}
    for name, wrong in (("right", False), ("released", True)):
        mesh = marching_cubes(lambda x: np.linalg.norm(x, axis=1) - radius, resolution=samples, released_shrink=wrong)
        clouds = Clouds(sample_surface(mesh, points, seed), truth, np.eye(3), np.eye(3))
        found[name] = measure_shape(clouds, "raw")
    return found


def shrink_on_predictions(
    made: Mapping[int, Prediction], dataset: PreparedDataset, points: int, seed: int = 0
) -> list[dict]:
    """The same predictions measured as they are and as the released marching cubes would have made them.

    Parameters
    ----------
    made : mapping
        Row of the dataset -> prediction.

    Returns
    -------
    list of dict
        Rows of `compare_rows`: row "right" and row "released", protocols ``raw`` and ``view``.
    """
    tables = []
    for name, change in (("right", lambda mesh: mesh), ("released", released_mesh)):

        def predictor(batch: Batch, change=change) -> list[Prediction]:
            chosen = [made[row] for row in batch.index.tolist()]
            return [Prediction(change(one.mesh), one.rotation, one.true_view) for one in chosen]

        options = {"protocols": ("raw", "view"), "points": points, "seed": seed, "rows": sorted(made)}
        instances = evaluate_instances(predictor, dataset, progress=False, **options)
        tables.append(instances.assign(row=name, seed=seed))
    common = study_row("", "", "", 0.0, "", n=0, dataset=dataset.name, split="test")
    about = {name: common | {"system": f"marching cubes: {name}"} for name in ("right", "released")}
    return compare_rows(pd.concat(tables), about, "right", seed)


def neighbor_effect(
    dataset: PreparedDataset, neighbors: Tensor, weighting: NeighborWeighting, rows: Tensor
) -> dict[str, float]:
    """Which of an image's neighbours a weighting draws, in expectation over some images.

    Parameters
    ----------
    neighbors : Tensor, shape (len(dataset), K)
        Rows of every image's neighbours.
    rows : Tensor, shape (R,)
        The images.

    Returns
    -------
    dict
        ``azimuth_difference`` (degrees, of the drawn neighbour), ``overlap`` (IoU of its mask with the image's),
        ``effective`` (exp of the entropy of the probabilities: how many neighbours take part).
    """
    azimuth = torch.tensor(dataset.metadata["azimuth"].to_numpy(float))
    mask, others = (dataset.mask[index].float() / 255 for index in (rows, neighbors[rows]))
    chance, overlap = neighbor_probabilities(mask, others, weighting), _aligned_overlap(mask, others)
    turned = torch.from_numpy(np.abs(wrap_degrees((azimuth[neighbors[rows]] - azimuth[rows, None]).numpy())))
    entropy = -(chance * chance.clamp(min=1e-12).log()).sum(dim=1)
    return {
        "azimuth_difference": float((chance * turned).sum(dim=1).mean()),
        "overlap": float((chance * overlap).sum(dim=1).mean()),
        "effective": float(entropy.exp().mean()),
    }


def _aligned_overlap(
    mask: Float[Tensor, "batch height width"], others: Float[Tensor, "batch neighbors height width"]
) -> Float[Tensor, "batch neighbors"]:
    query = mask[:, None].expand_as(others)
    return soft_iou(query.flatten(0, 1).flatten(1), others.flatten(0, 1).flatten(1)).unflatten(0, others.shape[:2])


def overlap_with_itself(dataset: PreparedDataset, rows: Tensor) -> float:
    """Mean IoU of masks with themselves as the released code computes it; it should be 1."""
    masks = dataset.mask[rows].float() / 255
    return float(unaligned_overlap(masks, masks[:, None]).mean())


@torch.no_grad()
def last_interval_effect(
    system: nn.Module,
    dataset: PreparedDataset,
    rows: Sequence[int],
    beta: float,
    image_size: int = 32,
    samples: int = 64,
) -> dict[str, float]:
    """Masks of shapes rendered with the last interval 0 long (released ShapeClipper) and infinite (VolSDF).

    Returns
    -------
    dict
        ``difference`` (mean of |a - b| over pixels), ``zero_iou`` and ``infinite_iou`` (with the true masks).
    """
    batch = dataset.batch(torch.as_tensor(list(rows))).to(next(system.parameters()).device)
    given = batch.viewpoint if system.config.viewpoint == "given" else None
    shape = system.reconstruct(batch.rgb, given)
    rays = camera_rays(shape.viewpoint, pixel_centers(image_size, batch.rgb.device)[None].expand(len(rows), -1, -1))
    near, far = shape.viewpoint.distance - shape.depth_range, shape.viewpoint.distance + shape.depth_range
    depths = sample_depths(near, far, image_size**2, samples)
    points = points_along(rays, depths)
    density = laplace_density(shape.sdf(points.flatten(1, 2)).unflatten(1, depths.shape[1:]), beta)
    zero, infinite = (compositing_weights(density, depths, rule).sum(dim=-1) for rule in ("zero", "infinite"))
    size = (image_size, image_size)
    truth = nn.functional.interpolate(batch.mask[:, None], size=size, mode="area")[:, 0].flatten(1)
    return {
        "difference": float((zero - infinite).abs().mean()),
        "zero_iou": float(soft_iou(zero, truth).mean()),
        "infinite_iou": float(soft_iou(infinite, truth).mean()),
    }


@torch.no_grad()
def retrieval_accuracy(backbone: nn.Module, dataset: PreparedDataset, chunk: int = 64) -> float:
    """Share of images whose most similar image of another model is of the same category, by a network's features.

    A network that was trained on normalised images sees, without that, images it was not made for; this is how much
    of what it knows gets lost before any training of ours.
    """
    features = torch.cat([backbone(part.float() / 255) for part in dataset.rgb.split(chunk)])
    features = nn.functional.normalize(features, dim=-1)
    model, category = (pd.factorize(dataset.metadata[name])[0] for name in ("model", "category"))
    similarity = (features @ features.T).numpy()
    similarity[model[:, None] == model[None]] = -np.inf
    return float((category[similarity.argmax(axis=1)] == category).mean())


@dataclass(frozen=True)
class Material:
    """What the differences are measured on.

    Attributes
    ----------
    system : Module
        A trained ShapeClipper.
    made : mapping
        Row of `test` -> its prediction.
    test, train : PreparedDataset
        Of one category.
    every : PreparedDataset
        Several categories.
    neighbors : Tensor, shape (len(train), K)
    points : int
        Drawn from each surface.
    images : int
        Of `train`, spread evenly, where silhouettes are compared.
    """

    system: nn.Module
    made: Mapping[int, Prediction]
    test: PreparedDataset
    train: PreparedDataset
    every: PreparedDataset
    neighbors: Tensor
    points: int
    images: int


def measure_differences(material: Material, profile: str = "quick", seed: int = 0) -> list[dict]:
    """All effects as rows of results: ``protocol`` names the difference, ``system`` the side, ``metric`` the effect."""
    parts = (_shrink(material, seed), _neighbors(material), _last_interval(material), _normalisation(material))
    common = {"dataset": material.test.name, "profile": profile, "seed": seed}
    effects = [effect for part in parts for effect in part]
    return [study_row(side, what, metric, value, "", n=n, **common) for side, what, metric, value, n in effects]


def _shrink(material: Material, seed: int):
    for samples in (64, RELEASED_GRID):
        for side, found in shrink_on_sphere(samples, seed=seed).items():
            for metric in ("chamfer_distance", "f_score@0.01"):
                yield side, f"marching cubes, a sphere, N = {samples}", metric, found[metric], 1
    for row in shrink_on_predictions(material.made, material.test, material.points, seed):
        if row["metric"] in ("chamfer_distance", "f_score@0.01"):
            what = f"marching cubes, our chairs, protocol {row['protocol']}"
            yield row["system"].split(": ")[1], what, row["metric"], row["value"], row["n"]


def _neighbors(material: Material):
    rows = torch.linspace(0, len(material.train) - 1, min(material.images, len(material.train))).round().long()
    what, itself = "neighbour weighting", "IoU of a mask with itself"
    yield "released", what, itself, overlap_with_itself(material.train, rows), len(rows)
    for side, weighting in (("paper", "uniform"), ("right", "silhouette"), ("released", "released")):
        for metric, value in neighbor_effect(material.train, material.neighbors, weighting, rows).items():
            yield side, what, EFFECTS[metric], value, len(rows)


def _last_interval(material: Material):
    rows, trained = sorted(material.made)[::2], float(torch.as_tensor(material.system.beta()).detach())
    for beta in (0.1, trained):
        found = last_interval_effect(material.system, material.test, rows, beta)
        what = f"last interval, beta = {beta:.3g}"
        yield "released", what, "IoU of rendered masks", found["zero_iou"], len(rows)
        yield "VolSDF", what, "IoU of rendered masks", found["infinite_iou"], len(rows)


def _normalisation(material: Material):
    config = material.system.config
    for side, mean, std in (("right", 127 / 255, 128 / 255), ("released", 0.0, 1.0)):
        network = Backbone(config.backbone, "imagenet", config.image_size, mean, std).eval()
        value = retrieval_accuracy(network, material.every)
        yield side, "images to the pretrained network", "nearest image is of the category", value, len(material.every)


def differences_table(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows of `measure_differences` with the sides beside each other; distances times ten, as in the papers."""
    table = pd.DataFrame(list(rows))
    distance = table["metric"] == "chamfer_distance"
    table.loc[distance, "value"] *= 10
    table["metric"] = table["metric"].replace({"chamfer_distance": "10 x CD", "f_score@0.01": "FS@1"})
    keys = {"protocol": "difference", "metric": "effect", "n": "n"}
    wide = table.pivot_table(index=list(keys), columns="system", values="value", sort=False)
    order = [side for side in ("right", "released", "paper", "VolSDF") if side in wide]
    return wide[order].rename_axis(index=keys, columns=None)
