"""Two processes, and batches in parts, do what one process does with the whole batch."""

import json
import logging
import socket
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny import EVERYTHING, make_batch, make_system, write_prepared

import lib.systems
from lib.data.augment import augmented
from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.rendering.parallel import Share, draw_rows, gathered, largest, own_rows, sharing, whole_batch
from lib.rendering.sampling import sample_pixels, uniform
from lib.rendering.volume import sample_depths
from lib.systems.sdf_srn_config import PASCAL3D
from lib.training.batches import Batches, seeded
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

TRAINING = TrainingConfig(
    steps=6, pretrain_steps=1, batch_size=4, learning_rate=1e-3, clip=1.0, log_every=1, select="last"
)
# normals in full weight, so that a wrong minibatch shows; nothing that mixes the images of a batch but the losses
PREDICTED = replace(EVERYTHING, augment_mirrored=True, normal_weight=1.0, azimuth_prior_weight=1.0)
SDF_SRN = replace(
    PASCAL3D,
    backbone="test_resnet",
    backbone_weights="random",
    image_size=32,
    freeze_batchnorm=True,
    latent_size=16,
    hyper_layers=1,
    hyper_width=16,
    width=16,
    layers=3,
    frequencies=2,
    steps=4,
    rays=40,
    eikonal_points=20,
    pretrain_points=20,
    projection="perspective",
    cube_weight=1.0,
)
CASES = {
    "predicted": (PREDICTED, replace(TRAINING, save_every=4, validate_every=3)),
    "by-azimuth-prior": (replace(PREDICTED, guess_weight=0.0, beta_final=0.02, render_path="fast"), TRAINING),
    "given": (replace(PREDICTED, viewpoint="given"), TRAINING),
    "in-parts": (PREDICTED, replace(TRAINING, accumulate=2)),
    "sdf-srn": (SDF_SRN, TRAINING),
    "sdf-srn-occupancy": (replace(SDF_SRN, field="occupancy"), TRAINING),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=2, views=2)


def system_of(config) -> torch.nn.Module:
    torch.manual_seed(0)
    return make_system(config) if config.viewpoint == "predicted" else lib.systems.make_system(config)


def train_case(folder: Path, runs: Path, name: str, stop: int | None = None):
    config, training = CASES[name]
    data = PreparedDataset(folder, "train")
    held_out = PreparedDataset(folder, "val") if name == "predicted" else None
    settings = {"validation": held_out, "accelerator": Accelerator(cpu=True), "stop_after": stop}
    return train(system_of(config), training, data, runs / name, **settings)


def train_all(folder: Path, runs: Path):
    for name in CASES:
        train_case(folder, runs, name, stop=5 if name == "predicted" else None)
    train_case(folder, runs, "predicted")  # goes on
    fail_in_one(folder, runs)


def fail_in_one(folder: Path, runs: Path):
    accelerator, system = Accelerator(cpu=True), system_of(SDF_SRN)
    if accelerator.process_index == 1:
        losses = system.pretrain_losses
        system.pretrain_losses = lambda *given: {name: value * torch.nan for name, value in losses(*given).items()}
    with pytest.raises(FloatingPointError, match="step 0: loss 'shape' is not finite"):
        train(system, TRAINING, PreparedDataset(folder, "train"), runs / "fails", accelerator=accelerator)
    (runs / f"stopped-{accelerator.process_index}").touch()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(work, *arguments):
    """As a notebook does it; for that no accelerator may live in this process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        notebook_launcher(work, arguments, num_processes=2, use_port=str(free_port()))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def runs(folder, tmp_path_factory) -> tuple[Path, Path]:
    """Folders with the runs of two processes, and of one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    launch(train_all, folder, two)
    for name in CASES:
        train_case(folder, one, name)
    return two, one


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_loss_curve_of_one(runs, name):
    two, one = (read_log(run / name / "log.jsonl") for run in runs)
    assert [row["step"] for row in two] == [row["step"] for row in one]
    assert len([row for row in one if row["phase"] == "training"]) == TRAINING.steps
    assert one[-1]["loss" if "loss" in one[-1] else "image_loss"] > 0
    for row, expected in zip(two, one, strict=True):
        assert row.keys() == expected.keys()
        for key in row.keys() - {"seconds", "phase"}:
            assert row[key] == pytest.approx(expected[key], rel=1e-5, abs=1.5e-6), (row["step"], key)
    terms = {key for row in one for key in row}
    wanted = {"predicted": {"mirror", "azimuth_prior", "normal", "guess"}, "by-azimuth-prior": {"azimuth_prior"}}
    assert wanted.get(name, set()) <= terms


