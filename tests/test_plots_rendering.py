"""What notebook 03 measures and draws, against closed forms, brute force and finite differences."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from scipy.integrate import quad

from lib.figures import style
from lib.figures.shapes import viewpoint_at
from lib.geometry.cameras import camera_rays, pixel_centers
from lib.geometry.distance_grid import DistanceGrid, distance_grid, hidden
from lib.geometry.meshes import grid_points
from lib.plots import rays
from lib.rendering.surface import (
    as_image,
    cast_rays,
    compare_maps,
    height_color,
    mesh_scene,
    normal_angles,
    sphere_scene,
)
from lib.rendering.volume import RenderedMaps


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def box(extents=(0.5, 0.7, 0.9)) -> trimesh.Trimesh:
    return trimesh.creation.box(extents)


def box_distance(points: np.ndarray, extents=(0.5, 0.7, 0.9)) -> np.ndarray:
    excess = np.abs(points) - np.array(extents) / 2
    return np.linalg.norm(np.maximum(excess, 0), axis=-1) + np.minimum(excess.max(-1), 0)


# --- distance grids and exact ray casting ---------------------------------------------------------------------------


def test_distance_grid_of_a_box_is_its_signed_distance():
    grid = distance_grid(box(), resolution=41)
    points = grid_points(41, grid.bound)
    expected = box_distance(points.astype(np.float64)).reshape((41,) * 3)
    error = np.abs(grid.values.numpy() - expected)
    assert error[np.abs(expected) < 1.5 * grid.spacing].max() < 2e-3  # up to the spacing of the drawn points
    assert error.max() < grid.spacing and error.mean() < 1e-3  # farther away, up to the choice of the face
    assert ((grid.values.numpy() < 0) == (expected < 0))[np.abs(expected) > 1e-3].all()


def test_grid_interpolates_a_linear_function_exactly_with_its_gradient():
    slope = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    points = torch.from_numpy(grid_points(9, 0.5)).double()
    grid = DistanceGrid((points @ slope + 0.1).reshape(9, 9, 9), 0.5)
    where = torch.rand(2, 50, 3, dtype=torch.float64) * 0.98 - 0.49
    value, gradient = grid(where)
    torch.testing.assert_close(value, where @ slope + 0.1, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, slope.expand_as(gradient), rtol=0, atol=1e-5)


def test_grid_gradient_is_that_of_autograd():
    grid = DistanceGrid(torch.randn(7, 7, 7, dtype=torch.float64), 0.5)
    where = (torch.rand(1, 200, 3, dtype=torch.float64) * 0.9 - 0.45).requires_grad_()
    value, gradient = grid(where)
    (expected,) = torch.autograd.grad(value.sum(), where)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_outside_the_grid_the_distance_to_it_is_added():
    grid = DistanceGrid(torch.full((3, 3, 3), 0.2), 0.5)
    assert grid(torch.tensor([[[0.5, 0.5, 0.8]]]))[0].item() == pytest.approx(0.5)


def test_hidden_does_not_need_faces_that_agree_on_a_side():
    mesh = box()
    mesh.faces[::2] = mesh.faces[::2, ::-1]
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (500, 3))
    np.testing.assert_array_equal(hidden(mesh, points), box_distance(points) < 0)


def test_cast_rays_on_a_fine_sphere_mesh_agrees_with_the_closed_form():
    view = viewpoint_at(30, 20)
    exact = sphere_scene(view, 0.4, 24).exact
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    cast = as_image(cast_rays(mesh, camera_rays(view, pixel_centers(24)[None]), 5.7, height_color), 24)
    errors = compare_maps(cast, exact)
    assert errors.mask < 0.01 and errors.depth < 0.005 and errors.normal < 2.5 and errors.rgb < 0.01
    assert float(cast.depth[0, 0]) == pytest.approx(5.7)


def test_scene_renders_towards_the_exact_maps_as_beta_falls():
    scene = sphere_scene(viewpoint_at(0, 10).to(torch.float64), 0.4, 20)
    coarse, fine = (compare_maps(scene.render(beta, n), scene.exact) for beta, n in ((0.05, 64), (0.003, 512)))
    assert fine.mask < 0.02 < coarse.mask
    assert fine.normal < 1 and fine.depth < 0.01


def test_mesh_scene_of_a_box_is_near_its_exact_maps():
    scene = mesh_scene(box(), viewpoint_at(35, 20), 24, height_color, resolution=64)
    errors = compare_maps(scene.render(0.003, 256), scene.exact)
    assert errors.iou > 0.95 and errors.depth < 0.02 and errors.normal < 10


def test_compare_maps_of_equal_maps_is_zero_and_of_shifted_depth_is_the_shift():
    exact = sphere_scene(viewpoint_at(0, 0), 0.4, 16).exact
    assert compare_maps(exact, exact).depth == 0 and compare_maps(exact, exact).iou == pytest.approx(1)
    shifted = RenderedMaps(exact.rgb, exact.mask, exact.normal, exact.depth + 0.25)
    assert compare_maps(shifted, exact).depth_bias == pytest.approx(0.25, abs=1e-5)


def test_normal_angles_are_exact_when_tiny():
    a = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    b = torch.tensor([math.cos(1e-6), math.sin(1e-6), 0], dtype=torch.float64)
    assert normal_angles(a, b).item() == pytest.approx(math.degrees(1e-6), rel=1e-6)


# --- figures of notebook 03 -----------------------------------------------------------------------------------------


def test_slab_opacity_approaches_its_closed_form():
    for thickness, beta in ((0.02, 0.01), (0.05, 0.02), (0.0, 0.01)):
        rendered = rays.slab_opacity(thickness, beta, spacing=beta / 4)
        assert rendered.mean() == pytest.approx(rays.exact_slab_opacity(thickness, beta), abs=0.02)


def test_wall_depth_lies_behind_by_the_integral():
    before = quad(lambda x: -np.expm1(-x) / x, 0, 0.5)[0]
    constant = 2 * (1 - math.exp(-0.5)) - before
    assert rays.wall_depth_bias(0.02, 8192) / 0.02 == pytest.approx(constant, abs=0.01)


def test_ray_profile_is_consistent():
    scene = sphere_scene(viewpoint_at(0, 0), 0.4, 16)
    profile = rays.ray_profile(scene, 8, 8, 0.02, 128)
    np.testing.assert_allclose(profile.transmittance, 1 - np.r_[0, profile.weights.cumsum()[:-1]], atol=1e-6)
    assert profile.weights.sum() == pytest.approx(float(scene.render(0.02, 128).mask[8, 8]), abs=1e-5)
    assert profile.depth[profile.sdf.argmin()] == pytest.approx(5.0, abs=0.02)


def test_figures_of_notebook_03_have_their_panels():
    scene = sphere_scene(viewpoint_at(0, 0), 0.4, 12)
    assert len(rays.ray_figure(scene, 6, 6, 0.02, 16).axes) == 5
    assert len(rays.comparison_figure(scene, 0.02, 16).axes) == 16
    errors = {(b, n): compare_maps(scene.render(b, n), scene.exact) for b in (0.1, 0.01) for n in (8, 16)}
    lines = rays.error_curves(errors).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["β = 0.1", "β = 0.01"]
    assert lines[0].get_ydata()[1] == pytest.approx(errors[0.1, 16].mask)
    assert len(rays.interval_figure(scene, (0.1, 0.02), 16).axes) == 4
    generator = torch.Generator().manual_seed(0)
    assert len(rays.jitter_figure(scene, 0.02, 16, 3, generator).axes) == 4
    whole = (slice(None), slice(None))
    assert len(rays.thin_figure(scene, (8, 16), 0.02, whole, 16).axes) == 4


def test_infinite_last_interval_makes_the_background_opaque():
    scene = sphere_scene(viewpoint_at(0, 0), 0.4, 12)
    background = scene.exact.mask == 0
    assert float(scene.render(0.1, 32, "infinite").mask[background].min()) > 0.99
    assert float(scene.render(0.1, 32, "zero").mask[background].min()) < 0.5


def test_style_is_restored_after_a_figure():
    before = plt.rcParams["font.size"]
    figure = style.image_grid([[np.zeros((2, 2, 3)), np.eye(2)], [None, np.eye(2)]], ("a", "b"), ("r",))
    assert plt.rcParams["font.size"] == before and len(figure.axes) == 4
