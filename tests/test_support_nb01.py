"""What notebook 01 measures and draws, against brute force and closed forms."""

import base64
import io
import itertools
import re
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import trimesh
from matplotlib.colors import to_hex
from PIL import Image
from tiny_dataset import AZIMUTHS, MODELS, write_tiny_dataset

from lib.data.embeddings import Embedder, embed_dataset
from lib.errors import InputError
from support import nb01


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def pictures(folder):
    return nb01.read_pictures(folder, "all")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


# --- images and embeddings -------------------------------------------------------------------------------------------


def test_splits_are_what_they_are_called(folder, pictures):
    assert len(pictures.rgb) == len(pictures.metadata) == len(MODELS) * len(AZIMUTHS)
    assert set(nb01.read_pictures(folder).labels("model")) == {"crate", "lens"}
    assert set(nb01.read_pictures(folder, "train").labels("split")) == {"train"}
    assert pictures.knows("azimuth", "mesh") and not pictures.knows("azimuth", "caption")
    with pytest.raises(InputError, match="no images of split 'val'; try 'all'"):
        nb01.read_pictures(folder, "val")


def test_fewer_images_are_whole_models_and_depend_on_the_seed(folder):
    chosen = [nb01.read_pictures(folder, "all", 7, seed) for seed in (0, 1, 2, 3, 3)]
    for some in chosen:
        assert len(some.rgb) == 6 and (some.metadata.groupby("model").size() == 3).all()
    assert len({tuple(some.labels("id")) for some in chosen}) > 1
    np.testing.assert_array_equal(chosen[3].rgb, chosen[4].rgb)


def test_vectors_in_the_folder_are_used_and_names_not_at_hand_are_said(folder, tmp_path):
    pictures = nb01.read_pictures(shutil.copytree(folder, tmp_path / "data"))
    embedders, vectors, left_out = nb01.embed_pictures(pictures, ["pixels", "unheard-of"], {})
    assert set(embedders) == set(vectors) == {"pixels"}
    assert [sentence.split(":")[0] for sentence in left_out] == ["unheard-of is left out"]
    expected = embedders["pixels"].encode([Image.fromarray(rgb) for rgb in pictures.rgb])
    np.testing.assert_allclose(vectors["pixels"], expected)
    # vectors of other weights are not used, whatever their name
    for checksum, used in (("other", expected), (embedders["pixels"].checksum, -expected)):
        turned = Embedder("pixels", 3072, checksum, lambda batch: -embedders["pixels"].encode(batch))
        embed_dataset(tmp_path / "data", turned)
        np.testing.assert_allclose(nb01.embed_pictures(pictures, ["pixels"], {})[1]["pixels"], used)
    with pytest.raises(InputError, match="none is at hand"):
        nb01.embed_pictures(pictures, ["unheard-of"], {})


def test_sheet_frames_neighbours_by_what_they_share(pictures):
    query, tall, egg = (int((pictures.labels("model") == model).argmax()) for model in ("flat", "tall", "egg"))
    rows, scores = np.array([query + 1, tall, egg, -1]), np.array([0.9, 0.8, 0.7, np.nan])
    figure = nb01.neighbor_sheet(pictures, query, {"one": (rows, scores), "two": (rows[::-1], scores[::-1])})
    axes = np.reshape(figure.axes, (2, 5))
    for line, order in zip(axes, ([query, *rows], [query, *rows[::-1]]), strict=True):
        for axis, row in zip(line, order, strict=True):
            assert len(axis.images) == (row >= 0)
            if row >= 0:
                np.testing.assert_allclose(axis.images[0].get_array(), pictures.rgb[row] / 255)
    colors = [to_hex(axis.spines["left"].get_edgecolor()) for axis in axes[0, 1:4]]
    assert colors == [to_hex(color) for color in nb01.MARKS.values()]
    assert axes[0, 1].get_title() == "0.90, 130°"


# --- the query's model among its neighbours --------------------------------------------------------------------------


def test_match_share_is_that_of_a_loop():
    generator = np.random.default_rng(0)
    models, index = generator.choice(np.array(["a", "b", "c"]), 12), generator.integers(-1, 12, (12, 4))
    index[0] = -1
    found = nb01.match_share(index, models)
    assert np.isnan(found[0])
    for share, line, model in zip(found[1:], index[1:], models[1:], strict=True):
        assert share == pytest.approx(np.mean([models[row] == model for row in line if row >= 0]))


