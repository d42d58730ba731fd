"""Jobs -> a prepared folder: what every script here has in common.

A job is a list of samples that are made together, often of one model. The rows of a finished job are in ``parts/``, so
an interrupted run goes on. What cannot be used is listed in ``rejected.csv`` with the reason, and the rest goes on.
"""

import argparse
import csv
import errno
import hashlib
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from joblib.externals.loky import get_reusable_executor
from tqdm import tqdm

from data_scripts.output import partial_of, whole_folder
from lib.data.prepared import COLUMNS, write_metadata
from lib.errors import FULL, InputError
from lib.files import read_json, write_atomically, write_json

SHARES = {"test": 0.2, "val": 0.1}  # of the models of a category; the rest is for training
REJECTED = "rejected.csv"
MEASURES = {"overlap": "silhouette_overlap", "error": "camera_error"}  # key of a row -> entry of dataset.json
POOR_OVERLAP = 0.7

Rejected = list[tuple[object, str]]  # a file or whatever else cannot be used, and the reason
Part = dict[str, list]  # what a job gives: {"rows": [...], "rejected": [[file, reason], ...]}


@dataclass(frozen=True)
class Work:
    """How samples are made.

    Attributes
    ----------
    make : callable
        Sample and folder -> its rows, as in `lib.data.prepared.COLUMNS`, with a measure of `MEASURES` where there is
        one; InputError where it cannot be used. Samples have a ``source``, the file that is then listed.
    noun : str
        What samples are, for messages: "photo".
    processes : bool
        Whether the workers are processes, not threads: for what holds the interpreter, as meshes do.
    notes : callable
        All rows -> sentences that the user should read; they go into ``dataset.json``, too.
    """

    make: Callable[[Any, Path], list[dict]]
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
    """
    read = [path for name, path in vars(options).items() if isinstance(path, Path) and name != "output"]
    info = {**info, "image_size": options.image_size}
    settings = {**info, f"{work.noun}s": [_fingerprint(jobs), key]}
    with whole_folder(options.output, settings, *read) as folder:
        make = partial(make_each, make=work.make)
        parts = make_parts(jobs, make, folder, options.workers, work.noun, work.processes)
        rows, rejected = gather(parts, options.output, f"{sum(map(len, jobs.values()))} {work.noun}s", rejected)
        rows = with_splits(rows)
        write_table(folder / REJECTED, ("file", "reason"), sorted(rejected))
        notes = work.notes(rows) + _poor_overlap(rows)
        about = {**info, **_measures(rows), "rejected": len(rejected), **({"notes": notes} if notes else {})}
        write_metadata(folder, [{key: row.get(key) for key in COLUMNS} for row in rows], about)
    listed = f"; {len(rejected)} rejected, see {REJECTED}" if rejected else ""
    print(f"{len(rows)} samples of {len({row['model'] for row in rows})} models in {options.output}{listed}")
    for note in notes:
        print(f"note: {note}")


def make_parts(
    jobs: Mapping[str, list], make: Callable[[list, Path], Part], folder: Path, workers: int, noun: str, processes: bool
) -> Iterator[Part]:
    """Do the jobs that have no part yet, several at a time; then all parts, in the order of the jobs."""
    todo = {name: job for name, job in jobs.items() if not _part(folder, name).is_file()}
    spread = processes and workers > 1 and len(todo) > 1
    if spread:
        pool = Parallel(workers, backend="loky", return_as="generator_unordered", initializer=_start_process)
    else:  # decoding, resizing and networks release the interpreter
        pool = Parallel(1 if processes else workers, backend="threading", return_as="generator_unordered")
        if processes:
            _one_thread()  # the numbers of a network depend on its threads
    total, left = (sum(map(len, some.values())) for some in (jobs, todo))
    with tqdm(total=total, initial=total - left, unit=noun) as bar:
        for name in pool(delayed(_do)(name, job, make, folder) for name, job in todo.items()):
            bar.update(len(jobs[name]))
    if spread:
        get_reusable_executor(reuse=True).shutdown()  # their memory is for what comes after
    return (read_json(_part(folder, name)) for name in jobs)


def make_each(job: list, folder: Path, make: Callable[[Any, Path], list[dict]]) -> Part:
    """Make the samples of a job one after another, and list those that cannot be used."""
    rows, rejected = [], []
    for sample in job:
        try:
            rows += make(sample, folder)
        except InputError as error:
            if getattr(error.__cause__, "errno", None) in (*FULL, errno.EROFS):
                raise error.__cause__ from None  # a full disk is no fault of the sample
            rejected.append([str(sample.source), str(error)])
    return {"rows": rows, "rejected": rejected}


def gather(
    parts: Iterable[Part], output: Path, what: str, known: Iterable[tuple[object, str]] = ()
) -> tuple[list[dict], list[list[str]]]:
    """Rows and rejected files of all parts.

    Where nothing can be used, the reasons are kept beside the output and no work, so that the next run looks anew.
    """
    rows, rejected = [], [[str(file), reason] for file, reason in known]
    for part in parts:
        rows += part["rows"]
        rejected += part["rejected"]
    if rows:
        return rows, rejected
    folder = partial_of(output)
    place = folder.with_name(f"{output.resolve().name}.{REJECTED}")
    if rejected:
        write_table(place, ("file", "reason"), sorted(rejected))
    shutil.rmtree(folder, ignore_errors=True)
    why = f"; the first: {rejected[0][1].rstrip('.')}; {place} has all." if rejected else "."
    raise InputError(f"None of the {what} can be used{why}")


def write_table(path: Path, columns: tuple[str, ...], rows: Iterable[list[str]]) -> None:
    """CSV, whole or not at all."""

    def write(temporary: Path) -> None:
        # names of files need not be text: bytes that are none are written as \udc...
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])

    write_atomically(path, write)


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


def _do(name: str, job: list, make: Callable[[list, Path], Part], folder: Path) -> str:
    """Do one job; its part is written last, so a job is done or not."""
    write_json(_part(folder, name), make(job, folder))
    return name


def _start_process() -> None:
    _one_thread()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; only the first one handles it


def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)


def _fingerprint(jobs: Mapping[str, list]) -> str:
    """Changes with names, order and samples of the jobs."""
    digest = hashlib.sha256()
    for name, job in jobs.items():
        digest.update(f"{name}\n{job}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _measures(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Median and extremes of the measures that rows bring."""
    found = {entry: [row[key] for row in rows if key in row] for key, entry in MEASURES.items()}
    return {
        entry: {name: round(float(function(values)), 4)
                for name, function in (("median", np.median), ("lowest", min), ("highest", max))}
        for entry, values in found.items()
        if values
    }  # fmt: skip


def _poor_overlap(rows: list[dict]) -> list[str]:
    values = [row["overlap"] for row in rows if "overlap" in row]
    if not values or np.median(values) >= POOR_OVERLAP:
        return []
    return [f"Half of the CAD models cover less than {np.median(values):.2f} (intersection over union) of their masks; "
            "look at some before you trust the viewpoints."]  # fmt: skip
