"""What a user can give instead of a data set: each is refused in one sentence, and nothing is left behind."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import test_prepare_3dfuture as future
import test_prepare_compcars as compcars
import test_prepare_eth80 as eth80
import test_prepare_openimages as openimages
import test_prepare_pascal3d as pascal3d
import test_prepare_pix3d as pix3d
import test_prepare_shapenet as shapenet
from PIL import Image

SCRIPTS = {
    "3dfuture": (future.write_future, future.run),
    "compcars": (compcars.write_compcars, compcars.run),
    "eth80": (lambda folder: eth80.write_eth80(folder, instances=1), eth80.run),
    "openimages": (openimages.write_openimages, openimages.run),
    "pascal3d": (pascal3d.write_pascal3d, pascal3d.run),
    "pix3d": (pix3d.write_pix3d, pix3d.run),
    "shapenet": (shapenet.write_renderings, shapenet.run),
    "cores": (lambda folder: shapenet.write_cores(folder, shapenet.V1, "model.obj"), shapenet.run),
}


@pytest.fixture(scope="module")
def download(tmp_path_factory) -> Callable[[str], Path]:
    """The tiny data set of a name, written once."""
    place = tmp_path_factory.mktemp("downloads")

    def written(name: str) -> Path:
        return place / name if (place / name).exists() else SCRIPTS[name][0](place / name)

    return written


def without(*names: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for name in names:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return remove


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content)


def only(*names: str) -> Callable[[Path], None]:
    """The source holds nothing but these folders."""

    def empty(folder: Path) -> None:
        shutil.rmtree(folder)
        for name in names:
            (folder / name).mkdir(parents=True)

    return empty


def holiday(folder: Path) -> None:
    only("")(folder)
    Image.new("RGB", (30, 30)).save(folder / "holiday.jpg")


def half_archive(folder: Path) -> None:
    """A zip whose end is missing, in the place of the folder."""
    shutil.rmtree(folder)
    with zipfile.ZipFile(folder, "w") as archive:
        archive.writestr("pix3d.json", "[]" * 1000)
    folder.write_bytes(folder.read_bytes()[: folder.stat().st_size // 2])


def unlink_segmentations(folder: Path) -> None:
    for path in folder.glob("*segmentation.csv"):
        path.unlink()


def shorten(name: str, missing: int = 30) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-missing])


CHAIR, BOXES = shapenet.CHAIR, openimages.BOXES
GONE, SAME = without("."), lambda folder: None
REFUSALS = [
    ("3dfuture", GONE, "", "tianchi.aliyun.com"),
    ("3dfuture", without("model_info.json"), "", "has no model_info.json: not 3D-FUTURE"),
    ("3dfuture", text("model_info.json", '[{"model_id": '), "", "half downloaded (no JSON)"),
    ("3dfuture", text("model_info.json", '[{"img": "x"}]'), "", "is it 3D-FUTURE's?"),
    ("3dfuture", without(*future.COLOURS), "", "None of the 0 models can be used"),
    ("3dfuture", SAME, "--categories bed", "--categories takes armchair, furniture, lounge_chair"),
    ("compcars", half_archive, "", "half downloaded: fetch it again"),
    ("compcars", only(""), "--boxes", "has no image: not CompCars"),
    ("compcars", only("image"), "--boxes", "has no label: not CompCars"),
    ("compcars", only("image", "label"), "--boxes", "is it CompCars?"),
    ("compcars", text("data/misc/make_model_name.mat", "MATLAB"), "--boxes", "make_model_name.mat is damaged"),
    ("compcars", SAME, "--masks none", "--masks: there is no folder none"),
    ("eth80", GONE, "", "There is no folder"),
    ("eth80", only(""), "", "no photo with a name like car3-066-153.png"),
    ("eth80", holiday, "", "no photo with a name like car3-066-153.png"),
    ("eth80", without("apple/apple1/maps", "car"), "", "None of the 6 photos can be used; the first: The mask"),
    ("openimages", GONE, "", "storage.googleapis.com/openimages"),
    ("openimages", without("class-descriptions-boxable.csv"), "", "table of class descriptions"),
    ("openimages", without(BOXES), "", "has no train-annotations-bbox.csv"),
    ("openimages", unlink_segmentations, "", "object-segmentation.csv"),
    ("openimages", shorten(BOXES), "", "half downloaded"),
    ("openimages", text(BOXES, "a,b\n1,2\n"), "", "another table"),
    ("openimages", without("train"), "--categories Car", "None of the 0 photos can be used; the first: 20"),
    ("openimages", SAME, "--categories Zebra", "no category 'Zebra'"),
    ("openimages", SAME, "--categories ", "--categories must name classes"),
    ("pascal3d", GONE, "", "cvgl.stanford.edu/projects/pascal3d.html"),
    ("pascal3d", without("CAD"), "", "has no CAD: not Pascal3D+"),
    ("pascal3d", without("Image_sets/chair_imagenet_val.txt"), "", "chair_imagenet_val.txt is missing"),
    ("pascal3d", text("Image_sets/chair_imagenet_val.txt", "n01_1\n"), "", "so does the list for train"),
    ("pascal3d", without("Images/chair_imagenet"), "", "None of the"),
    ("pascal3d", SAME, "--masks none", "--masks: there is no folder"),
    ("pix3d", GONE, "", "pix3d.csail.mit.edu (pix3d.zip) (3.6 GB). Licence: CC-BY 4.0"),
    ("pix3d", half_archive, "", "half downloaded: fetch it again"),
    ("pix3d", without("pix3d.json"), "", "has no pix3d.json: not Pix3D"),
    ("pix3d", text("pix3d.json", '[{"img": "img/cha'), "", "half downloaded (no JSON)"),
    ("pix3d", text("pix3d.json", '{"annotations": []}'), "", "is it Pix3D's?"),
    ("pix3d", SAME, "--categories sofa", "no category 'sofa' here; --categories takes chair"),
    ("pix3d", SAME, "--lists .", "has no chair_train.txt"),
    ("shapenet", GONE, "", "33 GB"),
    ("shapenet", only("Annotations"), "", "not ShapeNet, or unpacked in part"),
    ("shapenet", without(f"{CHAIR}/softras_val.lst"), "", "softras_val.lst is missing"),
    ("shapenet", SAME, "--categories lamp", "--categories takes chair"),
    ("cores", text("taxonomy.json", "[{"), "", "taxonomy.json is damaged"),
    ("cores", SAME, "--normals", "--normals is for renderings"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "more", "words"), REFUSALS)
def test_one_sentence_and_no_folder(download, tmp_path, monkeypatch, capsys, name, spoil, more, words):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / ("in.zip" if spoil is half_archive else "in")
    shutil.copytree(download(name), source)
    spoil(source)
    assert SCRIPTS[name][1](source, tmp_path / "out", *(more.split(" ") if more else [])) == 2
    error = capsys.readouterr().err.strip().split("\n")
    assert error[-1].startswith("error: ") and words in error[-1]
    assert len(error) == 1 or "None of the" in words  # then there was a progress bar
    assert not list(tmp_path.glob("out*/*"))


def test_help_says_where_the_data_is(capsys):
    with pytest.raises(SystemExit):
        pix3d.prepare_pix3d.main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "pix3d.csail.mit.edu" in out and "3.6 GB" in out and "Licence:" in out
