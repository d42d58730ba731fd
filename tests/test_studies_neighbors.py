"""What notebook 01 measures about neighbours, against brute force and closed forms."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from tiny_dataset import AZIMUTHS, MODELS, write_tiny_dataset

from lib.data.embeddings import Embedder, embed_dataset
from lib.errors import InputError
from lib.studies import retrieval, robustness, text_search

SEEDS = st.integers(0, 2**31)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def pictures(folder):
    return retrieval.read_pictures(folder, "all")


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


# --- which images ----------------------------------------------------------------------------------------------------


def test_splits_are_what_they_are_called(folder, pictures):
    assert len(pictures.rgb) == len(pictures.metadata) == len(MODELS) * len(AZIMUTHS)
    held_out = retrieval.read_pictures(folder)
    assert set(held_out.labels("model")) == {"crate", "lens"}
    assert set(retrieval.read_pictures(folder, "train").labels("split")) == {"train"}
    assert pictures.knows("azimuth", "mesh")
    assert not pictures.knows("azimuth", "caption")


def test_fewer_images_are_whole_models_and_depend_on_the_seed(folder):
    chosen = [retrieval.read_pictures(folder, "all", 7, seed) for seed in range(8)]
    for some in chosen:
        assert len(some.rgb) == 6
        assert (some.metadata.groupby("model").size() == 3).all()
    assert len({tuple(some.labels("id")) for some in chosen}) > 1
    again = retrieval.read_pictures(folder, "all", 7, 3)
    assert again.labels("id").tolist() == chosen[3].labels("id").tolist()
    np.testing.assert_array_equal(again.rgb, chosen[3].rgb)


def test_unknown_split_is_one_sentence(folder):
    with pytest.raises(InputError, match="no images of split 'val'; try 'all'"):
        retrieval.read_pictures(folder, "val")


# --- the query's model among its neighbours --------------------------------------------------------------------------


@settings(max_examples=30)
@given(SEEDS)
def test_match_share_is_that_of_a_loop(seed):
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array(["a", "b", "c"]), 12)
    index = generator.integers(-1, 12, (12, 4))
    index[0] = -1
    for found, line, label in zip(retrieval.match_share(index, labels), index, labels, strict=True):
        hits = [labels[row] == label for row in line if row >= 0]
        if hits:
            assert found == pytest.approx(sum(hits) / len(hits))
        else:
            assert np.isnan(found)


@settings(max_examples=20)
@given(SEEDS, st.booleans())
def test_chance_is_the_share_over_all_possible_neighbours(seed, grouped):
    generator = np.random.default_rng(seed)
    labels = generator.choice(np.array(["a", "b", "c", "d"]), 15)
    groups = generator.choice(np.array(["x", "y"]), 15)
    shares = []
    for query in range(15):
        others = [o for o in range(15) if o != query and (not grouped or groups[o] == groups[query])]
        if others:
            shares.append(np.mean([labels[o] == labels[query] for o in others]))
    assert retrieval.chance_share(labels, groups if grouped else None) == pytest.approx(np.mean(shares))


def test_match_row_counts_queries_and_models_and_resamples_models():
    models = np.repeat(np.array(["a", "b", "c"]), 10)
    index = np.repeat(np.array([[1], [0], [20]]), 10, axis=0)  # right for a and c, wrong for b
    row = retrieval.match_row(index, models)
    assert (row["share"], row["n"], row["models"]) == (pytest.approx(2 / 3), 30, 3)
    # three models: the share of a resample is a third of the hits of three draws, so its ends are those of a binomial
    assert row["low"] == pytest.approx(0.0, abs=1e-9)
    assert row["high"] == pytest.approx(1.0)
    index[0] = -1
    assert retrieval.match_row(index, models)["n"] == 29


def test_without_two_images_of_a_model_there_is_nothing_to_measure():
    assert retrieval.has_repeats(np.array(["a", "b", "a"]))
    assert not retrieval.has_repeats(np.array(["a", "b", "c"]))


def test_sweep_is_the_match_share_of_the_first_neighbours_with_intervals_over_models():
    models = np.array(["a", "a", "b", "b"])
    index = np.array([[1, 2], [2, 0], [0, 3], [2, 1]])
    assert retrieval.sweep(index, models, (1, 2))["value"].to_dict() == {1: 0.5, 2: 0.5}
    assert retrieval.sweep(index[:, ::-1], models, (1,))["value"].to_dict() == {1: 0.5}
    # both images of a right at K = 1, none of b: resamples of two models are all a, all b, or one of each
    row = retrieval.sweep(np.array([[1], [0], [0], [1]]), models, (1,)).loc[1]
    assert row.tolist() == [0.5, 0.0, 1.0]
    # every query has one of two right: nothing that resampling could change
    assert retrieval.sweep(np.array([[1, 2], [0, 2], [3, 0], [2, 0]]), models, (2,)).loc[2].tolist() == [0.5] * 3


def test_distance_sweep_is_the_mean_of_the_queries_means_with_intervals_over_models():
    lines = [(q, "n", rank, 0, d) for q, line in enumerate([(1, 3), (3, 5)]) for rank, d in enumerate(line)]
    table = pd.DataFrame(lines, columns=["query", "kind", "rank", "row", "distance"])
    found = retrieval.distance_sweep(table, np.array(["a", "b"]), (1, 2))
    assert found.index.tolist() == [1, 2]
    assert found.to_numpy().tolist() == [[2, 1, 3], [3, 2, 4]]  # two models: resamples are a alone, b alone, or both


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_points_lie_on_the_true_surface(pictures):
    points = retrieval.surface_points(pictures, 200)
    for row in (0, 9):
        sides = np.array(MODELS[pictures.labels("model")[row]][2])
        if pictures.labels("category")[row] == "box":
            beyond = np.abs(points(row)) - sides / 2
            np.testing.assert_allclose(beyond.max(axis=1), 0, atol=1e-6)
        else:
            np.testing.assert_allclose(np.linalg.norm(2 * points(row) / sides, axis=1), 1, atol=0.02)
    assert points(0) is points(0)


def test_distances_of_concentric_spheres_are_the_differences_of_their_radii():
    radii = [0.3, 0.4, 0.5]
    clouds = [trimesh.creation.icosphere(4, r).vertices.astype(np.float32) for r in radii]
    others = {"next": np.array([[1, 2], [2, -1]]), "self": np.array([[0, 0], [1, 1]])}
    table = retrieval.shape_distances(clouds.__getitem__, np.array([0, 1]), others)
    assert len(table) == 3 + 4
    for line in table.itertuples():
        expected = abs(radii[line.query] - radii[line.row])
        assert line.distance == pytest.approx(expected, abs=1e-4)
    assert table[table["kind"] == "next"][["query", "rank", "row"]].to_numpy().tolist() == [
        [0, 0, 1],
        [0, 1, 2],
        [1, 0, 2],
    ]


def test_rows_of_distances_are_means_of_queries_and_the_gain_compares_the_same_queries():
    table = pd.DataFrame(
        [
            (q, kind, 0, 0, d)
            for q, pair in enumerate([(1.0, 2.0), (2.0, 4.0), (4.0, 8.0)])
            for kind, d in zip("no", pair, strict=True)
        ]
        + [(0, "n", 1, 1, 3.0)],
        columns=["query", "kind", "rank", "row", "distance"],
    )
    models = np.array(["a", "b", "c"])
    rows = retrieval.distance_rows(table, models)
    assert rows.loc["n", "distance"] == pytest.approx((2 + 2 + 4) / 3)
    assert rows.loc["o", "distance"] == pytest.approx(14 / 3)
    assert rows["n"].tolist() == [3, 3]
    half = table[table["rank"] == 0]
    gain = retrieval.gain_row(half, "n", "o", models)
    # every query's ratio is one half: however rare its shape is, resampling changes nothing
    assert (gain["gain"], gain["low"], gain["high"]) == pytest.approx((0.5, 0.5, 0.5))
    wide = retrieval.distance_rows(half, models)
    assert wide.loc["n", "high"] > 1.5 * wide.loc["n", "low"]


# --- sides -----------------------------------------------------------------------------------------------------------


def test_azimuths_differ_the_short_way_round():
    azimuth = np.array([10.0, 350.0, 200.0])
    found = retrieval.azimuth_differences(np.array([[1, 2], [0, -1], [0, 1]]), azimuth)
    np.testing.assert_allclose(found, [[20, 170], [20, np.nan], [170, 150]])
    row = retrieval.spread_row(found, np.array(["a", "b", "c"]))
    assert (row["difference"], row["new_side"], row["n"]) == (pytest.approx((95 + 160) / 2), pytest.approx(0.75), 2)


@settings(max_examples=20)
@given(SEEDS)
def test_view_angles_are_those_between_camera_positions(seed):
    generator = np.random.default_rng(seed)
    azimuth, elevation = generator.uniform(-360, 360, 6), generator.uniform(-90, 90, 6)
    angles = robustness.view_angles(azimuth, elevation)

    def place(i):  # the camera's place by turning (0, 1, 0) up about x, then about z
        up = trimesh.transformations.rotation_matrix(np.radians(elevation[i]), [1, 0, 0])
        round_z = trimesh.transformations.rotation_matrix(np.radians(azimuth[i]), [0, 0, 1])
        return (round_z @ up)[:3, :3] @ [0, 1, 0]

    for i, j in itertools.product(range(6), repeat=2):
        expected = np.degrees(np.arccos(np.clip(place(i) @ place(j), -1, 1)))
        assert angles[i, j] == pytest.approx(expected, abs=1e-4)


def views(seed: int = 0):
    """Objects (two kinds) seen from all round; names, kinds, azimuths, elevations."""
    models = np.repeat(np.array(["a", "b", "c", "d"]), 12)
    categories = np.where(np.isin(models, ["a", "b"]), "x", "y")
    azimuth = np.tile(np.arange(12) * 30.0, 4)
    vectors = unit(np.random.default_rng(seed).normal(size=(48, 8)))
    return vectors, models, categories, azimuth, np.zeros(48)


def test_curves_are_means_over_pairs():
    vectors, models, categories, azimuth, elevation = views()
    edges = (0, 45, 90.001, 180.001)
    table = robustness.similarity_curves(vectors, models, categories, azimuth, elevation, edges)
    sums: dict[tuple, list[float]] = {}
    for i, j in itertools.permutations(range(48), 2):
        if categories[i] == categories[j]:
            kind = "same object" if models[i] == models[j] else "other object"
            turn = abs((azimuth[i] - azimuth[j] + 180) % 360 - 180)
            place = int(turn >= 45) + int(turn > 90.001)
            sums.setdefault((kind, place), []).append(float(vectors[i] @ vectors[j]))
    assert len(table) == len(sums) == 6
    for (kind, place), values in sums.items():
        line = table[(table["kind"] == kind) & (table["angle"] == [22.5, 67.5, 135.0][place])].iloc[0]
        assert line["similarity"] == pytest.approx(np.mean(values), abs=1e-5)
        assert line["pairs"] == len(values)
        assert line["low"] <= line["similarity"] <= line["high"]


def test_an_embedding_that_sees_the_object_alone_prefers_it_always_and_one_that_sees_the_view_alone_never():
    _, models, categories, azimuth, elevation = views()
    by_object = unit(np.eye(4)[np.searchsorted(["a", "b", "c", "d"], models)])
    by_view = unit(np.stack([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth)), 0 * azimuth], axis=-1))
    always = robustness.preference_curve(by_object, models, categories, azimuth, elevation)
    never = robustness.preference_curve(by_view, models, categories, azimuth, elevation)
    assert always["preference"].tolist() == [1.0] * len(always)
    assert never["preference"].max() < 1e-9
    undecided = robustness.preference_curve(unit(np.ones((48, 3))), models, categories, azimuth, elevation)
    assert undecided["preference"].tolist() == [0.5] * len(undecided)
    assert always["pairs"].sum() == 48 * 11


def test_preference_is_that_of_a_loop():
    vectors, models, categories, azimuth, elevation = views(3)
    table = robustness.preference_curve(vectors, models, categories, azimuth, elevation, (0, 45, 180.001))
    wins: dict[float, list[float]] = {22.5: [], 112.5: []}
    for q, own in itertools.permutations(range(48), 2):
        if models[q] == models[own]:
            turn = abs((azimuth[q] - azimuth[own] + 180) % 360 - 180)
            for rival in range(48):
                close = abs((azimuth[q] - azimuth[rival] + 180) % 360 - 180) < 45
                if close and categories[rival] == categories[q] and models[rival] != models[q]:
                    won = vectors[q] @ vectors[own] > vectors[q] @ vectors[rival]
                    wins[22.5 if turn < 45 else 112.5].append(float(won))
    for line in table.itertuples():
        assert line.preference == pytest.approx(np.mean(wins[line.angle]))


def test_rows_of_turns_are_those_of_the_curve_and_end_with_the_quarter_turn():
    vectors, models, categories, azimuth, elevation = views()
    curve = robustness.preference_curve(vectors, models, categories, azimuth, elevation)
    found = robustness.turned_rows({"a": curve, "b": curve[curve["angle"] != 30], "none": curve[:0]})
    assert [(name, angle) for name, angle, _ in found] == [("a", 30), ("a", 170), ("a", 90), ("b", 170), ("b", 90)]
    expected = curve[curve["angle"] == 90].iloc[0]
    assert found[2][2]["preference"] == expected["preference"]
    assert found[2][2]["n"] == expected["pairs"] > 0


# --- texts and the map -----------------------------------------------------------------------------------------------


def test_texts_find_the_images_nearest_to_them():
    images = unit(np.random.default_rng(0).normal(size=(9, 5)))
    rows, scores = text_search.closest_texts(images, images[[4, 7]], 3)
    assert rows[:, 0].tolist() == [4, 7]
    for text, line, values in zip(images[[4, 7]], rows, scores, strict=True):
        every = sorted((-float(text @ image), i) for i, image in enumerate(images))
        assert line.tolist() == [i for _, i in every[:3]]
        np.testing.assert_allclose(values, [-s for s, _ in every[:3]], atol=1e-6)


def test_ranks_count_the_images_that_are_more_similar_to_a_text():
    images = unit(np.random.default_rng(1).normal(size=(12, 5)))
    texts = unit(np.random.default_rng(2).normal(size=(3, 5)))
    ranks = text_search.text_ranks(images, texts)
    for line, similarity in zip(ranks, texts @ images.T, strict=True):
        assert line.tolist() == [1 + sum(other > own for other in similarity) for own in similarity]


def test_captions_that_have_all_words_of_a_text_count():
    captions = np.array(
        ["a round table on one leg", "a round, red lamp", None, "a low table on four legs"], dtype=object
    )
    rows = np.array([[0, 1], [3, 2], [0, 1]])
    table = text_search.caption_shares(["a round table", "table on legs", "the round"], captions, rows)
    assert table["found"].tolist() == [0.5, 0.5, 1.0]
    assert table["chance"].tolist() == [0.25, 0.25, 0.5]


def test_without_any_caption_shares_are_unknown_and_not_zero():
    table = text_search.caption_shares(["a table"], np.array([None, None], dtype=object), np.array([[0, 1]]))
    assert table.isna().all(axis=None)


def test_vectors_that_lie_in_the_folder_are_used_and_names_not_at_hand_are_said(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    pictures = retrieval.read_pictures(tmp_path / "data")
    embedders, vectors, left_out = retrieval.embed_pictures(pictures, ["pixels", "open_clip-ViT-B-32"], {})
    assert set(embedders) == set(vectors) == {"pixels"}
    assert len(left_out) == 1
    assert left_out[0].startswith("open_clip-ViT-B-32 is left out: weights:")
    expected = embedders["pixels"].encode([Image.fromarray(rgb) for rgb in pictures.rgb])
    np.testing.assert_allclose(vectors["pixels"], expected)
    path = embed_dataset(tmp_path / "data", embedders["pixels"])
    stored = load_file(path)["embeddings"]
    rows = [pictures.prepared.metadata["id"].tolist().index(i) for i in pictures.labels("id")]
    np.testing.assert_array_equal(retrieval.embed_pictures(pictures, ["pixels"], {})[1]["pixels"], stored[rows])
    assert rows != list(range(len(rows)))
    # vectors of other weights are not taken, whatever their name
    embed_dataset(
        tmp_path / "data", Embedder("pixels", 3072, "other", lambda batch: -embedders["pixels"].encode(batch))
    )
    np.testing.assert_allclose(retrieval.embed_pictures(pictures, ["pixels"], {})[1]["pixels"], expected)
    with pytest.raises(InputError, match="none is at hand"):
        retrieval.embed_pictures(pictures, ["open_clip-ViT-B-32"], {})


def test_map_puts_like_by_like_and_repeats():
    generator = np.random.default_rng(0)
    clusters = np.repeat(np.eye(3), 15, axis=0) + 0.05 * generator.normal(size=(45, 3))
    places = retrieval.flat_map(unit(clusters))
    np.testing.assert_array_equal(places, retrieval.flat_map(unit(clusters)))
    assert places.min() == 0
    assert places.max() == 1
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(axis=1) // 15 == np.arange(45) // 15).all()
    with pytest.raises(InputError, match="at least five"):
        retrieval.flat_map(unit(np.eye(4)))
