"""Companion of notebook 02, in the order of the lesson: what the silhouettes of known solids prove about them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import trimesh
from IPython.display import Pretty, display
from jaxtyping import Bool, Float
from matplotlib.colors import to_rgb
from matplotlib.patches import Circle
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from torch import Tensor

from lib.data.photos import save_upload
from lib.data.silhouette_files import read_silhouette
from lib.errors import InputError
from lib.figures.shapes import draw_mesh, viewpoint_at
from lib.figures.style import BLUE, GREY, MAGNITUDE, ORANGE, RED, image_grid, plain, styled
from lib.figures.upload import upload_button
from lib.figures.viewer import controlled, drawn_once, dropdown, slider, values_of
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers, project
from lib.geometry.distance_transform import HALF_DIAGONAL, distance_transform, sdf_lower_bound
from lib.geometry.meshes import first_hits, marching_cubes, ray_scene

# --- Solids whose distance is known, and their silhouettes -----------------------------------------------------------


class Solid(NamedTuple):
    """A mesh and its signed distance: points (..., 3) -> (...), world units, front towards +y."""

    mesh: trimesh.Trimesh
    distance: Callable[[Tensor], Tensor]


def box_chair() -> Solid:
    """Seat, back and four legs of boxes; the distance is exact outside."""
    legs = [((x, y, -0.29), (0.03, 0.03, 0.21)) for x in (-0.23, 0.23) for y in (-0.22, 0.22)]
    boxes = [((0.0, 0.0, -0.05), (0.26, 0.25, 0.03)), ((0.0, -0.23, 0.24), (0.26, 0.03, 0.26)), *legs]
    meshes = [trimesh.creation.box(2 * np.array(half)).apply_translation(center) for center, half in boxes]
    center, half = (torch.tensor(column) for column in zip(*boxes, strict=True))

    def distance(points: Tensor) -> Tensor:
        excess = (points[..., None, :] - center).abs() - half
        return (excess.clamp(min=0).norm(dim=-1) + excess.amax(-1).clamp(max=0)).amin(-1)

    return Solid(trimesh.util.concatenate(meshes), distance)


def ball(radius: float = 0.4) -> Solid:
    """A sphere about the origin."""
    return Solid(trimesh.creation.icosphere(4, radius), lambda points: points.norm(dim=-1) - radius)


def ring(radius: float = 0.33, tube: float = 0.12) -> Solid:
    """A torus whose hole opens to the front."""
    upright = trimesh.transformations.rotation_matrix(math.pi / 2, [1, 0, 0])
    mesh = trimesh.creation.torus(radius, tube, 96, 48, transform=upright)
    return Solid(mesh, lambda p: torch.hypot(p[..., [0, 2]].norm(dim=-1) - radius, p[..., 1]) - tube)


SOLIDS = {"chair of boxes": box_chair, "ball": ball, "ring": ring}
CAMERAS = {"perspective": "perspective", "parallel rays": "weak_perspective"}


@dataclass(frozen=True)
class BoundScene:
    """A silhouette, the camera that saw it, and the solid behind it: None where nobody knows it.

    `pixels` are u on the image plane at focal length 1, the principal point at 0; `distance` is D on that plane.
    """

    solid: Solid | None
    viewpoint: Viewpoint
    mask: Bool[Tensor, "size size"]
    pixels: Float[Tensor, "size size 2"]
    distance: Float[Tensor, "size size"]

    def depths(self, count: int) -> Float[Tensor, " count"]:
        """Projective depths from 0.6 world units in front of the origin to 0.6 behind it."""
        return float(self.viewpoint.distance) + torch.linspace(-0.6, 0.6, count)

    def spread(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, " depths"]:
        """How much larger than the plane the view is at a depth: the same everywhere if rays are parallel."""
        perspective = self.viewpoint.projection == "perspective"
        return depths if perspective else self.viewpoint.distance.expand_as(depths)

    def lift(self, plane: Float[Tensor, "*n 2"], depths: Float[Tensor, " depths"]) -> Float[Tensor, "*n depths 3"]:
        """Points of the plane at depths, camera frame."""
        across = plane[..., None, :] * self.spread(depths)[:, None]
        return torch.cat([across, depths[:, None].expand(*across.shape[:-1], 1)], dim=-1)

    def points(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "size size depths 3"]:
        """All pixels at depths, world frame."""
        origin = torch.tensor([0.0, 0.0, float(self.viewpoint.distance)])
        return (self.lift(self.pixels, depths) - origin) @ self.viewpoint.rotation()[0]

    def bound(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "size size depths"]:
        """The bound b at `points`; 0 on the silhouette."""
        spread, camera = self.spread(depths), self.viewpoint.projection
        return sdf_lower_bound(self.pixels[:, :, None], self.distance[..., None], spread, camera)

    def truth(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "size size depths"]:
        """The solid's signed distance f at `points`."""
        return self.solid.distance(self.points(depths))


