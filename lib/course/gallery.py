"""The gallery of a run: ``index.html`` with a card a notebook, and each notebook as a page that needs no network."""

import base64
import html
import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from lib.course.build import read_notebook
from lib.course.formulas import put_formulas, take_formulas
from lib.course.outputs import KEY_FIGURE, pngs, tags
from lib.course.run import format_memory, read_summary

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
RESULTS_TAG = "results"
SHOWN_ROWS = 12
ABOUT = ("system", "name", "variant", "category", "protocol", "seed", "steps")
MEASURES = ("value", "seconds", "ratio", "memory_mb")
BAR = """<nav style="position:sticky;top:0;z-index:9;background:#17324d;color:#fff;font:14px system-ui,sans-serif;
padding:.6rem 1rem"><a href="index.html" style="color:#fff">&larr; all notebooks</a></nav>"""


def write_gallery(target: Path) -> Path:
    """Render every notebook of `target` and write its ``index.html``; give the page's path."""
    summary = read_summary(target)
    cards = [make_card(row, target) for row in summary["notebooks"]]
    for row in summary["notebooks"]:
        if (target / f"{row['notebook']}.ipynb").is_file():
            _write(target / f"{row['notebook']}.html", render_notebook(target / f"{row['notebook']}.ipynb"))
    page = target / "index.html"
    _write(page, _template().render(cards=cards, machine=summary["machine"], profile=target.name, **_totals(summary)))
    return page


def make_card(row: dict[str, Any], target: Path) -> dict[str, Any]:
    """Gather what one card shows: title, purpose, key figure, results, time, memory, status."""
    path = target / f"{row['notebook']}.ipynb"
    notebook = read_notebook(path) if path.is_file() else NotebookNode(cells=[])
    title, purpose = heading_and_purpose(notebook, row["notebook"])
    figure = key_figure(notebook)
    return row | {
        "title": title,
        "purpose": purpose,
        "figure": base64.b64encode(figure[0]).decode() if figure else "",
        "alt": figure[1] if figure else "",
        "text": results_text(notebook),
        "tables": [results_table(path, target) for path in results_files(row, target)],
        "page": f"{row['notebook']}.html" if notebook.cells else "",
        "memory": format_memory(row["peak_memory_mb"]),
    }


def heading_and_purpose(notebook: NotebookNode, name: str) -> tuple[str, str]:
    """Give the first heading of a notebook and the first paragraph below it, as plain text."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and not _is_papermill_note(cell)]
    text = texts[0] if texts else ""
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n|(?<=\w)\n(?=#)|(?<=^#)\n", text) if part.strip()]
    if not paragraphs or not paragraphs[0].startswith("#"):
        return name, _plain(paragraphs[0]) if paragraphs else ""
    first, _, rest = paragraphs[0].partition("\n")
    body = rest.strip() or next((part for part in paragraphs[1:] if not part.startswith(("#", "!", "<", "|"))), "")
    return _plain(first.lstrip("# ")), _plain(body)


def _is_papermill_note(cell: NotebookNode) -> bool:
    return any(tag.startswith("papermill-error") for tag in tags(cell))


def _plain(markdown: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r"[*`$]|\\(?=[a-zA-Z])", "", text).replace("\n", " ")
    return text if len(text) <= 260 else text[:257].rsplit(" ", 1)[0] + " …"


def key_figure(notebook: NotebookNode) -> tuple[bytes, str] | None:
    """Give the PNG of the cell tagged ``key-figure``, else the notebook's last PNG, with its alt text."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and pngs(cell)]
    if not cells:
        return None
    cell = next((cell for cell in cells if KEY_FIGURE in tags(cell)), cells[-1])
    return pngs(cell)[-1], str(cell.metadata.get("alt", "key figure"))


def results_text(notebook: NotebookNode) -> str:
    """Give the text that cells tagged ``results`` show."""
    texts = []
    for cell in notebook.cells:
        if cell.cell_type == "code" and RESULTS_TAG in tags(cell):
            texts += [_output_text(output) for output in cell.outputs]
    return "\n".join(text.rstrip() for text in texts if text.strip())


def _output_text(output: NotebookNode) -> str:
    if output.output_type == "stream":
        return output.text if output.name == "stdout" else ""
    text = output.get("data", {}).get("text/plain", "")
    return "" if text.startswith("<Figure") else text


