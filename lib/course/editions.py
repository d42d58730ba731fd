"""Editions of a notebook from its one source: solutions (what is committed), students', instructors', nbgrader's.

An exercise is a code cell tagged ``exercise``. What the reader shall write stands in it between the lines
``# BEGIN SOLUTION`` and ``# END SOLUTION``; the next cell, tagged ``check``, holds it against the truth
(`notebooks/support/check.py`). A cell tagged ``instructor`` is in the instructors' edition only.
"""

import re
import zipfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from lib.course.build import read_notebook, read_source, sources, write_notebook
from lib.course.outputs import KEY_FIGURE, RESULTS, clear_outputs, for_readers, tags
from lib.errors import InputError
from lib.paths import NOTEBOOKS, REPOSITORY

EXERCISE, CHECK = "exercise", "check"
REGION = re.compile(r"^( *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION\n?", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"<details>.*?</details>|```.*?```", re.DOTALL)
STUB = 'raise NotImplementedError("write this, then run the next cell")'
# what the students' notebooks need to run without network, besides the packages of pyproject.toml
NEEDED = ("lib", "notebooks/support", "pyproject.toml", "constraints.txt", "environment.yml", "Makefile", "LICENSE")
MOST_MEGABYTES = 80


def student(notebook: NotebookNode) -> NotebookNode:
    """Solutions become stubs; outputs are left out, because they would give answers and predictions away.

    Raises
    ------
    InputError
        An exercise without a solution, a mark without its partner, or an exercise that no check follows.
    """
    edition = deepcopy(for_readers(notebook))
    clear_outputs(edition)
    code = [cell for cell in edition.cells if cell.cell_type == "code"]
    for cell, following in zip(code, [*code[1:], None], strict=True):
        if EXERCISE in tags(cell):
            cell.source, count = REGION.subn(lambda match: f"{match[1]}{STUB}\n", cell.source)
            if count == 0 or "SOLUTION" in cell.source:
                raise InputError(
                    f"exercise '{cell.id}' needs '# BEGIN SOLUTION' and '# END SOLUTION' around its answer"
                )
            if following is None or CHECK not in tags(following):
                raise InputError(f"exercise '{cell.id}' has no check: let a cell tagged 'check' follow it")
        elif "SOLUTION" in cell.source:
            raise InputError(f"cell '{cell.id}' has a solution and is no exercise: tag it 'exercise'")
    return edition


def slides(notebook: NotebookNode) -> NotebookNode:
    """A slide for each section, and below it one for each of its pictures and results (``nbconvert --to slides``).

    The section's slide has the heading, formulas, predictions and names of exercises; where there are none, the first
    picture, or the first paragraph. Folded answers and code are left out.
    """
    edition, chosen = deepcopy(for_readers(notebook)), []
    for number, (heading, blocks, shown) in enumerate(sections_of(edition)):
        told = [block for block in blocks if block.startswith(("$$", "**Predict", "### "))]
        if not told and not shown:
            told = blocks[:1]
        cell = new_markdown_cell("\n\n".join([heading, *told]), id=f"slide-{number}")
        cell.metadata["slideshow"] = {"slide_type": "slide"}
        for place, picture in enumerate(shown):
            picture.metadata["slideshow"] = {"slide_type": "subslide" if told or place else "-"}
            picture.metadata["transient"] = {"remove_source": True}
        chosen += [cell, *shown]
    edition.cells = chosen
    return edition


def shown_types(cell: NotebookNode) -> set[str]:
    """The kinds of what a cell shows, as MIME types."""
    return {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}


def sections_of(notebook: NotebookNode) -> list[tuple[str, list[str], list[NotebookNode]]]:
    """Each section's heading, its paragraphs but for what is folded away, and its cells with pictures or tables."""
    found: list[tuple[str, list[str], list[NotebookNode]]] = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for block in re.split(r"\n\s*\n", FOLDED.sub("", cell.source)):
                first, _, rest = block.strip().partition("\n")
                if first.startswith(("# ", "## ")):
                    found.append((first, [], []))
                    block = rest
                if found and block.strip():
                    found[-1][1].append(block.strip())
        elif found and ({KEY_FIGURE, RESULTS} & set(tags(cell)) or {"image/png", "text/html"} & shown_types(cell)):
            found[-1][2].append(cell)
    return found


def assignment(notebook: NotebookNode, points: int = 1) -> NotebookNode:
    """Exercises and checks marked for nbgrader, which itself cuts the solutions out and runs the checks."""
    edition = deepcopy(for_readers(notebook))
    clear_outputs(edition)
    for cell in edition.cells:
        kind = next((kind for kind in (EXERCISE, CHECK) if kind in tags(cell)), None)
        if kind is not None:
            grade = {"schema_version": 3, "grade_id": cell.id, "task": False, "cell_type": "code"}
            grade |= {"solution": kind == EXERCISE, "grade": kind == CHECK, "locked": kind == CHECK}
            cell.metadata["nbgrader"] = grade | ({"points": points} if kind == CHECK else {})
    return edition


def write_classroom(output: Path, folder: Path = NOTEBOOKS, names: Sequence[str] = ()) -> dict[str, int]:
    """Write all editions below `output`, over those of an earlier call; gives how many notebooks each has.

    ``student/``, ``solution/``, ``instructor/``, ``slides/``; ``nbgrader/source/NAME/NAME.ipynb`` for notebooks with
    exercises; and ``student.zip``, which holds all that the students' edition needs.
    Nothing else there is touched: a teacher's ``nbgrader/submitted`` and gradebook stay.

    Raises
    ------
    InputError
        A source is not as it should be, or the zip would be larger than `MOST_MEGABYTES`.
    """
    made = {}
    for source in sources(folder, names):
        stored = folder / f"{source.stem}.ipynb"
        whole = read_source(source, instructor=True)
        committed = read_notebook(stored) if stored.is_file() else for_readers(whole)
        made["student", source.stem] = student(whole)
        made["solution", source.stem] = committed
        made["instructor", source.stem] = whole
        made["slides", source.stem] = slides(committed)
        if any(EXERCISE in tags(cell) for cell in whole.cells):
            made["nbgrader", source.stem] = assignment(whole)
    paths: dict[str, list[Path]] = {}
    for (edition, name), notebook in made.items():
        path = output / edition / f"{name}.ipynb"
        path = output / "nbgrader" / "source" / name / path.name if edition == "nbgrader" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        write_notebook(notebook, path)
        paths.setdefault(edition, []).append(path)
    write_zip(output / "student.zip", paths["student"])
    return {edition: len(written) for edition, written in paths.items()}


def write_zip(path: Path, notebooks: Sequence[Path], needed: Sequence[str] = NEEDED) -> None:
    """Pack the students' notebooks with the package, its data and weights, and how to install them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for notebook in notebooks:
            archive.write(notebook, f"course/notebooks/{notebook.name}")
        for name in needed:
            place = REPOSITORY / name
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, f"course/{file.relative_to(REPOSITORY)}")
        archive.write(REPOSITORY / "README.md", "course/README.md")
    size = path.stat().st_size / 1e6
    if size > MOST_MEGABYTES:
        path.unlink()
        raise InputError(f"{path} would have {size:.0f} MB, more than {MOST_MEGABYTES}; leave weights or data out")
