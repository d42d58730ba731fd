"""Jobs -> a prepared folder: what every script here that reads a published data set has in common.

A job is a list of samples that are made together, often of one model; the rows of a finished job lie in ``parts/``, so
an interrupted run goes on. What cannot be used is listed in ``rejected.csv`` with the reason, and the rest goes on.
"""

import argparse
import csv
import hashlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_scripts.output import check_output, going_on, partial_of, publish, take_up
from lib.data.prepared import COLUMNS, write_metadata
from lib.errors import InputError
from lib.files import write_atomically

SHARES = {"test": 0.2, "val": 0.1}  # of the models of a category; the rest is for training
REJECTED = "rejected.csv"
MEASURES = {"overlap": "silhouette_overlap", "error": "camera_error"}  # key of a row -> entry of dataset.json
POOR_OVERLAP = 0.7


@dataclass(frozen=True)
class Work:
    """How jobs become samples.

    Attributes
    ----------
    make : callable
        Job and folder -> ``{"rows": [...], "rejected": [[file, reason], ...]}``; rows as in
        `lib.data.prepared.COLUMNS`, and a measure of `MEASURES` where there is one.
    noun : str
        What jobs are lists of, for messages: "photo".
    processes : bool
        Whether the workers are processes, not threads: for what holds the interpreter, as meshes do.
    notes : callable
        All rows -> sentences that the user should read; they go into ``dataset.json``, too.
    """

    make: Callable[[Any, Path], dict[str, list]]
    noun: str = "photo"
    processes: bool = False
    notes: Callable[[list[dict]], list[str]] = lambda rows: []


def prepare_jobs(
    jobs: Mapping[str, list],
    work: Work,
    options: argparse.Namespace,
    info: dict[str, Any],
    rejected: Iterable[tuple[object, str]] = (),
    key: object = None,
) -> None:
    """Make the prepared folder ``options.output``.

    Parameters
    ----------
    jobs : mapping
        Name, which can be a file name -> the samples to make together.
    info : dict
        For ``dataset.json``. A run goes on where one with the same entries, image size, jobs and key was.
    rejected : pairs
        What is known to be of no use already, each with the reason.
    key : object
        Whatever else decides whether an interrupted run can go on, such as the size of the files.

    Raises
    ------
    InputError
        If the output is something else, not one sample can be used, the disk is full, or a worker process dies.
    """
    read = [path for name, path in vars(options).items() if isinstance(path, Path) and name != "output"]
    check_output(options.output, *read)
    with going_on(options.output):
        _prepare(jobs, work, options, info, [[str(what), reason] for what, reason in rejected], key)


def _prepare(
    jobs: Mapping[str, list],
    work: Work,
    options: argparse.Namespace,
    info: dict[str, Any],
    rejected: list[list[str]],
    key: object,
) -> None:
    folder, info = partial_of(options.output), {**info, "image_size": options.image_size}
    take_up(folder, {**info, f"{work.noun}s": [_fingerprint(jobs), key]})
    _make_all(jobs, work, folder, options.workers)
    parts = [json.loads(_part(folder, name).read_text(encoding="utf-8")) for name in jobs]
    rows = with_splits([row for part in parts for row in part["rows"]])
    rejected = rejected + [bad for part in parts for bad in part["rejected"]]
    if not rows:
        why = give_up(options.output, rejected)
        raise InputError(f"None of the {sum(map(len, jobs.values()))} {work.noun}s can be used{why}")
    _publish(folder, options.output, rows, rejected, info, work.notes(rows) + _poor_overlap(rows))


def give_up(output: Path, rejected: list[list[str]]) -> str:
    """Where nothing can be used: keep the reasons beside the output, and no work, so that the next run looks anew.

    Returns
    -------
    str
        The end of a sentence: the first reason, and the file with all of them.
    """
    folder = partial_of(output)
    place = folder.with_name(f"{output.resolve().name}.{REJECTED}")
    if rejected:
        write_atomically(place, lambda path: write_rejected(path, rejected))
    shutil.rmtree(folder, ignore_errors=True)
    return f"; the first: {rejected[0][1].rstrip('.')}; {place} has all." if rejected else "."


def count_notes(rows: list[dict], published: Mapping[tuple[str, str], int]) -> list[str]:
    """Sentences on (category, split) whose number of rows is not the published one; others are not looked at."""
    counts = Counter((row["category"], row["split"]) for row in rows)
    there = {category for category, _ in counts}
    return [
        f"{category}, {split}: {counts[category, split]} samples; the paper has {wanted}."
        for (category, split), wanted in published.items()
        if category in there and counts[category, split] != wanted
    ]


