"""The builder: source -> notebook, ids, and which outputs are committed."""

import base64
import io
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from PIL import Image

from lib.course import build, outputs
from lib.errors import InputError
from lib.paths import REPOSITORY

SOURCE = """# %% [markdown]
# # Spheres
#
# What they are.

# %% tags=["parameters"]
seed = 0  # of every draw

# %% [markdown]
# ## Draw *one*

# %% tags=["key-figure"] alt="a dot"
figure = 1

# %%
figure = 2

# %% slug="total" tags=["nbval-check-output"]
print(seed)
"""


def write_source(folder, text=SOURCE, name="03_spheres"):
    (folder / "src").mkdir(exist_ok=True)
    path = folder / "src" / f"{name}.py"
    path.write_text(text)
    return path


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def display(**data):
    return nbformat.v4.new_output("display_data", data={key.replace("_", "/"): value for key, value in data.items()})


def picture(pixels):
    return display(image_png=base64.b64encode(png(pixels)).decode(), text_plain="<Figure>")


def cell_of(notebook, slug):
    return next(cell for cell in notebook.cells if cell.id == slug)


def test_ids_come_from_headings_tags_and_slugs(tmp_path):
    notebook = build.read_source(write_source(tmp_path))
    assert [cell.id for cell in notebook.cells] == [
        "spheres", "parameters", "draw-one", "draw-one-code", "draw-one-code-2", "total",
    ]  # fmt: skip


def test_the_same_bytes_every_time(tmp_path):
    source = write_source(tmp_path)
    texts = {nbformat.writes(build.build(source)[0]) for _ in range(2)}
    assert len(texts) == 1
    target = tmp_path / "03_spheres.ipynb"
    assert build.write_notebook(build.build(source)[0], target)
    assert not build.write_notebook(build.build(source, target)[0], target)
    nbformat.validate(nbformat.read(target, 4))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('# %% slug="a"\n1\n\n# %% slug="a"\n2\n', "two cells have the id 'a'"),
        ('# %% slug="Not this"\n1\n', "must be lower-case"),
        ('# %% slug="a" [markdown]\n# text\n', "cannot read the cell header"),
        ("# %%\nx = '\xe9'\n", "UTF-8"),
    ],
)
def test_a_bad_source_is_one_sentence(tmp_path, text, sentence):
    path = write_source(tmp_path)
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=sentence):
        build.read_source(path)


def executed(tmp_path):
    """The built notebook with outputs of every kind."""
    notebook = build.read_source(write_source(tmp_path))
    dot = np.zeros((8, 8, 3), np.uint8)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        cell.execution_count = number + 1
        cell.metadata["execution"] = {"iopub.execute_input": "2026-01-01"}
        cell.metadata["collapsed"] = False
    cell_of(notebook, "draw-one-code").outputs = [picture(dot)]
    cell_of(notebook, "draw-one-code-2").outputs = [
        nbformat.v4.new_output(
            "stream", name="stdout", text=f"trained in 3.25 s, 840 MB, 0.5 of 3 steps: {REPOSITORY / 'runs'}\n"
        ),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        picture(dot + 255),
        display(**{"application_vnd.plotly.v1+json": {}, "text_html": "<script>"}),
        display(text_html='<table id="T_3fa2b"><td id="T_3fa2b_0">1</td>', text_plain="a Styler"),
    ]
    cell_of(notebook, "total").outputs = [
        nbformat.v4.new_output("stream", name="stdout", text="0"),
        nbformat.v4.new_output("stream", name="stdout", text="\n"),
    ]
    notebook.metadata["widgets"] = {"state": {}}
    notebook.metadata["papermill"] = {"duration": 3.0}
    return notebook


def test_committed_outputs_are_what_a_reader_on_the_web_needs(tmp_path):
    """All text, tables and figures in their order; no times, warnings, widgets, plotly data or drawn names."""
    notebook = executed(tmp_path)
    assert outputs.keep_committed_outputs(notebook, "03_spheres") == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert [output.text for output in cell_of(notebook, "total").outputs] == ["0\n"]  # pieces are joined
    (figure,) = cell_of(notebook, "draw-one-code").outputs
    assert list(figure.data) == ["image/png"]
    text, figure, table = cell_of(notebook, "draw-one-code-2").outputs
    assert text.text == "trained in … s, … MB, 0.5 of 3 steps: runs\n"
    assert list(figure.data) == ["image/png"]
    assert table.data == {"text/html": '<table id="T_00000"><td id="T_00000_0">1</td>'}
    assert not {"execution", "collapsed"} & {key for cell in notebook.cells for key in cell.metadata}
    once = nbformat.writes(notebook)
    outputs.keep_committed_outputs(notebook, "03_spheres")
    assert nbformat.writes(notebook) == once


def test_a_cell_that_failed_is_not_stored(tmp_path):
    notebook = executed(tmp_path)
    cell_of(notebook, "draw-one-code").outputs = [nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[])]
    with pytest.raises(InputError, match="ended with an error"):
        outputs.keep_committed_outputs(notebook, "03_spheres")


def test_a_text_without_end_is_left_out_with_a_word(tmp_path):
    notebook = executed(tmp_path)
    cell_of(notebook, "draw-one-code").outputs = [display(text_html="x" * (outputs.MAX_TEXT + 1))]
    assert "100,000 characters" in outputs.keep_committed_outputs(notebook, "03_spheres")[0]
    assert cell_of(notebook, "draw-one-code").outputs == []


