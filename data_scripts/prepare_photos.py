"""A folder of plain photos -> a prepared data set: masks, crops, normals, embeddings, neighbours, a contact sheet.

    python data_scripts/prepare_photos.py FOLDER --output OUT

Look at OUT/contact_sheet/index.html before you train on it. Photos that cannot be used are listed in OUT/rejected.csv
with the reason, and the rest goes on; copies of one photo are listed in OUT/duplicates.csv and kept. Unfinished work is
kept in ``OUT.partial``: the same command goes on where a killed one was, and gives the same result. Masks come from a
folder of masks, else from a photo's own transparency, else from a salient-object network; normals are a small network's
guesses.
"""

import argparse
import shutil
import signal
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

import pandas as pd
import torch
from tqdm import tqdm

from data_scripts.contact_sheet import write_contact_sheet
from data_scripts.jobs import give_up
from data_scripts.options import positive
from data_scripts.output import check_output, going_on, partial_of, publish, take_up
from data_scripts.photo_copies import (
    DUPLICATES,
    NEAR_DUPLICATE,
    called_alike,
    merge_copies,
    write_duplicates,
    write_table,
)
from data_scripts.photo_folder import (
    Settings,
    assign_splits,
    chunks,
    part_path,
    prepare_chunk,
    read_parts,
    tools,
)
from data_scripts.photo_names import Item, list_items, safe
from lib.data.normals import CONVENTIONS, NORMALS
from lib.data.prepared import write_metadata
from lib.data.silhouettes import U2NETP
from lib.errors import InputError

