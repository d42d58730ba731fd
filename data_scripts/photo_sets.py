"""A published collection of photographs -> a prepared folder: what ETH-80 and CompCars have in common.

Photos are cut out model by model; the rows of a finished model lie in ``parts/``, so an interrupted run goes on. What
cannot be used is listed in ``rejected.csv`` with the reason, and the rest goes on.
"""

import argparse
import csv
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from data_scripts.options import positive
from lib.data.images import crop_to_mask
from lib.data.photos_reading import read_photo_file
from lib.data.prepared import publish, write_metadata
from lib.errors import InputError

MARGIN = 1.2
SHARES = {"test": 0.2, "val": 0.1}  # of the models of a category; the rest is for training
FULL = 16_384  # pixels: photos of a collection are not reduced before they are cut out
REJECTED = "rejected.csv"


@dataclass(frozen=True)
class Photo:
    """One photo of a collection: the columns of its row that are known before it is opened, and its file.

    Attributes
    ----------
    about : mapping
        Further columns of `lib.data.prepared.COLUMNS`.
    mask : Path, optional
        Of a mask that comes with the collection.
    """

    id: str
    category: str
    model: str
    image: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    mask: Path | None = None


MaskOf = Callable[[Photo, UInt8[np.ndarray, "height width 3"]], UInt8[np.ndarray, "height width"]]


def prepare_photo_set(
    photos: list[Photo],
    mask_of: MaskOf,
    options: argparse.Namespace,
    info: dict[str, Any],
    strays: Iterable[tuple[Path, str]] = (),
) -> None:
    """Make the prepared folder ``options.output`` of images with ``options.image_size`` pixels a side.

    Parameters
    ----------
    mask_of : callable
        Photo and its upright colours -> opacities of the object; raises InputError if there is none.
    info : dict
        name, source, licence and version; whatever else changes the result belongs here too.
    strays : pairs of Path and str
        Files that are no photos of the collection, each with the reason, for ``rejected.csv``.

    Raises
    ------
    InputError
        If not one photo can be used.
    """
    work = options.output.with_name(options.output.name + ".partial")
    groups, rejected = _by_model(photos)
    rejected += [[str(path), reason] for path, reason in strays]
    _open_work(work, photos, info, options.image_size)
    _cut_out_all(groups, mask_of, work, options)
    parts = [json.loads((work / "parts" / f"{model}.json").read_text()) for model in groups]
    rows = _with_splits([row for part in parts for row in part["rows"]])
    rejected += [bad for part in parts for bad in part["rejected"]]
    if not rows:
        raise InputError(f"None of the {len(photos)} photos can be used; the first: {rejected[0][1]}")
    _write_rejected(work / REJECTED, rejected)
    write_metadata(work, rows, {**info, "image_size": options.image_size})
    shutil.rmtree(work / "parts")  # the last thing, so that a stop before it costs no work
    publish(work, options.output)
    listed = f"; {len(rejected)} rejected, see {REJECTED}" if rejected else ""
    print(f"{len(rows)} photos of {len({row['model'] for row in rows})} models in {options.output}{listed}")


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Options that every collection has: source, output, image size, workers."""
    parser.add_argument("source", type=Path, help="folder of the collection, as it was downloaded and unpacked")
    parser.add_argument("--output", type=Path, required=True, help="prepared folder to make or replace")
    parser.add_argument("--image-size", type=positive, default=128, help="pixels a side (default: %(default)s)")
    parser.add_argument("--workers", type=positive, default=2, help="threads (default: %(default)s)")


def open_upright(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of a photo, upright, in its full size: boxes count its pixels.

    Raises
    ------
    InputError
        See `lib.data.photos_reading.read_photo_file`.
    """
    return read_photo_file(path, FULL).rgb


def open_mask(path: Path) -> UInt8[np.ndarray, "height width"]:
    """A mask as grey levels."""
    return np.asarray(Image.fromarray(open_upright(path)).convert("L"))


