"""The furniture script, run on a tiny library that has the layout of the real ones."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from data_scripts import prepare_furniture
from data_scripts.archives import extract, safe_member_path
from data_scripts.captions import colour_name, measure
from data_scripts.surfaces import clean, decimate, likeness, outer_mesh, visible_faces
from data_scripts.sweethome import load_model, read_entries
from lib.data.images import read_sample_images
from lib.data.prepared import load_mesh, read_prepared
from lib.errors import InputError
from lib.paths import FURNITURE, REPOSITORY

PACK = "BlendSwap-CC-0"
MODELS = 7  # two for val, two for test, three for training
TRAIN_VARIANTS = 3
MTL = "newmtl wood\nKd 1 1 1\nmap_Kd wood.png\nnewmtl metal\nKd 0.1 0.2 0.9\n"


# ---------------------------------------------------------------- a library look-alike


def box(low, high) -> tuple[np.ndarray, np.ndarray]:
    """Corners and quads of an axis-aligned box, y up."""
    mesh = trimesh.creation.box(bounds=[low, high])
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def chair_obj(seed: int) -> str:
    """A chair in the libraries' frame (y up, facing +z): seat, back, four legs, and a ball inside the seat."""
    width, depth, back = np.random.default_rng(seed).uniform((0.8, 0.8, 0.8), (1.2, 1.2, 1.6))
    legs = [box((x, 0, z), (x + 0.1, 0.8, z + 0.1)) for x in (0, width - 0.1) for z in (0, depth - 0.1)]
    seat = box((0, 0.8, 0), (width, 1.2, depth))
    ball = trimesh.creation.icosphere(1, 0.1)
    hidden = (ball.vertices + np.array([width / 2, 1.0, depth / 2]), ball.faces)
    parts = [("wood", seat), ("wood", hidden), ("metal", box((0, 1.2, 0), (width, 1.2 + back, 0.1)))]
    parts += [("metal", leg) for leg in legs]
    lines, first = ["mtllib chair.mtl", "vt 0 0", "vt 1 0", "vt 0 1"], 1
    for material, (vertices, faces) in parts:
        lines += [f"usemtl {material}", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices)]
        lines += [f"f {a}/1 {b}/2 {c}/3" for a, b, c in faces + first]
        first += len(vertices)
    return "\n".join(lines) + "\n"


def write_library(folder: Path) -> Path:
    """A .sh3f file with MODELS chairs, and the list that names them; returns the list."""
    folder.mkdir(parents=True)
    Image.fromarray(np.array([[[200, 90, 40], [90, 200, 40]]], dtype=np.uint8)).save(folder / "wood.png")
    lines = ["# a comment", "id=tiny", "name=Tiny"]
    with zipfile.ZipFile(folder / f"{PACK}.sh3f", "w") as archive:
        for number in range(1, MODELS + 1):
            lines += [f"id#{number}=Tiny#chair{number}", f"name#{number}=Oak chair", f"creator#{number}=M\\u00e9 Maker"]
            lines += [f"model#{number}=/tiny/chair{number}/chair.obj", f"category#{number}=Living room"]
            lines += [f"width#{number}=50", f"depth#{number}=60", f"height#{number}=100"]
            for name, content in (("chair.obj", chair_obj(number)), ("chair.mtl", MTL)):
                archive.writestr(f"tiny/chair{number}/{name}", content)
            archive.write(folder / "wood.png", f"tiny/chair{number}/wood.png")
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines) + "\n")
        archive.writestr("LICENSE.TXT", "Public domain, says the test.")
    rows = [f"chair,{PACK},chair{number},{'twins' if number > MODELS - 2 else ''}," for number in range(1, MODELS + 1)]
    (folder / "models.csv").write_text("\n".join(["category,pack,id,family,turn", *rows]) + "\n")
    return folder / "models.csv"


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


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---------------------------------------------------------------- the folder


def test_folder_is_whole_and_says_whose_models_it_shows(folder):
    prepared = read_prepared(folder)
    assert prepared.info["licence"].startswith("CC0-1.0")
    assert prepared.info["image_size"] == 32
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


