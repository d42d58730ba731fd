"""A folder of photos, good and bad, becomes a prepared data set; every file here is a real one, made on the spot."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file
from tiny_downloads import check_rejected, contents, rejected

from data_scripts import prepare_photos
from data_scripts.contact_sheet import PER_PAGE, write_contact_sheet
from data_scripts.crops import reduced, straight
from data_scripts.output import take_up
from data_scripts.photo_copies import merge_copies, signature
from data_scripts.photo_folder import assign_splits
from data_scripts.photo_names import list_items, unique_names
from lib.data.images import check_normals, on_white, read_sample_images, write_png16
from lib.data.loading import PreparedDataset
from lib.data.neighbors import read_neighbors
from lib.data.photos_reading import read_photo_file
from lib.data.prepared import read_prepared
from lib.errors import InputError
from lib.files import write_json
from lib.networks.normal_network import NormalNetwork, NormalNetworkConfig, describe
from lib.paths import REPOSITORY

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A normal network that has learned nothing, but is quick."""
    folder = tmp_path_factory.mktemp("networks") / "untrained"
    torch.manual_seed(0)
    net = NormalNetwork(NormalNetworkConfig(32))
    torch.nn.init.normal_(net.head[-1].weight, std=0.3)
    write_json(folder / "config.json", describe(net))
    save_file(net.state_dict(), folder / "weights.safetensors")
    return folder


def ellipse(width=80, height=60, box=(15, 10, 55, 50), colour=(200, 60, 40)) -> tuple[np.ndarray, np.ndarray]:
    """A shaded ellipse on a gradient, uint8, and its mask."""
    y, x = np.mgrid[:height, :width] + 0.5
    photo = np.dstack([120 + 60 * y / height] * 3)
    u, v = (2 * x - box[0] - box[2]) / (box[2] - box[0]), (2 * y - box[1] - box[3]) / (box[3] - box[1])
    inside = u**2 + v**2 < 1
    light = 0.4 + 0.6 * np.clip(-0.5 * u - 0.5 * v + 0.7 * np.sqrt(np.clip(1 - u**2 - v**2, 0, None)), 0, 1)
    photo[inside] = (light[..., None] * colour)[inside]
    return photo.astype(np.uint8), inside


def rgba(**shape) -> Image.Image:
    photo, inside = ellipse(**shape)
    return Image.fromarray(np.dstack([photo, inside * np.uint8(255)]))


def write_good(folder: Path, count=6) -> None:
    """Cut-out photos of three objects: red1, red2, blue1 ... in two folders."""
    for index in range(count):
        colour = [(200, 60, 40), (40, 80, 200), (60, 160, 60)][index % 3]
        place = folder / ("cups" if index % 2 else "pots")
        place.mkdir(parents=True, exist_ok=True)
        image = rgba(box=(10 + index, 8, 50 + 3 * index, 40 + index), colour=colour)
        image.save(place / f"thing{index}-view.png")


def arguments(folder: Path, output: Path, network: Path, *extra: str) -> list[str]:
    plain = ["--normals", str(network), "--image-size", "32", "--embedding", "pixels", "--count", "2"]
    return [str(folder), "--output", str(output), *plain, "--split", "1,0,0", *extra]


# ---------------------------------------------------------------- good photos


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, network) -> Path:
    root = tmp_path_factory.mktemp("photos")
    write_good(root / "in")
    assert prepare_photos.main(arguments(root / "in", root / "out", network)) == 0
    return root / "out"


def test_the_folder_is_a_data_set_to_train_on(prepared):
    dataset = PreparedDataset(prepared, "train")
    assert len(dataset) == 6
    assert tuple(dataset.rgb.shape[1:]) == (32, 32, 3)
    assert set(dataset.metadata["category"]) == {"cups", "pots"}
    assert dataset.normal.shape == (6, 32, 32, 3)
    for normal, mask in zip(dataset.normal.float().numpy(), dataset.mask.numpy(), strict=True):
        check_normals(normal, mask, "test")
    assert not (prepared / "parts").exists()
    assert rejected(prepared) == {}
    assert {path.name for path in prepared.parent.iterdir()} == {"in", "out"}


