"""Companion of notebook 10, in the order of the lesson: SDF-SRN's bound, and ways to find a surface along a ray."""

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
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.loading import Batch
from lib.figures.style import BLUE, GREEN, GREY, MAGNITUDE, ORANGE, PURPLE, RED, SIGNED, plain, styled
from lib.figures.viewer import controlled, dropdown, slider
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, points_along
from lib.geometry.distance_transform import distance_transform, sdf_lower_bound
from lib.rendering.ray_marching import Marcher, bisect, find_surface, march, sign_losses, sphere_trace
from lib.rendering.volume import compositing_weights, laplace_density, sample_depths
from lib.systems.sdf_srn import SDFSRN

# --- The idea in a picture -------------------------------------------------------------------------------------------


@styled()
def idea_figure(batch: Batch, mesh: trimesh.Trimesh, spread: float = 0.75):
    """One image with its viewpoint, its silhouette's distance transform, and what that says about space.

    The last panel is the plane through the camera and one column of the image, `spread` world units before and behind
    the object's middle, with the cut of the true shape, which training does not see.
    """
    view, size = batch.viewpoint, batch.rgb.shape[1]
    distance = distance_transform(batch.mask > 0.5, margin=0.5)[0]
    inside = (distance == 0).sum(dim=0)
    column = int(torch.where(2 * inside > inside.max(), distance.sum(dim=0), 0).argmax())  # much object, and free space
    figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained", width_ratios=[1, 1.15, 1.5])
    axes[0].imshow(batch.rgb[0])
    axes[0].set_title("given: image, silhouette\nand viewpoint")
    shown = axes[1].imshow(distance, cmap=MAGNITUDE)
    axes[1].contour(batch.mask[0] > 0.5, [0.5], colors="white", linewidths=0.8)
    axes[1].set_title("$D$: how far away\nthe silhouette is")
    figure.colorbar(shown, ax=axes[1], shrink=0.8, label="pixels")
    for axis in axes[:2]:
        plain(axis).axvline(column, color=RED, lw=1)

    middle, focal = float(view.distance), float(view.focal)
    centers = (torch.arange(size) + 0.5) / size
    across = float((centers[column] - view.center[0, 0]) / focal)  # on the plane at focal length 1
    down = (centers - view.center[0, 1]) / focal
    pixels = torch.stack([torch.full_like(down, across), down], dim=-1)
    depths = torch.linspace(middle - spread, middle + spread, 90)
    reach = distance[:, column, None] / size / focal
    bound = sdf_lower_bound(pixels[:, None], reach, depths[None], view.projection)
    shown = axes[2].pcolormesh(depths, -down * middle, bound, cmap=MAGNITUDE, shading="nearest", rasterized=True)
    for line in cut_lines(mesh, view, across):
        axes[2].plot(line[:, 2], -line[:, 1] * middle / line[:, 2], color="white", lw=1.2)
    figure.colorbar(shown, ax=axes[2], shrink=0.8, label="$b$: least signed distance")
    axes[2].grid(visible=False)
    axes[2].set(title="what it proves about the red column:\n$f \\geq b$ (white: the true object's cut)")
    axes[2].set(xlabel="depth from the camera", ylabel="height in the image")
    return figure


