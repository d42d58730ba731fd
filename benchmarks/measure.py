"""Timing of several ways to do one thing, in turns, in one process, after they gave the same."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor

from lib.evaluation.results import commit, machine
from lib.files import read_json, write_json

Once = Callable[[], tuple[Tensor, ...]]  # does something once and gives its results


@dataclass(frozen=True)
class Workload:
    """One thing and the ways to do it.

    Attributes
    ----------
    name : str
    size : int
        Images or vectors at once.
    ways : dict
        Name -> function that makes ready what does it once. The first is what the others are compared with.
    tolerance : float
        Of the results of the first time, relative to their size.
    """

    name: str
    size: int
    ways: dict[str, Callable[[], Once]]
    tolerance: float


def measure(workload: Workload, rounds: int, device: str) -> list[dict]:
    """A row for each way: median, smallest and largest seconds, and how many times as fast as the first way.

    All ways are done once before, which warms them up and gives the results that must be the same. The ratio is the
    median over rounds, in each of which all ways take turns.
    """
    load = round(psutil.getloadavg()[0], 1)
    once = {way: make() for way, make in workload.ways.items()}
    assert_same({way: run() for way, run in once.items()}, workload.tolerance)
    seconds = {way: [] for way in once}
    for _ in range(rounds):
        for way, run in once.items():
            synchronize(device)
            start = time.perf_counter()
            run()
            synchronize(device)
            seconds[way].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    about = {"name": workload.name, "size": workload.size, "device": device, "threads": torch.get_num_threads()}
    about |= {"rounds": rounds, "load": load, "commit": commit(), "machine": machine()}
    rows = []
    for way, times in seconds.items():
        ratio = statistics.median(base / own for base, own in zip(first, times, strict=True))
        numbers = {"seconds": statistics.median(times), "low": min(times), "high": max(times), "ratio": ratio}
        rows.append({"way": way} | {name: float(f"{value:.4g}") for name, value in numbers.items()} | about)
    return rows


def assert_same(results: dict[str, tuple[Tensor, ...]], tolerance: float) -> None:
    """Every result of every way is that of the first, relative to its size."""
    expected = next(iter(results.values()))
    for way, found in results.items():
        for number, (a, b) in enumerate(zip(found, expected, strict=True)):
            error = float((a - b).double().norm() / b.double().norm().clamp(min=1e-12))
            if not error < tolerance:
                raise AssertionError(f"{way!r}: result {number} differs by {error:.1e} of its size")


def synchronize(device: str) -> None:
    """Wait for what a GPU still has to do."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


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


def keep_rows(path: Path, new: list[dict]) -> list[dict]:
    """Write rows in the place of older ones of the same thing; those of another commit or machine are dropped."""
    origin, key = ("commit", "machine", "device", "threads"), ("name", "size", "way")
    fresh = {tuple(row[name] for name in key) for row in new}
    rows = [
        row
        for row in (read_json(path) if path.is_file() else [])
        if all(row[name] == new[0][name] for name in origin) and tuple(row[name] for name in key) not in fresh
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, rows + new)
    return rows + new