def test_crops_have_the_margin_and_the_colours(prepared):
    table = read_prepared(prepared).metadata.set_index("id")
    rgb, mask, _ = read_sample_images(prepared / table.loc["pots-thing0-view", "image"])
    rows, columns = np.nonzero(mask >= 128)
    box = max(np.ptp(rows), np.ptp(columns)) + 1
    assert 32 / box == pytest.approx(1.2, abs=0.06)
    assert abs(rows.mean() - 15.5) < 1
    assert abs(columns.mean() - 15.5) < 1
    photo, inside = ellipse(box=(10, 8, 50, 40))
    np.testing.assert_allclose(rgb[mask == 255].mean(axis=0), photo[inside].mean(axis=0), atol=6)
    assert (rgb[mask == 0] == 255).all()


def test_straight_colours_are_undone_by_white():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 256, (20, 20), dtype=np.uint8)
    colour = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    seen = on_white(colour, mask)
    again = on_white(straight(seen, mask), mask)
    assert np.abs(again.astype(int) - seen).max() <= 1


def test_reduced_normals_are_mean_directions():
    fine = np.zeros((4, 4, 3))
    fine[:2, :2] = [0, 0, -1]
    fine[:2, 2:, :] = np.array([[0.6, 0, -0.8], [-0.6, 0, -0.8]])[[0, 1]]
    coarse = reduced(fine, np.uint8([[255, 9], [0, 255]]))
    np.testing.assert_allclose(coarse[0], [[0, 0, -1], [0, 0, -1]], atol=1e-12)
    assert (coarse[1, 0] == 0).all()
    np.testing.assert_allclose(np.linalg.norm(coarse[1, 1]), 1)


def test_neighbours_are_of_other_objects_of_the_category(prepared):
    table = read_prepared(prepared).metadata.set_index("id")
    near = pd.read_parquet(prepared / "neighbors" / "pixels.parquet")
    assert len(near) == 6 * 2
    assert (table.loc[near["id"], "category"].to_numpy() == table.loc[near["neighbor"], "category"].to_numpy()).all()
    assert (near["id"] != near["neighbor"]).all()


def test_too_few_photos_for_their_neighbours_are_named(network, tmp_path, capsys):
    write_good(tmp_path / "in", 5)  # three pots, two cups
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "out", network)) == 0
    note = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    assert note.startswith(
        "note: 2 samples have fewer than 2 neighbours: too few photos of other objects in cups (train);"
    )
    assert "--categories" in note
    data = PreparedDataset(tmp_path / "out", "train")
    with pytest.raises(InputError, match="category 'cups' has 2 train samples, 1 of other objects; leave"):
        read_neighbors(tmp_path / "out", data.metadata, "pixels")
    pots = PreparedDataset(tmp_path / "out", "train", categories=["pots"])
    assert read_neighbors(tmp_path / "out", pots.metadata, "pixels").shape == (3, 2)


def test_the_contact_sheet_shows_everything_without_a_network(prepared):
    page = (prepared / "contact_sheet" / "index.html").read_text()
    sources = re.findall(r'src="([^"]+)"', page)
    assert len(sources) == 6 * (3 + 2)
    assert all((prepared / "contact_sheet" / source).is_file() for source in sources)
    assert "http" not in page
    assert "<script" not in page


def test_many_samples_take_several_pages(prepared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(prepared, folder)
    table = pd.read_parquet(folder / "metadata.parquet")
    many = pd.concat([table.assign(id=table["id"] + f"-{n:03d}") for n in range(PER_PAGE // 6 + 1)])
    many.to_parquet(folder / "metadata.parquet")
    write_contact_sheet(folder, "none", [["<b>.jpg", "is <no> image"]])
    second = (folder / "contact_sheet" / "page-00002.html").read_text()
    assert (folder / "contact_sheet" / "index.html").read_text().count("<tr><td>") == PER_PAGE
    assert second.count("<tr><td>") == len(many) - PER_PAGE + 1
    assert "&lt;b&gt;.jpg" in second
    assert 'href="index.html"' in second


@pytest.mark.slow
def test_same_photos_same_bytes_whatever_the_workers(prepared, network, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_photos, "CHUNK", 2)
    output = tmp_path / "out"
    assert prepare_photos.main(arguments(prepared.parent / "in", output, network, "--workers", "2")) == 0
    found, expected = contents(output), contents(prepared)
    vectors = [load(files.pop("embeddings/pixels.safetensors")) for files in (found, expected)]
    assert found == expected
    torch.testing.assert_close(*vectors, rtol=0, atol=0)  # the order of the file's header is safetensors' own


def test_a_changed_photo_is_refused(network, tmp_path):
    write_good(tmp_path / "in", 2)
    settings, items = prepare_photos.plan(prepare_photos.parse(arguments(tmp_path / "in", tmp_path / "out", network)))
    take_up(tmp_path / "out.partial", prepare_photos.work_note(settings, items))
    take_up(tmp_path / "out.partial", prepare_photos.work_note(settings, items))
    rgba(box=(5, 5, 40, 40)).save(tmp_path / "in" / items[0].source)
    with pytest.raises(InputError, match=r"out\.partial holds unfinished work with other photos: .* remove"):
        take_up(tmp_path / "out.partial", prepare_photos.work_note(settings, items))


def test_checks_can_be_allowed(network, tmp_path):
    (tmp_path / "in").mkdir()
    rgba(box=(-10, 10, 40, 50)).save(tmp_path / "in" / "cut.png")
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "no", network)) == 2
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "out", network, "--allow", "truncated")) == 0


