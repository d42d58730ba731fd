"""The volume renderer against closed forms on slabs and against exact ray casting of analytic shapes."""

import itertools
import math

import numpy as np
import pytest
import torch
from analytic import COLOR, Shape, sphere, torus
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from scipy.stats import laplace

from lib.fields.sdf import SDFField
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, pixel_centers
from lib.rendering.volume import RenderedMaps, compositing_weights, laplace_density, render_rays, sample_depths

seeds = st.integers(0, 2**31)
turns = st.floats(-3, 3, allow_subnormal=False)  # the systems flush such numbers to zero
fast = settings(max_examples=50, deadline=None)


def view(azimuth: float = 0.7, elevation: float = 0.6, **kwargs) -> Viewpoint:
    azimuth, elevation = (torch.tensor([v], dtype=torch.float64) for v in (azimuth, elevation))
    return Viewpoint.from_angles(azimuth, elevation, **kwargs)


def depths_of(camera: Viewpoint, rays: int, samples: int, reach: float = 0.5) -> torch.Tensor:
    return sample_depths(camera.distance - reach, camera.distance + reach, rays, samples)


def plane_rays(count: int = 1) -> Rays:
    """Rays along +x from x = -1."""
    origins = torch.tensor([-1.0, 0.0, 0.0], dtype=torch.float64).expand(1, count, 3)
    return Rays(origins, torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).expand(1, count, 3))


# --- density and weights -------------------------------------------------------------------------------------------


@fast
@given(st.floats(-1, 1, allow_subnormal=False), st.floats(0.01, 1))
def test_density_is_the_laplace_cdf_over_beta(sdf, beta):
    density = laplace_density(torch.tensor([sdf], dtype=torch.float64), beta)
    assert density.item() == pytest.approx(laplace.cdf(-sdf, scale=beta) / beta, rel=1e-12)


def test_density_has_the_slope_of_the_laplace_distribution_for_both_arguments():
    sdf = torch.tensor([-0.3, -0.01, 0.02, 0.4], dtype=torch.float64, requires_grad=True)
    beta = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(laplace_density, (sdf, beta))
    (slope,) = torch.autograd.grad(laplace_density(sdf, beta).sum(), sdf)
    expected = -laplace.pdf(-sdf.detach().numpy(), scale=0.07) / 0.07
    np.testing.assert_allclose(slope, expected, rtol=1e-10)


@fast
@given(st.floats(0.1, 50), st.integers(1, 40), st.floats(0.01, 1))
def test_constant_density_gives_the_exponential_law(sigma, samples, step):
    depths = 2 + step * torch.arange(samples, dtype=torch.float64)
    weights = compositing_weights(torch.full_like(depths, sigma), depths)
    travelled = (depths - 2).numpy()
    expected = np.exp(-sigma * travelled) - np.exp(-sigma * (travelled + step))
    expected[-1] = 0  # no interval is left
    np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-15)
    infinite = compositing_weights(torch.full_like(depths, sigma), depths, "infinite")
    expected[-1] = np.exp(-sigma * travelled[-1])
    np.testing.assert_allclose(infinite, expected, rtol=1e-9, atol=1e-15)


def test_slab_of_density_is_opaque_by_its_optical_depth_and_hides_what_lies_behind():
    depths = torch.linspace(0, 1, 101, dtype=torch.float64)
    density = torch.where((depths > 0.295) & (depths < 0.495), 7.0, 0.0)  # 20 intervals of 0.01
    density[80] = 1e6  # a wall behind
    weights = compositing_weights(density, depths)
    assert not weights[:30].any()
    assert weights[30:50].sum().item() == pytest.approx(1 - math.exp(-7 * 0.2), rel=1e-9)
    assert weights[80].item() == pytest.approx(math.exp(-7 * 0.2), rel=1e-9)
    assert weights.sum().item() == pytest.approx(1, rel=1e-9)


@fast
@given(seeds, st.sampled_from(["zero", "infinite"]), st.floats(-3, 4, allow_subnormal=False))
def test_weights_are_not_negative_and_sum_to_what_is_not_let_through(seed, rule, exponent):
    generator = torch.Generator().manual_seed(seed)
    density = 10**exponent * torch.rand(3, 4, 9, generator=generator, dtype=torch.float64)
    depths = torch.rand(3, 4, 9, generator=generator, dtype=torch.float64).cumsum(-1)
    weights = compositing_weights(density, depths, rule)
    total = weights.sum(-1)
    assert float(weights.min()) >= 0 and float(total.max()) <= 1 + 1e-12
    if rule == "infinite":
        np.testing.assert_allclose(total, 1, atol=1e-6)
    else:
        let_through = np.exp(-(density[..., :-1] * depths.diff(dim=-1)).sum(-1))
        np.testing.assert_allclose(total, 1 - let_through, atol=1e-12)
    single = compositing_weights(density.float(), depths.float(), rule).sum(-1)
    assert float(single.max()) <= 1 + 1e-6


