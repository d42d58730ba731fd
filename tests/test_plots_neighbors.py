"""Figures and controls of notebook 01 show what they are given."""

import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from tiny_dataset import write_tiny_dataset

from lib.plots import embedding_maps
from lib.plots import neighbors as plots
from lib.studies.retrieval import azimuth_differences, distance_rows, read_pictures
from lib.widgets.neighbors import draw_query, query_controls, query_row


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return read_pictures(write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data"), "all")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def row_of(pictures, model: str) -> int:
    return int((pictures.labels("model") == model).argmax())


def test_sheet_frames_neighbours_by_what_they_share(pictures):
    query = row_of(pictures, "flat")
    rows = [query + 1, row_of(pictures, "tall"), row_of(pictures, "egg"), -1]
    found = {"one": (rows, [0.9, 0.8, 0.7, np.nan]), "two": (rows[::-1], [np.nan, 0.7, 0.8, 0.9])}
    figure = plots.neighbor_sheet(pictures, query, found)
    axes = np.array(figure.axes).reshape(2, 5)
    for line, order in zip(axes, (rows, rows[::-1]), strict=True):
        np.testing.assert_array_equal(line[0].images[0].get_array(), pictures.rgb[query])
        for axis, row in zip(line[1:], order, strict=True):
            assert len(axis.images) == (row >= 0)
            if row >= 0:
                np.testing.assert_array_equal(axis.images[0].get_array(), pictures.rgb[row])
    colors = [to_hex(axis.spines["left"].get_edgecolor()) for axis in axes[0, 1:4]]
    assert colors == [to_hex(color) for color in plots.MARKS.values()]
    assert axes[0, 1].get_title() == "0.90, 130°"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(plots.MARKS)


def test_matches_are_drawn_in_per_cent_beside_chance_and_paper():
    table = pd.DataFrame({"share": [0.2, 0.6], "low": [0.1, 0.5], "high": [0.3, 0.7]}, index=["weak", "strong"])
    axis = plots.match_figure(table, {"any": 0.02}, {"published": 0.512}).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["published", "weak", "strong"]
    assert [text.get_text() for text in axis.texts] == ["51.2", "20.0", "60.0"]
    dots = next(line for line in axis.lines if line.get_marker() == "o")
    np.testing.assert_allclose(np.asarray(dots.get_xdata(), float), [20, 60])
    assert axis.get_legend().get_texts()[0].get_text() == "any: 2.0"


def test_distances_show_every_query_and_the_means():
    lines = [(q, kind, 0, 0, 0.1 * (q + 1) * factor) for q in range(4) for kind, factor in (("near", 1), ("random", 2))]
    distances = pd.DataFrame(lines, columns=["query", "kind", "rank", "row", "distance"])
    rows = distance_rows(distances, np.array(list("abcd")))
    axis = plots.distance_figure(rows, distances).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["random", "near"]
    assert [text.get_text() for text in axis.texts] == ["5.00", "2.50"]
    clouds = [np.sort(line.get_xdata()) for line in axis.lines if line.get_marker() == "."]
    np.testing.assert_allclose(clouds, [[2, 4, 6, 8], [1, 2, 3, 4]])


def test_curves_are_drawn_a_panel_an_embedding():
    curve = {"angle": [10.0, 30.0], "low": [0.7, 0.5], "high": [0.9, 0.7]}
    same = pd.DataFrame({**curve, "similarity": [0.8, 0.6]}).assign(kind="same object")
    other = pd.DataFrame({**curve, "similarity": [0.4, 0.3]}).assign(kind="other object")
    axes = plots.robustness_figure(dict.fromkeys(("a", "b"), pd.concat([same, other]))).axes
    assert [axis.get_title() for axis in axes] == ["a", "b"]
    np.testing.assert_allclose([line.get_ydata() for line in axes[0].lines], [[0.8, 0.6], [0.4, 0.3], [0.4, 0.4]])
    preference = pd.DataFrame({**curve, "preference": [0.9, 0.4]})
    axis = plots.preference_figure({"a": preference, "b": preference}).axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [0.9, 0.4])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b", "no preference"]


def test_spread_says_how_many_show_another_side():
    azimuth = np.array([0.0, 30.0, 90.0, 180.0])
    index = np.array([[1, 2], [0, 2], [3, 0], [2, -1]])
    axis = plots.spread_figure(
        {"near": azimuth_differences(index, azimuth), "random, any": np.array([10.0, 100.0])}
    ).axes[0]
    # 30, 90, 30, 60, 90, 90, 90: five of seven are over 45 degrees
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["near: 71 %", "random, any: 50 %"]
    x, y = axis.lines[0].get_data()
    assert y[x == 60] == pytest.approx(100 * 3 / 7)
    assert y[-1] == 100


def test_wishes_are_both_drawn():
    columns = {"distance": [0.07, 0.14], "low": [0.06, 0.13], "high": [0.08, 0.15]}
    sides = {"new_side": [0.6, 0.8], "new_side_low": [0.5, 0.7], "new_side_high": [0.7, 0.9]}
    axis = plots.wishes_figure(pd.DataFrame(columns | sides, index=["a", "random, any category"])).axes[0]
    dots = [line.get_xydata()[0] for line in axis.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[60, 0.7], [80, 1.4]])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "random, any category"]