# ---------------------------------------------------------------- names, splits, masks


def test_names_categories_and_models(tmp_path):
    for name in ("car3-066-153.jpg", "car3-066-180.jpg", "cars/käfer 1.png", ".hidden.png", "cars/deep/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    items = list_items(tmp_path, separator="-")
    assert [(item.id, item.category, item.model) for item in items] == [
        ("car3-066-153", "photo", "car3"),
        ("car3-066-180", "photo", "car3"),
        ("cars-deep-x", "cars", "cars-deep-x"),
        ("cars-käfer_1", "cars", "cars-käfer_1"),
    ]
    assert {item.category for item in list_items(tmp_path, "car")} == {"car"}
    assert len({item.model for item in list_items(tmp_path)}) == 4


def test_what_lies_beside_a_photo_does_not_take_its_name(network, tmp_path):
    """Phones write IMG_1.AAE beside IMG_1.JPG; an animation or a print may have the name of a good photo."""
    (tmp_path / "in").mkdir()
    photo, _ = ellipse()
    for index in range(3):
        rgba(box=(10 + 9 * index, 8, 50, 40 + index)).save(tmp_path / "in" / f"IMG_{index}.PNG")
        (tmp_path / "in" / f"IMG_{index}.AAE").write_text("<plist>")
    rgba(box=(5, 5, 70, 30)).save(tmp_path / "in" / "anim.webp", lossless=True)
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1].copy())]
    frames[0].save(tmp_path / "in" / "anim.gif", save_all=True, append_images=frames[1:])
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "out", network)) == 0
    assert read_prepared(tmp_path / "out").metadata["id"].tolist() == ["IMG_0", "IMG_1", "IMG_2", "anim.webp"]
    assert rejected(tmp_path / "out").keys() == {"IMG_0.AAE", "IMG_1.AAE", "IMG_2.AAE", "anim.gif"}
    listed = rejected(tmp_path / "out", "duplicates.csv")
    assert listed.keys() == {"anim.webp"}
    assert "duplicate name: anim.gif is called alike" in listed["anim.webp"]


def test_ids_are_unique_and_independent_of_the_order():
    files = ["a.png", "a.webp", "a.png.jpg", "b c.png", "b_c.png", "B.jpg", "b.jpeg", "x/y-z.png", "x-y/z.png", "a"]
    names = unique_names(files)
    assert len({name.casefold() for name in names}) == len(files)
    assert unique_names(files[::-1]) == names[::-1]
    assert dict(zip(files, names, strict=True))["a.webp"] == "a.webp"
    assert unique_names(["a.png", "c/a.webp", "d.tar.jpg"]) == ["a", "c-a", "d.tar"]


def test_splits_keep_models_together_and_shares(tmp_path):
    rows = [{"category": "a", "model": f"m{n // 3}"} for n in range(60)]
    split = assign_splits(rows, {"train": 0.7, "val": 0.1, "test": 0.2}, 0)
    table = pd.DataFrame(split)
    assert (table.groupby("model")["split"].nunique() == 1).all()
    assert table.groupby("split")["model"].nunique().to_dict() == {"train": 14, "val": 2, "test": 4}
    assert assign_splits(rows[::-1], {"train": 0.7, "val": 0.1, "test": 0.2}, 0)[::-1] == split
    assert assign_splits(rows, {"train": 0.7, "val": 0.1, "test": 0.2}, 1) != split
    both = [{"category": kind, "model": f"m{n}"} for n in range(40) for kind in ("b", "a")]
    table = pd.DataFrame(assign_splits(both, {"train": 0.5, "val": 0.2, "test": 0.3}, 0))
    assert (table.groupby("model")["split"].nunique() == 1).all()
    assert table.groupby("split")["model"].nunique().to_dict() == {"train": 20, "val": 8, "test": 12}


