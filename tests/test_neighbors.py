"""Semantic neighbours: exact, never of the query's own model, and checked when they are read."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import write_prepared

from lib.data.loading import PreparedDataset
from lib.data.neighbors import NEIGHBOR_FILE, image_features, nearest, read_neighbors, write_neighbors
from lib.errors import InputError


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
