"""Which outputs of an executed notebook are committed.

A reader on the web sees figures, and nbval compares text; everything else would only make the repository
grow: widget state, plotly figures, warnings, metadata with times.
"""

import base64
import io

from nbformat import NotebookNode
from PIL import Image

from lib.errors import InputError

CHECKED = "nbval-check-output"
KEY_FIGURE = "key-figure"
MAX_PNG_BYTES = 60_000
COMPARED_MIMES = ("text/plain", "text/html", "text/markdown", "text/latex")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
UNSTORED_CELL_METADATA = (
    "collapsed",
    "execution",
    "papermill",
    "scrolled",
    "jupyter",
    "widgets",
    "slug",
    "title",
    "id",
)


def tags(cell: NotebookNode) -> list[str]:
    """Give the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def is_heading(cell: NotebookNode) -> bool:
    """Tell whether a section begins with this cell."""
    return cell.cell_type == "markdown" and cell.source.lstrip().startswith("#")


def keep_committed_outputs(notebook: NotebookNode, name: str) -> list[str]:
    """Strip a notebook, in place, to what is committed; doing it twice changes nothing more.

    Cells tagged ``nbval-check-output`` keep their text; a section keeps at most one PNG of at most 60 KB:
    that of the cell tagged ``key-figure``, else its last.

    Returns
    -------
    list of str
        Sentences about figures that were left out.

    Raises
    ------
    InputError
        Where a checked cell shows what cannot be committed, so that nbval could never pass.
    """
    notes = []
    for section in _sections(notebook):
        figure, note = _choose_png(section, name)
        notes += note
        for cell in section:
            _strip_cell(cell, figure if figure and figure[0] is cell else None, name)
    notebook.metadata = NotebookNode({key: NotebookNode(value) for key, value in NOTEBOOK_METADATA.items()})
    return notes


def clear_outputs(notebook: NotebookNode) -> None:
    """Remove every output and execution count, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def pngs(cell: NotebookNode) -> list[bytes]:
    """Give the PNG outputs of a cell, in order."""
    return [base64.b64decode(output.data["image/png"]) for output in cell.get("outputs", []) if _has_png(output)]


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


def _sections(notebook: NotebookNode) -> list[list[NotebookNode]]:
    sections: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        if is_heading(cell):
            sections.append([])
        sections[-1].append(cell)
    return sections


def _has_png(output: NotebookNode) -> bool:
    return "image/png" in output.get("data", {})


def _choose_png(section: list[NotebookNode], name: str) -> tuple[tuple[NotebookNode, bytes] | None, list[str]]:
    """Choose the section's figure: (its cell, its bytes), and what to tell the author."""
    candidates = [cell for cell in section if cell.cell_type == "code" and pngs(cell)]
    if not candidates:
        return None, []
    cell = next((cell for cell in candidates if KEY_FIGURE in tags(cell)), candidates[-1])
    small = shrink_png(pngs(cell)[-1])
    if small is None:
        return None, [f"{name}: the figure of cell '{cell.id}' is over {MAX_PNG_BYTES // 1000} KB and is not stored"]
    return (cell, small), []


def _strip_cell(cell: NotebookNode, figure: tuple[NotebookNode, bytes] | None, name: str) -> None:
    for key in UNSTORED_CELL_METADATA:
        cell.metadata.pop(key, None)
    if cell.cell_type != "code":
        return
    outputs = _checked_outputs(cell, name) if CHECKED in tags(cell) else []
    if figure:
        data = NotebookNode({"image/png": base64.b64encode(figure[1]).decode()})
        outputs.append(NotebookNode(output_type="display_data", data=data, metadata=NotebookNode()))
    cell.outputs = outputs


def _checked_outputs(cell: NotebookNode, name: str) -> list[NotebookNode]:
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "stream":
            _keep_stream(output, kept, cell, name)
        elif output.output_type in ("display_data", "execute_result"):
            _keep_text(output, kept, cell, name)
        else:
            raise InputError(f"cell '{cell.id}' of {name} ended with an error: repair it before storing outputs")
    return kept


def _keep_stream(output: NotebookNode, kept: list[NotebookNode], cell: NotebookNode, name: str) -> None:
    if output.name != "stdout":
        raise InputError(f"checked cell '{cell.id}' of {name} writes to {output.name}: quiet it, or drop its tag")
    if kept and kept[-1].output_type == "stream":
        kept[-1].text += output.text  # how a stream is cut into pieces depends on timing
    else:
        kept.append(NotebookNode(output_type="stream", name="stdout", text=output.text))


def _keep_text(output: NotebookNode, kept: list[NotebookNode], cell: NotebookNode, name: str) -> None:
    unstorable = [mime for mime in output.data if mime.startswith("application/")]
    if unstorable:
        raise InputError(f"checked cell '{cell.id}' of {name} shows {unstorable[0]}: show it in a cell without the tag")
    data = NotebookNode({mime: output.data[mime] for mime in output.data if mime in COMPARED_MIMES})
    if not data:
        return
    text = NotebookNode(output_type=output.output_type, data=data, metadata=NotebookNode())
    if output.output_type == "execute_result":
        text.execution_count = output.get("execution_count")
    kept.append(text)
