"""What a run folder remembers: the state that a run goes on from, the best weights, the weights it ends with."""

import json
from dataclasses import asdict, fields
from pathlib import Path

from torch import nn

from lib.errors import InputError
from lib.files import load_state, read_json, read_tensors, write_json
from lib.training.checkpoints import load_training, save_training, save_weights


def about_run(system: nn.Module, config, data) -> dict:
    """What makes two runs the same one."""
    return {"training": asdict(config), "dataset": data.name, "samples": len(data), "system": asdict(system.config)}


def state_of(about: dict, step: int, best: dict | None) -> dict:
    """What is written beside weights."""
    return {**{k: v for k, v in about.items() if k != "system"}, "step": step, "best": best}


def save_run(run: Path, system: nn.Module, optimizer, about: dict, step: int, best: dict | None) -> None:
    """Write the state after so many steps."""
    write_json(run / "plan.json", about)  # not before: a run that fails at once leaves nothing behind
    save_training(run / "checkpoint" / "state.safetensors", system, optimizer, state_of(about, step, best))


def resume_run(run: Path, system: nn.Module, optimizer, config, about: dict) -> tuple[int, dict | None]:
    """Load the last state of the run folder, if it has one; refuse a folder of another run."""
    state = run / "checkpoint" / "state.safetensors"
    plan = run / "plan.json"
    if not state.is_file():
        return 0, None
    before = read_json(plan)
    if not isinstance(before, dict):
        raise InputError(f"{plan} does not describe a run; choose another run folder or delete it")
    before = with_new_settings(before, system=system.config, training=config)
    for part, what in (
        ("system", "system"),
        ("training", "training"),
        ("dataset", "dataset"),
        ("samples", "data size"),
    ):
        difference = first_difference(before.get(part), json.loads(json.dumps(about[part])))
        if difference:
            other = f"another {what} setting: {difference}"
            raise InputError(f"{run} holds a run with {other}; choose another run folder or delete it")
    saved = load_training(state, system, optimizer)
    return saved["step"], saved["best"]


def first_difference(before, now) -> str:
    """The first setting that differs, as "learning_rate 0.1 instead of 0.2"; empty where none does."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "" if before == now else f"{before!r} instead of {now!r}"
    odd = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"{odd[0]} {before.get(odd[0])!r} instead of {now.get(odd[0])!r}" if odd else ""


def load_best(run: Path, system: nn.Module) -> None:
    """Load the weights that validated best."""
    load_state(system, read_tensors(run / "best" / "weights.safetensors"), run / "best")


def save_best(run: Path, system: nn.Module, about: dict, best: dict) -> None:
    """Keep the weights as the best ones so far."""
    save_weights(run / "best", system, state_of(about, best["step"], best))


def with_new_settings(about: dict, **configs) -> dict:
    """What a run was, completed by the settings that are newer than it: they are off or change nothing by default.

    Parameters
    ----------
    about : dict
        As it was saved; under each name of `configs` lie the settings of that configuration.
    """
    return about | {part: _completed(about.get(part), config) for part, config in configs.items()}


def _completed(saved, config):
    if not isinstance(saved, dict):
        return saved
    return {f.name: f.default for f in fields(config)} | saved
