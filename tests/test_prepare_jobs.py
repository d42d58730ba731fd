"""What can go wrong while the scripts of data sets work: a worker dies, the disk is full, settings change."""

import argparse
import os
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_prepare_eth80 import run as run_eth80
from test_prepare_eth80 import write_eth80
from tiny_downloads import contents

from data_scripts import photo_sets
from data_scripts.jobs import Work, count_notes, prepare_jobs, split_of_models, with_splits, write_table
from data_scripts.prepare_3dfuture import FUTURE
from data_scripts.prepare_openimages import OPENIMAGES
from data_scripts.prepare_pascal3d import PASCAL3D
from data_scripts.prepare_pix3d import PIX3D
from data_scripts.prepare_shapenet import SHAPENET
from data_scripts.sources import chosen, safe_name
from lib.data.images import crop_to_mask, read_sample_images
from lib.data.normals import NORMALS, load_estimator
from lib.data.prepared import read_prepared
from lib.errors import InputError

DATA_SCRIPTS = Path(photo_sets.__file__).parent
INFO = {"name": "tiny", "source": "tests", "licence": "MIT", "version": "1"}


def options(output: Path, workers: int = 1, size: int = 8) -> argparse.Namespace:
    return argparse.Namespace(output=output, workers=workers, image_size=size)


@dataclass(frozen=True)
class Sample:
    source: str
    model: str


def make(sample: Sample, folder: Path, dies: str = "") -> list[dict]:
    """An image; samples whose names begin with "bad" are refused, and one may end its process."""
    name = sample.source
    if name == dies:
        os._exit(9)
    if name.startswith("bad"):
        raise InputError("it is bad.")
    Image.new("RGBA", (8, 8), "red").save(folder / f"{name}.png")
    return [{"id": name, "category": "thing", "model": sample.model, "image": f"{name}.png", "overlap": 0.5}]


def jobs_of(**names: str) -> dict[str, list[Sample]]:
    return {job: [Sample(name, some.split(",")[0]) for name in some.split(",")] for job, some in names.items()}


JOBS = jobs_of(one="a,b", two="c,bad d", **{"drei-ß": "e"})


def test_a_worker_that_dies_is_one_sentence_and_the_work_goes_on(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(InputError, match="A worker died"):
        prepare_jobs(JOBS, Work(partial(make, dies="e"), processes=True), options(output, 2), INFO)
    assert not output.exists()
    done = {path.name for path in (tmp_path / "out.partial/parts").glob("*.json")}
    assert "drei-ß.json" not in done
    prepare_jobs(JOBS, Work(make), options(output), INFO)
    assert set(read_prepared(output).metadata["id"]) == {"a", "b", "c", "e"}
    assert not (tmp_path / "out.partial").exists()


def test_other_settings_are_refused_and_no_work_is_lost(tmp_path):
    output, work = tmp_path / "out", tmp_path / "out.partial"

    def stopped(sample, folder):
        if sample.source == "e":
            raise KeyboardInterrupt
        return make(sample, folder)

    def run(jobs=JOBS, size=8, info=INFO, key=None):
        prepare_jobs(jobs, Work(stopped), options(output, size=size), info, key=key)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert (work / "parts/one.json").is_file()
    before = contents(work)
    for changed, words in (
        ({"size": 16}, "with image_size 8 instead of 16"),
        ({"info": INFO | {"version": "2"}}, "with version '1' instead of '2'"),
        ({"info": INFO | {"masks": "other"}}, "with other settings"),
        ({"jobs": JOBS | jobs_of(one="a")}, "with other photos"),
        ({"key": 3}, "with other photos"),
    ):
        with pytest.raises(InputError, match=words):
            run(**changed)
        assert contents(work) == before != {}


def write_to_full_disk() -> None:
    Path("/dev/full").write_text("an error that names no file")


def write_and_say_so() -> None:
    try:
        write_to_full_disk()
    except OSError as error:
        raise InputError("could not write a file") from error


@pytest.mark.parametrize("write", [write_to_full_disk, write_and_say_so])
def test_a_full_disk_is_one_sentence_and_the_work_goes_on(tmp_path, write):
    def full(sample, folder):
        if sample.source == "e":
            write()
        return make(sample, folder)

    output = tmp_path / "out"
    words = r"out cannot be made: No space left on device; .*the same command goes on"
    with pytest.raises(InputError, match=words):
        prepare_jobs(JOBS, Work(full), options(output), INFO)
    assert {path.stem for path in (tmp_path / "out.partial/parts").glob("*.json")} == {"one", "two"}
    prepare_jobs(JOBS, Work(make), options(output), INFO)
    assert set(read_prepared(output).metadata["id"]) == {"a", "b", "c", "e"}


def test_where_nothing_can_be_used_the_reasons_stay_and_a_mended_source_is_read_anew(tmp_path):
    output = tmp_path / "out"
    with pytest.raises(
        InputError, match=r"None of the 1 photos .* the first: it is odd; .*out\.rejected\.csv has all\."
    ):
        prepare_jobs(jobs_of(one="bad d"), Work(make), options(output), INFO, [("x", "it is odd.")])
    assert (tmp_path / "out.rejected.csv").read_text() == "file,reason\nbad d,it is bad.\nx,it is odd.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.rejected.csv"]
    mended = Work(lambda sample, folder: make(Sample("d", "d"), folder))
    prepare_jobs(jobs_of(one="bad d"), mended, options(output), INFO)
    assert read_prepared(output).metadata["id"].tolist() == ["d"]


