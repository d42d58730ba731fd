"""Every committed notebook keeps to the rules of CONTRIBUTING.md; none of them is executed here."""

import ast

import nbformat
import pytest

from lib.course.build import VALID_ID, differences
from lib.course.editions import CHECK, EXERCISE
from lib.course.outputs import CHECKED, IMPORTS, KEY_FIGURE, MAX_PNG_BYTES, pngs, tags
from lib.course.parameters import read_parameters
from lib.paths import NOTEBOOKS

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
FORBIDDEN = {"papermill", "widgets", "execution", "collapsed"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebooks_are_what_their_sources_build():
    assert differences() == []


def test_one_parameters_cell_of_literals(path, notebook):
    assert len([cell for cell in code_cells(notebook) if "parameters" in tags(cell)]) == 1
    assert read_parameters(path)["profile"].default == "quick"


def test_imports_are_in_one_folded_cell_below_the_parameters(notebook):
    """Then a cell in the middle of a fresh kernel needs no other imports; exercises bring theirs along."""
    cells = code_cells(notebook)
    first = cells[[("parameters" in tags(cell)) for cell in cells].index(True) + 1]
    assert IMPORTS in tags(first) and first.metadata.jupyter == {"source_hidden": True}
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(first.source).body)
    for cell in cells:
        if cell is not first and not {EXERCISE, CHECK} & set(tags(cell)):
            nodes = ast.walk(ast.parse(cell.source))
            assert not any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes), f"move {cell.id}'s imports"


def test_no_metadata_of_tools(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert not FORBIDDEN & set(notebook.metadata)
    assert not FORBIDDEN & {key for cell in notebook.cells for key in cell.metadata}


def test_checked_cells_have_something_to_check(notebook):
    """nbval passes a cell without an execution count unseen."""
    checked = [cell for cell in code_cells(notebook) if CHECKED in tags(cell)]
    assert checked, "tag the summary cell nbval-check-output"
    for cell in checked:
        assert cell.execution_count is not None, f"cell {cell.id}: run 'make notebooks EXECUTE=1'"
        assert cell.outputs, f"checked cell {cell.id} shows nothing"


def test_size(path, notebook):
    assert path.stat().st_size < 2_000_000
    assert len(notebook.cells) <= 52
    for cell in code_cells(notebook):
        long = len(cell.source.splitlines()) > 30 and IMPORTS not in tags(cell)
        assert not long, f"cell {cell.id} is long: move it to notebooks/support"
        assert all(len(png) <= MAX_PNG_BYTES for png in pngs(cell))


def test_ids_are_unique_slugs(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert all(VALID_ID.fullmatch(slug) for slug in ids)


def test_one_key_figure_with_alt_text(notebook):
    cells = [cell for cell in code_cells(notebook) if KEY_FIGURE in tags(cell)]
    assert len(cells) == 1
    assert cells[0].metadata.get("alt"), f"cell {cells[0].id} needs alt=..."
    assert pngs(cells[0]), f"cell {cells[0].id} shows no PNG"
