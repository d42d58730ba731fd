"""Masks of photos: the rule that cleans them, the checks that name what is wrong, and the network that ships."""

import shutil

import numpy as np
import pytest
from skimage import measure

from lib.data import silhouettes
from lib.data.onnx import open_onnx
from lib.data.silhouettes import (
    U2NETP,
    check_silhouette,
    find_silhouette,
    largest_part,
    load_silhouette_model,
    network_input,
)
from lib.errors import InputError


@pytest.fixture(scope="module")
def model():
    return load_silhouette_model()


def canvas(*boxes, size=100) -> np.ndarray:
    inside = np.zeros((size, size), dtype=bool)
    for top, left, height, width in boxes:
        inside[top : top + height, left : left + width] = True
    return inside


def by_skimage(inside: np.ndarray, share: float) -> np.ndarray:
    """The rule of `largest_part` by another library."""
    parts = measure.label(inside, connectivity=2)
    part = parts == np.bincount(parts[inside]).argmax()
    holes = measure.label(np.pad(~part, 1, constant_values=True), connectivity=1, background=0)
    for region in measure.regionprops(holes):
        if region.label != holes[0, 0] and region.area < share * part.sum():
            part[tuple(region.coords.T - 1)] = True
    return part


def test_largest_part_follows_its_rule_on_random_masks(monkeypatch):
    monkeypatch.setattr(silhouettes, "HOLE", 0.05)
    rng = np.random.default_rng(0)
    filled = 0
    for density in (0.45, 0.6, 0.75, 0.9):
        inside = rng.random((40, 47)) < density
        expected = by_skimage(inside, 0.05)
        filled += (expected & ~inside).sum()
        np.testing.assert_array_equal(largest_part(inside) > 0, expected)
    assert filled > 0


def test_small_holes_are_filled_and_large_ones_kept():
    inside = canvas((20, 20, 60, 60))  # 3600 pixels: holes below 36 are filled
    inside[30:35, 30:37] = False  # 35
    inside[50:56, 50:56] = False  # 36
    mask = largest_part(inside)
    assert (mask[30:35, 30:37] == 255).all()
    assert (mask[50:56, 50:56] == 0).all()
    assert set(np.unique(mask)) == {0, 255}


def test_a_notch_open_to_the_border_is_no_hole():
    inside = canvas((0, 0, 100, 90))
    inside[0, 10] = False
    assert largest_part(inside)[0, 10] == 0


@pytest.mark.parametrize(
    ("inside", "problems"),
    [
        (canvas((20, 20, 50, 50)), []),
        (canvas(), ["no_foreground"]),
        (canvas((0, 0, 100, 100)), ["all_foreground", "truncated"]),
        (canvas((1, 1, 98, 98)), ["large"]),
        (canvas((50, 50, 9, 9)), ["small"]),
        (canvas((40, 40, 60, 30)), ["truncated"]),
        (canvas((0, 40, 100, 8), (40, 0, 8, 100)), ["truncated"]),
        (canvas((20, 20, 30, 30), (60, 60, 20, 20)), ["several_parts"]),
        (canvas((20, 20, 30, 30), (60, 60, 15, 15)), []),  # exactly a quarter is still dirt
    ],
)
def test_each_check_has_its_name(inside, problems):
    assert list(check_silhouette(inside).problems) == problems


@pytest.mark.parametrize(
    ("inside", "problem", "words"),
    [
        (canvas((40, 40, 60, 30)), "truncated", "(bottom)"),
        (canvas((0, 40, 100, 8), (40, 0, 8, 100)), "truncated", "(left, top, right, bottom)"),
        (canvas((20, 20, 30, 30), (60, 60, 20, 20)), "several_parts", "44%"),
    ],
)
def test_sentences_say_which_border_and_how_much(inside, problem, words):
    assert words in check_silhouette(inside).problems[problem]


def test_the_input_is_that_of_u2net():
    grey = network_input(np.full((50, 70, 3), 100, dtype=np.uint8), 320)
    assert grey.shape == (1, 3, 320, 320)
    # divided by its largest value, a constant picture is 1 everywhere
    np.testing.assert_allclose(grey[0, :, 7, 9], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], 1e-5)
    assert np.isfinite(network_input(np.zeros((50, 70, 3), dtype=np.uint8), 320)).all()


def ball_photo(width=260, height=200, box=(70, 40, 190, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A shaded red ball on a grey gradient, and its true mask."""
    y, x = np.mgrid[:height, :width] + 0.5
    photo = np.dstack([120 + 60 * y / height] * 3)
    u, v = (2 * x - box[0] - box[2]) / (box[2] - box[0]), (2 * y - box[1] - box[3]) / (box[3] - box[1])
    inside = u**2 + v**2 < 1
    light = 0.4 + 0.6 * np.clip(-0.5 * u - 0.5 * v + 0.7 * np.sqrt(np.clip(1 - u**2 - v**2, 0, None)), 0, 1)
    photo[inside] = (light[..., None] * [220, 50, 40])[inside]
    return photo.astype(np.uint8), inside


def test_the_shipped_network_finds_a_ball(model):
    photo, inside = ball_photo()
    silhouette = find_silhouette(photo, model)
    mask = silhouette.mask > 0
    assert silhouette.problems == {}
    assert (mask & inside).sum() / (mask | inside).sum() > 0.95
    assert model.name == "u2netp"
    assert len(model.checksum) == 64


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_photo_has_no_object(model, level):
    photo = np.full((90, 120, 3), level, dtype=np.uint8)
    assert list(find_silhouette(photo, model).problems) == ["no_foreground"]


def test_a_cut_off_object_is_noticed(model):
    photo, _ = ball_photo(box=(-80, 20, 100, 200))
    assert "truncated" in find_silhouette(photo, model).problems


def test_files_that_are_no_models_are_one_sentence(tmp_path):
    content = U2NETP.read_bytes()
    middle = len(content) // 2
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "cut.onnx").write_bytes(content[:100_000])
    (tmp_path / "changed.onnx").write_bytes(content[:middle] + b"x" + content[middle + 1 :])
    shutil.copy(U2NETP.with_name("u2netp.onnx.sha256"), tmp_path / "changed.onnx.sha256")
    sentences = {"none": "no ONNX file", "text": "no ONNX model", "cut": "no ONNX model", "changed": "checksum"}
    for name, words in sentences.items():
        with pytest.raises(InputError, match=words):
            load_silhouette_model(tmp_path / f"{name}.onnx")


def test_any_path_serves(tmp_path):
    shutil.copy(U2NETP, tmp_path / "other.onnx")  # without a checksum beside it
    assert open_onnx(tmp_path / "other.onnx", threads=2).get_inputs()[0].shape == [1, 3, 320, 320]
