"""Which outputs of an executed notebook are committed: what a reader on the web needs.

Every printed text, table, formula, shown source and figure stays. What is different in each run goes: times, memory,
warnings, widget state, plotly's data (its figures have a picture beside them) and metadata.
"""

import base64
import io
import os
import re

from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image

from lib.errors import InputError
from lib.paths import REPOSITORY

CHECKED = "nbval-check-output"
KEY_FIGURE = "key-figure"
RESULTS = "results"
INSTRUCTOR = "instructor"
IMPORTS = "imports"  # the one cell that has them all, folded away in JupyterLab
MAX_PNG_BYTES = 150_000
MAX_TEXT = 100_000  # characters of one output
CHANGING = re.compile(r"\b\d+(?:\.\d+)? ?(?=(?:s|ms|seconds|minutes|MB|GB)\b)|0x[0-9a-f]{6,}")
STYLER_ID = re.compile(r"T_[0-9a-f]{5}(?![0-9a-f])")  # pandas draws one for each styled table
COMPARED_MIMES = ("text/plain", "text/html", "text/markdown", "text/latex")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
BUILT = "course"  # what the build notes about itself
# what JupyterLab, papermill and jupytext write about a cell
UNSTORED = ("collapsed", "execution", "papermill", "scrolled", "jupyter", "widgets", "slug", "title", "id")
UNSTORED += ("editable", "deletable", "slideshow")


def tags(cell: NotebookNode) -> list[str]:
    """Give the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def is_heading(cell: NotebookNode) -> bool:
    """Tell whether a section begins with this cell."""
    return cell.cell_type == "markdown" and cell.source.lstrip().startswith("#")


def for_readers(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without the cells for instructors; the cells are not copied."""
    return NotebookNode(notebook | {"cells": [cell for cell in notebook.cells if INSTRUCTOR not in tags(cell)]})


def clear_outputs(notebook: NotebookNode) -> None:
    """Leave out, in place, what running the cells gave."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def pngs(cell: NotebookNode) -> list[bytes]:
    """Give the PNG outputs of a cell, in order."""
    pictures = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
    return [base64.b64decode(picture) for picture in pictures if picture]


def keep_committed_outputs(notebook: NotebookNode, name: str) -> list[str]:
    """Strip a notebook, in place, to what is committed; doing it twice changes nothing more.

    Returns
    -------
    list of str
        Sentences about outputs that were left out because they are too large.

    Raises
    ------
    InputError
        A cell ended with an error, or one tagged ``nbval-check-output`` shows what nbval cannot compare.
    """
    notes: list[str] = []
    keep_committed_metadata(notebook)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        if any(output.output_type == "error" for output in cell.outputs):
            raise InputError(f"cell '{cell.id}' of {name} ended with an error: repair it before storing outputs")
        cell.outputs = (_checked_outputs if CHECKED in tags(cell) else _shown_outputs)(cell, name, notes)
    return notes


def keep_committed_metadata(notebook: NotebookNode) -> None:
    """Strip, in place, what JupyterLab and papermill write about a notebook and its cells; imports are folded away."""
    for cell in notebook.cells:
        for key in UNSTORED:
            cell.metadata.pop(key, None)
        if IMPORTS in tags(cell):
            cell.metadata["jupyter"] = NotebookNode(source_hidden=True)
    kept = {key: NotebookNode(value) for key, value in NOTEBOOK_METADATA.items()}
    if BUILT in notebook.metadata:
        kept[BUILT] = notebook.metadata[BUILT]
    notebook.metadata = NotebookNode(kept)


def _append_text(kept: list[NotebookNode], text: str) -> None:
    """Add printed text to what comes just before it: how a stream is cut into pieces depends on timing."""
    if text and kept and kept[-1].output_type == "stream":
        kept[-1].text += text
    elif text:
        kept.append(new_output("stream", name="stdout", text=text))


def _shown_outputs(cell: NotebookNode, name: str, notes: list[str]) -> list[NotebookNode]:
    """Text, tables and formulas of a cell, in order, without numbers that change from run to run."""
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            _append_text(kept, _steady(output.text) if output.name == "stdout" else "")
        elif "image/png" in output.data:
            kept += _stored_picture(output, cell, name, notes)
        elif not any(mime.startswith("application/") for mime in output.data):
            data = {mime: _steady(output.data[mime]) for mime in output.data if mime in COMPARED_MIMES}
            if "text/html" in data or "text/markdown" in data:
                data.pop("text/plain", None)  # the same again, for terminals
            if sum(map(len, data.values())) > MAX_TEXT:
                notes.append(f"{name}: cell '{cell.id}' shows more than {MAX_TEXT:,} characters, which are not stored")
            elif data:
                kept.append(new_output("display_data", data=data))
    return kept


def _stored_picture(output: NotebookNode, cell: NotebookNode, name: str, notes: list[str]) -> list[NotebookNode]:
    """The picture of an output, small enough; none where it cannot be made so."""
    small = shrink_png(base64.b64decode(output.data["image/png"]))
    if small is None:
        notes.append(f"{name}: a figure of cell '{cell.id}' is over {MAX_PNG_BYTES // 1000} KB and is not stored")
        return []
    return [new_output("display_data", data={"image/png": base64.b64encode(small).decode()})]


def _steady(text: str) -> str:
    """Text without what differs between runs and places: durations, folders, names that pandas draws for tables."""
    names = list(dict.fromkeys(STYLER_ID.findall(text)))
    text = text.replace(f"{REPOSITORY}{os.sep}", "")
    return CHANGING.sub("… ", STYLER_ID.sub(lambda match: f"T_{names.index(match[0]):05d}", text))


def shrink_png(png: bytes, limit: int = MAX_PNG_BYTES) -> bytes | None:
    """Make a PNG fit: first with fewer colours, then smaller; None if even that does not help."""
    if len(png) <= limit:
        return png
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for scale, colours in ((1.0, 256), (1.0, 64), (0.75, 64), (0.5, 64)):
        size = (round(image.width * scale), round(image.height * scale))
        stream = io.BytesIO()
        image.resize(size, Image.Resampling.LANCZOS).quantize(colours).save(stream, "PNG", optimize=True)
        if stream.tell() <= limit:
            return stream.getvalue()
    return None


def _checked_outputs(cell: NotebookNode, name: str, notes: list[str]) -> list[NotebookNode]:
    """The text of a cell that nbval compares, and its pictures, which nbval does not look at."""
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            if output.name != "stdout":
                raise InputError(
                    f"checked cell '{cell.id}' of {name} writes to {output.name}: quiet it, or drop its tag"
                )
            _append_text(kept, output.text)
            continue
        if "image/png" in output.data:
            kept += _stored_picture(output, cell, name, notes)
            continue
        unstorable = [mime for mime in output.data if mime.startswith("application/")]
        if unstorable:
            raise InputError(
                f"checked cell '{cell.id}' of {name} shows {unstorable[0]}: show it in a cell without the tag"
            )
        text = {mime: output.data[mime] for mime in output.data if mime in COMPARED_MIMES}
        if text:
            count = {} if output.output_type == "display_data" else {"execution_count": output.get("execution_count")}
            kept.append(new_output(output.output_type, data=text, **count))
    return kept