@pytest.mark.parametrize("grouped", [False, True])
def test_chance_is_the_share_over_all_possible_neighbours(grouped):
    generator = np.random.default_rng(1)
    models, groups = (generator.choice(np.array(list(names)), 15) for names in ("abcd", "xy"))
    shares = []
    for query in range(15):
        others = [o for o in range(15) if o != query and (not grouped or groups[o] == groups[query])]
        shares += [np.mean([models[o] == models[query] for o in others])] if others else []
    assert nb01.chance_share(models, groups if grouped else None) == pytest.approx(np.mean(shares))


def test_match_row_resamples_models_and_counts_images():
    models = np.repeat(np.array(["a", "b", "c"]), 10)
    index = np.repeat(np.array([[1], [0], [20]]), 10, axis=0)  # right for a and c, wrong for b
    row = nb01.match_row(index, models)
    # three models: the share of a resample is a third of the hits of three draws, so its ends are those of a binomial
    assert list(row.values()) == pytest.approx([2 / 3, 0, 1, 30], abs=1e-9)
    index[0] = -1
    assert nb01.match_row(index, models)["n"] == 29


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_distances_of_concentric_spheres_are_the_differences_of_their_radii():
    radii = [0.3, 0.4, 0.5]
    clouds = [trimesh.creation.icosphere(4, r).vertices.astype(np.float32) for r in radii]
    others = {"next": np.array([[1, 2], [2, -1]]), "self": np.array([[0, 0], [1, 1]])}
    table = nb01.shape_distances(clouds.__getitem__, np.array([0, 1]), others)
    expected = [[0, 0, 1], [0, 1, 2], [1, 0, 2]]
    assert table[table["kind"] == "next"][["query", "rank", "row"]].to_numpy().tolist() == expected
    assert len(table) == 3 + 4
    for line in table.itertuples():
        assert line.distance == pytest.approx(abs(radii[line.query] - radii[line.row]), abs=1e-4)


def test_distances_are_means_of_queries_and_the_gain_compares_the_same_queries():
    lines = [(q, kind, 0, 0, d) for q, near in enumerate((1.0, 2.0, 4.0)) for kind, d in (("n", near), ("o", 2 * near))]
    table = pd.DataFrame([*lines, (0, "n", 1, 1, 3.0)], columns=["query", "kind", "rank", "row", "distance"])
    models = np.array(["a", "b", "c"])
    rows = nb01.distance_rows(table, models)
    assert rows["value"].to_dict() == pytest.approx({"n": (2 + 2 + 4) / 3, "o": 14 / 3})
    assert rows["n"].tolist() == [3, 3]
    first = table[table["rank"] == 0]
    # every query's ratio is one half: however rare its shape is, resampling changes nothing
    assert list(nb01.gain_row(first, "n", "o", models).values()) == pytest.approx([0.5, 0.5, 0.5, 3])
    assert nb01.distance_rows(first, models).loc["n", "high"] > 1.5 * nb01.distance_rows(first, models).loc["n", "low"]


# --- turns and sides -------------------------------------------------------------------------------------------------


def test_view_angles_are_those_between_camera_positions():
    generator = np.random.default_rng(0)
    azimuth, elevation = generator.uniform(-360, 360, 6), generator.uniform(-90, 90, 6)
    places = []
    for a, e in zip(np.radians(azimuth), np.radians(elevation), strict=True):  # (0, 1, 0) turned up, then about z
        turn = trimesh.transformations.rotation_matrix
        places.append((turn(a, [0, 0, 1]) @ turn(e, [1, 0, 0]))[:3, 1])
    expected = np.degrees(np.arccos(np.clip(np.array(places) @ np.array(places).T, -1, 1)))
    np.testing.assert_allclose(nb01.view_angles(azimuth, elevation), expected, atol=1e-4)


