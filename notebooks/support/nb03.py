"""Companion of notebook 03, in the order of the lesson: volume rendering beside exact ray casting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import trimesh
from jaxtyping import Float
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from tqdm.auto import tqdm

from lib.figures.maps import normal_colors
from lib.figures.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, PALETTE, RED, SIGNED, plain, styled
from lib.figures.viewer import controlled, slider
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, pixel_centers, points_along
from lib.geometry.distance_grid import distance_grid
from lib.geometry.meshes import ray_scene
from lib.rendering.volume import (
    Field,
    LastInterval,
    RenderedMaps,
    compositing_weights,
    laplace_density,
    render_rays,
    sample_depths,
)

# --- Scenes: a shape that is known exactly and as a field ------------------------------------------------------------

REACH = 0.7  # depths are sampled up to so far before and behind the world's origin, world units


@dataclass(frozen=True)
class Scene:
    """One shape seen by one camera: a field for `render_rays`, and the exact maps of a square image (H, H, ...)."""

    field: Field
    exact: RenderedMaps
    viewpoint: Viewpoint

    @property
    def image_size(self) -> int:
        """Side of the image in pixels."""
        return len(self.exact.mask)

    def depths(self, samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "1 rays samples"]:
        """Sample depths of all rays."""
        middle = self.viewpoint.distance
        return sample_depths(middle - REACH, middle + REACH, self.image_size**2, samples, generator)

    def render(
        self, beta: float, samples: int, last_interval: LastInterval = "zero", generator: torch.Generator | None = None
    ) -> RenderedMaps:
        """Volume rendering of the same rays as the exact maps, shapes (H, H, ...)."""
        rays = image_rays(self.viewpoint, self.image_size)
        maps = render_rays(self.field, rays, self.depths(samples, generator), beta, last_interval)
        return as_image(maps, self.image_size)


def image_rays(viewpoint: Viewpoint, image_size: int) -> Rays:
    """Rays through all pixel centres of one camera, row by row: shapes (1, H * H, 3)."""
    return camera_rays(viewpoint, pixel_centers(image_size, dtype=viewpoint.distance.dtype)[None])


def as_image(maps: RenderedMaps, image_size: int) -> RenderedMaps:
    """Maps (1, H * H, ...) of all pixels of one camera as images (H, H, ...)."""
    parts = (maps.rgb, maps.mask, maps.normal, maps.depth)
    return RenderedMaps(*(part[0].unflatten(0, (image_size, image_size)) for part in parts))


def height_color(points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
    """Blue at the floor, orange at the top of the unit cube: a texture that field and mesh can share."""
    low, high = points.new_tensor([[0.0, 0.45, 0.70], [0.90, 0.62, 0.0]])
    return low + (points[..., 2:] + 0.5).clamp(0, 1) * (high - low)


def cast_rays(mesh: trimesh.Trimesh, rays: Rays, far: float) -> RenderedMaps:
    """What rays (1, N) meet first on a mesh, by Embree; `far` is the depth of rays that meet nothing.

    The mask is 0 or 1, the normal that of the face, turned towards the camera, the colour `height_color`.
    """
    origins, directions = rays.origins[0], rays.directions[0]
    face, depth = first_faces(mesh, origins.numpy(), directions.numpy())
    hit, depth = torch.from_numpy(face >= 0), torch.from_numpy(depth).to(directions)
    points = origins + depth[:, None] * directions
    normal = torch.from_numpy(np.where(face[:, None] >= 0, mesh.face_normals[face], 0.0)).to(directions)
    away = (normal * directions).sum(-1, keepdim=True) > 0
    rgb = torch.where(hit[:, None], height_color(points), 1.0)
    maps = (rgb, hit.to(directions), torch.where(away, -normal, normal), depth.clamp(max=far))
    return RenderedMaps(*(part[None] for part in maps))


def first_faces(mesh: trimesh.Trimesh, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index of the first face of each ray (-1: none), and its depth (infinite: none), solved for in float64."""
    o, d = (np.ascontiguousarray(part, dtype=np.float32) for part in (origins, directions))
    face = ray_scene(mesh).run(o, d, query="INTERSECT")
    corner, normal = mesh.triangles[face][:, 0], mesh.face_normals[face]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = ((corner - o) * normal).sum(-1) / (d * normal).sum(-1)
    return face, np.where(face >= 0, depth, np.inf)


