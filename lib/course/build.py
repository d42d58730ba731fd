"""Build ``notebooks/NN_slug.ipynb`` from ``notebooks/src/NN_slug.py``: one way, the same bytes every time."""

import copy
import difflib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from lib.course.outputs import clear_outputs, is_heading, keep_committed_outputs, tags
from lib.errors import InputError
from lib.paths import NOTEBOOKS

VALID_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")


def slugify(text: str) -> str:
    """Turn a heading into a cell id: ``"What β does"`` -> ``"what-does"``.

    >>> slugify("Draw *one* ray")
    'draw-one-ray'
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:50].strip("-") or "cell"


def read_source(path: Path) -> NotebookNode:
    """Read a jupytext percent file as a notebook without outputs, every cell with a slug for an id.

    Raises
    ------
    InputError
        Where the file is not text in UTF-8, has no cells, or gives one slug twice.
    """
    import jupytext

    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8: save it as UTF-8") from None
    notebook = jupytext.reads(text, fmt="py:percent")
    if not notebook.cells:
        raise InputError(f"{path} has no cells: begin each with a line '# %%' or '# %% [markdown]'")
    _set_ids(notebook, path.stem)
    keep_committed_outputs(notebook, path.stem)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _set_ids(notebook: NotebookNode, name: str) -> None:
    section, used = "start", set()
    for cell in notebook.cells:
        if "incorrectly_encoded_metadata" in cell.metadata:
            header = cell.metadata["incorrectly_encoded_metadata"]
            raise InputError(
                f"{name}: cannot read the cell header '# %% {header}': write '# %% [markdown] key=\"value\"'"
            )
        given = cell.metadata.get("slug") or cell.metadata.get("id")
        if is_heading(cell):
            section = slugify(cell.source.lstrip().splitlines()[0])
        cell.id = _checked_slug(given, used, name) if given else _free(_derived_id(cell, section), used)
        used.add(cell.id)


def _checked_slug(slug: str, used: set[str], name: str) -> str:
    if not VALID_ID.fullmatch(slug):
        raise InputError(f"{name}: cell slug '{slug}' must be lower-case letters, digits and hyphens, at most 60")
    if slug in used:
        raise InputError(f"{name}: two cells have the id '{slug}': give one of them another slug")
    return slug


def _derived_id(cell: NotebookNode, section: str) -> str:
    if "parameters" in tags(cell):
        return "parameters"
    if cell.metadata.get("title"):
        return slugify(cell.metadata["title"])
    if is_heading(cell):
        return section
    return f"{section}-{'code' if cell.cell_type == 'code' else 'text'}"


def _free(slug: str, used: set[str]) -> str:
    count = 1
    candidate = slug
    while candidate in used:
        count += 1
        candidate = f"{slug}-{count}"
    return candidate


def carry_outputs(notebook: NotebookNode, stored: NotebookNode) -> None:
    """Give each code cell the outputs of the stored cell with the same id and the same source, in place."""
    known = {cell.get("id"): cell for cell in stored.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        old = known.get(cell.id)
        if cell.cell_type == "code" and old is not None and old.source == cell.source:
            cell.outputs, cell.execution_count = old.outputs, old.execution_count


def build(source: Path, stored: Path | None = None) -> tuple[NotebookNode, list[str]]:
    """Build one notebook, with the outputs of `stored` where a cell has not changed; also what to tell the author."""
    notebook = read_source(source)
    if stored is not None and stored.is_file():
        carry_outputs(notebook, read_notebook(stored))
    return notebook, keep_committed_outputs(notebook, source.stem)


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
    temporary = path.with_suffix(".ipynb.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
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
    """Say, one sentence each, where the committed notebooks are not what their sources build.

    Outputs may differ, but must be ones that the builder would keep.
    """
    found = [_difference(source, folder / f"{source.stem}.ipynb") for source in sources(folder, names)]
    stems = {source.stem for source in sources(folder)}
    orphans = [path.name for path in sorted(folder.glob("*.ipynb")) if path.stem not in stems]
    return [one for one in found if one] + [f"{name} has no source in notebooks/src" for name in orphans]


def _difference(source: Path, committed: Path) -> str:
    if not committed.is_file():
        return f"{committed.name} is not built: run 'make notebooks'"
    stored = read_notebook(committed)
    stripped = copy.deepcopy(stored)
    keep_committed_outputs(stripped, source.stem)
    if nbformat.writes(stripped) != nbformat.writes(stored):
        return f"{committed.name} holds outputs or metadata that are not committed: run 'make notebooks'"
    built = read_source(source)
    clear_outputs(stored)
    old, new = nbformat.writes(stored).splitlines(), nbformat.writes(built).splitlines()
    changed = [line for line in list(difflib.unified_diff(old, new, n=0, lineterm=""))[2:] if line[0] in "+-"]
    return f"{committed.name} differs from its source at {changed[0]!r}: run 'make notebooks'" if changed else ""
