"""Weights of a system on disk: ``config.json`` and ``weights.safetensors``, each written whole or not at all."""

from dataclasses import asdict, fields
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from lib.errors import InputError
from lib.files import read_json, write_atomically, write_json
from lib.networks.weights import load_state, read_tensors
from lib.systems import SYSTEMS, make_system
from lib.systems.base import System

# Settings that older checkpoints name and that are constants or gone now.
RETIRED = set(
    """
    code_size projection distance distance_range focal width sdf_layers texture_layers frequencies sphere_radius
    depth_range image_layout render_path skip_weight skip_beta beta_min beta_from beta_until normal_l1_weight
    quarters_from quarter_margin quarter_rays quarter_samples layers steps bisections state_size bound
    refine_rate viewpoint
    """.split()  # noqa: SIM905
)


def save_weights(folder: Path, system: System, about: dict, half: bool = False) -> None:
    """Write `config.json` and `weights.safetensors`.

    Parameters
    ----------
    about : dict
        What else the reader of `config.json` should know: training, dataset, step.
    half : bool
        Store floating-point tensors as float16: half the size, for shipping.
    """
    state = {name: on_disk(tensor, half) for name, tensor in system.state_dict().items()}
    write_atomically(folder / "weights.safetensors", lambda p: save_file(state, p))
    write_json(folder / "config.json", {"system": system.name, "config": asdict(system.config), **about})


def load_system(folder: Path | str, device: str = "cpu", expected: str | None = None) -> System:
    """A system as it was saved, in evaluation mode.

    Parameters
    ----------
    expected : str, optional
        Name of the paper's system that the caller can use; the course's subclass of it will do, too.

    Raises
    ------
    InputError
        The folder is no checkpoint, or one of another system or configuration.
    """
    folder = Path(folder)
    name, config = read_config(folder)
    if expected not in (None, name, name.removesuffix("_small")):
        raise InputError(f"{folder} holds a checkpoint of system {name!r}, not of {expected!r}")
    try:
        system = make_system(SYSTEMS[name][1](**{**config, "backbone_weights": "random"}))
    except (TypeError, ValueError, RuntimeError) as error:  # unknown settings, or values of the wrong type or size
        raise InputError(f"{folder / 'config.json'} does not describe a {name}: {error}") from error
    tensors = read_tensors(folder / "weights.safetensors")
    if "progress" not in system.state_dict():  # older checkpoints of the paper's system have it
        tensors.pop("progress", None)
    load_state(system, tensors, folder)
    return system.to(device).eval()


def read_config(folder: Path) -> tuple[str, dict]:
    """Name and settings of a checkpoint's system, those of older checkpoints translated."""
    about = read_json(folder / "config.json")
    if not isinstance(about, dict) or not isinstance(about.get("config"), dict):
        raise InputError(f"{folder / 'config.json'} does not describe a system; restore it or choose another folder")
    name = about.get("system")
    if name not in SYSTEMS:
        raise InputError(f"{folder} holds a checkpoint of system {name!r}, not of {sorted(SYSTEMS)}")
    return translated(name, about["config"])


def translated(name: str, config: dict) -> tuple[str, dict]:
    """Name and settings as they are called today. What is ours was once part of the paper's configuration."""
    known = {f.name for f in fields(SYSTEMS[name][1])}
    config = {key: value for key, value in config.items() if key in known or key not in RETIRED}
    small = name + "_small"
    if small in SYSTEMS:
        ours = {f.name for f in fields(SYSTEMS[small][1])} - {f.name for f in fields(SYSTEMS[name][1])}
        if config.get("beta_final", 0) is None:  # a learned width: the paper's
            return name, {key: value for key, value in config.items() if key not in ours}
        if ours & set(config):
            return small, config
    return name, config


def begin_with(system: System, folder: Path) -> None:
    """Give a system the weights of a checkpoint.

    A part that only one of the two has is left as it is, and so is one of the system's `fresh_parts`. Parts are its
    modules: the backbone, a field, the estimator. So a run can go on with other losses, learn colours for finished
    shapes, or give an estimator to a system that was trained with known viewpoints.

    Raises
    ------
    InputError
        The folder is no checkpoint, or one of another system, or a part that both have differs.
    """
    name, _ = read_config(folder)
    if name.removesuffix("_small") != system.name.removesuffix("_small"):
        raise InputError(f"start: {folder} holds a checkpoint of system {name!r}, not of {system.name!r}")
    tensors, ours = read_tensors(folder / "weights.safetensors"), system.state_dict()

    def part(key: str) -> str:
        return key.partition(".")[0]

    shared = {part(key) for key in ours} & {part(key) for key in tensors} - set(system.fresh_parts)
    loaded = {key: tensor for key, tensor in tensors.items() if part(key) in shared}
    kept = {key: tensor for key, tensor in ours.items() if part(key) not in shared}
    load_state(system, loaded | kept, folder)


def on_disk(tensor: Tensor, half: bool = False) -> Tensor:
    """A copy that can be saved: on the processor, contiguous, and as float16 where asked."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()
