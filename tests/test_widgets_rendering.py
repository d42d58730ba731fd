"""Callbacks of the controls of notebooks 03 and 04: plain functions that draw for any value a control can take."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from matplotlib.figure import Figure

from lib.figures.shapes import viewpoint_at
from lib.geometry.distance_grid import DistanceGrid
from lib.rendering.surface import sphere_scene
from lib.widgets import gradients, rays


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def scene():
    return sphere_scene(viewpoint_at(0, 0), 0.4, 12)


def test_every_value_of_the_sliders_draws(scene):
    beta, samples = rays.beta_slider(), rays.samples_slider()
    for power in (beta.min, beta.max):
        assert isinstance(rays.draw_comparison(scene, 10**power, samples.options[0]), Figure)
    sliders = rays.pixel_sliders(scene, 3, 4)
    assert (sliders["column"].max, sliders["row"].max) == (11, 11)
    assert (sliders["column"].value, sliders["row"].value) == (3, 4)


def test_draw_ray_stays_within_the_image(scene):
    assert "pixel (11, 0)" in rays.draw_ray(scene, 99, -5, 0.02, 16).axes[0].get_title()


def test_default_samples_are_among_the_choices():
    assert rays.samples_slider().value in rays.SAMPLES and rays.samples_slider(32).value == 32


def shaded(figure: Figure) -> np.ndarray:
    return np.concatenate([np.asarray(axis.images[0].get_array()).ravel() for axis in figure.axes])


def test_a_neighbour_changes_the_picture_and_none_does_not():
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    own = DistanceGrid(torch.zeros(8, 8, 8), 0.6)
    others = [DistanceGrid(torch.zeros(8, 8, 8), 0.6), DistanceGrid(torch.ones(8, 8, 8), 0.6)]
    pictures = [
        shaded(gradients.draw_gradient(mesh, viewpoint_at(0, 10), own, others, 1.0, i, False)) for i in (-1, 0, 1)
    ]
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[2] - pictures[0]).max() > 0.1


def test_neighbour_choice_offers_none_and_each():
    controls = gradients.neighbor_choice([10.0, -100.0])
    assert [value for _, value in controls["neighbor"].options] == [-1, 0, 1]
    assert controls["mirrored"].value is False