def test_sweep_draws_a_panel_a_measure_and_a_band_a_line():
    def table(*rows):
        return pd.DataFrame(rows, columns=["value", "low", "high"], index=[1, 5])

    panels = {
        "share": {"a": table((0.9, 0.8, 1.0), (0.5, 0.4, 0.7))},
        "distance": {"a": table((0.3, 0.2, 0.4), (0.4, 0.3, 0.5)), "b": table((0.5, 0.4, 0.6), (0.6, 0.5, 0.7))},
    }
    axes = plots.sweep_figure(panels, {"share": 0.1}).axes
    assert [axis.get_ylabel() for axis in axes] == ["share", "distance"]
    np.testing.assert_allclose(axes[1].lines[0].get_data(), [[1, 5], [0.3, 0.4]])
    assert [len(axis.lines) for axis in axes] == [2, 2]
    bands = [[set(map(tuple, band.get_paths()[0].vertices)) for band in axis.collections] for axis in axes]
    assert [len(found) for found in bands] == [1, 2]
    assert {(1, 0.8), (1, 1.0), (5, 0.4), (5, 0.7)} <= bands[0][0]
    assert [tick.get_text() for tick in axes[0].get_xticklabels()] == ["1", "5"]


def test_map_shows_a_dot_an_image_and_some_pictures(pictures):
    places = np.random.default_rng(0).random((len(pictures.rgb), 2))
    axis = embedding_maps.map_figure(pictures, places, [0, 5]).axes[0]
    assert sum(len(line.get_xdata()) for line in axis.lines) == len(pictures.rgb)
    assert len(axis.artists) == 2


def test_hover_map_holds_the_pictures_and_needs_nothing_else(pictures):
    places = np.random.default_rng(0).random((len(pictures.rgb), 2))
    page = embedding_maps.hover_map(pictures, places, [0, 9])
    assert not re.search(r"<script|https?:|on\w+=", page)
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', page)
    assert [name for _, name in found] == pictures.labels("model")[[0, 9]].tolist()
    for (data, _), row in zip(found, (0, 9), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).resize((24, 24), Image.Resampling.BOX))
        assert np.abs(shown.astype(float) - pictures.rgb[row]).mean() < 25
    left, top = re.findall(r"left:([\d.]+)%;top:([\d.]+)%", page)[1]
    assert float(left) == pytest.approx(100 * places[9, 0], abs=0.06)
    assert float(top) == pytest.approx(100 - 100 * places[9, 1], abs=0.06)


def test_two_hundred_points_are_small(pictures):
    rows = list(range(len(pictures.rgb))) * 10
    assert len(embedding_maps.hover_map(pictures, np.zeros((len(pictures.rgb), 2)), rows[:200])) < 400_000


def test_texts_label_their_lines_which_may_differ_in_length(pictures):
    lines = [("“a ball”", [9, 10], ["0.50", "0.40"]), ("meant", [0, 1, 2], ["rank 3", "rank 4", "rank 9"])]
    axes = np.array(embedding_maps.text_figure(pictures, lines).axes).reshape(2, 3)
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["“a ball”", "meant"]
    np.testing.assert_array_equal(axes[1, 1].images[0].get_array(), pictures.rgb[1])
    assert axes[0, 1].get_title() == "0.40" and axes[1, 2].get_title() == "rank 9"
    assert [len(axis.images) for axis in axes.flat] == [1, 1, 0, 1, 1, 1]


def test_lines_say_how_many_fit_by_caption_beside_chance_or_that_none_can():
    shares = pd.DataFrame(
        {"found": [0.5, 0.0, np.nan], "chance": [0.02, 0.0, np.nan]}, index=["a ball", "a box", "a car"]
    )
    rows, scores = np.array([[4, 5]] * 3), np.array([[0.5, 0.25]] * 3)
    lines = embedding_maps.found_lines(rows, scores, shares)
    assert [label for label, *_ in lines] == [
        "“a ball”\n50% by caption, chance 2%",
        "“a box”\nin no caption",
        "“a car”",
    ]
    assert lines[0][1:] == ([4, 5], ["0.50", "0.25"])


def test_controls_choose_the_query_that_is_drawn(pictures):
    index = (np.arange(len(pictures.rgb))[:, None] + [1, 2]) % len(pictures.rgb)
    found = {
        "everything": {"a": (index, np.full(index.shape, 0.5))},
        "other models": {"a": (index[:, ::-1], index * 0.0)},
    }
    start = row_of(pictures, "egg")
    controls = query_controls(pictures, found, start)
    values = {name: control.value for name, control in controls.items()}
    assert query_row(pictures, values["category"], values["image"]) == start
    draw = draw_query(pictures, found)
    np.testing.assert_array_equal(draw(**values).axes[0].images[0].get_array(), pictures.rgb[start])
    values |= {"admitted": "other models", "category": "box", "image": 10_000}
    last = int(np.flatnonzero(pictures.labels("category") == "box")[-1])
    axes = draw(**values).axes
    np.testing.assert_array_equal(axes[0].images[0].get_array(), pictures.rgb[last])
    np.testing.assert_array_equal(axes[1].images[0].get_array(), pictures.rgb[index[last, 1]])
    assert controls["image"].max + 1 == max((pictures.labels("category") == c).sum() for c in ("box", "ball"))
