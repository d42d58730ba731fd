"""Which outputs of an executed notebook are committed.

A reader on the web sees figures, and nbval compares text; everything else would only make the repository
grow: widget state, plotly figures, warnings, metadata with times.
"""

import base64
import io

from nbformat import NotebookNode
from nbformat.v4 import new_output
from PIL import Image

from lib.errors import InputError

CHECKED = "nbval-check-output"
KEY_FIGURE = "key-figure"
INSTRUCTOR = "instructor"
MAX_PNG_BYTES = 60_000
COMPARED_MIMES = ("text/plain", "text/html", "text/markdown", "text/latex")
NOTEBOOK_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
UNSTORED = ("collapsed", "execution", "papermill", "scrolled", "jupyter", "widgets", "slug", "title", "id")


def tags(cell: NotebookNode) -> list[str]:
    """Give the tags of a cell."""
    return list(cell.metadata.get("tags", []))


def is_heading(cell: NotebookNode) -> bool:
    """Tell whether a section begins with this cell."""
    return cell.cell_type == "markdown" and cell.source.lstrip().startswith("#")


def pngs(cell: NotebookNode) -> list[bytes]:
    """Give the PNG outputs of a cell, in order."""
    pictures = [output.get("data", {}).get("image/png") for output in cell.get("outputs", [])]
    return [base64.b64decode(picture) for picture in pictures if picture]


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
    sections: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        sections += [[]] if is_heading(cell) else []
        sections[-1].append(cell)
        for key in UNSTORED:
            cell.metadata.pop(key, None)
    notes = []
    for section in sections:
        code = [cell for cell in section if cell.cell_type == "code"]
        pictured = sorted((cell for cell in code if pngs(cell)), key=lambda cell: KEY_FIGURE in tags(cell))
        small = shrink_png(pngs(pictured[-1])[-1]) if pictured else None
        if pictured and small is None:
            size = f"{MAX_PNG_BYTES // 1000} KB"
            notes.append(f"{name}: the figure of cell '{pictured[-1].id}' is over {size} and is not stored")
        for cell in code:
            cell.outputs = _checked_outputs(cell, name) if CHECKED in tags(cell) else []
        if small is not None:
            picture = {"image/png": base64.b64encode(small).decode()}
            pictured[-1].outputs.append(new_output("display_data", data=picture))
    notebook.metadata = NotebookNode({key: NotebookNode(value) for key, value in NOTEBOOK_METADATA.items()})
    return notes


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


def _checked_outputs(cell: NotebookNode, name: str) -> list[NotebookNode]:
    """The text of a cell that nbval compares."""
    kept: list[NotebookNode] = []
    for output in cell.outputs:
        if output.output_type == "error":
            raise InputError(f"cell '{cell.id}' of {name} ended with an error: repair it before storing outputs")
        if output.output_type == "stream":
            if output.name != "stdout":
                raise InputError(
                    f"checked cell '{cell.id}' of {name} writes to {output.name}: quiet it, or drop its tag"
                )
            if kept and kept[-1].output_type == "stream":  # how a stream is cut into pieces depends on timing
                kept[-1].text += output.text
            else:
                kept.append(new_output("stream", name="stdout", text=output.text))
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