@styled()
def written_figure(system: SDFSRN, batch: Batch, side: int = 64):
    """Images, a part of the first layer that is written for each, and its field on the plane x = 0; three rows."""
    with torch.no_grad():
        field = system.hypernetwork(system.encode(batch.rgb))
        axis = torch.linspace(-0.6, 0.6, side)
        y, z = torch.meshgrid(axis, axis.flip(0), indexing="xy")
        plane = torch.stack([torch.zeros_like(y), y, z], dim=-1).reshape(1, -1, 3).expand(len(batch.rgb), -1, -1)
        values = field.distance(plane).unflatten(1, (side, side))
    written = field.layers[0][:, :, :32]  # (images, 1 + inputs, some of the outputs)
    figure, axes = plt.subplots(3, len(batch.rgb), figsize=(7.2, 6), layout="constrained", height_ratios=[1, 0.8, 1])
    for i, (image, weights, cut) in enumerate(zip(axes[0], axes[1], axes[2], strict=True)):
        plain(image).imshow(batch.rgb[i])
        plain(weights).imshow(written[i], cmap=SIGNED, vmin=-1, vmax=1, aspect="auto")
        plain(cut).imshow(values[i], cmap=SIGNED, vmin=-0.5, vmax=0.5)
        cut.contour(values[i], [0.0], colors="black", linewidths=1)
    for row, title in zip(
        axes[:, 0], ("image", "first layer: inputs\nby outputs", "$f$ on the plane\n$x = 0$"), strict=True
    ):
        row.set_ylabel(title)
    return figure


def cut_lines(mesh: trimesh.Trimesh, view: Viewpoint, slope: float) -> Float[np.ndarray, "lines 2 3"]:
    """Where the mesh meets the plane x = slope * z through the camera, in camera axes."""
    turned = mesh.vertices @ view.rotation()[0].double().numpy().T + [0, 0, float(view.distance)]
    seen = trimesh.Trimesh(turned, mesh.faces, process=False)
    return trimesh.intersections.mesh_plane(seen, [1.0, 0.0, -slope], [0.0, 0.0, 0.0])


# --- One ray: solids and fields, and the marchers that look for their surface ----------------------------------------

Distance = Callable[[Tensor], Tensor]  # points (..., 3) -> signed distance (...), world units


def sphere(points: Tensor) -> Tensor:
    """Signed distance of a centred sphere."""
    return points.norm(dim=-1) - 0.4


def box(points: Tensor) -> Tensor:
    """Signed distance of a centred box."""
    beyond = points.abs() - points.new_tensor([0.4, 0.25, 0.3])
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0)


def torus(points: Tensor) -> Tensor:
    """Signed distance of a ring about the z axis."""
    return torch.hypot(points[..., :2].norm(dim=-1) - 0.32, points[..., 2]) - 0.1


SOLIDS = {"sphere": sphere, "box": box, "torus": torus}


@dataclass(frozen=True)
class Case:
    """One field and rays (1, R, 3) that look for its surface between two depths.

    `with_feature` gives what the marcher sees too; `marchers` are listed by the number of strides that they learned to
    take; `exact` (R,) is the depth of the first surface, infinite without one.
    """

    name: str
    distance: Distance
    with_feature: Callable[[Tensor], tuple[Tensor, Tensor]]
    marchers: dict[int, Marcher]
    rays: Rays
    near: float
    far: float
    exact: Float[Tensor, " rays"]

    @property
    def start(self) -> Float[Tensor, "1"]:
        """z^(0) of all rays."""
        return torch.tensor([self.near])


def solid_case(name: str, strides: tuple[int, ...] = (4, 10), rays: int = 600, steps: int = 150, seed: int = 0) -> Case:
    """An exact distance with marchers trained on it, and rays that they were not trained on."""
    solid, near, far = SOLIDS[name], 2.0, 3.5
    marchers = {count: train_marcher(solid, count, steps, seed) for count in strides}
    looking = random_rays(rays, torch.Generator().manual_seed(seed + 1000))
    exact = true_depths(solid, looking, near, far)
    return Case(name, solid, with_point(solid), marchers, looking, near, far, exact)


def with_point(distance: Distance) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """An exact distance, and what a marcher sees of it: the point and the distance there."""

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        value = distance(points)
        return value, torch.cat([points, value[..., None]], dim=-1)

    return evaluate


