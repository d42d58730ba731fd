"""Run a system over a dataset: any system, any prepared dataset, any device; stopped and resumed exactly.

Everything random in a step is drawn from a generator that is seeded with the run's seed and the step's number, and the
order of the samples from the seed and the epoch. So a run needs no random state to go on: the weights, the optimiser's
moments and the step are enough.

Several processes (`accelerate launch`, or `accelerate.notebook_launcher` on a function that calls `train`) divide each
batch, give the losses and the updates that one gives with the same `batch_size`, up to rounding, and log the loss of
the whole batch (`lib.rendering.parallel`). **Batch normalisation** is an exception. Where frozen (`freeze_batchnorm`,
and `head_batchnorm` off: the small recipes) nothing differs; elsewhere each process normalises its own images by their
own statistics, and the running ones that are kept are the first process's. The paper's setting is of that kind.
"""

import math
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.data.loading import PreparedDataset
from lib.data.neighbors import NEIGHBOR_FILE
from lib.errors import InputError
from lib.rendering.parallel import sharing
from lib.training.batches import Batches
from lib.training.checkpoints import begin_with, save_weights
from lib.training.log import Interrupted, Listener, RunLog, interruptible
from lib.training.state import about_run, load_best, resume_run, save_best, save_run, state_of
from lib.training.validation import validate


@dataclass(frozen=True)
class TrainingConfig:
    """How a system is trained. The defaults are ShapeClipper's on Pix3D chairs: 300 epochs of 167 steps.

    Attributes
    ----------
    start : str
        Folder of a checkpoint whose weights a run begins with; empty: new weights. See `begin_with`.
    steps, pretrain_steps : int
        Steps of training, after steps of pretraining (sphere, azimuth prior).
    batch_size : int
        Images of an update, of all processes together; a multiple of their number.
    accumulate : int
        So many parts of a batch are computed one after the other before each update, which takes less memory. They see
        the same images, neighbours and random numbers, so the gradient of a loss that is a mean over images is the
        same: colours, masks, eikonal, bounds, mirror, guesses. A loss that looks at a whole batch looks at each part
        by itself: the normal loss drops the outliers of a part and counts its visible pixels, the azimuth prior spreads
        the azimuths of a part, SDF-SRN's losses on rays are weighted within a part (and the depths it draws for rays
        outside the silhouettes, and what it draws after them, are other ones), and batch normalisation that is not
        frozen sees a part.
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

    start: str = ""
    steps: int = 50_100
    pretrain_steps: int = 2000
    batch_size: int = 12
    learning_rate: float = 1e-4
    backbone_learning_rate: float | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 0
    clip: float | None = None
    accumulate: int = 1
    seed: int = 0
    neighbors: str = NEIGHBOR_FILE
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 500
    select: Literal["images", "shapes", "last"] = "images"

    def __post_init__(self):
        counts = ("steps", "batch_size", "accumulate", "log_every", "save_every", "validate_every")
        if min(getattr(self, name) for name in counts) < 1:
            raise InputError(f"{', '.join(counts[:-1])} and {counts[-1]} must be at least 1")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size: {self.batch_size} images cannot be divided evenly by accumulate={self.accumulate}"
            )
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
    accelerator.ddp_handler = accelerator.ddp_handler or DistributedDataParallelKwargs(find_unused_parameters=True)
    system.to(accelerator.device)
    batches = Batches(system, config, data, accelerator)
    if hasattr(system, "plan"):
        system.plan(config.steps, batches.images)
    optimizer, about = _optimizer(system, config), about_run(system, config, data)
    first, best = _set_out(run, system, optimizer, config, about, data)
    loop = _Loop(system, *accelerator.prepare(system, optimizer), config, batches, accelerator)
    log = RunLog(run, first, listeners, enabled=accelerator.is_main_process)
    total = config.pretrain_steps + config.steps
    quiet = bool(os.environ.get("TQDM_DISABLE")) or not accelerator.is_main_process
    bar = tqdm(total=total, initial=first, unit="step", disable=quiet)
    with interruptible() as interrupted, bar, log:
        for step in range(first, total):
            losses = loop.step(step)
            done = step + 1
            if done % config.log_every == 0 or done == total:
                log.write(system, _row(system, losses, step, config) | loop.counted())
                bar.set_postfix(loss=f"{log.last['loss']:.3f}")
            bar.update()
            if validation is not None and _due(step, config.validate_every, config):
                best = loop.keep_best(run, validation, step, best, log, about)
            stopped = loop.anywhere(interrupted())
            pause = stopped or done == stop_after
            if accelerator.is_main_process and (pause or done % config.save_every == 0 or done == total):
                save_run(run, system, loop.optimizer, about, done, best)
            if pause:
                accelerator.wait_for_everyone()
            if stopped:
                raise Interrupted(f"stopped after step {done} of {total}; run the same command again to go on")
            if done == stop_after:
                return system
    return _finish(run, system, best, state_of(about, total, best), accelerator)


@dataclass(frozen=True)
class _Loop:
    """What every step needs; `model` is the system as Accelerate wraps it."""

    system: nn.Module
    model: nn.Module
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    batches: Batches
    accelerator: Accelerator
    counts: Counter = field(default_factory=Counter)

    def step(self, step: int) -> dict[str, Tensor]:
        """One update; gives back the losses before it."""
        config, pretraining = self.config, step < self.config.pretrain_steps
        _set_progress(self.system, config, step)
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(step - config.pretrain_steps, config)
        self.optimizer.zero_grad(set_to_none=True)
        self.counts.clear()
        parts = [self._part(step, part, pretraining) for part in range(config.accumulate)]
        if config.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        return {name: sum(losses[name] for losses in parts) / len(parts) for name in parts[0]}

    def _part(self, step: int, part: int, pretraining: bool) -> dict[str, Tensor]:
        """Losses of a part of the batch, over all processes; their gradients are added to those of the other parts."""
        draw = self.batches.draw(step, not pretraining, part)
        last = part == self.config.accumulate - 1
        with nullcontext() if last else self.accelerator.no_sync(self.model):
            with self.accelerator.autocast(), sharing(draw.share):
                losses = self.model(draw.batch, draw.generator, pretraining)
            told = self._over_processes(losses)
            _check_finite(told, step)
            self.accelerator.backward(sum(losses.values()) / self.config.accumulate)
        self.counts.update(getattr(self.system, "counts", {}))
        return told

    def _over_processes(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.accelerator.num_processes == 1:
            return losses
        values = torch.stack([value.detach().float() for value in losses.values()])
        return dict(zip(losses, self.accelerator.reduce(values, "mean"), strict=True))

    def counted(self) -> dict[str, int]:
        """What a system counted in the last step, of all parts and processes: rays, silhouettes."""
        if not self.counts:
            return {}
        counts = torch.tensor(list(self.counts.values()), device=self.accelerator.device)
        counts = self.accelerator.reduce(counts, "sum").tolist()
        return dict(zip(self.counts, counts, strict=True))

    def anywhere(self, flag: bool) -> bool:
        """Whether it is so in any process: all must stop after the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(int(flag), device=self.accelerator.device), "sum"))

    def keep_best(self, run, validation, step, best, log, about) -> dict | None:
        """Validate, in every process alike, and keep the weights if none were better."""
        select = self.config.select
        scores = validate(self.system, validation, self.config.seed, shapes=select == "shapes")
        log.write(self.system, {"step": step + 1, "phase": "validation", **scores})
        score = scores["chamfer_distance" if select == "shapes" else "image_loss"]
        if select != "last" and (best is None or score < best["score"]):
            best = {"score": score, "step": step + 1}
            if self.accelerator.is_main_process:
                save_best(run, self.system, about, best)
        return best


