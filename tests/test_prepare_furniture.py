"""The furniture script, run on a tiny library that has the layout of the real ones."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from tiny_downloads import contents, stopped_after
from tiny_library import PACK, TRAIN_VARIANTS, write_library

from data_scripts import prepare_furniture
from data_scripts.sweethome import read_entries
from lib.data.images import read_sample_images
from lib.data.prepared import load_mesh, read_prepared
from lib.errors import InputError
from lib.paths import FURNITURE


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return write_library(tmp_path_factory.mktemp("library") / "tiny")


def arguments(library: Path, output: Path, workers: int = 1) -> list[str]:
    sizes = ["--image-size", "32", "--views", "3", "--variants", str(TRAIN_VARIANTS), "--workers", str(workers)]
    return ["--source", str(library.parent), "--models", str(library), "--output", str(output), *sizes]


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory) -> Path:
    """Prepared in one go by one process."""
    output = tmp_path_factory.mktemp("prepared") / "tiny"
    assert prepare_furniture.main(arguments(library, output)) == 0
    return output


# ---------------------------------------------------------------- the folder


def test_folder_is_whole_and_says_whose_models_it_shows(folder):
    prepared = read_prepared(folder)
    assert prepared.info["licence"].startswith("CC0-1.0")
    assert prepared.info["image_size"] == 32
    assert prepared.info["samples"] == len(prepared.metadata)
    counts = prepared.info["counts"]["chair"]
    assert counts == {"train": 3 * TRAIN_VARIANTS, "val": 2 * 2 * 3, "test": 2 * 2 * 3}
    makers = list(csv.DictReader((folder / "ATTRIBUTION.csv").open(encoding="utf-8")))
    assert {row["model"] for row in makers} == set(prepared.metadata.model)
    assert makers[0]["creator"] == "Mé Maker"
    assert (folder / f"licenses/{PACK}.txt").read_text() == "Public domain, says the test."
    assert {path.name for path in folder.parent.iterdir()} == {"tiny"}  # no scaffolding left
    assert set(contents(folder)) >= set(prepared.metadata.image) | set(prepared.metadata.normal)
    assert not {"parts", "unpacked"} & {path.name for path in folder.iterdir()}


def test_splits_keep_models_and_families_together(folder, library):
    table = read_prepared(folder).metadata
    assert (table.groupby("model").split.nunique() == 1).all()
    assert table.groupby("split").model.nunique().to_dict() == {"test": 2, "val": 2, "train": 3}
    twins = table[table.model.str.endswith(("chair6", "chair7"))]
    assert twins.split.nunique() == 1
    train = table[table.split == "train"]
    assert (train.groupby(["model", "stretch_x"]).size() == 1).all()  # one view an instance
    entries = read_entries(library.parent, library)
    assert prepare_furniture.assign_splits(entries) == prepare_furniture.assign_splits(entries[::-1])


def test_instances_of_a_model_differ_in_shape_colour_and_view(folder):
    prepared = read_prepared(folder)
    for _, group in prepared.metadata[prepared.metadata.split == "train"].groupby("model"):
        assert group.stretch_x.nunique() == group.azimuth.nunique() == TRAIN_VARIANTS
        colours = []
        for row in group.itertuples():
            rgb, mask, _ = read_sample_images(prepared.path(row.image))
            colours.append(rgb[mask == 255].mean(axis=0))
        distances = np.linalg.norm(np.subtract.outer(colours, colours).diagonal(axis1=1, axis2=3), axis=-1)
        assert distances[np.triu_indices(TRAIN_VARIANTS, 1)].min() > 5
    for _, views in prepared.metadata[prepared.metadata.split == "test"].groupby(["model", "stretch_x"]):
        assert len(views) == views.azimuth.nunique() == 3


def test_captions_say_what_the_model_has(folder):
    captions = read_prepared(folder).metadata.caption
    assert captions.str.contains("oak chair on four legs").all()


def brute_force_view(mesh: trimesh.Trimesh, row, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits (size, size) and camera-frame normals by Moeller-Trumbore on every face, with the stored camera."""
    azimuth, elevation = np.radians(row.azimuth), np.radians(row.elevation)
    away = np.array([-np.sin(azimuth) * np.cos(elevation), np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    right = np.array([-np.cos(azimuth), -np.sin(azimuth), 0.0])
    axes = np.stack([right, np.cross(-away, right), -away])  # camera x, y, z in the world
    grid = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid((grid - row.center_x) / row.focal_length, (grid - row.center_y) / row.focal_length)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ axes
    origin, depth = row.distance * away, np.full(len(rays), np.inf)
    normals = np.zeros_like(rays)
    for corner, edge1, edge2 in zip(
        mesh.triangles[:, 0], *(mesh.triangles[:, k] - mesh.triangles[:, 0] for k in (1, 2)), strict=True
    ):
        pvec = np.cross(rays, edge2)
        det = pvec @ edge1
        inverse = 1.0 / np.where(np.abs(det) < 1e-12, np.inf, det)
        tvec = origin - corner
        u, v = pvec @ tvec * inverse, rays @ np.cross(tvec, edge1) * inverse
        t = edge2 @ np.cross(tvec, edge1) * inverse
        nearer = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < depth) & (np.abs(det) > 1e-12)
        normal = np.cross(edge1, edge2) / np.linalg.norm(np.cross(edge1, edge2))
        depth[nearer], normals[nearer] = t[nearer], normal
    normals *= -np.sign(np.einsum("ni,ni->n", normals, rays))[:, None]
    return np.isfinite(depth).reshape(size, size), (normals @ axes.T).reshape(size, size, 3)


def check_reprojection(prepared, row, normal_limit: float) -> None:
    """Stored mask and normals against the stored mesh seen by the stored camera."""
    _, mask, normal = read_sample_images(prepared.path(row.image), None, prepared.path(row.normal))
    mesh = load_mesh(prepared, row)
    hit, expected = brute_force_view(mesh, row, len(mask))
    assert hit[mask == 255].mean() > 0.98
    assert hit[mask == 0].mean() < 0.005
    inside = hit & (mask == 255)
    cosine = np.einsum("hwi,hwi->hw", normal, expected)[inside]
    assert np.degrees(np.arccos(np.clip(np.median(cosine), -1, 1))) < normal_limit
    rows, columns = np.nonzero(mask)
    sides = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert abs(max(sides) * 1.2 - len(mask)) <= 2.5  # the crop: 1.2 x the larger side of the box
    assert abs(rows.min() + rows.max() + 1 - len(mask)) <= 2.5
    assert abs(columns.min() + columns.max() + 1 - len(mask)) <= 2.5


def test_images_agree_with_the_stored_mesh_and_camera(folder):
    prepared = read_prepared(folder)
    for row in prepared.metadata.groupby("split").head(2).itertuples():
        check_reprojection(prepared, row, normal_limit=1.0)


@pytest.mark.skipif(not FURNITURE.is_dir(), reason="the built-in data is not there")
def test_built_in_images_agree_with_their_meshes():
    prepared = read_prepared(FURNITURE)
    table = prepared.metadata[prepared.metadata.model.str.contains("chair3|table4|sofa3|bed3|lamp1|kids-shelves|suv")]
    for row in table.groupby("category").head(1).itertuples():
        check_reprojection(prepared, row, normal_limit=6.0)


@pytest.mark.skipif(not FURNITURE.is_dir(), reason="the built-in data is not there")
def test_built_in_data_is_what_the_course_promises():
    prepared = read_prepared(FURNITURE)
    assert {"chair", "table", "sofa", "bed", "lamp", "shelf", "car"} <= set(prepared.metadata.category)
    assert sum(path.stat().st_size for path in FURNITURE.rglob("*") if path.is_file()) < 36e6
    assert (prepared.metadata.groupby("model").split.nunique() == 1).all()
    share = prepared.metadata.groupby("split").model.nunique() / prepared.metadata.model.nunique()
    assert abs(share["train"] - 0.7) < 0.03
    assert abs(share["test"] - 0.2) < 0.03
    makers = list(csv.DictReader((FURNITURE / "ATTRIBUTION.csv").open(encoding="utf-8")))
    assert {row["model"] for row in makers} == set(prepared.metadata.model)
    assert all(row["creator"] and row["licence"].startswith("CC") for row in makers)


def test_it_loads_in_hugging_face_datasets(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path))
    table = read_prepared(folder).metadata
    assert rows["id"][:] == table.id.tolist()
    rows = rows.map(lambda row: {"image": f"{folder}/{row['image']}"}).cast_column("image", datasets.Image())
    assert rows[0]["image"].size == (32, 32)
    assert rows[0]["image"].mode == "RGBA"


