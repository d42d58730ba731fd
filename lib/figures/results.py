"""Figures of measurements: protocols, thresholds, comparisons with baselines, viewpoints, best and worst cases."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import trimesh
from jaxtyping import Float

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import BLUE, GREEN, GREY, ORANGE, RED, image_grid, plain, styled
from lib.geometry.alignment import PROTOCOLS, Clouds
from lib.geometry.cameras import Viewpoint
from lib.geometry.metrics import azimuth_entropy, chamfer_distance, f_score, nearest_distances

SHOWN_POINTS = 1_500


@dataclass(frozen=True)
class Case:
    """One image with what was predicted and what is true.

    Attributes
    ----------
    title : str
    image : ndarray, shape (H, W, 3)
    predicted, target : trimesh.Trimesh
        In their canonical frames.
    predicted_view, target_view : Viewpoint
        Of one camera each; either mesh is drawn from its own.
    """

    title: str
    image: Float[np.ndarray, "height width 3"]
    predicted: trimesh.Trimesh
    target: trimesh.Trimesh
    predicted_view: Viewpoint
    target_view: Viewpoint


def case_sheet(cases: Sequence[Case], turn: float = 120.0):
    """Predictions beside the truth, a row a case: as the photo sees them, and turned to a side that it hides.

    Parameters
    ----------
    turn : float
        Degrees of azimuth.

    Returns
    -------
    matplotlib.figure.Figure
    """
    titles = ("photo", "predicted", "true", f"predicted, {turn:g}° on", f"true, {turn:g}° on")
    rows = []
    for case in cases:
        pairs = ((case.predicted, case.predicted_view, True), (case.target, case.target_view, False))
        drawn = [draw_mesh(mesh, facing(view, t), smooth=s) for t in (0, turn) for mesh, view, s in pairs]
        rows.append([case.image, *drawn])
    return image_grid(rows, titles, [case.title for case in cases], size=1.65)


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
        (predicted, to_target, "precision: predicted points near the truth"),
        (target, to_predicted, "recall: true points near the prediction"),
    )
    for axis, (cloud, distance, title) in zip(axes, halves, strict=False):
        _draw_near(axis, cloud, distance <= threshold)
        axis.set_title(f"{title}\n{(distance <= threshold).mean():.0%}", fontsize=8.5)
    steps = np.linspace(0, 0.2, 81)
    axes[2].plot(steps, [f_score(to_target, to_predicted, t) for t in steps], color=GREEN, lw=2)
    score = f_score(to_target, to_predicted, threshold)
    axes[2].plot([threshold, threshold], [0, score], color=RED, lw=1)
    axes[2].plot(threshold, score, "o", color=RED)
    axes[2].set(xlabel="threshold (1 = larger projected extent)", ylim=(0, 1), xlim=(0, 0.2))
    axes[2].set_title(f"FS@{100 * threshold:g} = {score:.3f}")
    return figure


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


def ranked_rows(instances: pd.DataFrame, dataset: PreparedDataset, protocol: str = "view") -> list[tuple[int, float]]:
    """Rows of a dataset with their Chamfer distances, best first, from `lib.evaluation.evaluate_instances`.

    What is no sample of the dataset is left out.
    """
    chosen = instances[(instances["metric"] == "chamfer_distance") & (instances["protocol"] == protocol)]
    row_of = {name: row for row, name in enumerate(dataset.metadata["id"])}
    found = dict(zip(chosen["id"], chosen["value"], strict=True))
    pairs = [(row_of[name], float(value)) for name, value in found.items() if name in row_of]
    return sorted(pairs, key=lambda pair: pair[1])


def make_case(title: str, image, prediction: Prediction, target: trimesh.Trimesh, target_view: Viewpoint) -> Case:
    """A case from an 8-bit image and a prediction, whose rotation becomes a viewpoint again."""
    predicted_view = view_of_rotation(prediction.rotation)
    return Case(title, np.asarray(image) / 255, prediction.mesh, target, predicted_view, target_view)


def view_of_rotation(rotation: Float[np.ndarray, "3 3"]) -> Viewpoint:
    """A camera with this world-to-camera rotation's azimuth and elevation; its roll is left out.

    Examples
    --------
    >>> view = view_of_rotation(np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]))
    >>> [abs(round(float(angle), 3)) for angle in view.angles()]
    [0.0, 0.0, 0.0]
    """
    from lib.figures.shapes import viewpoint_at
    from lib.geometry.metrics import camera_azimuth

    elevation = np.degrees(np.arcsin(np.clip(-rotation[2, 2], -1, 1)))
    return viewpoint_at(float(camera_azimuth(rotation)), float(elevation))


def _draw_near(axis, cloud: Float[np.ndarray, "points 3"], near):
    step = max(1, len(cloud) // (2 * SHOWN_POINTS))
    cloud, near = cloud[::step], near[::step]
    for chosen, color, label in ((~near, ORANGE, "far"), (near, BLUE, "near")):
        axis.plot(cloud[chosen, 0], -cloud[chosen, 1], ".", ms=1.6, color=color, label=label)
    plain(axis).set_aspect("equal")
    axis.legend(markerscale=6, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, fontsize=8)