def results_files(row: dict[str, Any], target: Path) -> list[Path]:
    """List the ``results.json`` that this run of the notebook wrote in its run folder; older ones do not count."""
    folder = Path(row["run_dir"])
    since = datetime.fromisoformat(row["started"]).timestamp()
    return [path for path in sorted(folder.rglob("results.json")) if path.stat().st_mtime >= since]


def results_table(path: Path, target: Path) -> dict[str, Any]:
    """Lay out rows of a ``results.json`` for the card; a file that is not a list of rows says so instead."""
    link = path.relative_to(target).as_posix() if path.is_relative_to(target) else path.resolve().as_uri()
    empty = {"link": link, "columns": [], "rows": [], "more": 0, "note": ""}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return empty | {"note": f"{path.name} is not a list of rows"}
    rows = [row for row in rows if row.get("category") in (None, "", "all", "overall", "mean")] or rows
    rows, common = _take_constants(_one_metric_a_column(rows))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_show(row.get(name)) for name in columns] for row in rows[:SHOWN_ROWS]]
    note = " · ".join(f"{name} {_show(value)}" for name, value in common.items())
    return empty | {"columns": columns, "rows": cells, "more": len(rows) - len(cells), "note": note}


def _one_metric_a_column(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Long rows (metric, value) -> one row a system and protocol, a column a metric; other rows keep what is shown."""
    wide: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        about = {name: row[name] for name in ABOUT if row.get(name) not in (None, "")}
        values = {name: row[name] for name in MEASURES if row.get(name) is not None}
        if "metric" in row:
            unit = f" ({row['unit']})" if row.get("unit") else ""
            values = {f"{row['metric']}{unit}": row.get("value")}
        wide.setdefault(tuple(about.items()), about).update(values)
    return list(wide.values())


def _take_constants(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Split off what is the same in every row, to be said once."""
    if len(rows) < 2:
        return rows, {}
    common = {name: rows[0].get(name) for name in ABOUT[1:] if name in rows[0]}
    common = {name: value for name, value in common.items() if all(row.get(name) == value for row in rows)}
    return [{name: value for name, value in row.items() if name not in common} for row in rows], common


def _show(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def render_notebook(path: Path) -> str:
    """Render an executed notebook to HTML: formulas as MathML, plotly figures alive, nothing loaded from a network."""
    from nbconvert import HTMLExporter

    notebook = read_notebook(path)
    formulas: dict[str, str] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = take_formulas(cell.source, formulas)
        elif cell.cell_type == "code":
            cell.outputs = [_showable(output, path.parent) for output in cell.outputs if not _is_bare_widget(output)]
    exporter = HTMLExporter(template_name="lab", embed_images=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    page, _ = exporter.from_notebook_node(
        notebook, resources={"metadata": {"name": path.stem, "path": str(path.parent)}}
    )
    return re.sub(r"(<body[^>]*>)", lambda match: match[1] + BAR, put_formulas(page, formulas), count=1)


def _is_bare_widget(output: NotebookNode) -> bool:
    """A control has no meaning on a page without a kernel."""
    return WIDGET in output.get("data", {}) and not {"image/png", "text/html"} & set(output.data)


def _showable(output: NotebookNode, folder: Path) -> NotebookNode:
    """Turn a plotly figure into HTML that draws itself with the gallery's one copy of plotly."""
    if PLOTLY not in output.get("data", {}):
        return output
    from plotly.offline import get_plotlyjs

    library = folder / "plotly.min.js"
    if not library.is_file():
        _write(library, get_plotlyjs())
    figure = html.escape(json.dumps(output.data[PLOTLY]), quote=True)
    draw = "var f=JSON.parse(e.dataset.figure);Plotly.newPlot(e,f.data,f.layout,{responsive:true})"
    output.data = NotebookNode(
        {
            "text/html": '<script src="plotly.min.js"></script>'
            f'<div class="plotly-figure" data-figure="{figure}"></div>'
            f"<script>(function(e){{{draw}}})(document.currentScript.previousElementSibling)</script>"
        }
    )
    return output


def _totals(summary: dict[str, Any]) -> dict[str, Any]:
    rows = summary["notebooks"]
    return {
        "seconds": sum(row["seconds"] for row in rows),
        "memory": format_memory(max((row["peak_memory_mb"] for row in rows), default=0.0)),
        "good": sum(row["status"] == "ok" for row in rows),
        "date": max((row["started"] for row in rows), default="")[:10],
    }


def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(Path(__file__).with_name("gallery.html.j2").read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
