"""Time a training step of each recipe, the evaluation of an instance and the search for neighbours.

    python -m benchmarks                             everything; `make bench` does this
    python -m benchmarks small paper                 some of them
    python -m benchmarks --device cuda
    python -m benchmarks --readme benchmarks/README.md      also put the table there

The ways to do one thing take turns in one process, after it was asserted that they give the same. The peak memory of
each is measured in a fresh process.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from benchmarks.measure import keep_rows, measure, peak_memory_mb
from benchmarks.report import table, with_table
from benchmarks.workloads import SEARCH, SIZES, workload
from lib.errors import InputError, exit_code
from lib.evaluation.results import commit
from lib.files import write_atomically
from lib.paths import REPOSITORY, RUNS


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SIZES)}; all without it")
    parser.add_argument("--device", default="cpu", help="cpu, cuda")
    parser.add_argument("--size", type=int, help="images or vectors at once, instead of each one's usual")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--output", type=Path, default=RUNS / "bench" / "results.json")
    parser.add_argument("--readme", type=Path, help="also write the table between the marks of this file")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), "\ninterrupted: what was measured so far is kept")


def _run(options: argparse.Namespace) -> None:
    _check(options)
    torch.set_num_threads(options.threads)
    if options.memory_of:  # one way, done twice, in this process
        once = workload(options.names[0], options.size, options.device).ways[options.memory_of]()
        once()
        once()
        print(peak_memory_mb(options.device))
        return
    names = options.names or [name for name in SIZES if name != SEARCH or options.device == "cpu"]
    for name in names:
        for size in [options.size] if options.size else SIZES[name]:
            work = workload(name, size, options.device)
            # before anything is done here, while this process is small
            memory = {way: memory_in_fresh_process(name, size, way, options) for way in work.ways}
            rows = measure(work, options.rounds, options.device)
            rows = [row | {"memory_mb": memory[row["way"]]} for row in rows]
            for row in rows:
                print(json.dumps(row), flush=True)
            kept = keep_rows(options.output, rows)
    print(table(kept))
    if options.readme:
        text = with_table(options.readme.read_text(encoding="utf-8"), kept)
        write_atomically(options.readme, lambda path: path.write_text(text, encoding="utf-8"))


def _check(options: argparse.Namespace) -> None:
    unknown = sorted(set(options.names) - set(SIZES))
    if unknown:
        raise InputError(f"No benchmark {unknown[0]!r}: choose from {', '.join(SIZES)}.")
    for name in ("rounds", "size", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} must be at least 1, not {value}.")
    if options.size == 1 and {"paper", "released"} & set(options.names or SIZES):
        raise InputError("--size must be at least 2 for paper and released, whose batch normalisation compares images.")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise InputError(f"Device {options.device!r} is not available here; choose --device cpu.")
    if options.device != "cpu" and SEARCH in options.names:
        raise InputError(f"{SEARCH} are searched on the processor only; choose --device cpu.")
    if options.readme and not options.readme.is_file():
        raise InputError(f"--readme {options.readme} is no file.")
    if options.readme and commit().endswith("+changes"):
        raise InputError("--readme takes numbers of a commit only, and files differ from it: commit them first.")


def memory_in_fresh_process(name: str, size: int, way: str, options: argparse.Namespace) -> int:
    """Peak memory of one way done twice, in millions of bytes, with everything that has to be loaded for it."""
    given = [name, "--memory-of", way, "--size", size, "--device", options.device, "--threads", options.threads]
    command = [sys.executable, "-m", "benchmarks", *map(str, given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise InputError(f"benchmark {name}, {way} ended with code {done.returncode} in a fresh process")
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
