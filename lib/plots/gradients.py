"""Semantic consistency in pictures: neighbours, what they change in a shape's gradient, and shapes that follow it."""

from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from lib.data.loading import PreparedDataset
from lib.figures.maps import normal_colors
from lib.figures.shapes import draw_mesh, viewpoint_at
from lib.figures.style import BLUE, GREY, ORANGE, image_grid, plain, styled
from lib.geometry.cameras import Viewpoint
from lib.geometry.distance_grid import DistanceGrid
from lib.rendering.volume import RenderedMaps
from lib.studies.neighbors import Weighting

QUIET = (0.86, 0.86, 0.86)  # of a surface that no gradient reaches


@styled()
def neighbor_rows(data: PreparedDataset, query: int, rows: dict[str, tuple[Sequence[int], Sequence[float]]]):
    """A query and lists of its neighbours, each with similarity and azimuth; returns the matplotlib figure.

    Parameters
    ----------
    rows : dict
        Title -> (rows of the neighbours, their cosine similarities).
    """
    import matplotlib.pyplot as plt

    count = max(len(found) for found, _ in rows.values())
    figure, axes = plt.subplots(
        len(rows), count + 1, figsize=(1.35 * count + 1.9, 1.9 * len(rows)), layout="constrained"
    )
    models = data.metadata["model"]
    for line, (title, (found, scores)) in zip(np.atleast_2d(axes), rows.items(), strict=True):
        for axis, row in zip(line, [query, *found], strict=False):
            plain(axis).imshow(data.rgb[row])
        line[0].set_title(f"query\nazimuth {_azimuth(data, query):.0f}°")
        line[0].set_ylabel(title)
        for axis, row, score in zip(line[1:], found, scores, strict=True):
            same = "same model" if models[row] == models[query] else "other model"
            axis.set_title(
                f"{same}\n{score:.2f}, {_azimuth(data, row):.0f}°", color=ORANGE if same[0] == "s" else "black"
            )
    return figure


def consistency_figure(targets: Sequence, rendered: Sequence[RenderedMaps], labels: Sequence[str]):
    """Images, masks and normals beside what one shape makes of them; a row a target (a Batch of one).

    Parameters
    ----------
    rendered : sequence of RenderedMaps
        Shapes (1, H, W, ...), normals in the world frame.
    """
    rows = []
    for target, maps in zip(targets, rendered, strict=True):
        rotation = target.viewpoint.rotation()[0]
        normal = normal_colors(maps.normal[0] @ rotation.mT)
        faded = normal * maps.mask[0, ..., None].numpy() + 1 - maps.mask[0, ..., None].numpy()
        true = normal_colors(target.normal[0])
        rows.append([target.rgb[0], maps.rgb[0], target.mask[0], maps.mask[0], true, faded])
    rows = [[np.asarray(image) for image in row] for row in rows]
    columns = ("image", "rendered", "mask", "rendered", "normals", "rendered")
    return image_grid(rows, columns, labels, size=1.35)


def gradient_colors(values: Float[np.ndarray, " points"], scale: float) -> Float[np.ndarray, "points 3"]:
    """Orange where the loss asks for more material, blue for less, grey for neither; full colour at `scale`."""
    from matplotlib.colors import to_rgb

    strength = np.clip(np.abs(values) / scale, 0, 1)[:, None] ** 0.5
    target = np.where(values[:, None] > 0, to_rgb(ORANGE), to_rgb(BLUE))
    return (1 - strength) * np.array(QUIET) + strength * target


def colored_by_gradient(mesh: trimesh.Trimesh, gradient: DistanceGrid, scale: float) -> trimesh.Trimesh:
    """A copy of a mesh with `gradient_colors` at its vertices."""
    vertices = torch.from_numpy(np.asarray(mesh.vertices)).float()
    colors = gradient_colors(gradient(vertices)[0].numpy(), scale)
    mesh = mesh.copy()
    mesh.visual.vertex_colors = (colors * 255).round().astype(np.uint8)
    return mesh


def gradient_figure(meshes: dict[str, trimesh.Trimesh], viewpoints: dict[str, Viewpoint], size: int = 200):
    """Coloured meshes, a row each, from some viewpoints; returns the matplotlib figure."""
    rows = [[draw_mesh(mesh, view, size) for view in viewpoints.values()] for mesh in meshes.values()]
    return image_grid(rows, list(viewpoints), list(meshes), size=1.8)


def sides_of(viewpoint: Viewpoint) -> dict[str, Viewpoint]:
    """The query's viewpoint, and the same object from beside and behind it."""
    azimuth, elevation, _ = (float(angle.rad2deg()) for angle in viewpoint.angles())
    turns = {"from the query's side": 0, "from its left": 90, "from behind": 180, "from its right": 270}
    return {name: viewpoint_at(azimuth + turn, elevation) for name, turn in turns.items()}


@styled()
def shares_figure(shares: dict[str, dict[str, float]]):
    """Share of the surface that receives gradient, by side, a group of bars a set of views; returns the figure."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.4, 2.9), layout="constrained")
    sides = list(next(iter(shares.values())))
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        place = np.arange(len(sides)) + (i - (len(shares) - 1) / 2) * width
        bars = axis.bar(place, [100 * values[side] for side in sides], width * 0.92, label=name)
        axis.bar_label(bars, fmt="%.0f", fontsize=8)
    names = {
        "towards": "faces the query's camera",
        "aside": "faces aside",
        "away": "faces away",
        "all": "whole surface",
    }
    axis.set_xticks(range(len(sides)), [names.get(side, side) for side in sides])
    axis.set(ylabel="% of area with gradient", ylim=(0, 108))
    axis.legend(ncols=len(shares), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def fitted_figure(meshes: dict[str, trimesh.Trimesh], azimuths: Sequence[float] = (0, 50, 90, 150), size: int = 200):
    """Shapes that were fitted to different sets of views, a row each; returns the matplotlib figure."""
    rows = [[draw_mesh(mesh, viewpoint_at(azimuth, 12), size) for azimuth in azimuths] for mesh in meshes.values()]
    return image_grid(rows, [f"from {azimuth:g}°" for azimuth in azimuths], list(meshes), size=1.6)


@styled()
def weighting_figure(weighting: Weighting, identical: Float[Tensor, " images"]):
    """What the released comparison of masks measures, and what follows for the probabilities; returns the figure."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
    left.plot(weighting.aligned.ravel(), weighting.released.ravel(), ".", ms=3, alpha=0.4, color=BLUE)
    left.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls="--")
    left.plot(np.ones(len(identical)), identical, ".", ms=4, alpha=0.5, color=ORANGE)
    left.annotate("a mask and itself", (1, float(identical.mean())), (0.62, 0.62), arrowprops={"arrowstyle": "->"})
    left.set(xlabel="IoU of the whole masks", ylabel="IoU at independent pixels", xlim=(0, 1.03), ylim=(0, 1.03))
    bins = np.linspace(0, 1, 31)
    count = weighting.aligned.shape[1]
    right.hist(weighting.intended_probability.ravel(), bins, color=ORANGE, alpha=0.8, label="(1 - IoU)⁴, as intended")
    right.hist(weighting.released_probability.ravel(), bins, color=BLUE, alpha=0.7, label="as released")
    right.axvline(1 / count, color=GREY, ls="--", lw=1, label="uniform (the paper)")
    right.set(xlabel="probability of a neighbour", ylabel="neighbours")
    right.legend()
    return figure


def _azimuth(data: PreparedDataset, row: int) -> float:
    return float(data.viewpoint[int(row)].angles()[0].rad2deg())
