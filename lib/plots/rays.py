"""Volume rendering in pictures: one ray, whole images against exact ones, and what samples and beta do to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lib.figures.maps import normal_colors
from lib.figures.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, PALETTE, RED, SIGNED, plain, styled
from lib.rendering.surface import Scene, compare_maps, normal_angles
from lib.rendering.volume import LastInterval, RenderedMaps, compositing_weights, laplace_density, sample_depths


@dataclass(frozen=True)
class RayProfile:
    """What the renderer computes along one ray; all arrays have shape (samples,).

    Attributes
    ----------
    depth, sdf : ndarray
        World units.
    density, transmittance, weights : ndarray
        sigma_i (per world unit), T_i and w_i.
    """

    depth: Float[np.ndarray, " samples"]
    sdf: Float[np.ndarray, " samples"]
    density: Float[np.ndarray, " samples"]
    transmittance: Float[np.ndarray, " samples"]
    weights: Float[np.ndarray, " samples"]


def ray_profile(scene: Scene, column: int, row: int, beta: float, samples: int) -> RayProfile:
    """Follow the ray through one pixel of a scene."""
    index, rays = row * scene.image_size + column, scene.rays()
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
    import matplotlib.pyplot as plt

    coarse, fine = (ray_profile(scene, column, row, beta, n) for n in (samples, 4000))
    figure = plt.figure(figsize=(8.4, 4.4), layout="constrained")
    grid = figure.add_gridspec(4, 2, width_ratios=[1, 1.9])
    _draw_pixel(figure.add_subplot(grid[:, 0]), scene, column, row)
    axes = [figure.add_subplot(grid[i, 1]) for i in range(4)]
    names = ("sdf", "density", "transmittance", "weights")
    labels = ("distance $s$", r"density $\sigma$", "transmittance $T$", "weight $w$")
    for axis, name, label, color in zip(axes, names, labels, (BLUE, ORANGE, GREEN, RED), strict=True):
        scale = 4000 / samples if name == "weights" else 1  # a weight belongs to an interval: compare like with like
        axis.plot(fine.depth, scale * getattr(fine, name), color="0.6", lw=1)
        axis.plot(coarse.depth, getattr(coarse, name), "o", color=color, ms=3)
        axis.set_ylabel(label)
        if scene.exact.mask[row, column] > 0:
            axis.axvline(float(scene.exact.depth[row, column]), color="black", lw=0.9, ls="--")
    for axis in axes[:-1]:
        axis.tick_params(labelbottom=False)
    axes[0].axhline(0, color="0.4", lw=0.7)
    axes[-1].set_xlabel("depth along the ray (longest side of the chair = 1)")
    axes[0].set_title(_ray_title(scene, coarse, column, row, beta, samples))
    return figure


@styled()
def comparison_figure(scene: Scene, beta: float, samples: int):
    """Exact ray casting, volume rendering and their difference: image, mask, normals, depth; returns the figure."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    maps, exact = scene.render(beta, samples), scene.exact
    errors = compare_maps(maps, exact)
    figure, axes = plt.subplots(3, 4, figsize=(8.2, 6.3), layout="constrained")
    for line, shown in zip(axes, (exact, maps), strict=False):
        _draw_maps(line, shown, scene)
    scales = _draw_differences(axes[2], maps, exact)
    units = ("", "", "degrees", "world units")
    for axis, scale, unit in zip(axes[2], scales, units, strict=True):
        figure.colorbar(scale, ax=axis, location="bottom", label=unit, shrink=0.9).locator = MaxNLocator(3)
    for axis, title in zip(axes[0], ("image", "mask", "normals", "depth"), strict=True):
        axis.set_title(title)
    for axis, label in zip(axes[:, 0], ("exact", "volume", "difference"), strict=True):
        axis.set_ylabel(label)
    figure.suptitle(
        f"β = {beta:.3g}, {samples} samples:  mask error {errors.mask:.3f}, "
        f"depth error {errors.depth:.4f}, normal error {errors.normal:.1f}°",
        fontsize=10,
    )
    return figure


