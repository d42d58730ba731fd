"""The gallery of a run: ``index.html`` with a card for each notebook, and each notebook as a page without a network."""

import base64
import html
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from latex2mathml.converter import convert as latex_to_mathml
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from lib.course.build import read_notebook
from lib.course.outputs import KEY_FIGURE, RESULTS, pngs, tags
from lib.course.run import format_memory, read_summary
from lib.files import write_atomically

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN_ROWS = 100  # of a table that scrolls within its card
TOLD_FIRST = ["system", "metric", "value", "unit", "low", "high", "n"]  # the columns of a table that matter
BOOKKEEPING = ["name", "variant", "category", "protocol", "seed", "steps"]  # after them, where not the same everywhere
BAR = '<nav class="course-bar">{links}</nav>'
PICTURE = re.compile(r'(<div class="jp-RenderedImage[^>]*>\s*<img )(?:alt="[^"]*"\s*)?')  # nbconvert knows no words
# what the converter of formulas does not know, and what it does know that looks the same
SYNONYMS = (("{aligned}", "{align*}"), (r"\operatorname", r"\mathrm"), (r"\lVert", r"\|"), (r"\rVert", r"\|"))


def write_gallery(target: Path) -> Path:
    """Render every notebook of `target` and write its ``index.html``; give the page's path."""
    summary = read_summary(target)
    rows = summary["notebooks"]
    pages = [row["notebook"] for row in rows if (target / f"{row['notebook']}.ipynb").is_file()]
    for before, name, after in zip(["", *pages], pages, [*pages[1:], ""], strict=False):
        _write(target / f"{name}.html", render_notebook(target / f"{name}.ipynb", before, after))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("gallery.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        cards=[make_card(row, target) for row in rows],
        machine=summary["machine"],
        profile=target.name,
        seconds=sum(row["seconds"] for row in rows),
        memory=format_memory(max((row["peak_memory_mb"] for row in rows), default=0.0)),
        good=sum(row["status"] == "ok" for row in rows),
        date=max((row["started"] for row in rows), default="")[:10],
    )
    return _write(target / "index.html", page)


def make_card(row: dict[str, Any], target: Path) -> dict[str, Any]:
    """Gather what one card shows: title, purpose, key figure, results, time, memory, status."""
    path = target / f"{row['notebook']}.ipynb"
    notebook = read_notebook(path) if path.is_file() else NotebookNode(cells=[])
    title, purpose = heading_and_purpose(notebook, row["notebook"])
    pictured = sorted((cell for cell in notebook.cells if pngs(cell)), key=lambda cell: KEY_FIGURE in tags(cell))
    return row | {
        "title": title,
        "purpose": purpose,
        "figure": base64.b64encode(pngs(pictured[-1])[-1]).decode() if pictured else "",
        "alt": str(pictured[-1].metadata.get("alt", "key figure")) if pictured else "",
        "text": results_text(notebook),
        "tables": [results_table(path, target) for path in results_files(row)],
        "page": f"{row['notebook']}.html" if notebook.cells else "",
        "memory": format_memory(row["peak_memory_mb"]),
    }


def heading_and_purpose(notebook: NotebookNode, name: str) -> tuple[str, str]:
    """Give the first heading of a notebook and the first paragraph below it, as plain text."""
    own = [cell for cell in notebook.cells if not any(tag.startswith("papermill") for tag in tags(cell))]
    text = next((cell.source.strip() for cell in own if cell.cell_type == "markdown"), "")
    title, _, rest = text.partition("\n") if text.startswith("#") else (name, "", text)
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", rest) if part.strip()]
    purpose = _plain(next((part for part in paragraphs if not part.startswith(("#", "!", "<", "|"))), ""))
    return _plain(title.lstrip("# ")), purpose if len(purpose) <= 260 else purpose[:257].rsplit(" ", 1)[0] + " …"


