"""Guessed normals: conventions of three estimators on known surfaces, the network, its training and its errors."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from data_scripts import train_normals
from data_scripts.normal_augment import augmented, moved, turned
from data_scripts.normal_errors import (
    constant_estimator,
    image_errors,
    inflated,
    measure,
    measure_network,
    result_rows,
    sphere_estimator,
)
from lib.data.images import read_sample_images, write_normals
from lib.data.loading import PreparedDataset
from lib.data.normals import (
    CONVENTIONS,
    NORMALS,
    NormalEstimator,
    furniture_estimator,
    in_camera_frame,
    load_estimator,
    unit,
)
from lib.data.prepared import write_metadata
from lib.errors import InputError
from lib.evaluation import read_results
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.networks.normal_network import NormalNetwork, NormalNetworkConfig
from lib.paths import FURNITURE

SIZE = 48

# Surfaces of a room, by what one sees; as each estimator writes them (Omnidata as colours, DSINE away from the camera).
ROOM = {
    "wall ahead": {"ours": (0, 0, -1), "omnidata": (0.5, 0.5, 0.0), "dsine": (0, 0, 1)},
    "floor": {"ours": (0, -1, 0), "omnidata": (0.5, 0.0, 0.5), "dsine": (0, 1, 0)},
    "ceiling": {"ours": (0, 1, 0), "omnidata": (0.5, 1.0, 0.5), "dsine": (0, -1, 0)},
    "wall on the left": {"ours": (1, 0, 0), "omnidata": (1.0, 0.5, 0.5), "dsine": (-1, 0, 0)},
    "wall on the right": {"ours": (-1, 0, 0), "omnidata": (0.0, 0.5, 0.5), "dsine": (1, 0, 0)},
}


@pytest.mark.parametrize("convention", sorted(CONVENTIONS))
@pytest.mark.parametrize("surface", sorted(ROOM))
def test_surfaces_of_a_room(surface, convention):
    written = np.array(ROOM[surface][convention], dtype=np.float32)
    np.testing.assert_allclose(in_camera_frame(written, convention), ROOM[surface]["ours"], atol=1e-6)


def written(normal: np.ndarray, convention: str) -> np.ndarray:
    """As the estimator's authors describe their output; not computed from the table in lib."""
    if convention == "omnidata":
        return (normal + 1) / 2  # colours of n in the frame x right, y down, z forward
    return -normal if convention == "dsine" else normal


def sphere_map(size=SIZE, distance=5.0) -> tuple[np.ndarray, np.ndarray]:
    """Normals (camera frame) and mask of a ball, by ray casting through the course's camera."""
    view = Viewpoint.from_angles(torch.zeros(1), torch.zeros(1), distance=distance, focal=distance)
    rays = camera_rays(view, pixel_centers(size)[None])
    origins, directions = rays.origins[0].double().numpy(), rays.directions[0].double().numpy()
    middle = -(origins * directions).sum(-1)
    square = 0.4**2 - (origins**2).sum(-1) + middle**2
    inside = square > 0
    points = origins + directions * (middle - np.sqrt(np.maximum(square, 0)))[:, None]
    normal = unit(points @ view.rotation()[0].numpy().T) * inside[:, None]
    return normal.reshape(size, size, 3).astype(np.float32), inside.reshape(size, size)


class Fixed(torch.nn.Module):
    """Pretends to be an estimator: gives a known map, whatever it sees."""

    def __init__(self, output: np.ndarray):
        super().__init__()
        self.register_buffer("output", torch.from_numpy(output).float().permute(2, 0, 1)[None])

    def forward(self, images):
        return self.output.expand(len(images), -1, -1, -1)


@pytest.mark.parametrize("convention", ["omnidata", "dsine"])
def test_a_ball_through_a_file(tmp_path, convention):
    normal, inside = sphere_map()
    torch.jit.script(Fixed(written(normal, convention))).save(tmp_path / "ball.pt")
    masks = np.stack([inside * np.uint8(255)] * 2)
    guessed = load_estimator(tmp_path / "ball.pt", convention).estimate(np.zeros((2, SIZE, SIZE, 3), np.uint8), masks)
    np.testing.assert_allclose(guessed, np.stack([normal] * 2), atol=1e-5)
    assert (guessed[:, ~inside] == 0).all()


