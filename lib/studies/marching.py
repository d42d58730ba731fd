"""Ways to find a surface along rays, measured: depth error against evaluations of the field (notebook 10)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.geometry.cameras import Rays, Viewpoint, camera_rays, points_along
from lib.rendering.ray_marching import Marcher, bisect, find_surface, march, points_at, sign_losses, sphere_trace
from lib.rendering.volume import compositing_weights, laplace_density, sample_depths

Distance = Callable[[Tensor], Tensor]
TOUCHING = 0.005  # world units: sphere tracing says "surface" below
BETAS = (0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Solid:
    """A signed distance in closed form, and the exact depth at which rays enter it (infinite: never).

    Attributes
    ----------
    distance : callable
        Points (..., 3) -> (...), world units, negative inside.
    first_hit : callable
        Origins and unit directions (R, 3) as float64 arrays -> depths (R,).
    """

    distance: Distance
    first_hit: Callable[[np.ndarray, np.ndarray], np.ndarray]


def sphere(radius: float = 0.4) -> Solid:
    """A centred sphere."""

    def first_hit(origins, directions):
        middle = -(origins * directions).sum(-1)
        square = radius**2 - (origins**2).sum(-1) + middle**2
        return np.where(square > 0, middle - np.sqrt(np.maximum(square, 0)), np.inf)

    return Solid(lambda points: points.norm(dim=-1) - radius, first_hit)


def box(sides: tuple[float, float, float] = (0.4, 0.25, 0.3)) -> Solid:
    """A centred box, given by half of its sides."""

    def distance(points):
        beyond = points.abs() - points.new_tensor(sides)
        return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0)

    def first_hit(origins, directions):
        with np.errstate(divide="ignore", invalid="ignore"):
            planes = np.stack([(sign * np.array(sides) - origins) / directions for sign in (-1, 1)])
        enter, leave = planes.min(0).max(-1), planes.max(0).min(-1)
        return np.where(enter < leave, enter, np.inf)

    return Solid(distance, first_hit)


def torus(ring: float = 0.32, tube: float = 0.1) -> Solid:
    """A ring about the z axis."""

    def distance(points):
        return torch.hypot(points[..., :2].norm(dim=-1) - ring, points[..., 2]) - tube

    def first_hit(origins, directions):
        return np.array([_torus_hit(o, d, ring, tube) for o, d in zip(origins, directions, strict=True)])

    return Solid(distance, first_hit)


def _torus_hit(origin: np.ndarray, direction: np.ndarray, ring: float, tube: float) -> float:
    """Smallest real root of (|x|^2 + R^2 - r^2)^2 = 4 R^2 (x^2 + y^2), from the ray's point nearest to the centre."""
    start = -origin @ direction
    near = origin + start * direction
    quadratic = np.array([1.0, 0.0, near @ near + ring**2 - tube**2])
    flat_d, flat_o = direction[:2], near[:2]
    across = 4 * ring**2 * np.array([flat_d @ flat_d, 2 * flat_d @ flat_o, flat_o @ flat_o])
    roots = np.roots(np.polysub(np.polymul(quadratic, quadratic), across))
    real = roots[np.abs(roots.imag) < 1e-7].real
    return start + real.min() if len(real) else np.inf


SOLIDS = {"sphere": sphere, "box": box, "torus": torus}


@dataclass(frozen=True)
class Case:
    """One field and the rays that look for its surface.

    Attributes
    ----------
    distance : callable
        Points (1, P, 3) -> (1, P).
    with_feature : callable
        Points -> (distance, what the marcher sees).
    marchers : dict
        Number of strides -> the marcher that learned to take so many.
    rays : Rays
        Shapes (1, R, 3).
    near, far : float
        Depths between which the surface lies.
    exact : Tensor, shape (R,)
        Depth of the first surface, infinite without one.
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
    def start(self) -> Float[Tensor, " batch"]:
        """z^(0) of all rays."""
        return self.rays.origins.new_full((1,), self.near)


def solid_case(name: str, strides: tuple[int, ...] = (4, 10), rays: int = 600, steps: int = 150, seed: int = 0) -> Case:
    """A solid in closed form with marchers trained on it, and rays that they were not trained on."""
    solid = SOLIDS[name]()
    marchers = {count: train_marcher(solid, count, steps, seed) for count in strides}
    looking = random_rays(rays, torch.Generator().manual_seed(seed + 1000))
    exact = exact_depths(solid, looking)
    return Case(name, solid.distance, featured(solid.distance), marchers, looking, 2.0, 3.5, exact)


def featured(distance: Distance) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What a marcher sees of a field in closed form: the point and the distance there."""

    def evaluate(points: Tensor) -> tuple[Tensor, Tensor]:
        value = distance(points)
        return value, torch.cat([points, value[..., None]], dim=-1)

    return evaluate


