"""Train the small contrastive image-text model on captioned renders of furniture.

    python data_scripts/prepare_furniture.py --output runs/furniture128 --image-size 128 --variants 20
    python data_scripts/train_image_text.py runs/furniture128

Only models of the split "train" are learnt from; the measures in ``results.json`` are of the others. Every random
draw depends on the seed and the step alone, so a run that was stopped goes on as if it had not been.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from data_scripts.image_text_results import measure
from data_scripts.phrases import ANYTHING, OPENINGS, vary
from data_scripts.resumable import train_steps
from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, read_prepared
from lib.errors import InputError, exit_code
from lib.evaluation.results import write_results
from lib.networks.image_text import (
    FIRST_WORD,
    FOLDER,
    UNKNOWN,
    ImageTextConfig,
    build_network,
    load_image_text,
    normalize_pixels,
    save_image_text,
    split_words,
    tokenize,
)
from lib.paths import FURNITURE, RUNS
from lib.training.batches import seeded
from lib.training.log import write_log

WARMUP = 40  # steps
RATES = {"backbone": 3e-4, "rest": 1e-3}
WEIGHT_DECAY = 0.05
LARGEST_SCALE = math.log(100)  # of the logits, as in open_clip's training
FORGET = 0.03  # share of words that are read as unknown, so that this token learns to mean nothing
SAVE_EVERY = 50


@dataclass(frozen=True)
class Renders:
    """What is learnt from: pictures (N, 3, S, S) as uint8 and a row of metadata for each."""

    rgb: UInt8[Tensor, "images 3 size size"]
    table: pd.DataFrame


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="prepared folder with captions, to learn from")
    parser.add_argument("--evaluate", type=Path, default=FURNITURE, help="prepared folder to measure on")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder of the finished model")
    parser.add_argument("--run", type=Path, default=RUNS / "image-text-furniture", help="state; a stopped run goes on")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch-size", type=int, default=64, help="images of as many models a step")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--backbone", choices=("imagenet", "random"), default="imagenet", help="first weights")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Train, export and measure."""
    if min(options.steps, options.batch_size - 1, options.image_size - 15) < 1:
        raise InputError("--steps must be at least 1, --batch-size 2 and --image-size 16")
    data, held_out = read_prepared(options.data), read_prepared(options.evaluate)
    table = training_table(data, held_out, options.batch_size)
    config = ImageTextConfig(vocabulary(table), options.image_size)
    settings = {name: getattr(options, name) for name in ("steps", "batch_size", "image_size", "backbone", "seed")}
    source = {"dataset": data.info["name"], "metadata_sha256": data.info["metadata_sha256"], "images": len(table)}
    plan = settings | source
    network, rows = train(config, table, data, options, plan)
    write_log(options.output / "train.jsonl", rows)
    save_image_text(options.output, network, config, {"training": plan, "seconds": round(rows[-1]["seconds"])})
    results = measure(load_image_text(options.output), held_out, options.seed, options.steps)
    write_results(options.output / "results.json", results)
    for row in results:
        if row["category"] == "all":
            print(f"{row['system']:24} {row['protocol']:14} {row['metric']:20} {row['value']:.3f}")


def training_table(data: Prepared, held_out: Prepared, batch_size: int) -> pd.DataFrame:
    """Rows to learn from; none of a model that is measured on."""
    table = data.metadata[data.metadata["split"] == "train"].reset_index(drop=True)
    if len(table) == 0 or table["caption"].isna().any():
        raise InputError(
            f"{data.folder} lacks training images with captions; prepare_furniture.py writes such a folder"
        )
    measured = held_out.metadata[held_out.metadata["split"] != "train"]
    if len(measured) == 0 or measured["caption"].isna().any():
        raise InputError(f"{held_out.folder} lacks held-out images with captions; choose another --evaluate")
    both = sorted(set(table["model"]) & set(measured["model"]))
    if both:
        raise InputError(f"model {both[0]!r} is for training in {data.folder} and held out in {held_out.folder}")
    if table["model"].nunique() < batch_size:
        count = table["model"].nunique()
        raise InputError(f"--batch-size {batch_size}: {data.folder} has only {count} training models; take fewer")
    return table


def vocabulary(table: pd.DataFrame) -> tuple[str, ...]:
    """Every word that `data_scripts.phrases.vary` can say about these rows."""
    words = set(split_words(" ".join((ANYTHING, "a an", *OPENINGS, *table["category"], *table["caption"]))))
    return tuple(sorted(words))


