"""Silhouettes, their distance transforms and the cones of free space that follow, in pictures (notebook 02)."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.figures.shapes import PLAIN, draw_mesh, viewpoint_at
from lib.figures.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, RED, plain, styled
from lib.geometry.distance_transform import distance_transform
from lib.geometry.meshes import marching_cubes
from lib.studies.bounds import BoundScene, Carving, Solid, Verdict
from lib.studies.silhouette_fit import SilhouetteFit

TURN = np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]])  # camera axes (right, down, forward) to (right, forward, up)


@styled()
def bound_figure(scene: BoundScene, column: int, row: int, depth: float):
    """One pixel and one depth: the distance transform, the cone with its ball, and the bound along the ray."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(9.4, 3.2), layout="constrained")
    grid = figure.add_gridspec(1, 3, width_ratios=[0.95, 1.4, 1])
    draw_distance(figure.add_subplot(grid[0]), scene, column, row)
    # a 3D panel draws in the middle of its place: give it more than its column
    _draw_cone(figure.add_axes((0.22, -0.22, 0.47, 1.38), projection="3d"), scene, column, row, depth)
    _draw_along_ray(figure.add_subplot(grid[2]), scene, column, row, depth)
    return figure


def draw_distance(axis, scene: BoundScene, column: int, row: int) -> None:
    """The silhouette, D outside it, and the circle of radius D about a pixel."""
    from matplotlib.patches import Circle

    pixels = float(scene.viewpoint.focal) * len(scene.mask)  # plane units to pixels
    distance = torch.where(scene.mask, torch.nan, scene.distance * pixels)
    plain(axis).imshow(scene.mask, cmap="gray_r", vmin=0, vmax=1.6)
    shown = axis.imshow(distance, cmap=MAGNITUDE)
    axis.contour(distance.nan_to_num(0), levels=range(4, 60, 4), colors="white", linewidths=0.4, alpha=0.6)
    radius = float(scene.distance[row, column]) * pixels
    axis.plot(column, row, "o", color=RED, ms=4)
    axis.add_patch(Circle((column, row), radius, fill=False, color=RED, lw=1.6))
    axis.figure.colorbar(shown, ax=axis, location="bottom", shrink=0.85, label="D (pixels)")
    axis.set(xlim=(-0.5, len(scene.mask) - 0.5), ylim=(len(scene.mask) - 0.5, -0.5))  # whatever the circle covers
    where = f"at ({column}, {row})"
    axis.set_title(f"D = 0 {where}, inside" if scene.mask[row, column] else f"D = {radius:.1f} pixels {where}")


