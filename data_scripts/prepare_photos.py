"""A folder of plain photos -> a prepared data set: masks, crops, normals, embeddings, neighbours, a contact sheet.

    python data_scripts/prepare_photos.py FOLDER --output OUT

Look at OUT/contact_sheet/index.html before you train on it. Photos that cannot be used are listed in OUT/rejected.csv
with the reason, and the rest goes on; copies of one photo are listed in OUT/duplicates.csv and kept. Unfinished work is
kept in ``OUT.partial``: the same command goes on where a killed one was, and gives the same result. Masks come from a
folder of masks, else from a photo's own transparency, else from a salient-object network; normals are a small network's
guesses.
"""

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

import numpy as np

from data_scripts.contact_sheet import write_contact_sheet
from data_scripts.crops import Look, estimator
from data_scripts.jobs import REJECTED, gather, make_each, make_parts, write_table
from data_scripts.options import positive
from data_scripts.output import whole_folder
from data_scripts.photo_copies import NEAR_DUPLICATE, called_alike, merge_copies
from data_scripts.photo_folder import Settings, assign_splits, prepare_photo, silhouette_model, try_networks
from data_scripts.photo_names import Item, list_items
from data_scripts.sources import safe_name
from lib.data.embeddings import embed_dataset, make_embedder, read_embeddings
from lib.data.neighbors import find_neighbors, save_neighbors
from lib.data.normals import CONVENTIONS, NORMALS
from lib.data.prepared import read_prepared, write_metadata
from lib.data.silhouettes import U2NETP
from lib.errors import STOPPED, InputError, exit_code

SPLITS = ("train", "val", "test")
DUPLICATES = "duplicates.csv"
CHUNK = 16  # photos that one worker does at a time
CHECKS = ("all_foreground", "large", "small", "truncated", "several_parts")  # without an object there is no crop


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: prepare(options), f"error: {STOPPED}")


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
    """Make the prepared folder that the options ask for."""
    settings, items = plan(options)
    jobs = {f"{start // CHUNK:06d}": items[start : start + CHUNK] for start in range(0, len(items), CHUNK)}
    with whole_folder(options.output, work_note(settings, items), options.folder, options.masks) as folder:
        make = partial(make_each, make=partial(prepare_photo, settings=settings))
        parts = make_parts(jobs, make, folder, options.workers, "photo", processes=True)
        rows, rejected = gather(parts, options.output, f"{len(items)} files")
        write_table(folder / REJECTED, ("file", "reason"), rejected)
        signatures = np.stack([np.frombuffer(bytes.fromhex(row.pop("signature")), np.uint8) for row in rows])
        rows, copies = merge_copies(signatures, rows, options.near_duplicate)
        copies = called_alike(items, rows) + copies
        file_of = {item.id: item.source for item in items}
        listed = ([file_of[name], name, reason] for name, reason in copies)
        write_table(folder / DUPLICATES, ("file", "id", "reason"), listed)
        write_metadata(folder, assign_splits(rows, options.split, options.seed), describe(options, settings))
        if options.embedding != "none":
            add_neighbors(folder, options)
        write_contact_sheet(folder, options.embedding, rejected)
    print(f"{len(rows)} samples in {options.output}, {len(rejected)} files rejected ({REJECTED})")
    if copies:
        print(f"{len({name for name, _ in copies})} samples are called like others or copies of others ({DUPLICATES})")
    print(f"look at {options.output / 'contact_sheet' / 'index.html'}")


def plan(options: argparse.Namespace) -> tuple[Settings, list[Item]]:
    """What is to be done, checked as far as it can be before anything is decoded."""
    if options.masks and not options.masks.is_dir():
        raise InputError(f"There is no folder of masks {options.masks}; leave --masks out to have them guessed.")
    if options.category and options.category != safe_name(options.category):
        raise InputError(f"--category {options.category!r} cannot name a folder; take "
                         f"{safe_name(options.category)!r}, for example.")  # fmt: skip
    folder = options.folder.resolve()
    items = list_items(folder, options.category, options.model_separator)[: options.limit]
    masks = str(options.masks.resolve()) if options.masks else ""
    settings = Settings(str(folder), masks, Look.of(options), str(options.silhouettes), options.allow)
    try_networks(settings)
    if options.embedding != "none":
        _embedder(options)
    return settings, items


def work_note(settings: Settings, items: list[Item]) -> dict:
    """All that the work depends on; sizes and times of the files, too, since a photo can change."""
    stamps = []
    for item in items:
        try:
            status = (Path(settings.folder) / item.source).stat()
            stamps.append([status.st_size, status.st_mtime_ns])
        except OSError:  # a link that leads nowhere; it will be rejected
            stamps.append([])
    photos = [[asdict(item), stamp] for item, stamp in zip(items, stamps, strict=True)]
    return {**asdict(settings), "photos": photos}


def add_neighbors(folder: Path, options: argparse.Namespace) -> None:
    """Embed the samples and write the neighbours of each among other models of its split and category."""
    name, table = options.embedding, read_prepared(folder).metadata
    embed_dataset(folder, _embedder(options))
    embeddings = read_embeddings(folder, name)
    groups = (table["split"] + " " + table["category"]).to_numpy()
    models = table["model"].to_numpy()
    found = find_neighbors(embeddings.vectors, options.count, groups=groups, exclude=models, fill=True)
    save_neighbors(folder / "neighbors" / f"{name}.parquet", table["id"], found, name, embeddings.checksum)
    short = table[(found.index < 0).any(dim=1).numpy()]
    if len(short):
        places = sorted(set(zip(short["category"], short["split"], strict=True)))
        where = ", ".join(f"{category} ({split})" for category, split in places)
        what = "a training does not need those"  # it reads the neighbours of its own split only
        if "train" in set(short["split"]):
            what = "train with --categories that have enough, or prepare with a smaller --count"
        print(f"note: {len(short)} samples have fewer than {options.count} neighbours: too few photos of other objects "
              f"in {where}; {what}", file=sys.stderr)  # fmt: skip


def describe(options: argparse.Namespace, settings: Settings) -> dict:
    """What ``dataset.json`` says of the data."""
    silhouettes, normals = silhouette_model(settings.silhouettes), estimator(settings.look.normals, options.convention)
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
    return make_embedder(options.embedding, options.weights, options.allow_download)


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


if __name__ == "__main__":
    sys.exit(main())
