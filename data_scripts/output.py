"""The folder that a script makes: checked before any work, built in ``<output>.partial``, put in its place at the end.

Nothing is ever deleted but a prepared folder that is replaced; whatever else is in the way is refused.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lib.data.prepared import INFO, METADATA
from lib.errors import UNWRITABLE, InputError
from lib.files import write_atomically

NOTE = Path("parts") / "run.txt"  # in unfinished work: the settings it was begun with
REPLACED = "replaced"  # where the older folder waits until the new one is in its place
LONGEST = 60  # characters of a setting that a sentence can show


@contextmanager
def whole_folder(output: Path, settings: Mapping[str, Any], *sources: Path | None) -> Iterator[Path]:
    """A folder to work in. When the block ends it takes the place of ``output``, without its ``parts``.

    An interrupted run of the same settings goes on where it was. Parameters as in `check_output` and `take_up`.
    """
    check_output(output, *sources)
    with going_on(output):
        folder = partial_of(output)
        take_up(folder, settings)
        yield folder
        publish(folder, output)
        shutil.rmtree(output / NOTE.parent)  # the last thing, so that a stop before it costs no work


def partial_of(output: Path) -> Path:
    """Where the unfinished work for an output is kept: beside it, also where ``output`` is "." or a link."""
    place = output.resolve()
    return place.with_name(place.name + ".partial")


def check_output(output: Path, *sources: Path | None, holds: tuple[str, ...] = (INFO, METADATA)) -> None:
    """Refuse, before any work, an output where something of the user's is or whose unfinished work is not ours.

    Parameters
    ----------
    sources : paths or None
        Files and folders that are read: the output may not be, hold or be inside one of them.
    holds : tuple of str
        Files that an older output has: such a folder is replaced.
    """
    place = output.resolve()
    for source in (source.resolve() for source in sources if source):
        if place == source or place in source.parents or source in place.parents:
            how = "is" if place == source else "holds" if place in source.parents else "lies in"
            raise InputError(f"The output {output} {how} the source {source}; choose a place outside.")
    if place in (Path.cwd(), *Path.cwd().parents):  # the renames at the end would take it from under our feet
        raise InputError(
            f"The output {output} is or holds the current folder; choose another one, such as {output}/new."
        )
    _check_replaceable(output, holds)
    work = partial_of(output)
    if os.path.lexists(work) and _foreign(work):
        raise InputError(f"{work} is in the way: it is no unfinished work of this script; rename it or choose another "
                         "output.")  # fmt: skip


def take_up(folder: Path, settings: Mapping[str, Any]) -> None:
    """Go on in the folder of an interrupted run of the same settings, or begin where there is none.

    Unfinished work with other settings is refused and kept.

    Parameters
    ----------
    folder : path
        Where unfinished work is kept.
    settings : mapping
        All that the work depends on, as JSON has it; kept in `NOTE`. Lists are called "other" when they differ.
    """
    note, wanted = folder / NOTE, json.loads(json.dumps(settings))
    if not note.is_file():
        write_atomically(note, lambda path: path.write_text(json.dumps(wanted), encoding="utf-8"))
        return
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != wanted:
        raise InputError(f"{folder} holds unfinished work with {_difference(found, wanted)}: give the old settings "
                         "to go on with it, choose another output, or remove that folder to begin anew.")  # fmt: skip


def publish(partial: Path, output: Path) -> None:
    """Put a finished folder in its place; an older prepared folder there is replaced by two renames."""
    _check_replaceable(output)
    place, old = output.resolve(), partial / REPLACED
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
        place.rename(old)  # inside our own folder, so that no name beside the output is ever overwritten
    partial.rename(place)
    shutil.rmtree(place / REPLACED, ignore_errors=True)


@contextmanager
def going_on(output: Path) -> Iterator[None]:
    """Say in one sentence that a disk or a worker stopped the work on an output, and that the same command goes on."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        what = f" ({error.filename})" if error.filename else ""
        raise InputError(f"{output} cannot be made: {error.strerror}{what}; repair that, and the same command goes on "
                         "where this one was.") from error  # fmt: skip
    except BrokenProcessPool as error:
        raise InputError("A worker died, perhaps for want of memory; the same command goes on, with less of it if "
                         "you add --workers 1.") from error  # fmt: skip


def _check_replaceable(output: Path, holds: tuple[str, ...] = (INFO, METADATA)) -> None:
    """Nothing, an empty folder, or a folder with the files of an older output."""
    place = output.resolve()
    if not place.exists():
        return
    if not place.is_dir():
        raise InputError(f"The output {output} is a file; choose a folder that is not there yet.")
    if os.path.ismount(place):
        raise InputError(f"The output {output} is a whole disk, which cannot be replaced; choose a folder on it.")
    lacking = [name for name in holds if not (place / name).is_file()]
    if lacking and (inside := sorted(place.iterdir())):
        raise InputError(f"The output {output} holds {inside[0].name!r} but no {lacking[0]}, so it is not replaced; "
                         "choose a folder that is empty or not there yet.")  # fmt: skip


def _foreign(work: Path) -> bool:
    """Whether unfinished work lacks the note that ours begins with; without any file it is nobody's."""
    if work.is_symlink() or not work.is_dir():
        return True
    begun = work / NOTE.with_name(NOTE.name + ".tmp")  # a kill can leave the note's first name
    return not (work / NOTE).is_file() and any(not path.is_dir() and path != begun for path in work.rglob("*"))


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """The first setting that differs, in words."""
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        return "other settings"
    name = next(name for name in wanted if found[name] != wanted[name])
    old, new = found[name], wanted[name]
    if any(isinstance(value, list | dict) or len(str(value)) > LONGEST for value in (old, new)):
        return f"other {name}"
    return f"{name} {old!r} instead of {new!r}"