def near_camera(azimuth: float, elevation: float, projection: str = "perspective", focal: float = 1.25) -> Viewpoint:
    """A camera so near (1.8 world units) that perspective matters; angles in degrees."""
    azimuth, elevation = torch.tensor([[azimuth], [elevation]], dtype=torch.float32).deg2rad()
    return Viewpoint.from_angles(azimuth, elevation, distance=1.8, focal=focal, projection=projection)


def bound_scene(
    solid: Solid | None, viewpoint: Viewpoint, size: int = 64, mask: Tensor | None = None, margin=HALF_DIAGONAL
) -> BoundScene:
    """What a solid's silhouette proves, or a given mask: of the solid, perhaps wrong, or of something unknown."""
    if mask is None:  # pixels whose centre's ray meets the solid
        rays = camera_rays(viewpoint, pixel_centers(size)[None])
        depth = first_hits(ray_scene(solid.mesh), rays.origins[0].numpy(), rays.directions[0].numpy())
        mask = torch.from_numpy(np.isfinite(depth)).reshape(size, size)
    pixels = (pixel_centers(size) - viewpoint.center) / viewpoint.focal
    distance = distance_transform(mask, "image", margin=margin) / viewpoint.focal
    return BoundScene(solid, viewpoint, mask, pixels.reshape(size, size, 2), distance)


def scene_of(start: str, camera: str, mask: Tensor | None = None) -> BoundScene:
    """One of `SOLIDS`, or an unknown one, before one of `CAMERAS`; the ring is seen from its front, into the hole."""
    solid = SOLIDS[start]() if start in SOLIDS else None
    azimuth, elevation = (0.0, 0.0) if start == "ring" else (40.0, 25.0)
    return bound_scene(solid, near_camera(azimuth, elevation, CAMERAS[camera]), mask=mask)


# --- The picture first -----------------------------------------------------------------------------------------------


@styled()
def bound_figure(scene: BoundScene, column: int, row: int, depth: float):
    """One pixel and one depth: the distance transform, the cone with its ball, and the bound along the ray."""
    figure = plt.figure(figsize=(9.4, 3.2), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=[1.05, 1.1, 1])
    inside = bool(scene.mask[row, column])

    axis, size = plain(figure.add_subplot(grid[0])), len(scene.mask)
    distance = scene.distance * float(scene.viewpoint.focal) * size  # from plane units to pixels
    radius = float(distance[row, column])
    axis.imshow(scene.mask, cmap="gray_r", vmin=0, vmax=1.6)
    shown = axis.imshow(torch.where(scene.mask, torch.nan, distance), cmap=MAGNITUDE)
    axis.contour(distance, levels=range(4, 60, 4), colors="white", linewidths=0.4, alpha=0.6)
    axis.plot(column, row, "o", color=RED, ms=4)
    axis.add_patch(Circle((column, row), radius, fill=False, color=RED, lw=1.6))
    axis.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))  # whatever the circle covers
    axis.set_title(f"D = {'0' if inside else f'{radius:.1f} pixels'} at ({column}, {row}){', inside' * inside}")
    figure.colorbar(shown, ax=axis, location="left", shrink=0.8, label="D (pixels)")

    draw_cone(figure.add_subplot(grid[1], projection="3d"), scene, column, row, depth)

    axis, depths = figure.add_subplot(grid[2]), scene.depths(200)
    limit, value = scene.bound(depths)[row, column], float(scene.bound(torch.tensor([depth]))[row, column, 0])
    truth = scene.truth(depths)[row, column] if scene.solid else limit
    if scene.solid:
        axis.fill_between(depths, limit, truth, color=GREY, alpha=0.2, lw=0)
        axis.plot(depths, truth, color="black", label="true distance f")
    axis.plot(depths, limit, color=RED, label="bound b")
    axis.axvline(depth, color=ORANGE, lw=1, ls="--")
    axis.plot(depth, value, "o", color=RED)
    axis.set(xlabel="depth z (world units)", ylabel="world units", ylim=(min(0.0, float(truth.min())), None))
    axis.set_title("b = 0: inside, nothing is bounded" if inside else f"b = {value:.3f} at z = {depth:.2f}")
    axis.legend(frameon=True, framealpha=1, edgecolor="none")  # hides what passes behind it
    return figure


