"""Train a system on a dataset: any system, any prepared dataset, any device; stopped and resumed exactly.

Everything random in a step is drawn from a generator that is seeded with the run's seed and the step's number, and the
order of the samples from the seed and the epoch. So a run needs no random state to go on: the weights, the optimiser's
moments and the step are enough.

Several processes (`accelerate launch`) train data-parallel in the ordinary way: each draws its share of every batch,
computes its own losses, and gradients are averaged. The log holds the losses of the first one.
"""

import math
import os
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedDataParallelKwargs
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.loading import PreparedDataset
from lib.data.neighbors import NEIGHBOR_FILE
from lib.errors import InputError
from lib.systems.base import System
from lib.systems.checkpoints import begin_with, save_weights
from lib.training.batches import Batches
from lib.training.log import Interrupted, Listener, RunLog, interruptible
from lib.training.state import about_run, load_best, resume_run, save_best, save_run, state_of
from lib.training.validation import validate

PRECISIONS = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        The batch is computed in this many parts, one after the other, which takes less memory. A loss that looks at a
        whole batch (outliers among normals, the spread of azimuths) looks at each part by itself.
    learning_rate, backbone_learning_rate : float
        Of Adam; the second for the pretrained networks, None: the same.
    schedule : {"constant", "cosine"}
        The paper's constant rate, or a cosine fall to 5 % over the second half.
    warmup : int
        Steps over which the rate rises from 0.
    clip : float, optional
        Largest gradient norm.
    neighbors : str
        Name of the dataset's neighbour file.
    mixed_precision : {"no", "bf16", "fp16"}
        Of the image networks alone.
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
        if self.seed < 0:
            raise InputError(f"seed: {self.seed} is negative; choose 0 or more")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"batch_size: {self.batch_size} images cannot be divided evenly by accumulate={self.accumulate}"
            )
        if self.select not in ("images", "shapes", "last"):
            raise InputError(f"select: {self.select!r} is none of 'images', 'shapes', 'last'")
        if self.mixed_precision not in PRECISIONS:
            raise InputError(f"mixed_precision: {self.mixed_precision!r} is none of 'no', 'bf16', 'fp16'")

    @property
    def total(self) -> int:
        """Steps of pretraining and training together."""
        return self.pretrain_steps + self.steps


