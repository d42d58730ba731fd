"""Companion of notebook 04: its measurements, figures and controls, in the order of the lesson."""

from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float, Int
from matplotlib.colors import to_rgb
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.fields.sdf import SDFField
from lib.figures.maps import normal_colors, on_white_normals
from lib.figures.shapes import draw_mesh, facing, viewpoint_at
from lib.figures.style import BLUE, GREY, ORANGE, image_grid, plain, styled
from lib.geometry.cameras import Viewpoint, camera_rays, index_to_pixel
from lib.geometry.distance_grid import DistanceGrid
from lib.geometry.meshes import marching_cubes, sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances
from lib.losses.field import eikonal_loss
from lib.losses.normal import normal_loss
from lib.losses.reprojection import mask_loss, rgb_loss, soft_iou
from lib.losses.semantic import neighbor_probabilities, unaligned_overlap
from lib.rendering.sampling import sample_pixels
from lib.rendering.volume import Field, RenderedMaps, render_rays, sample_depths

# --- Neighbours, and a trap ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TellingQuery:
    """Rows of an image seen from the front, and of two of its neighbours that are seen from the side.

    Attributes
    ----------
    query, near, far : int
        The shape of `near` is much like the query's, that of `far` is not.
    near_distance, far_distance : float
        Chamfer distances of their true shapes to the query's, world units.
    """

    query: int
    near: int
    far: int
    near_distance: float
    far_distance: float


def telling_queries(data: PreparedDataset, neighbors: Int[Tensor, "samples count"]) -> list[TellingQuery]:
    """All frontal images with at least two neighbours seen from the side, with the two that differ most in shape."""
    azimuth = np.degrees(data.viewpoint.angles()[0].numpy())
    candidates = []
    for query in tqdm(np.flatnonzero(np.abs(azimuth) < 20).tolist(), "frontal images", unit="image"):
        side = [row for row in neighbors[query].tolist() if 60 < abs(azimuth[row]) < 120]
        found = sorted((shape_distance(data, query, row), row) for row in side)
        if len(found) > 1:
            candidates.append(TellingQuery(query, found[0][1], found[-1][1], found[0][0], found[-1][0]))
    return candidates


def most_telling(candidates: Sequence[TellingQuery], limit: float = 0.06) -> TellingQuery:
    """The one whose neighbours differ most in shape, the nearer within `limit`; `InputError` where there is none."""
    alike = [one for one in candidates if one.near_distance < limit]
    if not alike:
        raise InputError("the dataset has no frontal image with two neighbours seen from the side, one of them alike")
    return max(alike, key=lambda one: one.far_distance - one.near_distance)


@styled()
def candidates_figure(candidates: Sequence[TellingQuery], chosen: TellingQuery):
    """How far the nearer and the farther neighbour of each candidate are in shape; returns the matplotlib figure."""
    figure, axis = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
    near, far = (
        10 * np.array([getattr(one, name) for one in candidates]) for name in ("near_distance", "far_distance")
    )
    axis.plot([0, far.max()], [0, far.max()], color=GREY, linestyle=":")
    axis.plot(near, far, "o", ms=4, alpha=0.6, color=BLUE, label="frontal images")
    axis.plot(10 * chosen.near_distance, 10 * chosen.far_distance, "o", ms=7, color=ORANGE, label="the one used here")
    axis.set(xlabel="nearer neighbour, 10 x CD to its shape", ylabel="farther neighbour")
    axis.legend()
    return figure


def shape_distance(data: PreparedDataset, a: int, b: int, count: int = 1500) -> float:
    """Chamfer distance of the true shapes of two samples, canonical frame, world units."""
    points = [sample_surface(data.mesh(row), count, 0) for row in (a, b)]
    return float(chamfer_distance(*nearest_distances(*points)))


def azimuth_of(data: PreparedDataset, row: int) -> float:
    """Of a sample's camera, degrees."""
    return float(data.viewpoint[int(row)].angles()[0].rad2deg())


