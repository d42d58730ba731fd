"""The CompCars script, run on a tiny folder that has the official layout, with seeded defects."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.io import savemat
from tiny_downloads import download, rejected, runner

from data_scripts import prepare_compcars
from lib.data.images import read_sample_images
from lib.data.prepared import read_prepared

BOX = (11, 21, 50, 40)  # counted from 1, corners included
MODELS = {("1", "3"): ("2011", "unknown"), ("1", "7"): ("2012",), ("78", "10"): ("2009", "2014")}
NAMES = {3: "Audi A4L", 7: "Audi Q5", 10: "BMW 3"}
VIEWPOINTS = (-1, 1, 2, 3, 4, 5)


def write_photo(data: Path, name: str, viewpoint: int, box: tuple = BOX) -> None:
    image = data / "image" / f"{name}.jpg"
    label = data / "label" / f"{name}.txt"
    for path in (image, label):
        path.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.new("RGB", (64, 48), (240, 240, 235))
    ImageDraw.Draw(photo).rectangle((BOX[0] - 1, BOX[1] - 1, BOX[2] - 1, BOX[3] - 1), fill=(180, 20, 20))
    photo.save(image, quality=95)
    label.write_text(f"{viewpoint}\n1\n{' '.join(map(str, box))}\n")


def write_compcars(folder: Path) -> Path:
    data = folder / "data"
    for (make, model), years in MODELS.items():
        for year in years:
            for number, viewpoint in enumerate(VIEWPOINTS):
                write_photo(data, f"{make}/{model}/{year}/{number:03d}abc", viewpoint)
    cells = np.empty((12, 1), dtype=object)
    for i in range(12):
        cells[i, 0] = NAMES.get(i + 1, "")
    (data / "misc").mkdir()
    savemat(data / "misc" / "make_model_name.mat", {"model_names": cells})
    return folder


run = runner(prepare_compcars, "--image-size", "24")
source, folder, damaged = download(write_compcars, run, "--boxes")


def test_models_are_those_of_the_folders_whatever_the_year(folder):
    table = read_prepared(folder).metadata
    assert len(table) == 5 * len(VIEWPOINTS)
    assert set(table["model"]) == {"1-3", "1-7", "78-10"}
    assert set(table["category"]) == {"car"}
    assert (table.groupby("model")["split"].nunique() == 1).all()
    assert rejected(folder) == {}


def test_labels_become_azimuths_and_captions(folder):
    table = read_prepared(folder).metadata.set_index("id")
    rows = table.loc[[f"1-3-2011-{number:03d}abc" for number in range(len(VIEWPOINTS))]]
    assert rows["azimuth"].fillna(-1).tolist() == [-1, 0, 180, -1, -1, -1]
    assert rows["caption"].tolist() == [
        "an Audi A4L of 2011",
        "an Audi A4L of 2011, seen from the front",
        "an Audi A4L of 2011, seen from the rear",
        "an Audi A4L of 2011, seen from the side",
        "an Audi A4L of 2011, seen from the front and side",
        "an Audi A4L of 2011, seen from the rear and side",
    ]
    assert table.loc["1-3-unknown-000abc", "caption"] == "an Audi A4L"


def test_boxes_become_crops_with_margin(folder):
    rgb, mask, _ = read_sample_images(folder / "images/car/1-7/1-7-2012-003abc.png")
    rows, columns = (np.flatnonzero((mask > 127).any(axis=axis)) for axis in (1, 0))
    # 40 x 20 pixels in a crop of 48
    assert abs(np.ptp(columns) + 1 - 20) <= 1
    assert abs(np.ptp(rows) + 1 - 10) <= 1
    assert np.abs(rgb[mask == 255].astype(int) - [180, 20, 20]).mean() < 8
    assert (rgb[mask == 0] == 255).all()


def test_masks_of_a_folder_are_used_inside_the_box(source, tmp_path):
    for path in (source / "data" / "image").rglob("*.jpg"):
        mask = Image.new("L", (64, 48))
        ImageDraw.Draw(mask).rectangle((20, 0, 29, 47), fill=255)  # a column, higher than the box
        goal = (tmp_path / "masks" / path.relative_to(source / "data" / "image")).with_suffix(".png")
        goal.parent.mkdir(parents=True, exist_ok=True)
        mask.save(goal)
    (tmp_path / "masks/1/7/2012/000abc.png").unlink()
    Image.new("L", (20, 20), 255).save(tmp_path / "masks/1/7/2012/001abc.png")
    assert run(source / "data", tmp_path / "out", "--masks", str(tmp_path / "masks")) == 0
    mask = read_sample_images(tmp_path / "out/images/car/1-7/1-7-2012-003abc.png")[1]
    # 10 wide, cut to the box's 20 rows: the crop is 24, as is the picture
    assert (mask > 127).sum() == 200
    found = rejected(tmp_path / "out")
    assert "is missing" in found["000abc.jpg"]
    assert "another size" in found["001abc.jpg"]


def test_salient_object_is_found_in_the_box(tmp_path):
    from lib.data.silhouettes import U2NETP

    if not U2NETP.is_file():
        pytest.skip("the network is not there")
    data = tmp_path / "cars" / "data"
    write_photo(data, "1/3/2011/whole", 3)
    photo = Image.new("RGB", (200, 160), (235, 235, 230))
    ImageDraw.Draw(photo).ellipse((40, 50, 159, 109), fill=(170, 20, 30))
    photo.save(data / "image/1/3/2011/whole.jpg", quality=95)
    (data / "label/1/3/2011/whole.txt").write_text("3\n1\n41 51 160 110\n")
    assert run(tmp_path / "cars", tmp_path / "out", "--workers", "1") == 0
    mask = read_sample_images(tmp_path / "out/images/car/1-3/1-3-2011-whole.png")[1] > 127
    y, x = np.mgrid[:24, :24] + 0.5
    ellipse = ((x - 12) / 10) ** 2 + ((y - 12) / 5) ** 2 <= 1  # 120 x 60 in a crop of 144
    assert (mask & ellipse).sum() / (mask | ellipse).sum() > 0.85


DEFECTS = {
    "000abc": ("is not viewpoint, number of boxes and one box", "3\n1\n"),
    "001abc": ("is not viewpoint", "front\n1\n1 1 5 5\n"),
    "002abc": ("unknown viewpoint or an impossible box", "9\n1\n1 1 20 20\n"),
    "003abc": ("impossible box", "3\n1\n30 20 10 40\n"),
    "004abc": ("leaves the photo", "3\n1\n1 1 65 20\n"),
    "005abc": ("has no label", None),
}


def test_bad_labels_are_listed_and_the_rest_goes_on(damaged, tmp_path):
    for name, (_, text) in DEFECTS.items():
        label = damaged / "data/label/1/7/2012" / f"{name}.txt"
        label.write_text(text) if text is not None else label.unlink()
    (damaged / "data/image/78/10/2009/000abc.jpg").write_bytes(b"")
    write_photo(damaged / "data", "78/10/2009/full", 3, (1, 1, 64, 48))
    assert run(damaged, tmp_path / "out", "--boxes") == 0
    found = rejected(tmp_path / "out")
    for name, (words, _) in DEFECTS.items():
        if name != "000abc":  # two photos of that name are bad
            assert words in found[f"{name}.jpg"]
    reasons = (tmp_path / "out" / "rejected.csv").read_text()
    assert DEFECTS["000abc"][0] in reasons
    assert "is empty" in reasons
    table = read_prepared(tmp_path / "out").metadata
    assert len(table) == 5 * len(VIEWPOINTS) - len(DEFECTS) - 1 + 1
    assert "78-10-2009-full" in set(table["id"])  # a box as large as the photo still leaves some background


def test_names_are_not_needed(damaged, tmp_path):
    (damaged / "data/misc/make_model_name.mat").unlink()
    assert run(damaged, tmp_path / "out", "--boxes") == 0
    assert read_prepared(tmp_path / "out").metadata["caption"].iloc[0].startswith("a car")
