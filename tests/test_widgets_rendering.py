"""Callbacks of the controls of notebook 03: plain functions that draw for any value a control can take."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from lib.figures.shapes import viewpoint_at
from lib.rendering.surface import sphere_scene
from lib.widgets import rays


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
