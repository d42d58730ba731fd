"""The Pascal3D+ script, run on a tiny folder that has the official layout, with seeded defects."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.io import savemat
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
)
from tiny_downloads import check_rejected, contents, download, rejected, runner

from data_scripts import prepare_pascal3d
from lib.data.images import read_sample_images
from lib.data.prepared import load_mesh, read_prepared

SIZE = (220, 180)
TURN = np.diag([-1.0, -1.0, 1.0])  # their front is towards -y
CADS = 2
VIEWPORT = 3000.0
# of each photo: azimuth, elevation, theta, distance, px, py
VIEWS = {
    "n01_1": (0.0, 0.0, 0.0, 60.0, 110.0, 90.0),
    "n01_2": (90.0, 0.0, 0.0, 70.0, 100.0, 95.0),
    "n01_3": (40.0, 25.0, 10.0, 65.0, 120.0, 80.0),
    "n01_4": (300.0, 10.0, -15.0, 55.0, 90.0, 100.0),
}
TRAIN = ("n01_1", "n01_3")


def cad_vertices(number: int) -> np.ndarray:
    """Centred about, not in, the middle of the box: CAD models are not quite where they should be."""
    mesh = chair(number)
    return (mesh.vertices - mesh.bounds.mean(axis=0)) @ TURN + (0.0, 0.02, 0.03)


def source_pixels(points: np.ndarray, view: tuple) -> np.ndarray:
    """The published projection, in its own terms, counted from 1: camera centre C on a sphere, M * f / depth."""
    azimuth, elevation, theta = np.radians(view[:3])
    distance, principal = view[3], np.array(view[4:])
    centre = distance * np.array([
        np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth), np.sin(elevation)
    ])  # fmt: skip
    forward = -centre / distance
    right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
    up = np.cross(right, forward)
    offset = points - centre
    flat = VIEWPORT * np.stack([offset @ right, offset @ up], axis=1) / (offset @ forward)[:, None]
    turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
    return (flat @ turn.T) * (1, -1) + principal


def take_photo(number: int, view: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Mask and colours, by the inverse of the published projection."""
    azimuth, elevation, theta = np.radians(view[:3])

    def ray(x, y):
        out = np.array([np.cos(elevation) * np.sin(azimuth), -np.cos(elevation) * np.cos(azimuth), np.sin(elevation)])
        right = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        flat = np.stack([x + 0.5 - view[4], view[5] - y - 0.5], axis=1)  # pixels counted from 1
        turn = np.array([[np.cos(theta), -np.sin(theta)], [np.sin(theta), np.cos(theta)]])
        flat = flat @ turn / VIEWPORT
        return view[3] * out, flat[:, :1] * right + flat[:, 1:] * np.cross(right, -out) - out

    return photograph(cad_vertices(number), chair(number).faces, ray, SIZE)


def record(objects: list[dict]) -> dict:
    """A .mat struct with an array of structs; what is not annotated is empty, as in the official files."""
    things = np.empty(len(objects), dtype=[(name, object) for name in objects[0]])
    for i, thing in enumerate(objects):
        things[i] = tuple(thing.values())
    return {"record": {"filename": "x.JPEG", "objects": things}}


def annotated(view: tuple, cad: int, box: list, kind: str = "chair") -> dict:
    names = ("azimuth", "elevation", "theta", "distance", "px", "py")
    viewpoint = {**dict(zip(names, view, strict=True)), "focal": 1.0, "viewport": VIEWPORT, "azimuth_coarse": 0.0}
    return {"class": kind, "bbox": np.array(box, float), "cad_index": float(cad), "viewpoint": viewpoint,
            "truncated": 0.0, "occluded": 0.0, "difficult": 0.0, "anchors": np.zeros((0, 0))}  # fmt: skip


def write_mat(folder: Path, name: str, objects: list[dict]) -> None:
    path = folder / f"Annotations/chair_imagenet/{name}.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, record(objects))