@styled()
def silhouette_figure(mask: Tensor, distance: Tensor):
    """A silhouette, its distance transform, and the importance weight 1 / D of every pixel."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.2), layout="constrained")
    outside = torch.where(mask, torch.nan, distance)
    pictures = (
        (mask.float(), "gray_r", "silhouette"),
        (outside, MAGNITUDE, "D (pixels)"),
        (1 / outside, MAGNITUDE, "1 / D"),
    )
    for axis, (picture, colors, title) in zip(axes, pictures, strict=True):
        shown = plain(axis).imshow(picture, cmap=colors, vmin=0)
        axis.set_title(title)
        if colors == MAGNITUDE and bool(outside.isfinite().any()):
            figure.colorbar(shown, ax=axis, location="bottom", shrink=0.8)
    return figure


def cone_scene(scene: BoundScene, column: int, row: int, depth: float):
    """The same cone to turn with the mouse: picture, cone, ball, and the solid or its rays; a plotly go.Figure."""
    import plotly.graph_objects as go

    parts = _cone_parts(scene, column, row, depth)
    figure = go.Figure()
    if scene.solid is None:
        x, y, z = np.pad(parts["rays"], [(0, 0), (0, 1), (0, 0)], constant_values=np.nan).reshape(-1, 3).T  # gaps
        line = {"color": BLUE, "width": 1}
        figure.add_scatter3d(x=x, y=y, z=z, mode="lines", opacity=0.4, line=line, name="the object is in here")
    else:
        figure.add_trace(_solid_trace(scene.solid, parts["vertices"]))
    for name, opacity, tint in (("cone", 0.25, ORANGE), ("ball", 0.55, RED)):
        x, y, z = np.moveaxis(parts[name], -1, 0)
        figure.add_surface(x=x, y=y, z=z, opacity=opacity, colorscale=[tint, tint], showscale=False, name=name)
    x, y, z = parts["outline"].T
    figure.add_scatter3d(x=x, y=y, z=z, mode="markers", marker={"size": 1.5, "color": BLUE}, name="silhouette")
    hidden, eye = {"visible": False}, {"x": -1.5, "y": -1.2, "z": 0.8}
    figure.update_scenes(xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="data", camera_eye=eye)
    figure.update_layout(height=420, margin={"l": 0, "r": 0, "t": 10, "b": 0}, showlegend=False)
    return figure


def _solid_trace(solid: Solid, vertices: np.ndarray):
    import plotly.graph_objects as go

    (x, y, z), (i, j, k) = vertices.T, np.asarray(solid.mesh.faces).T
    color, light = f"rgb{tuple(int(255 * c) for c in PLAIN)}", {"ambient": 0.6, "diffuse": 0.6}
    return go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, color=color, flatshading=True, lighting=light)


@styled()
def gap_figure(scenes: dict[str, BoundScene], row: int):
    """The gap f - b over a row of pixels and over depth, a panel a scene; white on the silhouette. Red: 0.02."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(scenes), figsize=(4.2 * len(scenes), 3.4), layout="constrained", sharey=True)
    for axis, (title, scene) in zip(np.atleast_1d(axes), scenes.items(), strict=True):
        middle = float(scene.viewpoint.distance)
        depths = torch.linspace(middle - 0.6, middle + 0.6, 121)
        gap = (scene.truth(depths) - scene.bound(depths))[row]
        gap[scene.mask[row]] = torch.nan
        extent = (0, len(scene.mask), float(depths[0]), float(depths[-1]))
        shown = axis.imshow(gap.T, origin="lower", extent=extent, aspect="auto", cmap=MAGNITUDE, vmin=0, vmax=0.4)
        axis.contour(gap.T.nan_to_num(1), levels=[0.02], colors=RED, linewidths=1.3, extent=extent)
        axis.set(title=title, xlabel=f"column of row {row}")
        axis.grid(visible=False)
    np.atleast_1d(axes)[0].set_ylabel("depth z (world units)")
    figure.colorbar(shown, ax=axes, label="gap f - b (world units)", shrink=0.85)
    return figure


@styled()
def carving_figure(carving: Carving):
    """What 1, 2, 4, ... views leave (where the bound is 0), the solid, and how far bounds and hulls see."""
    import matplotlib.pyplot as plt

    rows = carving.table()
    figure = plt.figure(figsize=(9.2, 4.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.15])
    volumes = [*(bounds - 0.006 for bounds in carving.bounds), carving.truth]
    titles = [f"{r['views']} view{'s' * (r['views'] > 1)}: IoU {r['iou']:.2f}" for r in rows] + ["true shape"]
    for axis, volume, title in zip(top.subplots(1, len(volumes)), volumes, titles, strict=True):
        mesh = marching_cubes(np.pad(volume, 1, constant_values=1.0).astype(np.float32), carving.bound)
        plain(axis).imshow(draw_mesh(mesh, viewpoint_at(60, 25), 150, smooth=False))
        axis.set_title(title)
    axis = bottom.subplots()
    counts = [r["views"] for r in rows]
    for name, label, color in (("bound", "largest bound of the views", ORANGE), ("hull", "to the visual hull", BLUE)):
        axis.plot(counts, [r[name] for r in rows], "o-", color=color, label=label)
    axis.axhline(rows[0]["truth"], color="black", ls="--", lw=1, label="to the shape")
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(n) for n in counts])
    axis.set(xlabel="known views", ylabel="mean distance outside\n(world units)", ylim=(0, None))
    axis.legend(loc="lower right")
    return figure


