"""The Pix3D script, run on a tiny folder that has the official layout, with seeded defects."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from tiny_cad import (
    box_of,
    chair,
    cropped,
    homography_error,
    mask_overlap,
    matched,
    photograph,
    projected,
    resize,
    save,
    write_obj,
)
from tiny_downloads import check_rejected, contents, download, rejected, runner, stopped_after

from data_scripts import cad_models, photo_sets, prepare_pix3d
from lib.data.prepared import load_mesh, read_prepared
from lib.geometry.cameras import Viewpoint

SIZE = (320, 240)
TURN = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # their x is to the left and y up; the front towards -z
MODELS = {"IKEA_BÖRJE/börje": 1, "SS_002/model": 2, "SS_003/model": 3}
PHOTOS = 3  # a model


def pose(number: int, photo: int) -> tuple[np.ndarray, np.ndarray, float]:
    """rot_mat, trans_mat and focal length; the first photo of a model is from the front, level and in the middle."""
    if photo == 0:
        return np.eye(3), np.array([0.0, 0.0, 4.0]) - chair(number).bounds.mean(axis=0) @ TURN, 40.0
    rng = np.random.default_rng([number, photo])
    turn = Rotation.from_euler("zxy", [rng.uniform(-8, 8), -rng.uniform(5, 30), rng.uniform(-60, 60)], degrees=True)
    return turn.as_matrix(), np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.8, 0.0), rng.uniform(4, 6)]), 42.0


def source_pixels(points: np.ndarray, rotation: np.ndarray, translation: np.ndarray, focal: float) -> np.ndarray:
    """As Blender draws it: a camera at the origin that looks along +z, x to the left, y up, film 32 mm wide."""
    x, y, z = (points @ rotation.T + translation).T
    return np.stack([SIZE[0] / 2 - focal / 32 * SIZE[0] * x / z, SIZE[1] / 2 - focal / 32 * SIZE[0] * y / z], axis=1)


def write_pix3d(folder: Path) -> Path:
    rows = []
    for name, number in MODELS.items():
        mesh = chair(number)
        vertices = write_obj(mesh, folder / f"model/chair/{name}.obj", TURN)
        for photo in range(PHOTOS):
            rotation, translation, focal = pose(number, photo)

            def ray(x, y, rotation=rotation, translation=translation, pixels=focal / 32 * SIZE[0]):
                inside = np.stack([SIZE[0] / 2 - x, SIZE[1] / 2 - y, np.full(len(x), pixels)], axis=1)
                return -translation @ rotation, inside @ rotation

            rgb, mask = photograph(vertices, mesh.faces, ray, SIZE)
            index = f"{number}{photo:03d}"
            image = f"img/chair/{index}.{'jpg' if photo == 1 else 'png'}"
            save(rgb, folder / image)
            save(mask, folder / f"mask/chair/{index}.png")
            rows.append({
                "img": image, "category": "chair", "img_size": list(SIZE), "mask": f"mask/chair/{index}.png",
                "model": f"model/chair/{name}.obj", "rot_mat": rotation.tolist(), "trans_mat": translation.tolist(),
                "focal_length": focal, "bbox": box_of(mask), "truncated": False, "occluded": False,
                "slightly_occluded": False, "voxel": "", "img_source": "ikea", "inplane_rotation": 0.0,
            })  # fmt: skip
    (folder / "pix3d.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


run = runner(prepare_pix3d, "--image-size", "64", "--workers", "1")
source, folder, damaged = download(write_pix3d, run)


def edit(folder: Path, change) -> Path:
    """Change the annotations."""
    rows = json.loads((folder / "pix3d.json").read_text(encoding="utf-8"))
    change({Path(row["img"]).stem: row for row in rows}, rows)
    (folder / "pix3d.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_every_photo_has_its_row(folder):
    prepared = read_prepared(folder)
    assert len(prepared.metadata) == len(MODELS) * PHOTOS
    assert set(prepared.metadata["model"]) == {"chair-IKEA_BÖRJE-börje", "chair-SS_002-model", "chair-SS_003-model"}
    assert (prepared.metadata.groupby("model")["split"].nunique() == 1).all()
    assert prepared.info["licence"] == "CC-BY 4.0"
    assert "CVPR 2018" in prepared.info["citation"]
    assert prepared.info["image_size"] == 64
    assert rejected(folder) == {}


def test_cameras_are_those_of_the_source(source, folder):
    """Vertices in the converted view lie where the source's camera puts them, and the mesh fills the mask."""
    prepared = read_prepared(folder)
    for row in prepared.metadata.itertuples():
        number, photo = int(row.id[-4]), int(row.id[-3:])
        points = matched(load_mesh(prepared, row), chair(number)) @ TURN
        photo_mask = photo_sets.open_mask(source / f"mask/chair/{row.id[-4:]}.png")
        theirs, ours = cropped(source_pixels(points, *pose(number, photo)), photo_mask), projected(prepared, row)
        # an object off the photo's middle is seen at a slant, which only a homography undoes
        assert np.abs(ours - theirs).max() < (1e-4 if photo == 0 else 0.03)
        assert homography_error(ours, theirs) < 1e-4
        assert mask_overlap(prepared, row) > (0.95 if photo == 0 else 0.85)
    assert prepared.info["silhouette_overlap"]["lowest"] == pytest.approx(
        min(mask_overlap(prepared, row) for row in prepared.metadata.itertuples()), abs=1e-3
    )
    assert 1e-3 < prepared.info["camera_error"]["highest"] < 0.03


