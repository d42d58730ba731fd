"""Figures and controls of notebook 02: panels, numbers in titles, and every value of the controls draws."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from matplotlib.figure import Figure

from lib.geometry.distance_transform import distance_transform
from lib.plots import bounds as plots
from lib.studies.bounds import Verdict, ball, bound_scene, carve, near_camera
from lib.studies.easel import CAMERAS, SOLIDS, scene_of
from lib.studies.silhouette_fit import fit_silhouette
from lib.widgets import bounds as controls


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def scene():
    return bound_scene(ball(), near_camera(0, 0), 24)


def test_bound_figure_names_its_numbers(scene):
    figure = plots.bound_figure(scene, 2, 3, 1.8)
    titles = [axis.get_title() for axis in figure.axes]
    pixels = float(scene.distance[3, 2]) * 1.25 * 24
    assert titles[0] == f"D = {pixels:.1f} pixels at (2, 3)"
    assert f"b = {float(scene.bound(torch.tensor([1.8]))[3, 2, 0]):.3f} at z = 1.80" in titles


def test_ball_of_the_cone_touches_the_cone_and_stays_in_it(scene):
    parts = plots._cone_parts(scene, 2, 3, 1.8)
    u, radius = scene.pixels[3, 2].numpy(), float(scene.distance[3, 2])
    x, depth, up = np.moveaxis(parts["ball"], -1, 0)
    seen = np.stack([x / depth, -up / depth], -1)
    off = np.linalg.norm(seen - u, axis=-1)
    assert off.max() <= radius + 1e-6 and off.max() > 0.97 * radius


def test_cone_scene_is_a_figure_without_widgets(scene):
    figure = plots.cone_scene(scene, 2, 3, 1.8)
    assert [trace.type for trace in figure.data] == ["mesh3d", "surface", "surface", "scatter3d"]


def test_gap_figure_is_white_on_the_silhouette(scene):
    figure = plots.gap_figure({"a": scene, "b": scene}, 12)
    shown = figure.axes[0].images[0].get_array()
    columns = np.ma.getmaskarray(np.ma.masked_invalid(shown)).all(0)
    np.testing.assert_array_equal(columns, scene.mask[12].numpy())


def test_silhouette_figure_of_nothing_and_of_everything():
    for value in (False, True):
        mask = torch.full((8, 8), value)
        assert isinstance(plots.silhouette_figure(mask, distance_transform(mask)), Figure)


def test_carving_and_fit_figures_have_a_panel_each():
    carving = carve(trimesh.creation.box((0.5, 0.6, 0.7)), (1, 2), resolution=16, size=32)
    assert len(plots.carving_figure(carving).axes) == 4
    scene = bound_scene(ball(), near_camera(0, 0), 16)
    fit = fit_silhouette(scene, "occupancy", steps=2, rays=16, samples=2)
    assert len(plots.fit_figure({"a": fit}).axes) == 3


def test_gradient_maps_say_the_share_that_pulls(scene):
    values = torch.where(scene.mask, 0.0, 1.0)
    values[0] = 0
    share = float((values > 0).sum() / (~scene.mask).sum())
    figure = plots.gradient_maps(scene, scene.mask.float(), {"even": values})
    assert f"{share:.0%}" in figure.axes[1].get_title()


def test_failure_figure_draws_every_mask():
    verdicts = {name: Verdict(0.1, 0.2, 0.5) for name in ("a", "b")}
    figure = plots.failure_figure({(16, "nothing"): verdicts["a"], (32, "nothing"): verdicts["b"]}, verdicts)
    assert [label.get_text() for label in figure.axes[1].get_yticklabels()] == ["a", "b"]


@pytest.mark.parametrize("solid", SOLIDS)
@pytest.mark.parametrize("camera", CAMERAS)
def test_every_solid_and_camera_draws(solid, camera):
    assert isinstance(plots.bound_figure(scene_of(solid, camera), 0, 63, 1.2), Figure)


def test_controls_fit_what_they_call():
    values = {name: control.value for name, control in controls.bound_controls(3, 4, 1.8).items()}
    assert values == {"scene": "chair of boxes", "camera": "perspective", "column": 3, "row": 4, "depth": 1.8}
