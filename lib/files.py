"""JSON and tensors on disk, each file written whole or not at all, and read with one sentence where that fails."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.errors import InputError


def write_atomically(path: Path, write) -> None:
    """Call `write(temporary path)` and rename the result to `path`: a kill leaves the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        temporary.chmod(0o644)  # safetensors writes files that only their owner may read
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"could not write {path} ({reason}); free some space and give the same command again, or "
                         "choose another folder") from error  # fmt: skip


def write_json(path: Path, content) -> None:
    """Write JSON atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=1) + "\n"))


def read_json(path: Path):
    """Read JSON; one sentence if it is missing or broken."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; is this the folder of a checkpoint or a run?") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except ValueError as error:  # broken JSON, or bytes that are no text
        raise InputError(f"{path} is not valid JSON ({error}); restore or delete it") from error


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