# ---------------------------------------------------------------- the run


def test_killed_run_goes_on_and_two_workers_give_the_same_bytes(folder, library, tmp_path):
    output, partial = tmp_path / "tiny", tmp_path / "tiny.partial"
    command = [sys.executable, prepare_furniture.__file__, *arguments(library, output, workers=2)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(partial.glob("parts/*.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    kept = {path: path.stat().st_mtime_ns for path in partial.glob("parts/*.json")}
    assert kept
    assert prepare_furniture.main(arguments(library, output)) == 0
    assert contents(output) == contents(folder)


def test_other_settings_do_not_go_on_with_old_work(library, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare_furniture, "prepare_model", stopped_after(0, prepare_furniture.prepare_model))
    command = arguments(library, tmp_path / "tiny")
    assert prepare_furniture.main(command) == 130
    before = contents(tmp_path / "tiny.partial")
    assert prepare_furniture.main([*command, "--seed", "7"]) == 2
    assert "holds unfinished work with seed 0 instead of 7" in capsys.readouterr().err
    assert contents(tmp_path / "tiny.partial") == before != {}
    assert prepare_furniture.main(command) == 130  # the old settings go on


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--source", "/nowhere"], "apt-get download sweethome3d-furniture"),
        (["--categories", "chair,boat"], "There is no category 'boat' here; --categories takes chair"),
        (["--models", "/nowhere.csv"], "There is no list of models /nowhere.csv"),
    ],
)
def test_wrong_options_are_one_sentence(library, tmp_path, capsys, change, words):
    assert prepare_furniture.main([*arguments(library, tmp_path / "out"), *change]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert list(tmp_path.iterdir()) == []


def test_damaged_libraries_are_refused(library, tmp_path, capsys):
    shutil.copytree(library.parent, tmp_path / "tiny")
    pack = tmp_path / "tiny" / f"{PACK}.sh3f"
    pack.write_bytes(pack.read_bytes()[:-100])
    assert prepare_furniture.main(arguments(tmp_path / "tiny/models.csv", tmp_path / "out")) == 2
    assert "is not a whole Sweet Home 3D library" in capsys.readouterr().err
    (tmp_path / "empty.csv").write_text(library.read_text().splitlines()[0] + "\n")
    assert prepare_furniture.main([*arguments(library, tmp_path / "out"), "--models", str(tmp_path / "empty.csv")]) == 2
    assert "empty.csv lists no models" in capsys.readouterr().err
    pack.unlink()
    with pytest.raises(InputError, match="sh3f is missing"):
        read_entries(tmp_path / "tiny", library)
