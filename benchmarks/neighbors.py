"""Time, memory and recall of the neighbour search.

    python -m benchmarks.neighbors --images PHOTOS
    python -m benchmarks.neighbors --million

Each search runs in a process of its own, so that its peak memory is its own. Rows are added to ``results.json`` as they
are measured, and what `benchmarks/README.md` says is written from there.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from benchmarks.measure import describe_machine, peak_memory_mb
from benchmarks.report import write_report
from benchmarks.vectors import clustered_vectors, real_vectors, source_images, uniform_vectors
from lib.data.neighbor_exact import Group, Neighbors, exact_rows
from lib.data.neighbor_index import build_index, search_index, tune_index
from lib.data.neighbors import find_neighbors, recall
from lib.errors import InputError, exit_code
from lib.paths import REPOSITORY, RUNS

COUNT = 5
DATA = ("real", "clustered", "uniform")
METHODS = ("exact", "flat", "ivf", "hnsw")
CHECKED = 1000  # queries whose neighbours are compared with brute force; others than the index was tuned on
FLAT_QUERIES = 8192  # FAISS's flat index is timed on these, and the rest is multiplication
MILLION_QUERIES = 100_000
HARD_QUERIES = 2000  # where an index has to look at nearly all: on uniform vectors, or a graph on separate clusters


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: run(options), "\ninterrupted: what was measured so far is kept")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbors", description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=136_000, help="vectors (default: %(default)s)")
    parser.add_argument("--size", type=int, default=512, help="of a vector (default: %(default)s)")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="folders of photographs to crop besides")
    parser.add_argument("--output", type=Path, default=RUNS / "bench" / "results.json")
    parser.add_argument(
        "--report", type=Path, default=RUNS / "bench" / "README.md", help="benchmarks/README.md to publish"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], metavar="METHOD-DATA", help="e.g. exact-real ivf-uniform")
    parser.add_argument("--million", action="store_true", help="a million clustered vectors instead")
    parser.add_argument("--machine", default=describe_machine(), help="how the report names this machine")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Refuse what cannot be measured, then measure one search (in a process of its own) or all."""
    known = [f"{method}-{data}" for data in DATA for method in METHODS]
    unknown = sorted(set(options.only) - set(known))
    if unknown:
        raise InputError(f"No search {unknown[0]!r}: choose from {', '.join(known)}.")
    if options.count <= COUNT:
        raise InputError(f"--count must be more than {COUNT}, the neighbours of each vector, not {options.count}.")
    if options.one:
        print(json.dumps(measure(options, *options.one.split())))
    else:
        run_all(options)


def run_all(options: argparse.Namespace) -> None:
    """Measure each variant in a fresh process, and write results and report after each."""
    check_exact()
    if options.million:
        pairs = [("ivf", "clustered")]
        options.count = 1_000_000
    else:
        pairs = [(method, data) for data in DATA for method in METHODS]
    pairs = [pair for pair in pairs if not options.only or "-".join(pair) in options.only]
    if any(data == "real" for _, data in pairs):
        load_vectors("real", options)  # embedding the crops is no part of what is measured
    for method, data in pairs:
        store(options.output, options.report, fresh_process(options, method, data))