def split_of_models(models: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Split of each (category, model): 70/10/20 of each category, the same whatever the order."""
    splits: dict[str, str] = {}
    pairs = sorted(set(models), key=lambda pair: hashlib.sha256("/".join(pair).encode()).digest())
    for category in {category for category, _ in pairs}:
        names = [model for owner, model in pairs if owner == category]
        test, val = (round(SHARES[split] * len(names)) for split in ("test", "val"))
        labels = ["test"] * test + ["val"] * val + ["train"] * (len(names) - test - val)
        splits |= dict(zip(names, labels, strict=True))
    return splits


def with_article(noun: str) -> str:
    """The noun after "a" or "an", by its first letter."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _by_model(photos: list[Photo]) -> tuple[dict[str, list[Photo]], list[list[str]]]:
    groups: dict[str, list[Photo]] = {}
    rejected, seen = [], set()
    for photo in sorted(photos, key=lambda photo: (photo.model, photo.id, str(photo.image))):
        if photo.id in seen:
            rejected.append([str(photo.image), f"a second photo would get the id {photo.id}; rename one of them."])
            continue
        seen.add(photo.id)
        groups.setdefault(photo.model, []).append(photo)
    return groups, rejected


def _open_work(work: Path, photos: list[Photo], info: dict, size: int) -> None:
    """Take up the work of an interrupted run on the same files with the same settings, or begin anew."""
    listed = hashlib.sha256("\n".join(f"{p.id} {p.image} {p.image.stat().st_size}" for p in photos).encode())
    wanted, note = json.dumps([info, size, listed.hexdigest()]), work / "parts" / "run.txt"
    if note.is_file() and note.read_text() == wanted:
        return
    shutil.rmtree(work, ignore_errors=True)
    note.parent.mkdir(parents=True)
    note.write_text(wanted)


def _cut_out_all(groups: dict[str, list[Photo]], mask_of: MaskOf, work: Path, options: argparse.Namespace) -> None:
    todo = {model: group for model, group in groups.items() if not (work / "parts" / f"{model}.json").is_file()}
    total, left = (sum(map(len, some.values())) for some in (groups, todo))
    pool = ThreadPoolExecutor(options.workers)  # decoding, resizing and networks all release the interpreter
    try:
        jobs = {pool.submit(_cut_out, m, g, mask_of, work, options.image_size): len(g) for m, g in todo.items()}
        with tqdm(total=total, initial=total - left, unit="photo") as bar:
            for job in as_completed(jobs):
                job.result()
                bar.update(jobs[job])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cut_out(model: str, group: list[Photo], mask_of: MaskOf, work: Path, size: int) -> None:
    """Cut out the photos of one model; its part is written last, so a model is done or not."""
    rows, rejected = [], []
    for photo in group:
        try:
            rows.append(_cut_out_one(photo, mask_of, work, size))
        except InputError as error:
            rejected.append([str(photo.image), str(error)])
    part = work / "parts" / f"{model}.json"
    part.with_suffix(".tmp").write_text(json.dumps({"rows": rows, "rejected": rejected}))
    part.with_suffix(".tmp").rename(part)


def _cut_out_one(photo: Photo, mask_of: MaskOf, work: Path, size: int) -> dict[str, Any]:
    rgb = open_upright(photo.image)
    colour, mask = crop_to_mask(rgb, mask_of(photo, rgb), MARGIN, size)
    relative = f"images/{photo.category}/{photo.model}/{photo.id}.png"
    (work / relative).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.dstack([colour, mask])).save(work / relative)
    return {"id": photo.id, "category": photo.category, "model": photo.model, "image": relative, **photo.about}


def _with_splits(rows: list[dict]) -> list[dict]:
    splits = split_of_models((row["category"], row["model"]) for row in rows)
    return [{**row, "split": splits[row["model"]]} for row in rows]


def _write_rejected(path: Path, rejected: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([["file", "reason"], *sorted(rejected)])