def mesh_scene(mesh: trimesh.Trimesh, viewpoint: Viewpoint, image_size: int = 64, resolution: int = 112) -> Scene:
    """A mesh as a scene: exact by `cast_rays`, as a field by its `distance_grid`."""
    grid = distance_grid(mesh, resolution)
    maps = cast_rays(mesh, image_rays(viewpoint, image_size), float(viewpoint.distance) + REACH)
    return Scene(grid.field(height_color), as_image(maps, image_size), viewpoint)


def sphere_scene(viewpoint: Viewpoint, radius: float = 0.4, image_size: int = 64) -> Scene:
    """A centred sphere as a scene: the field and the maps both in closed form, so any difference is the renderer's."""

    def field(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = points.norm(dim=-1)
        return length - radius, points / length[..., None], height_color(points)

    rays = image_rays(viewpoint, image_size)
    nearest = -(rays.origins * rays.directions).sum(-1)  # depth of the ray's point nearest to the centre
    half_chord = radius**2 - rays.origins.square().sum(-1) + nearest.square()
    hit = half_chord > 0
    depth = torch.where(hit, nearest - half_chord.clamp(min=0).sqrt(), viewpoint.distance[:, None] + REACH)
    points = points_along(rays, depth[..., None])[:, :, 0]
    normal = torch.where(hit[..., None], points / radius, 0.0)
    rgb = torch.where(hit[..., None], height_color(points), 1.0)
    return Scene(field, as_image(RenderedMaps(rgb, hit.to(depth.dtype), normal, depth), image_size), viewpoint)


# --- The picture first: exact, rendered, and the difference ----------------------------------------------------------


class MapErrors(NamedTuple):
    """How far rendered maps are from exact ones; depth and normals where both masks are over one half."""

    mask: float  # mean absolute difference
    iou: float  # soft intersection over union of the masks
    depth: float  # mean absolute difference, world units
    depth_bias: float  # mean difference, positive where the rendering is too far
    normal: float  # mean angle, degrees
    rgb: float  # mean absolute difference


def compare_maps(rendered: RenderedMaps, exact: RenderedMaps) -> MapErrors:
    """Errors of a rendering against the exact maps of the same rays."""
    both = (exact.mask > 0.5) & (rendered.mask > 0.5)
    depth = (rendered.depth - exact.depth)[both]
    intersection = (rendered.mask * exact.mask).sum()
    values = (
        (rendered.mask - exact.mask).abs().mean(),
        intersection / (rendered.mask.sum() + exact.mask.sum() - intersection),
        depth.abs().mean(),
        depth.mean(),
        normal_angles(rendered.normal, exact.normal)[both].mean(),
        (rendered.rgb - exact.rgb).abs().mean(),
    )
    return MapErrors(*(float(value) for value in values))


def normal_angles(a: Float[Tensor, "*rays 3"], b: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays"]:
    """Angle between unit vectors in degrees; exact for small angles too."""
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)).rad2deg()


@styled()
def comparison_figure(scene: Scene, beta: float, samples: int):
    """Exact ray casting, volume rendering and their difference: image, mask, normals, depth; returns the figure."""
    maps, exact = scene.render(beta, samples), scene.exact
    errors, middle = compare_maps(maps, exact), float(scene.viewpoint.distance)
    figure, axes = plt.subplots(3, 4, figsize=(8.2, 6.3), layout="constrained")
    for line, shown in zip(axes, (exact, maps), strict=False):
        inside = shown.mask[..., None].clamp(0, 1).numpy()
        colors = normal_colors(shown.normal @ scene.viewpoint.rotation()[0].mT) * inside + (1 - inside)
        depth = torch.where(shown.mask > 0.5, shown.depth, torch.nan)
        plain(line[0]).imshow(shown.rgb.clamp(0, 1))
        plain(line[1]).imshow(shown.mask, cmap="gray", vmin=0, vmax=1)
        plain(line[2]).imshow(colors)
        plain(line[3]).imshow(depth, cmap=MAGNITUDE, vmin=middle - 0.6, vmax=middle + 0.6)
    both = (exact.mask > 0.5) & (maps.mask > 0.5)
    differences = (
        ((maps.rgb - exact.rgb).abs().mean(-1), 0, 0.5, MAGNITUDE, ""),
        (maps.mask - exact.mask, -1, 1, SIGNED, ""),
        (torch.where(both, normal_angles(maps.normal, exact.normal), torch.nan), 0, 60, MAGNITUDE, "degrees"),
        (torch.where(both, maps.depth - exact.depth, torch.nan), -0.05, 0.05, SIGNED, "world units"),
    )
    for axis, (picture, low, high, colors, unit) in zip(axes[2], differences, strict=True):
        scale = plain(axis).imshow(picture, vmin=low, vmax=high, cmap=colors)
        figure.colorbar(scale, ax=axis, location="bottom", label=unit, shrink=0.9).locator = MaxNLocator(3)
    for axis, title in zip(axes[0], ("image", "mask", "normals", "depth"), strict=True):
        axis.set_title(title)
    for axis, label in zip(axes[:, 0], ("exact", "volume", "difference"), strict=True):
        axis.set_ylabel(label)
    found = f"mask error {errors.mask:.3f}, depth error {errors.depth:.4f}, normal error {errors.normal:.1f}°"
    figure.suptitle(f"β = {beta:.3g}, {samples} samples:  {found}", fontsize=10)
    return figure


