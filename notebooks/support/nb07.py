"""Companion of notebook 07: figures of measurements, and what it matters where paper and released code differ."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.data.loading import Batch, PreparedDataset
from lib.evaluation import Prediction, evaluate_instances, measure_shape
from lib.evaluation.comparison import compare_rows
from lib.evaluation.studies import study_row
from lib.figures.style import BLUE, GREEN, GREY, ORANGE, RED, plain, styled
from lib.geometry.alignment import PROTOCOLS, Clouds
from lib.geometry.cameras import camera_rays, pixel_centers, points_along
from lib.geometry.meshes import marching_cubes, sample_surface
from lib.geometry.metrics import azimuth_entropy, chamfer_distance, f_score, nearest_distances, wrap_degrees
from lib.losses.reprojection import soft_iou
from lib.losses.semantic import NeighborWeighting, neighbor_probabilities, unaligned_overlap
from lib.networks.backbones import Backbone
from lib.rendering.volume import compositing_weights, laplace_density, sample_depths

# --- From a function to a mesh ----------------------------------------------------------------------------------------


@styled()
def shrink_figure(resolutions: Sequence[int], measured: Sequence[float], bound: float = 0.6):
    """How far the released marching cubes displaces a surface, against the formula.

    Parameters
    ----------
    resolutions : sequence of int
        Samples an axis, N.
    measured : sequence of float
        Largest displacement of a vertex along an axis, world units.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.4, 2.9), layout="constrained")
    n = np.arange(min(resolutions), max(resolutions) + 1)
    axis.plot(n, (bound + 0.5) / n, color=BLUE, label=f"({bound:g} + 0.5) / N, for an object of half side 0.5")
    axis.plot(resolutions, measured, "o", color=ORANGE, label="measured on a sphere")
    axis.axhline(0.01, color=RED, ls="--", lw=1, label="tolerance of FS@1")
    axis.set(xlabel="samples an axis, N", ylabel="displacement\n(1 = longest side)", ylim=(0, None))
    axis.legend()
    return figure


# --- Two numbers for two surfaces, four protocols ---------------------------------------------------------------------

SHOWN_POINTS = 1_500


