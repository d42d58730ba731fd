"""Training: repeatable, resumable bit for bit after any kind of stop, and choosing its weights by images."""

import errno
import functools
import json
import os
import shutil
import signal
import traceback
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tiny import EVERYTHING, TINY, make_system, write_prepared
from tiny_dataset import write_tiny_dataset

import lib.training.loop
import lib.training.state
from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import evaluate_instances, system_predictor
from lib.systems.checkpoints import load_system
from lib.training.__main__ import main
from lib.training.batches import Batches, seeded
from lib.training.log import Interrupted, read_log
from lib.training.loop import TrainingConfig, learning_rate_factor, train, train_step
from lib.training.state import read_about
from lib.training.validation import validate

# batch normalisation, random augmentation and guesses: all that could remember something between steps
SYSTEM = replace(EVERYTHING, augment_mirrored=True, head_batchnorm=True, freeze_batchnorm=False)
CONFIG = TrainingConfig(
    steps=6,
    pretrain_steps=2,
    batch_size=3,
    learning_rate=3e-3,
    backbone_learning_rate=1e-3,
    schedule="cosine",
    warmup=2,
    clip=1.0,
    log_every=1,
    save_every=3,
    validate_every=2,
)
TOTAL = CONFIG.steps + CONFIG.pretrain_steps
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process of its own to kill")


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    """Validation renders small pictures in these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lib.training.loop, "validate", functools.partial(validate, image_size=6))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=4, views=2)


@pytest.fixture(scope="module")
def data(folder) -> PreparedDataset:
    return PreparedDataset(folder, "train")


@pytest.fixture(scope="module")
def validation(folder) -> PreparedDataset:
    return PreparedDataset(folder, "val")


@pytest.fixture(scope="module")
def go(data, validation):
    """Train, or go on, in a run folder."""

    def call(
        run: Path, weights: int = 0, system=SYSTEM, data=data, validation=validation, listeners=(), stop=None, **changes
    ):
        return train(
            make_system(system, weights),
            replace(CONFIG, **changes),
            data,
            run,
            validation=validation,
            listeners=listeners,
            accelerator=Accelerator(cpu=True),
            stop_after=stop,
        )

    return call


@pytest.fixture(scope="module")
def whole(go, tmp_path_factory) -> Path:
    """The folder of a run that nobody stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    go(run)
    return run


def rows(run: Path) -> list[dict]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(run / "log.jsonl")]