def split_of_models(models: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Split of each (category, model): 70/10/20 of each category, the same whatever the order."""
    splits: dict[str, str] = {}
    groups: dict[str, list[str]] = {}
    for category, model in sorted(set(models), key=lambda pair: hashlib.sha256("/".join(pair).encode()).digest()):
        groups.setdefault(category, []).append(model)
    for names in groups.values():
        test, val = (round(SHARES[split] * len(names)) for split in ("test", "val"))
        labels = ["test"] * test + ["val"] * val + ["train"] * (len(names) - test - val)
        splits |= dict(zip(names, labels, strict=True))
    return splits


def with_splits(rows: list[dict]) -> list[dict]:
    """Rows with a split: their own, or one for all rows of a model."""
    splits = split_of_models((row["category"], row["model"]) for row in rows if "split" not in row)
    return [row if "split" in row else {**row, "split": splits[row["model"]]} for row in rows]


def _part(folder: Path, name: str) -> Path:
    return folder / "parts" / f"{name}.json"


def _fingerprint(jobs: Mapping[str, list]) -> str:
    """Changes with names, order and samples of the jobs."""
    digest = hashlib.sha256()
    for name, job in jobs.items():
        digest.update(f"{name}\n{job}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _make_all(jobs: Mapping[str, list], work: Work, folder: Path, workers: int) -> None:
    todo = {name: job for name, job in jobs.items() if not _part(folder, name).is_file()}
    total, left = (sum(map(len, some.values())) for some in (jobs, todo))
    pool = _pool(workers, work.processes and len(todo) > 1)
    try:
        running = {pool.submit(_make, name, job, work.make, folder): len(job) for name, job in todo.items()}
        with tqdm(total=total, initial=total - left, unit=work.noun) as bar:
            for done in as_completed(running):
                done.result()
                bar.update(running[done])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int, processes: bool) -> Executor:
    if processes and workers > 1:
        # fresh processes behave alike on every system; forking a process with threads does not
        return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_process)
    return ThreadPoolExecutor(workers)  # decoding, resizing and networks all release the interpreter


def _start_process() -> None:
    import torch

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; only the first one handles it


def _make(name: str, job: list, make: Callable[[Any, Path], dict], folder: Path) -> None:
    """Make the samples of one job; its part is written last, so a job is done or not."""
    fresh = _part(folder, name).with_suffix(".tmp")
    fresh.write_text(json.dumps(make(job, folder)), encoding="utf-8")
    fresh.replace(_part(folder, name))


def _measures(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Median and extremes of the measures that rows bring."""
    found = {entry: [row[key] for row in rows if key in row] for key, entry in MEASURES.items()}
    names = ("median", "lowest", "highest")
    return {
        entry: dict(zip(names, (round(float(f(values)), 4) for f in (np.median, min, max)), strict=True))
        for entry, values in found.items()
        if values
    }


def _poor_overlap(rows: list[dict]) -> list[str]:
    values = [row["overlap"] for row in rows if "overlap" in row]
    if not values or np.median(values) >= POOR_OVERLAP:
        return []
    return [f"Half of the CAD models cover less than {np.median(values):.2f} (intersection over union) of their masks; "
            "look at some before you trust the viewpoints."]  # fmt: skip


def _publish(
    folder: Path, output: Path, rows: list[dict], rejected: list[list[str]], info: dict[str, Any], notes: list[str]
) -> None:
    """Write the tables, put the folder in its place and say so."""
    write_rejected(folder / REJECTED, rejected)
    about = {**info, **_measures(rows), "rejected": len(rejected), **({"notes": notes} if notes else {})}
    write_metadata(folder, [{key: row.get(key) for key in COLUMNS} for row in rows], about)
    publish(folder, output)
    shutil.rmtree(output / "parts", ignore_errors=True)  # the last thing, so that a stop before it costs no work
    _say(rows, rejected, notes, output)


def write_rejected(path: Path, rejected: list[list[str]]) -> None:
    """CSV with the columns file and reason, sorted."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:  # names may be no text
        csv.writer(file, lineterminator="\n").writerows([["file", "reason"], *sorted(rejected)])


def _say(rows: list[dict], rejected: list, notes: list[str], output: Path) -> None:
    listed = f"; {len(rejected)} rejected, see {REJECTED}" if rejected else ""
    print(f"{len(rows)} samples of {len({row['model'] for row in rows})} models in {output}{listed}")
    for note in notes:
        print(f"note: {note}")