SPLITS = ("train", "val", "test")
REJECTED = "rejected.csv"
CHECKS = ("all_foreground", "large", "small", "truncated", "several_parts")  # without an object there is no crop


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    try:
        with going_on(options.output):
            prepare(options)
    except InputError as error:
        return _fail(str(error), 2)
    except KeyboardInterrupt:
        return _fail("Stopped; the same command goes on where this one was.", 130)
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("folder", type=Path, help="photos, also in folders; a folder's name becomes the category")
    add("--output", type=Path, required=True, help="prepared folder to make or replace")
    add("--category", default="", help="of all photos, whatever folder they are in")
    add("--model-separator", default="", help="photos whose names agree up to this character show one object")
    add("--image-size", type=positive, default=64, help="pixels a side (default: %(default)s)")
    add("--masks", type=Path, help="folder of masks (white on black) with the names of the photos")
    add("--split", type=_shares, default=_shares("0.8,0.1,0.1"), help="shares of train, val, test (0.8,0.1,0.1)")
    add("--allow", type=_names, default=(), help="checks that reject nothing, e.g. truncated,several_parts")
    add("--silhouettes", type=Path, default=U2NETP, help="salient-object network, ONNX (default: %(default)s)")
    add("--normals", type=Path, default=NORMALS, help="normal network: folder, TorchScript or ONNX")
    add("--convention", choices=sorted(CONVENTIONS), default="ours", help="how it writes normals")
    add("--embedding", default="efficientnet_lite0", help="model for neighbours, or none (default: %(default)s)")
    add("--weights", type=Path, help="a local checkpoint of that model")
    add("--allow-download", action="store_true", help="fetch weights that are not at hand")
    add("--count", type=positive, default=5, help="neighbours of a photo (default: %(default)s)")
    add("--near-duplicate", type=_correlation, default=NEAR_DUPLICATE, help="photos that correlate more are copies: "
        "views of one object; 1 looks for none (default: %(default)s)")  # fmt: skip
    add("--limit", type=positive, help="take the first so many files only")
    add("--workers", type=positive, default=1, help="processes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the split")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for.

    Raises
    ------
    InputError
        The folder or a network cannot be used, or not one photo can.
    """
    settings, items = plan(options)
    work = partial_of(options.output)
    parts = chunks(items)
    _open_work(work, settings, items)
    prepare_all(parts, settings, work, options.workers)
    rows, rejected, signatures = read_parts(work, len(parts))
    write_table(work / REJECTED, ("file", "reason"), rejected)
    if not rows:
        raise InputError(f"None of the {len(items)} files can be used{give_up(options.output, rejected)}")
    rows, copies = merge_copies(signatures, rows, options.near_duplicate)
    copies = called_alike(items, rows) + copies
    write_duplicates(work / DUPLICATES, items, copies)
    write_metadata(work, assign_splits(rows, options.split, options.seed), describe(options, settings))
    if options.embedding != "none":
        add_neighbors(work, options)
    write_contact_sheet(work, options.embedding, rejected)
    publish(work, options.output)
    shutil.rmtree(options.output / "parts")
    print(f"{len(rows)} samples in {options.output}, {len(rejected)} files rejected ({REJECTED})")
    if copies:
        print(f"{len({name for name, _ in copies})} samples are called like others or copies of others ({DUPLICATES})")
    print(f"look at {options.output / 'contact_sheet' / 'index.html'}")


def plan(options: argparse.Namespace) -> tuple[Settings, list[Item]]:
    """What is to be done, checked as far as it can be before anything is decoded."""
    folder = options.folder.resolve()
    check_output(options.output, folder, options.masks)
    if options.masks and not options.masks.is_dir():
        raise InputError(f"There is no folder of masks {options.masks}; leave --masks out to have them guessed.")
    if options.category and options.category != safe(options.category):
        raise InputError(
            f"--category {options.category!r} cannot name a folder; take {safe(options.category)!r}, for example."
        )
    items = list_items(folder, options.category, options.model_separator)[: options.limit]
    masks = str(options.masks.resolve()) if options.masks else ""
    networks = str(options.silhouettes), str(options.normals), options.convention
    settings = Settings(str(folder), masks, options.image_size, *networks, options.allow)
    tools(settings)  # says now what is wrong with a network
    if options.embedding != "none":
        _embedder(options)
    return settings, items


def prepare_all(parts: list[list[Item]], settings: Settings, work: Path, workers: int) -> None:
    """Prepare the chunks that are not done yet, in this process or in several; the files are the same."""
    todo = [number for number in range(len(parts)) if not part_path(work, number).is_file()]
    done = sum(map(len, parts)) - sum(len(parts[number]) for number in todo)
    with tqdm(total=sum(map(len, parts)), initial=done, unit="photo", desc="photos") as bar:
        if workers == 1:
            _start_worker(keep_interrupt=True)
            for number in todo:
                prepare_chunk(parts[number], number, settings, work, bar.update)
            return
        # Fresh processes behave alike on every system; forking a process with threads does not.
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)
        try:
            futures = {pool.submit(prepare_chunk, parts[n], n, settings, work): len(parts[n]) for n in todo}
            for future in as_completed(futures):
                future.result()
                bar.update(futures[future])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def add_neighbors(folder: Path, options: argparse.Namespace) -> None:
    """Embed the samples and write the neighbours of each among other models of its split and category."""
    from lib.data.embeddings import embed_dataset, read_embeddings
    from lib.data.neighbors import find_neighbors, save_neighbors
    from lib.data.prepared import read_prepared

    name, table = options.embedding, read_prepared(folder).metadata
    embed_dataset(folder, _embedder(options))
    embeddings = read_embeddings(folder, name)
    groups = (table["split"] + " " + table["category"]).to_numpy()
    models = table["model"].to_numpy()
    found = find_neighbors(embeddings.vectors, options.count, groups=groups, exclude=models, fill=True)
    save_neighbors(folder / "neighbors" / f"{name}.parquet", table["id"], found, name, embeddings.checksum)
    short = (found.index < 0).any(dim=1).numpy()
    if short.any():
        print(few_neighbors(table[short], options.count), file=sys.stderr)


def few_neighbors(short: pd.DataFrame, count: int) -> str:
    """What samples with fewer than K neighbours mean for a training, which reads those of its own split only."""
    places = sorted(set(zip(short["category"], short["split"], strict=True)))
    where = ", ".join(f"{category} ({split})" for category, split in places)
    told = f"note: {len(short)} samples have fewer than {count} neighbours: too few photos of other objects in {where}"
    if "train" not in set(short["split"]):
        return f"{told}; a training does not need those"
    return f"{told}; train with --categories that have enough, or prepare with a smaller --count"


def describe(options: argparse.Namespace, settings: Settings) -> dict:
    """What ``dataset.json`` says of the data."""
    silhouettes, normals = tools(settings)
    return {
        "name": options.output.resolve().name,
        "source": f"the photos of a folder named {options.folder.resolve().name}",
        "licence": "that of the photos",
        "version": "1.0",
        "image_size": options.image_size,
        "masks": "a folder of masks" if settings.masks else f"opacity of the files, else {silhouettes.name}",
        "masks_sha256": silhouettes.checksum,
        "normals": f"guessed by {normals.name} (convention {normals.convention})",
        "seed": options.seed,
    }


def _embedder(options: argparse.Namespace):
    from lib.data.embeddings import make_embedder

    return make_embedder(options.embedding, options.weights, options.allow_download)


def _open_work(work: Path, settings: Settings, items: list[Item]) -> None:
    """Take up the work folder of an interrupted run over the same files, or begin a new one."""
    take_up(work, {**asdict(settings), "photos": [[asdict(item), _stamp(settings, item)] for item in items]})


def _stamp(settings: Settings, item: Item) -> list[int]:
    """Size and time of a file: another photo of the same name is prepared anew."""
    try:
        status = (Path(settings.folder) / item.file).stat()
    except OSError:  # a link that leads nowhere; it will be rejected
        return []
    return [status.st_size, status.st_mtime_ns]


def _start_worker(keep_interrupt: bool = False) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    if not keep_interrupt:  # Ctrl-C reaches every process; only the first one handles it
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _shares(text: str) -> dict[str, float]:
    values = [float(part) for part in text.split(",")]
    if len(values) != len(SPLITS) or min(values) < 0 or sum(values) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not three shares of train, val and test, e.g. 0.8,0.1,0.1")
    return {split: value / sum(values) for split, value in zip(SPLITS, values, strict=True)}


def _names(text: str) -> tuple[str, ...]:
    names = sorted(name for name in text.split(",") if name)
    if unknown := [name for name in names if name not in CHECKS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is no check; known are {', '.join(CHECKS)}")
    return tuple(names)


def _correlation(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return value


def _fail(sentence: str, code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
