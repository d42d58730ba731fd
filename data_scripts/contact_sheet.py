"""A contact sheet of a prepared folder of photos: HTML pages to check by eye, without scripts or network."""

from html import escape
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from lib.data.prepared import METADATA

PER_PAGE = 100
REJECTED_SHOWN = 200
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Contact sheet</title><style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff }}
table {{ border-collapse: collapse }} td, th {{ padding: 4px 8px; border-bottom: 1px solid #ddd; text-align: left }}
img {{ height: 112px; vertical-align: middle; background: #fff }}
figure {{ display: inline-block; margin: 0 4px 0 0 }} figure img {{ height: 72px }}
figcaption, small {{ color: #666; font-size: 11px }} nav a, nav b {{ margin-right: .6em }}
</style></head>
<body><h1>Contact sheet</h1>
<p>{title}. Check that masks hold the whole object and nothing else. Colours of normals: red to the right, green
downwards; blue is dark where the surface faces the camera.</p>
<nav>{navigation}</nav>
<table><tr><th>sample</th><th>photo and mask</th><th>crop</th><th>normals</th><th>neighbours</th></tr>
{rows}
</table>
{end}
<nav>{navigation}</nav></body></html>
"""


def write_contact_sheet(folder: Path, neighbors: str, rejected: list[list[str]]) -> None:
    """Write ``contact_sheet/index.html`` and further pages of 100 samples each.

    Parameters
    ----------
    folder : Path
        Prepared folder with ``contact_sheet/thumbnails``.
    neighbors : str
        Name of the file in ``neighbors/``; samples have none shown where it does not exist.
    rejected : list of [file, reason]
        Shown below the samples of the last page.
    """
    table = pd.read_parquet(folder / METADATA).sort_values("id")
    images = dict(zip(table["id"], table["image"], strict=True))
    found: dict[str, list[tuple[str, float]]] = {name: [] for name in images}
    path = folder / "neighbors" / f"{neighbors}.parquet"
    if path.is_file():
        near = pd.read_parquet(path).sort_values(["id", "rank"]).dropna(subset="neighbor")
        for row in near.itertuples():
            found[row.id].append((row.neighbor, row.score))
    count = -(-len(table) // PER_PAGE)
    for number in range(count):
        page = table.iloc[number * PER_PAGE : (number + 1) * PER_PAGE]
        text = PAGE.format(
            title=f"{len(table)} samples, {len(rejected)} files rejected",
            navigation=_navigation(number, count),
            rows="\n".join(_row(sample, found[sample.id], images) for sample in page.itertuples()),
            end=_rejected(rejected) if rejected and number == count - 1 else "",
        )
        (folder / "contact_sheet" / _page_name(number)).write_text(text, "utf-8", errors="backslashreplace")


def _row(sample, near: list[tuple[str, float]], images: dict[str, str]) -> str:
    figures = (
        f"<figure>{_image('../' + images[name], name)}<figcaption>{score:.2f}</figcaption></figure>"
        for name, score in near
    )
    cells = [
        f"<b>{escape(sample.id)}</b><br><small>{escape(sample.category)}, {sample.split}</small>",
        _image(f"thumbnails/{sample.id}.jpg", f"{sample.id}: photo and mask"),
        _image(f"../{sample.image}", f"{sample.id}: crop"),
        _image(f"../{sample.normal}", f"{sample.id}: normals"),
        "".join(figures),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _image(path: str, text: str) -> str:
    return f'<img loading="lazy" src="{quote(path)}" alt="{escape(text)}">'


def _page_name(number: int) -> str:
    return "index.html" if number == 0 else f"page-{number + 1:05d}.html"


def _navigation(number: int, count: int) -> str:
    """Links to the first, the last and the pages around this one."""
    near = range(max(0, number - 5), min(count, number + 6))
    links = {other: f'<a href="{_page_name(other)}">{other + 1}</a>' for other in sorted({0, count - 1, *near})}
    return " ".join((links | {number: f"<b>{number + 1}</b>"}).values()) if count > 1 else ""


def _rejected(rejected: list[list[str]]) -> str:
    rows = (f"<tr><td>{escape(file)}</td><td>{escape(why)}</td></tr>" for file, why in rejected[:REJECTED_SHOWN])
    more = f'<p>{len(rejected)} in all: <a href="../rejected.csv">rejected.csv</a></p>'
    table = "<table><tr><th>file</th><th>reason</th></tr>\n" + "\n".join(rows) + "</table>"
    return f"<h2>Rejected files</h2>\n{table}\n{more}"
