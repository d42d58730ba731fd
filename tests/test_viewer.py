"""Controls: what their callbacks do, with the display replaced by a list."""

import io
import time
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
import trimesh
from matplotlib.figure import Figure
from PIL import Image
from tiny import TINY, make_batch, make_system, write_prepared
from tiny_dataset import write_tiny_dataset

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.figures import upload, viewer
from lib.figures.upload import offered_mask, shape_of_uploads
from lib.figures.viewer import LiveBoard, Snapshots, controlled, drawn_once, slider, turned_views
from lib.training.listeners import TensorBoard
from support import nb00


class Shown(list):
    """Stands in for the display: notes what is shown, and what later takes its place."""

    def __call__(self, thing, display_id=False):
        self.append(thing)
        return self

    def update(self, thing):
        self[-1] = thing


@pytest.fixture
def shown(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(viewer, "display", shown)
    monkeypatch.setattr(upload, "display", shown)
    return shown


def png(array, **options) -> bytes:
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(stream, options.pop("format", "PNG"), **options)
    return stream.getvalue()


def uploaded(name: str, content: bytes) -> tuple[dict, ...]:
    return ({"name": name, "content": memoryview(content)},)


def cut_out(size: int = 40) -> np.ndarray:
    rgba = np.zeros((size, size, 4), dtype=np.uint8)
    rgba[10:30, 15:25] = [200, 40, 40, 255]
    return rgba


# figures under controls


def test_a_control_draws_again_in_the_same_place_and_an_input_error_is_one_sentence(shown, capsys):
    def draw(n):
        if n > 3:
            raise InputError("n is too large; take less.")
        return n

    control = slider("n", 2, 0, 9, 1)
    controlled(draw, n=control)
    assert shown[1:] == [2]
    control.value = 5
    assert [thing.data for thing in shown[1:]] == [""]  # not the figure of another value
    assert capsys.readouterr().out.endswith("error: n is too large; take less.\n")
    control.value = 3
    assert shown[1:] == [3]
    with pytest.raises(InputError):  # the first figure is the cell's: its errors are too
        controlled(draw, n=slider("n", 4, 0, 9, 1))


def test_several_controls_that_are_set_together_draw_once(shown):
    controls, drawn = {name: slider(name, 2, 0, 9, 1) for name in "ab"}, []
    redraw = controlled(lambda a, b: drawn.append((a, b)), **controls)
    with drawn_once(redraw, controls):
        controls["a"].value = controls["b"].value = 5
    controls["a"].value = 6
    assert drawn == [(2, 2), (5, 5), (6, 5)]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_pages_show_every_row_once(size):
    names = list("abacabadabacaba")
    pages = -(-names.count("a") // size)
    rows = [row for page in range(1, pages + 1) for row in nb00.page_rows(names, "a", page, size)]
    assert sorted(rows) == [i for i, name in enumerate(names) if name == "a"]
    assert nb00.page_rows(names, "a", pages + 5, size) == nb00.page_rows(names, "a", pages, size)


def test_a_page_of_samples_names_their_makers(tmp_path):
    data = PreparedDataset(write_tiny_dataset(tmp_path / "tiny"), "test")
    figure = nb00.sample_page(data, "ball", 1, 2, {"lens": "Lens by A. Maker"})
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert texts.count("Lens by A. Maker") == 2
    assert "20°, 25° up" in texts


def test_one_reconstruction_serves_all_views_of_a_sample(tmp_path, monkeypatch):
    data, read = PreparedDataset(write_prepared(tmp_path / "discs"), "val"), []
    shape = SimpleNamespace(mesh=lambda resolution: "mesh")
    system = make_system()
    monkeypatch.setattr(system, "reconstruct_batch", lambda batch: read.append(batch.index.tolist()) or shape)
    monkeypatch.setattr(nb00, "turned_views", lambda shape, mesh, *view, size: view)
    draw = nb00.prediction_viewer(system, data)
    assert [draw(1, 0, 10), draw(1, 90, 10), draw(2, 0, 10)] == [(0, 10), (90, 10), (0, 10)]
    assert read == [[1], [2]]


def test_turned_views_show_the_asked_side():
    shape = make_system().eval().reconstruct_batch(make_batch(1))
    figure = turned_views(shape, trimesh.creation.box((0.2, 0.2, 0.2)), 30, 20, size=16)
    assert figure.get_suptitle() == "azimuth 30°, elevation 20°"
    assert len(figure.axes) == 3


# following a training run


def rows_of(steps):
    return [{"step": s, "phase": "training", "loss": 1.0 / s, "rgb": 0.5 / s, "seconds": 1.0} for s in steps]


def test_the_live_board_has_one_output_and_frames_at_even_steps(shown):
    system = make_system()
    system.train()
    board = LiveBoard(Snapshots(make_batch(1), every=10, image_size=8, samples=4))
    for row in rows_of(range(5, 41, 5)):
        board(system, row)
    assert list(board.snapshots.frames) == [5, 15, 25, 35]
    assert len(shown) == 1
    assert isinstance(shown[0], Figure)
    assert system.training  # left as it was


def test_snapshots_do_not_disturb_the_training():
    system = make_system()
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    state = torch.random.get_rng_state()
    Snapshots(make_batch(1), every=1, image_size=8, samples=4)(system, rows_of([1])[0])
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state_dict().items())


def scalars(folder, tag):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload().Scalars(tag)
    return [number for event in events for number in (event.step, event.value)]


def test_tensorboard_gets_every_number_and_hides_what_a_killed_run_left(tmp_path):
    system = make_system()
    with TensorBoard(tmp_path) as killed:
        for row in [*rows_of([1, 2, 3]), {"step": 3, "phase": "validation", "image_loss": 0.25, "seconds": 2.0}]:
            killed(system, row)
    assert scalars(tmp_path, "training/rgb") == pytest.approx([1, 0.5, 2, 0.25, 3, 0.5 / 3])
    assert scalars(tmp_path, "validation/image_loss") == [3, 0.25]
    time.sleep(1)  # files are read in the order of their names, which tell the second of their start
    with TensorBoard(tmp_path) as resumed:  # its last state was step 2
        for row in rows_of([3, 4]):
            resumed(system, row | {"rgb": 7.0})
    assert scalars(tmp_path, "training/rgb") == pytest.approx([1, 0.5, 2, 0.25, 3, 7.0, 4, 7.0])


# a reader's own photo


def test_uploads_become_a_mesh(tmp_path, monkeypatch):
    system = make_system().eval()
    monkeypatch.setattr(upload, "shape_figure", lambda images, mesh, viewpoint, title: (images.shape, title))
    figure, sentence = shape_of_uploads(system, uploaded("me.png", png(cut_out())), (), tmp_path, 32)
    assert figure == ((1, 32, 32, 3), "your photo")
    assert len(trimesh.load(tmp_path / "photo.glb", force="mesh").faces) > 100
    assert "photo.glb" in sentence


@pytest.mark.parametrize(
    ("photo", "mask", "said"),
    [
        ((), (), "Choose a photo"),
        (uploaded("a.png", png(cut_out())[:60]), (), "truncated"),
        (uploaded("a.txt", b"hello"), (), "not an image file"),
        (uploaded("a.png", png(cut_out()[..., :3])), (), "no alpha channel and no mask"),
        (uploaded("a.jpg", png(Image.new("CMYK", (20, 20)), format="JPEG")), (), "a.jpg are CMYK; convert it to RGB"),
        (uploaded("a.png", png(cut_out())), uploaded("m.png", png(cut_out(30)[..., 3])), "must be equal"),
        (uploaded("a.png", png(cut_out())), uploaded("m.png", png(np.zeros((40, 40), np.uint8))), "empty"),
    ],
)
def test_bad_uploads_get_one_sentence(tmp_path, photo, mask, said):
    figure, sentence = shape_of_uploads(make_system().eval(), photo, mask, tmp_path)
    assert figure is None
    assert said in sentence
    assert not (tmp_path / "photo.glb").exists()


def opaque(value: int = 255, spot: tuple = (200, 40, 40)) -> np.ndarray:
    """A photo without a mask: a coloured disc on a plain background."""
    y, x = np.mgrid[:96, :96]
    photo = np.full((96, 96, 3), value, np.uint8)
    photo[(y - 48) ** 2 + (x - 48) ** 2 < 24**2] = spot
    return photo


def test_a_failed_upload_leaves_no_mesh_of_an_earlier_one_and_names_no_folder(tmp_path):
    system = make_system().eval()
    shape_of_uploads(system, uploaded("me.png", png(cut_out())), (), tmp_path, 32)
    assert (tmp_path / "photo.glb").exists()
    _, sentence = shape_of_uploads(system, uploaded("mine.png", png(opaque())), (), tmp_path, 32)
    assert sentence.startswith("error: mine.png has no alpha channel") and str(tmp_path) not in sentence
    assert not (tmp_path / "photo.glb").exists()


def test_a_photo_without_a_mask_is_offered_the_networks(tmp_path):
    figure, sentence, mask = offered_mask(uploaded("mine.png", png(opaque())), tmp_path, 32)
    inside = np.asarray(Image.open(io.BytesIO(mask["content"]))) > 0
    disc = (opaque() != 255).any(-1)
    assert (inside & disc).sum() / (inside | disc).sum() > 0.9
    assert isinstance(figure, Figure) and sentence.startswith("mine.png comes without a mask.")
    assert offered_mask((), tmp_path) is None
    assert offered_mask(uploaded("cut.png", png(cut_out())), tmp_path) is None  # it brings its own
    figure, sentence, mask = offered_mask(uploaded("grey.png", png(opaque(128, (128,) * 3))), tmp_path)
    assert (figure, mask) == (None, None) and sentence.startswith("error: grey.png comes without a mask, and no object")
    assert str(tmp_path) not in offered_mask(uploaded("a.png", b"no image"), tmp_path)[1]


def test_the_upload_control_takes_the_offered_mask_only_when_told_to(shown, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(upload, "shape_of_uploads", lambda *a: calls.append(a[1:3]) or (None, "made"))
    monkeypatch.setattr(
        upload, "offered_mask", lambda photos, *a: (None, "look", {"name": "m.png"}) if photos else None
    )
    example = {"name": "a.png", "content": b"", "about": "An example."}
    reconstruct = upload.upload_control(make_system(TINY).eval(), tmp_path, 32, example)
    row, _, use = shown[0].children
    photos, masks, without, button, trial = row.children
    reconstruct()
    assert calls == [((), ())] and use.layout.display == "none"
    trial.click()
    assert len(calls) == 1 and use.layout.display == ""  # a mask is shown, nothing made
    use.click()
    assert calls[1] == ((example,), ({"name": "m.png"},)) and use.layout.display == "none"
    trial.click()
    photos.set_state({"value": [{"name": "b.png", "type": "", "size": 0, "content": b"", "last_modified": 0}]})
    assert use.layout.display == "none" and [file["name"] for file in photos.value] == ["b.png"]
    masks.set_state({"value": [{"name": "c.png", "type": "", "size": 0, "content": b"", "last_modified": 0}]})
    button.click()
    assert [file["name"] for files in calls[2] for file in files] == ["b.png", "c.png"]
    without.click()
    assert masks.value == ()


def test_the_upload_button_shows_figure_and_sentence(shown, tmp_path):
    reconstruct = upload.upload_control(make_system(TINY).eval(), tmp_path, 32)
    reconstruct()
    assert isinstance(shown[0], ipywidgets.VBox)


def test_an_example_is_a_photo_without_a_mask_that_says_what_it_is(tmp_path):
    dataset = PreparedDataset(write_tiny_dataset(tmp_path / "data"), "test")
    example = nb00.example_upload(dataset, 0, "Chair by A, CC0-1.0")
    picture = Image.open(io.BytesIO(example["content"]))
    assert picture.mode == "RGB" and np.array_equal(picture, np.asarray(dataset.rgb[0]))
    assert example["about"].endswith("pixels wide: Chair by A, CC0-1.0.") and "test split" in example["about"]
    assert nb00.read_makers(tmp_path) == {}
    lines = "model,category,name,creator,licence,pack\nm,chair,Chair,A,CC0-1.0,p\n"
    (tmp_path / "ATTRIBUTION.csv").write_text(lines)
    assert nb00.read_makers(tmp_path) == {"m": "Chair by A, CC0-1.0"}


def test_sliders_show_as_many_digits_as_a_step_has():
    shown = {step: slider("x", 0.0, 0.0, 1.0, step).readout_format for step in (0.005, 0.05, 0.1, 1.0)}
    assert shown == {0.005: ".3f", 0.05: ".2f", 0.1: ".1f", 1.0: ".0f"}
