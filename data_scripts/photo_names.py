"""Which files are in a folder of photos, and what their samples will be called."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from data_scripts.sources import safe_name
from lib.data.photos_reading import FORMATS
from lib.errors import InputError

DIGITS = 8  # of a checksum, at the end of a name that is not unique otherwise


@dataclass(frozen=True)
class Item:
    """A file of the folder and what its sample will be called.

    Attributes
    ----------
    source : str
        Path below the folder, with forward slashes.
    id, category, model : str
    twin : str
        Another file of the same name but for its ending; empty for none.
    trouble : str
        Why it cannot even be opened: a folder that cannot be listed; empty for files.
    """

    source: str
    id: str = ""
    category: str = ""
    model: str = ""
    twin: str = ""
    trouble: str = ""


def list_items(folder: Path, category: str = "", separator: str = "") -> list[Item]:
    """All files of a folder and the folders in it, but hidden ones, sorted by path; and folders that cannot be read.

    Parameters
    ----------
    category : str
        Of all photos; without it, the name of the folder (in `folder`) that a photo is in, else "photo".
    separator : str
        Photos of one folder whose names agree up to this character show one object; without it, each its own.

    Raises
    ------
    InputError
        The folder is missing, cannot be listed, or is empty.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder with the photos.")
    files, items = _walk(folder)
    if not files and not items:
        raise InputError(f"The folder {folder} holds no files; give the folder with the photos.")
    alike: dict[str, list[str]] = {}
    for file in files:
        alike.setdefault(_plain(file).casefold(), []).append(file)
    for file, name in zip(files, unique_names(files), strict=True):
        path = PurePosixPath(file)
        prefix = path.stem.split(separator)[0] if separator else path.stem
        kind = category or (safe_name(path.parts[0]) if len(path.parts) > 1 else "photo")
        twin = next((other for other in alike[_plain(file).casefold()] if other != file), "")
        items.append(Item(file, name, kind, safe_name("-".join((*path.parts[:-1], prefix))), twin))
    return sorted(items, key=lambda item: item.source)


def unique_names(files: list[str]) -> list[str]:
    """An id of each file, which depends on the names of the files only, not on which of them can be used.

    Path without the ending of an image; where several files would be called so (in any case of letters), with the
    ending; where that is not enough, with digits of a checksum of the path.
    """
    names = [_plain(file) for file in files]
    for longer in (_whole, lambda file: f"{_whole(file)}-{hashlib.sha256(os.fsencode(file)).hexdigest()[:DIGITS]}"):
        count = Counter(name.casefold() for name in names)
        names = [name if count[name.casefold()] == 1 else longer(file) for file, name in zip(files, names, strict=True)]
    return names


def _plain(file: str) -> str:
    """Only endings of images are left off: what a phone puts beside a photo (IMG_1.AAE) must not take its name."""
    path = PurePosixPath(file)
    is_image = Image.registered_extensions().get(path.suffix.lower()) in FORMATS
    return _whole(path.with_suffix("") if is_image else path)


def _whole(file: str | PurePosixPath) -> str:
    return safe_name("-".join(PurePosixPath(file).parts))


def _walk(folder: Path) -> tuple[list[str], list[Item]]:
    """Files, sorted, and an item for each folder that cannot be read."""
    files, unreadable = [], []

    def note(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InputError(f"The folder {folder} cannot be read ({error.strerror}); change its permissions.")
        place = Path(error.filename).relative_to(folder).as_posix()
        reason = f"the folder cannot be read ({error.strerror}); change its permissions"
        unreadable.append(Item(f"{place}/", trouble=reason))

    for place, folders, names in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in names if not name.startswith("."))
        files += [(Path(place) / name).relative_to(folder).as_posix() for name in shown]
    return sorted(files), unreadable