def test_turn_curves_are_those_of_a_loop():
    models = np.repeat(np.array(["a", "b", "c", "d"]), 12)
    categories = np.where(np.isin(models, ["a", "b"]), "x", "y")
    generator = np.random.default_rng(0)
    azimuth, vectors = generator.uniform(0, 360, 48), unit(generator.normal(size=(48, 8)))
    curves = nb01.turn_curves(vectors, models, categories, nb01.view_angles(azimuth, 0 * azimuth))
    turns = np.abs((azimuth[:, None] - azimuth + 180) % 360 - 180)
    expected: dict[tuple, list[float]] = {}
    for q, o in itertools.permutations(range(48), 2):
        angle = next(middle for middle in range(10, 180, 20) if turns[q, o] < middle + 10 or middle == 170)
        if categories[q] == categories[o]:
            kind = "same object" if models[q] == models[o] else "other object"
            expected.setdefault((kind, angle), []).append(vectors[q] @ vectors[o])
        rivals = (categories == categories[q]) & (models != models[q]) & (turns[q] < 20)
        if models[q] == models[o] and rivals.any():
            beaten = [vectors[q] @ vectors[o] > vectors[q] @ vectors[rival] for rival in np.flatnonzero(rivals)]
            expected.setdefault(("preference", angle), []).append(np.mean(beaten))
    assert sum(map(len, curves.values())) == len(expected)
    for (kind, angle), values in expected.items():
        row = curves[kind].loc[angle]
        assert (row["value"], row["n"]) == pytest.approx((np.mean(values), len(values)), abs=1e-5)
        assert row["low"] <= row["value"] <= row["high"]


def test_spread_counts_the_short_way_round():
    index, azimuth = np.array([[1, 2], [0, -1], [0, 1]]), np.array([10.0, 350.0, 200.0])
    found = nb01.azimuth_differences(index, azimuth)
    np.testing.assert_allclose(found, [[20, 170], [20, np.nan], [170, 150]])
    rows = nb01.spread_rows(found, np.array(["a", "b", "c"]))
    assert [rows[name]["value"] for name in ("difference", "new side")] == pytest.approx([(95 + 160) / 2, 0.75])
    assert rows["difference"]["n"] == 2
    axis = nb01.spread_figure({"near": found}).axes[0]
    assert axis.get_legend().get_texts()[0].get_text() == "near: 60 %"
    x, y = axis.lines[0].get_data()
    assert y[x == 160] == pytest.approx(60) and y[-1] == 100


# --- texts and the map -----------------------------------------------------------------------------------------------


def test_texts_find_the_nearest_and_count_captions():
    captions = np.array(["a round table on one leg", "a round, red lamp", None, "a low table"], dtype=object)
    similarity = np.array([[0.9, 0.5, 0.1, 0.2], [0.1, 0.2, 0.3, 0.4]])
    lines = nb01.text_lines(["the round", "table on legs"], similarity, captions, 2)
    assert lines[0] == ("“the round”\n100% by caption, chance 50%", [0, 1], ["0.90", "0.50"])
    assert lines[1] == ("“table on legs”\nin no caption", [3, 2], ["0.40", "0.30"])
    assert nb01.text_lines(["a car"], similarity[:1], np.array([None] * 4), 1)[0][0] == "“a car”"


def test_map_puts_like_by_like_and_repeats():
    clusters = np.repeat(np.eye(3), 15, axis=0) + 0.05 * np.random.default_rng(0).normal(size=(45, 3))
    places = nb01.flat_map(unit(clusters))
    np.testing.assert_array_equal(places, nb01.flat_map(unit(clusters)))
    assert (places.min(), places.max()) == (0, 1)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1) + 9 * np.eye(45)
    assert (distance.argmin(axis=1) // 15 == np.arange(45) // 15).all()
    with pytest.raises(InputError, match="at least five"):
        nb01.flat_map(unit(np.eye(4)))


def test_maps_hold_the_pictures_and_need_nothing_else(pictures):
    places = np.random.default_rng(0).random((len(pictures.rgb), 2))
    categories, models = pictures.labels("category"), pictures.labels("model")
    axis = nb01.map_figure(pictures.rgb, categories, places, [0, 5]).axes[0]
    assert sum(len(line.get_xdata()) for line in axis.lines) == len(pictures.rgb)
    page = nb01.hover_map(pictures.rgb, categories, models, places, [0, 9])
    assert not re.search(r"<script|https?:|on\w+=", page)
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" alt="([^"]+)"', page)
    assert [name for _, name in found] == models[[0, 9]].tolist()
    for (data, _), row in zip(found, (0, 9), strict=True):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).resize((24, 24), Image.Resampling.BOX))
        assert np.abs(shown.astype(float) - pictures.rgb[row]).mean() < 25
    left, top = re.findall(r"left:([\d.]+)%;top:([\d.]+)%", page)[1]
    assert (float(left), float(top)) == pytest.approx((100 * places[9, 0], 100 - 100 * places[9, 1]), abs=0.06)
