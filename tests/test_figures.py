"""Figures show what they say: checked against closed forms and brute force, not against stored pictures."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from plotly.io import renderers
from tiny_dataset import write_tiny_dataset

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction
from lib.figures.maps import normal_colors
from lib.figures.results import case_sheet, make_case, ranked_rows, view_of_rotation
from lib.figures.shapes import MAX_FACES, decimated, draw_mesh, mesh_sheet, turnable, viewpoint_at
from lib.figures.training import loss_panels, loss_terms, series, training_board
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import marching_cubes


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


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


def test_a_sheet_shows_one_object_in_two_frames_alike_if_it_starts_there():
    box = trimesh.creation.box((0.2, 0.4, 0.8))
    box.apply_translation((0.2, 0.1, 0.0))
    turned = box.copy().apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, (0, 0, 1)))
    figure = mesh_sheet({"one": box, "turned": turned}, turns=(0, 90), starts=(10, 100))
    a, b, c, d = (axis.images[0].get_array() for axis in figure.axes)
    assert np.abs(a - c).mean() < 0.01 and np.abs(b - d).mean() < 0.01 and np.abs(a - b).mean() > 0.02
    plt.close(figure)


def test_turnable_meshes_come_with_the_script_that_turns_them_together(monkeypatch):
    """What the script does was looked at in a browser; it must neither load anything nor be shown as text."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    turnable({"one": trimesh.creation.box(), "two": trimesh.creation.box()})
    (script,) = [thing.data for thing in shown]
    assert script.startswith("<script>") and script.endswith("</script>")
    assert "http" not in script and "src=" not in script and "plotly_relayout" in script
    assert renderers["plotly_mimetype"].config["displayModeBar"] is False


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
    shown = [axis.get_title() for axis in figure.axes if axis.get_title().startswith("step ")]
    assert shown[0] == "step 1"
    assert shown[-1] == "step 49"
    assert len(shown) == 5


# best and worst


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
