"""Weights and training states on disk: safetensors and JSON, each file written whole or not at all."""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.errors import InputError
from lib.files import load_state, read_json, read_tensors, write_atomically, write_json
from lib.systems import SYSTEMS


def save_weights(folder: Path, system: nn.Module, about: dict, half: bool = False) -> None:
    """Write `config.json` and `weights.safetensors`.

    Parameters
    ----------
    about : dict
        What else the reader of `config.json` should know: training, dataset, step.
    half : bool
        Store floating-point tensors as float16: half the size, for shipping.
    """
    state = {name: _stored(tensor, half) for name, tensor in system.state_dict().items()}
    write_atomically(folder / "weights.safetensors", lambda p: save_file(state, p))
    write_json(folder / "config.json", {"system": system.name, "config": asdict(system.config), **about})


def load_system(folder: Path | str, device: str = "cpu", expected: str | None = None) -> nn.Module:
    """A system as it was saved, in evaluation mode.

    Parameters
    ----------
    expected : str, optional
        Name of the system that the caller can use.

    Raises
    ------
    InputError
        The folder is no checkpoint, or one of another system or configuration.
    """
    folder = Path(folder)
    about = read_json(folder / "config.json")
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise InputError(f"{folder / 'config.json'} does not describe a system; restore it or choose another folder")
    name = about.get("system")
    if name not in SYSTEMS or expected not in (None, name):
        raise InputError(f"{folder} holds a checkpoint of system {name!r}, not of {expected or sorted(SYSTEMS)}")
    make, config_class = SYSTEMS[name]
    try:
        system = make(config_class(**{**about["config"], "backbone_weights": "random"}))
    except (TypeError, ValueError, RuntimeError) as error:  # unknown settings, or values of the wrong type or size
        raise InputError(f"{folder / 'config.json'} does not describe a {name}: {error}") from error
    load_state(system, read_tensors(folder / "weights.safetensors"), folder)
    return system.to(device).eval()


def begin_with(system: nn.Module, folder: Path) -> None:
    """Give a system the weights of a checkpoint.

    A part that only one of the two has is left as it is, and so is one that the system calls `anew`. Parts are its
    modules: the backbone, a field, the estimator. So a run can go on with other losses, learn colours for finished
    shapes, or give an estimator to a system that was trained with known viewpoints.

    Raises
    ------
    InputError
        The folder is no checkpoint, or one of another system, or a part that both have differs.
    """
    about, tensors = read_json(folder / "config.json"), read_tensors(folder / "weights.safetensors")
    name = about.get("system") if isinstance(about, dict) else None
    if name != system.name:
        raise InputError(f"start: {folder} holds a checkpoint of system {name!r}, not of {system.name!r}")
    ours = system.state_dict()
    shared = {_part(key) for key in ours} & {_part(key) for key in tensors} - set(getattr(system, "anew", ()))
    taken = {key: tensor for key, tensor in tensors.items() if _part(key) in shared}
    kept = {key: tensor for key, tensor in ours.items() if _part(key) not in shared}
    load_state(system, taken | kept, folder)


def _part(key: str) -> str:
    """The system's module that a tensor belongs to."""
    return key.partition(".")[0]


def save_training(path: Path, system: nn.Module, optimizer: torch.optim.Optimizer, about: dict) -> None:
    """One file with everything that a run needs to go on as if it had never stopped."""
    tensors = {f"system.{name}": _stored(tensor, False) for name, tensor in system.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": _stored(value, False) for key, value in state.items()}
    write_atomically(path, lambda p: save_file(tensors, p, metadata={"about": json.dumps(about)}))


def load_training(path: Path, system: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore what `save_training` wrote; gives back its `about`."""
    tensors = read_tensors(path)
    prefix = "system."
    load_state(system, {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}, path)
    state = optimizer.state_dict()
    state["state"] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            index, key = rest.split(".", 1)
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


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()
