"""Companion of notebook 03: exact maps, errors and profiles against closed forms; and that all controls draw."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from scipy.integrate import quad

from lib.figures.shapes import viewpoint_at
from lib.rendering.volume import RenderedMaps
from support import nb03


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def scene() -> nb03.Scene:
    return nb03.sphere_scene(viewpoint_at(0, 0), 0.4, 12)


def test_cast_rays_on_a_fine_sphere_mesh_agrees_with_the_closed_form():
    view = viewpoint_at(30, 20)
    exact = nb03.sphere_scene(view, 0.4, 24).exact
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=0.4)
    cast = nb03.as_image(nb03.cast_rays(mesh, nb03.image_rays(view, 24), 5.7), 24)
    errors = nb03.compare_maps(cast, exact)
    assert errors.mask < 0.01 and errors.depth < 0.005 and errors.normal < 2.5 and errors.rgb < 0.01
    assert float(cast.depth[0, 0]) == pytest.approx(5.7)


def test_scene_renders_towards_the_exact_maps_as_beta_falls():
    scene = nb03.sphere_scene(viewpoint_at(0, 10).to(torch.float64), 0.4, 20)
    coarse, fine = (nb03.compare_maps(scene.render(beta, n), scene.exact) for beta, n in ((0.05, 64), (0.003, 512)))
    assert fine.mask < 0.02 < coarse.mask
    assert fine.normal < 1 and fine.depth < 0.01


def test_mesh_scene_of_a_box_is_near_its_exact_maps():
    scene = nb03.mesh_scene(trimesh.creation.box((0.5, 0.7, 0.9)), viewpoint_at(35, 20), 24, resolution=64)
    errors = nb03.compare_maps(scene.render(0.003, 256), scene.exact)
    assert errors.iou > 0.95 and errors.depth < 0.02 and errors.normal < 10


def test_compare_maps_of_equal_maps_is_zero_and_of_shifted_depth_is_the_shift(scene):
    exact = scene.exact
    assert nb03.compare_maps(exact, exact).depth == 0 and nb03.compare_maps(exact, exact).iou == pytest.approx(1)
    shifted = RenderedMaps(exact.rgb, exact.mask, exact.normal, exact.depth + 0.25)
    assert nb03.compare_maps(shifted, exact).depth_bias == pytest.approx(0.25, abs=1e-5)


def test_normal_angles_are_exact_when_tiny():
    a = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    b = torch.tensor([math.cos(1e-6), math.sin(1e-6), 0], dtype=torch.float64)
    assert nb03.normal_angles(a, b).item() == pytest.approx(math.degrees(1e-6), rel=1e-6)


def test_slab_opacity_approaches_its_closed_form():
    for thickness, beta in ((0.02, 0.01), (0.05, 0.02), (0.0, 0.01)):
        rendered = nb03.slab_opacity(thickness, beta, spacing=beta / 4)
        assert rendered.mean() == pytest.approx(nb03.exact_slab_opacity(thickness, beta), abs=0.02)


def test_depth_of_a_wall_is_behind_it_by_the_integral():
    before = quad(lambda x: -np.expm1(-x) / x, 0, 0.5)[0]
    constant = 2 * (1 - math.exp(-0.5)) - before
    assert nb03.wall_depth_bias(0.02, 8192) / 0.02 == pytest.approx(constant, abs=0.01)


def test_ray_profile_is_consistent():
    scene = nb03.sphere_scene(viewpoint_at(0, 0), 0.4, 16)
    profile = nb03.ray_profile(scene, 8, 8, 0.02, 128)
    np.testing.assert_allclose(profile.transmittance, 1 - np.r_[0, profile.weights.cumsum()[:-1]], atol=1e-6)
    assert profile.weights.sum() == pytest.approx(float(scene.render(0.02, 128).mask[8, 8]), abs=1e-5)
    assert profile.depth[profile.sdf.argmin()] == pytest.approx(5.0, abs=0.02)


def test_every_end_of_the_controls_draws(scene):
    controls = nb03.render_controls(0.001, 32)
    assert controls["beta"].value == pytest.approx(0.001) and controls["samples"].value == 32
    for power, samples in ((controls["beta"].min, 8), (controls["beta"].max, 512)):
        assert len(nb03.comparison_figure(scene, 10**power, samples).axes) == 16
        assert len(nb03.ray_figure(scene, 0, 11, 10**power, samples).axes) == 5


def test_error_curves_have_a_line_a_beta(scene):
    errors = {(b, n): nb03.compare_maps(scene.render(b, n), scene.exact) for b in (0.01, 0.1) for n in (16, 8)}
    lines = nb03.error_curves(errors).axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["β = 0.1", "β = 0.01"]
    assert lines[0].get_ydata()[1] == pytest.approx(errors[0.1, 16].mask)