def test_a_large_figure_is_made_to_fit():
    ramp = np.linspace(0, 255, 900, dtype=np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (600, 900, 3))
    large = png((ramp[None, :, None] + noise).clip(0, 255).astype(np.uint8))
    assert len(large) > 6 * outputs.MAX_PNG_BYTES
    small = outputs.shrink_png(large)
    assert small is not None and len(small) <= outputs.MAX_PNG_BYTES
    difference = np.asarray(Image.open(io.BytesIO(small)).convert("L").resize((90, 60)), float) - ramp[None, ::10]
    assert np.abs(difference).mean() < 16  # still the same picture


def test_a_figure_that_cannot_fit_is_left_out_with_a_word(tmp_path):
    notebook = executed(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3)).astype(np.uint8)
    cell_of(notebook, "draw-one-code").outputs = [picture(noise)]
    assert "is not stored" in outputs.keep_committed_outputs(notebook, "03_spheres")[0]
    assert cell_of(notebook, "draw-one-code").outputs == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        (nbformat.v4.new_output("stream", name="stderr", text="warning"), "writes to stderr"),
        (display(**{"application_vnd.plotly.v1+json": {}}), "shows application/vnd.plotly"),
        (nbformat.v4.new_output("error", ename="E", evalue="e", traceback=[]), "ended with an error"),
    ],
)
def test_a_checked_cell_with_what_nbval_cannot_compare_is_an_error(tmp_path, output, sentence):
    notebook = executed(tmp_path)
    cell_of(notebook, "total").outputs = [output]
    with pytest.raises(InputError, match=sentence):
        outputs.keep_committed_outputs(notebook, "03_spheres")


def test_stored_outputs_stay_where_the_source_did(tmp_path):
    target = tmp_path / "03_spheres.ipynb"
    nbformat.write(executed(tmp_path), target)
    changed = write_source(tmp_path, SOURCE.replace("figure = 1", "figure = 10"))
    notebook, _ = build.build(changed, target)
    assert cell_of(notebook, "draw-one-code").outputs == []
    assert cell_of(notebook, "draw-one-code").execution_count is None
    assert cell_of(notebook, "total").outputs[0].text == "0\n"
    assert cell_of(notebook, "total").execution_count == 4


def test_check_finds_every_difference_but_outputs(tmp_path):
    source, target = write_source(tmp_path), tmp_path / "03_spheres.ipynb"
    assert "is not built" in build.differences(tmp_path)[0]
    nbformat.write(executed(tmp_path), target)
    notebook, _ = build.build(source, target)
    build.write_notebook(notebook, target)
    assert build.differences(tmp_path) == []
    source.write_text(SOURCE.replace("figure = 2", "figure = 3"))
    assert "figure = 2" in build.differences(tmp_path)[0]
    source.write_text(SOURCE)
    notebook, _ = build.build(source)
    notebook.metadata["papermill"] = {}
    nbformat.write(notebook, target)
    assert "metadata of papermill" in build.differences(tmp_path)[0]
    notebook, _ = build.build(source)
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7", "file_extension": ".py"}
    notebook.metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    notebook.cells[1].metadata |= {"scrolled": True, "jupyter": {"outputs_hidden": True}, "editable": True}
    nbformat.write(notebook, target)
    assert build.differences(tmp_path) == []  # what JupyterLab writes
    source.rename(source.with_name("04_spheres.py"))
    assert any("no source" in sentence for sentence in build.differences(tmp_path))


def test_building_refuses_to_undo_what_was_edited_by_hand(tmp_path):
    source, target = write_source(tmp_path), tmp_path / "03_spheres.ipynb"
    build.check_not_edited(target)
    notebook, _ = build.build(source)
    build.write_notebook(notebook, target)
    source.write_text(SOURCE.replace("figure = 2", "figure = 3"))
    build.check_not_edited(target)  # the source may change
    cell_of(notebook, "total").outputs = [display(text_plain="0")]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.11.7"}
    build.write_notebook(notebook, target)
    build.check_not_edited(target)  # and running and saving is no edit
    notebook.cells.append(nbformat.v4.new_code_cell("mine = 1"))
    build.write_notebook(notebook, target)
    with pytest.raises(InputError, match=r"^03_spheres.ipynb was edited .* src/03_spheres.py [^\n]*$"):
        build.check_not_edited(target)
    command = [sys.executable, "-m", "lib.course", "--folder", str(tmp_path), "build"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "mine = 1" in target.read_text()


@pytest.mark.parametrize("content", ["", "{", '{"cells": 3}', "[]"])
def test_a_file_that_is_no_notebook_is_named(tmp_path, content):
    path = tmp_path / "03_spheres.ipynb"
    path.write_text(content)
    with pytest.raises(InputError, match="03_spheres.ipynb is not a notebook"):
        build.read_notebook(path)


def test_command_line_builds_checks_and_refuses(tmp_path):
    write_source(tmp_path)
    command = [sys.executable, "-m", "lib.course", "--folder", str(tmp_path), "build"]
    assert subprocess.run([*command, "--check"], check=False, capture_output=True).returncode == 1
    assert subprocess.run(command, check=False).returncode == 0
    assert subprocess.run([*command, "--check"], check=False).returncode == 0
    done = subprocess.run([*command, "09"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: there is no notebook '09'") and done.stderr.count("\n") == 1
