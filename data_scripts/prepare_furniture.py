"""Render the built-in furniture set from the Sweet Home 3D libraries (Debian: sweethome3d-furniture).

    python data_scripts/prepare_furniture.py --output lib/data/furniture

Everything random depends on seed, model, variant and view only: the same command gives the same bytes with
any number of workers, and after any number of interruptions. (Only the last digit of the neighbours' scores depends
on the processor and its threads; which images are neighbours does not.) Unfinished work is kept in
``<output>.partial`` and taken up again; the output appears when it is whole.
"""

import argparse
import shutil
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.instances import Settings, Task, generator, prepare_model
from data_scripts.jobs import Part, make_parts, write_table
from data_scripts.options import positive
from data_scripts.output import whole_folder
from data_scripts.sources import chosen
from data_scripts.sweethome import MODEL_LIST, Entry, read_entries
from lib.data.neighbors import write_neighbors
from lib.data.prepared import write_metadata
from lib.errors import STOPPED, InputError, exit_code
from lib.paths import FURNITURE

NOTICE, CARD = (Path(__file__).with_name(name) for name in ("furniture_licence.txt", "furniture_card.md"))
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
    """Command line; returns the exit code."""
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
    tasks = plan(options)
    entries = [task.entry for task in tasks]
    info = {
        "name": "furniture",
        "source": "Sweet Home 3D furniture libraries 1.8 (Debian package sweethome3d-furniture)",
        "licence": " AND ".join(sorted({entry.licence for entry in entries})) + " (see ATTRIBUTION.csv)",
        "version": "1.0",
        "image_size": options.image_size,
        "seed": options.seed,
    }
    # an interrupted run goes on where all that the work depends on is the same
    models = [[asdict(task.entry), str(task.library), task.library.stat().st_size, task.split] for task in tasks]
    settings = {**asdict(tasks[0].settings), "models": models, "variants": [task.variants for task in tasks]}
    with whole_folder(options.output, settings, options.source, options.models) as folder:
        jobs = {task.entry.model: [task] for task in tasks}
        parts = make_parts(jobs, render, folder, options.workers, "model", processes=True)
        rows = [row for part in parts for row in part["rows"]]
        write_credits(folder, entries, options.source)
        write_metadata(folder, rows, info)
        try:
            write_neighbors(folder)
        except InputError as error:  # too few models: the rest of the folder is as good as ever
            print(f"note: the folder has no neighbours: {error}", file=sys.stderr)
    print(f"{len(rows)} samples of {len(tasks)} models in {options.output}")


def render(job: list[Task], folder: Path) -> Part:
    """Render the models of a job; one that cannot be used ends the work, since the list of models is at fault."""
    return {"rows": [row for task in job for row in prepare_model(task, folder)]}


def plan(options: argparse.Namespace) -> list[Task]:
    """All models to prepare, with their splits."""
    if not options.source.is_dir():
        raise InputError(f"There is no furniture library in {options.source}. {HOW_TO_GET}")
    entries = read_entries(options.source, options.models)
    if not entries:
        raise InputError(f"{options.models} lists no models; --models takes a CSV file with a model a line.")
    splits = assign_splits(entries)
    wanted = chosen(options.categories, (entry.category for entry in entries))
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
    """
    wanted = options.train_images
    if wanted is None:
        of_train = {entry.model: TRAIN_VARIANTS.get(entry.category, OTHER_VARIANTS) for entry in entries}
        return {
            model: TEST_VARIANTS if splits[model] != "train" else options.variants or count
            for model, count in of_train.items()
        }
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
    splits: dict[str, str] = {}
    for category in sorted({entry.category for entry in entries}):
        families: dict[str, list[str]] = {}
        for entry in entries:
            if entry.category == category:
                families.setdefault(entry.family, []).append(entry.model)
        total = sum(map(len, families.values()))
        quota = {split: max(MIN_MODELS, round(share * total)) for split, share in SHARES.items()}
        for family in sorted(families, key=lambda name: generator(category, name).random()):
            models = families[family]
            split = next((split for split, left in quota.items() if left >= len(models)), "train")
            if split != "train":
                quota[split] -= len(models)
            splits |= dict.fromkeys(models, split)
    return splits


def write_credits(folder: Path, entries: list[Entry], source: Path) -> None:
    """Write ATTRIBUTION.csv, LICENSE, licenses/<library>.txt and the card that Hugging Face ``datasets`` reads."""
    columns = ("model", "category", "name", "creator", "licence", "pack")
    makers = [[getattr(entry, column) for column in columns] for entry in sorted(entries, key=lambda e: e.model)]
    write_table(folder / "ATTRIBUTION.csv", columns, makers)
    packs = sorted({entry.pack for entry in entries})
    (folder / "licenses").mkdir(exist_ok=True)
    for pack in packs:
        with zipfile.ZipFile(source / f"{pack}.sh3f") as library:
            (folder / "licenses" / f"{pack}.txt").write_bytes(library.read("LICENSE.TXT"))
    summary = "\n".join(
        f"{pack}: {', '.join(sorted({e.licence for e in entries if e.pack == pack}))}" for pack in packs
    )
    (folder / "LICENSE").write_text(NOTICE.read_text(encoding="utf-8").format(summary=summary), encoding="utf-8")
    shutil.copyfile(CARD, folder / "README.md")


if __name__ == "__main__":
    sys.exit(main())
