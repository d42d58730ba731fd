"""The 3D-FUTURE script, run on a tiny folder that has the official layout, with seeded defects."""

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_cad import chair, mask_overlap, matched, resize, save
from tiny_downloads import contents, download, rejected, runner

from data_scripts import prepare_3dfuture
from lib.data.images import read_sample_images
from lib.data.prepared import load_mesh, read_prepared

TURN = np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]])  # y up, the front towards +z
COLOURS = {"aa": (200, 40, 40), "bb": (40, 200, 40), "çé": (40, 40, 200)}
MTL = "newmtl m\nKd 1.0 1.0 1.0\nmap_Kd ./texture.png\n"
TAGS = {
    "aa": {"super-category": "Chair", "category": "Lounge Chair / Cafe Chair / Office Chair", "style": "Modern",
           "theme": "Smooth Net", "material": "Leather"},
    "bb": {"super-category": "Sofa", "category": "armchair", "style": "Industrial", "theme": None, "material": "Cloth"},
    "çé": {"super-category": "Others", "category": None, "style": "Others", "theme": None, "material": None},
}  # fmt: skip


def write_model(folder: Path, number: int, colour: tuple) -> None:
    mesh = chair(number)
    folder.mkdir(parents=True)
    lines = ["mtllib model.mtl", "vt 0.25 0.25", "vt 0.75 0.25", "vt 0.25 0.75", "usemtl m"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in mesh.vertices @ TURN]
    lines += [f"f {a}/1 {b}/2 {c}/3" for a, b, c in mesh.faces + 1]
    for name in ("normalized_model.obj", "raw_model.obj"):
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "model.mtl").write_text(MTL)
    save(np.full((8, 8, 3), colour, np.uint8), folder / "texture.png")
    save(np.full((40, 40, 3), 200, np.uint8), folder / "image.jpg")


def write_future(folder: Path, part: str = "") -> Path:
    for number, (name, colour) in enumerate(COLOURS.items()):
        write_model(folder / part / name, number, colour)
    write_info(folder, [{"model_id": name, **tags} for name, tags in TAGS.items()])
    return folder


def write_info(folder: Path, models: list[dict]) -> None:
    (folder / "model_info.json").write_text(json.dumps(models, ensure_ascii=False), encoding="utf-8")


run = runner(prepare_3dfuture, "--image-size", "48", "--views", "2", "--workers", "1")
source, folder, damaged = download(write_future, run)


def test_tags_become_categories_and_captions(folder):
    prepared = read_prepared(folder)
    table = prepared.metadata.drop_duplicates("model").set_index("model")
    assert len(prepared.metadata) == 2 * len(COLOURS)
    assert table["category"].to_dict() == {"aa": "lounge_chair", "bb": "armchair", "çé": "furniture"}
    assert table["caption"].to_dict() == {
        "aa": "a modern lounge chair made of leather, smooth net",
        "bb": "an industrial armchair made of cloth",
        "çé": "a furniture",
    }
    assert "IJCV 2021" in prepared.info["citation"]
    assert rejected(folder) == {}


def test_drawings_have_the_textures_colour_and_the_meshes_place(folder):
    prepared = read_prepared(folder)
    for row in prepared.metadata.itertuples():
        number = list(COLOURS).index(row.model)
        matched(load_mesh(prepared, row), chair(number))  # the frame is right, vertex by vertex
        assert mask_overlap(prepared, row) > 0.93
        assert -5 <= row.elevation <= 35
        rgb, mask, _ = read_sample_images(prepared.path(row.image), None, prepared.path(row.normal))
        mean = rgb[mask == 255].mean(axis=0)
        assert mean / mean.sum() == pytest.approx(np.array(COLOURS[row.model]) / sum(COLOURS[row.model]), abs=0.01)
    views = prepared.metadata.groupby("model")["azimuth"].nunique()
    assert (views == 2).all()


def test_parts_of_the_archive_give_the_same_bytes(folder, tmp_path):
    source = write_future(tmp_path / "in", "3D-FUTURE-model-part1")
    assert run(source, tmp_path / "out") == 0
    assert contents(tmp_path / "out") == contents(folder)


def test_bad_models_are_listed_and_the_rest_goes_on(damaged, tmp_path, capsys):
    (damaged / "aa/texture.png").unlink()
    (damaged / "bb/normalized_model.obj").write_text("v 0 0 0\nf 1 1 1\n")
    write_model(damaged / "extra", 5, (9, 9, 9))
    write_model(damaged / "broken texture", 5, (9, 9, 9))
    (damaged / "broken texture/texture.png").write_bytes(b"\x89PNG")
    models = [{"model_id": name, **tags} for name, tags in TAGS.items()]
    models += [{"model_id": "gone"}, {"model_id": "çé"}, {"model_id": "broken texture"}]
    write_info(damaged, models)
    assert run(damaged, tmp_path / "out") == 0
    words = {
        "aa/normalized_model.obj": "texture.png is missing",
        "bb/normalized_model.obj": "no surface",
        "extra": "does not name it",
        "gone": "its folder or model is missing",
        "çé": "names it twice",
        "broken texture/normalized_model.obj": "texture",
    }
    found = (tmp_path / "out/rejected.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(found) == len(words)
    for name, part in words.items():
        assert any(line.split(",")[0].endswith(name) and part in line for line in found), (name, found)
    assert set(read_prepared(tmp_path / "out").metadata["model"]) == {"çé"}
    assert "names 6 models, the first full release 9992" in capsys.readouterr().out


def test_models_of_another_size_than_the_rest_are_noted(damaged, folder, tmp_path):
    resize(damaged / "bb/normalized_model.obj", 0.01)
    assert run(damaged, tmp_path / "out") == 0
    (note,) = (note for note in read_prepared(tmp_path / "out").info["notes"] if "normalised" in note)
    assert note.startswith("1 of 3 CAD models, such as bb, are not normalised as the rest are: ")
    assert float(note.split("are: ")[1].split()[0]) == pytest.approx(0.01, rel=0.2)
    assert not any("normalised" in note for note in read_prepared(folder).info["notes"])


def test_categories_are_chosen(source, tmp_path):
    assert run(source, tmp_path / "out", "--categories", "armchair") == 0
    assert set(read_prepared(tmp_path / "out").metadata["model"]) == {"bb"}