def test_processes_stop_together_when_the_loss_of_one_is_not_finite(runs):
    assert all((runs[0] / f"stopped-{rank}").exists() for rank in (0, 1))
    assert not (runs[0] / "fails").exists()


# --- what is random ------------------------------------------------------------------------------------------------


def draws(rgb, mask, weights, generator: torch.Generator) -> list[torch.Tensor]:
    return [
        sample_pixels(mask + 0.1 * rgb[..., 0], 20, generator),
        uniform((len(rgb), 7, 3), rgb, generator),
        augmented(rgb, generator),
        draw_rows(torch.randn, (len(rgb), 5), generator),
        sample_depths(torch.zeros(len(rgb)), torch.ones(len(rgb)), 4, 3, generator),
        sample_pixels(weights, 1, generator),
    ]


@pytest.mark.parametrize(("shares", "processes"), [(2, 1), (3, 3), (6, 2)])
def test_shares_draw_what_the_whole_batch_draws(shares, processes):
    batch, size = make_batch(6), 6 // shares
    images = (batch.rgb, batch.mask, batch.ray_weights)
    expected, parts = draws(*images, seeded(1)), []
    for number in range(shares):
        share = Share(number * size, size, 6, processes)
        with sharing(share):
            parts.append(draws(*(values[share.rows] for values in images), seeded(1)))
    for values, pieces in zip(expected, zip(*parts, strict=True), strict=True):
        assert torch.equal(values, torch.cat(pieces))


def test_shares_take_their_rows_and_refuse_other_counts():
    whole = torch.arange(24.0).reshape(8, 3).requires_grad_()
    with sharing(Share(4, 2, 8, 2)):
        rows = own_rows(whole)
        assert torch.equal(rows, whole[4:6]) and whole_batch(2) == 8
        with pytest.raises(ValueError, match="3 images in a share of 2"):
            whole_batch(3)
    rows.sum().backward()
    assert torch.equal(whole.grad.sum(dim=1), torch.tensor([0.0, 0, 0, 0, 3, 3, 0, 0]))


def test_alone_nothing_is_copied():
    values = torch.ones(3, 2)
    assert all(function(values) is values for function in (own_rows, gathered))
    assert whole_batch(3) == 3 and largest(5, values.device) == 5


# --- which images --------------------------------------------------------------------------------------------------


def processes(count: int, number: int = 0) -> Accelerator:
    accelerator = Mock(spec=Accelerator)
    accelerator.num_processes, accelerator.process_index, accelerator.device = count, number, torch.device("cpu")
    return accelerator


def test_shares_put_together_are_the_batch(folder):
    data, system = PreparedDataset(folder, "train"), make_system(PREDICTED)
    config = replace(TRAINING, accumulate=2)
    whole = Batches(system, replace(config, accumulate=1), data, processes(1)).draw(3, True)
    assert whole.share is None
    parts = [Batches(system, config, data, processes(2, n)).draw(3, True, part) for part in (0, 1) for n in (0, 1)]
    assert [part.share.first for part in parts] == [0, 1, 2, 3]
    assert torch.equal(torch.cat([part.batch.index for part in parts]), whole.batch.index)
    neighbors = torch.cat([part.batch.neighbor.index for part in parts])
    assert torch.equal(neighbors, whole.batch.neighbor.index)
    assert all(torch.equal(part.generator.get_state(), whole.generator.get_state()) for part in parts)