@pytest.mark.parametrize("beta", [0.02, 0.1])
def test_rendered_slab_is_opaque_by_the_integral_of_the_laplace_density(beta):
    half = 0.1

    def slab(points):
        x = points[..., 0]
        return x.abs() - half, torch.stack([x.sign(), 0 * x, 0 * x], dim=-1), torch.full_like(points, COLOR)

    maps = render_rays(slab, plane_rays(), torch.linspace(0, 2, 4001, dtype=torch.float64)[None, None], beta)
    inside = 2 * half / beta - (1 - math.exp(-half / beta))  # of 1 / beta (1 - exp(-u / beta) / 2), from both faces
    outside = 1 - math.exp(-(1 - half) / beta)  # of exp(-u / beta) / (2 beta), on both sides
    expected = 1 - math.exp(-inside - outside)
    assert maps.mask.item() == pytest.approx(expected, abs=2e-4)
    assert maps.rgb[0, 0, 0].item() == pytest.approx(expected * COLOR + (1 - expected), abs=2e-4)


# --- samples -------------------------------------------------------------------------------------------------------


@fast
@given(seeds, st.integers(1, 50), st.floats(0.1, 3), st.floats(0.1, 3))
def test_stratified_samples_stay_in_their_bins(seed, samples, near, length):
    ends = torch.tensor([near, near + 1]), torch.tensor([near + length, near + 1 + 2 * length])
    depths = sample_depths(*ends, 4, samples, torch.Generator().manual_seed(seed))
    again = sample_depths(*ends, 4, samples, torch.Generator().manual_seed(seed))
    assert torch.equal(depths, again)
    for image in range(2):
        low, high = (float(end[image]) for end in ends)
        edges = low + (high - low) * np.arange(samples + 1) / samples
        assert (depths[image].numpy() >= edges[:-1] - 1e-5).all()
        assert (depths[image].numpy() <= edges[1:] + 1e-5).all()
    middle = sample_depths(*ends, 4, samples)
    np.testing.assert_allclose(middle[0, 0], near + length * (np.arange(samples) + 0.5) / samples, rtol=1e-5)