@styled()
def threshold_figure(clouds: Clouds, threshold: float, protocol: str = "view"):
    """What an F-score counts: points nearer than a threshold to the other surface, and the score for every threshold.

    Parameters
    ----------
    threshold : float
        In the unit of the protocol.
    """
    import matplotlib.pyplot as plt

    predicted, target = PROTOCOLS[protocol](clouds)
    to_target, to_predicted = nearest_distances(predicted, target)
    figure, axes = plt.subplots(1, 3, figsize=(8.8, 3.1), layout="constrained", width_ratios=[1, 1, 1.25])
    halves = (
        (axes[0], predicted, to_target, "precision: predicted\npoints near the truth"),
        (axes[1], target, to_predicted, "recall: true points\nnear the prediction"),
    )
    for axis, cloud, distance, title in halves:
        axis.set_title(f"{title}: {(distance <= threshold).mean():.0%}", fontsize=9)
        step = max(1, len(cloud) // (2 * SHOWN_POINTS))
        points, near = cloud[::step], distance[::step] <= threshold
        for chosen, color, label in ((~near, ORANGE, "far"), (near, BLUE, "near")):
            axis.plot(points[chosen, 0], -points[chosen, 1], ".", ms=1.6, color=color, label=label)
        plain(axis).set_aspect("equal")
        axis.legend(markerscale=6, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=8)
    steps = np.linspace(0, 0.2, 81)
    axes[2].plot(steps, [f_score(to_target, to_predicted, t) for t in steps], color=GREEN, lw=2)
    score = f_score(to_target, to_predicted, threshold)
    axes[2].plot([threshold, threshold], [0, score], color=RED, lw=1)
    axes[2].plot(threshold, score, "o", color=RED)
    axes[2].set(xlabel="threshold (1 = larger projected extent)", ylim=(0, 1), xlim=(0, 0.2))
    axes[2].set_title(f"FS@{100 * threshold:g} = {score:.3f}")
    return figure


@styled()
def protocol_figure(clouds: Clouds):
    """One prediction and its target as each protocol compares them: from the front above, from the side below."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(PROTOCOLS), figsize=(8.8, 4.8), layout="constrained")
    for column, (name, align) in enumerate(PROTOCOLS.items()):
        predicted, target = align(clouds)
        distance = chamfer_distance(*nearest_distances(predicted, target))
        axes[0, column].set_title(f"{name}\n10 x CD = {10 * distance:.2f}")
        reach = 1.05 * max(np.abs(predicted).max(), np.abs(target).max())
        # the world's z points up; a camera's y points down and its z away from it
        sides = ((0, 2, 1), (1, 2, 1)) if name == "raw" else ((0, 1, -1), (2, 1, -1))
        for axis, (across, up, sign) in zip(axes[:, column], sides, strict=True):
            for cloud, color, label in ((target, BLUE, "true"), (predicted, ORANGE, "predicted")):
                points = cloud[:: max(1, len(cloud) // SHOWN_POINTS)]
                axis.plot(points[:, across], sign * points[:, up], ".", ms=1.2, color=color, label=label, alpha=0.6)
            axis.set(aspect="equal", xlim=(-reach, reach), ylim=(-reach, reach))
            axis.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("front")
    axes[1, 0].set_ylabel("side")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), markerscale=8, loc="outside lower center", ncols=2)
    return figure


# --- Is it any good? --------------------------------------------------------------------------------------------------


@styled()
def comparison_bars(rows: Sequence[dict], metric: str, protocol: str = "view", scale: float = 1.0):
    """Systems against baselines: a bar each with its 95 % interval, best at the top; learned ones in colour.

    Parameters
    ----------
    rows : sequence of dict
        Of ``results.json``; those of category "all" are shown.
    scale : float
        10 for distances, as the papers print them.
    """
    import matplotlib.pyplot as plt

    chosen = [r for r in rows if (r["metric"], r["protocol"], r["category"]) == (metric, protocol, "all")]
    chosen.sort(key=lambda row: row["value"], reverse="distance" in metric)
    figure, axis = plt.subplots(figsize=(7.6, 0.28 * len(chosen) + 0.8), layout="constrained")
    values = scale * np.array([row["value"] for row in chosen])
    ends = scale * np.array([[row["low"], row["high"]] for row in chosen])
    errors = np.abs(ends.T - values).reshape(2, -1)
    colors = [BLUE if row["profile"] != "none" else "0.75" for row in chosen]
    axis.barh([row["system"] for row in chosen], values, color=colors, xerr=errors, ecolor="0.3", height=0.7)
    for position, (value, color) in enumerate(zip(values, colors, strict=True)):
        ink = "white" if color == BLUE else "black"
        axis.text(0.01, position, f"{value:.3f}", transform=axis.get_yaxis_transform(), va="center", color=ink)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(f"{f'{scale:g} x ' if scale != 1 else ''}{metric.replace('_', ' ')}, protocol {protocol}")
    return figure


# --- The viewpoint ----------------------------------------------------------------------------------------------------


@styled()
def azimuth_figure(predicted: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"]):
    """Predicted against true azimuths in degrees, and how the predicted ones spread over the circle."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.2, 3.2), layout="constrained")
    axis = figure.add_subplot(1, 2, 1)
    circle = figure.add_subplot(1, 2, 2, projection="polar")
    line = np.array([0.0, 360.0])
    for shift, style in ((0, "-"), (180, "--"), (-180, "--")):
        axis.plot(line, line + shift, style, color="0.75", lw=1)
    axis.plot(target % 360, predicted % 360, "o", ms=4, color=BLUE, alpha=0.7)
    ticks = [0, 90, 180, 270, 360]
    axis.set(xlim=(0, 360), ylim=(0, 360), xlabel="true azimuth (°)", ylabel="predicted azimuth (°)", aspect="equal")
    axis.set(xticks=ticks, yticks=ticks)
    edges = np.radians(np.linspace(0, 360, 13))
    for angles, color, width, name in ((target, GREY, 1.0, "true"), (predicted, BLUE, 0.7, "predicted")):
        count = np.histogram(np.radians(angles % 360), edges)[0]
        circle.bar(edges[:-1], count, width=width * np.diff(edges), align="edge", color=color, alpha=0.5, label=name)
    circle.set(theta_zero_location="N", yticklabels=[])
    circle.set_title(f"entropy {azimuth_entropy(predicted):.2f} (true {azimuth_entropy(target):.2f})")
    circle.legend(loc="lower left", bbox_to_anchor=(0.95, -0.1))
    return figure


# --- Where paper and code differ: effects that need no training -------------------------------------------------------

RELEASED_GRID, RELEASED_BOUND = 101, 0.6  # samples an axis and half side of the released evaluation
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
    mask, others = (dataset.mask[index].float() / 255 for index in (rows, neighbors[rows]))  # (R, H, W), (R, K, H, W)
    query = mask[:, None].expand_as(others)
    overlap = soft_iou(query.flatten(0, 1).flatten(1), others.flatten(0, 1).flatten(1)).unflatten(0, others.shape[:2])
    chance = neighbor_probabilities(mask, others, weighting)  # (R, K)
    turned = torch.from_numpy(np.abs(wrap_degrees((azimuth[neighbors[rows]] - azimuth[rows, None]).numpy())))
    entropy = -(chance * chance.clamp(min=1e-12).log()).sum(dim=1)
    return {
        "azimuth_difference": float((chance * turned).sum(dim=1).mean()),
        "overlap": float((chance * overlap).sum(dim=1).mean()),
        "effective": float(entropy.exp().mean()),
    }


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
    batch = dataset.batch(torch.as_tensor(list(rows)))
    shape = system.reconstruct_batch(batch)
    pixels = pixel_centers(image_size, shape.viewpoint.distance.device)[None].expand(len(rows), -1, -1)
    near, far = shape.viewpoint.distance - shape.depth_range, shape.viewpoint.distance + shape.depth_range
    depths = sample_depths(near, far, image_size**2, samples)  # (batch, pixels, samples)
    points = points_along(camera_rays(shape.viewpoint, pixels), depths)
    density = laplace_density(shape.sdf(points.flatten(1, 2)).unflatten(1, depths.shape[1:]), beta)
    zero, infinite = (compositing_weights(density, depths, rule).sum(dim=-1) for rule in ("zero", "infinite"))
    mask = batch.mask.to(zero.device)
    truth = nn.functional.interpolate(mask[:, None], size=(image_size, image_size), mode="area")[:, 0].flatten(1)
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


def measure_differences(
    system: nn.Module,
    made: Mapping[int, Prediction],
    test: PreparedDataset,
    train: PreparedDataset,
    every: PreparedDataset,
    neighbors: Tensor,
    *,
    points: int,
    images: int,
    profile: str = "quick",
    seed: int = 0,
) -> list[dict]:
    """All effects as rows of results: ``protocol`` names the difference, ``system`` the side, ``metric`` the effect.

    Parameters
    ----------
    system : Module
        A trained ShapeClipper.
    made : mapping
        Row of `test` -> its prediction.
    test, train, every : PreparedDataset
        The first two of one category, the last of several.
    neighbors : Tensor, shape (len(train), K)
    points : int
        Drawn from each surface.
    images : int
        Of `train`, spread evenly, where silhouettes are compared.
    """
    rows, bar = [], tqdm(total=10, desc="differences")

    def add(side: str, difference: str, effect: str, value: float, n: int) -> None:
        common = {"dataset": test.name, "profile": profile, "seed": seed}
        rows.append(study_row(side, difference, effect, value, "", n=n, **common))

    shown = ("chamfer_distance", "f_score@0.01")
    for samples in (65, RELEASED_GRID):  # of a training, and of the final evaluation
        for side, found in shrink_on_sphere(samples, seed=seed).items():
            for metric in shown:
                add(side, f"marching cubes, a sphere, N = {samples}", metric, found[metric], 1)
        bar.update()
    for row in shrink_on_predictions(made, test, points, seed):
        if row["metric"] in shown:
            difference = f"marching cubes, our chairs, protocol {row['protocol']}"
            add(row["system"].removeprefix("marching cubes: "), difference, row["metric"], row["value"], row["n"])
    bar.update()

    chosen = torch.linspace(0, len(train) - 1, min(images, len(train))).round().long()
    masks = train.mask[chosen].float() / 255
    itself = float(unaligned_overlap(masks, masks[:, None]).mean())
    add("released", "neighbour weighting", "IoU of a mask with itself", itself, len(chosen))
    for side, weighting in (("paper", "uniform"), ("right", "silhouette"), ("released", "released")):
        for effect, value in neighbor_effect(train, neighbors, weighting, chosen).items():
            add(side, "neighbour weighting", EFFECTS[effect], value, len(chosen))
        bar.update()

    few, trained = sorted(made)[::2], float(torch.as_tensor(system.beta()).detach())
    for beta in (0.1, trained):
        found = last_interval_effect(system, test, few, beta)
        for side, iou in (("released", found["zero_iou"]), ("VolSDF", found["infinite_iou"])):
            add(side, f"last interval, beta = {beta:.3g}", "IoU of rendered masks", iou, len(few))
        bar.update()

    for side, mean, std in (("right", 127 / 255, 128 / 255), ("released", 0.0, 1.0)):
        network = Backbone(system.config.backbone, "imagenet", system.config.image_size, mean, std).eval()
        share = retrieval_accuracy(network, every)
        add(side, "images to the pretrained network", "nearest image is of the category", share, len(every))
        bar.update()
    bar.close()
    return rows


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
