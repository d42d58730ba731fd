"""The parts of the furniture script: archives, models, surfaces, captions."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
from tiny_library import PACK, write_library

from data_scripts.archives import extract, safe_member_path
from data_scripts.captions import colour_name, measure
from data_scripts.surfaces import clean, decimate, likeness, outer_mesh, visible_faces
from data_scripts.sweethome import load_model, read_entries
from lib.errors import InputError


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return write_library(tmp_path_factory.mktemp("library") / "tiny")


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "..\\evil.txt", "C:\\evil.txt"])
def test_archives_cannot_leave_their_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("good.txt", "fine")
        archive.writestr(name, "gotcha")
    with pytest.raises(InputError, match="outside its folder"):
        extract(tmp_path / "bad.zip", tmp_path / "here/deeper")
    assert not list(tmp_path.rglob("*evil*"))
    assert not (tmp_path / "here").exists()  # nor is half of it left
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
