"""A contact sheet of a prepared folder of photos: HTML pages to check by eye, without scripts or network."""

from pathlib import Path

import pandas as pd
from jinja2 import Template

from lib.data.prepared import METADATA

PER_PAGE = 100


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
    text = Path(__file__).with_name("contact_sheet.html.j2").read_text(encoding="utf-8")
    template = Template(text, autoescape=True)
    table = pd.read_parquet(folder / METADATA).sort_values("id")
    images = dict(zip(table["id"], table["image"], strict=True))
    near: dict[str, list[tuple[str, float]]] = {name: [] for name in images}
    path = folder / "neighbors" / f"{neighbors}.parquet"
    if path.is_file():
        for row in pd.read_parquet(path).sort_values(["id", "rank"]).dropna(subset="neighbor").itertuples():
            near[row.id].append((row.neighbor, row.score))
    about = {"samples": len(table), "images": images, "near": near, "rejected": rejected}
    count = -(-len(table) // PER_PAGE)
    for number in range(count):
        page = list(table.iloc[number * PER_PAGE : (number + 1) * PER_PAGE].itertuples())
        name = "index.html" if number == 0 else f"page-{number + 1:05d}.html"
        html = template.render(about, page=page, number=number, count=count)
        (folder / "contact_sheet" / name).write_text(html, "utf-8", errors="backslashreplace")
