"""Train a recipe from the command line: ``python -m lib.training small-given --categories chair --run runs/chair``."""

import argparse
import json
import sys
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from pandas import read_parquet

from lib.data.loading import PreparedDataset
from lib.data.prepared import METADATA
from lib.data.shards import open_dataset
from lib.errors import InputError, exit_code
from lib.paths import FURNITURE
from lib.systems import System, make_system
from lib.systems.checkpoints import save_weights
from lib.training.listeners import TensorBoard
from lib.training.log import read_log, write_log
from lib.training.loop import train
from lib.training.recipes import ALL_RECIPES, COLOR_RECIPES, Recipe

LOGS = ("train.jsonl", "log.jsonl")  # of a shipped checkpoint, of a run


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    torch.set_flush_denormal(True)  # a thin surface gives densities below 1e-38, on which processors are slow
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    recipe = ALL_RECIPES[options.recipe].for_category(only_category(options.dataset, options.categories))
    recipe = recipe.changed(**{**read_settings(options.set), "seed": options.seed})
    if options.recipe in COLOR_RECIPES and not recipe.training.start:
        raise InputError(f"{options.recipe} gives colours to finished shapes: say whose, --set start=FOLDER")
    system = train_recipe(recipe, options.dataset, options.run, options.categories, options.views, options.device)
    if options.export and PartialState().is_main_process:
        export(system, options.run, options.export)


def train_recipe(
    recipe: Recipe,
    dataset: Path,
    run: Path,
    categories: list[str] | None = None,
    views: int | None = None,
    device: str = "auto",
) -> System:
    """Train a recipe on a prepared folder, or go on where the run folder stopped: what each of several processes does.

    ``accelerate launch -m lib.training`` and ``accelerate.notebook_launcher(train_recipe, (...))`` both come here.

    Parameters
    ----------
    dataset : Path
        A prepared folder, or one that `data_scripts/shard_dataset.py` wrote, whose images stay on disk.
    categories : list of str, optional
        Default: all.
    views : int, optional
        Train on so many images of each model; default: the recipe's number, or all.
    """
    accelerator = choose_device(device, recipe.training.mixed_precision)
    data = open_dataset(dataset, "train", categories, recipe.views if views is None else views)
    validation = validation_images(dataset, categories)
    torch.manual_seed(recipe.training.seed)  # the network's first weights, the same in each process
    system = make_system(recipe.system)
    with TensorBoard(run / "tensorboard") as events:
        settings = {"validation": validation, "accelerator": accelerator, "listeners": (events,)}
        return train(system, recipe.training, data, run, **settings)


def only_category(folder: Path, categories: list[str] | None) -> str | None:
    """The category that is trained where it is a single one: as asked for, or because the folder has no other."""
    if not categories:
        try:
            categories = list(read_parquet(folder / METADATA, columns=["category"])["category"])
        except (OSError, ValueError):  # missing or damaged: what opens the folder says so
            return None
    return categories[0] if len(set(categories)) == 1 else None


def validation_images(folder: Path, categories: list[str] | None) -> PreparedDataset | None:
    """Held-out images for early validation.

    None where a dataset has none, as Pascal3D+ and OpenImages in the papers: then the last weights are kept.
    """
    table = read_parquet(folder / METADATA, columns=["split", "category"])  # the folder has been checked by now
    held_out = table[table["split"] == "val"]
    if categories:
        held_out = held_out[held_out["category"].isin(categories)]
    return open_dataset(folder, "val", categories) if len(held_out) else None


def choose_device(name: str, mixed_precision: str = "no") -> Accelerator:
    """An accelerator on "auto" (a GPU if there is one), "cpu" or "cuda".

    Raises
    ------
    InputError
        "cuda" without a GPU that torch can use.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device: {name!r} is none of 'auto', 'cpu', 'cuda'")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device: torch finds no CUDA device; use device='auto' or 'cpu'")
    return Accelerator(cpu=name == "cpu", mixed_precision=mixed_precision)


def export(system: System, run: Path, folder: Path) -> None:
    """Write a finished run's weights as float16, with its log and configuration, for shipping.

    The log of a run that began with a checkpoint comes after that checkpoint's, and its steps are counted from there.
    """
    about = json.loads((run / "config.json").read_text())
    about = {key: value for key, value in about.items() if key not in ("system", "config")}
    rows, start = read_log(run / "log.jsonl"), about["training"].get("start")
    logs = [path for path in (Path(start) / name for name in LOGS) if path.is_file()] if start else []
    if logs:
        earlier = read_log(logs[0])
        before = earlier[-1]["step"]
        phase = {"phase": "colors"} if system.fresh_parts else {}
        rows = earlier + [row | (phase if "loss" in row else {}) | {"step": row["step"] + before} for row in rows]
        about |= {"step": about["step"] + before, "best": _later(about["best"], before)}
    save_weights(folder, system, about, half=True)
    write_log(folder / "train.jsonl", rows)


def _later(best: dict | None, steps: int) -> dict | None:
    return best and best | {"step": best["step"] + steps}


def read_settings(pairs: list[str]) -> dict:
    """Settings from the command line, ``NAME=VALUE`` each; a value is JSON, or text."""
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair}: write name=value")
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.training", description=__doc__)
    parser.add_argument("recipe", choices=sorted(ALL_RECIPES))
    parser.add_argument("--dataset", type=Path, default=FURNITURE, help="a prepared folder")
    parser.add_argument("--categories", nargs="+", help="default: all")
    parser.add_argument("--views", type=int, help="train on so many images of each model; default: the recipe's")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run; a stopped run goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    changes = {"action": "extend", "nargs": "+", "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("--set", **changes, help="change settings of the recipe")
    parser.add_argument("--export", type=Path, help="also write float16 weights, configuration and log here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