def test_interrupted_run_keeps_what_is_done(folder, library, tmp_path, monkeypatch, capsys):
    prepared, real = [], prepare_furniture.prepare_model

    def interrupted(task, work):
        if len(prepared) == 3:
            raise KeyboardInterrupt
        prepared.append(task.entry.model)
        return real(task, work)

    monkeypatch.setattr(prepare_furniture, "prepare_model", interrupted)
    assert prepare_furniture.main(arguments(library, tmp_path / "tiny")) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "tiny").exists()
    again = []
    monkeypatch.setattr(prepare_furniture, "prepare_model", lambda task, work: again.append(real(task, work)))
    assert prepare_furniture.main(arguments(library, tmp_path / "tiny")) == 0
    assert len(again) == MODELS - 3
    assert contents(tmp_path / "tiny") == contents(folder)


def test_other_settings_do_not_go_on_with_old_work(folder, library, tmp_path):
    work = tmp_path / "tiny.partial"
    (work / "parts").mkdir(parents=True)
    (work / "parts/run.txt").write_text("other settings")
    (work / "stray.png").write_text("left over")
    assert prepare_furniture.main(arguments(library, tmp_path / "tiny")) == 0
    assert contents(tmp_path / "tiny") == contents(folder)


def test_full_disk_is_one_sentence_and_no_folder(library, tmp_path, monkeypatch, capsys):
    def full(task, work):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepare_furniture, "prepare_model", full)
    assert prepare_furniture.main(arguments(library, tmp_path / "tiny")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: No space left beside")
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--source", "/nowhere"], "apt-get download sweethome3d-furniture"),
        (["--categories", "chair,boat"], "There is no category 'boat'; --categories takes chair"),
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
    pack.unlink()
    with pytest.raises(InputError, match="sh3f is missing"):
        read_entries(tmp_path / "tiny", library)


# ---------------------------------------------------------------- its parts


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_archives_cannot_leave_their_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "fine")
        archive.writestr(name, "gotcha")
    with pytest.raises(InputError, match="outside its folder"):
        extract(tmp_path / "bad.zip", tmp_path / "here/deeper")
    assert not list(tmp_path.rglob("*evil*"))
    with pytest.raises(InputError, match="outside its folder"):
        safe_member_path(tmp_path, name)


def test_links_in_archives_are_not_followed(tmp_path):
    with zipfile.ZipFile(tmp_path / "links.zip", "w") as archive:
        link = zipfile.ZipInfo("out")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(tmp_path))
        archive.writestr("out/file.txt", "inside")
    extract(tmp_path / "links.zip", tmp_path / "here")
    assert (tmp_path / "here/out/file.txt").read_text() == "inside"
    assert not (tmp_path / "file.txt").exists()


def test_models_are_turned_scaled_and_centred(library, tmp_path):
    entry = read_entries(library.parent, library)[0]
    mesh = load_model(library.parent / f"{PACK}.sh3f", entry, tmp_path)
    used = mesh.vertices[np.unique(mesh.faces)]
    assert np.allclose(np.ptp(used, axis=0), [0.5, 0.6, 1.0])  # the catalogue's centimetres, z up
    assert np.allclose(used.min(axis=0) + used.max(axis=0), 0)
    wood, metal = (next(k for k, t in enumerate(mesh.textures) if test(t.size)) for test in ((6).__eq__, (3).__eq__))
    assert mesh.textures[metal][0, 0, 2] > 200
    back = mesh.vertices[np.unique(mesh.faces[(mesh.material == metal) & (mesh.vertices[mesh.faces].min(1)[:, 2] > 0)])]
    assert back[:, 1].max() < 0  # the back rest is behind: the front is +y
    assert mesh.textures[wood].shape == (1, 2, 3)


def test_only_the_outer_surface_is_kept():
    outside, inside = trimesh.creation.box((1, 1, 1)), trimesh.creation.icosphere(1, 0.3)
    both = trimesh.util.concatenate([outside, inside])
    seen = visible_faces(both.vertices, both.faces)
    assert seen[:12].all()
    assert not seen[12:].any()
    open_box = both.copy()
    open_box.update_faces(~(both.triangles_center[:, 2] > 0.49))  # take the lid off
    assert visible_faces(open_box.vertices, open_box.faces)[10:].mean() > 0.5
    kept = outer_mesh(both.vertices, both.faces)
    assert len(kept.faces) == 12
    assert np.allclose(kept.bounds, outside.bounds)