def test_measures_and_notes_are_stored(tmp_path, capsys):
    work = Work(make, notes=lambda rows: [f"{len(rows)} rows."])
    prepare_jobs(JOBS, work, options(tmp_path / "out"), INFO, [("x", "it is odd.")])
    info = read_prepared(tmp_path / "out").info
    assert info["silhouette_overlap"] == {"median": 0.5, "lowest": 0.5, "highest": 0.5}
    assert info["rejected"] == 2
    assert info["notes"][0] == "4 rows."
    assert "less than 0.50" in info["notes"][1]  # poor overlap makes itself heard
    assert "note: 4 rows." in capsys.readouterr().out
    assert (tmp_path / "out/rejected.csv").read_text() == "file,reason\nbad d,it is bad.\nx,it is odd.\n"


def test_own_splits_are_kept_and_others_are_by_model():
    rows = [{"category": "a", "model": f"m{i}", "split": "test"} for i in range(3)]
    rows += [{"category": "b", "model": f"n{i // 2}"} for i in range(20)]
    made = with_splits(rows)
    assert [row["split"] for row in made[:3]] == ["test"] * 3
    expected = split_of_models(("b", f"n{i}") for i in range(10))
    assert [row["split"] for row in made[3:]] == [expected[row["model"]] for row in rows[3:]]


def test_normals_are_guessed_when_asked_for(tmp_path):
    source = write_eth80(tmp_path / "ETH-80", instances=2)
    assert run_eth80(source, tmp_path / "out", "--normals") == 0
    prepared = read_prepared(tmp_path / "out")
    assert prepared.info["normals"].endswith("(convention ours)")
    row = prepared.metadata.iloc[0]
    rgb, mask, normal = read_sample_images(prepared.path(row["image"]), None, prepared.path(row["normal"]))
    inside = mask >= 128
    estimator = load_estimator(NORMALS, "ours")
    photo = photo_sets.open_upright(source / "apple/apple1/apple1-000-000.png")
    disc = photo_sets.open_mask(source / "apple/apple1/maps/apple1-000-000-map.png")
    fine = crop_to_mask(photo, disc, 1.2, 128)
    ours = estimator.estimate(fine[0][None], fine[1][None])[0].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
    ours /= np.maximum(np.linalg.norm(ours, axis=-1, keepdims=True), 1e-9)
    np.testing.assert_allclose(normal[inside], ours[inside], atol=1e-3)
    # read again and composited on white, the crop is what it was when it was cut: its edge is not whitened twice
    whole = crop_to_mask(photo, disc, 1.2, 32)
    assert np.abs(rgb.astype(int) - whole[0])[mask > 40].max() <= 3


def test_every_script_has_its_row():
    text = (DATA_SCRIPTS / "README.md").read_text(encoding="utf-8")
    for script in DATA_SCRIPTS.glob("prepare_*.py"):
        assert f"data_scripts/{script.name}" in text
    for collection in (PIX3D, PASCAL3D, OPENIMAGES, SHAPENET, FUTURE):
        assert collection.title.split(" ")[0] in text

        assert all(year in text for year in re.findall(r"\b20\d\d\b", collection.citation))


def test_counts_are_compared_only_where_there_is_something():
    rows = [{"category": "chair", "split": "train"}] * 3
    assert count_notes(rows, {("chair", "train"): 3, ("sofa", "train"): 5}) == []
    assert len(count_notes(rows, {("chair", "train"): 4, ("chair", "test"): 1})) == 2


def test_names_are_made_safe_and_categories_checked():
    assert safe_name("../Böse Datei?.obj") == "_Böse_Datei_.obj"
    assert safe_name("...") == "_"
    assert chosen(None, ["b", "a", "b"]) == ["a", "b"]
    assert chosen("b, a", ["a", "b"]) == ["b", "a"]
    with pytest.raises(InputError, match="no category 'c' here; --categories takes a, b"):
        chosen("c", ["a", "b"])


def test_names_that_are_no_text_are_listed_all_the_same(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")  # Latin-1 in a UTF-8 world
    write_table(tmp_path / "rejected.csv", ("file", "reason"), [["b.jpg", "empty"], [name, "no image"]])
    lines = (tmp_path / "rejected.csv").read_text(encoding="utf-8").splitlines()
    assert lines == ["file,reason", "b.jpg,empty", "caf\\udce9.jpg,no image"]