def _plain(markdown: str) -> str:
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*`$]|\\(?=[a-zA-Z])", "", text).replace("\n", " ")


def results_text(notebook: NotebookNode) -> str:
    """Give the text that cells tagged ``results`` show."""
    shown = [output for cell in notebook.cells if RESULTS in tags(cell) for output in cell.get("outputs", [])]
    texts = [
        output.get("text", "") if output.get("name") == "stdout" else output.get("data", {}).get("text/plain", "")
        for output in shown
    ]
    return "\n".join(text.rstrip() for text in texts if text.strip() and not text.startswith("<Figure"))


def results_files(row: dict[str, Any]) -> list[Path]:
    """List the ``results.json`` that this run of the notebook wrote in its run folder; older ones do not count."""
    since = datetime.fromisoformat(row["started"]).timestamp()
    return [path for path in sorted(Path(row["run_dir"]).rglob("results.json")) if path.stat().st_mtime >= since]


def results_table(path: Path, target: Path) -> dict[str, Any]:
    """Lay out rows of a ``results.json`` for the card: a row for each number, what matters in the first columns.

    The protocol stands beside the metric, for a number means nothing without it. What is the same everywhere is said
    once, above; a file that is not a list of results says so instead.
    """
    link = path.relative_to(target).as_posix() if path.is_relative_to(target) else path.resolve().as_uri()
    about = {"link": link, "name": link if path.is_relative_to(target) else path.name}
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "metric" in row for row in rows):
        return about | {"html": "", "more": 0, "note": f"{path.name} is not a list of results"}
    table = pd.DataFrame(rows, dtype=object)
    table = table[[name for name in TOLD_FIRST + BOOKKEEPING if name in table and table[name].notna().any()]]
    if "category" in table and (overall := table["category"].isin(["", "all", "overall", "mean"])).any():
        table = table[overall]
    table = table.drop_duplicates([name for name in table if name in ("system", "metric", *BOOKKEEPING)], keep="last")
    same = [name for name in BOOKKEEPING if name in table and len(table) > 1 and table[name].nunique(dropna=False) == 1]
    note = " · ".join(f"{name} {table[name].iloc[0]}" for name in same)
    table = table.drop(columns=same)
    table["metric"] = table["metric"].str.replace("_", " ")
    if "protocol" in table:
        table["metric"] += [f", {text}" if text not in ("", "none", None) else "" for text in table.pop("protocol")]
    shown = table.head(SHOWN_ROWS)
    page = shown.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
    return about | {"html": page, "more": len(table) - len(shown), "note": note}


class _MathRenderer(IPythonRenderer):
    """Formulas as MathML, which browsers draw by themselves; one that cannot be converted stays. Folds stay folded."""

    def block_math(self, body: str) -> str:
        return _mathml(body, "block") or super().block_math(body)

    def inline_math(self, body: str) -> str:
        return _mathml(body, "inline") or super().inline_math(body)

    def block_html(self, html: str) -> str:
        """Raw HTML; what has no image stays as it is, for embedding images closes a <details> before its text."""
        return super().block_html(html) if "<img" in html else html

    def inline_html(self, html: str) -> str:
        """Raw HTML within a paragraph, likewise."""
        return super().inline_html(html) if "<img" in html else html


def _mathml(latex: str, display: str) -> str:
    for known, same in SYNONYMS:
        latex = latex.replace(known, same)
    try:
        return latex_to_mathml(latex.strip(), display=display)
    except Exception:  # its errors share no base class, and a raw formula is better than no page
        return ""


class _PageExporter(HTMLExporter):
    @jinja2.pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        folder = context.get("resources", {}).get("metadata", {}).get("path", "")
        return MarkdownWithMath(_MathRenderer(escape=False, embed_images=True, path=folder)).render(source)


def render_notebook(path: Path, before: str = "", after: str = "") -> str:
    """Render an executed notebook to HTML: formulas as MathML, plotly figures alive, nothing loaded from a network.

    `before` and `after` are the names of the notebooks that its page links to.
    """
    notebook = read_notebook(path)
    notebook.metadata.pop("widgets", None)  # else the page asks the web for a script that shows controls
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [_showable(output, path.parent) for output in cell.outputs if not _is_bare_widget(output)]
    exporter = _PageExporter(template_name="lab", embed_images=True)
    exporter.mathjax_url = exporter.require_js_url = exporter.jquery_url = ""
    about = {"metadata": {"name": heading_and_purpose(notebook, path.stem)[0], "path": str(path.parent)}}
    page, _ = exporter.from_notebook_node(notebook, resources=about)
    # IPython's FileLink counts from the notebooks, a page from its own folder
    page = re.sub(rf'href="\.\./[^"]*?{re.escape(path.parent.name)}/', 'href="', page)
    told = [cell.metadata.get("alt", "a figure") for cell in notebook.cells for _ in pngs(cell)]
    words = iter(html.escape(text, quote=True) for text in told)
    page = PICTURE.sub(lambda match: f'{match[1]}alt="{next(words, "a figure")}" ', page)
    places = {"index": "all notebooks", before: f"&larr; {before}", after: f"{after} &rarr;"}
    bar = BAR.format(links="".join(f'<a href="{name}.html">{text}</a>' for name, text in places.items() if name))
    page = page.replace("</head>", f"<style>{_page_style(exporter)}</style></head>", 1)
    return re.sub(r"(<body[^>]*>)", lambda match: match[1] + bar, page, count=1)


def _page_style(exporter: HTMLExporter) -> str:
    """Our style for a notebook's page, with JupyterLab's own dark colours for readers whose system is dark."""
    paths = [Path(folder) / "static" / "theme-dark.css" for folder in exporter.template_paths]
    dark = next((path.read_text(encoding="utf-8") for path in paths if path.is_file()), "")
    ours = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return f"@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n{ours}"


def _is_bare_widget(output: NotebookNode) -> bool:
    """A control has no meaning on a page without a kernel."""
    return WIDGET in output.get("data", {}) and not {"image/png", "text/html"} & set(output.data)


def _showable(output: NotebookNode, folder: Path) -> NotebookNode:
    """Turn a plotly figure into HTML that draws itself with the gallery's one copy of plotly."""
    if PLOTLY not in output.get("data", {}):
        return output
    from plotly.offline import get_plotlyjs

    if not (folder / "plotly.min.js").is_file():
        _write(folder / "plotly.min.js", get_plotlyjs())
    figure = html.escape(json.dumps(output.data[PLOTLY]), quote=True)
    options = "{responsive:true,scrollZoom:false,displayModeBar:false}"  # the wheel scrolls the page
    draw = "var f=JSON.parse(e.dataset.figure);f.layout.height=Math.min(f.layout.height||450,.7*e.clientWidth);"
    draw += f"Plotly.newPlot(e,f.data,f.layout,{options})"
    page = '<script src="plotly.min.js"></script>'
    page += f'<div class="plotly-figure" data-figure="{figure}"></div>'
    page += f"<script>(function(e){{{draw}}})(document.currentScript.previousElementSibling)</script>"
    output.data = NotebookNode({"text/html": page})
    return output


def _write(path: Path, text: str) -> Path:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path
