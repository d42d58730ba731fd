"""The ShapeNet script, run on tiny folders that have the two official layouts, with seeded defects."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from tiny_cad import (
    chair,
    mask_overlap,
    matched,
    photograph,
    projected,
    save,
    view_of,
    write_obj,
)
from tiny_downloads import check_rejected, download, rejected, runner

from data_scripts import prepare_shapenet
from data_scripts.cad_sizes import unit_cube_notes
from data_scripts.jobs import count_notes
from lib.data.images import read_sample_images
from lib.data.prepared import load_mesh, read_prepared

V1 = np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]])  # y up, the front towards +x
V2 = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up, the front towards -z
CHAIR, LAMP = "03001627", "03636649"
LISTS = {"train": ("aa", "bb"), "val": ("cc",), "test": ("dd",)}
MODELS = [name for names in LISTS.values() for name in names]
FOCAL, DISTANCE = 0.5 / np.tan(np.radians(15)), 2.732


def unit(mesh: trimesh.Trimesh) -> np.ndarray:
    return (mesh.vertices - mesh.bounds.mean(axis=0)) / mesh.extents.max()


def world_mat(view: int) -> np.ndarray:
    """Camera 30 degrees above the ground, at the front (+x) first, then every 15 degrees to the left (-z)."""
    around = np.radians(15 * view)
    out = np.array([np.cos(around) * np.cos(np.pi / 6), 0.5, -np.sin(around) * np.cos(np.pi / 6)])
    right = np.cross(-out, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = right, np.cross(-out, right), -out
    matrix[:3, 3] = 0, 0, DISTANCE
    return matrix


def take_image(number: int, view: int) -> tuple[np.ndarray, np.ndarray]:
    matrix = world_mat(view)

    def ray(x, y):
        inside = np.stack([x / 64 - 0.5, y / 64 - 0.5, np.full(len(x), FOCAL)], axis=1)
        return -matrix[:3, 3] @ matrix[:3, :3], inside @ matrix[:3, :3]

    return photograph(unit(chair(number)) @ V1, chair(number).faces, ray, (64, 64))


def write_renderings(folder: Path) -> Path:
    for number, name in enumerate(MODELS):
        place = folder / CHAIR / name
        for view in range(24):
            rgb, mask = take_image(number, view)
            save(rgb, place / f"image/{view:04d}.png")
            save(mask, place / f"mask/{view:04d}.png")
        np.savez(place / "cameras.npz", **{f"world_mat_{view}": world_mat(view) for view in range(24)})
    for split, names in LISTS.items():
        (folder / CHAIR / f"softras_{split}.lst").write_text("\n".join(names))
    return folder


def write_cores(folder: Path, turn: np.ndarray, file: str, synset: str = CHAIR, names=tuple(MODELS)) -> Path:
    for number, name in enumerate(names):
        write_obj(chair(number), folder / synset / name / file, turn)
    return folder


run = runner(prepare_shapenet, "--workers", "1")
source, _, damaged = download(write_renderings, run)


@pytest.fixture(scope="module")
def cores(tmp_path_factory):
    return write_cores(tmp_path_factory.mktemp("core") / "ShapeNetCore.v1", V1, "model.obj")


@pytest.fixture(scope="module")
def folder(source, cores, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "shapenet"
    assert run(source, output, "--views", "3", "--models", str(cores)) == 0
    return output


def test_lists_decide_on_the_split_and_views_are_drawn(folder, source, tmp_path):
    table = read_prepared(folder).metadata
    assert table.groupby(["model", "split"]).size().to_dict() == {
        (f"{CHAIR}-{name}", split): 3 if split == "train" else 1 for split, names in LISTS.items() for name in names
    }
    assert rejected(folder) == {}
    assert run(source, tmp_path / "one", "--views", "1") == 0
    one = read_prepared(tmp_path / "one").metadata
    assert len(one) == 4
    assert set(one["id"]) <= set(table["id"])  # the single view is one of the three
    assert one["mesh"].isna().all()
    assert run(source, tmp_path / "all") == 0
    assert len(read_prepared(tmp_path / "all").metadata) == 2 * 24 + 2


def test_cameras_are_those_of_the_source(folder):
    prepared = read_prepared(folder)
    for row in prepared.metadata.itertuples():
        number, view = MODELS.index(row.model[-2:]), int(row.id[-2:])
        mesh = trimesh.Trimesh(unit(chair(number)), chair(number).faces, process=False)
        points = matched(load_mesh(prepared, row), mesh) @ V1
        x, y, z = (world_mat(view)[:3, :3] @ points.T) + world_mat(view)[:3, 3:]
        theirs = np.stack([FOCAL * x / z + 0.5, FOCAL * y / z + 0.5], axis=1)
        assert np.abs(projected(prepared, row) - theirs).max() < 1e-4
        assert mask_overlap(prepared, row) > 0.99
        assert abs((row.azimuth - 15 * view + 180) % 360 - 180) < 1e-3
        assert row.elevation == pytest.approx(30, abs=1e-3)
        assert row.distance == pytest.approx(DISTANCE)
    assert prepared.info["silhouette_overlap"]["lowest"] > 0.99


def test_images_are_used_whole(folder, source):
    prepared = read_prepared(folder)
    row = prepared.metadata.iloc[0]
    rgb, mask, _ = read_sample_images(prepared.path(row["image"]))
    place = source / CHAIR / row["model"][-2:]
    theirs = np.asarray(Image.open(place / "mask" / f"00{row['id'][-2:]}.png"))
    np.testing.assert_array_equal(mask, theirs)
    colours = np.asarray(Image.open(place / "image" / f"00{row['id'][-2:]}.png"))
    np.testing.assert_array_equal(rgb[mask == 255], colours[mask == 255])
    assert (rgb[mask == 0] == 255).all()


def test_bad_samples_are_listed_and_the_rest_goes_on(damaged, tmp_path):
    place = damaged / CHAIR
    ids = {name: f"{prepare_shapenet.generator(CHAIR, name).permutation(24)[0]:04d}.png" for name in (*MODELS, "ee")}
    shutil.copytree(place / "bb", place / "ee")
    (place / "aa/cameras.npz").write_bytes((place / "aa/cameras.npz").read_bytes()[:100])
    (place / "bb/mask" / ids["bb"]).unlink()
    np.savez(place / "cc/cameras.npz", **{f"world_mat_{v}": 2 * world_mat(v) for v in range(24)})
    aside = np.eye(4)
    aside[0, 3] = 0.5
    np.savez(place / "dd/cameras.npz", **{f"world_mat_{v}": aside @ world_mat(v) for v in range(24)})
    shutil.copytree(place / "aa", place / "été")
    with (place / "softras_test.lst").open("a", encoding="utf-8") as file:
        file.write("\nzz\n")
    (damaged / "readme.txt").write_text("x")
    (place / "softras_val.lst").write_text("cc\nee\n")
    assert run(damaged, tmp_path / "out", "--views", "1") == 0
    words = {
        ids["aa"]: "is missing, damaged, or lacks view",
        ids["bb"]: "mask",
        ids["cc"]: "no rotation",
        ids["dd"]: "does not look at the model",
        "zz": "the folder is missing",
        "été": "no list names it.",
    }
    check_rejected(tmp_path / "out", words)
    assert list(read_prepared(tmp_path / "out").metadata["model"]) == [f"{CHAIR}-ee"]


def test_models_that_do_not_load_cost_their_images_only(source, cores, tmp_path):
    shutil.copytree(cores, tmp_path / "cores")
    (tmp_path / "cores" / CHAIR / "aa/model.obj").write_text("v 0 0 0\n")
    shutil.rmtree(tmp_path / "cores" / CHAIR / "bb")
    assert run(source, tmp_path / "out", "--views", "1", "--models", str(tmp_path / "cores")) == 0
    reasons = rejected(tmp_path / "out").values()
    assert sorted("missing" in reason for reason in reasons) == [False, True]
    assert len(read_prepared(tmp_path / "out").metadata) == 2


def test_models_out_of_the_unit_cube_are_noted(folder):
    (note,) = (note for note in read_prepared(folder).info["notes"] if "unit cube" in note)
    start = (
        f"4 of 4 CAD models, such as {CHAIR}-cc, do not fit the unit cube about the origin that their source promises"
    )
    assert note.startswith(f"{start}, but one of 3.65: ")
    fits = {"model": "a", "reach": 0.8, "longest": 0.8}
    aside = {"model": "b", "reach": 1.6, "longest": 0.8}  # right in size, but not about the origin
    assert unit_cube_notes([fits], centred=True) == unit_cube_notes([fits, aside], centred=False) == []
    assert unit_cube_notes([fits, aside], centred=True)[0].startswith("1 of 2 CAD models, such as b, do not fit")
    (note,) = unit_cube_notes([fits, {"model": "c", "reach": 9.0, "longest": 3.0}], centred=False)
    assert note.startswith(
        "1 of 2 CAD models, such as c, do not fit the unit cube that their source promises, but one of 3:"
    )


def test_models_are_counted():
    rows = [{"category": name, "model": name, "split": "train"} for name in prepare_shapenet.NAMES.values()]
    assert prepare_shapenet.count_models(rows)[0] == "13 categories, train: 13 models; the papers have 30643."
    assert len(prepare_shapenet.count_models(rows)) == 3
    assert prepare_shapenet.count_models(rows[1:]) == []
    assert count_notes(rows, {("chair", "train"): 1, ("lamp", "train"): 2})[0].startswith("lamp, train: 1 samples")


@pytest.mark.parametrize(("turn", "file"), [(V1, "model.obj"), (V2, "models/model_normalized.obj")])
def test_cad_models_are_drawn_in_the_right_frame(tmp_path, turn, file):
    source = write_cores(tmp_path / "ShapeNetCore", turn, file)
    write_cores(source, turn, file, LAMP, ("aa",))
    taxonomy = [{"synsetId": LAMP, "name": "lamp"}, {"synsetId": "02747177", "name": "ashcan,trash can"}]
    write_cores(source, turn, file, "02747177", ("öö",))
    (source / "taxonomy.json").write_text(json.dumps(taxonomy))
    (source / CHAIR / "notes").mkdir()
    assert run(source, tmp_path / "out", "--most", "3") == 0
    prepared = read_prepared(tmp_path / "out")
    assert prepared.metadata["category"].value_counts().to_dict() == {"chair": 3, "lamp": 1, "ashcan": 1}
    assert rejected(tmp_path / "out") == {"notes": "it has no model.obj.", CHAIR: "1 models are over --most 3."}
    names = {f"{CHAIR}-{name}": number for number, name in enumerate(MODELS)}
    for row in prepared.metadata.itertuples():
        number = names.get(row.model, 0)
        matched(load_mesh(prepared, row), chair(number))  # as it was in the world frame, vertex by vertex
        assert mask_overlap(prepared, row) > 0.95
        assert 20 <= row.elevation <= 40
        assert row.distance == pytest.approx(2.732)
        _, mask, normal = read_sample_images(prepared.path(row.image), None, prepared.path(row.normal))
        inside = normal[mask == 255]
        assert inside[:, 2].mean() < -0.3  # towards the camera
        in_world = inside @ view_of(row).rotation()[0].numpy()
        assert (np.abs(in_world).max(axis=1) > 0.99).mean() > 0.8  # boxes have six directions