def fresh_process(options: argparse.Namespace, method: str, data: str) -> dict:
    """The row of one variant."""
    given = [
        "--count",
        options.count,
        "--size",
        options.size,
        "--threads",
        options.threads,
        "--machine",
        options.machine,
    ]
    given += ["--output", options.output, "--one", f"{method} {data}"] + (["--million"] if options.million else [])
    images = ["--images", *options.images] if options.images else []
    command = [sys.executable, "-m", "benchmarks.neighbors", *map(str, images + given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    if done.returncode:
        raise InputError(f"benchmark {method}-{data} ended with code {done.returncode}; see above")
    return json.loads(done.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, method: str, data: str) -> dict:
    """Search one set with one method; in a fresh process."""
    torch.set_num_threads(options.threads)
    vectors = load_vectors(data, options)
    queries = count_queries(options, method, data)
    load, started, busy = psutil.getloadavg()[0], time.perf_counter(), time.process_time()
    row, found = time_exact(vectors) if method == "exact" else time_index(vectors, method, queries)
    shares = {"wall_seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy, "load": load}
    memory = peak_memory_mb("cpu")
    about = {"name": "neighbors", "variant": f"{method}, {data}", "device": "cpu", "memory_mb": round(memory)}
    about |= {
        "shape": list(vectors.shape),
        "queries": queries,
        "count": COUNT,
        "recall": held_out_recall(vectors, found),
    }
    rounded = {key: round(value, 2) for key, value in (row | shares).items()}
    return about | rounded | {"threads": options.threads, "machine": options.machine}


def count_queries(options: argparse.Namespace, method: str, data: str) -> int:
    """All where that is a matter of minutes."""
    if method == "exact":
        return options.count
    limit = MILLION_QUERIES if options.million else FLAT_QUERIES if method == "flat" else options.count
    hard = data == "uniform" or (method, data) == ("hnsw", "clustered")
    return min(options.count, HARD_QUERIES if hard else limit)


def time_exact(vectors: torch.Tensor) -> tuple[dict, Neighbors]:
    """All against all."""
    started, busy = time.perf_counter(), time.process_time()
    found = find_neighbors(vectors, COUNT)
    times = {"seconds": time.perf_counter() - started, "search_cpu_seconds": time.process_time() - busy}
    return times, found


def time_index(vectors: torch.Tensor, method: str, queries: int) -> tuple[dict, Neighbors]:
    """Build, tune and search an index of FAISS; "flat" is the exact one, which needs neither."""
    task = Group(vectors, torch.arange(len(vectors)), COUNT, None)
    times, busy = [time.perf_counter()], [time.process_time()]
    index = flat_index(vectors) if method == "flat" else build_index(vectors, method)
    times.append(time.perf_counter())
    if method != "flat":
        tune_index(task, index)
    times.append(time.perf_counter())
    busy.append(time.process_time())
    found = search_index(task, index, torch.arange(queries))
    times.append(time.perf_counter())
    build, tune, search = np.diff(times)
    cpu = {"search_cpu_seconds": time.process_time() - busy[-1]}
    return {"seconds": search, "build_seconds": build, "tune_seconds": tune, **cpu}, found


def flat_index(vectors: torch.Tensor):
    """FAISS's exact index."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors.numpy())
    return index


def held_out_recall(vectors: torch.Tensor, found: Neighbors) -> float:
    """Recall on queries that the index was not tuned on, against brute force."""
    rows = torch.from_numpy(np.random.default_rng(1).permutation(len(found.index))[:CHECKED])
    truth = exact_rows(Group(vectors, torch.arange(len(vectors)), COUNT, None), rows)
    return round(recall(Neighbors(found.index[rows], found.score[rows]), truth), 4)


def load_vectors(data: str, options: argparse.Namespace) -> torch.Tensor:
    """Vectors of a kind; those of the crops are kept beside the results."""
    if data == "real":
        cache = options.output.parent / f"crops-{options.count}x{options.size}.npy"
        return real_vectors(source_images(options.images), options.count, options.size, cache)
    return {"clustered": clustered_vectors, "uniform": uniform_vectors}[data](options.count, options.size)


def check_exact() -> None:
    """The search is right before it is timed: every pair of 3,000, against sorting in float64."""
    vectors = clustered_vectors(3000, 64)
    similarity = (vectors.double() @ vectors.double().T).fill_diagonal_(-2)
    truth = similarity.sort(dim=1, descending=True, stable=True).values[:, :COUNT]
    found = find_neighbors(vectors, COUNT)
    assert torch.allclose(similarity.gather(1, found.index), truth, atol=1e-6)
    assert torch.allclose(found.score.double(), truth, atol=1e-6)


def store(output: Path, report: Path, row: dict) -> None:
    """Put a row in the place of an older one of the same variant and shape, and write the report again."""
    rows = json.loads(output.read_text()) if output.is_file() else []
    same = ("name", "variant", "shape")  # rows of other benchmarks have other names
    rows = [old for old in rows if any(old.get(key) != row[key] for key in same)] + [row]
    add_ratios([old for old in rows if old["name"] == "neighbors"])
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".tmp")
    partial.write_text(json.dumps(rows, indent=1) + "\n")
    partial.replace(output)
    print(json.dumps(row))
    write_report(rows, report)


def add_ratios(rows: list[dict]) -> None:
    """How many times as fast a query is as in the exact search of the same vectors; 0 where that was not measured."""
    exact = {(r["variant"].split(", ")[1], *r["shape"]): r for r in rows if r["variant"].startswith("exact")}
    for row in rows:
        base = exact.get((row["variant"].split(", ")[1], *row["shape"]))
        pace = row["seconds"] / row["queries"]
        row["ratio"] = round(base["seconds"] / base["queries"] / pace, 3) if base else 0.0


if __name__ == "__main__":
    sys.exit(main())