def random_rays(count: int, generator: torch.Generator, distance: float = 2.732) -> Rays:
    """Rays (1, count, 3) of the paper's camera, one from each of so many random sides, through random pixels."""
    azimuth, elevation = torch.rand(2, count, generator=generator) * torch.tensor([[6.2832], [1.2]]) - 0.2
    view = Viewpoint.from_angles(azimuth, elevation, distance=distance, focal=1.8660254)
    rays = camera_rays(view, 0.15 + 0.7 * torch.rand(count, 1, 2, generator=generator))
    return Rays(rays.origins.transpose(0, 1), rays.directions.transpose(0, 1))


def train_marcher(solid: Solid, strides: int, steps: int = 150, seed: int = 0) -> Marcher:
    """A marcher that learned from silhouettes alone, by Eq. 7: which of 2,048 rays hit, 128 of them a step."""
    torch.manual_seed(seed)
    marcher, generator = Marcher(4, 32), torch.Generator().manual_seed(seed)
    pool = random_rays(2048, generator)
    inside = exact_depths(solid, pool).isfinite()
    optimizer = torch.optim.Adam(marcher.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        index = torch.randint(2048, (128,), generator=generator)
        rays = Rays(pool.origins[:, index], pool.directions[:, index])
        _, values = march(featured(solid.distance), marcher, rays, torch.tensor([2.0]), strides)
        last, free = sign_losses(values, inside[None, index], torch.ones_like(values[..., 0]))
        optimizer.zero_grad()
        (last + 0.1 * free).backward()
        optimizer.step()
        schedule.step()
    return marcher.requires_grad_(requires_grad=False)


def exact_depths(solid: Solid, rays: Rays) -> Float[Tensor, " rays"]:
    """First hits of rays (1, R, 3), solved for in float64."""
    origins, directions = (part[0].double().numpy() for part in (rays.origins, rays.directions))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    return torch.from_numpy(solid.first_hit(origins, directions)).float()


@torch.no_grad()
def system_case(name: str, system: nn.Module, images: Tensor, viewpoint: Viewpoint, count: int = 600) -> Case:
    """The field that SDF-SRN reads from one image (1, H, W, 3), its own marcher, and rays from the image's side.

    The true depth is that of the field's own surface: 600 even steps, then 20 halvings of the first step that enters.
    """
    config = system.config
    field = system.hypernetwork(system.encode(images))
    generator = torch.Generator().manual_seed(0)
    rays = camera_rays(viewpoint, 0.1 + 0.8 * torch.rand(1, count, 2, generator=generator))
    middle = float(viewpoint.distance)
    near, far = middle - config.near, middle + config.far
    exact = even_surface(field.distance, rays, near, far, 600, 20)
    marchers = {config.steps: system.marcher}
    return Case(name, field.distance, field.distance_and_feature, marchers, rays, near, far, exact[0])


@torch.no_grad()
def even_surface(distance: Distance, rays: Rays, near: float, far: float, steps: int, halvings: int) -> Tensor:
    """Depth of the first surface by even steps and bisection, infinite without one; shape (1, R)."""
    depths, values = even_march(distance, rays, near, far, steps)
    surface = find_surface(distance, rays, depths, values, halvings)
    return torch.where(surface.hit, surface.depth, torch.inf)


def even_march(distance: Distance, rays: Rays, near: float, far: float, steps: int) -> tuple[Tensor, Tensor]:
    """What `march` gives, for strides that are all alike."""
    depths = torch.linspace(near, far, steps + 1).expand(*rays.origins.shape[:2], -1)
    return depths, along(distance, rays, depths)


def along(distance: Distance, rays: Rays, depths: Float[Tensor, "batch rays points"]) -> Tensor:
    """The field at depths along rays."""
    points = points_along(rays, depths)
    return distance(points.flatten(1, 2)).unflatten(1, depths.shape[1:])


@torch.no_grad()
def marching_table(
    case: Case,
    counts: tuple[int, ...] = (6, 8, 12, 16, 24, 32, 48, 64),
    halvings: tuple[int, ...] = (0, 1, 2, 4, 6, 10),
) -> pd.DataFrame:
    """Every method at several numbers of evaluations a ray.

    Returns
    -------
    DataFrame
        Columns field, method, evaluations; median, p95: of the absolute depth error in world units, over rays that
        truly hit and for which the method found a surface; missed: share of true hits without one; invented: share
        of the other rays with one.
    """
    rows = []
    for strides, marcher in case.marchers.items():
        depths, values = march(case.with_feature, marcher, case.rays, case.start, strides)
        rows += [_bisected(case, f"learned, {strides} strides", depths, values, k) for k in halvings]
    for count in counts:
        rows += [_traced(case, count), _volume(case, count)]
        if count > 7:  # even steps end with six halvings
            steps = even_march(case.distance, case.rays, case.near, case.far, count - 7)
            rows.append(_bisected(case, "even steps", *steps, 6))
    table = pd.DataFrame(rows)
    return table[table["evaluations"] <= max(counts)].sort_values(["method", "evaluations"], ignore_index=True)


def _bisected(case: Case, method: str, depths: Tensor, values: Tensor, halvings: int) -> dict:
    """Bisection costs one evaluation a halving; its z* is the middle of what is left."""
    surface = find_surface(case.distance, case.rays, depths, values, halvings)
    return _row(case, method, depths.shape[-1] + halvings, surface.depth[0], surface.hit[0])


def _traced(case: Case, count: int) -> dict:
    depths, values = sphere_trace(case.distance, case.rays, case.start, count - 1)
    return _row(case, "sphere tracing", count, depths[0, :, -1], values[0, :, -1] < TOUCHING)


def _volume(case: Case, count: int) -> dict:
    """VolSDF's expected depth, for the best of `BETAS`: chosen by looking at the truth, which no renderer can."""
    limits = (case.rays.origins.new_full((1,), z) for z in (case.near, case.far))
    depths = sample_depths(*limits, len(case.exact), count)
    values = along(case.distance, case.rays, depths)
    rows = []
    for beta in BETAS:
        weights = compositing_weights(laplace_density(values, beta), depths)
        mask = weights.sum(-1)
        depth = (weights * depths).sum(-1) / mask.clamp(min=1e-6)
        rows.append(_row(case, "volume rendering", count, depth[0], mask[0] > 0.5))
    return min(rows, key=lambda row: np.nan_to_num(row["median"], nan=np.inf) + row["missed"] + row["invented"])


def _row(case: Case, method: str, evaluations: int, depth: Tensor, hit: Tensor) -> dict:
    true = case.exact.isfinite()
    error = (depth - case.exact)[true & hit].abs()
    median, p95 = (float(error.quantile(q)) if len(error) else float("nan") for q in (0.5, 0.95))
    missed, invented = (float(part.float().mean()) if len(part) else 0.0 for part in (~hit[true], hit[~true]))
    return {
        "field": case.name,
        "method": method,
        "evaluations": evaluations,
        "median": median,
        "p95": p95,
        "missed": missed,
        "invented": invented,
    }


@dataclass(frozen=True)
class Trace:
    """What happens along one ray.

    Attributes
    ----------
    depths, values : Tensor, shape (N + 1,)
        Of the strides.
    bracket : tuple of floats, or None
        The first interval in which the surface is entered; None: the march found none.
    middles : Tensor, shape (K,)
        Depths that bisection asks, in its order.
    """

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
    line = points_at(Rays(origin.expand(1, len(depths), 3), direction.expand(1, len(depths), 3)), depths[None])
    points = line + across[:, None, None] * (up / up.norm())
    return case.distance(points.flatten(0, 1)[None])[0].unflatten(0, (len(across), len(depths)))
