"""A training that goes on where a stopped one was, for the small networks of these scripts."""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lib.errors import InputError
from lib.files import read_json, write_json
from lib.training.state import load_training, save_training


def train_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int], dict],
    steps: int,
    folder: Path,
    plan: dict,
    *,
    log_every: int = 1,
    save_every: int = 50,
    clock: Callable[[], float] = time.perf_counter,
    seconds: str = "seconds",
) -> list[dict]:
    """Train from the state in ``folder``, if there is one, to the last step; the rows of the log.

    Parameters
    ----------
    step : callable
        Number of a step, from 0 -> its entries of the log. Random numbers may depend on that number only.
    plan : dict
        All that the result depends on; a run with another plan is refused.
    clock, seconds : callable and str
        What times the steps, and the name of the time in the log.
    """
    state, rows, first = folder / "state.safetensors", [], 0
    if not state.is_file():
        write_json(folder / "plan.json", plan)
    elif read_json(folder / "plan.json") != plan:
        raise InputError(f"{folder} holds a run with other settings or data; delete it or choose another --run")
    else:
        saved = load_training(state, network, optimizer)
        rows, first = saved["rows"], saved["step"]
    before, start = rows[-1][seconds] if rows else 0.0, clock()
    network.train()
    for number in tqdm(range(first, steps), initial=first, total=steps, unit="step"):
        found, done = step(number), number + 1
        if done % log_every == 0 or done == steps:
            rows.append({"step": done, **found, seconds: round(before + clock() - start, 1)})
        if done % save_every == 0 or done == steps:
            save_training(state, network, optimizer, {"rows": rows, "step": done})
    return rows