def random_rays(count: int, generator: torch.Generator) -> Rays:
    """Rays (1, count, 3) of the paper's camera, each from a random side through a random pixel."""
    azimuth, elevation = torch.rand(2, count, generator=generator) * torch.tensor([[6.2832], [1.2]]) - 0.2
    view = Viewpoint.from_angles(azimuth, elevation, distance=2.732, focal=1.8660254)
    rays = camera_rays(view, 0.15 + 0.7 * torch.rand(count, 1, 2, generator=generator))
    return Rays(rays.origins.transpose(0, 1), rays.directions.transpose(0, 1))


def train_marcher(distance: Distance, strides: int, steps: int = 150, seed: int = 0) -> Marcher:
    """A marcher that learned from silhouettes alone, by Eq. 7: which of 2,048 rays hit, 128 of them a step."""
    torch.manual_seed(seed)
    marcher, generator = Marcher(4, 32), torch.Generator().manual_seed(seed)
    pool = random_rays(2048, generator)
    inside = true_depths(distance, pool, 2.0, 3.5).isfinite()
    optimizer = torch.optim.Adam(marcher.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), f"a marcher of {strides} strides", leave=False):
        index = torch.randint(2048, (128,), generator=generator)
        rays = Rays(pool.origins[:, index], pool.directions[:, index])
        _, values = march(with_point(distance), marcher, rays, torch.tensor([2.0]), strides)
        last, free = sign_losses(values, inside[None, index], torch.ones_like(values[..., 0]))
        optimizer.zero_grad()
        (last + 0.1 * free).backward()
        optimizer.step()
        schedule.step()
    return marcher.requires_grad_(requires_grad=False)


@torch.no_grad()
def system_case(name: str, system: SDFSRN, images: Tensor, viewpoint: Viewpoint, count: int = 600) -> Case:
    """The field that SDF-SRN reads from one image (1, H, W, 3), its own marcher, and rays from the image's side.

    The true depth is that of the field's own surface.
    """
    field = system.hypernetwork(system.encode(images))
    rays = camera_rays(viewpoint, 0.1 + 0.8 * torch.rand(1, count, 2, generator=torch.Generator().manual_seed(0)))
    near, far = float(viewpoint.distance) - system.config.near, float(viewpoint.distance) + system.config.far
    exact = true_depths(field.distance, rays, near, far)
    return Case(name, field.distance, field.distance_and_feature, {10: system.marcher}, rays, near, far, exact)


@torch.no_grad()
def true_depths(distance: Distance, rays: Rays, near: float, far: float) -> Float[Tensor, " rays"]:
    """Depth of the first surface, infinite without one: 600 even steps, then 20 halvings of the first that enters."""
    depths, values = even_march(distance, rays, near, far, 600)
    surface = find_surface(distance, rays, depths, values, 20)
    return torch.where(surface.hit, surface.depth, torch.inf)[0]


def even_march(distance: Distance, rays: Rays, near: float, far: float, steps: int) -> tuple[Tensor, Tensor]:
    """What `march` gives, for strides that are all alike."""
    depths = torch.linspace(near, far, steps + 1).expand(*rays.origins.shape[:2], -1)
    return depths, along(distance, rays, depths)


def along(distance: Distance, rays: Rays, depths: Float[Tensor, "1 rays points"]) -> Float[Tensor, "1 rays points"]:
    """The field at depths along rays."""
    return distance(points_along(rays, depths).flatten(1, 2)).unflatten(1, depths.shape[1:])


class Trace(NamedTuple):
    """What happens along one ray: strides, the interval that enters the surface (None: no such), bisection's depths."""

    depths: Float[Tensor, " points"]
    values: Float[Tensor, " points"]
    bracket: tuple[float, float] | None
    middles: Float[Tensor, " halvings"]


