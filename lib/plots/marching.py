"""Pictures of learned marching: one ray on its field, the study's curves, and the idea of SDF-SRN (notebook 10)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
import trimesh
from torch import Tensor

from lib.data.loading import Batch
from lib.figures.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, PURPLE, RED, SIGNED, plain, styled
from lib.geometry.cameras import Viewpoint
from lib.geometry.distance_transform import distance_transform, sdf_lower_bound
from lib.studies.marching import Case, Trace, ray_slice, trace_ray

METHODS = {"learned": BLUE, "even steps": GREEN, "sphere tracing": ORANGE, "volume rendering": RED}


@styled()
def idea_figure(batch: Batch, mesh: trimesh.Trimesh, spread: float = 0.75):
    """One image, its silhouette's distance transform, and what that says about space; returns the figure.

    Parameters
    ----------
    batch : Batch
        One image with its viewpoint.
    mesh : trimesh.Trimesh
        The true shape, which training does not see: cut by the plane of the last panel.
    spread : float
        The last panel shows so much before and behind the object's middle, world units.
    """
    import matplotlib.pyplot as plt

    size, view = batch.rgb.shape[1], batch.viewpoint
    distance = distance_transform(batch.mask > 0.5, margin=0.5)[0]
    inside = (distance == 0).sum(dim=0)
    column = int(torch.where(2 * inside > inside.max(), distance.sum(dim=0), 0).argmax())  # much object, and free space
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained", width_ratios=[1, 1.15, 1.5])
    axes[0].imshow(batch.rgb[0])
    axes[0].set_title("given: image, silhouette\nand viewpoint")
    shown = axes[1].imshow(distance, cmap=MAGNITUDE)
    axes[1].contour(batch.mask[0] > 0.5, [0.5], colors="white", linewidths=0.8)
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="pixels")
    axes[1].set_title("$D$: how far away\nthe silhouette is")
    for axis in axes[:2]:
        plain(axis).axvline(column, color=RED, lw=1)
    _draw_column(figure, axes[2], view, distance[:, column] / size, mesh, column, spread)
    return figure


def _draw_column(figure, axis, view: Viewpoint, distance, mesh, column: int, spread: float):
    """The bound on the plane of one image column, and the true object's cut."""
    size, middle, focal = len(distance), float(view.distance), float(view.focal)
    rows = (torch.arange(size) + 0.5) / size - view.center[0, 1]
    pixels = torch.stack([torch.full_like(rows, (column + 0.5) / size - float(view.center[0, 0])), rows], -1) / focal
    depths = torch.linspace(middle - spread, middle + spread, 90)
    bound = sdf_lower_bound(pixels[:, None], distance[:, None] / focal, depths[None], view.projection)
    heights = -pixels[:, 1] * middle
    shown = axis.pcolormesh(depths, heights, bound, cmap=MAGNITUDE, shading="nearest", rasterized=True)
    for line in _cut(mesh, view, float(pixels[0, 0])):
        axis.plot(line[:, 2], -line[:, 1] * middle / line[:, 2], color="white", lw=1.2)
    figure.colorbar(shown, ax=axis, shrink=0.8, label="$b$: least signed distance")
    axis.grid(visible=False)
    axis.set(title="what it proves about the red column:\n$f \\geq b$ (white: the true object's cut)")
    axis.set(xlabel="depth from the camera", ylabel="height in the image")


def _cut(mesh: trimesh.Trimesh, view: Viewpoint, slope: float) -> list[np.ndarray]:
    """Lines (2, 3) in camera axes where the mesh meets the plane x = slope * z through the camera."""
    rotation = view.rotation()[0].double().numpy()
    seen = trimesh.Trimesh(mesh.vertices @ rotation.T + [0, 0, float(view.distance)], mesh.faces, process=False)
    return list(trimesh.intersections.mesh_plane(seen, [1.0, 0.0, -slope], [0.0, 0.0, 0.0]))


@styled()
def marching_figure(case: Case, ray: int, shown: int | None = None, halvings: int = 6, spread: float = 0.45):
    """The steps along one ray, on a slice of the field and on the field's graph; returns the figure.

    Parameters
    ----------
    shown : int, optional
        So many evaluations: strides first, then halvings. All without it.
    spread : float
        The slice shows so much beside the ray, in the plane of the ray and the vertical.
    """
    import matplotlib.pyplot as plt

    trace = trace_ray(case, ray, halvings)
    total = len(trace.depths) + len(trace.middles)
    shown = total if shown is None else max(1, min(shown, total))
    figure, axes = plt.subplots(2, 1, figsize=(8.2, 5.4), layout="constrained", sharex=True, height_ratios=[1.25, 1])
    depths = torch.linspace(case.near - 0.03, case.far + 0.03, 160)
    _draw_slice(figure, axes[0], case, ray, depths, spread)
    axes[1].plot(depths, ray_slice(case, ray, torch.zeros(1), depths)[0], color="0.55", lw=1)
    axes[1].axhline(0, color="0.3", lw=0.8)
    for axis, graph in zip(axes, (False, True), strict=True):
        _draw_steps(axis, trace, shown, graph)
    axes[0].set_title(_trace_title(case, trace, shown, ray))
    axes[1].set(xlabel="depth along the ray, world units", ylabel="$f$ along the ray")
    axes[1].legend(loc="upper right", ncols=2)
    return figure


