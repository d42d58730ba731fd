"""The prepared folder: what is written is read back, and what is not whole is refused in one sentence."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import trimesh
from PIL import Image

from lib.data.prepared import COLUMNS, INFO, METADATA, load_mesh, read_prepared, sha256, write_metadata
from lib.errors import InputError

INFO_GIVEN = {"name": "tiny", "source": "a test", "licence": "CC0-1.0", "version": "1", "image_size": 8}


def rows() -> list[dict]:
    full = {
        "category": "box", "model": "a", "image": "images/a.png", "mesh": "meshes/a.ply",
        "stretch_x": 0.5, "stretch_y": 1.0, "stretch_z": 1.2,
        "azimuth": 10.0, "elevation": 20.0, "tilt": 0.0, "distance": 5.0,
        "focal_length": 4.0, "center_x": 0.5, "center_y": 0.5, "caption": "a box",
    }  # fmt: skip
    bare = {"id": "b-0", "category": "box", "model": "b", "split": "test", "image": "images/b.png"}
    return [{"id": "a-0", "split": "train", **full}, bare]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    for name in ("images", "meshes"):
        (folder / name).mkdir(parents=True)
    for name in "ab":
        Image.new("RGBA", (8, 8)).save(folder / f"images/{name}.png")
    trimesh.creation.box((1.0, 0.8, 0.5)).export(folder / "meshes/a.ply")
    write_metadata(folder, rows(), INFO_GIVEN)
    return folder


def rewrite(folder: Path, table: pd.DataFrame) -> None:
    """Put another table in place, with its checksum, as another tool would."""
    table.to_parquet(folder / METADATA)
    info = json.loads((folder / INFO).read_text())
    info["metadata_sha256"] = sha256(folder / METADATA)
    (folder / INFO).write_text(json.dumps(info))


def refused(folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_prepared(folder)
    assert "\n" not in str(caught.value)


def test_what_is_written_is_read_back(folder):
    prepared = read_prepared(folder)
    assert list(prepared.metadata) == list(COLUMNS)
    first, second = prepared.metadata.itertuples()
    assert (first.azimuth, first.stretch_z, first.caption) == (10.0, 1.2, "a box")
    assert second.mesh is None
    assert np.isnan(second.azimuth)
    assert prepared.info["counts"] == {"box": {"train": 1, "val": 0, "test": 1}}
    assert prepared.info["name"] == "tiny"
    assert set(prepared.info["columns"]) == set(COLUMNS)
    assert prepared.path(first.image).is_file()


def test_mesh_is_stretched_then_centred_with_longest_side_one(folder):
    prepared = read_prepared(folder)
    mesh = load_mesh(prepared, prepared.metadata.iloc[0])
    sides = np.array([1.0 * 0.5, 0.8 * 1.0, 0.5 * 1.2])
    assert np.allclose(mesh.extents, sides / sides.max(), atol=1e-6)
    assert np.allclose(mesh.bounds.sum(axis=0), 0.0, atol=1e-6)
    with pytest.raises(InputError, match="b-0 of .* has no mesh"):
        load_mesh(prepared, prepared.metadata.iloc[1])
    (folder / "meshes/a.ply").write_bytes(b"ply\nformat ascii 1.0\n")
    with pytest.raises(InputError, match="a.ply cannot be read"):
        load_mesh(prepared, prepared.metadata.iloc[0])


def test_missing_and_partial_folders_are_refused(folder, tmp_path):
    refused(tmp_path / "nowhere", "There is no prepared folder .*nowhere")
    for name in ("images/b.png", METADATA, INFO):
        (folder / name).unlink()
        refused(folder, f"is partial: {name} is missing")


def test_changed_or_damaged_tables_are_refused(folder):
    content = (folder / METADATA).read_bytes()
    (folder / METADATA).write_bytes(content[:-1] + b"x")
    refused(folder, "does not fit the checksum")
    (folder / METADATA).write_bytes(content[: len(content) // 2])
    info = json.loads((folder / INFO).read_text())
    (folder / INFO).write_text(json.dumps({**info, "metadata_sha256": sha256(folder / METADATA)}))
    refused(folder, "is no readable parquet file")
    (folder / INFO).write_text("{}")
    refused(folder, "does not fit the checksum")
    (folder / INFO).write_text("{")
    refused(folder, "is not valid JSON")


@pytest.mark.parametrize("column", list(COLUMNS))
def test_each_missing_column_is_named(folder, column):
    rewrite(folder, pd.read_parquet(folder / METADATA).drop(columns=column))
    refused(folder, f"has no column '{column}'")


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("azimuth", ["ten", "nine"], "column 'azimuth' of .* must hold finite numbers"),
        ("azimuth", [True, False], "column 'azimuth' of .* must hold finite numbers"),
        ("elevation", [np.inf, 0.0], "column 'elevation' of .* must hold finite numbers"),
        ("caption", [1.5, 2.0], "column 'caption' of .* must hold text"),
        ("category", [1, 2], "column 'category' of .* must hold text"),
        ("model", ["a", None], "column 'model' of .* has missing values"),
        ("split", ["train", "dev"], "has the split 'dev'"),
        ("id", ["a-0", "a-0"], "has the id 'a-0' twice"),
        ("image", ["images/a.png", "../b.png"], "names '../b.png', which is outside the folder"),
        ("image", ["images/a.png", "/etc/hostname"], "which is outside the folder"),
        ("normal", [None, "normals/b.png"], "is partial: normals/b.png is missing"),
    ],
)
def test_wrong_values_are_named(folder, column, values, words):
    rewrite(folder, pd.read_parquet(folder / METADATA).assign(**{column: values}))
    refused(folder, words)


def test_empty_tables_are_refused(folder):
    rewrite(folder, pd.read_parquet(folder / METADATA).iloc[:0])
    refused(folder, "has no rows")


def test_nothing_is_written_for_rows_that_are_wrong(folder):
    before = {name: (folder / name).read_bytes() for name in (METADATA, INFO)}
    bad = rows()
    bad[1]["image"] = "images/none.png"
    with pytest.raises(InputError, match="images/none.png is missing"):
        write_metadata(folder, bad, INFO_GIVEN)
    assert before == {name: (folder / name).read_bytes() for name in (METADATA, INFO)}


def test_hugging_face_datasets_reads_the_table(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows["id"][:] == read_prepared(folder).metadata["id"].tolist()