def assert_same_run(run: Path, whole: Path):
    for name in ("weights.safetensors", "checkpoint/state.safetensors", "best/weights.safetensors"):
        ours, theirs = load_file(run / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        assert [n for n in ours if not torch.equal(ours[n], theirs[n])] == [], name
    assert rows(run) == rows(whole)
    assert read_about(run / "checkpoint/state.safetensors") == read_about(whole / "checkpoint/state.safetensors")
    for name in ("config.json", "best/config.json"):
        assert (run / name).read_text() == (whole / name).read_text()


def in_a_process(work) -> int:
    """Do it in a fork of this process; gives back the signal that ended it, or 0."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def at(step: int, action, phase: str | None = None):
    """A listener that acts on the row of one step."""

    def listen(system, row):
        if row["step"] == step and phase in (None, row["phase"]):
            action()

    return listen


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def press_ctrl_c():
    signal.raise_signal(signal.SIGINT)


# --- repeatable ----------------------------------------------------------------------------------------------------


def test_same_seed_same_run_bit_for_bit(go, whole, tmp_path):
    go(tmp_path)
    assert_same_run(tmp_path, whole)


def test_another_seed_is_another_run(go, whole, tmp_path):
    go(tmp_path, steps=1, pretrain_steps=1, seed=1, validation=None)
    assert rows(tmp_path)[0]["loss"] != rows(whole)[0]["loss"]


def test_run_does_not_depend_on_the_global_generator(data, tmp_path):
    logs, config = [], replace(CONFIG, steps=3, pretrain_steps=1)
    for number in range(2):
        system = make_system(SYSTEM)
        torch.manual_seed(number)
        train(system, config, data, tmp_path / str(number), accelerator=Accelerator(cpu=True))
        logs.append(rows(tmp_path / str(number)))
    assert logs[0] == logs[1]


# --- stopped and resumed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_paused_run_equals_the_whole_one(go, whole, tmp_path, stop):
    go(tmp_path, stop=stop)
    assert read_about(tmp_path / "checkpoint/state.safetensors")["step"] == stop
    assert not (tmp_path / "weights.safetensors").exists()
    go(tmp_path, weights=7)  # other first weights: all must come from the state
    assert_same_run(tmp_path, whole)


def test_run_paused_after_every_step_equals_the_whole_one(go, whole, tmp_path):
    for stop in range(1, TOTAL):
        go(tmp_path, weights=stop - 1, stop=stop)
    go(tmp_path, weights=99)
    assert_same_run(tmp_path, whole)


@forks
@pytest.mark.parametrize(("step", "phase"), [(2, None), (5, "training"), (6, "validation"), (8, "validation")])
def test_killed_run_equals_the_whole_one(go, whole, tmp_path, step, phase):
    assert in_a_process(lambda: go(tmp_path, listeners=(at(step, kill, phase),))) == signal.SIGKILL
    assert rows(tmp_path)[-1]["step"] == step
    go(tmp_path, weights=0 if step < CONFIG.save_every else 7)
    assert_same_run(tmp_path, whole)


@forks
def test_run_killed_while_it_saves_equals_the_whole_one(go, whole, tmp_path, monkeypatch):
    def half_a_file(tensors, path, metadata=None):
        if metadata is not None and json.loads(metadata["about"])["step"] == 6:
            save_file(tensors, path, metadata=metadata)
            path.write_bytes(path.read_bytes()[:1000])
            kill()
        save_file(tensors, path, metadata=metadata)

    with monkeypatch.context() as patch:
        patch.setattr(lib.training.state, "save_file", half_a_file)
        assert in_a_process(lambda: go(tmp_path)) == signal.SIGKILL
    assert read_about(tmp_path / "checkpoint/state.safetensors")["step"] == 3
    go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)


def test_ctrl_c_saves_and_says_how_to_go_on(go, whole, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"stopped after step 4 of {TOTAL}; run the same command again to go on"):
        go(tmp_path, listeners=(at(4, press_ctrl_c, "training"),))
    assert read_about(tmp_path / "checkpoint/state.safetensors")["step"] == 4
    assert signal.getsignal(signal.SIGINT) is before
    go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)


def test_second_ctrl_c_stops_at_once_and_the_last_state_still_serves(go, whole, tmp_path):
    with pytest.raises(KeyboardInterrupt) as caught:
        go(tmp_path, listeners=(at(5, press_ctrl_c, "training"), at(5, press_ctrl_c, "training")))
    assert not isinstance(caught.value, Interrupted)
    assert read_about(tmp_path / "checkpoint/state.safetensors")["step"] == 3
    go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)


def test_log_with_a_line_cut_off_and_rows_too_many_is_cut_back(go, whole, tmp_path):
    go(tmp_path, stop=3)
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 4, "phase": "training", "loss": 123.0, "seconds": 1}) + "\n")
        log.write('{"step": 5, "phase": "trai')
    assert len(read_log(tmp_path / "log.jsonl")) == 4
    go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)


def test_time_goes_on_counting_after_a_pause(go, tmp_path):
    go(tmp_path, stop=3)
    path = tmp_path / "log.jsonl"
    kept = [row | {"seconds": 1000 + row["seconds"]} for row in read_log(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    go(tmp_path)
    seconds = [row["seconds"] for row in read_log(path)]
    assert seconds == sorted(seconds) and seconds[-1] > 1000


def test_finished_run_can_be_asked_again(go, whole, tmp_path):
    go(tmp_path)
    system = go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)
    loaded = load_system(tmp_path)
    assert all(torch.equal(t, system.state_dict()[n]) for n, t in loaded.state_dict().items())


def test_full_disk_is_one_sentence_and_the_run_goes_on_later(go, whole, tmp_path, monkeypatch):
    rename = Path.replace

    def full(self, target):
        if self.name.startswith("state") and Path(target).exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(InputError, match="No space left on device"):
            go(tmp_path)
    assert read_about(tmp_path / "checkpoint/state.safetensors")["step"] == 3
    assert not list(tmp_path.rglob("*.tmp"))
    go(tmp_path, weights=7)
    assert_same_run(tmp_path, whole)


# --- what does not fit ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paused(go, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "paused"
    go(run, stop=2)
    return run


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("training setting: learning_rate [0-9.e-]+ instead of 0.01", {"learning_rate": 1e-2}),
        ("training setting: seed 0 instead of 5", {"seed": 5}),
        ("system setting: mask_weight [0-9.]+ instead of 0.7", {"system": replace(SYSTEM, mask_weight=0.7)}),
    ],
)
def test_folder_of_another_run_is_refused(go, paused, part, change):
    before = {path: path.read_bytes() for path in paused.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"another {part}; choose"):
        go(paused, **change)
    assert {path: path.read_bytes() for path in paused.rglob("*") if path.is_file()} == before


def test_folder_of_a_run_on_other_data_is_refused(go, paused, tmp_path):
    other = PreparedDataset(write_prepared(tmp_path / "discs", train=5, val=3), "train")
    with pytest.raises(InputError, match=r"another data size setting: \d+ instead of \d+; choose"):
        go(paused, data=other)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_run_folder_without_its_plan_is_one_sentence(go, paused, tmp_path, text):
    run = tmp_path / "run"
    shutil.copytree(paused, run)
    (run / "plan.json").unlink()
    if text is not None:
        (run / "plan.json").write_text(text)
    with pytest.raises(InputError, match="plan.json"):
        go(run)


def test_damaged_state_is_one_sentence(go, paused, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(paused, run)
    state = run / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="state.safetensors is damaged"):
        go(run)


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, 0) for name in ("steps", "batch_size", "log_every", "save_every", "validate_every")]
    + [("seed", -1), ("accumulate", 2)],
)
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        replace(CONFIG, **{name: value})


def test_loss_that_is_not_finite_stops_by_name(data, tmp_path):
    system = make_system(SYSTEM)
    with torch.no_grad():
        system.sdf_field.head.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="step 0: loss 'shape' is not finite"):
        train(system, CONFIG, data, tmp_path, accelerator=Accelerator(cpu=True))


def test_missing_neighbour_file_is_one_sentence(go, tmp_path):
    with pytest.raises(InputError, match="nowhere.parquet does not exist"):
        go(tmp_path, neighbors="nowhere")
    assert not any(tmp_path.iterdir())


def test_data_that_lack_what_the_system_needs_leave_nothing_behind(go, tmp_path):
    data = PreparedDataset(write_prepared(tmp_path / "plain", train=4, val=4, views=2), "train")
    data.normal = None  # as of a folder of photographs
    with pytest.raises(InputError, match="whose samples have normals"):
        go(tmp_path / "run", system=replace(SYSTEM, normal_weight=1.0), data=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--dataset", "/nowhere"], "/nowhere"),
        (["--set", "nonsense"], "nonsense"),
        (["--set", "wings=2"], "wings"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_command_line_prints_one_sentence_and_returns_2(folder, tmp_path, capsys, arguments, complaint):
    try:
        code = main(["small", "--dataset", str(folder), "--run", str(tmp_path / "run"), *arguments])
    except SystemExit as stop:  # argparse's own way to say that a choice is wrong
        code = stop.code
    assert code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_data_without_validation_images_keep_the_last_weights(tmp_path):
    folder = write_prepared(tmp_path / "discs", train=4, val=0, views=2)
    tiny = ["latent_size=8", "rays=8", "neighbor_rays=8", "samples=4", "semantic_weight=0.0"]
    steps = ["pretrain_steps=1", "steps=2", "batch_size=2", "pretrain_points=8"]
    run = tmp_path / "run"
    command = ["small-given", "--dataset", str(folder), "--run", str(run), "--device", "cpu"]
    assert main([*command, "--set", *tiny, "--set", *steps]) == 0
    about = json.loads((run / "config.json").read_text())
    assert about["step"] == 3 and about["best"] is None
    assert about["config"]["rays"] == 8  # the first --set holds besides the second
    assert {row["phase"] for row in rows(run)} <= {"pretraining", "training"}


# --- which weights -------------------------------------------------------------------------------------------------


def test_best_images_decide_which_weights_stay(go, whole, tmp_path):
    scores = {row["step"]: row["image_loss"] for row in rows(whole) if row["phase"] == "validation"}
    assert sorted(scores) == [4, 6, 8]
    best = min(scores, key=scores.get)
    about = json.loads((whole / "config.json").read_text())
    assert about["step"] == best and about["best"] == {"score": scores[best], "step": best}
    stopped = go(tmp_path, stop=best).state_dict()
    final = load_file(whole / "weights.safetensors")
    assert all(torch.equal(final[name], tensor) for name, tensor in stopped.items())


def test_a_better_first_score_is_kept_though_later_ones_are_worse(go, validation, tmp_path):
    # steps far too long make every later validation worse than the first
    system = go(tmp_path, learning_rate=0.5, backbone_learning_rate=0.5, schedule="constant", warmup=0)
    scores = {row["step"]: row["image_loss"] for row in rows(tmp_path) if row["phase"] == "validation"}
    best = min(scores, key=scores.get)
    assert len(set(scores.values())) > 1
    assert json.loads((tmp_path / "config.json").read_text())["step"] == best
    assert validate(system, validation, image_size=6)["image_loss"] == pytest.approx(scores[best], abs=1e-5)


def test_best_shapes_decide_where_that_is_asked(go, tmp_path):
    shapes = PreparedDataset(write_tiny_dataset(tmp_path / "data"), "train")
    system = replace(TINY, semantic_weight=0.0, normal_weight=0.0)
    trained = go(tmp_path / "run", system=system, data=shapes, validation=shapes, select="shapes")
    distances = {r["step"]: r["chamfer_distance"] for r in rows(tmp_path / "run") if r["phase"] == "validation"}
    best = json.loads((tmp_path / "run/config.json").read_text())["best"]
    assert best == {"score": min(distances.values()), "step": min(distances, key=distances.get)}
    # the score is what evaluation gives for the same weights and samples, up to the points drawn
    measured = evaluate_instances(system_predictor(trained, 64), shapes, protocols=["view"], points=10_000)
    value = measured.loc[measured["metric"] == "chamfer_distance", "value"].mean()
    assert best["score"] == pytest.approx(value, rel=0.02)


def test_last_weights_stay_where_that_is_asked(go, tmp_path):
    system = go(tmp_path, select="last")
    about = json.loads((tmp_path / "config.json").read_text())
    assert about["step"] == TOTAL and about["best"] is None and not (tmp_path / "best").exists()
    state = load_file(tmp_path / "checkpoint/state.safetensors")
    for name, tensor in system.state_dict().items():
        assert torch.equal(tensor, state[f"system.{name}"]), name


def test_validation_scores_add_up_and_change_nothing(validation):
    system = make_system(SYSTEM).train()
    before, random = {n: t.clone() for n, t in system.state_dict().items()}, torch.get_rng_state()
    scores = validate(system, validation, image_size=6)
    assert scores == validate(system, validation, image_size=6)
    assert scores["image_loss"] == pytest.approx(scores["image_rgb"] + 0.5 * scores["image_mask"], abs=2e-6)
    assert 0 <= scores["azimuth_entropy"] <= 1 and 0 <= scores["azimuth_error"] <= 180
    assert system.training and torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[n]) for n, t in system.state_dict().items())


# --- learning rate -------------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_stays_and_falls_as_half_a_cosine():
    config = TrainingConfig(steps=100, warmup=10, schedule="cosine")
    factors = [learning_rate_factor(step, config) for step in (-5, 0, 4, 9, 10, 50, 75, 100)]
    assert factors == pytest.approx([1, 0.1, 0.5, 1, 1, 1, 0.525, 0.05])
    constant = TrainingConfig(steps=100)
    assert {learning_rate_factor(step, constant) for step in range(-10, 101)} == {1.0}


def test_backbone_has_its_own_learning_rate(go, tmp_path):
    first = {name: tensor.clone() for name, tensor in make_system(SYSTEM).named_parameters()}
    system = go(tmp_path, steps=2, pretrain_steps=0, backbone_learning_rate=1e-9, validation=None)
    moved = {n: float((p.detach() - first[n]).abs().max()) for n, p in system.named_parameters()}
    assert max(v for n, v in moved.items() if "backbone" in n) < 1e-7
    assert min(v for n, v in moved.items() if n.startswith(("sdf_field.", "codes."))) > 1e-5


# --- batches and log -----------------------------------------------------------------------------------------------


def images_of(batches: Batches, step: int) -> torch.Tensor:
    return torch.cat([batch.index for batch, _ in batches.draw(step, True)])


def test_batches_are_the_same_whenever_asked_and_an_epoch_sees_no_sample_twice(data):
    batches = Batches(make_system(SYSTEM), replace(CONFIG, batch_size=2), data, Accelerator(cpu=True))
    orders = []
    for epoch in range(3):
        steps = range(epoch * 4, epoch * 4 + 4)
        drawn = [images_of(batches, step) for step in steps]
        assert sorted(torch.cat(drawn).tolist()) == list(range(8))
        assert all(torch.equal(images_of(batches, step), d) for step, d in zip(steps, drawn, strict=True))
        orders.append(torch.cat(drawn).tolist())
    assert orders[0] != orders[1] != orders[2]


def test_parts_and_processes_divide_the_batch(data):
    """Two processes with two parts each see what one sees at once, in its order, and draw other random numbers."""
    config = replace(CONFIG, batch_size=8)
    whole = images_of(Batches(make_system(SYSTEM), config, data, Accelerator(cpu=True)), 3)
    parts, draws = [], []
    for process in range(2):
        one = Mock(spec=Accelerator, num_processes=2, process_index=process, device=torch.device("cpu"))
        for batch, generator in Batches(make_system(SYSTEM), replace(config, accumulate=2), data, one).draw(3, False):
            assert len(batch.index) == 2
            parts.append(batch.index)
            draws.append(torch.rand(1, generator=generator).item())
    assert torch.equal(torch.cat(parts), whole) and len(set(draws)) == 4
    with pytest.raises(InputError, match="batch_size: 3 images cannot be divided evenly by 2 x 1"):
        Batches(make_system(SYSTEM), CONFIG, data, one)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(data, monkeypatch):
    """Of a loss that is a mean over images and draws nothing."""
    system = make_system(replace(EVERYTHING, viewpoint="given"), shake=0.02)
    monkeypatch.setattr(system, "losses", lambda batch, _: {"code": system.encode(batch.rgb)[0].square().mean()})
    found, accelerator = [], Accelerator(cpu=True)
    optimizer = torch.optim.SGD(system.parameters(), lr=0.0)
    optimizer.param_groups[0]["initial_lr"] = 0.0
    for parts in (1, 4):
        config = replace(CONFIG, batch_size=8, accumulate=parts, pretrain_steps=0, clip=None)
        batches = Batches(system, config, data, accelerator)
        losses, _ = train_step(system, system, optimizer, config, batches, accelerator, 0)
        found.append([losses["code"], *(p.grad.clone() for p in system.codes.shape_projection.parameters())])
    for whole, divided in zip(*found, strict=True):
        torch.testing.assert_close(divided, whole, rtol=1e-4, atol=1e-7)  # sums in another order, in single precision


def test_neighbours_in_training_are_of_other_models(data):
    batches = Batches(make_system(replace(SYSTEM, neighbor_weighting="uniform")), CONFIG, data, Accelerator(cpu=True))
    models, seen = data.metadata["model"], set()
    for step in range(60):
        ((batch, _),) = batches.draw(step, True)
        for query, other in zip(batch.index.tolist(), batch.neighbor.index.tolist(), strict=True):
            assert models[query] != models[other]
            assert other in batches.neighbors[query].tolist()
            seen.add((query, other))
    assert len(seen) == 8 * 2  # every neighbour has its turn
    assert next(batches.draw(0, False))[0].neighbor is None


def test_generators_of_neighbouring_numbers_are_unlike():
    firsts = {tuple(torch.rand(2, generator=seeded(*n)).tolist()) for n in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}
    assert len(firsts) == 4
    assert torch.equal(torch.rand(3, generator=seeded(4, 2)), torch.rand(3, generator=seeded(4, 2)))


def test_listeners_hear_every_row_that_is_logged(go, tmp_path):
    heard = []
    go(tmp_path, listeners=(lambda system, row: heard.append(row),), log_every=3)
    assert heard == read_log(tmp_path / "log.jsonl")
    assert [row["step"] for row in heard if row["phase"] != "validation"] == [3, 6, 8]
    terms = [v for k, v in heard[0].items() if k not in ("step", "phase", "loss", "beta", "seconds")]
    assert heard[0]["loss"] == pytest.approx(sum(terms), abs=1e-5)


def test_training_lowers_the_loss(go, tmp_path):
    go(tmp_path, steps=20, pretrain_steps=5, validation=None, log_every=5)
    losses = [row["rgb"] + row["mask"] for row in rows(tmp_path) if row["phase"] == "training"]
    assert losses[-1] < 0.9 * losses[0]