def _check_finite(losses: dict[str, Tensor], step: int) -> None:
    if not torch.isfinite(sum(losses.values())):
        bad = [name for name, value in losses.items() if not torch.isfinite(value)] or ["sum"]
        raise FloatingPointError(f"step {step}: loss {bad[0]!r} is not finite; lower the learning rate")


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """The rate over its largest value: warmup, then 1, or with "cosine" a fall to 0.05 over the second half."""
    if 0 <= step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    late = min(max(2 * step / config.steps - 1, 0.0), 1.0)
    return 0.05 + 0.95 * (1 + math.cos(math.pi * late)) / 2


def _set_out(run: Path, system: nn.Module, optimizer, config: TrainingConfig, about: dict, data: PreparedDataset):
    """Where the run goes on, and its best score so far: from its folder, else from a checkpoint or new weights."""
    first, best = resume_run(run, system, optimizer, config, about)
    if config.start and first == 0:
        begin_with(system, Path(config.start))
    if hasattr(system, "prepare"):  # takes seconds: not for a folder of another run
        system.prepare(data)
    return first, best


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
    return row


def _due(step: int, every: int, config: TrainingConfig) -> bool:
    trained = step + 1 - config.pretrain_steps
    return trained > 0 and (trained % every == 0 or trained == config.steps)


def _finish(run: Path, system: nn.Module, best: dict | None, about: dict, accelerator: Accelerator) -> nn.Module:
    """Leave the selected weights in the system and in the run folder."""
    accelerator.wait_for_everyone()
    if best is not None:
        load_best(run, system)
        about = about | {"step": best["step"]}
    if accelerator.is_main_process:
        save_weights(run, system, about)
    accelerator.wait_for_everyone()
    return system.eval()
