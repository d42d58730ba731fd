"""What is to be known of a published data set, its command line, and what a user can give instead of it."""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_scripts.archives import SUFFIXES, Checksum, refuse_archive
from data_scripts.options import positive
from lib.data.normals import CONVENTIONS, NORMALS
from lib.errors import InputError


@dataclass(frozen=True)
class Collection:
    """What is to be known of a published data set before it is used.

    Attributes
    ----------
    name, title, citation, licence : str
    where, size : str
        Where it is to be had, and what it weighs.
    checksums : mapping
        Of archives, by the name of the file, where somebody recorded them.
    """

    name: str
    title: str
    citation: str
    licence: str
    where: str
    size: str
    checksums: Mapping[str, Checksum]

    def info(self, **more: Any) -> dict[str, Any]:
        """The entries of ``dataset.json``; whatever else changes the result belongs into ``more``."""
        about = {"name": self.name, "source": self.title, "licence": self.licence, "version": "1.0"}
        return {**about, "citation": self.citation, "where": self.where, **more}

    def how_to_get(self) -> str:
        """Two sentences for ``--help`` and errors."""
        return f"{self.title} is to be had from {self.where} ({self.size}). Licence: {self.licence}."


def collection(name: str) -> Collection:
    """The entry of ``collections.yaml``."""
    about = yaml.safe_load(Path(__file__).with_name("collections.yaml").read_text(encoding="utf-8"))[name]
    checksums = {file: Checksum(*recorded) for file, recorded in about.pop("checksums", {}).items()}
    return Collection(name, **about, checksums=checksums)


def command_line(
    collection: Collection, purpose: str, image_size: int = 128, normals: bool = True, categories: bool = True
) -> argparse.ArgumentParser:
    """A parser with the options that the data sets have in common, whose help says where the data is to be had.

    Parameters
    ----------
    purpose : str
        The script's docstring; its first line is shown.
    normals : bool
        The data set brings no normals, so a network can guess them.
    """
    parser = argparse.ArgumentParser(description=purpose.split("\n")[0], epilog=collection.how_to_get())
    add = parser.add_argument
    add("source", type=Path, help="folder of the data set, as it was downloaded and unpacked")
    add("--output", type=Path, required=True, help="prepared folder to make or replace")
    add("--image-size", type=positive, default=image_size, help="pixels a side (default: %(default)s)")
    add("--workers", type=positive, default=2, help="at a time (default: %(default)s)")
    if normals:
        guess = "guess normals with this network (folder, TorchScript or ONNX), or without one with the shipped one"
        add("--normals", type=Path, nargs="?", const=NORMALS, metavar="NETWORK", help=guess)
        add("--convention", choices=sorted(CONVENTIONS), default="ours", help="how the network writes normals")
    if categories:
        add("--categories", help="comma-separated (default: all)")
    return parser


def check_source(source: Path, needed: Iterable[str], collection: Collection) -> None:
    """Refuse what is not the unpacked data set, and say what is missing and where the data is to be had."""
    if source.is_file() and source.suffix in SUFFIXES:
        refuse_archive(source, collection.checksums)
    if not source.is_dir():
        raise InputError(f"There is no folder {source}. {collection.how_to_get()}")
    for name in needed:
        if not (source / name).exists():
            raise InputError(f"{source} has no {name}: not {collection.title}, or unpacked in part. "
                             f"{collection.how_to_get()}")  # fmt: skip


def check_masks(masks: Path | None) -> None:
    """Refuse a folder of masks that is not there."""
    if masks and not masks.is_dir():
        raise InputError(f"--masks: there is no folder {masks}; make it, or leave the option out.")


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
