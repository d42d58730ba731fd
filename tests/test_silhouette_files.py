"""A silhouette from a file: alpha or brightness, where its pixels land, and one sentence for what cannot be used."""

import numpy as np
import pytest
from PIL import Image

from lib.data.silhouette_files import read_silhouette
from lib.errors import InputError

BOX = np.s_[8:24, 16:48]  # rows and columns of the object in a picture of 32 x 64 pixels


def saved(tmp_path, array, name="picture.png"):
    Image.fromarray(array).save(tmp_path / name)
    return tmp_path / name


def picture(background: int, inside: int, channels: int = 0) -> np.ndarray:
    array = np.full((32, 64, *([channels] if channels else [])), background, dtype=np.uint8)
    array[BOX] = inside
    return array


def expected() -> np.ndarray:
    """The 32 x 64 picture in a square of 64: 16 rows of background above and below."""
    mask = np.zeros((64, 64), dtype=bool)
    mask[16 + 8 : 16 + 24, 16:48] = True
    return mask


@pytest.mark.parametrize(
    ("background", "inside", "source"),
    [(0, 255, "brightness (bright on dark)"), (255, 0, "brightness (dark on bright)"), (90, 140, "bright on dark")],
)
@pytest.mark.parametrize("channels", [0, 3])
def test_without_alpha_brightness_decides_and_the_border_is_background(tmp_path, background, inside, source, channels):
    mask, found = read_silhouette(saved(tmp_path, picture(background, inside, channels)))
    np.testing.assert_array_equal(mask.numpy(), expected())
    assert source in found


def test_one_bit_images_are_read(tmp_path):
    Image.fromarray(picture(0, 255)).convert("1").save(tmp_path / "bit.png")
    np.testing.assert_array_equal(read_silhouette(tmp_path / "bit.png")[0].numpy(), expected())


def test_alpha_outvotes_brightness(tmp_path):
    array = picture(0, 255, 4)
    array[..., :3] = np.random.default_rng(0).integers(0, 256, (32, 64, 3))
    mask, found = read_silhouette(saved(tmp_path, array))
    np.testing.assert_array_equal(mask.numpy(), expected())
    assert found == "alpha channel"


@pytest.mark.parametrize("opacity", [255, 200, 0])
def test_an_alpha_channel_of_one_value_says_nothing(tmp_path, opacity):
    array = picture(0, 255, 4)
    array[..., 3] = opacity
    mask, found = read_silhouette(saved(tmp_path, array))
    np.testing.assert_array_equal(mask.numpy(), expected())
    assert found.startswith("brightness")


def test_a_pixel_is_the_objects_if_half_of_its_area_is(tmp_path):
    fine = np.zeros((64, 64), dtype=np.uint8)
    fine[10:41, 20:50] = 255
    mask = read_silhouette(saved(tmp_path, fine), size=16)[0]
    share = fine.reshape(16, 4, 16, 4).mean((1, 3)) / 255
    assert 0.5 in share
    np.testing.assert_array_equal(mask.numpy(), share >= 0.5)


@pytest.mark.parametrize("shape", [(1000, 40), (40, 1000)])
def test_tall_and_wide_images_keep_their_aspect_ratio(tmp_path, shape):
    array = np.zeros((*shape, 4), dtype=np.uint8)
    array[..., 3] = 255
    array[0, 0, 3] = 0  # else there is no background in the file
    mask = read_silhouette(saved(tmp_path, array), size=50)[0].numpy()
    rows, columns = np.nonzero(mask)
    sides = (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1)
    assert sides == (shape[0] // 20, shape[1] // 20)
    assert (rows.min() + rows.max(), columns.min() + columns.max()) == (49, 49)


def unusable(folder) -> dict:
    """Name -> image, as an array or the bytes of a file."""
    dot, full = (np.full((640, 640, 4), value, dtype=np.uint8) for value in (0, 255))
    dot[300, 300, 3], full[300, 300, 3] = 255, 0
    thin = np.full((16, 9000), 255, dtype=np.uint8)
    thin[0] = thin[-1] = 0
    whole = saved(folder, picture(0, 255)).read_bytes()
    return {
        "black": np.zeros((32, 32), np.uint8),
        "white": np.full((32, 32), 255, np.uint8),
        "dot": dot,
        "full": full,
        "thin": thin,
        "text": b"hello",
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "deep": picture(0, 255).astype(np.uint16) * 257,
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("black", "has one brightness and marks no pixel; give another"),
        ("white", "has one brightness and marks no pixel; give another"),
        ("dot", "alpha channel marks, at 64 x 64 pixels, no pixel"),
        ("full", "alpha channel marks, at 64 x 64 pixels, every pixel"),
        ("thin", "no pixel; give another image"),
        ("text", "no image of a known kind"),
        ("empty", "the file is empty"),
        ("cut", "damaged or cannot be read"),
        ("deep", "more than 8 bits"),
        ("nowhere", "There is no silhouette file"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_that_names_the_file(tmp_path, name, said):
    content, path = unusable(tmp_path).get(name), tmp_path / f"{name}.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        saved(tmp_path, content, path.name)
    for called in ("", "mine.jpg"):  # a name for messages takes the path's place
        with pytest.raises(InputError) as caught:
            read_silhouette(path, called=called)
        sentence = str(caught.value)
        assert said in sentence and sentence.endswith(".") and "\n" not in sentence
        assert (called or str(path)) in sentence and (str(tmp_path) in sentence) == (not called)