def test_an_object_that_is_not_turned_is_seen_from_the_front(folder):
    table = read_prepared(folder).metadata.set_index("id")
    for number in MODELS.values():
        row = table.loc[f"chair-{number}000"]
        assert abs((row["azimuth"] + 180) % 360 - 180) < 0.1
        assert abs(row["elevation"]) < 0.1
        assert abs(row["tilt"]) < 0.1


def test_meshes_lie_in_the_unit_cube_with_the_front_towards_y(folder):
    prepared = read_prepared(folder)
    for row in prepared.metadata.drop_duplicates("model").itertuples():
        mesh = load_mesh(prepared, row)
        stored = cad_models.read_mesh(prepared.path(row.mesh))
        np.testing.assert_allclose(stored.bounds.sum(axis=0), 0, atol=1e-6)
        assert stored.extents.max() == pytest.approx(1)
        back = mesh.vertices[mesh.vertices[:, 2] > 0.4]
        assert back[:, 1].max() < 0  # the back is behind, the arm on the left
        arm = mesh.triangles_center[(mesh.triangles_center[:, 1] > 0) & (mesh.triangles_center[:, 2] > 0)]
        assert (arm[:, 0] > 0).all()


def test_hidden_objects_are_left_out_and_listed(damaged, tmp_path):
    def hide(by_name, rows):
        by_name["1000"]["truncated"] = True
        by_name["1001"]["occluded"] = "true"
        by_name["2000"]["slightly_occluded"] = True
        by_name["2001"]["occluded"] = "false"

    assert run(edit(damaged, hide), tmp_path / "out") == 0
    found = rejected(tmp_path / "out")
    assert found == {
        "1000.png": "the object is truncated.",
        "1001.jpg": "the object is occluded.",
        "2000.png": "the object is slightly occluded.",
    }
    assert len(read_prepared(tmp_path / "out").metadata) == len(MODELS) * PHOTOS - 3


def write_lists(folder: Path, train: str, val: str, test: str) -> Path:
    folder.mkdir()
    for split, names in (("train", train), ("val", val), ("test", test)):
        (folder / f"chair_{split}.txt").write_text("\n".join(names.split()) + "\n")
    return folder


def test_lists_decide_on_the_split(source, tmp_path, capsys):
    lists = write_lists(tmp_path / "lists", "1000 1001 2000 9999", "1002 2001", "3000 3001")
    assert run(source, tmp_path / "out", "--lists", str(lists), "--categories", "chair") == 0
    table = read_prepared(tmp_path / "out").metadata.set_index("id")["split"]
    assert table.to_dict() == {
        f"chair-{name}": split
        for split, names in (("train", "1000 1001 2000"), ("val", "1002 2001"), ("test", "3000 3001"))
        for name in names.split()
    }
    found = rejected(tmp_path / "out")
    assert found["9999"] == "a list names it, pix3d.json does not."
    assert found["2002.png"] == found["3002.png"] == "no list names it."
    out = capsys.readouterr().out
    assert "chair, train: 3 samples; the paper has 2007" in out
    assert "pix3d.json has 9 annotations, the full release 10069" in out
    notes = read_prepared(tmp_path / "out").info["notes"]
    assert [note in out for note in notes] == [True] * 4


DEFECTS = {
    "3002.png": ("another size", lambda d, r: save(np.full((20, 20), 255, np.uint8), d / "mask/chair/3002.png")),
    "1000.png": ("mask 1000.png is missing", lambda d, r: (d / "mask/chair/1000.png").unlink()),
    "1001.jpg": ("outside the photo", lambda d, r: r["1001"].update(bbox=[500, 10, 600, 60])),
    "1002.png": ("different objects", lambda d, r: r["1002"].update(bbox=[0, 0, 5, 5])),
    "2000.png": ("the file is missing", lambda d, r: (d / "img/chair/2000.png").unlink()),
    "2001.jpg": ("lacks an entry", lambda d, r: r["2001"].pop("rot_mat")),
    "2002.png": ("lacks an entry", lambda d, r: r["2002"].update(rot_mat=(2 * np.eye(3)).tolist())),
    "3000.png": ("behind it", lambda d, r: r["3000"].update(trans_mat=[0, 0, -4])),
}