@styled()
def gradient_maps(scene: BoundScene, current: Tensor, gradients: dict[str, Float[Tensor, "height height"]]):
    """The target and the current silhouette, and how strongly each pixel pulls under each loss."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 1 + len(gradients), figsize=(8.6, 3.2), layout="constrained")
    plain(axes[0]).imshow(scene.mask, cmap="gray_r", vmin=0, vmax=1.6)
    axes[0].contour(current, levels=[0.5], colors=RED, linewidths=1.5)
    axes[0].set_title("target, and the field now (red)")
    for axis, (name, values) in zip(axes[1:], gradients.items(), strict=True):
        share = torch.where(scene.mask, torch.nan, (values / values.max()).sqrt())
        shown = plain(axis).imshow(share, cmap=MAGNITUDE, vmin=0, vmax=1)
        axis.set_title(f"{name}: {pulling(scene, values):.0%} of outside pixels pull")
    figure.colorbar(shown, ax=axes[1:], shrink=0.7, label="root of gradient / largest")
    return figure


def pulling(scene: BoundScene, values: Tensor) -> float:
    """Share of the outside pixels whose gradient is over a thousandth of the largest."""
    return float((values[~scene.mask] > 1e-3 * values.max()).float().mean())


@styled()
def fit_figure(fits: dict[str, SilhouetteFit]):
    """Overlap of silhouettes while fitting, and the fitted shapes from two sides."""
    import matplotlib.pyplot as plt

    widths = [1.5] + [1] * 2 * len(fits)
    figure, axes = plt.subplots(1, len(widths), figsize=(9.2, 2.7), layout="constrained", width_ratios=widths)
    for (name, fit), color in zip(fits.items(), (BLUE, ORANGE), strict=False):
        axes[0].plot(fit.steps, fit.iou, "o-", ms=3, color=color, label=name)
    axes[0].set(xlabel="step", ylabel="IoU of silhouettes", ylim=(0, 1))
    axes[0].legend(loc="lower right")
    places = iter(axes[1:])
    for name, fit in fits.items():
        mesh = marching_cubes(_sampler(fit), resolution=44)
        for azimuth, side in ((40, "its camera"), (130, "beside")):
            axis = plain(next(places))
            axis.imshow(draw_mesh(mesh, viewpoint_at(azimuth, 25), 140))
            axis.set_title(f"{name}\nfrom {side}")
    return figure


@styled()
def failure_figure(pixels: dict[tuple[int, str], Verdict], spoiled: dict[str, Verdict]):
    """Worst broken bounds over the picture's size, for each margin; and broken bounds and strength of wrong masks."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), layout="constrained", width_ratios=[1, 1.35])
    sizes = sorted({size for size, _ in pixels})
    for margin, color in zip(dict.fromkeys(margin for _, margin in pixels), (RED, ORANGE, GREEN), strict=False):
        left.loglog(sizes, [pixels[size, margin].worst for size in sizes], "o-", ms=4, color=color, label=margin)
    left.set_xticks(sizes, [str(size) for size in sizes])
    left.minorticks_off()
    left.set(xlabel="pixels along a side", ylabel="worst b - f (world units)")
    left.legend(title="taken off D", title_fontsize=8.5)
    place = np.arange(len(spoiled))[::-1]
    right.barh(place + 0.2, [v.worst for v in spoiled.values()], 0.36, color=RED, label="worst b - f (world units)")
    right.barh(place - 0.2, [v.strength for v in spoiled.values()], 0.36, color=GREY, label="strength: mean b / mean f")
    right.set_yticks(place, list(spoiled))
    right.legend(loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)
    return figure


def _sampler(fit: SilhouetteFit):
    @torch.no_grad()
    def sdf(points: np.ndarray) -> np.ndarray:
        return fit.field(torch.from_numpy(points)[None], torch.zeros(1, 1))[0][0].numpy()

    return sdf


def _cone_parts(scene: BoundScene, column: int, row: int, depth: float) -> dict[str, np.ndarray]:
    """Cone, ball, outline, and mesh or rays, in axes (right, forward, up) with the camera at the origin."""
    middle, perspective = float(scene.viewpoint.distance), scene.viewpoint.projection == "perspective"
    u, radius = scene.pixels[row, column].numpy(), float(scene.distance[row, column])
    angle = np.linspace(0, 2 * np.pi, 41)
    circle = u + radius * np.stack([np.cos(angle), np.sin(angle)], -1)
    z = np.array([0.0, middle + 0.6])[:, None]
    spread = z if perspective else np.full_like(z, middle)
    cone = np.concatenate([circle[None] * spread[..., None], np.broadcast_to(z[..., None], (2, 41, 1))], -1)
    at = np.array([*(u * (depth if perspective else middle)), depth])
    limit = float(scene.bound(torch.tensor([depth]))[row, column, 0])
    polar = np.linspace(0, np.pi, 21)[:, None]
    ball = np.stack([np.sin(polar) * np.cos(angle), np.sin(polar) * np.sin(angle), np.cos(polar) + 0 * angle], -1)
    plane = 0.35 * middle  # the picture hangs between the camera and the solid
    outline = scene.pixels[scene.mask].numpy() * (plane if perspective else middle)
    outline = np.concatenate([outline, np.full((len(outline), 1), plane)], 1)
    parts = {"cone": cone, "ball": at + limit * ball, "outline": outline, "point": at[None]}
    if scene.solid is None:
        parts["rays"] = _outline_rays(scene, np.array([plane, middle + 0.6]))
    else:
        rotation = scene.viewpoint.rotation()[0].numpy()
        parts["vertices"] = np.asarray(scene.solid.mesh.vertices) @ rotation.T + [0, 0, middle]
    return {name: part @ TURN.T for name, part in parts.items()}


