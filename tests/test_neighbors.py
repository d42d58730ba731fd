"""Semantic neighbours: exact, never of the query's own model, and checked when they are read."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import write_prepared

from lib.data import neighbor_exact
from lib.data.loading import PreparedDataset
from lib.data.neighbors import (
    NEIGHBOR_FILE,
    Neighbors,
    find_neighbors,
    image_features,
    main,
    nearest,
    random_neighbors,
    read_neighbors,
    recall,
    save_neighbors,
    write_neighbors,
)
from lib.data.prepared import sha256
from lib.errors import InputError
from lib.paths import FURNITURE


def unit_features(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.booleans(), st.integers(1, 3))
def test_nearest_are_those_of_brute_force(seed, exclude, count):
    features = unit_features(seed, 24)
    groups = pd.Series(["chair"] * 12 + ["lamp"] * 12).sample(frac=1, random_state=seed).reset_index(drop=True)
    models = pd.Series([f"m{i % 8}" for i in range(24)]).sample(frac=1, random_state=seed + 1).reset_index(drop=True)
    rows, scores = nearest(features, groups, models if exclude else None, count)
    assert rows.shape == scores.shape == (24, count)
    for query in range(24):
        others = [
            (-float(features[query] @ features[other]), other)
            for other in range(24)
            if other != query and groups[other] == groups[query] and not (exclude and models[other] == models[query])
        ]
        expected = sorted(others)[:count]
        np.testing.assert_allclose(scores[query], [-s for s, _ in expected], atol=1e-6)
        chosen = [float(features[query] @ features[other]) for other in rows[query]]
        np.testing.assert_allclose(chosen, scores[query], atol=1e-6)
        assert query not in rows[query] and len(set(rows[query])) == count
        assert all(groups[other] == groups[query] for other in rows[query])
        assert not exclude or all(models[other] != models[query] for other in rows[query])


def test_recoloured_copies_of_the_same_model_are_neighbours_only_when_allowed():
    features = torch.nn.functional.normalize(torch.tensor([[1, 0], [1, 0.01], [0, 1], [0.01, 1.0]]), dim=-1)
    groups, models = pd.Series(["a"] * 4), pd.Series(["x", "x", "y", "y"])
    assert nearest(features, groups, None, 1)[0].tolist() == [[1], [0], [3], [2]]
    assert nearest(features, groups, models, 1)[0].tolist() == [[3], [3], [1], [1]]


def test_too_few_images_of_other_models_are_one_sentence():
    groups = pd.Series(["train chair"] * 4 + ["train lamp"] * 2)
    models = pd.Series(["a", "b", "c", "d", "e", "e"])
    with pytest.raises(InputError, match="'train lamp' has fewer than 2"):
        nearest(unit_features(0, 6), groups, models, 2)


# --- the search ----------------------------------------------------------------------------------------------------


def axes(seed: int, count: int, size: int = 5) -> torch.Tensor:
    """Rows with two entries of +-0.6 or 0.8: their products are few different numbers, so that most are tied."""
    draw = np.random.default_rng(seed)
    rows = np.zeros((count, size), dtype=np.float32)
    for row in rows:
        row[draw.permutation(size)[:2]] = draw.permutation([0.6, 0.8]) * draw.choice([-1, 1], 2)
    return torch.from_numpy(rows)


def naive(vectors, count, group, label, least, duplicate) -> list[list[int]]:
    """One query at a time, one candidate at a time; equal ones (to rounding) in the order of their rows."""
    scores = (vectors.double() @ vectors.double().T).round(decimals=6).tolist()
    lists = []
    for q, row in enumerate(scores):
        allowed = [
            c
            for c in range(len(row))
            if c != q and group[c] == group[q] and label[c] != label[q] and (duplicate is None or row[c] <= duplicate)
        ]
        best = sorted(allowed, key=lambda c: (-row[c], c))[:count]
        lists.append([c for c in best if row[c] >= least])
    return lists


@pytest.fixture(params=[(1024, 32), (32, 8)], ids=["one tile", "many tiles"])
def tiles(request, monkeypatch):
    monkeypatch.setattr(neighbor_exact, "TILE", request.param[0])
    monkeypatch.setattr(neighbor_exact, "STRIP", request.param[1])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    images=st.integers(1, 150),
    count=st.integers(1, 9),
    kinds=st.integers(1, 3),
    models=st.integers(1, 60),
    least=st.sampled_from([-1.0, 0.1, 0.5]),
    duplicate=st.sampled_from([None, 0.98, 0.7]),
    tied=st.booleans(),
)
def test_exact_search_is_sorting(tiles, seed, images, count, kinds, models, least, duplicate, tied):
    draw = np.random.default_rng(seed)
    vectors = axes(seed, images) if tied else unit_features(seed, images)
    group, label = draw.integers(0, kinds, images), draw.integers(0, models, images)
    limits = {"min_similarity": least, "near_duplicate": duplicate, "fill": True}
    found = find_neighbors(vectors, count, groups=group, exclude=label, **limits)
    lists = naive(vectors, count, group, label, least, duplicate)
    assert [[c for c in row if c >= 0] for row in found.index.tolist()] == lists
    assert found.index.shape == found.score.shape == (images, count)
    assert ((found.index < 0) == found.score.isnan()).all()
    assert (found.index.diff(dim=1)[(found.index[:, 1:] < 0)] <= 0).all()  # the places without one are the last
    for q, row in enumerate(lists):
        truth = vectors[q].double() @ vectors[row].double().T
        np.testing.assert_allclose(found.score[q, : len(row)], truth, atol=1e-6)


def test_copies_are_skipped_only_when_asked():
    vectors = torch.nn.functional.normalize(torch.tensor([[1, 0], [1, 0.001], [1, 0.5], [0, 1.0]]), dim=1)
    assert find_neighbors(vectors, 1).index[:, 0].tolist() == [1, 0, 1, 2]
    assert find_neighbors(vectors, 1, near_duplicate=0.999).index[:, 0].tolist() == [2, 2, 1, 2]


def test_equal_images_have_the_first_others_as_neighbours(tiles):
    vectors = torch.full((100, 4), 0.5)  # products without rounding
    expected = [[c for c in range(6) if c != q][:5] for q in range(100)]
    assert find_neighbors(vectors, 5).index.tolist() == expected


def clusters(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(60, 16, generator=generator)
    noise = torch.randn(count, 16, generator=generator)
    vectors = centers[torch.randint(60, (count,), generator=generator)] + 0.3 * noise
    return torch.nn.functional.normalize(vectors, dim=1)


@pytest.mark.parametrize("method", ["ivf", "hnsw"])
def test_indexes_find_nearly_all_and_obey_the_same_rules(method):
    vectors, draw = clusters(2600), np.random.default_rng(0)
    asked = {"groups": draw.integers(0, 12, 2600) == 0, "exclude": draw.integers(0, 300, 2600), "near_duplicate": 0.99}
    exact = find_neighbors(vectors, 4, **asked)
    found = find_neighbors(vectors, 4, **asked, method=method)
    agree = (found.index[:, :, None] == exact.index[:, None]).any(2).float().mean()  # there are no ties here
    assert 0.98 < agree <= 1 and 0.98 < found.recall <= 1 and exact.recall == 1
    assert abs(found.recall - float(agree)) < 0.01  # what the index says of itself is so
    assert recall(found, exact) == pytest.approx(float(agree), abs=1e-3)
    query = torch.arange(2600)[:, None]
    for name in ("groups", "exclude"):
        same = torch.as_tensor(asked[name])[found.index] == torch.as_tensor(asked[name])[query]
        assert same.all() if name == "groups" else not same.any()
    assert (found.score <= 0.99).all()
    np.testing.assert_allclose(found.score, (vectors[query] * vectors[found.index]).sum(-1), atol=1e-6)


def test_index_finds_what_exclusion_hides_behind_the_nearest():
    vectors = clusters(2600)
    nearest_first = vectors[:, 0].argsort().argsort() // 650  # four labels of 650 images that lie together
    exact = find_neighbors(vectors, 3, exclude=nearest_first)
    assert recall(find_neighbors(vectors, 3, exclude=nearest_first, method="ivf"), exact) > 0.98


def test_recall_counts_what_is_missing_and_takes_copies_for_equal():
    truth = Neighbors(
        torch.tensor([[1, 2], [0, -1], [-1, -1]]), torch.tensor([[0.9, 0.8], [0.9, np.nan], [np.nan] * 2])
    )
    assert recall(truth, truth) == 1
    half = Neighbors(torch.tensor([[1, 3], [2, 3], [0, 1]]), torch.tensor([[0.9, 0.7], [0.5, 0.4], [0.3, 0.2]]))
    assert recall(half, truth) == pytest.approx(1 / 3)
    copy = Neighbors(torch.tensor([[1, 3], [0, 2], [-1, -1]]), torch.tensor([[0.9, 0.8], [0.9, 0.9], [np.nan] * 2]))
    assert recall(copy, truth) == 1
    nothing = Neighbors(torch.full((3, 2), -1), torch.full((3, 2), np.nan))
    assert recall(nothing, truth) == 0 and recall(half, nothing) == 1


def test_two_threads_find_what_one_finds():
    vectors = clusters(1200)
    one = find_neighbors(vectors, 5)
    torch.set_num_threads(2)
    try:
        two = find_neighbors(vectors, 5)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one.index, two.index) and torch.equal(one.score, two.score)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"count": 10},
            r"the set has fewer than 10 other images; ask for at most 9 \(--count\) or accept fewer \(--fill\)",
        ),
        ({"exclude": [0] * 10}, r"the set has fewer than 5 images of other models; accept fewer \(--fill\)"),
        ({"groups": ["a"] * 7 + ["b"] * 3}, "group 'b' has fewer than 5 other images; ask for at most 2"),
        ({"groups": ["a"] * 3}, "groups has 3 labels for 10 images"),
        ({"method": "annoy"}, "no method 'annoy'"),
        ({"count": 0}, "0 is no number of neighbours"),
        ({"vectors": torch.ones(10, 4)}, "row 0 of the embeddings is not of unit length"),
        ({"vectors": unit_features(0, 10).index_fill(0, torch.tensor(3), float("nan"))}, "row 3 of the embeddings"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence):
        find_neighbors(**({"vectors": unit_features(0, 10), "count": 5} | change))


def test_more_than_there_are_is_filled_when_asked():
    found = find_neighbors(unit_features(0, 3), 5, fill=True)
    assert (found.index[:, :2] >= 0).all() and (found.index[:, 2:] == -1).all() and found.score[:, 2:].isnan().all()


def test_random_neighbours_are_any_of_the_same_group_and_of_other_models():
    group, label = ["a"] * 30 + ["b"] * 30, [i // 5 for i in range(60)]
    found = random_neighbors(group, label, 4, seed=0)
    assert torch.equal(found.index, random_neighbors(group, label, 4, seed=0).index)
    assert not torch.equal(found.index, random_neighbors(group, label, 4, seed=1).index)
    seen = set()
    for seed in range(40):
        for row, others in enumerate(random_neighbors(group, label, 4, seed).index.tolist()):
            assert len(set(others)) == 4 and all(group[o] == group[row] and label[o] != label[row] for o in others)
            seen |= {(row, other) for other in others}
    assert len(seen) > 0.98 * 60 * 25  # each of 25 candidates has its turn
    with pytest.raises(InputError, match="group 'a' has fewer than 26"):
        random_neighbors(group, label, 26, seed=0)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=5, val=5, views=2)


@pytest.fixture
def table(prepared) -> pd.DataFrame:
    return pd.read_parquet(prepared / "neighbors" / f"{NEIGHBOR_FILE}.parquet")


def write(folder, table: pd.DataFrame, name: str = "changed") -> str:
    table.to_parquet(folder / "neighbors" / f"{name}.parquet", index=False)
    return name


def test_rows_of_neighbours_are_those_that_the_file_names(prepared, table):
    data = PreparedDataset(prepared, "train")
    shuffled = write(prepared, table.sample(frac=1, random_state=0))
    for name in (NEIGHBOR_FILE, shuffled):
        rows = read_neighbors(prepared, data.metadata, name)
        assert rows.shape == (10, 2) and rows.dtype == torch.int64
        for query, neighbors in enumerate(rows.tolist()):
            listed = table[table["id"] == data.metadata["id"][query]].sort_values("rank")["neighbor"]
            assert data.metadata["id"].iloc[neighbors].tolist() == listed.tolist()


def test_order_of_the_metadata_decides_the_rows(prepared, table):
    metadata = PreparedDataset(prepared, "train").metadata.iloc[::-1].reset_index(drop=True)
    rows = read_neighbors(prepared, metadata)
    first = table[table["id"] == metadata["id"][0]].sort_values("rank")["neighbor"].tolist()
    assert metadata["id"].iloc[rows[0].tolist()].tolist() == first


def test_missing_file_is_named(prepared):
    with pytest.raises(InputError, match="nowhere.parquet does not exist"):
        read_neighbors(prepared, PreparedDataset(prepared, "train").metadata, "nowhere")


def test_neighbour_that_does_not_exist_is_named(prepared, table):
    table.loc[3, "neighbor"] = "ghost"
    with pytest.raises(InputError, match="'ghost'"):
        read_neighbors(prepared, PreparedDataset(prepared, "train").metadata, write(prepared, table))


def test_neighbour_of_another_split_is_named(prepared, table):
    metadata = PreparedDataset(prepared, "train").metadata
    other = PreparedDataset(prepared, "val").metadata["id"][0]
    table.loc[table["id"] == metadata["id"][2], "neighbor"] = other
    with pytest.raises(InputError, match=repr(other)):
        read_neighbors(prepared, metadata, write(prepared, table))


@pytest.mark.parametrize("keep", [0, 1])
def test_sample_without_all_its_neighbours_is_named(prepared, table, keep):
    metadata = PreparedDataset(prepared, "train").metadata
    poor = metadata["id"][4]
    lacking = table[(table["id"] != poor) | (table["rank"] < keep)]
    with pytest.raises(InputError, match=repr(poor)):
        read_neighbors(prepared, metadata, write(prepared, lacking))


def test_written_neighbours_are_the_nearest_features_within_split_and_category(prepared, tmp_path):
    folder = write_prepared(tmp_path / "discs", train=4, val=4, views=2)
    (folder / "neighbors" / f"{NEIGHBOR_FILE}.parquet").unlink()
    path = write_neighbors(folder, count=3)
    table = pd.read_parquet(path)
    data = PreparedDataset(folder)
    features = image_features(data.rgb)
    np.testing.assert_allclose(features.norm(dim=-1), np.ones(16), atol=1e-5)
    by_id = data.metadata.set_index("id")
    assert path.name == f"{NEIGHBOR_FILE}.parquet" and len(table) == 16 * 3
    for row in table.itertuples():
        query, other = by_id.loc[row.id], by_id.loc[row.neighbor]
        assert query["split"] == other["split"] and query["model"] != other["model"]
        a, b = (int((data.metadata["id"] == i).argmax()) for i in (row.id, row.neighbor))
        assert row.score == pytest.approx(float(features[a] @ features[b]), abs=1e-4)
    assert (table.groupby("id")["score"].diff().dropna() <= 0).all()
    rows = read_neighbors(folder, PreparedDataset(folder, "train").metadata)
    assert rows.shape == (8, 3)


def test_a_category_too_small_for_its_neighbours_is_named_with_the_way_out(prepared, tmp_path):
    metadata = PreparedDataset(prepared, "train").metadata  # ten samples: two views of five objects
    small = metadata["model"].isin(metadata["model"].unique()[:2])
    metadata = metadata.assign(category=np.where(small, "few", "many"))
    groups = metadata["split"] + " " + metadata["category"]
    found = find_neighbors(unit_features(0, 10), 4, groups=groups, exclude=metadata["model"], fill=True)
    save_neighbors(tmp_path / "neighbors" / "out.parquet", metadata["id"], found)
    sentence = "others have 4, for category 'few' has 4 train samples, 2 of other objects; leave .* --count 2$"
    with pytest.raises(InputError, match=sentence):
        read_neighbors(tmp_path, metadata, "out")
    many = metadata[~small].reset_index(drop=True)
    assert read_neighbors(tmp_path, many, "out").shape == (6, 4)  # what the sentence says helps
    fewer = find_neighbors(unit_features(0, 10), 2, groups=groups, exclude=metadata["model"])
    save_neighbors(tmp_path / "neighbors" / "out.parquet", metadata["id"], fewer)
    assert read_neighbors(tmp_path, metadata, "out").shape == (10, 2)


def test_saved_neighbours_come_back_with_gaps_only_when_allowed(prepared):
    metadata = PreparedDataset(prepared, "train").metadata
    index = torch.tensor([[(i + 1) % 10, (i + 2) % 10] for i in range(10)])
    index[3, 1] = -1
    index[7] = -1
    save_neighbors(prepared / "neighbors" / "gaps.parquet", metadata["id"], Neighbors(index, torch.ones(10, 2)))
    assert torch.equal(read_neighbors(prepared, metadata, "gaps", fill=True), index)
    with pytest.raises(InputError, match=f"sample {metadata['id'][7]!r} has 0 neighbours, others have 2; write"):
        read_neighbors(prepared, metadata, "gaps")


def test_neighbours_of_another_embedding_are_refused(prepared):
    metadata = PreparedDataset(prepared, "train").metadata
    path, other = (
        prepared / "neighbors" / "named.parquet",
        Neighbors(torch.arange(10).roll(1)[:, None], torch.ones(10, 1)),
    )
    save_neighbors(path, metadata["id"], other, "pixels", "aaaa")
    assert read_neighbors(prepared, metadata, "named", ("pixels", "aaaa")).shape == (10, 1)
    for wrong in [("pixels", "bbbb"), ("lite0", "aaaa")]:
        with pytest.raises(InputError, match=r"named.parquet was made from pixels \(aaaa\), not from"):
            read_neighbors(prepared, metadata, "named", wrong)
    (prepared / "embeddings").mkdir()
    vectors = {"embeddings": torch.zeros(1, 1)}
    save_file(vectors, prepared / "embeddings" / "pixels.safetensors", {"weights_sha256": "aaaa"})
    read_neighbors(prepared, metadata, "named")
    save_file(vectors, prepared / "embeddings" / "pixels.safetensors", {"weights_sha256": "cccc"})
    with pytest.raises(InputError, match="find the neighbours again"):
        read_neighbors(prepared, metadata, "named")


def test_damaged_file_is_named(prepared):
    (prepared / "neighbors" / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="torn.parquet is no readable file of neighbours"):
        read_neighbors(prepared, PreparedDataset(prepared, "train").metadata, "torn")


def test_neighbours_that_ship_are_written_again_alike(tmp_path):
    shipped = pd.read_parquet(FURNITURE / "neighbors" / f"{NEIGHBOR_FILE}.parquet")
    metadata = pd.read_parquet(FURNITURE / "metadata.parquet")
    some = metadata[(metadata["split"] == "val") & metadata["category"].isin(["lamp", "table"])]
    (tmp_path / "images").symlink_to(FURNITURE / "images")
    some.to_parquet(tmp_path / "metadata.parquet")
    path = write_neighbors(tmp_path)
    written, note = pd.read_parquet(path), pq.read_schema(path).metadata
    expected = shipped[shipped["id"].isin(some["id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(written.drop(columns="score"), expected.drop(columns="score"))
    np.testing.assert_allclose(written["score"], expected["score"], atol=1e-5)
    before = pq.read_schema(FURNITURE / "neighbors" / f"{NEIGHBOR_FILE}.parquet").metadata
    assert all(note[key] == before[key] for key in (b"embedding", b"embedding_sha256"))  # whose features they are
    assert note[b"embedding"].decode() == NEIGHBOR_FILE and len(note[b"embedding_sha256"]) == 64


def test_command_line_searches_the_folders_embeddings(tmp_path, capsys):
    folder = write_prepared(tmp_path / "discs", train=4, val=4, views=2)
    command = [str(folder), "--model", "made-up", "--count", "3", "--name", "out"]
    assert main(command) == 2 and capsys.readouterr().err.startswith("error: ")
    vectors = unit_features(0, 16)
    checked = {"model": "made-up", "weights_sha256": "abc", "metadata_sha256": sha256(folder / "metadata.parquet")}
    (folder / "embeddings").mkdir()
    save_file({"embeddings": vectors}, folder / "embeddings" / "made-up.safetensors", checked)
    assert main(command) == 0
    metadata = PreparedDataset(folder).metadata
    rows = read_neighbors(folder, metadata, "out", ("made-up", "abc"))
    assert torch.equal(rows, find_neighbors(vectors, 3, groups=metadata["split"], exclude=metadata["model"]).index)
    assert main([*command[:3], "--count", "7"]) == 2
    assert "fewer than 7 images of other models; ask for at most 6 (--count) or accept fewer (--fill)" in (
        capsys.readouterr().err
    )
    for method in ("exact", "random"):  # what the sentence says helps
        assert main([*command[:3], "--count", "7", "--fill", "--name", "filled", "--method", method]) == 0
        assert read_neighbors(folder, metadata, "filled").shape == (16, 6)
    assert main([*command, "--method", "random"]) == 0
    assert read_neighbors(folder, metadata, "out").shape == (16, 3)