@pytest.mark.parametrize(("size", "accumulate", "count"), [(4, 1, 3), (4, 2, 4), (64, 1, 3)])
def test_batch_that_cannot_be_divided_is_one_sentence(folder, size, accumulate, count):
    config = replace(TRAINING, batch_size=size, accumulate=accumulate)
    with pytest.raises(InputError, match=r"batch_size: \d images cannot be divided evenly by .*choose a multiple"):
        Batches(make_system(PREDICTED), config, PreparedDataset(folder, "train"), processes(count))


# --- parts of a batch ----------------------------------------------------------------------------------------------


def first_gradients(folder: Path, run: Path, config, **changes) -> dict[str, torch.Tensor]:
    training = replace(TRAINING, pretrain_steps=0, clip=None, **changes)
    data, system = PreparedDataset(folder, "train"), system_of(config)
    train(system, training, data, run, accelerator=Accelerator(cpu=True), stop_after=1)
    return {name: p.grad for name, p in system.named_parameters() if p.grad is not None}


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    size = torch.cat([g.flatten() for g in theirs.values()]).norm()
    return float(torch.cat([(ours[n] - theirs[n]).flatten() for n in theirs]).norm() / size)


def test_parts_give_the_gradient_of_the_whole_batch_for_means_over_images(folder, tmp_path):
    config = replace(PREDICTED, normal_weight=0.0, azimuth_prior_weight=0.0, quarters_from=1.0)
    whole = first_gradients(folder, tmp_path / "whole", config)
    for parts in (2, 4):
        assert distance(first_gradients(folder, tmp_path / str(parts), config, accumulate=parts), whole) < 1e-5
    assert distance(first_gradients(folder, tmp_path / "other", config, seed=1), whole) > 0.1
    logs = [read_log(tmp_path / name / "log.jsonl")[0]["loss"] for name in ("whole", "2", "4")]
    assert logs[1:] == pytest.approx([logs[0]] * 2, rel=1e-5)


def test_losses_over_a_batch_look_at_each_part(folder, tmp_path):
    config = replace(PREDICTED, normal_weight=0.0, guess_weight=0.0)  # what is left is the azimuth prior
    runs = [first_gradients(folder, tmp_path / str(parts), config, accumulate=parts) for parts in (1, 2)]
    assert distance(*runs) > 1e-3
    first, second = (read_log(tmp_path / name / "log.jsonl")[0] for name in ("1", "2"))
    assert first["azimuth_prior"] != pytest.approx(second["azimuth_prior"], rel=1e-3)
    assert first["rgb"] == pytest.approx(second["rgb"], rel=1e-5)


def test_accumulate_must_divide_the_batch():
    with pytest.raises(InputError, match="batch_size: 4 images cannot be divided evenly by accumulate=3"):
        replace(TRAINING, accumulate=3)


def test_run_in_parts_resumes_exactly(folder, tmp_path):
    for name, stops in (("whole", [None]), ("paused", [2, 5, None])):
        for stop in stops:
            train_case(folder, tmp_path / name, "in-parts", stop)
    ours, theirs = (load_file(tmp_path / name / "in-parts" / "weights.safetensors") for name in ("paused", "whole"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_run_from_before_batches_had_parts_goes_on(folder, tmp_path):
    train_case(folder, tmp_path, "given", stop=2)
    plan = tmp_path / "given" / "plan.json"
    about = json.loads(plan.read_text())
    del about["training"]["accumulate"]
    plan.write_text(json.dumps(about))
    train_case(folder, tmp_path, "given", stop=3)
    assert json.loads(plan.read_text())["training"]["accumulate"] == 1
