"""The reader's own silhouette: painted, loaded, and in the view of the bound."""

import datetime
import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lib.errors import InputError
from lib.plots import bounds as plots
from lib.studies.bounds import silhouette, verdict
from lib.studies.easel import CAMERAS, FILE, NOTHING, SOLIDS, Brush, Easel, camera_of, open_pixel, scene_of
from lib.widgets import bounds as controls
from lib.widgets import viewer
from lib.widgets.viewer import values_of

OFF = Brush("off", 0.5, 0.5, 0.5)
DISC = Brush("paint", 0.5, 0.5, 0.25)


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order; an update takes the place of what was shown with it."""

    class Handle:
        def __init__(self, place):
            self.place = place

        def update(self, thing):
            things[self.place] = thing

    things = []

    def display(thing, display_id=False):
        things.append(thing)
        return Handle(len(things) - 1)

    monkeypatch.setattr(viewer, "display", display)
    monkeypatch.setattr(controls, "display", display)
    return things


def half_mask(size: int = 64) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[:, size // 2 :] = True
    return mask


def uploaded(array: np.ndarray, name: str = "mine.png") -> tuple[dict, ...]:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return ({"name": name, "content": memoryview(stream.getvalue())},)


def white_box() -> np.ndarray:
    array = np.zeros((64, 64), dtype=np.uint8)
    array[20:40, 10:30] = 255
    return array


# the easel


def test_brush_paints_and_erases_a_disc():
    empty = torch.zeros(64, 64, dtype=torch.bool)
    assert int(DISC.over(empty).sum()) == pytest.approx(np.pi * 16**2, rel=0.03)
    assert bool((Brush("erase", 0.5, 0.5, 0.25).over(~empty) == ~DISC.over(empty)).all())
    assert not bool(OFF.over(empty).any())
    rows, columns = Brush("paint", 0.25, 0.75, 0.1).over(empty).nonzero().float().mean(0).tolist()
    assert (rows, columns) == pytest.approx((47.5, 15.5))  # x runs along columns


def test_touches_that_are_kept_stay_and_the_others_move_on():
    easel = Easel()
    easel.paint(NOTHING, DISC)
    easel.kept.append(easel.brush)
    easel.paint(NOTHING, Brush("paint", 0.1, 0.1, 0.05))
    easel.paint(NOTHING, Brush("erase", 0.5, 0.5, 0.1))
    mask = easel.mask()
    assert not bool(mask[6, 6]) and not bool(mask[32, 32]) and bool(mask[32, 20])


@pytest.mark.parametrize("solid", SOLIDS)
@pytest.mark.parametrize("camera", CAMERAS)
def test_an_untouched_solid_is_the_scene_of_that_solid(solid, camera):
    easel = Easel(size=32)
    easel.paint(solid, OFF)
    own, ready = easel.scene(camera), scene_of(solid, camera, 32)
    assert bool((own.mask == silhouette(SOLIDS[solid](), camera_of(solid, camera), 32)).all())
    torch.testing.assert_close(own.distance, ready.distance)
    depths = torch.tensor([1.4, 2.0])
    torch.testing.assert_close(own.truth(depths), ready.truth(depths))


def test_erasing_from_a_solid_breaks_its_bound_and_painting_does_not():
    easel = Easel()
    for kind, broken in (("paint", False), ("erase", True)):
        easel.paint("chair of boxes", Brush(kind, 0.4, 0.3, 0.25))
        assert (verdict(easel.scene()).worst > 0.05) == broken


def test_the_bound_of_a_loaded_silhouette_is_the_distance_to_its_edge():
    """A half plane x >= c of the picture: the ray with parallel rays is c - x away, less the margin of the pixels."""
    easel = Easel(half_mask())
    scene = easel.scene("parallel rays")
    assert scene.solid is None and easel.start == FILE
    away = (32 - torch.arange(32)).float() - 0.5**0.5  # pixels, from centre to centre, less half a diagonal
    expected = 1.8 * away / 64 / 1.25  # the camera's distance and focal length
    found = scene.bound(torch.tensor([1.2, 2.2]))
    torch.testing.assert_close(found[:, :32], expected[None, :, None].expand(64, 32, 2))
    assert not bool(found[:, 32:].any())


def test_an_empty_and_a_full_silhouette_get_one_sentence():
    easel = Easel()
    easel.paint(NOTHING, OFF)
    with pytest.raises(InputError, match=r"^Your silhouette is empty.*another\.$"):
        easel.scene()
    easel.paint(NOTHING, Brush("paint", 0.5, 0.5, 1.0))
    with pytest.raises(InputError, match=r"^Your silhouette covers the picture.*another\.$"):
        easel.scene()


def test_the_open_pixel_has_as_many_nearer_as_farther():
    scene = Easel(half_mask()).scene()
    column, row = open_pixel(scene)
    distance = scene.distance[~scene.mask]
    at = scene.distance[row, column]
    assert float((distance < at).float().mean()) <= 0.5 <= float((distance <= at).float().mean())


# its pictures


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_silhouette_without_a_solid_draws_with_rays_instead(camera):
    scene = Easel(half_mask()).scene(camera)
    figure = plots.bound_figure(scene, 10, 30, 1.6)
    assert isinstance(figure, Figure)
    ray = next(axis for axis in figure.axes if axis.get_xlabel().startswith("depth"))
    assert [text.get_text() for text in ray.get_legend().get_texts()] == ["bound b"]
    traces = plots.cone_scene(scene, 10, 30, 1.6).data
    assert [trace.type for trace in traces] == ["scatter3d", "surface", "surface", "scatter3d"]
    assert bool(np.isnan(traces[0].x[2::3]).all()) and not bool(np.isnan(traces[0].x[::3]).any())


def test_rays_of_the_outline_pass_through_its_pixels():
    easel = Easel()
    easel.paint(NOTHING, DISC)
    scene = easel.scene()
    right, forward, up = np.moveaxis(plots._cone_parts(scene, 3, 3, 1.6)["rays"], -1, 0)
    radius = np.hypot(right / forward, up / forward) * 1.25 * 64  # pixels from the middle, where the disc is
    assert radius.shape[1] == 2 and 30 < len(radius) <= 60
    assert radius.min() > 14 and radius.max() < 16


# its controls


def test_the_bound_follows_the_painting_only_where_it_shows_it(shown):
    easel, chosen = Easel(), controls.bound_controls(20, 20, 1.6)
    controls.bound_explorer(easel, chosen)
    solid = shown[-1]
    easel.paint(NOTHING, DISC)
    assert shown[-1] is solid
    chosen["scene"].value = controls.OWN
    disc = shown[-1]
    assert disc is not solid
    easel.paint(NOTHING, Brush("paint", 0.2, 0.2, 0.1))
    assert shown[-1] is not disc


def test_painting_to_nothing_is_a_sentence_below_the_bound(shown, capsys):
    easel, chosen = Easel(), controls.bound_controls(20, 20, 1.6, scene=controls.OWN)
    controls.bound_explorer(easel, chosen)
    before = shown[-1]
    easel.paint(NOTHING, OFF)
    assert shown[-1] is before
    assert "error: Your silhouette is empty" in capsys.readouterr().out


def test_every_start_and_brush_of_the_controls_paints():
    easel = Easel(half_mask())
    paint = controls.paint_controls(easel)
    assert values_of(paint)["start"] == FILE and values_of(paint)["brush"] == "off"
    draw = controls.draw_painted(easel)
    for start in paint["start"].options:
        for brush in paint["brush"].options:
            assert isinstance(draw(**values_of(paint) | {"start": start, "brush": brush}), Figure)
            assert (easel.start, easel.brush.kind) == (start, brush)


def test_buttons_keep_and_clear_touches_and_load(shown, tmp_path, capsys):
    easel = Easel()
    controls.easel_control(easel, tmp_path)
    upload, keep, clear = shown[0].children[0].children
    keep.click()
    assert easel.kept == [easel.brush] and easel.brush.kind == "paint"
    clear.click()
    assert easel.kept == []
    keep.click()
    about = {"type": "image/png", "size": 1, "last_modified": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)}
    upload.value = [uploaded(white_box())[0] | about]
    assert "read from the image's brightness (bright on dark)" in capsys.readouterr().out
    assert easel.start == FILE
    np.testing.assert_array_equal(easel.mask().numpy(), white_box() > 0)  # no touch is left on it


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ((), "Choose an image"),
        (uploaded(white_box(), "mine.txt"), "error: mine.txt is not an image file"),
        (({"name": "a.png", "content": memoryview(b"hello")},), "error: a.png is truncated"),
        (uploaded(np.zeros((64, 64), np.uint8)), "error: A silhouette needs object and background"),
    ],
)
def test_bad_uploads_change_nothing_and_get_one_sentence(tmp_path, files, said):
    easel = Easel()
    sentence = controls.load_upload(easel, files, tmp_path)
    assert sentence.startswith(said) and sentence.endswith(".") and easel.given is None
