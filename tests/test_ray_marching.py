"""Learned ray marching against shapes whose hits are known: depths, gradients, signs, and rays that never hit."""

import numpy as np
import pytest
import torch
from analytic import sphere, torus
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lib.geometry.cameras import Rays, Viewpoint, camera_rays, pixel_centers
from lib.rendering.ray_marching import (
    Marcher,
    bisect,
    find_surface,
    march,
    points_at,
    sign_losses,
    soft_mask,
    sphere_trace,
    weighted_mean,
    with_implicit_gradient,
)

BOX = torch.tensor([0.3, 0.2, 0.25], dtype=torch.float64)


def box(points: torch.Tensor) -> torch.Tensor:
    beyond = points.abs() - BOX
    return beyond.clamp(min=0).norm(dim=-1) + beyond.amax(dim=-1).clamp(max=0)


def box_hit(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Slabs: a ray is in the box between its last entry and its first exit."""
    planes = np.stack([(side * BOX.numpy() - origins) / directions for side in (-1, 1)])
    enter, leave = planes.min(0).max(-1), planes.max(0).min(-1)
    return np.where(enter < leave, enter, np.inf)


def plane(points: torch.Tensor) -> torch.Tensor:
    return points @ torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64) + 0.1


def plane_hit(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
    normal = np.array([0.6, 0.0, 0.8])
    depth = -(origins @ normal + 0.1) / (directions @ normal)
    return np.where(depth > 0, depth, np.inf)


def of_shape(shape):
    return lambda points: shape.field(points)[0], shape.first_hit


SHAPES = {
    "sphere": of_shape(sphere(0.4)),
    "torus": of_shape(torus()),
    "box": (box, box_hit),
    "plane": (plane, plane_hit),
}


def make_rays(size: int = 12, azimuth: float = 0.7, elevation: float = 0.5) -> Rays:
    angle = torch.tensor([azimuth], dtype=torch.float64)
    view = Viewpoint.from_angles(angle, angle * 0 + elevation, distance=2.732, focal=1.8660254)
    return camera_rays(view, pixel_centers(size, dtype=torch.float64)[None])


def even_depths(distance, rays: Rays, points: int = 41, near: float = 1.7, far: float = 3.9):
    """Depths and values as a marcher gives them, at even steps."""
    depths = torch.linspace(near, far, points, dtype=torch.float64).expand(*rays.origins.shape[:2], -1)
    where = rays.origins[..., None, :] + depths[..., None] * rays.directions[..., None, :]
    return depths, distance(where.flatten(1, 2)).unflatten(1, depths.shape[1:])


def exact_depth(first_hit, rays: Rays) -> torch.Tensor:
    return torch.from_numpy(first_hit(rays.origins[0].numpy(), rays.directions[0].numpy()))


# --- where rays hit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_bisection_finds_the_exact_first_hit(name):
    distance, first_hit = SHAPES[name]
    rays = make_rays()
    depths, values = even_depths(distance, rays, 161)
    exact = exact_depth(first_hit, rays)
    surface = find_surface(distance, rays, depths, values, iterations=30)
    reached = (exact > depths.min()) & (exact < depths.max())
    assert reached.sum() > 8
    thick = surface.hit[0] & reached  # a chord shorter than a step can be missed, never invented
    assert thick.sum() >= 0.95 * reached.sum() and not (surface.hit[0] & ~reached).any()
    torch.testing.assert_close(surface.depth[0][thick], exact[thick], rtol=0, atol=1e-8)


@pytest.mark.parametrize("iterations", [0, 1, 4, 10])
def test_error_after_halvings_is_below_its_bound(iterations):
    distance, first_hit = SHAPES["sphere"]
    rays = make_rays()
    surface = find_surface(distance, rays, *even_depths(distance, rays), iterations)
    error = (surface.depth[0] - exact_depth(first_hit, rays))[surface.hit[0]].abs().max()
    width = 2.2 / 40
    assert error <= width / 2 ** (iterations + 1) + 1e-12
    assert error > width / 2 ** (iterations + 1) / 4  # and no better than the halvings explain


def test_sphere_tracing_gets_closer_with_every_step_and_never_passes():
    distance, first_hit = SHAPES["sphere"]
    rays = make_rays()
    depths, values = sphere_trace(distance, rays, torch.tensor([1.9], dtype=torch.float64), 60)
    exact = exact_depth(first_hit, rays)
    hit = exact.isfinite()
    gap = exact[hit, None] - depths[0][hit]
    assert (gap > -1e-12).all() and (gap.diff(dim=-1) <= 1e-12).all() and gap[:, -1].median() < 1e-6
    torch.testing.assert_close(values[0, :, 7], distance(points_at(rays, depths[..., 7]))[0])


def test_first_of_several_crossings_is_taken():
    distance, first_hit = SHAPES["torus"]
    rays = make_rays(16, elevation=0.2)  # many rays go in and out of the ring twice
    depths, values = even_depths(distance, rays, 161)
    entries = ((values[..., :-1] > 0) & (values[..., 1:] <= 0)).sum(-1)
    surface = find_surface(distance, rays, depths, values, 30)
    twice = entries[0] == 2
    assert twice.sum() >= 5
    torch.testing.assert_close(surface.depth[0][twice], exact_depth(first_hit, rays)[twice], rtol=0, atol=1e-8)


# --- rays without a surface, and how they are counted --------------------------------------------------------------


def test_kinds_of_rays_are_counted_and_fall_back_as_documented():
    values = torch.tensor([[[1.0, 0.5, -0.2], [1.0, -0.5, 0.2], [1.0, 0.5, 0.3], [-1.0, -0.5, -0.2], [-1, 1, 2]]])
    depths = torch.tensor([1.0, 2.0, 4.0]).expand(1, 5, 3)
    rays = Rays(torch.zeros(1, 5, 3), torch.tensor([0.0, 0.0, 1.0]).expand(1, 5, 3))

    def distance(points):  # of a surface at depth 1.5 and, for all that bisection asks beyond 2, at 3
        z = points[..., 2]
        return torch.where(z <= 2, 1.5 - z, 3 - z)

    surface = find_surface(distance, rays, depths, values, 20)
    assert surface.counts == {"last": 1, "early": 1, "none": 3, "inside": 2}
    assert surface.hit.tolist() == [[True, True, False, False, False]]
    assert surface.interval.tolist() == [[1, 0, 1, 1, 1]]
    torch.testing.assert_close(surface.depth, torch.tensor([[3.0, 1.5, 4.0, 4.0, 4.0]]), rtol=0, atol=1e-4)


def test_no_ray_hits_and_nothing_is_asked():
    def never(points):
        raise AssertionError("no ray needs bisection")

    rays = make_rays(2)
    far = torch.full((1, 4), 3.0, dtype=torch.float64)
    assert torch.equal(bisect(never, rays, far - 1, far, torch.zeros(1, 4, dtype=torch.bool)), far)


@given(
    st.lists(st.floats(-2, 2, width=32, allow_subnormal=False), min_size=3, max_size=12),
    st.sampled_from(["implicit", "unrolled"]),
)
def test_any_values_give_finite_depths_and_gradients(numbers, gradient):
    """Whatever the marched values are, also if they contradict the field: no NaN, and depths within the march."""
    values = torch.tensor(numbers)[None, None]
    scale = torch.tensor(0.7, requires_grad=True)
    stride = torch.rand(values.shape[-1], generator=torch.Generator().manual_seed(1)) * (torch.tensor(numbers) > -1)
    depths = 1 + stride.cumsum(0)[None, None] * scale
    rays = Rays(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 0.0, 1.0]]]))
    surface = find_surface(lambda p: (p.norm(dim=-1) - 2) * scale, rays, depths, values, 6, gradient)
    surface.depth.sum().backward()
    assert depths.min() <= surface.depth.item() <= depths.max() + 1e-6
    assert scale.grad is None or torch.isfinite(scale.grad)
    assert sum(surface.counts[kind] for kind in ("last", "early", "none")) == 1


# --- the gradient of the hit ---------------------------------------------------------------------------------------


def hit_of_sphere(parameters: torch.Tensor, rays: Rays) -> torch.Tensor:
    """Depth on a sphere of centre parameters[:3] and radius parameters[3], found by bisection."""

    def distance(points):
        return (points - parameters[:3]).norm(dim=-1) - parameters[3]

    depths, values = even_depths(distance, rays)
    return find_surface(distance, rays, depths, values.detach(), 40, "implicit").depth


def test_implicit_gradient_is_that_of_finite_differences():
    """Ray by ray, with respect to the shape: radius and centre."""
    parameters = torch.tensor([0.05, -0.1, 0.08, 0.4], dtype=torch.float64)
    angle = torch.tensor([0.7], dtype=torch.float64)
    view = Viewpoint.from_angles(angle, angle * 0.5, distance=2.732, focal=1.8660254)
    pixels = torch.tensor([[[0.5, 0.5], [0.45, 0.4], [0.55, 0.52], [0.4, 0.5]]], dtype=torch.float64)
    rays = camera_rays(view, pixels)
    analytic = torch.autograd.functional.jacobian(lambda p: hit_of_sphere(p, rays), parameters)
    step = 1e-5
    for i, unit in enumerate(torch.eye(4, dtype=torch.float64) * step):
        numeric = (hit_of_sphere(parameters + unit, rays) - hit_of_sphere(parameters - unit, rays)) / (2 * step)
        torch.testing.assert_close(analytic[..., i], numeric, rtol=1e-4, atol=1e-6)


def test_implicit_gradient_follows_the_ray_too():
    """A camera that moves: d depth / d origin against finite differences."""
    shape = sphere(0.4)
    origins = torch.tensor([[[0.1, 2.0, 0.05]]], dtype=torch.float64, requires_grad=True)
    directions = torch.tensor([[[0.0, -1.0, 0.0]]], dtype=torch.float64)

    def exact(origin):
        return torch.from_numpy(shape.first_hit(origin.detach().numpy(), directions.numpy()))

    depth = exact(origins)
    with_implicit_gradient(lambda p: shape.field(p)[0], Rays(origins, directions), depth).sum().backward()
    for i, unit in enumerate(torch.eye(3, dtype=torch.float64) * 1e-5):
        numeric = (exact(origins + unit) - exact(origins - unit)).item() / 2e-5
        assert origins.grad[0, 0, i].item() == pytest.approx(numeric, abs=1e-6)


def test_implicit_gradient_keeps_the_depth_and_bounds_grazing_rays():
    radius = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    grazing = Rays(
        torch.tensor([[[0.4, 2.0, 0.0]]], dtype=torch.float64), torch.tensor([[[0.0, -1.0, 0.0]]], dtype=torch.float64)
    )
    depth = torch.tensor([[2.0]], dtype=torch.float64)
    attached = with_implicit_gradient(lambda p: p.norm(dim=-1) - radius, grazing, depth)
    assert torch.equal(attached.detach(), depth)
    attached.sum().backward()
    assert radius.grad.item() == pytest.approx(-1 / 0.05)


def test_unrolled_gradient_moves_the_marcher_and_not_the_surface():
    """The blend's weights, and exactly nothing for the shape: what differentiating bisection's halvings gives."""
    radius = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    ends = torch.tensor([1.5, 1.9], dtype=torch.float64, requires_grad=True)
    rays = Rays(
        torch.tensor([[[0.0, 2.0, 0.0]]], dtype=torch.float64), torch.tensor([[[0.0, -1.0, 0.0]]], dtype=torch.float64)
    )

    def distance(points):
        return points.norm(dim=-1) - radius

    depths = ends.view(1, 1, 2)
    values = distance(points_at(rays, ends[None])).view(1, 1, 2)
    surface = find_surface(distance, rays, depths, values.detach(), 40, "unrolled")
    surface.depth.sum().backward()
    torch.testing.assert_close(ends.grad, torch.tensor([0.75, 0.25], dtype=torch.float64))  # 1.6 = 3/4 1.5 + 1/4 1.9
    assert radius.grad is None
    implicit = find_surface(distance, rays, depths, values.detach(), 40, "implicit")
    assert torch.autograd.grad(implicit.depth.sum(), radius)[0].item() == pytest.approx(-1)


# --- the marcher ---------------------------------------------------------------------------------------------------


def field_of(shape):
    return lambda points: (shape.field(points)[0], torch.cat([points, shape.field(points)[0][..., None]], dim=-1))


def test_strides_go_forward_from_the_start_and_values_are_of_their_points():
    marcher = Marcher(4, 8).double()
    rays = make_rays(3)
    with torch.no_grad():
        depths, values = march(field_of(sphere()), marcher, rays, torch.tensor([2.0], dtype=torch.float64), 5)
    assert depths.shape == values.shape == (1, 9, 6)
    assert (depths[..., 0] == 2).all() and (depths.diff(dim=-1) >= 0).all() and depths.diff(dim=-1).max() > 0
    for j in range(6):
        torch.testing.assert_close(values[..., j], sphere().field(points_at(rays, depths[..., j]))[0])


def test_marcher_is_the_recurrence_of_eq_6():
    """Against torch's own LSTM over the whole sequence of features."""
    marcher = Marcher(4, 8).double()
    rays = make_rays(2)
    with torch.no_grad():
        depths, _ = march(field_of(sphere()), marcher, rays, torch.tensor([2.0], dtype=torch.float64), 4)
        features = torch.stack([field_of(sphere())(points_at(rays, depths[..., j]))[1][0] for j in range(4)])
        lstm = nn.LSTM(4, 8).double()
        lstm.load_state_dict({f"{name}_l0": tensor for name, tensor in marcher.cell.state_dict().items()})
        strides = marcher.to_stride(lstm(features)[0])[..., 0].abs()
    torch.testing.assert_close(depths[0].diff(dim=-1), strides.mT)


def test_marcher_learns_to_end_behind_the_surface():
    """Eq. 7 alone teaches strides whose last interval holds the surface, and only for rays that hit."""
    torch.manual_seed(0)
    shape, rays = sphere(0.4), make_rays(8)
    rays = Rays(rays.origins.float(), rays.directions.float())
    inside = torch.from_numpy(np.isfinite(shape.first_hit(rays.origins.numpy(), rays.directions.numpy())))
    marcher = Marcher(4, 16)
    optimizer = torch.optim.Adam(marcher.parameters(), 2e-2)
    for _ in range(150):
        depths, values = march(field_of(shape), marcher, rays, torch.tensor([2.0]), 4)
        last, free = sign_losses(values, inside, torch.ones_like(inside).float())
        optimizer.zero_grad()
        (last + 0.1 * free).backward()
        optimizer.step()
    surface = find_surface(lambda p: shape.field(p)[0], rays, depths, values.detach())
    assert surface.hit[inside].float().mean() > 0.9
    assert not surface.hit[~inside].any()


# --- Eq. 7 and masks -----------------------------------------------------------------------------------------------


def test_sign_losses_are_eq_7_term_by_term():
    rng = np.random.default_rng(0)
    values, inside, weights = rng.normal(size=(2, 5, 4)), rng.random((2, 5)) < 0.5, rng.random((2, 5))
    sums = {True: [0.0, 0.0], False: [0.0, 0.0]}
    free = []
    for b in range(2):
        for u in range(5):
            sign = 1 if inside[b, u] else -1
            part = sums[bool(inside[b, u])]
            part[0] += weights[b, u] * max(0, sign * values[b, u, -1] + 0.01)
            part[1] += weights[b, u]
            free += [max(0, -v + 0.01) for v in values[b, u, :-1]]
    expected = sum(total / weight for total, weight in sums.values())
    last, before = sign_losses(torch.tensor(values), torch.tensor(inside), torch.tensor(weights))
    assert last.item() == pytest.approx(expected) and before.item() == pytest.approx(np.mean(free))


def test_right_signs_with_margin_cost_nothing():
    values = torch.tensor([[[0.5, 0.02, -0.02], [0.5, 0.3, 0.02]]])
    last, free = sign_losses(values, torch.tensor([[True, False]]), torch.ones(1, 2), margin=0.015)
    assert last.item() == free.item() == 0


@pytest.mark.parametrize("inside", [True, False])
def test_silhouettes_that_are_all_of_one_kind_give_finite_losses(inside):
    values = torch.randn(2, 6, 4, requires_grad=True)
    last, free = sign_losses(values, torch.full((2, 6), inside), torch.ones(2, 6))
    (last + free).backward()
    assert torch.isfinite(values.grad).all() and last > 0


def test_weighted_mean_of_nothing_is_zero():
    assert weighted_mean(torch.ones(3), torch.zeros(3)).item() == 0
    assert weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0])).item() == pytest.approx(2)


def test_soft_mask_approaches_the_silhouette_as_it_sharpens():
    distance, first_hit = SHAPES["sphere"]
    rays = make_rays(16)
    _, values = even_depths(distance, rays, 200)
    hit = exact_depth(first_hit, rays).isfinite().double()
    errors = [(soft_mask(values, k)[0] - hit).abs().mean().item() for k in (10, 30, 300)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.02
    assert soft_mask(torch.tensor([0.3, 0.0, 0.1])).item() == 0.5
