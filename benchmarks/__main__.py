"""Time the training steps, their parts and the evaluation, the plain way against the fast one.

    python -m benchmarks                             everything; `make bench` does this
    python -m benchmarks render --size 2             one of them
    python -m benchmarks --device cuda

The variants take turns in one process, after it was asserted that they give the same. Their peak memory is that of a
process of its own each. Rows go to ``results.json``, from which the figure and `benchmarks/README.md` are made.
`neighbors` are the searches of real embeddings that `python -m benchmarks.neighbors` times, on fewer vectors than it
does by default: a row of another size stays.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil
import torch

import lib.systems  # noqa: F401  sets what training sets: denormal numbers are flushed
from benchmarks import neighbors
from benchmarks.figure import draw
from benchmarks.measure import (
    at_least_one,
    describe_machine,
    gemm_ceiling,
    interleave,
    peak_memory_mb,
    replace_rows,
    rows_of,
)
from benchmarks.report import write_report
from benchmarks.workloads import WORKLOADS
from lib.errors import InputError, exit_code
from lib.paths import REPOSITORY, RUNS

SEARCH = "neighbors"
# images at once, vectors of a search
SIZES = {
    "shapeclipper_step": (2, 12),
    "render": (2,),
    "encoder": (12,),
    "data": (12,),
    "data_224": (12,),
    "evaluation": (1,),
    "sdf_srn_step": (2,),
    "sdf_srn_evaluation": (1,),
    SEARCH: (12_000,),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: run(options), "\ninterrupted: what was measured so far is kept")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SIZES)}; all without it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--size", type=int, help="images at once (vectors), instead of each one's own")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="on a processor; all cores without it")
    parser.add_argument("--machine", default=describe_machine(), help="how the report names this machine")
    parser.add_argument("--output", type=Path, default=RUNS / "bench" / "results.json")
    parser.add_argument(
        "--report", type=Path, default=RUNS / "bench" / "README.md", help="benchmarks/README.md to publish"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Measure what was asked for; results, figure and report are written after each."""
    refuse(options)
    torch.set_num_threads(options.threads or psutil.cpu_count(logical=False) or 1)
    if options.one:
        print(json.dumps(memory_of(*options.names, options.one, options.device, options.size)))
        return
    names = options.names or [name for name in SIZES if name != SEARCH or options.device == "cpu"]
    for name in names:
        for size in [options.size] if options.size else SIZES[name]:
            if name == SEARCH:
                search(size, options)
                continue
            rows = replace_rows(options.output, measured(name, size, options))
            draw(rows, options.output.with_name("speed.png"))
            write_report(rows, options.report)


def refuse(options: argparse.Namespace) -> None:
    """Unknown names, nothing to do, a device that is not there or that a benchmark does not use."""
    unknown = sorted(set(options.names) - set(SIZES))
    if unknown:
        raise InputError(f"No benchmark {unknown[0]!r}: choose from {', '.join(SIZES)}.")
    at_least_one(options, "rounds", "size")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"Device {options.device!r} is not available here; choose --device cpu.")
    if options.device != "cpu" and SEARCH in options.names:
        raise InputError(f"{SEARCH} are searched on the processor only; choose --device cpu.")


def search(count: int, options: argparse.Namespace) -> None:
    """Each way to find the neighbours of so many real embeddings."""
    given = {"count": count, "threads": torch.get_num_threads()}
    given |= {name: getattr(options, name) for name in ("machine", "output", "report")}
    flags = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    only = [f"{method}-real" for method in neighbors.METHODS]
    neighbors.run(neighbors.parse([*flags, "--only", *only]))


def measured(name: str, size: int, options: argparse.Namespace) -> list[dict]:
    """The rows of one benchmark."""
    workload = WORKLOADS[name](options.device, size)
    workload.check()
    load = round(psutil.getloadavg()[0], 1)
    about = {"device": options.device, "threads": torch.get_num_threads(), "machine": options.machine, "load": load}
    times = interleave(workload, options.rounds, options.device)
    rows = rows_of(workload, times, gemm_ceiling(options.device), about)
    for row in rows:
        row["memory_mb"] = memory_in_fresh_process(name, row["variant"], size, options)
        print(json.dumps(row), flush=True)
    return rows


def memory_in_fresh_process(name: str, variant: str, size: int, options: argparse.Namespace) -> int:
    """Peak memory of one variant done twice, with everything that has to be loaded for it."""
    given = [name, "--one", variant, "--size", size, "--device", options.device, "--threads", torch.get_num_threads()]
    command = [sys.executable, "-m", "benchmarks", *map(str, given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise InputError(f"benchmark {name}, {variant} ended with code {done.returncode} in a process of its own")
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(name: str, variant: str, device: str, size: int) -> int:
    """Peak memory in MB after doing one variant twice; the others are not built where that costs memory."""
    function = WORKLOADS[name](device, size).variants[variant]
    function()
    function()
    return peak_memory_mb(device)


if __name__ == "__main__":
    sys.exit(main())
