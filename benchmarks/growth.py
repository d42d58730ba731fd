"""How time and memory of a ShapeClipper step grow, one size after the other.

    python -m benchmarks.growth                              all; about twelve minutes on two idle cores
    python -m benchmarks.growth --axes rays --rounds 1

The paper's configuration with random weights, on random photographs: two images at a time with a neighbour each, 512
rays of 64 samples, 224 pixels, unless the axis says otherwise. Each point is a process of its own, whose peak memory it
is; what "compiled" needs is compiled before, in another. Beside what is measured a row holds what is counted:
operations in products and convolutions, and the bytes that the forward pass keeps for the backward pass.
`lib.plots.growth` predicts from these.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from torch import nn

import lib.systems  # noqa: F401  sets what training sets: denormal numbers are flushed
from benchmarks.measure import (
    Workload,
    at_least_one,
    describe_machine,
    gemm_ceiling,
    interleave,
    peak_memory_mb,
    replace_rows,
    rows_of,
)
from benchmarks.workloads import random_batch, step_of
from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError, exit_code
from lib.paths import FURNITURE, REPOSITORY, RUNS
from lib.systems.shapeclipper import ShapeClipper
from lib.systems.shapeclipper import PAPER

BASE = {"batch": 2, "rays": 512, "samples": 64, "image": 224}
STEP_AXES = {
    "batch": (1, 2, 4),
    "rays": (128, 256, 512, 1024),
    "samples": (16, 64, 128),
    "image": (96, 224, 288),
}
VIEWS = (1, 2, 4, 7)  # of each model: sets of so many times its number of models
AXES = (*STEP_AXES, "dataset")
PATHS = ("plain", "fast", "compiled")
DRAWN = 12  # samples in a batch of the dataset's axis, with a neighbour each
DRAWS = 100  # batches a round: one takes about a millisecond


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: run(options), "\ninterrupted: what was measured so far is kept")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__.split("\n")[0])
    parser.add_argument("--axes", nargs="*", default=AXES, metavar="AXIS", help=f"of {', '.join(AXES)}; all without it")
    parser.add_argument("--paths", nargs="*", default=PATHS, help=f"ways to render: {', '.join(PATHS)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--machine", default=describe_machine(), help="how the figure names this machine")
    parser.add_argument("--output", type=Path, default=RUNS / "bench" / "growth.json")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured, then measure one point or all."""
    refuse(options)
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measure(json.loads(options.one), options)))
        return
    points = points_of(options.axes, options.paths)
    for samples in sorted({point["samples"] for point in points if point.get("path") == "compiled"}):
        in_fresh_process(BASE | {"batch": 1, "samples": samples, "path": "compiled"}, options, rounds=1)
    for point in points:
        row = in_fresh_process(point, options)
        print(json.dumps(row), flush=True)
        replace_rows(options.output, [row])


def refuse(options: argparse.Namespace) -> None:
    """Unknown axes and ways, nothing to do, a device that is not there."""
    at_least_one(options, "rounds", "threads")
    for name, known in (("axes", AXES), ("paths", PATHS)):
        unknown = sorted(set(getattr(options, name)) - set(known))
        if unknown:
            raise InputError(f"--{name} {unknown[0]!r} is unknown: choose from {', '.join(known)}.")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"Device {options.device!r} is not available here; choose --device cpu.")


def points_of(axes: list[str], paths: list[str]) -> list[dict]:
    """What to measure: sizes of a step with a way to render, or views of a dataset; the base is measured once."""
    points = []
    for axis in axes:
        if axis == "dataset":
            points += [{"views": views} for views in VIEWS]
        else:
            points += [BASE | {axis: value, "path": path} for value in STEP_AXES[axis] for path in paths]
    return [point for number, point in enumerate(points) if point not in points[:number]]


def in_fresh_process(point: dict, options: argparse.Namespace, **instead) -> dict:
    """The row of one point; `instead` of the options' own values."""
    given = {name: getattr(options, name) for name in ("rounds", "threads", "device", "machine")} | instead
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.growth", "--one", json.dumps(point), *flags]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise InputError(f"benchmark {point} ended with code {done.returncode} in a process of its own; see above")
    return json.loads(done.stdout.splitlines()[-1])


def measure(point: dict, options: argparse.Namespace) -> dict:
    """Time and memory of one point."""
    load = round(psutil.getloadavg()[0], 1)
    about = {"device": options.device, "threads": options.threads, "machine": options.machine, "load": load}
    measured = dataset_row if "views" in point else step_row
    return measured(point, options) | about


def step_row(point: dict, options: argparse.Namespace) -> dict:
    """One step of training: losses, backward, Adam."""
    torch.manual_seed(0)
    config = replace(PAPER, backbone_weights="random", image_size=point["image"], render_path=point["path"])
    config = replace(config, rays=point["rays"], neighbor_rays=point["rays"], samples=point["samples"])
    system = ShapeClipper(config).to(options.device).train()
    batch = random_batch(point["batch"], point["image"], options.device)
    shape = tuple(point[name] for name in BASE)
    step, path = step_of(system, batch), point["path"]

    def twin() -> None:
        system.render_path = {"compiled": "fast"}.get(path, path)
        step()

    work = Workload("growth", shape, {path: step}, lambda: None, {path: twin})
    times = interleave(work, options.rounds, options.device)
    memory = {"memory_mb": peak_memory_mb(options.device)}  # before anything is counted
    counted = {"base": list(BASE.values()), "kept_mb": round(kept_bytes(lambda: losses_of(system, batch)) / 1e6, 1)}
    return rows_of(work, times, gemm_ceiling(options.device, tries=3), memory | counted)[0]


def losses_of(system: nn.Module, batch: Batch) -> torch.Tensor:
    """The sum that a step makes smaller, always with the same draws."""
    return sum(system.losses(batch, torch.Generator().manual_seed(0)).values())


def kept_bytes(forward: Callable[[], torch.Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass; memory that several tensors share counts once."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # held until the end: what is freed could lend its address to another
    del result
    return sum(kept.values())


def dataset_row(point: dict, options: argparse.Namespace) -> dict:
    """Draw batches from so many views of each shipped model."""
    dataset = PreparedDataset(FURNITURE, "train", views=point["views"])
    generator = torch.Generator().manual_seed(0)

    def draw() -> None:
        for _ in range(DRAWS):
            index, neighbor = torch.randint(len(dataset), (2, DRAWN), generator=generator)
            dataset.batch(index, neighbor).to(options.device)

    work = Workload("growth_dataset", (len(dataset), dataset.rgb.shape[1]), {"memory": draw}, lambda: None)
    times = {
        name: [(w / DRAWS, b / DRAWS) for w, b in t] for name, t in interleave(work, options.rounds, "cpu").items()
    }
    held = [t for t in (dataset.rgb, dataset.mask, dataset.normal, dataset.ray_weights) if t is not None]
    kept = sum(t.numel() * t.element_size() for t in held)
    about = {"memory_mb": peak_memory_mb("cpu"), "kept_mb": round(kept / 1e6, 3), "drawn": DRAWN}
    return rows_of(work, times, 1.0, about)[0]


if __name__ == "__main__":
    sys.exit(main())