def _outline_rays(scene: BoundScene, ends: np.ndarray, most: int = 60) -> np.ndarray:
    """Rays of the silhouette's outermost pixels, (rays, 2, 3), camera axes: an unknown object lies between them."""
    edge = scene.pixels[scene.mask & (distance_transform(~scene.mask) < 1.5)].numpy()
    edge = edge[:: -(-len(edge) // most)]
    spread = ends if scene.viewpoint.projection == "perspective" else np.full(2, float(scene.viewpoint.distance))
    return np.concatenate([edge[:, None] * spread[:, None], np.tile(ends[:, None], (len(edge), 1, 1))], axis=-1)


def _draw_cone(axis, scene: BoundScene, column: int, row: int, depth: float) -> None:
    from matplotlib.transforms import Bbox, TransformedBbox
    from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection

    parts = _cone_parts(scene, column, row, depth)
    axis.plot_surface(*np.moveaxis(parts["cone"], -1, 0), color=ORANGE, alpha=0.3, lw=0)
    axis.plot_surface(*np.moveaxis(parts["ball"], -1, 0), color=RED, lw=0)
    axis.plot(*parts["outline"].T, "s", ms=0.7, color=BLUE, alpha=0.6)
    if scene.solid is None:
        axis.add_collection3d(Line3DCollection(parts["rays"], colors=BLUE, lw=0.5, alpha=0.4))
    else:
        faces = parts["vertices"][scene.solid.mesh.faces]
        axis.add_collection3d(Poly3DCollection(faces, facecolor=PLAIN, edgecolor=(0.4, 0.45, 0.5, 0.5), lw=0.15))
    axis.plot([0], [0], [0], "k^", ms=5)
    axis.set_axis_off()
    axis.patch.set_alpha(0)
    # its place reaches beyond the figure, its drawing does not: a notebook need not make room for it
    axis.get_tightbbox = lambda *args, **more: axis.figure.bbox
    half = 0.55 * np.clip(np.abs(parts["cone"][..., [0, 2]]).max() / 0.65, 1, 2)  # a wide cone from farther away
    axis.set_box_aspect((half, 1.21, half), zoom=1.15)
    axis.set(xlim=(-half, half), ylim=(0, 2.42), zlim=(-half, half))
    axis.view_init(elev=22, azim=-38)
    between = TransformedBbox(Bbox.from_extents(0.255, 0, 0.645, 0.93), axis.figure.transFigure)  # the other panels
    for artist in (*axis.collections, *axis.lines):
        artist.set_clip_box(between)
    title = "camera, silhouette, cone of free space" if scene.solid else "the object: between the blue rays"
    axis.figure.text(0.45, 0.945, title, ha="center", fontsize=9.5)


def _draw_along_ray(axis, scene: BoundScene, column: int, row: int, depth: float) -> None:
    middle = float(scene.viewpoint.distance)
    depths = torch.linspace(middle - 0.7, middle + 0.7, 200)
    limit = scene.bound(depths)[row, column]
    lowest = 0.0
    if scene.solid is not None:  # else nobody knows the true distance
        truth = scene.truth(depths)[row, column]
        axis.fill_between(depths, limit, truth, color=GREY, alpha=0.2, lw=0)
        axis.plot(depths, truth, color="black", label="true distance f")
        lowest = min(0, float(truth.min()))
    axis.plot(depths, limit, color=RED, label="bound b")
    axis.axvline(depth, color=ORANGE, lw=1, ls="--")
    value = float(scene.bound(torch.tensor([depth]))[row, column, 0])
    axis.plot(depth, value, "o", color=RED)
    axis.set(xlabel="depth z (world units)", ylabel="world units", ylim=(lowest, None))
    number = f"b = {value:.3f} at z = {depth:.2f}"
    axis.set_title("b = 0: inside, nothing is bounded" if scene.mask[row, column] else number)
    axis.legend()