# --- One ray ---------------------------------------------------------------------------------------------------------


class RayProfile(NamedTuple):
    """What the renderer computes along one ray, each (samples,): depth and sdf in world units, sigma_i, T_i, w_i."""

    depth: np.ndarray
    sdf: np.ndarray
    density: np.ndarray
    transmittance: np.ndarray
    weights: np.ndarray


def ray_profile(scene: Scene, column: int, row: int, beta: float, samples: int) -> RayProfile:
    """Follow the ray through one pixel of a scene."""
    index, rays = row * scene.image_size + column, image_rays(scene.viewpoint, scene.image_size)
    depth = scene.depths(samples)[0, index]
    points = rays.origins[:, index, None] + depth[None, :, None] * rays.directions[:, index, None]
    sdf = scene.field(points)[0][0]
    density = laplace_density(sdf, beta)
    weights = compositing_weights(density, depth)
    transmittance = 1 - torch.cat([weights.new_zeros(1), weights.cumsum(0)[:-1]])
    return RayProfile(*(part.numpy() for part in (depth, sdf, density, transmittance, weights)))


@styled()
def ray_figure(scene: Scene, column: int, row: int, beta: float, samples: int):
    """One ray from signed distance to weights, and the pixel it belongs to; returns the matplotlib figure.

    Dots are the renderer's samples, lines the same quantities at 4,000 samples; the dashed line is the exact hit.
    """
    coarse, fine = (ray_profile(scene, column, row, beta, n) for n in (samples, 4000))
    hit = bool(scene.exact.mask[row, column] > 0)
    figure = plt.figure(figsize=(8.4, 4.4), layout="constrained")
    grid = figure.add_gridspec(4, 2, width_ratios=[1, 1.9])
    picture = plain(figure.add_subplot(grid[:, 0]))
    picture.imshow(scene.exact.rgb)
    picture.plot(column, row, "+", color="black", ms=13, mew=1.6)
    picture.set_title(f"the ray of pixel ({column}, {row})")
    axes = [figure.add_subplot(grid[i, 1]) for i in range(4)]
    labels = ("distance $s$", r"density $\sigma$", "transmittance $T$", "weight $w$")
    for axis, name, label, color in zip(axes, RayProfile._fields[1:], labels, (BLUE, ORANGE, GREEN, RED), strict=True):
        scale = 4000 / samples if name == "weights" else 1  # a weight belongs to an interval: compare like with like
        axis.plot(fine.depth, scale * getattr(fine, name), color="0.6", lw=1)
        axis.plot(coarse.depth, getattr(coarse, name), "o", color=color, ms=3)
        axis.set_ylabel(label)
        axis.tick_params(labelbottom=axis is axes[-1])
        if hit:
            axis.axvline(float(scene.exact.depth[row, column]), color="black", lw=0.9, ls="--")
    axes[0].axhline(0, color="0.4", lw=0.7)
    axes[-1].set_xlabel("depth along the ray (longest side of the chair = 1)")
    mask = f"mask {coarse.weights.sum():.3f} (exact: {'hit' if hit else 'miss'})"
    axes[0].set_title(f"β = {beta:.3g}, {samples} samples: {mask}")
    return figure