def write_pascal3d(folder: Path) -> Path:
    for number in range(1, CADS + 1):
        path = folder / f"CAD/chair/{number:02d}.off"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.Trimesh(cad_vertices(number), chair(number).faces, process=False).export(path)
    for i, (name, view) in enumerate(VIEWS.items()):
        number = 1 + i % CADS
        rgb, mask = take_photo(number, view)
        save(rgb, folder / f"Images/chair_imagenet/{name}.JPEG")
        left, top, right, bottom = box_of(mask)
        other = annotated((0.0,) * 6, 1, [1, 1, 20, 20], "sofa")
        write_mat(folder, name, [other, annotated(view, number, [left + 1, top + 1, right, bottom])])
    (folder / "Image_sets").mkdir()
    for split, names in (("train", TRAIN), ("val", [name for name in VIEWS if name not in TRAIN])):
        (folder / f"Image_sets/chair_imagenet_{split}.txt").write_text("\n".join(names) + "\n")
    return folder


run = runner(prepare_pascal3d, "--image-size", "64", "--workers", "1")
source, folder, damaged = download(write_pascal3d, run)


def test_every_object_of_the_category_has_its_row(folder):
    prepared = read_prepared(folder)
    table = prepared.metadata.set_index("id")
    assert table["split"].to_dict() == {
        f"chair-{name}-1": "train" if name in TRAIN else "test" for name in VIEWS
    }  # object 0 is a sofa
    assert table["model"].is_unique
    assert table["mesh"].nunique() == CADS
    assert prepared.info["masks"] == "CAD projections"
    assert rejected(folder) == {}


def test_cameras_are_those_of_the_source(folder):
    prepared = read_prepared(folder)
    for row in prepared.metadata.itertuples():
        name = row.id.split("-")[1]
        number = 1 + list(VIEWS).index(name) % CADS
        mesh = trimesh.Trimesh(cad_vertices(number) @ TURN.T, chair(number).faces, process=False)
        points = matched(load_mesh(prepared, row), mesh) @ TURN
        _, mask = take_photo(number, VIEWS[name])
        theirs, ours = cropped(source_pixels(points, VIEWS[name]) - 0.5, mask), projected(prepared, row)
        assert np.abs(ours - theirs).max() < 1e-3  # the principal point is in the object: hardly any slant
        assert homography_error(ours, theirs) < 1e-4
        assert mask_overlap(prepared, row) > 0.94
    assert prepared.info["silhouette_overlap"]["lowest"] > 0.94


def test_angles_are_those_of_the_annotations(folder):
    """Azimuth 0 shows the front, 90 the camera at their +x, which is our -x."""
    table = read_prepared(folder).metadata.set_index("id")
    for name, (azimuth, elevation, theta, distance, *_) in VIEWS.items():
        row = table.loc[f"chair-{name}-1"]
        assert abs((row["azimuth"] - azimuth + 180) % 360 - 180) < 0.5
        assert row["elevation"] == pytest.approx(elevation, abs=0.5)
        assert abs(row["tilt"]) == pytest.approx(abs(theta), abs=0.5)
        number = 1 + list(VIEWS).index(name) % CADS
        assert row["distance"] == pytest.approx(distance / np.ptp(cad_vertices(number), axis=0).max(), rel=0.01)


