"""Editions: what students get, what fails in it and what does not, and that nbgrader grades it as it should."""

import ast
import os
import re
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbconvert import SlidesExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lib.course import editions
from lib.course.build import read_source, sources
from lib.course.outputs import tags
from lib.errors import InputError
from lib.paths import NOTEBOOKS

SOURCES = sources()
REGION = re.compile(r"# BEGIN SOLUTION\n(.*?)# END SOLUTION", re.DOTALL)
ANSWER = "def double(x):\n    # BEGIN SOLUTION\n    return 2 * x\n    # END SOLUTION"


def notebook_of(*cells):
    made = [new_code_cell(text, metadata={"tags": list(tagged)}) for text, *tagged in cells]
    for number, cell in enumerate(made):
        cell.id = f"cell-{number}"
    return new_notebook(cells=made)


def of_kind(notebook, kind):
    return [cell for cell in notebook.cells if kind in tags(cell)]


def ran(cells) -> dict[str, str]:
    """Run cells in one namespace; the names of errors by cell."""
    space, errors = {}, {}
    for cell in cells:
        try:
            exec(compile(cell.source, cell.id, "exec"), space)
        except Exception as error:
            errors[cell.id] = type(error).__name__
    return errors


# --- the course's own notebooks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_students_get_stubs_and_no_word_of_a_solution(source):
    whole = read_source(source, instructor=True)
    text = nbformat.writes(editions.student(whole))
    assert "SOLUTION" not in text
    for cell in of_kind(whole, editions.EXERCISE):
        for answer in REGION.findall(cell.source):
            lines = [line.strip() for line in answer.splitlines() if len(line.strip()) > 12]
            assert lines and not [line for line in lines if line in text]
    assert not any(cell.get("outputs") for cell in editions.student(whole).cells)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_students_edition_fails_at_its_exercises_and_nowhere_else(source):
    """Other cells are the same in both editions and use no name of an exercise; those run by themselves."""
    whole = read_source(source)
    student = editions.student(whole)
    same = [a.source == b.source for a, b in zip(whole.cells, student.cells, strict=True)]
    assert [cell.id for cell, equal in zip(whole.cells, same, strict=True) if not equal] == [
        cell.id for cell in of_kind(whole, editions.EXERCISE)
    ]
    mine = {
        node.name
        for cell in of_kind(whole, "exercise")
        for node in ast.parse(cell.source).body
        if hasattr(node, "name")
    }
    for cell in whole.cells:
        if cell.cell_type == "code" and not {editions.EXERCISE, editions.CHECK} & set(tags(cell)):
            assert not mine & {node.id for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)}
    for edition, failing in ((whole, []), (student, [cell.id for cell in of_kind(whole, editions.CHECK)])):
        cells = [cell for cell in edition.cells if {editions.EXERCISE, editions.CHECK} & set(tags(cell))]
        errors = ran(cells)
        assert list(errors) == failing and set(errors.values()) <= {"NotImplementedError"}


def test_lessons_have_exercises():
    found = {source.stem: len(of_kind(read_source(source), editions.EXERCISE)) for source in SOURCES}
    assert sum(found.values()) >= 13 and min(found[name] for name in found if name[:2] not in ("00", "08")) >= 1


# --- how editions are made -------------------------------------------------------------------------------------------


def test_instructors_cells_are_for_instructors(tmp_path):
    source = tmp_path / "03_x.py"
    source.write_text(
        '# %% [markdown]\n# # X\n\n# %% [markdown] tags=["instructor"]\n# ninety minutes\n\n# %%\n1 + 1\n'
    )
    assert "ninety" in nbformat.writes(read_source(source, instructor=True))
    for edition in (read_source(source), editions.student(read_source(source, instructor=True))):
        assert "ninety" not in nbformat.writes(edition)


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [
        ([("x = 1", "exercise"), ("1", "check")], "needs '# BEGIN SOLUTION'"),
        ([(ANSWER.replace("# END", "# ENDE"), "exercise"), ("1", "check")], "needs '# BEGIN SOLUTION'"),
        ([(ANSWER, "exercise"), ("1",)], "has no check"),
        ([(ANSWER, "exercise")], "has no check"),
        ([(ANSWER,)], "is no exercise"),
    ],
)
def test_marks_that_do_not_fit_are_one_sentence(cells, sentence):
    with pytest.raises(InputError, match=sentence):
        editions.student(notebook_of(*cells))