def _draw_slice(figure, axis, case: Case, ray: int, depths: Tensor, spread: float):
    across = torch.linspace(-spread, spread, 80)
    values = ray_slice(case, ray, across, depths)
    limit = 0.3  # beyond it colours no longer change
    drawn = axis.pcolormesh(depths, across, values, cmap=SIGNED, vmin=-limit, vmax=limit, rasterized=True)
    axis.contour(depths, across, values, [0], colors="black", linewidths=1.2)
    figure.colorbar(drawn, ax=axis, label="$f$", extend="both")
    axis.grid(visible=False)
    axis.set(ylabel="across the ray")


def _draw_steps(axis, trace: Trace, shown: int, graph: bool):
    """Strides as dots, the bracket as a band, halvings as small crosses; on the graph at their values."""
    strides, halvings = min(shown, len(trace.depths)), max(0, shown - len(trace.depths))
    depths = trace.depths[:strides]
    values = trace.values[:strides] if graph else torch.zeros(strides)
    axis.plot(depths, values, "o-", color=PURPLE, ms=4.5, lw=0.9, label="strides")
    if trace.bracket and shown >= len(trace.depths):
        axis.axvspan(*trace.bracket, color=ORANGE, alpha=0.25, lw=0, label="bracket")
    if halvings:
        middles = trace.middles[:halvings]
        axis.plot(middles, torch.zeros(halvings), "x", color=GREEN, ms=6, mew=1.4, label="halvings")


def _trace_title(case: Case, trace: Trace, shown: int, ray: int) -> str:
    """Evaluations so far, and how far the answer is from the truth."""
    done = max(0, shown - len(trace.depths))
    text = f"{case.name}: {min(shown, len(trace.depths))} evaluations by strides, {done} by halvings"
    if trace.bracket is None:
        truth = "the march misses the surface" if case.exact[ray].isfinite() else "it never hits"
        return f"{text}; {truth}" if shown >= len(trace.depths) else text
    return text if not done else f"{text}, error {abs(float(trace.middles[done - 1] - case.exact[ray])):.4f}"


@styled()
def study_figure(table: pd.DataFrame):
    """Median depth error over evaluations a ray, one panel a field, one line a method; returns the figure.

    Parameters
    ----------
    table : DataFrame
        Of `lib.studies.marching.marching_table`, for several fields one below the other.
    """
    import matplotlib.pyplot as plt

    fields = list(dict.fromkeys(table["field"]))
    figure, axes = plt.subplots(
        2, len(fields), figsize=(2.6 * len(fields) + 0.6, 5), layout="constrained", sharex=True, sharey="row"
    )
    for line, field in zip(np.reshape(axes, (2, -1)).T, fields, strict=True):
        _draw_methods(line, table[table["field"] == field])
        line[0].set_title(field)
        line[1].set_xlabel("evaluations a ray")
    np.reshape(axes, (2, -1))[0, 0].set_ylabel("median depth error")
    np.reshape(axes, (2, -1))[1, 0].set_ylabel("missed surfaces (share)")
    handles, labels = np.reshape(axes, (2, -1))[0, -1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5)
    return figure


def _draw_methods(axes, rows: pd.DataFrame):
    for method, part in rows.groupby("method"):
        color = next((c for name, c in METHODS.items() if method.startswith(name)), GREY)
        look = "--" if method == "learned, 4 strides" else "-"
        axes[0].loglog(part["evaluations"], part["median"], look, marker="o", ms=3, lw=1.3, color=color, label=method)
        axes[1].plot(part["evaluations"], part["missed"], look, marker="o", ms=3, lw=1.3, color=color)
    axes[0].set_ylim(3e-6, 0.2)
    axes[0].set_xticks([6, 12, 24, 48], ["6", "12", "24", "48"])
    axes[0].minorticks_off()
    axes[1].set_ylim(-0.03, 1.03)


@styled()
def crossings_figure(counts: list[dict]):
    """Where training's rays met the surface, step by step; returns the figure.

    Parameters
    ----------
    counts : list of dict
        "step", and `Surface.counts`: rays of a batch by kind.
    """
    import matplotlib.pyplot as plt

    steps = [row["step"] for row in counts]
    totals = np.array([row["last"] + row["early"] + row["none"] for row in counts])
    figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
    kinds = {"last": (BLUE, "in the last interval"), "early": (ORANGE, "in an earlier one"), "none": ("0.8", "none")}
    shares = [np.array([row[kind] for row in counts]) / totals for kind in kinds]
    axis.stackplot(steps, shares, colors=[color for color, _ in kinds.values()], labels=[n for _, n in kinds.values()])
    axis.set(xlabel="step", ylabel="share of rays", ylim=(0, 1), xlim=(min(steps), max(steps)))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), title="surface found")
    return figure


@styled()
def ablation_figure(results: Sequence[dict], protocol: str = "raw"):
    """Means over seeds with their spread for each row of an experiment; returns the figure.

    Parameters
    ----------
    results : sequence of dict
        Of `lib.evaluation.comparison.compare_rows`.
    """
    import matplotlib.pyplot as plt

    chosen = [row for row in results if row["protocol"] == protocol and row["seed"] is None]
    values = {(row["system"].split(": ", 1)[-1], row["metric"]): row["value"] for row in chosen}
    names = list(dict.fromkeys(name for name, _ in values))[::-1]
    titles = {"accuracy": "accuracy", "completeness": "coverage", "chamfer_distance": "Chamfer distance"}
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 0.36 * len(names) + 0.9), sharey=True, layout="constrained")
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        for place, name in enumerate(names):
            spread = values.get((name, f"{metric}_spread")) or 0.0
            color = BLUE if name == "full" else GREY
            axis.errorbar(10 * values[name, metric], place, xerr=10 * spread, fmt="o", color=color, capsize=3)
        axis.set(xlabel=f"10 x {title}", yticks=range(len(names)), yticklabels=names)
    return figure