def test_stratified_samples_fill_their_bins_evenly_and_independently():
    near, far = torch.tensor([0.0]), torch.tensor([1.0])
    within = sample_depths(near, far, 4000, 4, torch.Generator().manual_seed(0))[0] * 4 - torch.arange(4)
    assert float((within.mean(0) - 0.5).abs().max()) < 4 * math.sqrt(1 / 12 / 4000)
    assert float((within.var(0) - 1 / 12).abs().max()) < 0.005
    correlation = torch.corrcoef(within.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 4 / math.sqrt(4000)


# --- analytic shapes -----------------------------------------------------------------------------------------------


def errors_against_ray_casting(shape: Shape, camera: Viewpoint, beta: float, samples: int) -> dict[str, float]:
    """Mask in pixels over the exact silhouette, depth in world units and normals in degrees where both hit."""
    rays = camera_rays(camera, pixel_centers(32, dtype=torch.float64)[None])
    maps = render_rays(shape.field, rays, depths_of(camera, 32 * 32, samples), beta)
    exact = shape.first_hit(rays.origins[0].numpy(), rays.directions[0].numpy())
    hit, mask = np.isfinite(exact), maps.mask[0].numpy()
    both = hit & (mask > 0.5)
    points = (rays.origins[0] + torch.from_numpy(np.where(hit, exact, 0))[:, None] * rays.directions[0])[both]
    cosine = (shape.field(points[None])[1][0] * maps.normal[0][both]).sum(-1).clamp(max=1)
    return {
        "mask": np.abs(mask - hit).sum() / hit.sum(),
        "area": abs(mask.sum() - hit.sum()) / hit.sum(),
        "depth": np.percentile(np.abs(maps.depth[0].numpy() - exact)[both], 95),
        "normal": np.percentile(np.degrees(np.arccos(cosine)), 95),
    }


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
@pytest.mark.parametrize("shape", [sphere(), torus()], ids=["sphere", "torus"])
def test_rendering_converges_to_exact_ray_casting(shape, projection):
    camera = view(projection=projection)
    steps = [(0.016, 64), (0.004, 256), (0.001, 1024), (0.0001, 4096)]
    table = [errors_against_ray_casting(shape, camera, beta, samples) for beta, samples in steps]
    for coarse, fine in itertools.pairwise(table):
        for name in ("mask", "depth", "normal"):
            assert fine[name] < 0.75 * coarse[name], (name, table)
    assert table[-1]["mask"] < 0.01, table
    assert table[-1]["area"] < 0.01, table
    assert table[-1]["depth"] < 0.01, table  # 1 % of the unit cube
    assert table[-1]["normal"] < 1.0, table


def test_rays_that_miss_are_white_and_lie_at_the_far_depth():
    camera = view()
    corner = torch.tensor([[[0.01, 0.01]]], dtype=torch.float64)
    depths = depths_of(camera, 1, 64)
    maps = render_rays(sphere(0.2).field, camera_rays(camera, corner), depths, 0.001)
    np.testing.assert_allclose(maps.rgb, 1, atol=1e-6)
    assert maps.mask.item() < 1e-6
    assert float(maps.depth) == pytest.approx(float(depths.max()), abs=1e-3)
    assert float(maps.normal.norm()) < 1e-6


# --- equivariance --------------------------------------------------------------------------------------------------


def lopsided(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A ball away from the centre whose colour changes from place to place."""
    sdf, gradient, _ = sphere(0.3, torch.tensor([0.1, -0.15, 0.05], dtype=torch.float64)).field(points)
    return sdf, gradient, torch.sigmoid(3 * points)


def turned_field(field, rotation: torch.Tensor):
    def evaluate(points: torch.Tensor):
        sdf, gradient, color = field(points @ rotation)  # rows: R^T p
        return sdf, gradient @ rotation.T, color

    return evaluate


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_turning_object_and_rays_together_changes_nothing(seed):
    rotation = torch.from_numpy(Rotation.random(random_state=seed % 2**31).as_matrix())
    camera = view()
    rays = camera_rays(camera, pixel_centers(6, dtype=torch.float64)[None])
    turned = Rays(rays.origins @ rotation.T, rays.directions @ rotation.T)
    depths = depths_of(camera, 36, 40)
    before, after = (
        render_rays(lopsided, rays, depths, 0.03),
        render_rays(turned_field(lopsided, rotation), turned, depths, 0.03),
    )
    assert_same_but_turned(before, after, rotation)


@settings(max_examples=20, deadline=None)
@given(turns, st.floats(-1.5, 1.5, allow_subnormal=False), turns, st.sampled_from(["perspective", "weak_perspective"]))
def test_turning_object_and_azimuth_together_changes_nothing(azimuth, elevation, turn, projection):
    camera = view(azimuth, elevation, projection=projection)
    rotation = torch.from_numpy(Rotation.from_euler("z", turn).as_matrix())
    pixels, depths = pixel_centers(6, dtype=torch.float64)[None], depths_of(camera, 36, 40)
    before = render_rays(lopsided, camera_rays(camera, pixels), depths, 0.03)
    turned = camera.turned(torch.tensor([turn], dtype=torch.float64))
    after = render_rays(turned_field(lopsided, rotation), camera_rays(turned, pixels), depths, 0.03)
    assert_same_but_turned(before, after, rotation)


def assert_same_but_turned(before: RenderedMaps, after: RenderedMaps, rotation: torch.Tensor):
    assert float(before.mask.std()) > 0.1  # there is something to compare
    for name in ("rgb", "mask", "depth"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-9)
    np.testing.assert_allclose(after.normal, before.normal @ rotation.T, atol=1e-7)


# --- gradients -----------------------------------------------------------------------------------------------------


def test_gradients_of_every_map_are_finite_differences():
    camera = view()
    pixels = torch.tensor([[[0.5, 0.5], [0.3, 0.4], [0.75, 0.5], [0.85, 0.2]]], dtype=torch.float64)

    def render(radius, center, beta, angle):
        turned = camera.turned(angle)
        depths = depths_of(camera, 4, 24)
        maps = render_rays(sphere(radius, center).field, camera_rays(turned, pixels), depths, beta)
        return maps.rgb, maps.mask, maps.normal, maps.depth

    numbers = [
        torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, [0.03, 0.02, -0.04], 0.05, [0.1])
    ]
    assert torch.autograd.gradcheck(render, numbers, eps=1e-6, atol=1e-6, rtol=1e-4)


def test_gradient_with_respect_to_the_weights_of_a_network_is_finite_differences():
    torch.manual_seed(0)
    network = SDFField(code_size=2, width=8, hidden_layers=3, feature_size=1, frequencies=1).double()
    camera, code = view(), torch.zeros(1, 2, dtype=torch.float64)
    rays = camera_rays(camera, torch.tensor([[[0.5, 0.45], [0.3, 0.4], [0.8, 0.7]]], dtype=torch.float64))

    def image(points_to):
        sdf, _, gradient = network.with_gradient(points_to, code)
        return sdf, gradient, torch.full_like(points_to, COLOR)

    def loss():
        maps = render_rays(image, rays, depths_of(camera, 3, 16), 0.05)
        return maps.rgb.square().sum() + maps.mask.sum() + (maps.normal * torch.tensor([0.2, -0.5, 1.0])).sum()

    loss().backward()
    for weight in (network.hidden[0].weight, network.hidden[1].weight, network.head.bias):
        flat, step = weight.data.view(-1), 1e-6
        for index in range(0, weight.numel(), max(1, weight.numel() // 12)):
            kept = float(flat[index])
            values = []
            for change in (step, -step):
                flat[index] = kept + change
                values.append(float(loss().detach()))
            flat[index] = kept
            slope = (values[0] - values[1]) / (2 * step)
            assert float(weight.grad.view(-1)[index]) == pytest.approx(slope, rel=1e-4, abs=1e-6)
    assert float(network.hidden[0].weight.grad.abs().max()) > 1e-2
