"""Semantic neighbours: exact, never of the query's own model, and checked when they are read."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import write_prepared

from lib.data import neighbors
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


def test_recoloured_copies_of_the_same_model_are_neighbours_only_when_allowed():
    features = torch.nn.functional.normalize(torch.tensor([[1, 0], [1, 0.01], [0, 1], [0.01, 1.0]]), dim=-1)
    groups, models = pd.Series(["a"] * 4), pd.Series(["x", "x", "y", "y"])
    assert nearest(features, groups, None, 1)[0].tolist() == [[1], [0], [3], [2]]
    assert nearest(features, groups, models, 1)[0].tolist() == [[3], [3], [1], [1]]


# --- the search ----------------------------------------------------------------------------------------------------


def axes(seed: int, count: int, size: int = 5) -> torch.Tensor:
    """Rows with two entries of +-0.6 or 0.8: their products are few different numbers, so that most are tied."""
    draw = np.random.default_rng(seed)
    rows = np.zeros((count, size), dtype=np.float32)
    for row in rows:
        row[draw.permutation(size)[:2]] = draw.permutation([0.6, 0.8]) * draw.choice([-1, 1], 2)
    return torch.from_numpy(rows)


def naive(vectors, count, group, label, least, duplicate) -> list[list[float]]:
    """Scores of the best, one query and one candidate at a time."""
    scores, lists = (vectors.double() @ vectors.double().T).tolist(), []
    for q, row in enumerate(scores):
        allowed = [
            row[c]
            for c in range(len(row))
            if c != q and group[c] == group[q] and label[c] != label[q] and (duplicate is None or row[c] <= duplicate)
        ]
        lists.append([score for score in sorted(allowed, reverse=True)[:count] if score >= least])
    return lists


@settings(max_examples=40)
@given(
    block=st.sampled_from([1, 1000, 2**24]),
    seed=st.integers(0, 2**31),
    images=st.integers(1, 150),
    count=st.integers(1, 9),
    kinds=st.integers(1, 3),
    models=st.integers(1, 60),
    least=st.sampled_from([-1.0, 0.1, 0.5]),
    duplicate=st.sampled_from([None, 0.98, 0.7]),
    tied=st.booleans(),
)
def test_exact_search_is_sorting(block, seed, images, count, kinds, models, least, duplicate, tied):
    draw = np.random.default_rng(seed)
    vectors = axes(seed, images) if tied else unit_features(seed, images)
    group, label = draw.integers(0, kinds, images), draw.integers(0, models, images)
    limits = {"min_similarity": least, "near_duplicate": duplicate, "fill": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbors, "BLOCK", block)
        found = find_neighbors(vectors, count, groups=group, exclude=label, **limits)
    assert found.index.shape == found.score.shape == (images, count)
    assert ((found.index < 0) == found.score.isnan()).all()
    assert (found.index.diff(dim=1)[(found.index[:, 1:] < 0)] <= 0).all()  # the places without one are the last
    for q, expected in enumerate(naive(vectors, count, group, label, least, duplicate)):
        others = [c for c in found.index[q].tolist() if c >= 0]
        np.testing.assert_allclose(found.score[q, : len(others)], expected, atol=1e-6)
        np.testing.assert_allclose(vectors[others] @ vectors[q], expected, atol=1e-6)
        assert len(set(others)) == len(others) and q not in others
        assert all(group[c] == group[q] and label[c] != label[q] for c in others)


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"count": 10},
            r"the set has fewer than 10 other images; ask for at most 9 \(--count\) or accept fewer \(--fill\)",
        ),
        ({"exclude": [0] * 10}, r"the set has fewer than 5 images of other models; accept fewer \(--fill\)"),
        ({"groups": ["a"] * 7 + ["b"] * 3}, "group 'b' has fewer than 5 other images; ask for at most 2"),
        ({"method": "annoy"}, "no method 'annoy'"),
        ({"count": 0}, "0 is no number of neighbours"),
        ({"vectors": torch.ones(10, 4)}, "row 0 of the embeddings is not of unit length"),
        ({"vectors": unit_features(0, 10).index_fill(0, torch.tensor(3), float("nan"))}, "row 3 of the embeddings"),
    ],
)
def test_bad_input_is_one_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence):
        find_neighbors(**({"vectors": unit_features(0, 10), "count": 5} | change))


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
    metadata = PreparedDataset(prepared, "train").metadata
    shuffled = write(prepared, table.sample(frac=1, random_state=0))
    for name, samples in ((NEIGHBOR_FILE, metadata), (shuffled, metadata), (NEIGHBOR_FILE, metadata.iloc[::-1])):
        rows, ids = read_neighbors(prepared, samples, name), samples["id"].tolist()
        assert rows.shape == (10, 2) and rows.dtype == torch.int64
        for query, others in enumerate(rows.tolist()):  # the order of the metadata decides the rows
            listed = table[table["id"] == ids[query]].sort_values("rank")["neighbor"]
            assert [ids[other] for other in others] == listed.tolist()


def test_files_that_cannot_be_used_are_one_sentence(prepared, table):
    metadata = PreparedDataset(prepared, "train").metadata
    other, poor = PreparedDataset(prepared, "val").metadata["id"][0], metadata["id"][4]
    ghost = table.assign(neighbor=table["neighbor"].where(table.index != 3, "ghost"))
    abroad = table.assign(neighbor=table["neighbor"].where(table["id"] != metadata["id"][2], other))
    fewer, none = table[(table["id"] != poor) | (table["rank"] < 1)], table[table["id"] != poor]
    (prepared / "neighbors" / "torn.parquet").write_bytes(b"PAR1 and no more")
    for name, words in {
        "nowhere": "nowhere.parquet does not exist",
        "torn": "torn.parquet is no readable file of neighbours",
        write(prepared, ghost, "ghost"): "'ghost'",
        write(prepared, abroad, "abroad"): repr(other),
        write(prepared, fewer, "fewer"): repr(poor),
        write(prepared, none, "none"): repr(poor),
    }.items():
        with pytest.raises(InputError, match=words):
            read_neighbors(prepared, metadata, name)


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


def test_neighbours_of_another_embedding_are_refused(prepared):
    metadata = PreparedDataset(prepared, "train").metadata
    path, other = (
        prepared / "neighbors" / "named.parquet",
        Neighbors(torch.arange(10).roll(1)[:, None], torch.ones(10, 1)),
    )
    save_neighbors(path, metadata["id"], other, "pixels", "aaaa")
    assert read_neighbors(prepared, metadata, "named").shape == (10, 1)
    (prepared / "embeddings").mkdir()
    vectors = {"embeddings": torch.zeros(1, 1)}
    save_file(vectors, prepared / "embeddings" / "pixels.safetensors", {"weights_sha256": "aaaa"})
    read_neighbors(prepared, metadata, "named")
    save_file(vectors, prepared / "embeddings" / "pixels.safetensors", {"weights_sha256": "cccc"})
    with pytest.raises(InputError, match=r"was made from pixels \(aaaa\), not from pixels \(cccc\); find the neighb"):
        read_neighbors(prepared, metadata, "named")


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
    rows = read_neighbors(folder, metadata, "out")
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