def landscape(seed: int) -> np.ndarray:
    """Smooth colours, as of a photo: noise of few pixels, enlarged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((240, 180), Image.Resampling.BICUBIC))


def signatures(folder: Path, pictures: dict[str, Image.Image], **how) -> np.ndarray:
    for name, picture in pictures.items():
        picture.save(folder / name, **(how if name.endswith("jpg") else {}))
    return np.stack([signature(read_photo_file(folder / name)) for name in pictures])


def test_near_duplicates_become_one_model_along_chains(tmp_path):
    a, b = (Image.fromarray(landscape(seed)) for seed in range(2))
    pictures = {"a.png": a, "b.png": b, "small.jpg": a.resize((160, 120)), "a.webp": a, "b.jpg": b, "grey.png": a}
    pictures["grey.png"] = Image.new("RGB", (40, 40), (90, 90, 90))
    rows = [{"id": name, "model": model} for name, model in zip(pictures, "qrstub", strict=True)]
    known = signatures(tmp_path, pictures, quality=40)
    merged, listed = merge_copies(known, rows)
    assert [row["model"] for row in merged] == ["q", "r", "q", "q", "r", "b"]
    assert [name for name, _ in listed] == ["a.png", "b.png", "small.jpg", "a.webp", "b.jpg"]
    assert listed[1][1].endswith("with 'b.jpg'; both count as views of one object, 'r'")
    x = known[[1, 4]].astype(np.float64)
    assert f"correlation {np.corrcoef(x)[0, 1]:.4f}" in listed[1][1]
    assert merge_copies(known, rows, 1) == (rows, [])


def test_chains_of_copies_are_one_model():
    """Against union of all pairs, one at a time: rows along a line, of which only neighbours are alike enough."""
    angle = np.arange(12) * 0.05
    angle[6:] += 1
    wave = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    known = np.uint8(np.rint(127 + 120 * np.sin(wave + angle[:, None])))
    order = np.random.default_rng(0).permutation(12)
    rows = [{"id": str(i), "model": f"m{i:02d}"} for i in order]
    merged, _ = merge_copies(known[order], rows, np.cos(0.07))
    assert [row["model"] for row in merged] == ["m00" if i < 6 else "m06" for i in order]


def test_copies_share_a_split_and_are_no_neighbours(network, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(12):
        box = (40 + 16 * (index % 3), 32, 200 + 8 * index, 120 + 8 * index)
        image = rgba(width=320, height=240, box=box, colour=(20 * index, 99, 200))
        image.save(tmp_path / "in" / f"{index:02d}.png")
        image.resize((160, 120), Image.Resampling.LANCZOS).save(tmp_path / "in" / f"copy{index:02d}.webp", quality=90)
    command = arguments(tmp_path / "in", tmp_path / "out", network, "--split", "0.5,0,0.5")
    assert prepare_photos.main(command) == 0
    table = read_prepared(tmp_path / "out").metadata.set_index("id")
    near = pd.read_parquet(tmp_path / "out" / "neighbors" / "pixels.parquet")
    assert len(table) == 24 and len(near) == 48
    for index in range(12):
        pair = table.loc[[f"{index:02d}", f"copy{index:02d}"]]
        assert pair["split"].nunique() == pair["model"].nunique() == 1
    assert not (table.loc[near["id"], "model"].to_numpy() == table.loc[near["neighbor"], "model"].to_numpy()).any()
    assert rejected(tmp_path / "out", "duplicates.csv").keys() >= {f"copy{index:02d}.webp" for index in range(12)}


def test_masks_from_a_folder(network, tmp_path):
    photo, inside = ellipse()
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(photo).save(tmp_path / "in" / name)
    Image.fromarray(inside).save(tmp_path / "masks" / "a.png")
    Image.fromarray(inside[:-1]).save(tmp_path / "masks" / "b.png")
    extra = ["--masks", str(tmp_path / "masks")]
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "out", network, *extra)) == 0
    table = read_prepared(tmp_path / "out").metadata
    assert table["id"].tolist() == ["a"]
    _, mask, _ = read_sample_images(tmp_path / "out" / table["image"][0])
    assert (mask / 255).mean() == pytest.approx(np.pi / 4 / 1.44, abs=0.02)  # a disc in a square with the margin
    why = rejected(tmp_path / "out")
    assert "80 x 59 pixels but the photo 80 x 60" in why["b.png"]
    assert "holds no file c.png" in why["c.png"]


# ---------------------------------------------------------------- bad photos


def upright_photo(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    photo, _ = ellipse(240, 160, (40, 20, 140, 130))
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # held so that the picture must be turned by 90 degrees to the right
    Image.fromarray(photo).save(folder / "turned.jpg", exif=exif, quality=95)
    return photo, np.rot90(photo, -1)


def write_bad(folder: Path) -> dict[str, str]:
    """Files that cannot be used, with what the reason must say."""
    good, (photo, inside) = rgba(), ellipse()
    good.save(folder / "a.png")
    (folder / "notes.txt").write_text("no photo")
    (folder / "fake.jpg").write_bytes(b"\x89PNG but not really")
    (folder / "empty.png").write_bytes(b"")
    content = (folder / "a.png").read_bytes()
    (folder / "cut.png").write_bytes(content[: len(content) // 2])
    frames = [Image.fromarray(photo), Image.fromarray(photo[::-1].copy())]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    Image.fromarray(photo).convert("CMYK").save(folder / "print.jpg")
    write_png16(folder / "deep.png", photo.astype(np.uint16) * 257)
    Image.fromarray(photo[..., 0].astype(np.uint16) * 257).save(folder / "deep16.tif")
    Image.fromarray(photo[..., 0].astype(np.int32)).save(folder / "whole.tif")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("1", (10_000, 10_000)).save(folder / "huge.png")
    Image.new("1", (16_000, 12_000)).save(folder / "bomb.png")
    Image.fromarray(np.dstack([photo, 0 * inside.astype(np.uint8)])).save(folder / "ghost.png")
    Image.fromarray(np.full((60, 80, 3), 200, dtype=np.uint8)).save(folder / "wall.png")
    alpha = np.full((60, 80), 255, dtype=np.uint8)
    alpha[20:40, 20:40] = 0
    Image.fromarray(np.dstack([photo, alpha])).save(folder / "frame.png")
    (folder / "link.png").symlink_to(folder / "nowhere.png")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png")).write_bytes(b"named on another system")
    return {
        "notes.txt": "no image",
        "fake.jpg": "no image",
        "empty.png": "empty (0 bytes)",
        "cut.png": "damaged",
        "film.gif": "animated (2 frames)",
        "moving.png": "animated (2 frames)",
        "print.jpg": "CMYK; convert it to RGB",
        "deep.png": "more than 8 bits",
        "deep16.tif": "more than 8 bits",
        "whole.tif": "more than 8 bits",
        "dot.png": "1 x 1 pixels",
        "huge.png": "100 megapixels",
        "bomb.png": "far too large",
        "ghost.png": "no_foreground",
        "wall.png": "no_foreground",
        "frame.png": "touches the border (left, top, right, bottom)",
        "link.png": "No such file",
        "caf\\udce9.png": "no image",
    }


def test_bad_photos_are_listed_and_the_rest_goes_on(network, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    expected = write_bad(folder)
    upright_photo(folder)
    assert prepare_photos.main(arguments(folder, tmp_path / "out", network)) == 0
    check_rejected(tmp_path / "out", expected)
    assert read_prepared(tmp_path / "out").metadata["id"].tolist() == ["a", "turned"]
    assert "Rejected files" in (tmp_path / "out" / "contact_sheet" / "index.html").read_text()


def test_photos_are_turned_upright(tmp_path):
    _, upright = upright_photo(tmp_path)
    photo = read_photo_file(tmp_path / "turned.jpg")
    assert photo.size == (160, 240)
    assert photo.rgb.shape == upright.shape
    assert np.abs(photo.rgb.astype(int) - upright).mean() < 3


def test_a_jpeg_of_100_megapixels_is_read_small_and_with_little_memory(tmp_path):
    """In a process of its own, whose address space has no room for 300 MB of pixels."""
    path = tmp_path / "large.jpg"
    wide = Image.new("L", (12_500, 8_000), 90)
    wide.paste(200, (6_250, 0, 12_500, 8_000))
    wide.convert("RGB").save(path, quality=60)
    code = f"""
