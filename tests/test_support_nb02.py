"""Companion of notebook 02: solids, scenes and bounds against closed forms and rays; the easel and the explorer."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from matplotlib.figure import Figure
from PIL import Image

from lib.data.photos import SUFFIXES
from lib.errors import InputError
from lib.figures import viewer
from lib.geometry.cameras import project
from support import nb02


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


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
    monkeypatch.setattr(nb02, "display", display)
    return things


def half_mask() -> torch.Tensor:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:, 32:] = True
    return mask


def set_to(easel: nb02.Easel, start: str, kind: str, x: float = 0.5, y: float = 0.5, radius: float = 0.24):
    values = {"start": start, "brush": kind, "x": x, "y": y, "radius": radius}
    for name, value in values.items():
        easel.controls[name].value = value


def said(capsys) -> str:
    """What was printed, without the marks that clear a terminal's line."""
    return capsys.readouterr().out.replace("\033[2K\r", "").strip()


# --- solids, scenes, bounds


@pytest.mark.parametrize("make", nb02.SOLIDS.values())
def test_distances_of_solids_are_those_to_their_meshes(make):
    solid = make()
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (60, 3))
    found = solid.distance(torch.from_numpy(points)).numpy()
    points, found = points[found > 0], found[found > 0]
    triangles = np.asarray(solid.mesh.triangles)
    pairs = np.repeat(points, len(triangles), axis=0)
    on_surface = trimesh.triangles.closest_point(np.tile(triangles, (len(points), 1, 1)), pairs)
    expected = np.linalg.norm(pairs - on_surface, axis=1).reshape(len(points), -1).min(1)
    np.testing.assert_allclose(found, expected, atol=3e-3)  # a sphere's mesh is within the sphere


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_points_of_a_scene_are_seen_at_their_pixels(projection):
    scene = nb02.bound_scene(nb02.ball(), nb02.near_camera(40, 25, projection), 16)
    world = scene.points(torch.tensor([1.4, 2.2]))
    at = project(scene.viewpoint, world.reshape(1, -1, 3))[0].reshape(16, 16, 2, 2)
    expected = (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(at[..., 0], expected[None, :, None].expand(16, 16, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(at[..., 1], expected[:, None, None].expand(16, 16, 2), rtol=0, atol=1e-5)


def test_views_carve_a_box_and_never_into_it():
    box = trimesh.creation.box((0.5, 0.6, 0.7))
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    excess = points.abs() - torch.tensor([0.25, 0.3, 0.35])
    truth = excess.clamp(min=0).norm(dim=-1) + excess.amax(-1).clamp(max=0)
    bounds, inside = [], []
    for side in ((30, 15), (120, 15), (75, 50), (210, -20)):
        view = nb02.bound_scene(nb02.Solid(box, None), nb02.near_camera(*side, focal=0.8), 96)
        bound, seen_inside = nb02.bounds_at(view, points)
        assert not bool(((bound > 0) & seen_inside).any()) and bool(seen_inside[truth < -0.03].all())
        bounds.append(bound)
        inside.append(seen_inside)
    together = torch.stack(bounds).amax(0)
    assert bool((together <= truth.clamp(min=0) + 1e-3).float().mean() > 0.998)
    hulls = [(torch.stack(inside[:n]).all(0) & (truth > 0)).float().mean() for n in (1, 2, 4)]
    assert hulls[0] > 1.5 * hulls[2] and hulls[0] > hulls[1] > hulls[2]


# --- figures


@pytest.mark.parametrize("camera", nb02.CAMERAS)
def test_ball_of_the_cone_touches_the_cone_and_stays_in_it(camera):
    scene = nb02.scene_of("chair of boxes", camera)
    (_, (ball, *_), _), *_ = nb02.cone_parts(scene, 2, 3, 1.8)
    x, depth, up = ball.T
    spread = depth if camera == "perspective" else 1.8
    off = np.hypot(x / spread - float(scene.pixels[3, 2, 0]), -up / spread - float(scene.pixels[3, 2, 1]))
    radius = float(scene.distance[3, 2])
    assert off.max() <= radius + 1e-6 and off.max() > 0.97 * radius


@pytest.mark.parametrize(
    ("start", "camera"),
    [
        ("chair of boxes", "perspective"),
        ("ring", "parallel rays"),
        ("unknown", "perspective"),
        ("unknown", "parallel rays"),
    ],
)
def test_every_scene_draws_and_names_its_numbers(start, camera):
    scene = nb02.scene_of(start, camera, half_mask() if start == "unknown" else None)
    titles = [axis.get_title() for axis in nb02.bound_figure(scene, 2, 3, 1.8).axes]
    assert f"D = {float(scene.distance[3, 2]) * 1.25 * 64:.1f} pixels at (2, 3)" in titles
    assert f"b = {float(scene.bound(torch.tensor([1.8]))[3, 2, 0]):.3f} at z = 1.80" in titles
    meshes = [trace.type for trace in nb02.turned_cone(scene, 2, 3, 1.8).data].count("mesh3d")
    assert meshes == (2 if start == "unknown" else 3)
    inside = [axis.get_title() for axis in nb02.bound_figure(scene, 60, 2, 1.6).axes]
    assert ("D = 0 at (60, 2), inside" in inside) == bool(scene.mask[2, 60])


# --- the easel and the explorer


def test_brush_paints_and_erases_a_disc_and_kept_touches_stay():
    easel = nb02.Easel()
    set_to(easel, nb02.NOTHING, "paint", 0.25, 0.74, 0.1)
    disc = easel.scene().mask
    assert int(disc.sum()) == pytest.approx(np.pi * 6.4**2, rel=0.05)
    assert disc.nonzero().float().mean(0).tolist() == pytest.approx((47.4, 15.5), abs=0.6)  # x runs along columns
    easel.kept.append(("paint", 0.5, 0.5, 0.25))
    set_to(easel, nb02.NOTHING, "erase", radius=0.1)
    mask = easel.scene().mask
    assert bool(mask[32, 20]) and not bool(mask[32, 32])


@pytest.mark.parametrize("solid", nb02.SOLIDS)
def test_an_untouched_solid_is_the_scene_of_that_solid_and_erasing_breaks_its_bound(solid):
    easel = nb02.Easel()
    set_to(easel, solid, "off")
    for camera in nb02.CAMERAS:
        own, ready = easel.scene(camera), nb02.scene_of(solid, camera)
        assert bool((own.mask == ready.mask).all())
        torch.testing.assert_close(own.truth(own.depths(3)), ready.truth(ready.depths(3)))
    set_to(easel, solid, "erase", 0.4, 0.3, 0.26)
    scene = easel.scene()
    assert float((scene.bound(scene.depths(9)) - scene.truth(scene.depths(9)))[~scene.mask].max()) > 0.05


def test_the_bound_of_a_loaded_silhouette_is_the_distance_to_its_edge():
    """A half plane x >= c of the picture: with parallel rays it is c - x away, less the margin of the pixels."""
    scene = nb02.Easel(half_mask()).scene("parallel rays")
    away = (32 - torch.arange(32)).float() - 0.5**0.5  # pixels, from centre to centre, less half a diagonal
    expected = 1.8 * away / 64 / 1.25  # the camera's distance and focal length
    found = scene.bound(torch.tensor([1.2, 2.2]))
    torch.testing.assert_close(found[:, :32], expected[None, :, None].expand(64, 32, 2))
    assert scene.solid is None and not bool(found[:, 32:].any())


@pytest.mark.parametrize(
    ("start", "kind", "radius", "sentence"),
    [
        (nb02.NOTHING, "off", 0.2, r"^Your silhouette is empty.*another\.$"),
        (nb02.NOTHING, "paint", 0.5, r"^Your silhouette covers the picture.*another\.$"),
        (nb02.FILE, "paint", 0.2, r"^You have not loaded a file yet.*else\.$"),
    ],
)
def test_a_silhouette_that_cannot_be_used_gets_one_sentence(start, kind, radius, sentence):
    easel = nb02.Easel()
    easel.kept = [("paint", x, y, 0.5) for x in (0, 1) for y in (0, 1)] if radius == 0.5 else []
    set_to(easel, start, kind, radius=radius)
    with pytest.raises(InputError, match=sentence):
        easel.scene()


def test_the_bound_follows_the_painting_only_where_it_shows_it(shown):
    easel, chosen = nb02.Easel(), nb02.bound_controls(20, 20, 1.6)
    easel.show(Path())
    nb02.bound_explorer(easel, chosen)
    solid = shown[-1]
    set_to(easel, nb02.NOTHING, "paint")
    assert shown[-1] is solid
    chosen["scene"].value = nb02.OWN
    disc = shown[-1]
    assert isinstance(disc, Figure) and disc is not solid
    easel.controls["x"].value = 0.2
    assert isinstance(shown[-1], Figure) and shown[-1] is not disc
    easel.controls["brush"].value = "off"
    assert shown[-1].data.startswith("error: Your silhouette is empty")
    values = {name: control.value for name, control in chosen.items()}
    assert nb02.draw_chosen(nb02.turned_cone, easel, **values).data == shown[-1].data
    easel.controls["brush"].value = "paint"
    assert isinstance(shown[-1], Figure) and len(nb02.draw_chosen(nb02.turned_cone, easel, **values).data) == 4


def test_buttons_keep_and_clear_touches(shown):
    easel = nb02.Easel()
    easel.show(Path())
    _, keep, clear = shown[0].children[0].children
    keep.click()
    easel.controls["x"].value = 0.1
    assert easel.kept == [["paint", 0.78, 0.26, 0.06]] and easel.scene().mask[17, 50]
    clear.click()
    assert easel.kept == [] and easel.controls["brush"].value == "off"


def uploaded(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


WHITE_BOX = np.zeros((64, 64), dtype=np.uint8)
WHITE_BOX[20:40, 10:30] = 255


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("mine.png", uploaded(WHITE_BOX), "The silhouette was read from the brightness (bright on dark) of mine.png."),
        ("mine.txt", uploaded(WHITE_BOX), "error: mine.txt is not an image file"),
        ("a.png", b"hello", "error: a.png is truncated"),
        ("m.png", uploaded(WHITE_BOX * 0), "error: A silhouette needs object and background, but all of m.png"),
    ],
)
def test_an_upload_replaces_what_was_painted_or_changes_nothing(shown, tmp_path, capsys, name, content, sentence):
    easel = nb02.Easel()
    easel.show(tmp_path)
    easel.kept.append(("paint", 0.5, 0.5, 0.25))
    upload, draws = shown[0].children[0].children[0], []
    assert set(upload.accept.split(",")) == set(SUFFIXES)
    easel.changed = lambda: draws.append(easel.controls["start"].value)
    for _ in range(2):  # a second time counts too
        file = {"name": name, "content": memoryview(content), "type": "image/png", "size": 1, "last_modified": 1.7e12}
        upload.set_state({"value": [file]})
        printed = said(capsys)
        assert printed.startswith(sentence) and printed.endswith(".") and str(tmp_path) not in printed
        assert upload.value == ()
    if sentence.startswith("error"):
        assert easel.given is None and len(easel.kept) == 1 and draws == []
    else:
        np.testing.assert_array_equal(easel.scene().mask.numpy(), WHITE_BOX > 0)  # no touch is left on it
        assert draws == [nb02.FILE] * 2
