"""The reader's own silhouette: painted, loaded, and in the view of the bound."""

import io

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lib.data.photos import SUFFIXES
from lib.errors import InputError
from lib.figures import viewer
from lib.figures.viewer import values_of
from lib.plots import bounds as plots
from lib.studies.bounds import silhouette, verdict
from lib.studies.easel import CAMERAS, FILE, NOTHING, SOLIDS, Brush, Easel, camera_of, open_pixel, scene_of
from lib.widgets import bounds as controls

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


def choose_file(upload, files: tuple[dict, ...]) -> None:
    """What a browser sends when a file is chosen."""
    about = {"type": "image/png", "size": 1, "last_modified": 1700000000000}
    upload.set_state({"value": [file | about for file in files]})


def said(capsys) -> str:
    """What was printed, without the marks that clear a terminal's line."""
    return capsys.readouterr().out.replace("\033[2K\r", "").strip()


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


def test_panels_keep_to_their_places_and_a_pixel_inside_is_explained():
    dot = torch.zeros(64, 64, dtype=torch.bool)
    dot[2, 60] = True
    scene = Easel(dot).scene("parallel rays")
    figure = plots.bound_figure(scene, 3, 60, 1.6)
    assert figure.axes[0].get_xlim() == (-0.5, 63.5) and figure.axes[0].get_ylim() == (63.5, -0.5)
    figure.draw_without_rendering()
    cone = next(axis for axis in figure.axes if axis.name == "3d")
    along = next(axis for axis in figure.axes if axis.get_xlabel().startswith("depth"))
    left, right = figure.axes[0].get_tightbbox(), along.get_tightbbox()
    for artist in (*cone.collections, *cone.lines):
        assert left.x1 < artist.get_clip_box().x0 and artist.get_clip_box().x1 < right.x0
    titles = [axis.get_title() for axis in plots.bound_figure(scene, 60, 2, 1.6).axes]
    assert "D = 0 at (60, 2), inside" in titles and "b = 0: inside, nothing is bounded" in titles


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
    easel.paint(NOTHING, OFF)
    assert shown[-1].data == ""  # the figure is out of date
    assert (
        said(capsys) == "error: Your silhouette is empty, so nothing is anywhere; paint a part of it or load another."
    )
    easel.paint(NOTHING, DISC)
    assert isinstance(shown[-1], Figure)


def test_every_start_and_brush_of_the_controls_paints():
    easel = Easel(half_mask())
    paint = controls.paint_controls(easel)
    assert values_of(paint)["start"] == FILE and values_of(paint)["brush"] == "off"
    draw = controls.draw_painted(easel)
    for start in paint["start"].options:
        for brush in paint["brush"].options:
            values = values_of(paint) | {"start": start, "brush": brush}
            if start == NOTHING and brush != "paint":
                with pytest.raises(InputError, match=r"^Your silhouette is empty"):
                    draw(**values)
            else:
                assert isinstance(draw(**values), Figure)
            assert (easel.start, easel.brush.kind) == (start, brush)


def test_buttons_keep_and_clear_touches(shown, tmp_path, capsys):
    easel = Easel()
    controls.easel_control(easel, tmp_path)
    _, keep, clear = shown[0].children[0].children
    keep.click()
    assert easel.kept == [easel.brush] and easel.brush.kind == "paint"
    assert said(capsys) == "1 touch is kept."
    keep.click()  # the same touch
    easel.brush = OFF
    keep.click()
    assert len(easel.kept) == 1 and said(capsys).endswith("1 touch is kept. The brush is off: it leaves no touch.")
    clear.click()
    assert easel.kept == [] and easel.brush.kind == "off"
    assert said(capsys) == "0 touches are kept. The brush is off: it leaves no touch."


def test_every_upload_counts_and_draws_once(shown, tmp_path, capsys):
    easel, calls = Easel(), []
    controls.easel_control(easel, tmp_path)
    easel.kept.append(DISC)
    upload = shown[0].children[0].children[0]
    easel.changed.append(lambda: calls.append((easel.start, easel.brush.kind)))
    for box in (white_box(), white_box(), white_box().T):
        choose_file(upload, uploaded(box))
        assert said(capsys) == "The silhouette was read from the brightness (bright on dark) of mine.png."
        np.testing.assert_array_equal(easel.mask().numpy(), box > 0)  # no touch is left on it
        assert upload.value == () and calls == [(FILE, "off")]
        calls.clear()
    assert set(upload.accept.split(",")) == set(SUFFIXES)


def test_another_start_clears_the_line_of_an_upload(shown, tmp_path):
    controls.easel_control(Easel(), tmp_path)
    buttons, line = shown[0].children
    cleared = []
    line.clear_output = lambda: cleared.append(True)
    choose_file(buttons.children[0], uploaded(white_box()))
    cleared.clear()
    start = shown[1].children[0].children[0]
    start.value = NOTHING
    assert cleared == [True]


def test_an_explorer_run_again_after_all_was_erased_says_so_and_shows_a_solid(shown, capsys):
    easel, chosen = Easel(), controls.bound_controls(20, 20, 1.6, scene=controls.OWN)
    easel.paint(NOTHING, OFF)
    controls.bound_explorer(easel, chosen)
    assert said(capsys).startswith("error: Your silhouette is empty")
    assert chosen["scene"].value == "chair of boxes" and isinstance(shown[-1], Figure)


def test_only_the_last_explorer_follows(shown, monkeypatch):
    calls, easel, figure = [], Easel(), controls.bound_figure
    monkeypatch.setattr(controls, "bound_figure", lambda *values: calls.append(values) or figure(*values))
    for _ in range(3):
        controls.bound_explorer(easel, controls.bound_controls(20, 20, 1.6, scene=controls.OWN))
    calls.clear()
    easel.paint(NOTHING, DISC)
    assert len(calls) == 1


def test_the_cone_to_turn_is_a_figure_or_a_sentence(capsys):
    easel, chosen = Easel(), controls.bound_controls(20, 20, 1.6, scene=controls.OWN)
    assert len(controls.turned_cone(easel, chosen).data) == 4
    easel.paint(NOTHING, OFF)
    assert controls.turned_cone(easel, chosen) is None
    assert said(capsys).startswith("error: Your silhouette is empty")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (uploaded(white_box(), "mine.txt"), "error: mine.txt is not an image file"),
        (({"name": "a.png", "content": memoryview(b"hello")},), "error: a.png is truncated"),
        (
            uploaded(np.zeros((64, 64), np.uint8)),
            "error: A silhouette needs object and background, but all of mine.png",
        ),
    ],
)
def test_bad_uploads_change_nothing_and_get_one_sentence(tmp_path, files, said):
    easel = Easel()
    sentence = controls.load_upload(easel, files, tmp_path)
    assert sentence.startswith(said) and sentence.endswith(".") and easel.given is None
    assert str(tmp_path) not in sentence
