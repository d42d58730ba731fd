"""Unpack zip archives without ever writing outside the folder that was asked for."""

import stat
import zipfile
from pathlib import Path, PurePosixPath

from lib.errors import InputError


def safe_member_path(folder: Path, name: str) -> Path:
    """Where an archive member belongs under ``folder``.

    Raises
    ------
    InputError
        If the name is absolute, has a drive letter, or climbs out with ``..``.
    """
    member = PurePosixPath(name.replace("\\", "/"))
    if member.is_absolute() or ".." in member.parts or (member.parts and ":" in member.parts[0]):
        raise InputError(f"The archive member {name!r} would be written outside its folder; do not use this archive.")
    return folder.joinpath(*member.parts)


def extract(archive: Path, folder: Path, prefix: str = "") -> None:
    """Extract the members of a zip archive whose names start with ``prefix``.

    Links are skipped (no catalogue needs them and they can point anywhere).

    Raises
    ------
    InputError
        If the file is no zip archive, is damaged, or has a member that would leave the folder.
    """
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