def pictured(text, *tagged):
    cell = notebook_of((text, *tagged)).cells[0]
    cell.outputs = [new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
    return cell


def test_slides_have_one_slide_a_section_also_where_a_heading_is_inside_a_cell():
    """Folded answers and code stay away; a question is on the screen before its picture."""
    texts = ["# Title\n\nlong\n\nlonger", "text\n\n## A\n\nlong\n\n$$x$$\n\n**Predict.** Why?", "## B\n\nlong"]
    texts += ["<details>\n\n**Predict.** no\n\n</details>\n\n## C\n\nfirst\n\n### Task\n\nmore", "## D\n\nread on"]
    heads = [new_markdown_cell(text) for text in texts]
    codes = [pictured("1"), pictured("2"), pictured("3", "key-figure")]
    code = notebook_of(("4",)).cells[0]
    for number, cell in enumerate(codes):
        cell.id = f"picture-{number}"
    notebook = new_notebook(cells=[heads[0], code, heads[1], *codes[:1], heads[2], *codes[1:], *heads[3:]])
    shown = editions.slides(notebook).cells
    kinds = [cell.metadata.slideshow.slide_type for cell in shown]
    expected = [
        ("# Title\n\nlong", "slide"),
        ("## A\n\n$$x$$\n\n**Predict.** Why?", "slide"),
        ("1", "subslide"),
        ("## B", "slide"),
        ("2", "-"),
        ("3", "subslide"),
        ("## C\n\n### Task", "slide"),
        ("## D\n\nread on", "slide"),
    ]
    assert list(zip([cell.source for cell in shown], kinds, strict=True)) == expected


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_exported_slides_are_as_many_as_sections(source):
    stored = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", 4)
    text = editions.FOLDED.sub("", "\n".join(c.source for c in stored.cells if c.cell_type == "markdown"))
    page, _ = SlidesExporter().from_notebook_node(editions.slides(stored))
    inside = page[page.index('class="slides"') :]
    assert len(re.findall(r"<section>\s*<section>", inside)) == len(re.findall(r"^##? ", text, re.MULTILINE)) > 3
    assert "jp-CodeMirrorEditor" not in inside


def test_classroom_is_written_and_the_zip_has_what_students_need(tmp_path):
    of_the_teacher = tmp_path / "room" / "nbgrader" / "gradebook.db"
    stale = tmp_path / "room" / "student" / "02_of_another_call.ipynb"
    for file in (of_the_teacher, stale):
        file.parent.mkdir(parents=True)
        file.write_text("kept")
    counts = editions.write_classroom(tmp_path / "room", names=["03", "08"])
    assert of_the_teacher.read_text() == "kept"  # whatever is there that no edition is called
    assert counts == {"student": 2, "solution": 2, "instructor": 2, "slides": 2, "nbgrader": 1}
    with zipfile.ZipFile(tmp_path / "room" / "student.zip") as archive:
        names = set(archive.namelist())
        inside = archive.read("course/notebooks/03_volume_rendering.ipynb").decode()
    wanted = {
        "notebooks/support/nb03.py",
        "notebooks/support/check.py",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
    }
    assert {f"course/{name}" for name in wanted} <= names and "NotImplementedError" in inside
    assert f"course/notebooks/{stale.name}" not in names
    assert not any("__pycache__" in name or "/src/" in name or name.endswith("test_check.py") for name in names)
    committed = nbformat.read(NOTEBOOKS / "03_volume_rendering.ipynb", 4)
    assert nbformat.read(tmp_path / "room" / "solution" / "03_volume_rendering.ipynb", 4) == committed


def test_nbgrader_gives_a_solution_all_points_and_a_blank_one_none(tmp_path, monkeypatch):
    """nbgrader itself makes the students' version, and grades one of each."""
    pytest.importorskip("nbgrader", reason="nbgrader is not installed: pip install '.[classroom]'")
    from nbgrader.api import Gradebook
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    notebook = notebook_of((ANSWER, "exercise"), ("assert double(2) == 4, 'double it'", "check"), ("x = 1",))
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    source = tmp_path / "source" / "one"
    source.mkdir(parents=True)
    nbformat.write(editions.assignment(notebook), source / "one.ipynb")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")  # it calls alembic
    config = Config()
    config.CourseDirectory.root = str(tmp_path)
    config.CourseDirectory.course_id = "course"
    api = NbGraderAPI(config=config)
    assert api.generate_assignment("one", force=True)["success"]
    released = nbformat.read(tmp_path / "release" / "one" / "one.ipynb", 4)
    assert "return 2 * x" not in nbformat.writes(released) and "NotImplementedError" in released.cells[0].source
    for name, answer in (("solver", ANSWER), ("blank", None)):
        handed_in = tmp_path / "submitted" / name / "one"
        handed_in.mkdir(parents=True)
        copy = nbformat.read(tmp_path / "release" / "one" / "one.ipynb", 4)
        copy.cells[0].source = answer or copy.cells[0].source
        nbformat.write(copy, handed_in / "one.ipynb")
        assert api.autograde("one", name)["success"]
    with Gradebook(f"sqlite:///{tmp_path / 'gradebook.db'}") as book:
        scores = {s.student.id: (s.score, s.max_score) for s in book.assignment_submissions("one")}
    assert scores == {"solver": (1, 1), "blank": (0, 1)}
