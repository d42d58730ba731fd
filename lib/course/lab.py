"""JupyterLab on working copies of the notebooks, so that nobody's edits are lost and the checkout stays clean."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.course.build import read_source, write_notebook
from lib.course.editions import student
from lib.files import read_json, sha256, write_json
from lib.paths import NOTEBOOKS, REPOSITORY

WORK = REPOSITORY / "work"
MADE_FROM = ".made-from.json"  # copy -> checksums of the course's notebook and of the copy when it was made
UPLOAD_BYTES = 100 * 2**20  # a phone's photo has 10 MB; tornado's own limit is less than that once it is encoded


def working_copies(
    folder: Path = NOTEBOOKS, work: Path = WORK, students: bool = False, update: bool = False
) -> list[str]:
    """Copy notebooks that are not in the working folder yet; gives a sentence about each that is behind the course.

    Nothing of the reader's is ever overwritten. With `update`, a copy that the reader has not changed is replaced where
    the course has a newer notebook; beside one that was changed the newer one is put as ``NAME.new.ipynb``,
    or ``NAME.new2.ipynb`` and so on where that is there already.

    Parameters
    ----------
    students : bool
        Copies are of the students' edition, with exercises to solve.
    """
    record, sentences = work / MADE_FROM, []
    made = read_json(record) if record.is_file() else {}
    for notebook in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        source = folder / "src" / f"{notebook.stem}.py"  # not in the students' zip, whose notebooks have stubs already
        origin = source if students and source.is_file() else notebook
        copy, now = work / notebook.name, sha256(origin)
        known = made.get(copy.name, {})
        if copy.is_file() and known.get("origin") == now:
            continue
        target = copy
        if copy.is_file():
            untouched = known.get("copy") == sha256(copy)
            if not update:
                sentences.append(f"{copy.name}: the course has a newer one (make lab UPDATE=1)")
                continue
            if not untouched:
                target = _free_name(copy)
                sentences.append(f"{copy.name}: yours is kept; the newer one is {target.name} beside it")
        work.mkdir(parents=True, exist_ok=True)
        if origin == source:
            write_notebook(student(read_source(origin)), target)
        else:
            shutil.copyfile(origin, target)
        made[copy.name] = {"origin": now, "copy": sha256(target)}
    write_json(record, made)
    return sentences


def _free_name(copy: Path) -> Path:
    """A name for a newer notebook beside the reader's copy, such that nothing is overwritten."""
    target, number = copy.with_suffix(".new.ipynb"), 2
    while target.exists():
        target, number = copy.with_suffix(f".new{number}.ipynb"), number + 1
    return target


def lab_command(work: Path) -> tuple[list[str], dict[str, str]]:
    """How JupyterLab is started on the working copies, with the whole repository to look at: command, environment."""
    paths = [str(NOTEBOOKS), os.environ.get("PYTHONPATH", "")]  # for `support`
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={REPOSITORY}"]
    command += [f"--LabApp.default_url=/lab/tree/{work.relative_to(REPOSITORY).as_posix()}/00_start_here.ipynb"]
    command += [f"--ServerApp.tornado_settings={{'websocket_max_message_size': {UPLOAD_BYTES}}}"]
    # nothing asks the network: no news, no newer versions
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    if getattr(os, "geteuid", lambda: 1)() == 0:
        command.append("--allow-root")  # in a container; JupyterLab asks for it
    return command, environment


def open_lab(work: Path, options: Sequence[str] = ()) -> int:
    """Start JupyterLab on the working copies; gives its exit code."""
    command, environment = lab_command(work)
    return subprocess.run([*command, *options], env=environment, check=False).returncode
