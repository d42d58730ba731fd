"""Build ``notebooks/NN_slug.ipynb`` from ``notebooks/src/NN_slug.py``: one way, the same bytes every time."""

import difflib
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from lib.course.outputs import (
    BUILT,
    clear_outputs,
    for_readers,
    is_heading,
    keep_committed_metadata,
    keep_committed_outputs,
    tags,
)
from lib.errors import InputError
from lib.files import write_atomically
from lib.paths import NOTEBOOKS

VALID_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


def slugify(text: str) -> str:
    """Turn a heading into a cell id: ``"What β does"`` -> ``"what-does"``.

    >>> slugify("Draw *one* ray")
    'draw-one-ray'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or "cell"


def read_source(path: Path, instructor: bool = False) -> NotebookNode:
    """Read a jupytext percent file as a notebook without outputs, every cell with a slug for an id.

    Cells tagged ``instructor`` are kept only where that is asked for.

    Raises
    ------
    InputError
        Where the file is not text in UTF-8, has no cells, or gives one slug twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it as UTF-8") from None
    notebook = jupytext.reads(text, fmt="py:percent")
    if not notebook.cells:
        raise InputError(f"{path} has no cells: begin each with a line '# %%' or '# %% [markdown]'")
    _set_ids(notebook, path.stem)
    notebook = notebook if instructor else for_readers(notebook)
    keep_committed_outputs(notebook, path.stem)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _set_ids(notebook: NotebookNode, name: str) -> None:
    """A cell's id is its slug; else its heading, or the heading above it, numbered where it is taken."""
    section, used = "start", set()
    for cell in notebook.cells:
        if "incorrectly_encoded_metadata" in cell.metadata:
            header = cell.metadata["incorrectly_encoded_metadata"]
            raise InputError(
                f"{name}: cannot read the cell header '# %% {header}': write '# %% [markdown] key=\"value\"'"
            )
        given = cell.metadata.get("slug")
        if is_heading(cell):
            section = slugify(cell.source.lstrip().splitlines()[0])
        if given and not VALID_ID.fullmatch(given):
            raise InputError(f"{name}: cell slug '{given}' must be lower-case letters, digits and hyphens, at most 60")
        if given in used:
            raise InputError(f"{name}: two cells have the id '{given}': give one of them another slug")
        if given:
            cell.id = given
        elif "parameters" in tags(cell):
            cell.id = "parameters"
        else:
            cell.id = section if is_heading(cell) else f"{section}-{'code' if cell.cell_type == 'code' else 'text'}"
        base, count = cell.id, 1
        while cell.id in used:
            count += 1
            cell.id = f"{base}-{count}"
        used.add(cell.id)


def build(source: Path, stored: Path | None = None) -> tuple[NotebookNode, list[str]]:
    """Build one notebook; also what to tell the author.

    A code cell takes over the outputs of the cell of `stored` that has the same source.
    """
    notebook = read_source(source)
    if stored is not None and stored.is_file():
        known = {cell.source: cell for cell in read_notebook(stored).cells if cell.cell_type == "code"}
        for cell in notebook.cells:
            if cell.cell_type == "code" and cell.source in known:
                old = known[cell.source]
                cell.outputs, cell.execution_count = old.outputs, old.execution_count
    notes = keep_committed_outputs(notebook, source.stem)
    notebook.metadata[BUILT] = NotebookNode({"cells": _checksum(notebook)})
    return notebook, notes


def _checksum(notebook: NotebookNode) -> str:
    """Of what the cells say, not of what they show."""
    cells = json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells])
    return hashlib.sha256(cells.encode()).hexdigest()[:16]


def check_not_edited(path: Path) -> None:
    """A built notebook whose cells somebody changed by hand must not be overwritten without a word.

    Raises
    ------
    InputError
        Its cells are not those that were built.
    """
    if not path.is_file():
        return
    notebook = read_notebook(path)
    built = notebook.metadata.get(BUILT, {}).get("cells")
    if built is not None and built != _checksum(notebook):
        raise InputError(
            f"{path.name} was edited after it was built, and building would undo that: write the change into "
            f"src/{path.stem}.py (work in 'make lab' next time), delete {path.name}, and build again"
        )


def read_notebook(path: Path) -> NotebookNode:
    """Read an .ipynb; `InputError` where it is missing or not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise InputError(f"there is no notebook {path}: 'make notebooks' builds it") from None
    except (ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError) as error:
        raise InputError(f"{path} is not a notebook ({type(error).__name__}): build it with 'make notebooks'") from None


def write_notebook(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook whole or not at all; tell whether the file changed."""
    text = nbformat.writes(notebook, indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return True


def sources(folder: Path = NOTEBOOKS, names: Sequence[str] = ()) -> list[Path]:
    """List the sources in course order, or those whose names begin as asked; `InputError` for an unknown name."""
    return choose(sorted((folder / "src").glob("[0-9][0-9]_*.py")), names, folder / "src")


def choose(paths: Sequence[Path], names: Sequence[str], folder: Path) -> list[Path]:
    """Keep the paths whose stem is, or begins with, one of `names` ("06" means 06_train); all for no names."""
    if not names:
        return list(paths)
    for name in names:
        if not any(path.stem.startswith(Path(name).stem) for path in paths):
            known = ", ".join(path.stem for path in paths) or "none"
            raise InputError(f"there is no notebook '{name}' in {folder}: there are {known}")
    return [path for path in paths if any(path.stem.startswith(Path(name).stem) for name in names)]


def differences(folder: Path = NOTEBOOKS, names: Sequence[str] = ()) -> list[str]:
    """Say, one sentence each, where a committed notebook is not what its source and its stored outputs build."""
    found = []
    for source in sources(folder, names):
        committed = folder / f"{source.stem}.ipynb"
        if not committed.is_file():
            found.append(f"{committed.name} is not built: run 'make notebooks'")
            continue
        old, new = read_notebook(committed), build(source, committed)[0]
        odd = sorted({"papermill", "widgets"} & set(old.metadata))  # with these it does not render on the web
        found += [f"{committed.name} has metadata of {key}: run 'make notebooks'" for key in odd]
        keep_committed_metadata(old)  # but opening and saving in JupyterLab is no difference
        changed = _changed_lines(nbformat.writes(old, indent=1), nbformat.writes(new, indent=1))
        if changed:
            for notebook in (old, new):  # what the source says is more telling than what a cell shows
                clear_outputs(notebook)
                notebook.metadata.pop(BUILT, None)
            telling = _changed_lines(nbformat.writes(old, indent=1), nbformat.writes(new, indent=1))
            line = max(telling or changed, key=len)
            found.append(f"{committed.name} differs from its source at {line[:200]!r}: run 'make notebooks'")
    stems = {source.stem for source in sources(folder)}
    orphans = [path.name for path in sorted(folder.glob("*.ipynb")) if path.stem not in stems]
    return found + [f"{name} has no source in notebooks/src" for name in orphans]


def _changed_lines(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in list(lines)[2:] if line[0] in "+-"]