import resource
from lib.data.photos_reading import read_photo_file
used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 120_000_000,) * 2)
photo = read_photo_file({str(path)!r})
print(photo.rgb.shape, photo.size, abs(photo.rgb[300, [200, 800], 0] - [90.0, 200.0]).max() < 3)
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=environment)
    assert run.stdout.split() == ["(655,", "1024,", "3)", "(12500,", "8000)", "True"], run.stderr


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_usual_kinds_of_image_are_read(mode, tmp_path):
    photo, inside = ellipse()
    image = Image.fromarray(np.dstack([photo, np.where(inside, 255, 0).astype(np.uint8)]))
    image = image.convert(mode) if mode.endswith("A") else image.convert("RGB").convert(mode)
    image.save(tmp_path / "image.png")
    read = read_photo_file(tmp_path / "image.png")
    assert read.rgb.shape == (60, 80, 3)
    assert (read.alpha is not None) == (mode in ("LA", "RGBA"))
    if mode == "RGBA":
        np.testing.assert_array_equal(read.alpha > 0, inside)
        np.testing.assert_array_equal(read.rgb, photo)


def test_a_palette_may_have_a_transparent_colour(tmp_path):
    _, inside = ellipse()
    indices = Image.fromarray(np.where(inside, 1, 0).astype(np.uint8), mode="P")
    indices.putpalette([0, 0, 0, 250, 20, 30])
    indices.save(tmp_path / "image.gif", transparency=0)
    np.testing.assert_array_equal(read_photo_file(tmp_path / "image.gif").alpha > 0, inside)