def train(config: ImageTextConfig, table: pd.DataFrame, data: Prepared, options, plan: dict) -> tuple[nn.Module, list]:
    """The trained network and the rows of its log, earlier parts of a stopped run included."""
    torch.manual_seed(options.seed)
    network = build_network(config, options.backbone)
    optimizer = _optimizer(network)
    renders = Renders(read_images(data, table, round(config.image_size * 4 / 3)), table)

    def step(number: int) -> dict:
        return {"loss": round(_step(network, optimizer, config, renders, number, options), 5)}

    rows = train_steps(network, optimizer, step, options.steps, options.run, plan, save_every=SAVE_EVERY)
    return network.eval(), rows


def read_images(data: Prepared, table: pd.DataFrame, size: int) -> UInt8[Tensor, "images 3 size size"]:
    """Pictures on white, all at one size."""
    result = torch.empty(len(table), 3, size, size, dtype=torch.uint8)
    for place, row in enumerate(tqdm(table.itertuples(), total=len(table), desc="read", unit="image")):
        rgb, _, _ = read_sample_images(data.path(row.image), data.path(row.mask) if row.mask else None)
        image = Image.fromarray(rgb).resize((size, size), Image.Resampling.BOX)
        result[place] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    return result


def draw(renders: Renders, size: int, seed: int, step: int) -> np.ndarray:
    """Rows of one image each of `size` different models: two of one model would be each other's false negative."""
    rng = np.random.default_rng((seed, step))
    groups = list(renders.table.groupby("model").indices.values())
    return np.array([rng.choice(groups[place]) for place in rng.choice(len(groups), size, replace=False)])


def augment(
    rgb: UInt8[Tensor, "batch 3 source source"], grey: Tensor, size: int, generator: torch.Generator
) -> Float[Tensor, "batch 3 size size"]:
    """Moved, zoomed, mirrored, brighter or darker, half of them at half the sharpness, some without colour.

    Nothing that a caption speaks of changes but the colour of those where `grey` (B,) is set.
    """

    def uniform(low, high):
        return low + (high - low) * torch.rand(len(rgb), generator=generator)

    ink = 1 - rgb.float() / 255  # so that what comes in from outside is white
    coarse = F.interpolate(F.avg_pool2d(ink, 2), size=ink.shape[-1], mode="bilinear")
    ink = torch.where(uniform(0, 1)[:, None, None, None] < 0.5, coarse, ink)
    zoom, side = uniform(0.85, 1.2), torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros(len(rgb))
    rows = [zoom * side, zero, uniform(-0.08, 0.08), zero, zoom, uniform(-0.08, 0.08)]
    grid = F.affine_grid(torch.stack(rows, dim=-1).view(-1, 2, 3), [len(rgb), 3, size, size], align_corners=False)
    moved = (1 - F.grid_sample(ink, grid, align_corners=False)).clamp(0, 1)
    moved = torch.where(grey[:, None, None, None], moved.mean(dim=1, keepdim=True), moved)
    return moved ** uniform(-0.3, 0.3).exp()[:, None, None, None]


def _step(network, optimizer, config: ImageTextConfig, renders: Renders, step: int, options) -> float:
    import open_clip

    rows, generator = draw(renders, options.batch_size, options.seed, step), seeded(options.seed, 1, step)
    grey = torch.rand(len(rows), generator=generator) < 0.15
    pixels = augment(renders.rgb[rows], grey, config.image_size, generator)
    rng, table = np.random.default_rng((options.seed, step, 1)), renders.table.iloc[rows]
    said = zip(table["caption"], table["category"], grey.tolist(), strict=True)
    tokens = tokenize([vary(caption, category, rng, is_grey) for caption, category, is_grey in said], config)
    forgotten = torch.rand(tokens.shape, generator=generator) < FORGET
    tokens[forgotten & (tokens >= FIRST_WORD) & (tokens < config.end)] = UNKNOWN
    rate = min((step + 1) / WARMUP, 0.5 + 0.5 * math.cos(math.pi * step / options.steps))
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
    image, text, scale = network(normalize_pixels(pixels).contiguous(memory_format=torch.channels_last), tokens)
    loss = open_clip.ClipLoss()(image, text, scale)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        network.logit_scale.clamp_(0, LARGEST_SCALE)
    return loss.item()


def _optimizer(network: nn.Module) -> torch.optim.AdamW:
    """Slower for what was pretrained; no decay for gains, biases and the scale."""
    groups: dict[tuple[str, float], list] = {}
    for name, parameter in network.named_parameters():
        part = "backbone" if name.startswith("visual.trunk.") else "rest"
        groups.setdefault((part, WEIGHT_DECAY if parameter.ndim > 1 else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": RATES[part], "initial_lr": RATES[part], "weight_decay": decay}
            for (part, decay), parameters in groups.items()
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
