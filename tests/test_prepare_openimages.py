"""The OpenImages script, run on a tiny folder that has the official layout, with seeded defects."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_cad import save
from tiny_downloads import check_rejected, download, rejected

from data_scripts import prepare_openimages
from lib.data.images import read_sample_images
from lib.data.prepared import read_prepared

LABELS = {"/m/0k4j": "Car", "/m/01mzpv": "Chair", "/m/0h8n5zk": "Kitchen & dining room table"}
SIZE = (96, 64)
CARS, CHAIRS = 20, 4
SIDES = ("XMin", "XMax", "YMin", "YMax")
FLAGS = ("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside")


def image_id(number: int) -> str:
    return f"{number:016x}"


class Writer:
    """The tables of one subset, and the files they name."""

    def __init__(self, folder: Path, subset: str):
        self.folder, self.subset, self.segments, self.boxes = folder, subset, [], []

    def add(self, number: int, label: str, box: tuple, flags: dict | None = None, scale: float = 0.5) -> str:
        """An ellipse in a box of fractions XMin, XMax, YMin, YMax; its mask is stored at another size."""
        x0, x1, y0, y1 = box
        mask_path = f"{image_id(number)}_{label[1:].replace('/', '')}_{number:08x}.png"
        marks = {**dict.fromkeys(FLAGS, 0), **(flags or {})}
        self.segments.append([mask_path, image_id(number), label, f"{number:08x}", x0, x1, y0, y1, 0.9, "0.5 0.5 1;"])
        shift = 0.0003  # the tables round differently
        sides = [x0 + shift, x1, y0, y1 - shift]
        self.boxes.append([image_id(number), "xclick", label, 1, *sides, *(marks[flag] for flag in FLAGS)])

        def ellipse(width: int, height: int) -> np.ndarray:
            x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
            return ((x - (x0 + x1) / 2) / (x1 - x0) * 2) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0) * 2) ** 2 < 1

        rgb = np.where(ellipse(*SIZE)[..., None], np.array([200, 10 * (number % 20), 30]), np.array([20, 90, 220]))
        save(rgb.astype(np.uint8), self.folder / self.subset / f"{image_id(number)}.jpg")
        inside = ellipse(*(round(scale * side) for side in SIZE))
        save((inside * 255).astype(np.uint8), self.folder / "masks" / mask_path)
        return mask_path

    def write(self) -> None:
        prefix = "oidv6-" if self.subset == "train" else ""
        segments = ["MaskPath", "ImageID", "LabelName", "BoxID", *(f"Box{side}" for side in SIDES)]
        segments += ["PredictedIoU", "Clicks"]
        boxes = ["ImageID", "Source", "LabelName", "Confidence", *SIDES, *FLAGS]
        for name, header, rows in (
            (f"{self.subset}-annotations-object-segmentation.csv", segments, self.segments),
            (f"{prefix}{self.subset}-annotations-bbox.csv", boxes, self.boxes),
        ):
            with (self.folder / name).open("w", newline="") as file:
                csv.writer(file).writerows([header, *rows])


def write_openimages(folder: Path) -> Path:
    folder.mkdir(parents=True)
    train, validation = Writer(folder, "train"), Writer(folder, "validation")
    for number in range(CARS):
        half = 0.1 + 0.01 * number  # the later the larger
        train.add(number, "/m/0k4j", (0.5 - half, 0.5 + half, 0.5 - half, 0.5 + half))
    for number in range(100, 100 + CHAIRS):
        validation.add(number, "/m/01mzpv", (0.2, 0.6, 0.3, 0.9))
    for number, flag in enumerate(FLAGS, 200):
        validation.add(number, "/m/01mzpv", (0.2, 0.6, 0.3, 0.9), {flag: 1})
    validation.add(300, "/m/01mzpv", (0.3, 0.7, 0.3, 0.9), dict.fromkeys(FLAGS, -1))  # nobody said
    validation.boxes += [
        [image_id(100), "xclick", "/m/01mzpv", 1, 0.21, 0.61, 0.31, 0.91, 1, 0, 0, 0, 0]
    ]  # a neighbour
    train.write()
    validation.write()
    lines = [f'{label},"{name}"' for label, name in LABELS.items()]
    (folder / "class-descriptions-boxable.csv").write_text("\n".join(lines) + "\n")
    return folder


def run(source: Path, output: Path, *more: str) -> int:
    options = [str(source), "--output", str(output), "--image-size", "32", *more]
    return prepare_openimages.main(options if "--categories" in more else [*options, "--categories", "Car,Chair"])


source, folder, damaged = download(write_openimages, run)


def test_whole_objects_have_their_rows_and_the_rest_is_counted(folder):
    table = read_prepared(folder).metadata
    assert table["category"].value_counts().to_dict() == {"car": CARS, "chair": CHAIRS + 1}
    assert table["azimuth"].isna().all()
    assert table["mesh"].isna().all()
    found = list(csv.reader((folder / "rejected.csv").open()))
    words = ("a depiction", "a group", "occluded", "seen from inside", "truncated")
    assert found == [["file", "reason"], *(["Chair", f"1 objects are {word}."] for word in words)]


def test_a_tenth_is_for_testing(folder, source, tmp_path):
    table = read_prepared(folder).metadata
    assert table[table["category"] == "car"]["split"].value_counts().to_dict() == {"train": CARS - 2, "test": 2}
    assert run(source, tmp_path / "out", "--categories", "Car", "--most", "10") == 0
    few = read_prepared(tmp_path / "out").metadata
    assert set(few["id"]) == {
        row.id for row in table.itertuples() if row.category == "car" and int(row.id[:16], 16) >= 10
    }
    assert rejected(tmp_path / "out") == {"Car": "10 objects are smaller than the 10 largest."}
    assert (
        "car: 10 samples; ShapeClipper takes 1000 to 3000 of a class." in read_prepared(tmp_path / "out").info["notes"]
    )


def test_masks_are_resized_to_their_photos(folder):
    prepared = read_prepared(folder)
    row = prepared.metadata.set_index("id").loc["0000000000000064_m01mzpv_00000064"]
    rgb, mask, _ = read_sample_images(prepared.path(row["image"]))
    # 38.4 x 38.4 pixels of the photo in a crop of 1.2 times that
    rows, columns = (np.flatnonzero((mask > 127).any(axis=axis)) for axis in (1, 0))
    assert abs(np.ptp(columns) + 1 - 32 / 1.2) <= 2
    assert abs(np.ptp(rows) + 1 - 32 / 1.2) <= 2
    inside = rgb[mask == 255].astype(int)
    assert np.abs(np.median(inside, axis=0) - [200, 0, 30]).max() < 12
    assert (rgb[mask == 0] == 255).all()


def test_names_with_spaces_become_folders(damaged, tmp_path):
    extra = Writer(damaged, "test")
    extra.add(400, "/m/0h8n5zk", (0.2, 0.8, 0.2, 0.8))
    extra.write()
    assert run(damaged, tmp_path / "out", "--categories", "Kitchen & dining room table") == 0
    row = read_prepared(tmp_path / "out").metadata.iloc[0]
    assert row["category"] == "kitchen_dining_room_table"
    assert row["caption"] == "a photo of a kitchen & dining room table"


def segment_path(number: int, kind: str = "0k4j") -> str:
    return f"{image_id(number)}_m{kind}_{number:08x}.png"


def edit_boxes(folder: Path, number: int, **sides: float) -> None:
    """Change a box in both tables."""
    for name, prefix in (
        ("train-annotations-object-segmentation.csv", "Box"),
        ("oidv6-train-annotations-bbox.csv", ""),
    ):
        table = pd.read_csv(folder / name, dtype={"ImageID": str})
        for side, value in sides.items():
            table.loc[table["ImageID"] == image_id(number), prefix + side] = value
        table.to_csv(folder / name, index=False)


def test_bad_samples_are_listed_and_the_rest_goes_on(damaged, tmp_path):
    masks, photos = damaged / "masks", damaged / "train"
    (masks / segment_path(0)).unlink()
    (masks / segment_path(1)).write_bytes(b"")
    save(np.full((50, 20), 255, np.uint8), masks / segment_path(2))
    save(np.zeros((32, 48), np.uint8), masks / segment_path(3))
    (photos / f"{image_id(4)}.jpg").write_bytes((photos / f"{image_id(4)}.jpg").read_bytes()[:200])
    (photos / f"{image_id(5)}.jpg").unlink()
    (photos / "ferien-ä.jpg").write_bytes(b"")
    edit_boxes(damaged, 6, XMin=0.5, XMax=0.5)
    edit_boxes(damaged, 7, XMin=0.0, XMax=0.1, YMin=0.0, YMax=0.1)
    table = pd.read_csv(damaged / "oidv6-train-annotations-bbox.csv", dtype={"ImageID": str})
    table[table["ImageID"] != image_id(8)].to_csv(damaged / "oidv6-train-annotations-bbox.csv", index=False)
    assert run(damaged, tmp_path / "out", "--categories", "Car") == 0
    words = {
        f"{image_id(0)}.jpg": "is missing; fetch the masks whose names begin with its digit",
        f"{image_id(1)}.jpg": "is empty",
        f"{image_id(2)}.jpg": "another shape",
        f"{image_id(3)}.jpg": "is empty",
        f"{image_id(4)}.jpg": "damaged",
        "Car": "1 objects are in photos that are not in the folder.",
        f"{image_id(6)}.jpg": "empty or outside",
        f"{image_id(7)}.jpg": "different objects",
        segment_path(8): "no box fits this mask.",
    }
    check_rejected(tmp_path / "out", words)
    assert len(read_prepared(tmp_path / "out").metadata) == CARS - len(words)


BOXES, MASKS = "oidv6-train-annotations-bbox.csv", "train-annotations-object-segmentation.csv"


def test_a_table_cut_anywhere_in_its_last_row_is_refused(damaged, tmp_path, capsys):
    """Inside a number, before a comma, in a column that is not used: what is left can often be read as a row."""
    data = (damaged / MASKS).read_bytes().replace(b"\r\n", b"\n")
    for keep in range(-1, -25, -1):
        (damaged / MASKS).write_bytes(data[:keep])
        assert run(damaged, tmp_path / "out", "--categories", "Car") == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "half downloaded; fetch it again." in error
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [BOXES, MASKS])
def test_a_short_last_row_is_refused_though_its_line_ends(damaged, tmp_path, capsys, name):
    path = damaged / name
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:-1], lines[-1].rpartition(",")[0]]) + "\n")
    assert run(damaged, tmp_path / "out", "--categories", "Car") == 2
    assert "half downloaded; fetch it again." in capsys.readouterr().err


def test_a_whole_table_needs_no_end_of_line(damaged, tmp_path, monkeypatch):
    (damaged / MASKS).write_bytes((damaged / MASKS).read_bytes().removesuffix(b"\r\n"))
    monkeypatch.setitem(prepare_openimages.OFFICIAL_ROWS["masks"], "train", CARS)
    assert run(damaged, tmp_path / "out", "--categories", "Car") == 0
    assert len(read_prepared(tmp_path / "out").metadata) == CARS


def test_rows_are_counted_beside_the_official_totals(damaged, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prepare_openimages.OFFICIAL_ROWS["boxes"], "train", CARS)
    lines = (damaged / MASKS).read_text().splitlines()
    (damaged / MASKS).write_text("\n".join(lines[:-5]) + "\n")  # between two rows, where nothing else shows it
    assert run(damaged, tmp_path / "out", "--categories", "Car") == 0
    info = read_prepared(tmp_path / "out").info
    assert info["table_rows"][MASKS] == {"rows": CARS - 5, "official": 2_686_666}
    assert info["table_rows"][BOXES] == {"rows": CARS, "official": CARS}
    note = f"{MASKS} has {CARS - 5} rows, the official table 2,686,666; is the download partial?"
    assert note in info["notes"] and note in capsys.readouterr().out
    assert not any(note.startswith(BOXES) for note in info["notes"])