def test_the_input_of_each_convention(tmp_path):
    class Echo(torch.nn.Module):
        def forward(self, images):
            return images

    image = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    image[..., 0], image[..., 1], image[..., 2] = 255, 51, 102
    torch.jit.script(Echo()).save(tmp_path / "echo.pt")
    masks = np.full((1, 32, 32), 255, dtype=np.uint8)
    rgb = np.array([1.0, 0.2, 0.4])
    expected = {"omnidata": 2 * rgb - 1, "dsine": -(rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]}
    for convention, vector in expected.items():
        guessed = load_estimator(tmp_path / "echo.pt", convention).estimate(image, masks)[0, 5, 5]
        np.testing.assert_allclose(guessed, vector / np.linalg.norm(vector), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "convention", "words"),
    [
        ("a.pt", None, "midas", "convention 'midas'"),
        ("a.pt", None, "dsine", "no normal estimator"),
        ("a.pt", "no network", "dsine", "no TorchScript"),
        ("a.onnx", "no network", "omnidata", "no ONNX model"),
        (".", None, "ours", r"config\.json does not exist"),
        ("config.json", '{"system": "shapeclipper", "config": {}}', "ours", "holds no normal network"),
        ("config.json", '{"system": "normal_network", "config": {}}', "ours", "does not describe a normal network"),
    ],
)
def test_estimators_that_cannot_be_used(tmp_path, name, content, convention, words):
    if content:
        (tmp_path / name).write_text(content)
    path = tmp_path if name == "config.json" else tmp_path / name
    with pytest.raises(InputError, match=words):
        load_estimator(path, convention)


def test_maps_of_another_shape_are_refused():
    flat = NormalEstimator("flat", "ours", lambda images, masks: np.zeros((1, 4, 4)))
    with pytest.raises(InputError, match=r"flat gives an array of shape \(1, 4, 4\)"):
        flat.estimate(np.zeros((1, 4, 4, 3), dtype=np.uint8), np.zeros((1, 4, 4), dtype=np.uint8))


# ---------------------------------------------------------------- the network and what it learns from


def test_the_network_gives_unit_normals_inside_the_mask():
    network = NormalNetwork(NormalNetworkConfig(64))
    torch.nn.init.normal_(network.head[-1].weight)  # as after training: it starts with one normal everywhere
    mask = torch.zeros(2, 64, 64)
    mask[:, 10:50, 20:60] = 1
    normal = network(torch.rand(2, 64, 64, 3), mask)
    torch.testing.assert_close(normal.norm(dim=-1), mask)
    assert normal[mask > 0].std(dim=0).min() > 0.01


def test_a_turned_mirrored_and_shrunk_ball_is_a_ball():
    """The ball's normals depend on the place alone, so moving the maps must agree with drawing it elsewhere."""
    normal, inside = (torch.from_numpy(array)[None] for array in sphere_map(96, 100.0))
    angle, scale, shift = 0.4, 1.25, torch.tensor([[0.1, -0.05]])
    turn = torch.tensor([[-1.0, 0.0], [0.0, 1.0]]) @ torch.tensor(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], dtype=torch.float32
    )
    maps = torch.cat([normal, inside[..., None].float()], dim=-1)
    result = moved(maps, turn[None], torch.tensor([scale]), shift)
    found = turned(F.normalize(result[..., :3], dim=-1), turn[None])[0]
    at = (torch.arange(96) + 0.5) / 48 - 1
    x, y = torch.meshgrid(at, at, indexing="xy")
    radius = 0.8 / scale  # of the ball in half images; from far away, perspective does not matter
    u, v = (x + shift[0, 0]) / radius, (y + shift[0, 1]) / radius
    core = u**2 + v**2 < 0.8
    expected = torch.stack([u, v, -(1 - u**2 - v**2).clamp(min=0).sqrt()], dim=-1)
    degrees = (found * expected).sum(-1)[core].clamp(-1, 1).arccos().rad2deg()
    assert result[0, ..., 3][core].min() > 0.99
    assert degrees.max() < 1