def train(
    system: System,
    config: TrainingConfig,
    data: PreparedDataset,
    run: Path | str,
    *,
    validation: PreparedDataset | None = None,
    listeners: tuple[Listener, ...] = (),
    accelerator: Accelerator | None = None,
    stop_after: int | None = None,
) -> System:
    """Train a system, or go on where the run folder stopped.

    Parameters
    ----------
    system : System
        Trained in place.
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
    accelerator.autocast_handler = AutocastKwargs(enabled=False)  # the system says what is in mixed precision
    system.to(accelerator.device)
    system.set_precision(PRECISIONS[config.mixed_precision])
    batches = Batches(system, config, data, accelerator)
    optimizer, about = make_optimizer(system, config), about_run(system, config, data)
    first, best = resume_run(run, system, optimizer, config, about)
    if config.start and first == 0:
        begin_with(system, Path(config.start))
    system.prepare(data)
    model, optimizer = accelerator.prepare(system, optimizer)
    log = RunLog(run, first, listeners, enabled=accelerator.is_main_process)
    quiet = bool(os.environ.get("TQDM_DISABLE")) or not accelerator.is_main_process
    until = min(stop_after or config.total, config.total)  # a notebook's bar that ends before its total turns red
    bar = tqdm(total=until, initial=first, unit="step", disable=quiet)
    with interruptible() as interrupted, bar, log:
        for step in range(first, config.total):
            if step == config.pretrain_steps:
                optimizer.state.clear()  # training is a run of its own: Adam's moments start anew, as in both releases
            losses, counts = train_step(system, model, optimizer, config, batches, accelerator, step)
            done = step + 1
            if done % config.log_every == 0 or done == config.total:
                log.write(system, log_row(losses, step, config) | counts | system.status)
                bar.set_postfix(loss=f"{log.last['loss']:.3f}")
            bar.update()
            if validation is not None and validation_due(step, config):
                scores = validate(system, validation, config.seed, shapes=config.select == "shapes")
                log.write(system, {"step": done, "phase": "validation", **scores})
                score = scores["chamfer_distance" if config.select == "shapes" else "image_loss"]
                if config.select != "last" and (best is None or score < best["score"]):
                    best = {"score": score, "step": done}
                    if accelerator.is_main_process:
                        save_best(run, system, about, best)
            stopped = anywhere(interrupted(), accelerator)
            pause = stopped or done == stop_after
            if accelerator.is_main_process and (pause or done % config.save_every == 0 or done == config.total):
                save_run(run, system, optimizer, about, done, best)
            if stopped:
                accelerator.wait_for_everyone()
                raise Interrupted(f"stopped after step {done} of {config.total}; run the same command again to go on")
            if pause:
                accelerator.wait_for_everyone()
                return system
    # leave the selected weights in the system and in the run folder
    accelerator.wait_for_everyone()
    about = state_of(about, config.total, best)
    if best is not None:
        load_best(run, system)
        about["step"] = best["step"]
    if accelerator.is_main_process:
        save_weights(run, system, about)
    accelerator.wait_for_everyone()
    return system.eval()


def train_step(
    system: System,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    config: TrainingConfig,
    batches: Batches,
    accelerator: Accelerator,
    step: int,
) -> tuple[dict[str, Tensor], Counter]:
    """One update; gives the losses before it, and what the system counted.

    `model` is the system as Accelerate wraps it.
    """
    pretraining = step < config.pretrain_steps
    system.begin_step(max(0, step - config.pretrain_steps) / config.steps)
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * learning_rate_factor(step - config.pretrain_steps, config)
    optimizer.zero_grad(set_to_none=True)
    totals, counts = Counter(), Counter()
    for part, (batch, generator) in enumerate(batches.draw(step, with_neighbors=not pretraining)):
        last = part == config.accumulate - 1
        with nullcontext() if last else accelerator.no_sync(model):
            losses = model(batch, generator, pretraining)
            check_finite(losses, step)
            accelerator.backward(sum(losses.values()) / config.accumulate)
        totals.update({name: value.detach() / config.accumulate for name, value in losses.items()})
        counts.update(system.counts)
    if config.clip is not None:
        accelerator.clip_grad_norm_(model.parameters(), config.clip)
    optimizer.step()
    return dict(totals), counts


def check_finite(losses: dict[str, Tensor], step: int) -> None:
    """Stop a training whose losses are no longer numbers, with one sentence."""
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


def make_optimizer(system: System, config: TrainingConfig) -> torch.optim.Adam:
    """Adam, with a rate for the pretrained image networks and one for the rest."""
    pretrained = system.pretrained_parameters()
    known = {id(p) for p in pretrained}
    rest = [p for p in system.parameters() if p.requires_grad and id(p) not in known]
    slower = config.learning_rate if config.backbone_learning_rate is None else config.backbone_learning_rate
    rates = ((rest, config.learning_rate), (pretrained, slower))
    groups = [{"params": params, "lr": rate, "initial_lr": rate} for params, rate in rates if params]
    return torch.optim.Adam(groups, fused=True)


def log_row(losses: dict[str, Tensor], step: int, config: TrainingConfig) -> dict:
    """A row of the log: every weighted term, and their sum."""
    terms = {name: round(float(value), 6) for name, value in losses.items()}
    phase = "pretraining" if step < config.pretrain_steps else "training"
    return {"step": step + 1, "phase": phase, "loss": round(sum(terms.values()), 6), **terms}


def validation_due(step: int, config: TrainingConfig) -> bool:
    """Every `validate_every` steps of training, and after the last."""
    trained = step + 1 - config.pretrain_steps
    return trained > 0 and (trained % config.validate_every == 0 or trained == config.steps)


def anywhere(flag: bool, accelerator: Accelerator) -> bool:
    """Whether it is so in any process: all must stop after the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum"))
