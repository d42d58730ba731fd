"""A contact sheet of a prepared folder of photos: HTML pages to check by eye, without scripts or network."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from lib.data.prepared import METADATA

PER_PAGE = 100
REJECTED_SHOWN = 200
STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: 4px 8px; border-bottom: 1px solid #ddd; text-align: left }
img { height: 112px; vertical-align: middle; background: #fff } .near img { height: 72px; margin-right: 4px }
figure { display: inline-block; margin: 0 } figcaption, small { color: #666; font-size: 11px }
nav a, nav b { margin-right: .6em }
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
    found = _neighbors(folder, neighbors)
    images = dict(zip(table["id"], table["image"], strict=True))
    pages = [table.iloc[start : start + PER_PAGE] for start in range(0, len(table), PER_PAGE)]
    for number, page in enumerate(pages):
        rows = "\n".join(_row(sample, found.get(sample.id, []), images) for sample in page.itertuples())
        end = _rejected(rejected) if number == len(pages) - 1 else ""
        text = _page(
            f"{len(table)} samples, {len(rejected)} files rejected", _navigation(number, len(pages)), rows, end
        )
        (folder / "contact_sheet" / _page_name(number)).write_text(text, encoding="utf-8")


def _neighbors(folder: Path, name: str) -> dict[str, list[tuple[str, float]]]:
    path = folder / "neighbors" / f"{name}.parquet"
    if not path.is_file():
        return {}
    table = pd.read_parquet(path).sort_values(["id", "rank"])
    return {
        key: list(zip(part["neighbor"], part["score"], strict=True))
        for key, part in table[table["neighbor"].notna()].groupby("id")
    }


def _row(sample, near: list[tuple[str, float]], images: dict[str, str]) -> str:
    cells = [
        f"<b>{escape(sample.id)}</b><br><small>{escape(sample.category)}, {sample.split}</small>",
        _image(f"thumbnails/{sample.id}.jpg", f"{sample.id}: photo and mask"),
        _image(f"../{sample.image}", f"{sample.id}: crop"),
        _image(f"../{sample.normal}", f"{sample.id}: normals"),
        "".join(
            f"<figure>{_image('../' + images[name], name)}<figcaption>{score:.2f}</figcaption></figure>"
            for name, score in near
        ),
    ]
    kinds = ["", "", "", "", ' class="near"']
    return "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, cells, strict=True)) + "</tr>"


def _image(path: str, text: str) -> str:
    return f'<img loading="lazy" src="{quote(path)}" alt="{escape(text)}">'


def _page_name(number: int) -> str:
    return "index.html" if number == 0 else f"page-{number + 1:05d}.html"


def _navigation(number: int, count: int) -> str:
    near = range(max(0, number - 5), min(count, number + 6))
    wanted = sorted({0, count - 1, *near})
    return " ".join(_link(other, number) for other in wanted) if count > 1 else ""


def _link(other: int, number: int) -> str:
    return f"<b>{other + 1}</b>" if other == number else f'<a href="{_page_name(other)}">{other + 1}</a>'


def _rejected(rejected: list[list[str]]) -> str:
    if not rejected:
        return ""
    return "\n".join(["<h2>Rejected files</h2>", *_rejected_table(rejected)])


def _rejected_table(rejected: list[list[str]]) -> Iterator[str]:
    yield "<table><tr><th>file</th><th>reason</th></tr>"
    for file, reason in rejected[:REJECTED_SHOWN]:
        yield f"<tr><td>{escape(file)}</td><td>{escape(reason)}</td></tr>"
    yield "</table>"
    if len(rejected) > REJECTED_SHOWN:
        yield f'<p>and {len(rejected) - REJECTED_SHOWN} more in <a href="../rejected.csv">rejected.csv</a></p>'


def _page(title: str, navigation: str, rows: str, end: str) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("sample", "photo and mask", "crop", "normals", "neighbours"))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Contact sheet</title><style>{STYLE}</style></head>
<body><h1>Contact sheet</h1>
<p>{title}. Check that masks hold the whole object and nothing else. Colours of normals: red to the right, green
downwards; blue is dark where the surface faces the camera.</p>
<nav>{navigation}</nav>
<table><tr>{heads}</tr>
{rows}
</table>
{end}
<nav>{navigation}</nav></body></html>
"""