def render_controls(beta: float = 0.02, samples: int = 64) -> dict[str, ipywidgets.ValueWidget]:
    """Beta from 0.001 to 0.1 world units on a logarithmic scale, and the number of samples a ray."""
    late = {"continuous_update": False}
    counts = (8, 16, 24, 32, 64, 128, 256, 512)
    return {
        "beta": ipywidgets.FloatLogSlider(
            beta, base=10, min=-3, max=-1, step=0.05, description="β", readout_format=".4f", **late
        ),
        "samples": ipywidgets.SelectionSlider(options=counts, value=samples, description="samples", **late),
    }


def ray_control(scene: Scene, column: int, row: int) -> Callable[[], None]:
    """Show `ray_figure` below sliders of pixel, beta and samples; returns what draws it again."""
    last = scene.image_size - 1
    pixel = {"column": slider("column", column, 0, last, 1), "row": slider("row", row, 0, last, 1)}
    return controlled(lambda **values: ray_figure(scene, **values), **pixel, **render_controls())


# --- How wrong is it? ------------------------------------------------------------------------------------------------


@styled()
def error_curves(errors: dict[tuple[float, int], MapErrors]):
    """Errors (beta, samples) -> MapErrors over the number of samples, a line a beta; returns the figure."""
    table = pd.DataFrame(errors, index=MapErrors._fields).T.sort_index(level=0, ascending=False)
    titles = {
        "mask": "mask: mean difference",
        "depth": "depth: mean error, world units",
        "normal": "normals: mean angle, degrees",
    }
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for beta, color in zip(table.index.unique(0), PALETTE, strict=False):
            line = table.loc[beta, name].sort_index()
            axis.loglog(line.index, line, "o-", color=color, ms=3.5, lw=1.3, label=f"β = {beta:g}")
        axis.set(title=title, xlabel="samples a ray")
        axis.set_xticks(line.index, [str(n) for n in line.index], minor=False)
        axis.minorticks_off()
    axes[2].set_yticks([5, 10, 20, 40], ["5", "10", "20", "40"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(PALETTE))
    return figure


# --- The limit of small beta -----------------------------------------------------------------------------------------


@styled()
def depth_bias_figure(betas: Sequence[float], counts: Sequence[int]):
    """How far behind a flat wall its rendered depth is, averaged over positions of the wall; returns the figure."""
    fine = np.geomspace(min(betas), max(betas), 50)
    figure, axis = plt.subplots(figsize=(6.2, 3.3), layout="constrained")
    axis.loglog(fine, 0.3431 * fine, color="black", lw=1.1, ls="--", label="0.343 β")
    for count, color in zip(counts, PALETTE, strict=False):
        biases = [wall_depth_bias(beta, count) for beta in betas]
        axis.loglog(betas, biases, "o-", ms=3.5, color=color, label=f"{count} samples")
        axis.axhline(REACH / count, color=color, lw=0.8, ls=":")
    axis.set(xlabel="β (world units)", ylabel="depth behind the wall\n(world units)")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def wall_depth_bias(beta: float, samples: int, phases: int = 32) -> float:
    """Mean rendered depth minus true depth of a thick wall met at a right angle, over its positions between samples."""
    near, far = torch.tensor([[-REACH], [REACH]], dtype=torch.float64)
    depth = sample_depths(near, far, phases, samples)[0]
    wall = (torch.arange(phases, dtype=torch.float64)[:, None] + 0.5) / phases * 2 * REACH / samples - REACH / 3
    weights = compositing_weights(laplace_density(wall - depth, beta), depth)
    return float(((weights * depth).sum(-1) / weights.sum(-1) - wall[:, 0]).mean())


# --- Thin legs -------------------------------------------------------------------------------------------------------


@styled()
def thin_figure(scene: Scene, counts: Sequence[int], beta: float, crop: tuple[slice, slice], samples: int = 64):
    """A slab's opacity over its thickness (`samples` a ray), and a crop of the scene's mask with more and more samples.

    Lines are means over positions of the slab, bands the extremes, dashed the closed form.
    """
    figure = plt.figure(figsize=(8.6, 5.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    axis, spacing = top.subplots(), 2 * REACH / samples
    thickness = np.linspace(0.0, 3 * spacing, 61)
    for width, color in zip((0.1, 0.02, 0.005, 0.001), PALETTE, strict=False):
        masks = np.array([slab_opacity(t, width, spacing) for t in thickness])
        axis.plot(thickness, masks.mean(1), color=color, lw=1.6, label=f"β = {width:g}")
        axis.fill_between(thickness, masks.min(1), masks.max(1), color=color, alpha=0.13, lw=0)
        axis.plot(thickness, exact_slab_opacity(thickness, width), color=color, lw=1, ls="--")
    axis.axvline(spacing, color=GREY, lw=1)
    axis.text(spacing, 0.03, f" spacing {2 * REACH:g} / {samples} = {spacing:.4f}", color="0.3", fontsize=8.5)
    axis.set(xlabel="thickness of a slab (world units)", ylabel="rendered mask", ylim=(0, 1.03), xlim=(0, 3 * spacing))
    axis.legend(loc="lower right", title=f"{samples} samples; dashed: infinitely many", title_fontsize=8.5)
    pictures = {"exact": scene.exact.mask} | {f"{n} samples": scene.render(beta, n).mask for n in counts}
    for axis, (title, mask) in zip(bottom.subplots(1, len(pictures)), pictures.items(), strict=True):
        plain(axis).imshow(mask[crop], cmap="gray", vmin=0, vmax=1)
        axis.set_title(title)
    bottom.suptitle(f"the chair's legs at β = {beta:g}", fontsize=9.5)
    return figure


def slab_opacity(thickness: float, beta: float, spacing: float, phases: int = 64) -> Float[np.ndarray, " phases"]:
    """Mask of a ray that crosses a slab at a right angle, for evenly spread positions of the slab between samples."""
    depth = torch.arange(-40, 41, dtype=torch.float64) * spacing
    shift = (torch.arange(phases, dtype=torch.float64) + 0.5)[:, None] / phases * spacing
    sdf = (depth - shift).abs() - thickness / 2
    return compositing_weights(laplace_density(sdf, beta), depth.expand_as(sdf)).sum(-1).numpy()


def exact_slab_opacity(thickness, beta: float):
    """The same for infinitely many samples: 1 - exp(-(t / beta + exp(-t / (2 beta))))."""
    return -np.expm1(-(thickness / beta + np.exp(-thickness / (2 * beta))))


# --- What goes wrong: the last interval; random positions ------------------------------------------------------------


@styled()
def interval_figure(scene: Scene, betas: Sequence[float], samples: int = 64):
    """Masks under the two rules for the last interval, a column a beta; returns the matplotlib figure."""
    figure, axes = plt.subplots(2, len(betas), figsize=(1.7 * len(betas) + 0.5, 4.1), layout="constrained")
    background = scene.exact.mask == 0
    for line, rule in zip(axes, ("zero", "infinite"), strict=True):
        for axis, beta in zip(line, betas, strict=True):
            mask = scene.render(beta, samples, rule).mask
            plain(axis).imshow(mask, cmap="gray", vmin=0, vmax=1)
            axis.spines[:].set(visible=True, color=GREY, linewidth=0.8)  # where all is white, too
            axis.set_title(f"β = {beta:g}\nbackground {mask[background].mean():.3f}")
        line[0].set_ylabel(f"last interval: {rule}")
    return figure


@styled()
def jitter_figure(scene: Scene, beta: float, samples: int, repeats: int, generator: torch.Generator):
    """Depth errors with samples in the middle of their bins, once at random, and on average over many draws.

    The spread is half the distance between the 16th and the 84th percentile: a standard deviation without outliers.
    """
    draws = tqdm(range(repeats), unit="draw", leave=False)
    drawn = torch.stack([scene.render(beta, samples, generator=generator).depth for _ in draws])
    pictures = {
        "middle of the bins": scene.render(beta, samples).depth,
        "one random draw": drawn[0],
        f"mean of {repeats} draws": drawn.mean(0),
    }
    visible, limit = scene.exact.mask > 0.5, 2 * REACH / samples
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 3.3), layout="constrained")
    for axis, (title, depth) in zip(axes, pictures.items(), strict=True):
        error = torch.where(visible, depth - scene.exact.depth, torch.nan)
        scale = plain(axis).imshow(error, cmap=SIGNED, vmin=-limit, vmax=limit)
        low, median, high = np.percentile(error[visible].numpy(), [16, 50, 84])
        axis.set_title(f"{title}\nmedian {median:+.4f}\nspread {(high - low) / 2:.4f}")
    figure.colorbar(scale, ax=axes, shrink=0.8, label="depth error (world units)")
    return figure