def test_bad_samples_are_listed_and_the_rest_goes_on(damaged, tmp_path):
    def spoil(by_name, rows):
        for _, change in DEFECTS.values():
            change(damaged, by_name)

    edit(damaged, spoil)
    save(np.zeros((40, 40, 3), np.uint8), damaged / "img/chair/fêrien.png")
    assert run(damaged, tmp_path / "out") == 0
    check_rejected(tmp_path / "out", {name: words for name, (words, _) in DEFECTS.items()} | {"fêrien.png": "not name"})
    assert list(read_prepared(tmp_path / "out").metadata["id"]) == ["chair-3001"]


@pytest.mark.parametrize("img", [None, 7, [], "", {"a": 1}])
def test_rows_that_name_no_photo_are_listed(damaged, tmp_path, img, capsys):
    def spoil(by_name, rows):
        by_name["1001"]["img"] = img
        del by_name["2000"]["img"]
        rows.append(None)

    assert run(edit(damaged, spoil), tmp_path / "out") == 0
    places = {f"pix3d.json, entry {number} (from 0)" for number in (1, 3, 9)}
    found = rejected(tmp_path / "out")
    assert found == {
        **dict.fromkeys(places, "its entry 'img' names no photo."),
        **dict.fromkeys(("1001.jpg", "2000.png"), "pix3d.json does not name it."),
    }
    assert len(read_prepared(tmp_path / "out").metadata) == len(MODELS) * PHOTOS - 2
    assert "pix3d.json has 10 annotations" in capsys.readouterr().out


@pytest.mark.parametrize("value", [None, "x", {"a": 1}])
def test_entries_of_another_kind_cost_their_photo_only(damaged, tmp_path, value):
    entries = ("mask", "model", "bbox", "img_size", "focal_length", "rot_mat", "trans_mat")

    def spoil(by_name, rows):
        for row, entry in zip(rows, entries, strict=False):
            row[entry] = value

    assert run(edit(damaged, spoil), tmp_path / "out", "--categories", "chair") == 0
    assert len(rejected(tmp_path / "out")) == len(entries)
    assert list(read_prepared(tmp_path / "out").metadata["id"]) == ["chair-3001", "chair-3002"]


def write(content: str):
    return lambda path: path.write_text(content)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (Path.unlink, "börje.obj is missing"),
        (write("v 0 0 0\nf 1 2 3\n"), "börje.obj"),
        (write(""), "börje.obj"),
        (write("v 0 0 0\nv 0 0 0\nv 0 0 0\nf 1 2 3\n"), "no surface"),
        (write("v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n"), "not finite"),
        (lambda path: resize(path, 100), "long, and the annotated camera"),
        (lambda path: resize(path, 3), "3 times as large as the annotated box"),
        (lambda path: resize(path, 0.2), "0.2 times as large as the annotated box"),
    ],
)
def test_models_that_do_not_load_or_fit_cost_their_photos_only(damaged, tmp_path, change, words):
    change(damaged / "model/chair/IKEA_BÖRJE/börje.obj")
    assert run(damaged, tmp_path / "out") == 0
    found = rejected(tmp_path / "out")
    assert found.keys() == {"1000.png", "1001.jpg", "1002.png"}
    for reason in found.values():
        assert reason.startswith("The CAD model börje.obj ")
        assert all(word in reason for word in words.split(" ") if not word[0].isdigit())
        assert "not in the same units." in reason or "annotated" not in words


def test_processes_and_interruptions_give_the_same_bytes(source, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_sets, "cut_out", stopped_after(5, photo_sets.cut_out))
    assert run(source, tmp_path / "out") == 130
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.partial/parts").glob("chair*.json"))) == 1
    monkeypatch.undo()
    assert run(source, tmp_path / "out", "--workers", "2") == 0
    assert contents(tmp_path / "out") == contents(folder)


def test_a_photo_in_two_lists_is_one_sentence(source, tmp_path, capsys):
    lists = write_lists(tmp_path / "lists", "1000", "1000", "1001")
    assert run(source, tmp_path / "out", "--lists", str(lists)) == 2
    assert "chair_val.txt names 1000, and so does chair_train.txt" in capsys.readouterr().err


def test_angles_of_turns_a_rotation_back():
    angles = torch.tensor([[0.3, -2.0, 3.0], [0.2, -1.0, 1.2], [0.1, 2.5, -0.4]], dtype=torch.float64)
    rotations = Viewpoint.from_angles(*angles).rotation().numpy()
    for rotation, expected in zip(rotations, angles.T.rad2deg().tolist(), strict=True):
        assert cad_models.angles_of(rotation) == pytest.approx(expected)


def test_without_lists_only_the_total_is_compared(folder):
    notes = read_prepared(folder).info["notes"]
    assert [note.split(";")[0] for note in notes] == [
        "chair: 9 samples",
        "pix3d.json has 9 annotations, the full release 10069",
    ]