# ---------------------------------------------------------------- what the user can get wrong


def test_one_sentence_for_each_mistake(network, tmp_path, capsys):
    write_good(tmp_path / "in", 2)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "notes.txt").write_text("no photo")
    (tmp_path / "file").write_text("x")
    folder, output = tmp_path / "in", tmp_path / "out"
    mistakes = {
        "There is no folder": arguments(tmp_path / "none", output, network),
        "There is no folder ": arguments(tmp_path / "file", output, network),
        "holds no files": arguments(tmp_path / "nothing", output, network),
        "None of the 1 files can be used": arguments(tmp_path / "only", output, network),
        "lies in the source": arguments(folder, folder / "out", network),
        "no folder of masks": arguments(folder, output, network, "--masks", str(tmp_path / "none")),
        "no ONNX file": arguments(folder, output, network, "--silhouettes", str(tmp_path / "none.onnx")),
        "no normal estimator": arguments(folder, output, tmp_path / "none"),
        "'clip' is unknown": arguments(folder, output, network, "--embedding", "clip"),
        "--category '../x' cannot name a folder": arguments(folder, output, network, "--category", "../x"),
        "none.pt is not a file": arguments(
            folder, output, network, "--embedding", "open_clip-ViT-B-32", "--weights", str(tmp_path / "none.pt")
        ),
    }
    for sentence, command in mistakes.items():
        assert prepare_photos.main(command) == 2, sentence
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert sentence in error
        assert not output.exists()
    assert "no image" in (tmp_path / "out.rejected.csv").read_text()  # nothing is lost


@pytest.mark.parametrize("option", [("--allow", "truncated,nonsense"), ("--near-duplicate", "2")])
def test_values_that_mean_nothing_are_refused(option, network, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        prepare_photos.main(arguments(tmp_path, tmp_path / "out", network, *option))
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


@pytest.fixture
def secret(monkeypatch) -> None:
    """No folder named secret can be listed; the tests may run as root, whom no permission stops."""
    scandir = os.scandir

    def refused(path):
        if not isinstance(path, int) and Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)


def test_a_folder_that_cannot_be_listed_is_rejected_and_the_rest_goes_on(network, tmp_path, secret):
    write_good(tmp_path / "in", 4)
    (tmp_path / "in" / "cups" / "secret").mkdir()
    assert prepare_photos.main(arguments(tmp_path / "in", tmp_path / "out", network)) == 0
    why = "the folder cannot be read (Permission denied); change its permissions"
    assert rejected(tmp_path / "out") == {"secret": why}
    assert len(read_prepared(tmp_path / "out").metadata) == 4
    (tmp_path / "secret").mkdir()
    with pytest.raises(InputError, match=r"secret cannot be read \(Permission denied\)"):
        list_items(tmp_path / "secret")
