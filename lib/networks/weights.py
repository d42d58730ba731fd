"""Files of tensors, and weights from them: one sentence where they cannot be read or do not fit."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.errors import InputError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; one sentence if it is missing or cut off."""
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; give the folder of a checkpoint") from error
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); restore it or train again") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def load_state(system: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Copy tensors into a system; refuse those of another configuration."""
    ours = system.state_dict()
    odd = sorted(set(ours) ^ set(state)) or [name for name in ours if ours[name].shape != state[name].shape]
    if odd:
        raise InputError(f"{source} holds a checkpoint of another configuration (tensor {odd[0]!r} does not fit)")
    with torch.no_grad():
        for name, tensor in state.items():
            ours[name].copy_(tensor)
