"""Run a system over a dataset: any system, any prepared dataset, any device; stopped and resumed exactly.

Everything random in a step is drawn from a generator that is seeded with the run's seed and the step's number, and the
order of the samples from the seed and the epoch. So a run needs no random state to go on: the weights, the optimiser's
moments and the step are enough.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.checkpoints import load_training, save_training, save_weights
from lib.data.loading import Batch, PreparedDataset
from lib.data.neighbors import NEIGHBOR_FILE, read_neighbors
from lib.errors import InputError
from lib.files import read_json, write_json
from lib.losses.semantic import choose_neighbors, neighbor_probabilities
from lib.run_log import Interrupted, Listener, RunLog, interruptible
from lib.validation import validate


@dataclass(frozen=True)
class TrainingConfig:
    """How a system is trained. The defaults are ShapeClipper's on Pix3D chairs: 300 epochs of 167 steps.

    Attributes
    ----------
    steps, pretrain_steps : int
        Steps of training, after steps of pretraining (sphere, azimuth prior).
    learning_rate, backbone_learning_rate : float
        Of Adam; the second for the pretrained networks, None: the same.
    schedule : {"constant", "cosine"}
        The paper's constant rate, or a cosine fall to 5 % over the second half.
    warmup : int
        Steps over which the rate rises from 0.
    clip : float, optional
        Largest gradient norm.
    select : {"images", "shapes", "last"}
        Which weights a run ends with: the best on the validation images (what a user without 3D data can do), the
        best Chamfer distance on validation shapes (what the released code does: it sees 3D ground truth), or the last.
    """

    steps: int = 50_100
    pretrain_steps: int = 2000
    batch_size: int = 12
    learning_rate: float = 1e-4
    backbone_learning_rate: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None
    seed: int = 0
    neighbors: str = NEIGHBOR_FILE
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    select: Literal["images", "shapes", "last"] = "images"

    def __post_init__(self):
        if min(self.steps, self.batch_size, self.log_every, self.save_every, self.validate_every) < 1:
            raise InputError("steps, batch_size, log_every, save_every and validate_every must be at least 1")
        if self.select not in ("images", "shapes", "last"):
            raise InputError(f"select: {self.select!r} is none of 'images', 'shapes', 'last'")


def train(
    system: nn.Module,
    config: TrainingConfig,
    data: PreparedDataset,
    run: Path | str,
    *,
    validation: PreparedDataset | None = None,
    listeners: tuple[Listener, ...] = (),
    accelerator: Accelerator | None = None,
    stop_after: int | None = None,
) -> nn.Module:
    """Train a system, or go on where the run folder stopped.

    Parameters
    ----------
    system : Module
        With the face that `lib.systems` describes; trained in place.
    run : path
        Gets ``config.json``, ``log.jsonl``, ``checkpoint/`` and, at the end, ``weights.safetensors``.
    validation : PreparedDataset, optional
        Held-out samples for early validation.
    listeners : tuple of callables
        Each is called with the system and every logged row: live figures, TensorBoard.
    stop_after : int, optional
        Save and return after this many steps in all, as an interrupted run would.

    Raises
    ------
    InputError
        The folder holds a run of another configuration, or the data lacks what the system needs.
    Interrupted
        On Ctrl-C, after saving; calling `train` again with the same arguments goes on.
    """
    run = Path(run)
    accelerator = accelerator or Accelerator(mixed_precision=config.mixed_precision)
    system.to(accelerator.device)
    if hasattr(system, "plan"):
        system.plan(config.steps, config.batch_size)
    optimizer = _optimizer(system, config)
    about = {"training": asdict(config), "dataset": data.name, "samples": len(data), "system": asdict(system.config)}
    first, best = _resume(run, system, optimizer, about)
    if hasattr(system, "prepare"):  # takes seconds: not for a folder of another run
        system.prepare(data)
    model, optimizer = accelerator.prepare(system, optimizer)
    batches = _Batches(system, config, data, accelerator)
    log = RunLog(run, first, listeners, enabled=accelerator.is_main_process)
    total = config.pretrain_steps + config.steps
    quiet = bool(os.environ.get("TQDM_DISABLE")) or not accelerator.is_main_process
    bar = tqdm(total=total, initial=first, unit="step", disable=quiet)
    with interruptible() as interrupted, bar, log:
        for step in range(first, total):
            losses = _step(model, system, optimizer, config, batches, step, accelerator)
            done = step + 1
            if done % config.log_every == 0 or done == total:
                log.write(system, _row(system, losses, step, config))
                bar.set_postfix(loss=f"{log.last['loss']:.3f}")
            bar.update()
            if validation is not None and _due(step, config.validate_every, config):
                best = _keep_best(run, system, validation, config, step, best, log, about)
            pause = interrupted() or done == stop_after
            if accelerator.is_main_process and (pause or done % config.save_every == 0 or done == total):
                write_json(run / "plan.json", about)  # not before: a run that fails at once leaves nothing behind
                save_training(run / "checkpoint" / "state.safetensors", system, optimizer, _state(about, done, best))
            if interrupted():
                raise Interrupted(f"stopped after step {done} of {total}; run the same command again to go on")
            if done == stop_after:
                return system
    return _finish(run, system, config, best, about)


def _step(model, system, optimizer, config, batches, step, accelerator) -> dict[str, Tensor]:
    """One update; gives back the losses before it."""
    pretraining = step < config.pretrain_steps
    _set_progress(system, config, step)
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * learning_rate_factor(step - config.pretrain_steps, config)
    batch, generator = batches.draw(step, with_neighbors=not pretraining)
    with accelerator.autocast():
        losses = model(batch, generator, pretraining)
    loss = sum(losses.values())
    if not torch.isfinite(loss):
        bad = [name for name, value in losses.items() if not torch.isfinite(value)] or ["sum"]
        raise FloatingPointError(f"step {step}: loss {bad[0]!r} is not finite; lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(loss)
    if config.clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return losses


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """The rate over its largest value: warmup, then 1, or with "cosine" a fall to 0.05 over the second half."""
    if 0 <= step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    late = min(max(2 * step / config.steps - 1, 0.0), 1.0)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * late)) / 2


class _Batches:
    """Step -> batch and generator, the same whenever it is asked."""

    def __init__(self, system: nn.Module, config: TrainingConfig, data: PreparedDataset, accelerator: Accelerator):
        self.config, self.data, self.accelerator = config, data, accelerator
        self.per_epoch = max(1, len(data) // config.batch_size)
        self.neighbors = self.probabilities = None
        if getattr(system.config, "semantic_weight", 0) > 0:
            self.neighbors = read_neighbors(data.prepared.folder, data.metadata, config.neighbors)
            masks = data.mask.float() / 255
            rows = zip(masks.split(64), self.neighbors.split(64), strict=True)
            weighting = system.config.neighbor_weighting
            self.probabilities = torch.cat([neighbor_probabilities(m, masks[n], weighting) for m, n in rows])

    def draw(self, step: int, with_neighbors: bool) -> tuple[Batch, torch.Generator]:
        epoch, within = divmod(step, self.per_epoch)
        order = torch.randperm(len(self.data), generator=seeded(self.config.seed, 0, epoch))
        index = order[within * self.config.batch_size : (within + 1) * self.config.batch_size]
        generator = seeded(self.config.seed, 1, step)
        neighbor = None
        if with_neighbors and self.neighbors is not None:
            neighbor = choose_neighbors(self.neighbors[index], self.probabilities[index], generator)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        neighbor = None if neighbor is None else neighbor[rank::world]
        return self.data.batch(index[rank::world], neighbor).to(self.accelerator.device), generator


def seeded(*numbers: int) -> torch.Generator:
    """A generator whose stream is fixed by several whole numbers."""
    state = 0
    for number in numbers:  # a 64-bit mix (splitmix64's constants), so that neighbouring numbers give unlike streams
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = state ^ (state >> 31)
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)


def _optimizer(system: nn.Module, config: TrainingConfig) -> torch.optim.Adam:
    backbone = list(system.backbone_parameters())
    slow = {id(p) for p in backbone}
    rest = [p for p in system.parameters() if p.requires_grad and id(p) not in slow]
    slower = config.backbone_learning_rate
    rates = (config.learning_rate, config.learning_rate if slower is None else slower)
    groups = [{"params": p, "lr": r, "initial_lr": r} for p, r in zip((rest, backbone), rates, strict=True) if p]
    return torch.optim.Adam(groups, fused=True)


def _set_progress(system: nn.Module, config: TrainingConfig, step: int):
    if hasattr(system, "progress"):
        system.progress.fill_(max(0, step - config.pretrain_steps) / config.steps)


def _row(system: nn.Module, losses: dict[str, Tensor], step: int, config: TrainingConfig) -> dict:
    terms = {name: round(float(value.detach()), 6) for name, value in losses.items()}
    phase = "pretraining" if step < config.pretrain_steps else "training"
    row = {"step": step + 1, "phase": phase, "loss": round(sum(terms.values()), 6), **terms}
    if hasattr(system, "beta"):
        row["beta"] = round(float(torch.as_tensor(system.beta()).detach()), 6)
    row |= {f"rays_{name}": count for name, count in getattr(system, "crossings", {}).items()}
    return row


def _due(step: int, every: int, config: TrainingConfig) -> bool:
    trained = step + 1 - config.pretrain_steps
    return trained > 0 and (trained % every == 0 or trained == config.steps)


def _keep_best(run, system, validation, config, step, best, log, about) -> dict | None:
    scores = validate(system, validation, config.seed, shapes=config.select == "shapes")
    log.write(system, {"step": step + 1, "phase": "validation", **scores})
    score = scores["chamfer_distance" if config.select == "shapes" else "image_loss"]
    if config.select != "last" and (best is None or score < best["score"]):
        best = {"score": score, "step": step + 1}
        save_weights(run / "best", system, _state(about, step + 1, best))
    return best


def _state(about: dict, step: int, best: dict | None) -> dict:
    return {**{k: v for k, v in about.items() if k != "system"}, "step": step, "best": best}


def _finish(run: Path, system: nn.Module, config: TrainingConfig, best: dict | None, about: dict) -> nn.Module:
    """Leave the selected weights in the system and in the run folder."""
    step = config.pretrain_steps + config.steps
    if best is not None:
        from lib.files import load_state, read_tensors

        load_state(system, read_tensors(run / "best" / "weights.safetensors"), run / "best")
        step = best["step"]
    save_weights(run, system, _state(about, step, best))
    return system.eval()


def _with_new_settings(saved, system: nn.Module):
    """A run's settings, completed by those that are newer than the run; they are off or change nothing by default."""
    if not isinstance(saved, dict):
        return saved
    return {f.name: f.default for f in fields(system.config)} | saved


def _resume(run: Path, system: nn.Module, optimizer, about: dict) -> tuple[int, dict | None]:
    """Load the last state of the run folder, if it has one; refuse a folder of another run."""
    state = run / "checkpoint" / "state.safetensors"
    plan = run / "plan.json"
    if not state.is_file():
        return 0, None
    before = read_json(plan)
    if not isinstance(before, dict):
        raise InputError(f"{plan} does not describe a run; choose another run folder or delete it")
    before = before | {"system": _with_new_settings(before.get("system"), system)}
    for part, what in (
        ("system", "system"),
        ("training", "training"),
        ("dataset", "dataset"),
        ("samples", "data size"),
    ):
        if before.get(part) != json.loads(json.dumps(about[part])):
            raise InputError(f"{run} holds a run with another {what} setting; choose another run folder or delete it")
    saved = load_training(state, system, optimizer)
    return saved["step"], saved["best"]
