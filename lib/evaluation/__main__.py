"""Command line: measure a checkpoint, and the baselines that need no learning, on a prepared dataset."""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from lib.data.loading import PreparedDataset
from lib.errors import InputError, exit_code
from lib.evaluation.baselines import make_baselines
from lib.evaluation.instances import DEFAULT_PROTOCOLS, DEFAULT_THRESHOLDS, evaluate_instances
from lib.evaluation.predictors import refined_predictor, system_predictor
from lib.evaluation.results import results_table, write_instances, write_results
from lib.evaluation.summary import Run, summarize
from lib.files import read_json
from lib.geometry.alignment import PROTOCOLS
from lib.systems.checkpoints import load_system


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0 for success, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _run(options), "\ninterrupted: nothing was written; the same command starts again")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.evaluation", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, nargs="+", help="folders with config.json and weights.safetensors: seeds, systems")
    add("--baselines", nargs="*", metavar="NAME", help="also measure these baselines; all where none is named")
    add("--dataset", type=Path, required=True, help="prepared folder")
    add("--split", default="test", choices=["train", "val", "test"])
    add("--categories", nargs="+", help="all without it")
    add("--output", type=Path, required=True, help="results.json to write")
    add("--instances", type=Path, help="also write the numbers of every sample, as parquet")
    add("--protocols", nargs="+", default=list(DEFAULT_PROTOCOLS), choices=list(PROTOCOLS))
    add("--thresholds", nargs="+", type=float, default=list(DEFAULT_THRESHOLDS), help="of the F-score")
    add("--resolution", type=int, help="samples along each axis of marching cubes; default: the system's own")
    add("--points", type=int, default=100_000, help="drawn from each surface")
    add("--profile", default="custom", help="written to each row of a checkpoint: quick, small, full ...")
    add("--refine", type=int, metavar="STEPS", help="also measure with each code optimised so long (sdf_srn)")
    add("--limit", type=int, help="measure only so many samples, spread evenly")
    add("--seed", type=int, default=0, help="of the drawn points and the bootstrap")
    add("--device", default="cpu", help="cpu, cuda, cuda:1, mps ...")
    return parser


def _run(options: argparse.Namespace) -> None:
    _check(options)
    jobs = [job for folder in options.checkpoint or () for job in _checkpoint_jobs(folder, options)]
    dataset = PreparedDataset(options.dataset, options.split, options.categories)
    if options.baselines is not None:
        train = PreparedDataset(options.dataset, "train", options.categories)
        baselines = make_baselines(train, dataset, options.baselines or None)
        jobs += [(Run(name), predictor) for name, predictor in baselines.items()]
    size, chosen = len(dataset), None
    if options.limit is not None:
        chosen = torch.linspace(0, size - 1, min(options.limit, size)).round().long().tolist()
    settings = {name: getattr(options, name) for name in ("protocols", "thresholds", "points", "seed")}
    rows, tables = [], []
    for run, predictor in jobs:
        print(f"{run.system}: {size} samples of {dataset.name}, split {options.split}", flush=True)
        start = time.perf_counter()
        instances = evaluate_instances(predictor, dataset, rows=chosen, **settings)
        rows += summarize(instances, dataset, run, seed=options.seed, seconds=time.perf_counter() - start)
        tables.append(instances.assign(system=run.system, seed=options.seed if run.seed is None else run.seed))
    write_results(options.output, rows)
    if options.instances:
        write_instances(options.instances, pd.concat(tables))
    print(results_table(rows, protocol=None).round(3).to_string())
    print(f"wrote {options.output}")


def _check(options: argparse.Namespace) -> None:
    """Say what is wrong before minutes of measuring."""
    if options.checkpoint is None and options.baselines is None:
        raise InputError("Nothing to measure: give --checkpoint, --baselines, or both.")
    for path in filter(None, [options.output, options.instances]):
        if path.is_dir():
            raise InputError(f"{path} is a folder; give the name of a file to write.")
        if not path.absolute().parent.is_dir():
            raise InputError(f"The folder of {path} does not exist; create it or choose another.")
    if options.limit is not None and options.limit < 1:
        raise InputError(f"--limit must be at least 1, not {options.limit}.")
    if options.refine is not None and options.refine < 1:
        raise InputError(f"--refine must be at least 1 step, not {options.refine}.")
    try:
        torch.zeros(1, device=torch.device(options.device))
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"Device {options.device!r} is not available here; choose --device cpu.") from error


def _checkpoint_jobs(folder: Path, options: argparse.Namespace) -> list:
    """The system's predictor, and where it is asked for that of the system that optimises its codes."""
    system, about = load_system(folder, options.device), read_json(folder / "config.json")
    # what the course adds to a paper's system goes by the paper's name; the profile tells them apart
    name = about["system"].removesuffix("_small") + (" (true view)" if system.needs_viewpoint else "")
    run = Run(name, about.get("profile", options.profile), about.get("step"), (about.get("training") or {}).get("seed"))
    measured = system_predictor(system, options.resolution, colored=False)
    if options.refine is None:
        return [(run, measured)]
    refined = replace(run, system=f"{name}, {options.refine} steps of test-time optimization")
    return [
        (run, measured),
        (refined, refined_predictor(system, options.resolution, options.refine, options.seed, colored=False)),
    ]


if __name__ == "__main__":
    sys.exit(main())
