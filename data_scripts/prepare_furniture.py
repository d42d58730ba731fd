"""Render the built-in furniture set from the Sweet Home 3D libraries (Debian: sweethome3d-furniture).

    python data_scripts/prepare_furniture.py --output lib/data/furniture

Everything random depends on seed, model, variant and view only: the same command gives the same bytes with
any number of workers, and after any number of interruptions. (Only the last digit of the neighbours' scores depends
on the processor and its threads; which images are neighbours does not.) Unfinished work is kept in
``<output>.partial`` and taken up again; the output appears when it is whole.
"""

import argparse
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from tqdm import tqdm

from data_scripts.credits import write_credits
from data_scripts.instances import Settings, Task, generator, part_path, prepare_model
from data_scripts.options import positive
from data_scripts.output import check_output, going_on, partial_of, publish, take_up
from data_scripts.sweethome import MODEL_LIST, Entry, read_entries
from lib.data.prepared import write_metadata
from lib.errors import STOPPED, InputError, exit_code
from lib.paths import FURNITURE

SOURCE = Path("/usr/share/sweethome3d/furniture")
TRAIN_VARIANTS = {"chair": 14}  # instances of a training model; chairs are what the course trains on
OTHER_VARIANTS = 7
TEST_VARIANTS = 2
SHARES = {"test": 0.2, "val": 0.1}  # of the models of each category; the rest is for training
MIN_MODELS = 2  # so that an image has neighbours that show another model of its split
HOW_TO_GET = (
    "Install it (sudo apt-get install sweethome3d-furniture), or without root: apt-get download "
    "sweethome3d-furniture && dpkg -x sweethome3d-furniture_*.deb FOLDER, "
    "then --source FOLDER/usr/share/sweethome3d/furniture."
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: prepare(options), f"error: {STOPPED}")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the .sh3f files (default: %(default)s)")
    parser.add_argument(
        "--models", type=Path, default=MODEL_LIST, help="CSV of the models to take (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, default=FURNITURE, help="prepared folder to make or replace")
    parser.add_argument("--image-size", type=positive, default=64, help="pixels a side (default: %(default)s)")
    parser.add_argument("--views", type=positive, default=3, help="images an instance in val and test")
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--variants", type=positive, help="instances a training model (default: chair 14, others 7)")
    exactly = "exactly so many training images of all categories together; val and test get about as many a model"
    amount.add_argument("--train-images", type=positive, metavar="N", help=exactly)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--categories", help="comma-separated, e.g. chair,table (default: all)")
    parser.add_argument("--workers", type=positive, default=2, help="processes (default: %(default)s)")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_output(options.output, options.source, options.models)
    with going_on(options.output):
        _prepare(plan(options), options)


def _prepare(tasks: list[Task], options: argparse.Namespace) -> None:
    work = partial_of(options.output)
    take_up(work, settings_of(tasks))
    rows = render_all(tasks, work, options.workers)
    entries = [task.entry for task in tasks]
    write_credits(work, entries, options.source)
    info = {
        "name": "furniture",
        "source": "Sweet Home 3D furniture libraries 1.8 (Debian package sweethome3d-furniture)",
        "licence": " AND ".join(sorted({entry.licence for entry in entries})) + " (see ATTRIBUTION.csv)",
        "version": "1.0",
        "image_size": options.image_size,
        "seed": options.seed,
    }
    write_metadata(work, rows, info)
    _add_neighbors(work)
    publish(work, options.output)
    for scaffold in ("parts", "unpacked"):  # the last thing, so that a stop before it costs no rendering
        shutil.rmtree(options.output / scaffold, ignore_errors=True)
    print(f"{len(rows)} samples of {len(tasks)} models in {options.output}")


def settings_of(tasks: list[Task]) -> dict[str, Any]:
    """All that the work depends on: an interrupted run goes on where it is the same."""
    models = [[asdict(task.entry), str(task.library), task.library.stat().st_size, task.split] for task in tasks]
    return {**asdict(tasks[0].settings), "models": models, "variants": [task.variants for task in tasks]}


def plan(options: argparse.Namespace) -> list[Task]:
    """All models to prepare, with their splits.

    Raises
    ------
    InputError
        If the source or a category is missing, or ``--train-images`` cannot be met.
    """
    if not options.source.is_dir():
        raise InputError(f"There is no furniture library in {options.source}. {HOW_TO_GET}")
    entries = read_entries(options.source, options.models)
    if not entries:
        raise InputError(f"{options.models} lists no models; --models takes a CSV file with a model a line.")
    splits = assign_splits(entries)
    wanted = set(options.categories.split(",")) if options.categories else {entry.category for entry in entries}
    unknown = wanted - {entry.category for entry in entries}
    if unknown:
        known = ", ".join(sorted({entry.category for entry in entries}))
        raise InputError(f"There is no category {min(unknown)!r}; --categories takes {known}.")
    settings = Settings(options.image_size, options.views, options.seed)
    entries = [entry for entry in entries if entry.category in wanted]
    variants = count_variants(entries, splits, options)
    return [
        Task(entry, options.source / f"{entry.pack}.sh3f", splits[entry.model], variants[entry.model], settings)
        for entry in entries
    ]


def count_variants(entries: list[Entry], splits: dict[str, str], options: argparse.Namespace) -> dict[str, int]:
    """Instances to make of each model.

    ``--train-images`` deals out its images evenly over the training models, so some of them get one more than others,
    and gives the models of val and test as many images each, up to rounding: the images divide as the models do.

    Raises
    ------
    InputError
        If there are fewer training images than training models, or no such models.
    """
    wanted = options.train_images
    if wanted is None:
        return {entry.model: _variants(entry, splits[entry.model], options.variants) for entry in entries}
    train = [entry.model for entry in entries if splits[entry.model] == "train"]
    if not 0 < len(train) <= wanted:
        raise InputError(f"--train-images {wanted}: there are {len(train)} training models, each of which is shown "
                         "at least once; ask for another number or other --categories.")  # fmt: skip
    each, more = divmod(wanted, len(train))
    train.sort(key=lambda model: generator("train images", model).random())
    others = max(1, round(wanted / len(train) / options.views))
    held_out = {entry.model: others for entry in entries}
    return held_out | {model: each + (place < more) for place, model in enumerate(train)}


def assign_splits(entries: list[Entry]) -> dict[str, str]:
    """Split of each model: 70/10/20 of each category, families kept together, whatever else is prepared."""
    splits = {}
    for category in sorted({entry.category for entry in entries}):
        families: dict[str, list[str]] = {}
        for entry in entries:
            if entry.category == category:
                families.setdefault(entry.family, []).append(entry.model)
        splits |= _split_families(families, category)
    return splits


def render_all(tasks: list[Task], work: Path, workers: int) -> list[dict[str, Any]]:
    """Prepare what is not done yet; all rows, in the order of the tasks."""
    todo = [task for task in tasks if not part_path(work, task.entry.model).is_file()]
    total = sum(task.samples for task in tasks)
    done = total - sum(task.samples for task in todo)
    with tqdm(total=total, initial=done, unit="image", desc="furniture") as bar:
        for task in _finished(todo, work, workers):
            bar.update(task.samples)
    return [row for task in tasks for row in json.loads(part_path(work, task.entry.model).read_text())]


def _split_families(families: dict[str, list[str]], category: str) -> dict[str, str]:
    total = sum(map(len, families.values()))
    quota = {split: max(MIN_MODELS, round(share * total)) for split, share in SHARES.items()}
    splits = {}
    for family in sorted(families, key=lambda name: generator(category, name).random()):
        models = families[family]
        split = next((split for split, left in quota.items() if left >= len(models)), "train")
        if split != "train":
            quota[split] -= len(models)
        splits |= dict.fromkeys(models, split)
    return splits


def _variants(entry: Entry, split: str, wanted: int | None) -> int:
    if split != "train":
        return TEST_VARIANTS
    return wanted or TRAIN_VARIANTS.get(entry.category, OTHER_VARIANTS)


def _finished(tasks: list[Task], work: Path, workers: int) -> Iterator[Task]:
    """Prepare tasks, in this process or in several; yields each when done."""
    if workers == 1:
        _start_worker(keep_interrupt=True)
        for task in tasks:
            prepare_model(task, work)
            yield task
        return
    # Fresh processes behave alike on every system; forking a process with threads does not.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
    try:
        futures = {pool.submit(prepare_model, task, work): task for task in tasks}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(keep_interrupt: bool = False) -> None:
    import torch

    torch.set_num_threads(1)
    if not keep_interrupt:  # Ctrl-C reaches every process; only the first one handles it
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _add_neighbors(folder: Path) -> None:
    """Nearest neighbours by ImageNet features, inside the folder that is not published yet."""
    from lib.data.neighbors import write_neighbors  # loads torch models: only when needed

    try:
        write_neighbors(folder)
    except InputError as error:  # too few models: the rest of the folder is as good as ever
        print(f"note: the folder has no neighbours: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