@styled()
def neighbor_rows(data: PreparedDataset, query: int, rows: dict[str, tuple[Sequence[int], Sequence[float]]]):
    """A query and lists of its neighbours, each with similarity and azimuth; returns the matplotlib figure.

    Parameters
    ----------
    rows : dict
        Title -> (rows of the neighbours, their cosine similarities).
    """
    count = max(len(found) for found, _ in rows.values())
    size = (1.35 * count + 1.9, 1.9 * len(rows))
    figure, axes = plt.subplots(len(rows), count + 1, figsize=size, squeeze=False, layout="constrained")
    models = data.metadata["model"]
    for line, (title, (found, scores)) in zip(axes, rows.items(), strict=True):
        for axis, row in zip(line, [query, *found], strict=False):
            plain(axis).imshow(data.rgb[row])
        line[0].set_title(f"query\nazimuth {azimuth_of(data, query):.0f}°")
        line[0].set_ylabel(title)
        for axis, row, score in zip(line[1:], found, scores, strict=False):
            same = models[row] == models[query]
            title = f"{'same' if same else 'other'} model\n{score:.2f}, {azimuth_of(data, row):.0f}°"
            axis.set_title(title, color=ORANGE if same else "black")
    return figure


# --- The formula -----------------------------------------------------------------------------------------------------


def view_loss(
    field: Field,
    target: Batch,
    index: Int[Tensor, "1 rays"],
    beta: float,
    samples: int,
    generator: torch.Generator | None = None,
    rgb: bool = True,
) -> tuple[Float[Tensor, ""], RenderedMaps]:
    """Eq. 5 for some rays of one image, L_I + 0.5 L_M + 0.01 L_N, without outlier dropout; and what was rendered.

    Parameters
    ----------
    target : Batch
        One image with mask, normals and viewpoint.
    index : Tensor
        Row-major pixels to render.
    rgb : bool
        False leaves L_I out, for a field without a texture.
    """
    # render the field from the target's viewpoint  (1, rays, ...)
    view = target.viewpoint
    rays = camera_rays(view, index_to_pixel(index, target.mask.shape[-1]))
    depths = sample_depths(view.distance - 0.7, view.distance + 0.7, index.shape[1], samples, generator)
    maps = render_rays(field, rays, depths, beta)
    # compare with the target at the same pixels
    mask = target.mask.flatten(1)[:, index[0]]
    normal = target.normal.flatten(1, 2)[:, index[0]]
    visible = (mask > 0.5) & (maps.mask > 0.5)
    loss = 0.5 * mask_loss(maps.mask, mask)
    loss = loss + 0.01 * normal_loss(maps.normal, normal, view.rotation(), visible, keep=1.0)
    if rgb:
        loss = loss + rgb_loss(maps.rgb, target.rgb.flatten(1, 2)[:, index[0]])
    return loss, maps


def all_pixels(target: Batch) -> Int[Tensor, "1 pixels"]:
    """Row-major indices of every pixel of one image."""
    return torch.arange(target.mask[0].numel())[None]


@torch.no_grad()
def render_view(field: Field, target: Batch, beta: float, samples: int = 48) -> RenderedMaps:
    """R(f_S, f_T, v) of Eq. 3: a field seen from the viewpoint of a target; shapes (1, H, W, ...)."""
    _, maps = view_loss(field, target, all_pixels(target), beta, samples)
    size = target.mask.shape[1:]
    return RenderedMaps(*(part.unflatten(1, size) for part in (maps.rgb, maps.mask, maps.normal, maps.depth)))