def test_small_faces_survive_between_rays():
    ball, dot = trimesh.creation.icosphere(2, 0.3), trimesh.creation.icosphere(1, 0.001)
    dot.apply_translation((0.4321, 0.1234, 0.2345))
    both = trimesh.util.concatenate([ball, dot])
    assert visible_faces(both.vertices, both.faces)[-len(dot.faces) :].all()


def test_decimation_keeps_flat_open_sheets_and_thin_rods():
    x, y = np.meshgrid(np.linspace(-0.5, 0.5, 40), np.linspace(-0.5, 0.5, 40))
    index = np.arange(1600).reshape(40, 40)
    quads = [index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]]
    faces = np.concatenate([np.stack([quads[k] for k in three], -1).reshape(-1, 3) for three in ((0, 1, 2), (0, 2, 3))])
    sheet = trimesh.Trimesh(np.stack([x, y, 0 * x], -1).reshape(-1, 3), faces, process=False)
    rod = trimesh.creation.cylinder(0.01, 0.5, sections=8)
    rod.apply_translation((0.2, 0.2, 0.25))
    whole = trimesh.util.concatenate([sheet, rod])
    outer = clean(whole.vertices, whole.faces)
    small = decimate(*outer, 300, 4)
    assert len(small[1]) < 0.1 * len(outer[1])
    like = likeness(outer, small)
    assert like.good
    assert like.overlap > 0.99
    without_rod = outer[0], outer[1][: len(sheet.faces)]
    assert not likeness(outer, without_rod).good


def test_measures_of_known_shapes():
    def table(top):
        legs = [trimesh.creation.box((0.06, 0.06, 0.7)) for _ in range(4)]
        for leg, (x, y) in zip(legs, ((1, 1), (1, -1), (-1, 1), (-1, -1)), strict=True):
            leg.apply_translation((0.25 * x, 0.25 * y, -0.35))
        return unit(trimesh.util.concatenate([top, *legs]))

    def unit(mesh):
        mesh.apply_translation(-mesh.bounds.mean(axis=0))
        return mesh.apply_scale(1 / mesh.extents.max())

    round_table, square = trimesh.creation.cylinder(0.5, 0.06, sections=64), trimesh.creation.box((0.9, 0.7, 0.06))
    assert (measure(table(round_table)).legs, measure(table(round_table)).plan) == (4, "round")
    assert (measure(table(square)).legs, measure(table(square)).plan) == (4, "rectangular")
    boards = [trimesh.creation.box((0.8, 0.3, 0.02)).apply_translation((0, 0, z)) for z in (0, 0.3, 0.6, 0.9, 1.2)]
    sides = [trimesh.creation.box((0.02, 0.3, 1.22)).apply_translation((x, 0, 0.6)) for x in (-0.4, 0.4)]
    shelf = measure(unit(trimesh.util.concatenate([*boards, *sides])))
    assert shelf.boards == 5
    assert measure(unit(trimesh.creation.box((0.5, 0.5, 1.0)))).legs is None


@pytest.mark.parametrize(
    ("rgb", "word"),
    [((250, 250, 250), "white"), ((128, 128, 128), "grey"), ((10, 10, 10), "black"), ((200, 20, 20), "red"),
     ((30, 60, 200), "blue"), ((20, 70, 25), "dark green"), ((110, 70, 35), "brown")],
)  # fmt: skip
def test_colours_have_their_plain_names(rgb, word):
    assert colour_name(np.full((4, 4, 4), (*rgb, 255), dtype=np.uint8)) == word


def test_command_line_runs_from_anywhere(tmp_path):
    script = REPOSITORY / "data_scripts/prepare_furniture.py"
    done = subprocess.run([sys.executable, script, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True)
    for option in ("--source", "--output", "--image-size", "--views", "--variants", "--seed", "--workers"):
        assert option in done.stdout


def test_counts_are_written_as_json(folder):
    info = json.loads((folder / "dataset.json").read_text())
    assert info["samples"] == len(read_prepared(folder).metadata)
