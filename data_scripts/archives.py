"""Unpack zip archives without ever writing outside the folder that was asked for; say whether a download is whole."""

import gzip
import hashlib
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NoReturn

from tqdm import tqdm

from lib.errors import InputError

SUFFIXES = (".zip", ".tar", ".tgz", ".gz")
CHUNK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Checksum:
    """What somebody recorded of an archive.

    Attributes
    ----------
    algorithm, digest : str
        As `hashlib` knows them, the digest in hexadecimal digits.
    recorder : str
        Who says so: "X" in the words "as X recorded it".
    """

    algorithm: str
    digest: str
    recorder: str


def safe_member_path(folder: Path, name: str) -> Path:
    """Where an archive member belongs under ``folder``; refused if it would be elsewhere, also on Windows."""
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or (member.parts and ":" in member.parts[0]):
        raise InputError(f"The archive member {name!r} would be written outside its folder; do not use this archive.")
    return folder.joinpath(*member.parts)


def extract(archive: Path, folder: Path, prefix: str = "") -> None:
    """Extract the members of a zip archive whose names start with ``prefix``, but no links: they can point anywhere."""
    try:
        with zipfile.ZipFile(archive) as source:
            # all names before the first file: a bad archive leaves nothing behind
            members = [(info, safe_member_path(folder, info.filename)) for info in source.infolist()]
            for info, target in members:
                if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16) or not info.filename.startswith(prefix):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read(info))
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"The archive {archive} is damaged or no zip file ({error}); fetch it again.") from error


def refuse_archive(path: Path, checksums: Mapping[str, Checksum]) -> NoReturn:
    """Say of an archive that was given instead of the folder in it whether it is whole, and what to do."""
    known = checksums.get(path.name)
    if known and digest_of(path, known.algorithm) == known.digest:
        raise InputError(f"{path} is an archive, whole by its {known.algorithm} as {known.recorder} recorded it; "
                         "unpack it and give the folder.")  # fmt: skip
    if not is_whole(path):
        raise InputError(f"{path} is an archive; it is damaged or half downloaded: fetch it again.")
    if known:
        raise InputError(f"{path} is an archive that can be read to its end, but its {known.algorithm} is not "
                         f"{known.digest}, as {known.recorder} recorded it; fetch it again, or unpack it if it is "
                         "another release, and give the folder.")  # fmt: skip
    raise InputError(f"{path} is an archive; unpack it and give the folder.")


def digest_of(path: Path, algorithm: str) -> str:
    """Checksum of a file in hexadecimal digits; large ones take minutes, so a terminal shows how far it is."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    bar = tqdm(total=path.stat().st_size, unit="B", unit_scale=True, desc=algorithm, disable=None, leave=False)
    with path.open("rb") as file, bar:
        while piece := file.read(CHUNK):
            digest.update(piece)
            bar.update(len(piece))
    return digest.hexdigest()


def is_whole(path: Path) -> bool:
    """Whether an archive has its end: a zip its table of contents, a tar its last blocks, a gz its checksum."""
    try:
        if path.stat().st_size == 0:
            return False
        if path.suffix == ".zip":
            return zipfile.is_zipfile(path)  # the table of contents is at the end
        if path.suffix == ".gz" and Path(path.stem).suffix != ".tar":
            with gzip.open(path) as stream:
                return _read_to_end(stream)
        with tarfile.open(path) as archive:
            for _ in archive:
                pass  # reads every header, and stops without a word where one is cut or damaged
            archive.fileobj.seek(archive.offset)
            ended = archive.fileobj.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
            return ended and _read_to_end(archive.fileobj)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError):
        return False


def _read_to_end(stream) -> bool:
    while stream.read(CHUNK):
        pass
    return True