def consistency_figure(targets: Sequence[Batch], rendered: Sequence[RenderedMaps], labels: Sequence[str]):
    """Images, masks and normals beside what one shape makes of them, a row for each target (a Batch of one).

    Parameters
    ----------
    rendered : sequence of RenderedMaps
        Shapes (1, H, W, ...), normals in the world frame.
    """
    rows = []
    for target, maps in zip(targets, rendered, strict=True):
        normals = normal_colors(target.normal[0]), on_white_normals(maps, target.viewpoint.rotation())[0]
        rows.append([target.rgb[0], maps.rgb[0], target.mask[0], maps.mask[0], *normals])
    rows = [[np.asarray(image) for image in row] for row in rows]
    columns = ("image", "rendered", "mask", "rendered", "normals", "rendered")
    return image_grid(rows, columns, labels, size=1.35)


# --- What one neighbour changes --------------------------------------------------------------------------------------


def surface_gradient(field: Field, target: Batch, beta: float, resolution: int = 36, samples: int = 48) -> DistanceGrid:
    """How the loss of one view changes if the distance changes at a place: the derivative of Eq. 5 by the sdf.

    The distance is offset by a grid of zeros, and the gradient with respect to that grid is taken: the network's
    weights, which tie all places together, play no part, nor does its symmetry (see `added`).

    Parameters
    ----------
    field : callable
        The shape with the texture that explains the target: for a neighbour, the neighbour's texture (Eq. 3).

    Returns
    -------
    DistanceGrid
        The gradient; positive where a smaller distance, that is more material, lowers the loss.
    """
    offset = DistanceGrid(torch.zeros((resolution,) * 3, requires_grad=True), 0.6)

    def offset_field(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            sdf, gradient, rgb = field(points)
        more, slope = offset(points)
        return sdf + more, gradient + slope, rgb

    view_loss(offset_field, target, all_pixels(target), beta, samples)[0].backward()
    return DistanceGrid(offset.values.grad, offset.bound)


def added(gradients: Sequence[DistanceGrid], mirrored: bool = False) -> DistanceGrid:
    """The gradient of a sum of losses; `mirrored`: for a shape that must be symmetric in x, where g(x) + g(-x) acts."""
    total = torch.stack([gradient.values for gradient in gradients]).sum(0)
    return DistanceGrid(total + total.flip(0) if mirrored else total, gradients[0].bound)


QUIET = (0.86, 0.86, 0.86)  # of a surface that no gradient reaches


def gradient_colors(values: Float[np.ndarray, " points"], scale: float) -> Float[np.ndarray, "points 3"]:
    """Orange where the loss asks for more material, blue for less, grey for neither; full colour at `scale`."""
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


def gradient_figure(meshes: dict[str, trimesh.Trimesh], viewpoint: Viewpoint):
    """Coloured meshes, a row each, from the query's viewpoint and from three other sides of the object."""
    turns = {"from the query's side": 0, "from its left": 90, "from behind": 180, "from its right": 270}
    views = [facing(viewpoint, turn) for turn in turns.values()]
    rows = [[draw_mesh(mesh, view, 200) for view in views] for mesh in meshes.values()]
    return image_grid(rows, list(turns), list(meshes), size=1.8)


@dataclass(frozen=True)
class Sides:
    """Points on a surface, sorted by the side that they turn to a camera.

    Attributes
    ----------
    points : Tensor, shape (P, 3)
        Uniform by area, world frame.
    towards, away, aside : Tensor, shape (P,), bool
        The normal's angle to the direction of the camera is under 60, over 120 degrees, or between.
    """

    points: Float[Tensor, "points 3"]
    towards: Bool[Tensor, " points"]
    away: Bool[Tensor, " points"]
    aside: Bool[Tensor, " points"]

    def shares(self, gradient: DistanceGrid, threshold: float) -> dict[str, float]:
        """Share of the area of each side, and of all, where the gradient's size is over the threshold."""
        large = gradient(self.points)[0].abs() > threshold
        sides = {"towards": self.towards, "aside": self.aside, "away": self.away, "all": slice(None)}
        return {name: float(large[side].float().mean()) for name, side in sides.items()}


def surface_sides(mesh: trimesh.Trimesh, viewpoint: Viewpoint, count: int = 20_000, seed: int = 0) -> Sides:
    """Points of a mesh by the side that they turn to a camera, whether or not something hides them."""
    points, face = trimesh.sample.sample_surface(mesh, count, seed=seed)
    to_camera = -viewpoint.rotation()[0, 2].numpy()
    cosine = torch.from_numpy(np.asarray(mesh.face_normals)[face] @ to_camera)
    return Sides(torch.from_numpy(points).float(), cosine > 0.5, cosine < -0.5, cosine.abs() <= 0.5)


@styled()
def shares_figure(shares: dict[str, dict[str, float]]):
    """Share of the surface that receives gradient, by side (`Sides.shares`), a bar for each set of views."""
    figure, axis = plt.subplots(figsize=(7.4, 2.9), layout="constrained")
    sides = {
        "towards": "faces the query's camera",
        "aside": "faces aside",
        "away": "faces away",
        "all": "whole surface",
    }
    width = 0.8 / len(shares)
    for i, (name, values) in enumerate(shares.items()):
        place = np.arange(len(sides)) + (i - (len(shares) - 1) / 2) * width
        bars = axis.bar(place, [100 * values[side] for side in sides], width * 0.92, label=name)
        axis.bar_label(bars, fmt="%.0f", fontsize=8)
    axis.set_xticks(range(len(sides)), list(sides.values()))
    axis.set(ylabel="% of area with gradient", ylim=(0, 108))
    axis.legend(ncols=len(shares), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def neighbor_choice(azimuths: Sequence[float]) -> dict[str, ipywidgets.Widget]:
    """A list of neighbours by their azimuth in degrees, and a switch for the mirror symmetry."""
    options = [("none", -1)] + [(f"neighbour {i + 1}, azimuth {a:.0f}°", i) for i, a in enumerate(azimuths)]
    return {
        "neighbor": ipywidgets.Dropdown(options=options, value=0, description="with"),
        "mirrored": ipywidgets.Checkbox(value=False, description="symmetric shape"),
    }


def draw_gradient(
    mesh: trimesh.Trimesh,
    viewpoint: Viewpoint,
    own: DistanceGrid,
    others: Sequence[DistanceGrid],
    scale: float,
    neighbor: int,
    mirrored: bool,
):
    """A shape coloured by its gradient from the own view, with one neighbour added; -1: with none."""
    chosen = [own, others[neighbor]] if neighbor >= 0 else [own]
    title = f"with neighbour {neighbor + 1}" if neighbor >= 0 else "own view"
    return gradient_figure({title: colored_by_gradient(mesh, added(chosen, mirrored), scale)}, viewpoint)


# --- Follow the gradient ---------------------------------------------------------------------------------------------


def fit_field(
    views: Sequence[Batch], steps: int = 120, rays: int = 128, samples: int = 24, seed: int = 0, label: str = "fit"
) -> SDFField:
    """A new shape field that explains the masks and normals of some views, starting from a sphere; nothing else.

    There is no encoder and there are no other images: what the views do not say, nobody says. A bar shows the progress.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = SDFField(code_size=1, radius=0.4)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in tqdm(range(steps), label, unit="step"):
        beta = 0.08 * (0.02 / 0.08) ** (step / max(steps - 1, 1))  # from 0.08 to 0.02 world units
        points = torch.rand(1, 500, 3, generator=generator) * 1.4 - 0.7
        loss = 0.03 * eikonal_loss(white_field(network)(points)[1])
        for view in views:
            index = sample_pixels(view.ray_weights, rays, generator)
            term, _ = view_loss(white_field(network), view, index, beta, samples, generator, rgb=False)
            loss = loss + term
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    return network


def white_field(network: SDFField) -> Field:
    """A shape field whose code does not matter as a field for the renderer, all white."""

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sdf, _, gradient = network.with_gradient(points, torch.zeros(1, 1))
        return sdf, gradient, torch.ones_like(points)

    return evaluate


@torch.no_grad()
def field_mesh(network: SDFField, resolution: int = 56) -> trimesh.Trimesh:
    """Marching cubes of what `fit_field` gives."""
    code = torch.zeros(1, 1)
    return marching_cubes(lambda p: network(torch.from_numpy(p)[None], code)[0][0].numpy(), resolution=resolution)


@torch.no_grad()
def view_iou(network: SDFField, target: Batch, beta: float = 0.02, samples: int = 48) -> float:
    """Intersection over union of the rendered and the true mask of a view, all pixels."""
    maps = render_view(white_field(network), target, beta, samples)
    return float(soft_iou(maps.mask.flatten(1), target.mask.flatten(1)))


def fitted_figure(meshes: dict[str, trimesh.Trimesh], azimuths: Sequence[float] = (0, 50, 90, 150)):
    """Shapes that were fitted to different sets of views, a row each; returns the matplotlib figure."""
    rows = [[draw_mesh(mesh, viewpoint_at(azimuth, 12), 200) for azimuth in azimuths] for mesh in meshes.values()]
    return image_grid(rows, [f"from {azimuth:g}°" for azimuth in azimuths], list(meshes), size=1.6)


# --- Choosing one of five --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Weighting:
    """Overlaps of images with their neighbours, and the probabilities that follow; the paper's are all 1 / K.

    Attributes
    ----------
    aligned, released : Tensor
        IoU of whole masks, and of masks at independently drawn pixels as in one step of the released code.
    intended_probability, released_probability : Tensor
        p ~ (1 - IoU)^4 with either.
    identical : Tensor
        What `released` is for each mask and itself.
    """

    aligned: Float[Tensor, "images neighbors"]
    released: Float[Tensor, "images neighbors"]
    intended_probability: Float[Tensor, "images neighbors"]
    released_probability: Float[Tensor, "images neighbors"]
    identical: Float[Tensor, " images"]


def compare_weightings(
    mask: Float[Tensor, "images height width"],
    neighbor_masks: Float[Tensor, "images neighbors height width"],
    seed: int = 0,
) -> Weighting:
    """Weigh the neighbours of images as the code intends and as it was released."""
    own, others = (m.flatten(0, 1).flatten(1) for m in (mask[:, None].expand_as(neighbor_masks), neighbor_masks))
    aligned = soft_iou(own, others).view(neighbor_masks.shape[:2])
    released = unaligned_overlap(mask, neighbor_masks, seed)[0]
    preference = (1 - released) ** 4
    intended = neighbor_probabilities(mask, neighbor_masks, "silhouette")
    identical = unaligned_overlap(mask, mask[:, None], seed)[0, :, 0]
    return Weighting(aligned, released, intended, preference / preference.sum(1, keepdim=True), identical)


@styled()
def weighting_figure(weighting: Weighting):
    """What the released comparison of masks measures, and what follows for the probabilities; returns the figure."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
    left.plot(weighting.aligned.ravel(), weighting.released.ravel(), ".", ms=3, alpha=0.4, color=BLUE)
    left.plot([0, 1], [0, 1], color="0.5", lw=0.8, ls="--")
    identical = weighting.identical
    left.plot(np.ones(len(identical)), identical, ".", ms=4, alpha=0.5, color=ORANGE)
    left.annotate("a mask and itself", (1, float(identical.mean())), (0.6, 0.44), arrowprops={"arrowstyle": "->"})
    left.set(xlabel="IoU of the whole masks", ylabel="IoU at independent pixels", xlim=(0, 1.03), ylim=(0, 1.03))
    bins = np.linspace(0, 1, 31)
    right.hist(weighting.intended_probability.ravel(), bins, color=ORANGE, alpha=0.8, label="(1 - IoU)⁴, as intended")
    right.hist(weighting.released_probability.ravel(), bins, color=BLUE, alpha=0.7, label="as released")
    uniform = 1 / weighting.aligned.shape[1]
    right.axvline(uniform, color=GREY, ls="--", lw=1, label="uniform (the paper)")
    right.set(xlabel="probability of a neighbour", ylabel="number of neighbours")
    right.legend()
    return figure