def test_other_looks_keep_background_and_length():
    normal, inside = (torch.from_numpy(array)[None].repeat_interleave(6, 0) for array in sphere_map())
    rgb = torch.where(inside[..., None], torch.tensor([0.2, 0.6, 0.4]), torch.ones(3))
    looks = [augmented(rgb, inside.float(), normal, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    for first, again, other in zip(*looks, strict=True):
        torch.testing.assert_close(first, again)
        assert not torch.equal(first, other)
    colour, mask, moved_normal = looks[0]
    far = F.max_pool2d(mask[:, None], 9, 1, 4)[:, 0] == 0  # beyond the blur
    assert (colour[far] == 1).all()
    assert 0 <= colour.min() < 0.9
    torch.testing.assert_close(moved_normal[mask > 0.9].norm(dim=-1), torch.ones((mask > 0.9).sum()))
    assert colour[mask > 0.99].std() > 0.05


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    """Balls and plates with known normals; one model of each split."""
    folder = tmp_path_factory.mktemp("renders") / "tiny"
    normal, _ = sphere_map(32)
    plate = np.zeros_like(normal)
    plate[8:24, 4:28] = [0.6, 0.0, -0.8]
    rows = []
    for split in ("train", "test"):
        for kind, maps in {"ball": normal, "plate": plate}.items():
            mask = np.any(maps != 0, axis=-1)
            rgba = np.dstack([np.rint((maps + 1) / 2 * 255), mask * 255]).astype(np.uint8)
            row = {"id": f"{kind}-{split}", "category": kind, "model": f"{kind}-{split}", "split": split}
            row |= {"image": f"{kind}-{split}.png", "normal": f"{kind}-{split}-n.png"}
            folder.mkdir(exist_ok=True)
            Image.fromarray(rgba).save(folder / row["image"])
            write_normals(folder / row["normal"], maps)
            rows.append(row)
    write_metadata(folder, rows, {"name": "tiny", "source": "x", "licence": "MIT", "version": "1", "image_size": 32})
    return folder


def arguments(renders, run, output, steps=6) -> list[str]:
    sizes = ["--image-size", "32", "--steps", str(steps), "--batch-size", "2", "--save-every", "2"]
    paths = ["--data", str(renders), "--run", str(run), "--output", str(output)]
    return [*paths, *sizes, "--backbone-weights", "random"]


def test_training_goes_on_as_if_never_stopped(renders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train_normals, "FURNITURE", renders)  # to be quick: errors are measured on the tiny set only
    assert train_normals.main(arguments(renders, tmp_path / "a", tmp_path / "whole")) == 0
    step = train_normals.train_step

    def stopped(*given):
        if given[-1] == 3:
            raise KeyboardInterrupt
        return step(*given)

    again = arguments(renders, tmp_path / "b", tmp_path / "resumed")
    monkeypatch.setattr(train_normals, "train_step", stopped)
    assert train_normals.main(again) == 130
    assert not (tmp_path / "resumed").exists()
    monkeypatch.setattr(train_normals, "train_step", step)
    assert train_normals.main(again) == 0
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "resumed")]
    assert weights[0] == weights[1]
    logs = [(tmp_path / name / "train.jsonl").read_text().splitlines() for name in ("whole", "resumed")]
    assert [json.loads(line)["degrees"] for line in logs[0]] == [json.loads(line)["degrees"] for line in logs[1]]
    estimator = load_estimator(tmp_path / "whole", "ours")
    assert len(measure(estimator, PreparedDataset(renders, "test"))) == 2
    systems = {row["system"] for row in read_results(tmp_path / "whole" / "results.json")}
    assert systems == {"whole", "constant", "inflated"}
    assert train_normals.main([*again, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_training_refuses_what_it_cannot_use(renders, tmp_path, capsys):
    for extra, sentence in {
        ("--image-size", "50"): "no multiple of 32",
        ("--data", str(tmp_path / "none")): "There is no prepared folder",
        ("--backbone-weights", str(tmp_path / "none.pth")): "is not a file",
    }.items():
        assert train_normals.main([*arguments(renders, tmp_path / "r", tmp_path / "o"), *extra]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and sentence in error and error.count("\n") == 1


# ---------------------------------------------------------------- errors


def test_errors_of_a_known_rotation():
    true, inside = sphere_map()
    angle = np.radians(20)
    rotation = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    plane = np.tile([[0.0, -0.6, -0.8]], (SIZE, SIZE, 1))  # turned about x, every normal moves by the whole angle
    errors = image_errors(plane @ rotation.T, plane, inside)
    assert errors["angular_error_mean"] == pytest.approx(20)
    assert errors["angular_error_median"] == pytest.approx(20)
    assert (errors["within_11.25"], errors["within_22.5"], errors["within_30"]) == (0, 1, 1)
    exact = image_errors(true, true, inside)
    assert exact["angular_error_mean"] < 0.05


def test_inflating_a_disc_gives_a_ball():
    at = (np.arange(64) + 0.5) / 32 - 1
    x, y = np.meshgrid(at, at)
    u, v = x / 0.75, y / 0.5
    inside = u**2 + v**2 < 1
    ball = np.stack([u, v, -np.sqrt(np.clip(1 - u**2 - v**2, 0, None))], axis=-1)
    errors = image_errors(inflated(inside).astype(float), ball, inside & (u**2 + v**2 < 0.9))
    assert errors["angular_error_mean"] < 1.5  # the box of the mask ends at pixels


def test_errors_are_averaged_over_images_not_pixels(renders):
    errors = measure(constant_estimator(np.float32([0.6, 0.0, -0.8])), PreparedDataset(renders, "test"))
    by_kind = errors.set_index("category")["angular_error_mean"]
    assert by_kind["plate"] < 0.05
    rows = result_rows(errors, "constant", "tiny", "32", {"seed": 0, "steps": 0, "seconds": 0.0})
    value = {row["category"]: row["value"] for row in rows if row["metric"] == "angular_error_mean"}
    assert value["all"] == pytest.approx(by_kind.mean())
    assert measure(sphere_estimator(), PreparedDataset(renders, "test"))["within_30"][0] == 1  # a ball is a ball


def test_models_that_were_learned_from_are_no_test(renders, tmp_path):
    leaky = tmp_path / "leaky"
    leaky.mkdir()
    dataset = PreparedDataset(renders, "train")
    rows = dataset.metadata.assign(split="test").to_dict("records")
    for name in ("image", "normal"):
        for row in rows:
            (leaky / row[name]).write_bytes((renders / row[name]).read_bytes())
    write_metadata(leaky, rows, {"name": "leaky", "source": "x", "licence": "MIT", "version": "1", "image_size": 32})
    (tmp_path / "w").mkdir()
    train_normals.write_json(
        tmp_path / "w" / "config.json", train_normals.describe(net := NormalNetwork(NormalNetworkConfig(32)))
    )
    train_normals.save_file(net.state_dict(), tmp_path / "w" / "weights.safetensors")
    with pytest.raises(InputError, match="learned from"):
        measure_network(tmp_path / "w", [leaky], renders, {})


# ---------------------------------------------------------------- what ships


def test_the_shipped_results_can_be_measured_again():
    rows = [r for r in read_results(NORMALS / "results.json") if r["protocol"] == "64 pixels a side"]
    about = next(r for r in rows if r["category"] == "lamp" and r["metric"] == "angular_error_mean")
    errors = measure(furniture_estimator(), PreparedDataset(FURNITURE, "test", ["lamp"]))
    assert about["system"] == NORMALS.name
    assert about["n"] == len(errors)
    assert errors["angular_error_mean"].mean() == pytest.approx(about["value"], abs=0.05)


def test_a_mirrored_image_has_mirrored_normals():
    table = PreparedDataset(FURNITURE, "test", ["sofa"])
    row = table.metadata.iloc[0]
    rgb, mask, _ = read_sample_images(FURNITURE / row.image)
    estimator = furniture_estimator()
    plain = estimator.estimate(rgb[None], mask[None])[0]
    mirror = estimator.estimate(rgb[None, :, ::-1].copy(), mask[None, :, ::-1].copy())[0, :, ::-1] * [-1, 1, 1]
    angle = np.degrees(np.arccos(np.clip((plain * mirror).sum(-1)[mask > 200], -1, 1)))
    assert np.median(angle) < 10
    wrong = np.degrees(np.arccos(np.clip((plain * mirror * [-1, 1, 1]).sum(-1)[mask > 200], -1, 1)))
    assert np.median(angle) < 0.5 * np.median(wrong)
