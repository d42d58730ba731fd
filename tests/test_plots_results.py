"""Figures show what they say: checked against closed forms and brute force, not against stored pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import write_tiny_dataset

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction
from lib.figures.maps import normal_colors, to_camera
from lib.figures.results import (
    azimuth_figure,
    case_sheet,
    comparison_bars,
    make_case,
    protocol_figure,
    ranked_rows,
    shrink_figure,
    threshold_figure,
    view_of_rotation,
)
from lib.figures.shapes import MAX_FACES, decimated, draw_mesh, turnable, viewpoint_at
from lib.figures.training import loss_panels, loss_terms, series, training_board
from lib.geometry.alignment import PROTOCOLS, Clouds, aligned_chamfer_distance
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import marching_cubes, sample_surface
from lib.losses.normal import to_canonical


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture
def clouds():
    box, ball = trimesh.creation.box((1.0, 0.7, 0.4)), trimesh.creation.icosphere(3, radius=0.4)
    views = [viewpoint_at(azimuth).rotation()[0].double().numpy() for azimuth in (30.0, 50.0)]
    return Clouds(sample_surface(box, 400, 0), sample_surface(ball, 400, 1), *views)


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


# pictures of meshes


def test_a_ball_covers_the_disc_that_perspective_says():
    picture = draw_mesh(trimesh.creation.icosphere(5, radius=0.5), viewpoint_at(70, 10, focal=3.0), 128)
    radius = 3.0 * 0.5 / np.sqrt(5.0**2 - 0.5**2)  # the tangent cone, in image widths
    assert (picture.min(axis=2) < 0.99).mean() == pytest.approx(np.pi * radius**2, rel=0.02)


@pytest.mark.parametrize(("azimuth", "left"), [(0, True), (180, False)])
def test_an_object_at_positive_x_is_left_when_seen_from_the_front(azimuth, left):
    aside = trimesh.creation.icosphere(2, radius=0.1).apply_translation([0.4, 0, 0])
    columns = np.nonzero(draw_mesh(aside, viewpoint_at(azimuth, 0), 64).min(axis=2) < 0.9)[1]
    assert (columns.max() < 32) if left else (columns.min() >= 32)


def test_colours_of_vertices_are_used_and_an_empty_mesh_is_white():
    ball = trimesh.creation.icosphere(2, radius=0.4)
    ball.visual.vertex_colors = np.tile(np.uint8([200, 0, 0, 255]), (len(ball.vertices), 1))
    middle = draw_mesh(ball, viewpoint_at(0), 32)[16, 16]
    assert middle[0] > 0.3
    assert middle[1:].max() < 0.01
    assert (draw_mesh(trimesh.Trimesh(), viewpoint_at(0), 16) == 1).all()


def test_decimation_keeps_shape_and_colours():
    ball = trimesh.creation.icosphere(5, radius=0.5)
    red, blue = np.uint8([255, 0, 0, 255]), np.uint8([0, 0, 255, 255])
    ball.visual.vertex_colors = np.where(ball.vertices[:, :1] > 0, red, blue)
    smaller = decimated(ball, 1000)
    assert len(smaller.faces) <= 1000
    assert np.linalg.norm(smaller.vertices, axis=1) == pytest.approx(0.5, abs=0.02)
    sure = np.abs(smaller.vertices[:, 0]) > 0.1
    is_red = np.asarray(smaller.visual.vertex_colors)[:, 0] == 255
    assert (is_red == (smaller.vertices[:, 0] > 0))[sure].all()


def test_turnable_meshes_are_small_and_seen_from_where_asked():
    figure = turnable({"one": trimesh.creation.icosphere(6, radius=0.5), "two": trimesh.creation.box()}, (90.0, 0.0))
    assert [len(trace.i) <= MAX_FACES for trace in figure.data] == [True, True]
    first, second = figure.layout.scene.camera.eye, figure.layout.scene2.camera.eye
    assert first.x < -1  # azimuth 90: the camera stands at -x
    assert second.y > 1
    assert len(figure.to_json()) < 1_000_000


@given(st.integers(-179, 179), st.integers(-80, 80))
def test_view_of_a_rotation(azimuth, elevation):
    angles = torch.tensor([[float(azimuth)], [float(elevation)]], dtype=torch.float64).deg2rad()
    rotation = Viewpoint.from_angles(angles[0], angles[1]).rotation()[0]
    found = view_of_rotation(rotation.numpy()).rotation()[0]
    assert torch.allclose(found.double(), rotation, atol=1e-5)


def test_a_perfect_prediction_looks_like_the_truth():
    mesh = marching_cubes(lambda p: np.linalg.norm(p * [1, 1.5, 2], axis=1) - 0.5, resolution=32)
    view = viewpoint_at(40, 15)
    prediction = Prediction(mesh, view.rotation()[0].double().numpy())
    figure = case_sheet([make_case("case", np.zeros((8, 8, 3), np.uint8), prediction, mesh, view)])
    photo, predicted, true, turned, _ = [axis.images[0].get_array() for axis in figure.axes]
    assert photo.max() == 0
    assert ((predicted < 0.99) == (true < 0.99)).mean() > 0.99  # faces shaded flat or smooth, the same outline
    assert ((predicted < 0.99) == (turned < 0.99)).mean() < 0.99


# normals


def test_colours_of_normals():
    normal = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, -1, 0], [0, 0, 0]])
    expected = [[0.5, 0.5, 1], [1, 0.5, 0.5], [0.5, 1, 0.5], [1, 1, 1]]  # towards us blue, right red, up green
    assert normal_colors(normal) == pytest.approx(np.array(expected))


def test_to_camera_undoes_to_canonical():
    normal = torch.nn.functional.normalize(torch.randn(2, 4, 5, 3), dim=-1)
    rotation = torch.cat([viewpoint_at(30, 10).rotation(), viewpoint_at(200, -20).rotation()])
    world = to_canonical(normal.flatten(1, 2), rotation).reshape(normal.shape)
    assert torch.allclose(to_camera(world, rotation), normal, atol=1e-6)


# training


@given(st.lists(st.integers(0, 10), min_size=1, max_size=30), st.integers(1, 8))
def test_smoothing_is_the_mean_of_the_last_rows(values, smooth):
    rows = [{"step": i, "phase": "training", "rgb": float(value)} for i, value in enumerate(values)]
    expected = [np.mean(values[max(0, i + 1 - smooth) : i + 1]) for i in range(len(values))]
    assert series(rows, "rgb", smooth)[1] == pytest.approx(np.array(expected), abs=1e-9)


def test_terms_and_their_twins_share_a_panel():
    rows = [
        {"step": 1, "phase": "pretraining", "loss": 1.0, "shape": 1.0, "seconds": 1.0},
        {"step": 2, "phase": "training", "loss": 3.0, "mask": 1.0, "neighbor_mask": 2.0, "beta": 0.1, "seconds": 2.0},
        {"step": 2, "phase": "validation", "image_loss": 5.0, "seconds": 2.0},
    ]
    rows[1] |= {"rays_none": 7, "silhouettes_cut": 3}  # counts are no terms
    assert loss_terms(rows) == ["shape", "mask", "neighbor_mask"]
    assert loss_panels(rows[1:]) == {"sum": ["loss"], "mask": ["mask", "neighbor_mask"]}


def test_the_board_shows_first_and_last_frame():
    rows = [{"step": s, "phase": "training", "loss": 1.0 / s, "mask": 1.0 / s} for s in range(1, 50)]
    picture = np.zeros((4, 4, 3))
    figure = training_board(rows, [picture, picture], {s: [picture, picture] for s in range(1, 50)}, shown=5)
    shown = [title for title in titles(figure) if title.startswith("step ")]
    assert shown[0] == "step 1"
    assert shown[-1] == "step 49"
    assert len(shown) == 5


# measurements


def test_protocol_figure_prints_the_distances(clouds):
    found = titles(protocol_figure(clouds))[: len(PROTOCOLS)]
    expected = [f"{name}\n10 x CD = {10 * aligned_chamfer_distance(clouds, name):.2f}" for name in PROTOCOLS]
    assert found == expected


@pytest.mark.parametrize("threshold", [0.02, 0.1])
def test_threshold_figure_counts_like_brute_force(clouds, threshold):
    predicted, target = PROTOCOLS["view"](clouds)
    distance = np.linalg.norm(predicted[:, None].astype(float) - target[None], axis=2)
    p, r = (distance.min(1) <= threshold).mean(), (distance.min(0) <= threshold).mean()
    found = titles(threshold_figure(clouds, threshold))
    assert found[0].endswith(f"{p:.0%}")
    assert found[1].endswith(f"{r:.0%}")
    assert found[2].endswith(f"= {2 * p * r / (p + r):.3f}")


def test_the_shrink_is_what_the_formula_says():
    def ball(points):
        return np.linalg.norm(points, axis=1) - 0.5

    sizes, moved = (24, 48), []
    for n in sizes:
        wrong, right = (marching_cubes(ball, resolution=n, released_shrink=s).vertices for s in (True, False))
        moved.append(float(np.abs(wrong - right).max()))
    line, dots, _ = shrink_figure(sizes, moved).axes[0].lines
    drawn = np.interp(dots.get_xdata(), line.get_xdata(), line.get_ydata())
    assert drawn == pytest.approx(dots.get_ydata(), rel=3e-3)


def test_bars_are_ordered_scaled_and_coloured():
    common = {"metric": "chamfer_distance", "protocol": "view", "category": "all"}
    rows = [
        {"system": name, "value": value, "low": value - 0.01, "high": value + 0.02, "profile": profile} | common
        for name, value, profile in (("ours", 0.05, "quick"), ("sphere", 0.2, "none"), ("box", 0.1, "none"))
    ]
    rows.append(rows[0] | {"system": "other category", "category": "chair"})
    axis = comparison_bars(rows, "chamfer_distance", scale=10).axes[0]
    bars = [bar for bar in axis.patches if bar.get_height() == 0.7]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sphere", "box", "ours"]  # best at the top
    assert [bar.get_width() for bar in bars] == pytest.approx([2.0, 1.0, 0.5])
    assert bars[2].get_facecolor() != bars[0].get_facecolor() == bars[1].get_facecolor()


def test_azimuths_are_drawn_where_they_are():
    figure = azimuth_figure(np.array([10.0, -10.0, 370.0]), np.array([0.0, 90.0, -90.0]))
    dots = figure.axes[0].lines[-1].get_xydata()
    assert dots == pytest.approx(np.array([[0.0, 10.0], [90.0, 350.0], [270.0, 10.0]]))
    assert "entropy 0.26" in titles(figure)[1]  # 2 and 1 of 12 bins: 0.637 / log 12


def test_ranked_rows(tmp_path):
    data = PreparedDataset(write_tiny_dataset(tmp_path / "tiny"), "test", ["ball"])  # lens-0, lens-1, lens-2
    table = [
        ["lens-1", "view", 0.3],
        ["lens-2", "view", 0.1],
        ["lens-1", "raw", 0.0],
        ["lens-0", "view", 0.2],
        ["else", "view", 0],
    ]
    records = [[i, p, "chamfer_distance", v] for i, p, v in table]
    instances = pd.DataFrame(records, columns=["id", "protocol", "metric", "value"])
    assert ranked_rows(instances, data) == [(2, 0.1), (0, 0.2), (1, 0.3)]
