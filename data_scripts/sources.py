"""What is to be known of a published data set, its command line, and what a user can give instead of it."""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_scripts.archives import Checksum, is_archive, refuse_archive
from data_scripts.options import positive
from lib.data.normals import CONVENTIONS, NORMALS
from lib.errors import InputError


@dataclass(frozen=True)
class Collection:
    """What is to be known of a published data set before it is used.

    Attributes
    ----------
    name, title, citation, licence : str
    where : str
        Where it is to be had, and how.
    size : str
        What the download weighs.
    checksums : mapping
        Of archives, by the name of the file, where somebody recorded them.
    """

    name: str
    title: str
    citation: str
    licence: str
    where: str
    size: str
    checksums: Mapping[str, Checksum] = field(default_factory=dict)

    def info(self, **more: Any) -> dict[str, Any]:
        """The entries of ``dataset.json``; whatever else changes the result belongs into ``more``."""
        about = {"name": self.name, "source": self.title, "licence": self.licence, "version": "1.0"}
        return {**about, "citation": self.citation, "where": self.where, **more}

    def how_to_get(self) -> str:
        """Two sentences for ``--help`` and errors."""
        return f"{self.title} is to be had from {self.where} ({self.size}). Licence: {self.licence}."


def add_common_options(parser: argparse.ArgumentParser, image_size: int = 128, normals: bool = True) -> None:
    """Options that every data set has: source, output, image size, workers; normals, where it brings none."""
    add = parser.add_argument
    add("source", type=Path, help="folder of the data set, as it was downloaded and unpacked")
    add("--output", type=Path, required=True, help="prepared folder to make or replace")
    add("--image-size", type=positive, default=image_size, help="pixels a side (default: %(default)s)")
    add("--workers", type=positive, default=2, help="at a time (default: %(default)s)")
    if normals:
        guess = "guess normals with this network (folder, TorchScript or ONNX), or without one with the shipped one"
        add("--normals", type=Path, nargs="?", const=NORMALS, metavar="NETWORK", help=guess)
        add("--convention", choices=sorted(CONVENTIONS), default="ours", help="how the network writes normals")


def command_line(
    collection: Collection, purpose: str, image_size: int = 128, normals: bool = True
) -> argparse.ArgumentParser:
    """A parser with the common options and ``--categories``, whose help says where the data is to be had."""
    parser = argparse.ArgumentParser(description=purpose.split("\n")[0], epilog=collection.how_to_get())
    add_common_options(parser, image_size, normals)
    parser.add_argument("--categories", help="comma-separated (default: all)")
    return parser


def check_masks(masks: Path | None) -> None:
    """Refuse a folder of masks that is not there."""
    if masks and not masks.is_dir():
        raise InputError(f"--masks: there is no folder {masks}; make it, or leave the option out.")


def check_source(source: Path, needed: Iterable[str], collection: Collection) -> None:
    """Refuse what is not the unpacked data set, and say what is missing and where the data is to be had."""
    if is_archive(source):
        refuse_archive(source, collection.checksums)
    if not source.is_dir():
        raise InputError(f"There is no folder {source}. {collection.how_to_get()}")
    for name in needed:
        if not (source / name).exists():
            raise InputError(f"{source} has no {name}: not {collection.title}, or unpacked in part. "
                             f"{collection.how_to_get()}")  # fmt: skip


def chosen(categories: str | None, known: Iterable[str]) -> list[str]:
    """The categories that ``--categories`` names, all that are known without it."""
    known = sorted(set(known))
    names = [name.strip() for name in categories.split(",") if name.strip()] if categories else known
    for name in names:
        if name not in known:
            raise InputError(f"There is no category {name!r} here; --categories takes {', '.join(known) or 'none'}.")
    return names


def read_json_of(path: Path, collection: Collection) -> Any:
    """The content of a JSON file of a data set."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged or half downloaded (no JSON); fetch {collection.title} again.") from error


def safe_name(text: str) -> str:
    """Letters, digits, point, dash and underscore: a name for files."""
    return re.sub(r"[^\w.-]+", "_", text).strip(".") or "_"
