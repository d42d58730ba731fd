"""Reading images, masks and normals, and refusing what cannot be used."""

from pathlib import Path

import numpy as np
import png
import pytest
from PIL import Image

from lib.data.images import check_normals, crop_to_mask, read_png16, read_sample_images, write_normals, write_png16
from lib.errors import InputError
from lib.paths import FURNITURE

SIZE = 12


@pytest.fixture
def rgba() -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 4), dtype=np.uint8)
    image[..., 3] = 0
    image[3:9, 4:10, 3] = 255
    image[3, 4:10, 3] = 100
    return image


@pytest.fixture
def image_path(tmp_path: Path, rgba: np.ndarray) -> Path:
    Image.fromarray(rgba).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def unit_normals(mask: np.ndarray, seed: int = 1) -> np.ndarray:
    normal = np.random.default_rng(seed).normal(size=(*mask.shape, 3))
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    return normal * (mask > 0)[..., None]


def test_colours_are_composited_on_white(image_path, rgba):
    rgb, mask, normal = read_sample_images(image_path)
    assert normal is None
    assert np.array_equal(mask, rgba[..., 3])
    assert (rgb[mask == 0] == 255).all()
    assert np.array_equal(rgb[mask == 255], rgba[..., :3][mask == 255])
    partly = mask == 100
    exact = rgba[..., :3][partly] * (100 / 255) + 255 * (155 / 255)
    assert np.abs(rgb[partly] - exact).max() <= 0.5


def test_a_mask_file_replaces_alpha_and_serves_plain_rgb(tmp_path, rgba, image_path):
    Image.fromarray(rgba[..., :3]).save(tmp_path / "plain.png")
    mask = np.zeros((SIZE, SIZE), dtype=np.uint8)
    mask[:6] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for path in (tmp_path / "plain.png", image_path):
        rgb, read, _ = read_sample_images(path, tmp_path / "mask.png")
        assert np.array_equal(read, mask)
        assert np.array_equal(rgb[:6], rgba[:6, :, :3])
        assert (rgb[6:] == 255).all()


@pytest.mark.parametrize(("held", "turn"), [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_270)])
def test_a_photo_is_turned_as_the_phone_was_held(tmp_path, rgba, held, turn):
    wide = Image.fromarray(rgba).crop((0, 0, SIZE, SIZE - 2))
    exif = Image.Exif()
    exif[0x0112] = held
    wide.save(tmp_path / "held.png", exif=exif)
    wide.transpose(turn).save(tmp_path / "upright.png")
    read, right = (read_sample_images(tmp_path / f"{name}.png") for name in ("held", "upright"))
    assert np.array_equal(read[0], right[0])
    assert np.array_equal(read[1], right[1])


def test_normals_survive_the_file_within_its_resolution(tmp_path, rgba, image_path):
    normal = unit_normals(rgba[..., 3])
    write_normals(tmp_path / "normal.png", normal)
    _, _, read = read_sample_images(image_path, None, tmp_path / "normal.png")
    assert read.dtype == np.float32
    assert np.abs(read - normal).max() < 2 / 65535
    assert (read[rgba[..., 3] == 0] == 0).all()


def by_pypng(path: Path) -> np.ndarray:
    """Another decoder."""
    _, height, rows, _ = png.Reader(filename=str(path)).read()
    return np.stack([np.asarray(row, dtype=np.uint16) for row in rows]).reshape(height, -1, 3)


def test_png16_is_read_to_the_last_bit(tmp_path):
    image = np.random.default_rng(2).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    write_png16(tmp_path / "a.png", image)
    assert np.array_equal(read_png16(tmp_path / "a.png"), image)
    assert np.array_equal(by_pypng(tmp_path / "a.png"), image)


def test_shipped_normals_are_read_to_the_last_bit():
    """They were written with other row filters than those that `write_png16` uses."""
    for path in sorted((FURNITURE / "normals").rglob("*.png"))[::300]:
        assert np.array_equal(read_png16(path), by_pypng(path))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["nowhere"], "There is no image .*nowhere.png"),
        (["cut"], "cut.png is truncated"),
        (["text"], "text.png is truncated or damaged .no known format"),
        (["plain"], "no alpha channel and no mask"),
        (["image", "large"], "12 x 12 pixels but its mask .* has 13 x 13"),
        (["image", "none"], "none.png is empty"),
        (["image", "faint"], "faint.png is empty"),
        (["image", "all"], "all.png is all foreground"),
        (["image", None, "nowhere"], "There is no image .*nowhere.png"),
        (["image", None, "cut"], "cut.png is no plain 16-bit RGB PNG"),
        (["image", None, "image"], "image.png is no plain 16-bit RGB PNG"),
        (["image", None, "cut-normal"], "cut-normal.png is truncated or damaged"),
        (["image", None, "half"], "half.png holds normals of length 0.50"),
        (["image", None, "short"], "12 x 11 pixels but its mask 12 x 12"),
        (["image", None, "hole"], "hole.png holds normals of length 0.00"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(tmp_path, rgba, image_path, names, words):
    Image.fromarray(rgba[..., :3]).save(tmp_path / "plain.png")
    Image.fromarray(np.eye(SIZE + 1, dtype=np.uint8) * 255).save(tmp_path / "large.png")
    for name, value in {"none": 0, "faint": 100, "all": 255}.items():
        Image.fromarray(np.full((SIZE, SIZE), value, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    normal = unit_normals(rgba[..., 3])
    hole = normal * (np.arange(SIZE) < 8)[:, None]
    for name, values in {"half": normal * 0.5, "short": normal[:-1], "hole": hole}.items():
        write_normals(tmp_path / f"{name}.png", values)
    (tmp_path / "text.png").write_text("no image at all")
    for name, whole in {"cut": "image", "cut-normal": "half"}.items():
        (tmp_path / f"{name}.png").write_bytes((tmp_path / f"{whole}.png").read_bytes()[:-40])
    with pytest.raises(InputError, match=words) as caught:
        read_sample_images(*(name and tmp_path / f"{name}.png" for name in names))
    assert "\n" not in str(caught.value)


def test_normals_that_are_not_finite_are_refused(rgba):
    normal = unit_normals(rgba[..., 3])
    normal[5, 6] = np.nan
    with pytest.raises(InputError, match="not finite"):
        check_normals(normal, rgba[..., 3], "a map")


def test_crop_has_the_margin_and_the_centre_of_the_built_in_data():
    mask = np.zeros((90, 120), dtype=np.uint8)
    mask[10:60, 20:50] = 255  # 30 x 50 pixels: the crop is 60 x 60 around (35, 35)
    rgb = np.zeros((90, 120, 3), dtype=np.uint8)
    rgb[..., 0] = 200
    small, cropped = crop_to_mask(rgb, mask, margin=1.2, size=60)
    rows, columns = np.nonzero(cropped)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 54, 15, 44)
    assert np.array_equal(small[cropped == 255], np.broadcast_to([200, 0, 0], (1500, 3)))
    assert (small[cropped == 0] == 255).all()


def test_crop_beyond_the_photo_is_white():
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[0:40, 10:30] = 255
    small, cropped = crop_to_mask(np.zeros((40, 40, 3), dtype=np.uint8), mask, size=48)
    assert (small[:4] == 255).all()
    assert (cropped[:4] == 0).all()
    assert (cropped[4:44, 14:34] == 255).all()
    with pytest.raises(InputError, match="40 x 40 pixels but its mask 20 x 40"):
        crop_to_mask(np.zeros((40, 40, 3), dtype=np.uint8), mask[:, :20])