@styled()
def error_curves(errors: dict[tuple[float, int], object]):
    """Errors over the number of samples, one line a beta.

    Parameters
    ----------
    errors : dict
        (beta, samples) -> lib.rendering.surface.MapErrors.
    """
    import matplotlib.pyplot as plt

    titles = {
        "mask": "mask: mean difference",
        "depth": "depth: mean error, world units",
        "normal": "normals: mean angle, degrees",
    }
    betas = sorted({beta for beta, _ in errors}, reverse=True)
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.2), layout="constrained")
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for beta, color in zip(betas, PALETTE, strict=False):
            counts = sorted(n for b, n in errors if b == beta)
            values = [getattr(errors[beta, n], name) for n in counts]
            axis.loglog(counts, values, "o-", color=color, ms=3.5, lw=1.3, label=f"β = {beta:g}")
        axis.set(title=title, xlabel="samples a ray")
        axis.set_xticks(counts, [str(n) for n in counts], minor=False)
        axis.minorticks_off()
    axes[0].legend()
    return figure


@styled()
def thin_figure(scene: Scene, counts: Sequence[int], beta: float, crop: tuple[slice, slice], samples: int = 64):
    """A slab's opacity over its thickness, and the legs of the scene with more and more samples.

    Parameters
    ----------
    counts : sequence of int
        Samples of the pictures.
    beta : float
        Of the pictures.
    crop : tuple of slices
        Rows and columns to show.
    samples : int
        Of the curves.
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8.6, 5.0), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    _draw_opacity(top.subplots(), samples, reach=scene.reach)
    axes = bottom.subplots(1, len(counts) + 1)
    pictures = [("exact", scene.exact.mask)] + [(f"{n} samples", scene.render(beta, n).mask) for n in counts]
    for axis, (title, mask) in zip(axes, pictures, strict=True):
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


@styled()
def interval_figure(scene: Scene, betas: Sequence[float], samples: int = 64):
    """Masks under the two rules for the last interval, a column a beta; returns the matplotlib figure."""
    import matplotlib.pyplot as plt

    rules: tuple[LastInterval, LastInterval] = ("zero", "infinite")
    figure, axes = plt.subplots(2, len(betas), figsize=(1.7 * len(betas) + 0.5, 4.1), layout="constrained")
    background = scene.exact.mask == 0
    for line, rule in zip(axes, rules, strict=True):
        for axis, beta in zip(line, betas, strict=True):
            mask = scene.render(beta, samples, rule).mask
            plain(axis).imshow(mask, cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"β = {beta:g}\nbackground {mask[background].mean():.3f}")
        line[0].set_ylabel(f"last interval: {rule}")
    return figure


@styled()
def jitter_figure(scene: Scene, beta: float, samples: int, repeats: int, generator: torch.Generator):
    """Depth errors with samples in the middle of their bins, once at random, and on average over many draws."""
    import matplotlib.pyplot as plt

    drawn = torch.stack([scene.render(beta, samples, generator=generator).depth for _ in range(repeats)])
    pictures = {
        "middle of the bins": scene.render(beta, samples).depth,
        "one random draw": drawn[0],
        f"mean of {repeats} draws": drawn.mean(0),
    }
    visible = scene.exact.mask > 0.5
    limit = 1.4 / samples
    figure, axes = plt.subplots(1, 3, figsize=(8.2, 3.3), layout="constrained")
    for axis, (title, depth) in zip(axes, pictures.items(), strict=True):
        error = torch.where(visible, depth - scene.exact.depth, torch.nan)
        scale = plain(axis).imshow(error, cmap=SIGNED, vmin=-limit, vmax=limit)
        values = error[visible]
        axis.set_title(f"{title}\nmedian {values.median():+.4f}\nspread {_spread(values):.4f}")
    figure.colorbar(scale, ax=axes, shrink=0.8, label="depth error (world units)")
    return figure


@styled()
def depth_bias_figure(betas: Sequence[float], counts: Sequence[int]):
    """How far behind a flat wall its rendered depth lies, averaged over positions of the wall; returns the figure."""
    import matplotlib.pyplot as plt

    fine = np.geomspace(min(betas), max(betas), 50)
    figure, axis = plt.subplots(figsize=(6.2, 3.3), layout="constrained")
    axis.loglog(fine, 0.3431 * fine, color="black", lw=1.1, ls="--", label="0.343 β")
    for count, color in zip(counts, PALETTE, strict=False):
        biases = [wall_depth_bias(beta, count) for beta in betas]
        axis.loglog(betas, biases, "o-", ms=3.5, color=color, label=f"{count} samples")
        axis.axhline(0.7 / count, color=color, lw=0.8, ls=":")
    axis.set(xlabel="β (world units)", ylabel="depth behind the wall")
    axis.legend()
    return figure


def wall_depth_bias(beta: float, samples: int, reach: float = 0.7, phases: int = 32) -> float:
    """Mean rendered depth minus true depth of a thick wall met at a right angle, over its positions between samples."""
    near, far = torch.tensor([-reach], dtype=torch.float64), torch.tensor([reach], dtype=torch.float64)
    depth = sample_depths(near, far, phases, samples)[0]
    wall = (torch.arange(phases, dtype=torch.float64)[:, None] + 0.5) / phases * 2 * reach / samples - reach / 3
    weights = compositing_weights(laplace_density(wall - depth, beta), depth)
    return float(((weights * depth).sum(-1) / weights.sum(-1) - wall[:, 0]).mean())


def _draw_opacity(axis, samples: int, reach: float):
    spacing = 2 * reach / samples
    thickness = np.linspace(0.0, 3 * spacing, 61)
    for beta, color in zip((0.1, 0.02, 0.005, 0.001), PALETTE, strict=False):
        masks = np.array([slab_opacity(t, beta, spacing) for t in thickness])
        axis.plot(thickness, masks.mean(1), color=color, lw=1.6, label=f"β = {beta:g}")
        axis.fill_between(thickness, masks.min(1), masks.max(1), color=color, alpha=0.13, lw=0)
        axis.plot(thickness, exact_slab_opacity(thickness, beta), color=color, lw=1, ls="--")
    axis.axvline(spacing, color=GREY, lw=1)
    axis.text(spacing, 0.03, f" spacing {2 * reach:g} / {samples} = {spacing:.4f}", color="0.3", fontsize=8.5)
    axis.set(xlabel="thickness of a slab (world units)", ylabel="rendered mask", ylim=(0, 1.03), xlim=(0, 3 * spacing))
    axis.legend(loc="lower right", title=f"{samples} samples; dashed: infinitely many", title_fontsize=8.5)


def _draw_pixel(axis, scene: Scene, column: int, row: int):
    plain(axis).imshow(scene.exact.rgb)
    axis.plot(column, row, "+", color="black", ms=13, mew=1.6)
    axis.set_title(f"the ray of pixel ({column}, {row})")


def _ray_title(scene: Scene, profile: RayProfile, column: int, row: int, beta: float, samples: int) -> str:
    mask = profile.weights.sum()
    exact = "hit" if scene.exact.mask[row, column] > 0 else "miss"
    return f"β = {beta:.3g}, {samples} samples: mask {mask:.3f} (exact: {exact})"


def _draw_maps(axes, maps: RenderedMaps, scene: Scene):
    middle = float(scene.viewpoint.distance)
    inside = maps.mask[..., None].clamp(0, 1).numpy()
    colors = normal_colors(maps.normal @ scene.viewpoint.rotation()[0].mT) * inside + (1 - inside)
    depth = torch.where(maps.mask > 0.5, maps.depth, torch.nan)
    plain(axes[0]).imshow(maps.rgb.clamp(0, 1))
    plain(axes[1]).imshow(maps.mask, cmap="gray", vmin=0, vmax=1)
    plain(axes[2]).imshow(colors)
    plain(axes[3]).imshow(depth, cmap=MAGNITUDE, vmin=middle - 0.6, vmax=middle + 0.6)


def _draw_differences(axes, maps: RenderedMaps, exact: RenderedMaps) -> list:
    both = (exact.mask > 0.5) & (maps.mask > 0.5)
    pictures = (
        ((maps.rgb - exact.rgb).abs().mean(-1), 0, 0.5, MAGNITUDE),
        (maps.mask - exact.mask, -1, 1, SIGNED),
        (torch.where(both, normal_angles(maps.normal, exact.normal), torch.nan), 0, 60, MAGNITUDE),
        (torch.where(both, maps.depth - exact.depth, torch.nan), -0.05, 0.05, SIGNED),
    )
    return [
        plain(axis).imshow(picture, vmin=low, vmax=high, cmap=colors)
        for axis, (picture, low, high, colors) in zip(axes, pictures, strict=True)
    ]


def _spread(values: Tensor) -> float:
    """Half the distance between the 16th and the 84th percentile: the standard deviation without its outliers."""
    low, high = np.percentile(values.numpy(), [16, 84])
    return float(high - low) / 2
