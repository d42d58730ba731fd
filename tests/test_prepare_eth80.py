"""The ETH-80 script, run on a tiny folder that has the official layout, with seeded defects."""

import shutil
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tiny_downloads import check_rejected, contents, download, rejected, runner, stopped_after

from data_scripts import photo_sets, prepare_eth80
from data_scripts.jobs import split_of_models
from lib.data.images import read_sample_images
from lib.data.prepared import read_prepared

VIEWS = ("000-000", "035-045", "066-153", "090-000", "090-090", "090-180")
SIZE = 40
BOX = (8, 12, 27, 23)  # of the disc, corners included


def write_photo(path: Path, mask: Path, color=(200, 30, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask.parent.mkdir(parents=True, exist_ok=True)
    photo, silhouette = Image.new("RGB", (SIZE, SIZE), (20, 40, 200)), Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(photo).ellipse(BOX, fill=color)
    ImageDraw.Draw(silhouette).ellipse(BOX, fill=255)
    photo.save(path)
    silhouette.save(mask)


def write_eth80(folder: Path, instances: int = 10, flat: bool = False) -> Path:
    for kind in ("apple", "car"):
        for number in range(1, instances + 1):
            for view in VIEWS:
                name = f"{kind}{number}-{view}"
                place = folder / kind / (f"{kind}{number}" if not flat else "img")
                mask = folder / kind / "mask" / f"{name}.png" if flat else place / "maps" / f"{name}-map.png"
                write_photo(place / f"{name}.png", mask, (200, 20 * number, 30))
    return folder


run = runner(prepare_eth80, "--image-size", "32")
source, folder, damaged = download(write_eth80, run)


def test_every_photo_has_its_row_and_instances_share_a_split(folder):
    table = read_prepared(folder).metadata
    assert len(table) == 2 * 10 * len(VIEWS)
    assert (table.groupby("model")["split"].nunique() == 1).all()
    counts = table.drop_duplicates("model").groupby(["category", "split"]).size().unstack()
    assert counts.loc["apple"].to_dict() == counts.loc["car"].to_dict() == {"test": 2, "train": 7, "val": 1}
    assert rejected(folder) == {}
    assert set(table["caption"]) == {"a photo of an apple", "a photo of a car"}


def test_angles_are_those_of_the_name(folder):
    table = read_prepared(folder).metadata.set_index("id")
    # from the front: theirs 90; front on the left: theirs 180, and the camera of the format's 90 stands at -x
    expected = {"000-000": (270, 90), "035-045": (315, 55), "066-153": (63, 24), "090-090": (0, 0), "090-180": (90, 0)}
    for view, angles in expected.items():
        assert tuple(table.loc[f"car3-{view}", ["azimuth", "elevation"]]) == angles
    assert (table["tilt"] == 0).all()
    assert table["distance"].isna().all()


def test_crop_is_square_with_margin_and_without_the_background(folder):
    prepared = read_prepared(folder)
    row = prepared.metadata.set_index("id").loc["apple4-090-000"]
    rgb, mask, _ = read_sample_images(prepared.path(row["image"]))
    assert rgb.shape == (32, 32, 3)
    columns = np.flatnonzero((mask > 127).any(axis=0))
    rows = np.flatnonzero((mask > 127).any(axis=1))
    # the disc is 20 x 12 pixels, so the crop is 24 a side
    assert abs(np.ptp(columns) + 1 - 32 * 20 / 24) <= 1
    assert abs(np.ptp(rows) + 1 - 32 * 12 / 24) <= 1
    assert abs(columns.min() + columns.max() - 31) <= 1
    np.testing.assert_array_equal(rgb[mask == 255], np.tile([200, 80, 30], ((mask == 255).sum(), 1)))
    assert (rgb[mask == 0] == 255).all()


def test_flat_layout_gives_the_same_images(folder, tmp_path):
    assert run(write_eth80(tmp_path / "flat", flat=True), tmp_path / "out") == 0
    ours, theirs = contents(tmp_path / "out"), contents(folder)
    assert ours == theirs


def test_masks_of_another_size_and_numbered_folders_are_read(tmp_path, folder):
    place = tmp_path / "in" / "3" / "1"
    for view in VIEWS:
        write_photo(place / f"car1-{view}.png", place / "maps" / f"car1-{view}-map.png")
    large = Image.open(place / "maps" / "car1-090-000-map.png").resize((80, 80), Image.Resampling.NEAREST)
    large.save(place / "maps" / "car1-090-000-map.png")
    assert run(tmp_path / "in", tmp_path / "out") == 0
    images = [tmp_path / "out" / f"images/car/car1/car1-{view}.png" for view in ("090-000", "090-090")]
    masks = [read_sample_images(path)[1] for path in images]
    np.testing.assert_array_equal(*masks)


def spoil_map(photo: Path, level: int) -> None:
    Image.new("L", (40, 40), level).save(photo.parent / "maps" / f"{photo.stem}-map.png")


def animate(photo: Path) -> None:
    Image.new("RGB", (40, 40)).save(photo, save_all=True, append_images=[Image.new("RGB", (40, 40), "red")])


DEFECTS = {
    "car1-090-000.png": ("is empty", lambda path: path.write_bytes(b"")),
    "car1-090-090.png": ("no image", lambda path: path.write_text("not an image")),
    "car1-090-180.png": ("damaged", lambda path: path.write_bytes(path.read_bytes()[:120])),
    "car1-000-000.png": ("1 x 1 pixels", lambda path: Image.new("RGB", (1, 1)).save(path)),
    "car1-035-045.png": ("animated", animate),
    "car1-066-153.png": (
        "mask car1-066-153-map.png",
        lambda path: (path.parent / f"maps/{path.stem}-map.png").unlink(),
    ),
    "car2-090-000.png": ("empty", lambda path: spoil_map(path, 0)),
    "car2-090-090.png": ("all foreground", lambda path: spoil_map(path, 255)),
}


def test_bad_photos_are_listed_and_the_rest_goes_on(damaged, tmp_path, capsys):
    for name, (_, spoil) in DEFECTS.items():
        spoil(damaged / "car" / name.split("-")[0] / name)
    Image.new("L", (9000, 8000)).save(damaged / "apple/apple1/apple1-090-000.png")
    shutil.copy(damaged / "apple/apple2/apple2-090-000.png", damaged / "apple/apple1/apple2-090-000.png")
    shutil.copytree(damaged / "apple/apple2/maps", damaged / "apple/apple1/maps", dirs_exist_ok=True)
    Image.new("RGB", (40, 40)).save(damaged / "apple/holiday.png")
    assert run(damaged, tmp_path / "out") == 0
    words = {name: part for name, (part, _) in DEFECTS.items()}
    words |= {"apple1-090-000.png": "megapixels", "apple2-090-000.png": "a second photo", "holiday.png": "is not named"}
    check_rejected(tmp_path / "out", words)
    table = read_prepared(tmp_path / "out").metadata
    assert len(table) == 2 * 10 * len(VIEWS) - len(DEFECTS) - 1
    assert "11 rejected, see rejected.csv" in capsys.readouterr().out


def test_photos_are_turned_upright_and_keep_their_size(tmp_path):
    rgb = np.zeros((1200, 1800, 3), np.uint8)
    rgb[:, :900] = 255  # the left half is white; turned by orientation 6, the upper half is
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    upright = photo_sets.open_upright(tmp_path / "turned.jpg").astype(int)
    assert upright.shape == (1800, 1200, 3)
    assert upright[:880].mean() > 250
    assert upright[920:].mean() < 5


def test_interrupted_run_goes_on_and_gives_the_same_bytes(source, folder, tmp_path, monkeypatch, capsys):
    real = photo_sets.cut_out
    monkeypatch.setattr(photo_sets, "cut_out", stopped_after(30, real))
    assert run(source, tmp_path / "out", "--workers", "1") == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "out.partial/parts").glob("*.json"))) == 5
    again = []
    monkeypatch.setattr(photo_sets, "cut_out", lambda photo, *a, **k: again.append(photo.id) or real(photo, *a, **k))
    assert run(source, tmp_path / "out", "--workers", "3") == 0
    assert len(again) == 15 * len(VIEWS)
    assert contents(tmp_path / "out") == contents(folder)
    assert not (tmp_path / "out.partial").exists()


def test_splits_do_not_depend_on_the_order():
    models = [("car", f"car{i}") for i in range(10)] + [("cup", f"cup{i}") for i in range(4)]
    splits = split_of_models(models)
    assert splits == split_of_models(reversed(models))
    assert sorted(splits[f"car{i}"] for i in range(10)) == ["test"] * 2 + ["train"] * 7 + ["val"]
    assert sorted(splits[f"cup{i}"] for i in range(4)) == ["test"] + ["train"] * 3