def cone_parts(scene: BoundScene, column: int, row: int, depth: float) -> tuple[list, np.ndarray, np.ndarray]:
    """What the cone's pictures show, in axes right, forward, up with the camera at the origin.

    Surfaces (vertices, faces, colour, opacity) of the cone, its ball and the solid; points of the silhouette, hung
    between camera and solid; and, of a solid that is not known, the outermost rays as lines with gaps of NaN.
    """
    pixel, at, middle = scene.pixels[row, column], torch.tensor([depth]), float(scene.viewpoint.distance)
    hung, back, turn = 0.35 * middle, middle + 0.6, torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    angle = torch.linspace(0, 2 * math.pi, 41)
    circle = pixel + scene.distance[row, column] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    cone = scene.lift(circle, torch.tensor([0.0, back])).flatten(0, 1)  # (41 · 2, 3)
    globe = trimesh.creation.icosphere(3, 1.0)
    inner = scene.lift(pixel, at) + scene.bound(at)[row, column] * torch.from_numpy(globe.vertices).float()
    strip = np.add.outer(2 * np.arange(40), [[0, 1, 2], [1, 3, 2]]).reshape(-1, 3)
    surfaces = [(cone, strip, ORANGE, 0.3), (inner, globe.faces, RED, 0.8)]
    flat, rays = scene.lift(scene.pixels[scene.mask], torch.tensor([hung])), torch.zeros(0, 3, 3)
    if scene.solid:
        vertices = torch.from_numpy(scene.solid.mesh.vertices).float() @ scene.viewpoint.rotation()[0].T
        surfaces.append((vertices + torch.tensor([0, 0, middle]), scene.solid.mesh.faces, "#BDC9D6", 1.0))
    else:
        edge = scene.pixels[scene.mask & (distance_transform(~scene.mask) < 1.5)]
        rays = scene.lift(edge[:: 1 + len(edge) // 60], torch.tensor([hung, back, torch.nan]))
    surfaces = [((vertices @ turn).numpy(), *rest) for vertices, *rest in surfaces]
    return surfaces, (flat.flatten(0, 1) @ turn).numpy(), (rays.flatten(0, 1) @ turn).numpy()


def draw_cone(axis, scene: BoundScene, column: int, row: int, depth: float) -> None:
    """The cone of free space with its ball, the camera, the silhouette, and the solid or its rays."""
    surfaces, flat, rays = cone_parts(scene, column, row, depth)
    for vertices, faces, color, alpha in surfaces:
        axis.add_collection3d(
            Poly3DCollection(vertices[faces], facecolors=[to_rgb(color)], alpha=alpha, lw=0, shade=True)
        )
    axis.plot(*flat.T, "s", ms=0.7, color=BLUE, alpha=0.6)
    axis.plot(*rays.T, color=BLUE, lw=0.5, alpha=0.4)
    axis.plot([0], [0], [0], "k^", ms=5)
    half = 0.55 * np.clip(np.abs(surfaces[0][0][:, [0, 2]]).max() / 0.65, 1, 2)  # farther for a wide cone
    axis.set_box_aspect((half, 1.21, half), zoom=1.55)
    axis.set(xlim=(-half, half), ylim=(0, 2.42), zlim=(-half, half))
    axis.view_init(elev=22, azim=-38)
    axis.set_axis_off()
    axis.set_title("camera, silhouette, cone" if scene.solid else "the object: between the blue rays")


# --- Make a silhouette -----------------------------------------------------------------------------------------------

NOTHING, FILE = "nothing", "your file"  # where a painting can start, besides the solids


class Easel:
    """The reader's silhouette, painted with `controls` or loaded from a file; `changed` is called after each change.

    `given` is the file's silhouette; `kept` are touches of the brush, (kind, x, y, radius) in shares of the picture.
    """

    def __init__(self, given: Bool[Tensor, "size size"] | None = None):
        self.given, self.kept = given, []
        self.changed: Callable[[], None] = lambda: None
        start, brush = ("chair of boxes", "paint") if given is None else (FILE, "off")
        self.controls = {
            "start": dropdown("start", [*SOLIDS, NOTHING, FILE], start),
            "brush": dropdown("brush", ["paint", "erase", "off"], brush),
            "x": slider("x", 0.78, 0.0, 1.0, 0.02),
            "y": slider("y", 0.26, 0.0, 1.0, 0.02),
            "radius": slider("radius", 0.06, 0.0, 0.5, 0.02),
        }

    def scene(self, camera: str = "perspective") -> BoundScene:
        """What the silhouette proves; with the solid that it started from, if any, which it may contradict."""
        start, *touch = values_of(self.controls).values()
        if start == FILE and self.given is None:
            raise InputError("You have not loaded a file yet; load one, or start from something else.")
        mask = self.given if start == FILE else torch.zeros(64, 64, dtype=torch.bool)
        mask = scene_of(start, camera).mask if start in SOLIDS else mask
        axis = (torch.arange(64) + 0.5) / 64
        for kind, x, y, radius in (*self.kept, touch):
            disc = torch.hypot(axis - x, axis[:, None] - y) < radius
            mask = {"paint": mask | disc, "erase": mask & ~disc, "off": mask}[kind]
        if not mask.any():
            raise InputError("Your silhouette is empty, so nothing is anywhere; paint a part of it or load another.")
        if mask.all():
            raise InputError("Your silhouette covers the picture, which proves nothing; erase a part or load another.")
        return scene_of(start, camera, mask)

    def draw(self, **values):
        """The silhouette, its distance transform, and the importance weight 1 / D of every pixel."""
        self.changed()
        mask = self.scene().mask
        outside = torch.where(mask, torch.nan, distance_transform(mask))
        pictures = [part.float().numpy() for part in (~mask, outside, 1 / outside)]
        limits = [None, (0, float(outside.nan_to_num().max()), MAGNITUDE), (0, 1, MAGNITUDE)]
        return image_grid([pictures], ("silhouette", "D (pixels)", "1 / D"), size=2.6, limits=limits)

    def show(self, folder: Path) -> Callable[[], None]:
        """Show buttons, controls and the painting; returns what draws it again. `folder` gets uploaded images."""
        upload, said = upload_button("load a file"), ipywidgets.Output()
        keep, clear = (ipywidgets.Button(description=name) for name in ("keep this touch", "clear touches"))
        display(ipywidgets.VBox([ipywidgets.HBox([upload, keep, clear]), said]))
        redraw = controlled(self.draw, **self.controls)

        def start_afresh(_=None, start: str | None = None) -> None:
            self.kept.clear()
            with drawn_once(redraw, self.controls):
                self.controls["brush"].value = "off"
                self.controls["start"].value = start or self.controls["start"].value

        def load(_) -> None:
            files, upload.value = upload.value, ()  # so that the same file, perhaps mended, is a change again
            if not files:
                return
            name = files[-1]["name"]
            said.clear_output()
            with said:
                try:
                    self.given, source = read_silhouette(save_upload(files, folder, "silhouette"), 64, name)
                    start_afresh(start=FILE)
                    print(f"The silhouette was read from the {source} of {name}.")
                except InputError as error:
                    print(f"error: {error}")

        upload.observe(load, names="value")
        keep.on_click(lambda _: self.kept.append(list(values_of(self.controls).values())[1:]))
        clear.on_click(start_afresh)
        return redraw


# --- Drag a pixel and a depth ----------------------------------------------------------------------------------------

OWN = "your silhouette"


def bound_controls(column: int, row: int, depth: float, scene: str = "chair of boxes") -> dict:
    """Solid or own silhouette, camera, pixel and depth: name -> widget."""
    return {
        "scene": dropdown("scene", [*SOLIDS, OWN], scene),
        "camera": dropdown("camera", list(CAMERAS)),
        "column": slider("column", column, 0, 63, 1),
        "row": slider("row", row, 0, 63, 1),
        "depth": slider("depth", depth, 1.2, 2.4, 0.05),
    }


def draw_chosen(figure: Callable, easel: Easel, scene: str, camera: str, **where):
    """A figure of what `bound_controls` are set to, or the sentence that says why there is none."""
    try:
        return figure(easel.scene(camera) if scene == OWN else scene_of(scene, camera), **where)
    except InputError as error:
        return Pretty(f"error: {error}")


def bound_explorer(easel: Easel, controls: dict) -> Callable[[], None]:
    """Show `bound_controls` over the `bound_figure`, which follows the easel too; returns what draws it again."""
    redraw = controlled(lambda **values: draw_chosen(bound_figure, easel, **values), **controls)
    easel.changed = lambda: redraw() if controls["scene"].value == OWN else None
    return redraw


def turned_cone(scene: BoundScene, column: int, row: int, depth: float) -> go.Figure:
    """The cone of `draw_cone`, to turn with the mouse."""
    surfaces, flat, rays = cone_parts(scene, column, row, depth)
    figure, hidden, marker, line = go.Figure(), {"visible": False}, {"size": 1.5, "color": BLUE}, {"color": BLUE}
    for vertices, faces, color, alpha in surfaces:
        (x, y, z), (i, j, k) = vertices.T, faces.T
        figure.add_mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, color=color, opacity=alpha, flatshading=True)
    for (x, y, z), mode in ((flat.T, "markers"), (rays.T, "lines")):
        figure.add_scatter3d(x=x, y=y, z=z, mode=mode, marker=marker, line=line, opacity=0.5)
    figure.update_scenes(xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="data")
    figure.update_scenes(camera_eye={"x": -1.5, "y": -1.2, "z": 0.8})
    return figure.update_layout(height=420, margin={"l": 0, "r": 0, "t": 10, "b": 0}, showlegend=False)


# --- Where the bound is the whole truth ------------------------------------------------------------------------------


@styled()
def gap_figure(scenes: dict[str, BoundScene], row: int):
    """The gap f - b over a row of pixels and over depth, a panel a scene; white on the silhouette. Red: 0.02."""
    figure, axes = plt.subplots(1, len(scenes), figsize=(4.2 * len(scenes), 3.4), layout="constrained", sharey=True)
    for axis, (title, scene) in zip(axes, scenes.items(), strict=True):
        depths = scene.depths(121)
        gap = torch.where(scene.mask[row, :, None], torch.nan, (scene.truth(depths) - scene.bound(depths))[row])
        place = {"origin": "lower", "extent": (0, len(scene.mask), float(depths[0]), float(depths[-1]))}
        shown = axis.imshow(gap.T, aspect="auto", cmap=MAGNITUDE, vmin=0, vmax=0.4, **place)
        axis.contour(gap.T.nan_to_num(1), levels=[0.02], colors=RED, linewidths=1.3, **place)
        axis.set(title=title, xlabel=f"column of row {row}")
        axis.grid(visible=False)
    axes[0].set_ylabel("depth z (world units)")
    figure.colorbar(shown, ax=axes, label="gap f - b (world units)", shrink=0.85)
    return figure


# --- One view, two, four, eight --------------------------------------------------------------------------------------


def bounds_at(scene: BoundScene, points: Float[Tensor, "n 3"]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """What a view proves about world points, and whether they are in its silhouette or beside the picture.

    A point falls between pixel centres; D changes by no more than the way to the nearest one, which is taken off.
    """
    view, size = scene.viewpoint, len(scene.mask)
    at = project(view, points[None])[0]
    column, row = (at * size).floor().long().clamp(0, size - 1).unbind(-1)
    plane = (at - view.center) / view.focal
    distance = (scene.distance[row, column] - (plane - scene.pixels[row, column]).norm(dim=-1)).clamp(min=0)
    bound = sdf_lower_bound(plane, distance, points @ view.rotation()[0, 2] + view.distance)
    seen = ((at >= 0) & (at < 1)).all(-1)
    return torch.where(seen, bound, 0), scene.mask[row, column] | ~seen


def carving_figures(rows: list[dict], volumes: list[Float[np.ndarray, "x y z"]], bound: float):
    """The shapes of volumes, one for each row and the true one; and how far bounds and hulls see."""
    meshes = [marching_cubes(np.pad(v, 1, constant_values=1.0).astype(np.float32), bound) for v in volumes]
    pictures = [draw_mesh(mesh, viewpoint_at(60, 25), 150, smooth=False) for mesh in meshes]
    titles = [f"{row['views']} view{'s' * (row['views'] > 1)}: IoU {row['iou']:.2f}" for row in rows]
    shapes = image_grid([pictures], [*titles, "true shape"], size=1.75)
    names = {"bound": "largest bound of the views", "hull": "to the visual hull", "truth": "to the shape"}
    table = pd.DataFrame(rows).set_index("views")[list(names)].rename(columns=names)
    return shapes, curves(table, "known views", "mean distance outside\n(world units)", ylim=(0, None), logx=True)


@styled()
def curves(table: pd.DataFrame, xlabel: str, ylabel: str, axis=None, **scales):
    """A line for each column over the index; returns the figure."""
    axis = axis or plt.subplots(figsize=(6.4, 2.5), layout="constrained")[1]
    table.plot(ax=axis, style="o-", ms=4, xlabel=xlabel, ylabel=ylabel, xticks=table.index, **scales)
    axis.set_xticklabels(table.index)
    axis.minorticks_off()
    return axis.figure


# --- Distances against yes and no; fit one field to one silhouette ---------------------------------------------------


def gradient_maps(scene: BoundScene, now: Float[Tensor, "size size"], gradients: dict[str, Tensor]):
    """The target and the field's silhouette now (red), and how strongly each pixel pulls under each loss."""
    outside = ~scene.mask
    titles = ["target, and the field now (red)"]
    for name, values in gradients.items():
        pulling = (values[outside] > 1e-3 * values.max()).float().mean()
        titles.append(f"{name}: {pulling:.0%} of outside pixels pull")
    shares = [torch.where(outside, (g / g.max()).sqrt(), torch.nan).numpy() for g in gradients.values()]
    limits = [None, *[(0, 1, MAGNITUDE)] * len(shares)]
    figure = image_grid([[outside.float().numpy(), *shares]], titles, size=2.8, limits=limits)
    figure.axes[0].contour(now, levels=[0.5], colors=RED, linewidths=1.5)
    return figure


def fit_figures(meshes: dict[str, trimesh.Trimesh], overlaps: dict[str, list[float]], every: int):
    """Overlaps of silhouettes, noted once in `every` steps, and the fitted shapes from two sides."""
    table = pd.DataFrame(overlaps)
    table.index *= every
    titles = [f"{name}, from {side}" for name in meshes for side in ("its camera", "beside")]
    pictures = [draw_mesh(mesh, viewpoint_at(turn, 25), 140) for mesh in meshes.values() for turn in (40, 130)]
    return curves(table, "step", "IoU of silhouettes", ylim=(0, 1)), image_grid([pictures], titles, size=1.9)


# --- What goes wrong -------------------------------------------------------------------------------------------------


@styled()
def failure_figure(worst: dict[tuple[int, str], float], spoiled: dict[str, dict[str, float]]):
    """Worst broken bounds over the picture's size for each margin; and broken bounds and strength of wrong masks."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), layout="constrained", width_ratios=[1, 1.35])
    curves(pd.Series(worst).unstack(), "pixels along a side", "worst b - f (world units)", left, loglog=True)
    left.legend(title="taken off D", title_fontsize=8.5)
    pd.DataFrame(spoiled).T[::-1][["strength", "worst"]].plot.barh(ax=right, color=[GREY, RED], width=0.75)
    labels = ("strength: mean b / mean f", "worst b - f (world units)")
    right.legend(labels, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return figure