@torch.no_grad()
def trace_ray(case: Case, ray: int, halvings: int = 6) -> Trace:
    """Follow one ray of a case, by its marcher with the most strides."""
    strides = max(case.marchers)
    rays = Rays(case.rays.origins[:, ray : ray + 1], case.rays.directions[:, ray : ray + 1])
    depths, values = march(case.with_feature, case.marchers[strides], rays, case.start, strides)
    surface = find_surface(case.distance, rays, depths, values, 0)
    if not surface.hit.any():
        return Trace(depths[0, 0], values[0, 0], None, depths.new_zeros(0))
    interval = int(surface.interval[0, 0])
    near, far = depths[..., interval], depths[..., interval + 1]
    middles = torch.cat([bisect(case.distance, rays, near, far, surface.hit, k)[0] for k in range(halvings)])
    return Trace(depths[0, 0], values[0, 0], (float(near), float(far)), middles)


@torch.no_grad()
def ray_slice(case: Case, ray: int, across: Float[Tensor, " rows"], depths: Float[Tensor, " columns"]) -> Tensor:
    """The field on the plane of a ray and of the world's z axis; (rows, columns)."""
    origin, direction = case.rays.origins[0, ray], case.rays.directions[0, ray]
    up = torch.tensor([0.0, 0.0, 1.0]) - direction[2] * direction
    points = origin + depths[:, None] * direction + across[:, None, None] * up / up.norm()
    return case.distance(points.flatten(0, 1)[None])[0].unflatten(0, (len(across), len(depths)))


@styled()
def marching_figure(case: Case, ray: int, shown: int, spread: float = 0.45):
    """The first `shown` evaluations along one ray, strides and then halvings; returns the figure.

    Above on a slice of the field, `spread` to each side of the ray, below on the field's graph along the ray.
    """
    trace = trace_ray(case, ray)
    strides, halvings = min(shown, len(trace.depths)), min(max(0, shown - len(trace.depths)), len(trace.middles))
    figure, axes = plt.subplots(2, 1, figsize=(8.2, 5.4), layout="constrained", sharex=True, height_ratios=[1.25, 1])
    depths, across = torch.linspace(case.near - 0.03, case.far + 0.03, 160), torch.linspace(-spread, spread, 80)
    field = ray_slice(case, ray, across, depths)
    drawn = axes[0].pcolormesh(depths, across, field, cmap=SIGNED, vmin=-0.3, vmax=0.3, rasterized=True)
    axes[0].contour(depths, across, field, [0], colors="black", linewidths=1.2)
    axes[0].grid(visible=False)
    axes[0].set(ylabel="across the ray")
    figure.colorbar(drawn, ax=axes[0], label="$f$", extend="both")
    axes[1].plot(depths, ray_slice(case, ray, torch.zeros(1), depths)[0], color="0.55", lw=1)
    axes[1].axhline(0, color="0.3", lw=0.8)
    for axis, values in zip(axes, (torch.zeros_like(trace.values), trace.values), strict=True):
        axis.plot(trace.depths[:strides], values[:strides], "o-", color=PURPLE, ms=4.5, lw=0.9, label="strides")
        if trace.bracket and shown >= len(trace.depths):
            axis.axvspan(*trace.bracket, color=ORANGE, alpha=0.25, lw=0, label="bracket")
        if halvings:
            middles = trace.middles[:halvings]
            axis.plot(middles, torch.zeros(halvings), "x", color=GREEN, ms=6, mew=1.4, label="halvings")
    title = f"{case.name}: {strides} evaluations by strides, {halvings} by halvings"
    if halvings:
        title += f", error {abs(float(trace.middles[halvings - 1] - case.exact[ray])):.4f}"
    elif trace.bracket is None and shown >= len(trace.depths):
        title += "; the march misses the surface" if case.exact[ray].isfinite() else "; it never hits"
    axes[0].set_title(title)
    axes[1].set(xlabel="depth along the ray, world units", ylabel="$f$ along the ray")
    axes[1].legend(loc="upper center", ncols=3)
    return figure


RAYS = 40  # that the control offers


