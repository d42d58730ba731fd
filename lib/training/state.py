"""What a run folder remembers: the state that a run goes on from, the best weights, the weights it ends with."""

import json
from dataclasses import asdict, fields
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lib.errors import InputError
from lib.files import read_json, write_atomically, write_json
from lib.networks.weights import load_state, read_tensors
from lib.systems import SystemConfig
from lib.systems.base import System
from lib.systems.checkpoints import RETIRED, on_disk, save_weights


def about_run(system: System, config, data) -> dict:
    """What makes two runs the same one."""
    return {"training": asdict(config), "dataset": data.name, "samples": len(data), "system": asdict(system.config)}


def state_of(about: dict, step: int, best: dict | None) -> dict:
    """What is written beside weights."""
    return {**{k: v for k, v in about.items() if k != "system"}, "step": step, "best": best}


def save_run(run: Path, system: System, optimizer, about: dict, step: int, best: dict | None) -> None:
    """Write the state after so many steps."""
    write_json(run / "plan.json", about)  # not before: a run that fails at once leaves nothing behind
    save_training(run / "checkpoint" / "state.safetensors", system, optimizer, state_of(about, step, best))


def resume_run(run: Path, system: System, optimizer, config, about: dict) -> tuple[int, dict | None]:
    """Load the last state of the run folder, if it has one; refuse a folder of another run."""
    path, plan = run / "checkpoint" / "state.safetensors", run / "plan.json"
    if not path.is_file():
        return 0, None
    before = read_json(plan)
    if not isinstance(before, dict):
        raise InputError(f"{plan} does not describe a run; choose another run folder or delete it")
    before = with_new_settings(before, system.config, config)
    now = json.loads(json.dumps(about))
    parts = {"system": "system", "training": "training", "dataset": "dataset", "samples": "data size"}
    for part, what in parts.items():
        difference = first_difference(before.get(part), now[part])
        if difference:
            other = f"another {what} setting: {difference}"
            raise InputError(f"{run} holds a run with {other}; choose another run folder or delete it")
    saved = load_training(path, system, optimizer)
    return saved["step"], saved["best"]


def save_training(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, about: dict) -> None:
    """One file with everything that a training needs to go on as if it had never stopped."""
    tensors = {f"system.{name}": on_disk(tensor) for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": on_disk(value) for key, value in state.items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"about": json.dumps(about)}))


def load_training(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore what `save_training` wrote; gives back its `about`."""
    tensors = read_tensors(path)
    saved = {name.removeprefix("system."): t for name, t in tensors.items() if name.startswith("system.")}
    load_state(module, saved, path)
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state["state"].setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict(state)
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            # the fused optimiser pairs values by their place in memory, and files do not keep channels-last layouts
            if value.shape == parameter.shape:
                moments[key] = torch.empty_like(parameter).copy_(value)
    return read_about(path)


def read_about(path: Path) -> dict:
    """The plain values of a training state, without reading its tensors."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"])


def first_difference(before, now) -> str:
    """The first setting that differs, as "learning_rate 0.1 instead of 0.2"; empty where none does."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        return "" if before == now else f"{before!r} instead of {now!r}"
    odd = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return f"{odd[0]} {before.get(odd[0])!r} instead of {now.get(odd[0])!r}" if odd else ""


def with_new_settings(about: dict, system_config: SystemConfig, training_config) -> dict:
    """What a run was, in today's settings: those newer than it are off or change nothing by default."""
    about = dict(about)
    for part, config in (("system", system_config), ("training", training_config)):
        if isinstance(about.get(part), dict):
            current = {f.name: f.default for f in fields(config)}
            saved = {name: value for name, value in about[part].items() if name in current or name not in RETIRED}
            about[part] = current | saved
    return about


def save_best(run: Path, system: System, about: dict, best: dict) -> None:
    """Keep the weights as the best ones so far."""
    save_weights(run / "best", system, state_of(about, best["step"], best))


def load_best(run: Path, system: System) -> None:
    """Load the weights that validated best."""
    load_state(system, read_tensors(run / "best" / "weights.safetensors"), run / "best")
