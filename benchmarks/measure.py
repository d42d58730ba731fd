"""Timing of several ways to do one thing, in turn, in one process."""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from lib.errors import InputError


@dataclass(frozen=True)
class Workload:
    """One thing and the ways to do it.

    Attributes
    ----------
    shape : tuple of int
        What its size is; the report says which numbers.
    variants : dict
        Name -> function that does it once; the first one is what the others are compared with.
    check : callable
        Raises where the variants do not give the same; called before anything is timed.
    counted : dict
        Name of a variant -> function that does the same products where they can be counted: inside compiled code they
        are not seen.
    """

    name: str
    shape: tuple[int, ...]
    variants: dict[str, Callable[[], object]]
    check: Callable[[], None]
    counted: dict[str, Callable[[], object]] = field(default_factory=dict)


def same(variants: dict[str, Callable[[], tuple[torch.Tensor, ...]]], tolerance: float) -> None:
    """Every result of every variant is that of the first, relative to its size."""
    results = {name: run() for name, run in variants.items()}
    expected = next(iter(results.values()))
    for name, found in results.items():
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            error = float((a - b).double().norm() / b.double().norm().clamp(min=1e-12))
            if not error < tolerance:
                raise AssertionError(f"variant {name!r}: result {number} differs by {error:.1e} of its size")


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def interleave(workload: Workload, rounds: int, device: str) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each variant in every round, after one round that does not count."""
    times = {name: [] for name in workload.variants}
    for counted in [False] + [True] * rounds:
        for name, function in workload.variants.items():
            synchronize(device)
            wall, busy = time.perf_counter(), time.process_time()
            function()
            synchronize(device)
            if counted:
                times[name].append((time.perf_counter() - wall, time.process_time() - busy))
    return times


def rows_of(workload: Workload, times: dict[str, list[tuple[float, float]]], ceiling: float, about: dict) -> list[dict]:
    """A row a variant: medians, spread, and the median over rounds of how many times as fast as the first variant."""
    rows, base = [], [wall for wall, _ in next(iter(times.values()))]
    for name, pairs in times.items():
        wall, busy = [w for w, _ in pairs], [b for _, b in pairs]
        row = {
            "name": workload.name,
            "variant": name,
            "shape": list(workload.shape),
            "seconds": statistics.median(wall),
        }
        row |= {"low": min(wall), "high": max(wall), "cpu_seconds": statistics.median(busy), "rounds": len(wall)}
        row["ratio"] = statistics.median(b / w for b, w in zip(base, wall, strict=True))
        flop = count_flop(workload.counted.get(name, workload.variants[name]))
        if flop:
            row |= {"gflop": flop / 1e9, "gemm_share": flop / row["seconds"] / ceiling, "ceiling_gflops": ceiling / 1e9}
        rows.append({key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in row.items()} | about)
    return rows


def count_flop(function: Callable[[], object]) -> int:
    """Floating point operations in products and convolutions; those inside compiled code are not seen."""
    with _Counter() as counter:
        function()
    return counter.total


class _Counter(TorchDispatchMode):
    """Add up what PyTorch's own formulas say of every operation.

    Its `FlopCounterMode` also tells modules apart, by hooks that warn, and that refuse what our steps do
    (`torch.autograd.grad` by a leaf).
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if formula := FORMULAS.get(function._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _added_products(_total: torch.Size, left: torch.Size, right: torch.Size, **_kwargs) -> int:
    """Of `baddbmm_`, which the counter knows only where it makes a new tensor."""
    return 2 * left.numel() * right[-1]


FORMULAS = flop_registry | {torch.ops.aten.baddbmm_: shape_wrapper(_added_products)}


def gemm_ceiling(device: str, tries: int = 20) -> float:
    """Operations a second of the best of a few single-precision products, fresh in this process."""
    best = 0.0
    for rows, inner, columns in ((64, 64, 2048), (64, 64, 32768), (1024, 1024, 1024)):
        left, right = torch.randn(rows, inner, device=device), torch.randn(inner, columns, device=device)
        out = left @ right
        for _ in range(tries):
            synchronize(device)
            started = time.perf_counter()
            for _ in range(5):
                torch.mm(left, right, out=out)
            synchronize(device)
            best = max(best, 5 * 2 * rows * inner * columns / (time.perf_counter() - started))
    return best


def peak_memory_mb(device: str) -> int:
    """Largest memory of this process so far, in millions of bytes: a GPU's where there is one, else all of it."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated() / 1e6)
    status = Path("/proc/self/status")
    if status.is_file():  # Linux's ru_maxrss begins at what the process that started this one had used
        return round(int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024 / 1e6)
    try:
        import resource
    except ImportError:  # Windows
        return round(psutil.Process().memory_info().peak_wset / 1e6)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)  # macOS counts bytes


def at_least_one(options: argparse.Namespace, *names: str) -> None:
    """Refuse options that count something and are below 1; those that were not given are None."""
    for name in names:
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}.")


def describe_machine() -> str:
    """Cores and memory."""
    return f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, {platform.machine()}"


def read_rows(path: Path) -> list[dict]:
    """Rows measured before."""
    return json.loads(path.read_text()) if path.is_file() else []


def replace_rows(path: Path, new: list[dict]) -> list[dict]:
    """Put rows in the place of older ones of the same thing, variant, device and size."""

    def key(row: dict) -> tuple:
        return row["name"], row["variant"], row["device"], tuple(row["shape"])

    fresh = {key(row) for row in new}
    rows = [row for row in read_rows(path) if key(row) not in fresh] + new
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    partial.replace(path)
    return rows