def chosen_ray(case: Case, number: int) -> int:
    """The row of a ray: 0 has the nearest surface, and the others follow by depth; those that never hit are last."""
    order = case.exact.argsort(stable=True)
    return int(order[number * max(1, len(order) // (2 * RAYS)) % len(order)])


def march_controls(cases: Sequence[Case], shown: int) -> dict[str, ipywidgets.ValueWidget]:
    """Field, ray and evaluations; nothing is drawn of evaluations that a march does not have."""
    most = max(max(case.marchers) for case in cases) + 1 + 6
    return {
        "field": dropdown("field", [(case.name, index) for index, case in enumerate(cases)]),
        "ray": slider("ray", 0, 0, RAYS - 1, 1),
        "shown": slider("evaluations", min(shown, most), 1, most, 1),
    }


def march_explorer(cases: Sequence[Case], shown: int) -> Callable[[], None]:
    """Show `march_controls` over the `marching_figure`; returns what draws it again."""

    def draw(field: int, ray: int, shown: int):
        return marching_figure(cases[field], chosen_ray(cases[field], ray), shown)

    return controlled(draw, **march_controls(cases, shown))


# --- What a stride is worth ------------------------------------------------------------------------------------------

TOUCHING = 0.005  # world units: sphere tracing says "surface" below
METHODS = {"learned": BLUE, "even steps": GREEN, "sphere tracing": ORANGE, "volume rendering": RED}


@torch.no_grad()
def marching_table(case: Case, counts=(6, 8, 12, 16, 24, 32, 48, 64), halvings=(0, 1, 2, 4, 6, 10)) -> pd.DataFrame:
    """Every method at several numbers of evaluations a ray, each of `halvings` after the learned strides.

    Columns field, method, evaluations; median, p95: of the absolute depth error in world units, over rays that truly
    hit and for which the method found a surface; missed: share of true hits without one; invented: share of the other
    rays with one.
    """
    rows = []
    for strides, marcher in case.marchers.items():
        depths, values = march(case.with_feature, marcher, case.rays, case.start, strides)
        rows += [bisected(case, f"learned, {strides} strides", depths, values, k) for k in halvings]
    for count in counts:
        rows += [traced(case, count), volume_rendered(case, count)]
        if count > 7:  # even steps end with six halvings
            rows.append(
                bisected(case, "even steps", *even_march(case.distance, case.rays, case.near, case.far, count - 7), 6)
            )
    table = pd.DataFrame(rows)
    return table[table["evaluations"] <= max(counts)].sort_values(["method", "evaluations"], ignore_index=True)


def bisected(case: Case, method: str, depths: Tensor, values: Tensor, halvings: int) -> dict:
    """Bisection costs one evaluation a halving; its z* is the middle of what is left."""
    surface = find_surface(case.distance, case.rays, depths, values, halvings)
    return measured(case, method, depths.shape[-1] + halvings, surface.depth[0], surface.hit[0])


def traced(case: Case, count: int) -> dict:
    """Sphere tracing."""
    depths, values = sphere_trace(case.distance, case.rays, case.start, count - 1)
    return measured(case, "sphere tracing", count, depths[0, :, -1], values[0, :, -1] < TOUCHING)


def volume_rendered(case: Case, count: int) -> dict:
    """VolSDF's expected depth, for the best of four betas: chosen by looking at the truth, which no renderer can."""
    near, far = torch.tensor([[case.near], [case.far]])
    depths = sample_depths(near, far, len(case.exact), count)
    values, rows = along(case.distance, case.rays, depths), []
    for beta in (0.003, 0.01, 0.03, 0.1):
        weights = compositing_weights(laplace_density(values, beta), depths)[0]
        mask = weights.sum(-1)
        depth = (weights * depths[0]).sum(-1) / mask.clamp(min=1e-6)
        rows.append(measured(case, "volume rendering", count, depth, mask > 0.5))
    return min(rows, key=lambda row: np.nan_to_num(row["median"], nan=np.inf) + row["missed"] + row["invented"])


def measured(case: Case, method: str, evaluations: int, depth: Tensor, hit: Tensor) -> dict:
    """A row of `marching_table`."""
    true = case.exact.isfinite()
    error = pd.Series((depth - case.exact)[true & hit].abs().numpy(), dtype=float)  # of nothing: quantiles are NaN
    row = {"field": case.name, "method": method, "evaluations": evaluations}
    row |= {"median": error.quantile(0.5), "p95": error.quantile(0.95)}
    shares = {"missed": ~hit[true], "invented": hit[~true]}
    return row | {name: float(part.float().mean()) if len(part) else 0.0 for name, part in shares.items()}


@styled()
def study_figure(table: pd.DataFrame):
    """Median depth error and missed surfaces over evaluations a ray: a column a field, a line a method."""
    fields = table["field"].unique()
    size = (2.1 * len(fields) + 0.6, 5)
    figure, axes = plt.subplots(
        2, len(fields), figsize=size, layout="constrained", sharex=True, sharey="row", squeeze=False
    )
    for (error, missed), field in zip(axes.T, fields, strict=True):
        for method, part in table[table["field"] == field].groupby("method"):
            color = next((color for name, color in METHODS.items() if method.startswith(name)), GREY)
            look = {"ls": "--" if method == "learned, 4 strides" else "-", "marker": "o", "ms": 3, "lw": 1.3}
            error.loglog(part["evaluations"], part["median"], color=color, label=method, **look)
            missed.plot(part["evaluations"], part["missed"], color=color, **look)
        error.set(title=field, ylim=(3e-6, 0.2))
        error.set_xticks([6, 12, 24, 48], ["6", "12", "24", "48"])
        error.minorticks_off()
        missed.set(xlabel="evaluations a ray", ylim=(-0.03, 1.03))
    axes[0, 0].set_ylabel("median depth error")
    axes[1, 0].set_ylabel("missed surfaces (share)")
    figure.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


# --- Where are the surfaces?, and which part matters -----------------------------------------------------------------


@styled()
def crossings_figure(counts: list[dict]):
    """Where training's rays met the surface, from a "step" and `Surface.counts` for each step; returns the figure."""
    table = pd.DataFrame(counts).set_index("step")[["last", "early", "none"]]
    names = ["in the last interval", "in an earlier one", "none"]
    figure, axis = plt.subplots(figsize=(7, 2.4), layout="constrained")
    axis.stackplot(table.index, table.div(table.sum(axis=1), axis=0).T, colors=[BLUE, ORANGE, "0.8"], labels=names)
    axis.set(xlabel="step", ylabel="share of rays", ylim=(0, 1), xlim=(table.index.min(), table.index.max()))
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1), title="surface found")
    return figure


@styled()
def ablation_figure(results: Sequence[dict], protocol: str = "raw"):
    """Means over seeds with their spread, of `lib.evaluation.comparison.compare_rows`, a row an ablation."""
    rows = pd.DataFrame(results)
    rows = rows[(rows["protocol"] == protocol) & rows["seed"].isna()]
    rows = rows.assign(name=rows["system"].str.split(": ", n=1).str[-1])
    table = 10 * rows.pivot_table(index="name", columns="metric", values="value", sort=False)[::-1]
    titles = {"accuracy": "accuracy", "completeness": "coverage", "chamfer_distance": "Chamfer distance"}
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 0.36 * len(table) + 0.9), sharey=True, layout="constrained")
    colors = [BLUE if name == "full" else GREY for name in table.index]
    for axis, (metric, title) in zip(axes, titles.items(), strict=True):
        spread = table.get(f"{metric}_spread", table[metric] * 0).fillna(0)
        for place, color in enumerate(colors):
            axis.errorbar(table[metric].iloc[place], place, xerr=spread.iloc[place], fmt="o", color=color, capsize=3)
        axis.set(xlabel=f"10 x {title}", yticks=range(len(table)), yticklabels=table.index)
    return figure