def test_masks_of_a_folder_are_used(source, folder, tmp_path):
    masks = tmp_path / "mask"
    for i, (name, view) in enumerate(VIEWS.items()):
        _, mask = take_photo(1 + i % CADS, view)
        mask[: SIZE[1] // 3] = 0  # not what the CAD model covers
        if name != "n01_4":
            save(mask, masks / "chair" / f"{name}_1.png")
    assert run(source, tmp_path / "out", "--masks", str(masks)) == 0
    assert "mask n01_4_1.png is missing" in rejected(tmp_path / "out")["n01_4.JPEG"]
    ours, theirs = (
        read_sample_images(place / "images/chair/chair-n01_1-1.png")[1] for place in (tmp_path / "out", folder)
    )
    assert (ours != theirs).mean() > 0.05
    assert read_prepared(tmp_path / "out").info["masks"] == "given"


def test_counts_are_compared_with_the_papers(folder, source, tmp_path, capsys):
    assert run(source, tmp_path / "out") == 0
    out = capsys.readouterr().out
    assert "chair, train: 2 samples; the paper has 539" in out
    assert "chair, test: 2 samples; the paper has 514" in out
    assert "all categories" not in out
    rows = [{"category": name, "split": "train"} for name in prepare_pascal3d.CATEGORIES]
    assert prepare_pascal3d.count(rows)[-1] == "all categories, test: 0 samples; ShapeClipper has 11421."
    assert contents(tmp_path / "out") == contents(folder)


def spoil_box(folder: Path, name: str, box: list) -> None:
    number = 1 + list(VIEWS).index(name) % CADS
    write_mat(folder, name, [annotated(VIEWS[name], number, box)])


DEFECTS = {
    "n01_1": ("damaged", lambda d: (d / "Annotations/chair_imagenet/n01_1.mat").write_bytes(b"MATLAB 5.0")),
    "n01_2": ("is missing", lambda d: (d / "Annotations/chair_imagenet/n01_2.mat").unlink()),
    "n01_3": ("the file is missing", lambda d: (d / "Images/chair_imagenet/n01_3.JPEG").unlink()),
    "n01_4": ("different objects", lambda d: spoil_box(d, "n01_4", [1, 1, 9, 9])),
}
MORE_DEFECTS = {
    "n01_1": ("empty or outside", lambda d: spoil_box(d, "n01_1", [30, 30, 30, 10])),
    "n01_2": ("has no chair", lambda d: write_mat(d, "n01_2", [annotated(VIEWS["n01_2"], 1, [1, 1, 9, 9], "sofa")])),
    "n01_3": ("no viewpoint, box or CAD model",
              lambda d: write_mat(d, "n01_3", [annotated((0.0,) * 6, 1, [1, 1, 90, 90])])),
    "n01_4": ("no viewpoint, box or CAD model",
              lambda d: write_mat(d, "n01_4", [annotated(VIEWS["n01_4"], 1, [1, 1, 90, 90]) | {"viewpoint": []}])),
}  # fmt: skip


@pytest.mark.parametrize("defects", [DEFECTS, MORE_DEFECTS])
def test_bad_samples_are_listed_and_the_rest_goes_on(damaged, tmp_path, defects):
    for _, change in defects.values():
        change(damaged)
    shutil.copy(damaged / "Images/chair_imagenet/n01_4.JPEG", damaged / "Images/chair_imagenet/n01_ä.JPEG")
    for name in ("n01_ä", "n01_9"):  # the second is nowhere
        with (damaged / "Image_sets/chair_imagenet_train.txt").open("a", encoding="utf-8") as file:
            file.write(f"{name}\n")
    (damaged / "Images/chair_imagenet/Thumbs.db").write_bytes(b"")
    rgb, mask = take_photo(1, VIEWS["n01_1"])
    save(rgb, damaged / "Images/chair_imagenet/n01_ä.JPEG")
    write_mat(damaged, "n01_ä", [annotated(VIEWS["n01_1"], 1, box_of(mask))])
    assert run(damaged, tmp_path / "out") == 0
    words = {f"{name}.JPEG": part for name, (part, _) in defects.items()}
    check_rejected(tmp_path / "out", words | {"n01_9.JPEG": "is missing", "Thumbs.db": "no list"})
    assert list(read_prepared(tmp_path / "out").metadata["id"]) == ["chair-n01_ä-0"]


@pytest.mark.parametrize(
    ("scale", "words"),
    [(100, "are the two in the same units?"), (300, "the two are not in the same units.")],  # before and around cameras
)
def test_models_in_other_units_than_their_cameras_are_refused_for_that(damaged, tmp_path, scale, words):
    resize(damaged / "CAD/chair/01.off", scale)
    assert run(damaged, tmp_path / "out") == 0
    found = rejected(tmp_path / "out")
    assert set(found) == {"n01_1.JPEG", "n01_3.JPEG"}
    assert all(reason.startswith("The CAD model 01.off ") and words in reason for reason in found.values())


def test_models_of_another_size_than_their_boxes_are_noted(damaged, folder, tmp_path, capsys):
    """An occluder can make a box small, so one sample says nothing, but the median of a model's does."""
    resize(damaged / "CAD/chair/01.off", 0.3)
    masks = tmp_path / "mask"
    for i, (name, view) in enumerate(VIEWS.items()):
        save(take_photo(1 + i % CADS, view)[1], masks / "chair" / f"{name}_1.png")
    assert run(damaged, tmp_path / "out", "--masks", str(masks)) == 0
    notes = [note for note in read_prepared(tmp_path / "out").info["notes"] if "units" in note]
    assert len(notes) == 1 and notes[0].startswith("1 of 2 CAD models, such as meshes/chair/")
    assert float(notes[0].split("appear ")[1].split()[0]) == pytest.approx(0.3, rel=0.15)
    assert notes[0] in capsys.readouterr().out
    assert not any("units" in note for note in read_prepared(folder).info["notes"])
