"""Train the small network that guesses surface normals, on renders with known normals.

    python data_scripts/train_normals.py --data FOLDER --run runs/normals --output lib/weights/normals-furniture

FOLDER is a prepared data set with normals (data_scripts/prepare_furniture.py). Only its training models are learned
from. The run folder keeps the state: the same command goes on where a killed one was, with the same result. At the
end the errors on held-out models are measured, and the output folder appears.
"""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from data_scripts.normal_augment import augmented
from data_scripts.normal_errors import measure_network
from data_scripts.options import positive
from data_scripts.resumable import train_steps
from lib.data.loading import PreparedDataset
from lib.errors import InputError, exit_code
from lib.evaluation import write_results
from lib.files import write_atomically, write_json
from lib.networks.normal_network import NormalNetwork, NormalNetworkConfig, describe
from lib.paths import FURNITURE, WEIGHTS
from lib.training.log import write_log

CLIP = 1.0  # largest norm of the gradient
COSINE_LIMIT = 1 - 1e-5  # the slope of arccos is infinite at 1


@dataclass(frozen=True)
class Settings:
    """How the network is trained.

    Attributes
    ----------
    steps, batch_size, warmup : int
    lr, encoder_lr : float
        Largest learning rates of decoder and encoder; a cosine takes them to 0.
    seed : int
    """

    steps: int = 1250
    batch_size: int = 16
    warmup: int = 60
    lr: float = 2e-3
    encoder_lr: float = 7e-4
    seed: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=FURNITURE, help="prepared folder (default: %(default)s)")
    parser.add_argument("--run", type=Path, required=True, help="folder for the state of the run")
    parser.add_argument("--output", type=Path, default=WEIGHTS / "normals-furniture", help="folder of the result")
    parser.add_argument("--steps", type=positive, default=Settings.steps)
    parser.add_argument("--batch-size", type=positive, default=Settings.batch_size)
    parser.add_argument("--image-size", type=positive, default=NormalNetworkConfig.image_size, help="multiple of 32")
    parser.add_argument("--backbone-weights", default="imagenet", help="imagenet, random, or a state dict")
    parser.add_argument("--save-every", type=positive, default=100, help="steps between saved states")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Train, or go on training; then measure and write the result."""
    if options.image_size % 32:
        raise InputError(f"--image-size {options.image_size} is no multiple of 32; use 64, 96 or 128.")
    settings = Settings(options.steps, options.batch_size, seed=options.seed)
    dataset = PreparedDataset(options.data, "train")
    if dataset.normal is None:
        raise InputError(f"{options.data} has images without normals; prepare them with prepare_furniture.py.")
    network = NormalNetwork(NormalNetworkConfig(options.image_size), options.backbone_weights)
    network = network.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network, settings)
    about = {"settings": vars(settings), "dataset": dataset.prepared.info["metadata_sha256"]}

    def step(number: int) -> dict:
        return {"degrees": round(math.degrees(train_step(network, dataset, optimizer, settings, number)), 3)}

    how = {"log_every": 20, "save_every": options.save_every, "clock": time.process_time, "seconds": "cpu_seconds"}
    rows = train_steps(network, optimizer, step, settings.steps, options.run, about, **how)
    write_output(network, options, about, rows)


def train_step(
    network: NormalNetwork, dataset: PreparedDataset, optimizer: torch.optim.Optimizer, settings: Settings, step: int
) -> float:
    """One step, whose random numbers depend on seed and step only; gives the mean angle in radians."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    batch = dataset.batch(torch.randint(len(dataset), (settings.batch_size,), generator=generator))
    rgb, mask, normal, size = batch.rgb, batch.mask, batch.normal, network.config.image_size
    if rgb.shape[1] != size:
        maps = torch.cat([rgb, mask[..., None], normal], dim=-1).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
        rgb, mask, normal = maps[..., :3], maps[..., 3], F.normalize(maps[..., 4:], dim=-1)
    rgb, mask, normal = augmented(rgb, mask, normal, generator)
    for group, rate in zip(optimizer.param_groups, (settings.encoder_lr, settings.lr), strict=True):
        group["lr"] = rate * schedule(step, settings)
    optimizer.zero_grad()
    loss = angular_loss(network(rgb, mask), normal, mask)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    return loss.item()


def angular_loss(predicted: torch.Tensor, normal: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean angle, radians, between unit normals over pixels that are mostly object."""
    cosine = (predicted * normal).sum(dim=-1)[mask > 0.5]
    return torch.arccos(cosine.clamp(-COSINE_LIMIT, COSINE_LIMIT)).mean()


def schedule(step: int, settings: Settings) -> float:
    """Factor of the learning rates: a linear start, then a cosine to 0."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    part = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.5 * (1 + math.cos(math.pi * part))


def make_optimizer(network: NormalNetwork, settings: Settings) -> torch.optim.Optimizer:
    """AdamW with a smaller rate for the encoder, which begins with ImageNet's weights."""
    encoder = list(network.encoder.parameters())
    decoder = [*network.steps.parameters(), *network.head.parameters()]
    groups = [{"params": encoder, "lr": settings.encoder_lr}, {"params": decoder, "lr": settings.lr}]
    return torch.optim.AdamW(groups, weight_decay=1e-3)


def write_output(network: NormalNetwork, options: argparse.Namespace, about: dict, rows: list[dict]) -> None:
    """Weights as float16, settings, log, and errors on held-out models, measured with the weights as written."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    write_atomically(options.output / "weights.safetensors", lambda path: save_file(state, path))
    seconds = rows[-1]["cpu_seconds"]
    write_json(options.output / "config.json", describe(network) | about | {"cpu_seconds": seconds})
    write_log(options.output / "train.jsonl", rows)
    source = {"seed": options.seed, "steps": options.steps, "seconds": seconds}
    datasets = list(dict.fromkeys([FURNITURE.resolve(), options.data.resolve()]))
    results = measure_network(options.output, datasets, options.data, source)
    write_results(options.output / "results.json", results)


if __name__ == "__main__":
    sys.exit(main())
