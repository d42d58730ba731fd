"""The numbers of README.md and RESULTS.md, and the picture, from what is shipped: ``python -m lib.course.readme``.

Numbers come from the ``results.json`` beside each shipped checkpoint and from ``lib/results``; they stand between two
marks of the file, so that nobody types one. ``--check`` changes nothing, ``--picture`` draws the picture too.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lib.course.grids import GRIDS, grid_results
from lib.data.loading import PreparedDataset
from lib.evaluation import read_results
from lib.evaluation.claims import summary_table
from lib.evaluation.comparison import comparison_table, markdown_table
from lib.figures.experiments import instance_rows
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import image_grid
from lib.files import write_atomically
from lib.paths import FURNITURE, NOTEBOOKS, REPOSITORY, RESULTS, WEIGHTS
from lib.systems.checkpoints import load_system

README, RESULTS_PAGE = REPOSITORY / "README.md", REPOSITORY / "RESULTS.md"
METRICS = {"chamfer_distance": "10 x CD", "f_score@0.01": "FS@1", "f_score@0.05": "FS@5", "f_score@0.1": "FS@10"}


def _markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def results_section(whole: bool = True, folder: Path = WEIGHTS) -> str:
    """All shipped results under the protocol `view`, best Chamfer distance first; `whole` adds FS@1, n, source."""
    shown = {metric: title for metric, title in METRICS.items() if whole or title != "FS@1"}
    systems: dict[str, dict[str, dict]] = {}
    for path in sorted(folder.glob("*/results.json")):
        for row in read_results(path):
            if row["protocol"] == "view" and row["category"] == "all":
                systems.setdefault(row["system"], {})[row["metric"]] = row | {"file": path.parent.name}
    rows = []
    for name, metrics in sorted(systems.items(), key=lambda item: item[1]["chamfer_distance"]["value"]):
        first = metrics["chamfer_distance"]
        cells = [f"{metrics[metric]['value'] * (10 if metric == 'chamfer_distance' else 1):.3f}" for metric in shown]
        ours = name.startswith(("shapeclipper", "sdf_srn"))
        rows.append([f"**{name}**" if ours else name, *cells, *([first["n"], f"`{first['file']}`"] if whole else [])])
    return _markdown(["system", *shown.values(), *(["n", "from"] if whole else [])], rows)


def neighbors_section(path: Path = RESULTS / "which_neighbors.json") -> str:
    """The same training with other neighbours, with 95 % intervals over models."""
    rows = [row for row in read_results(path) if row["category"] == "all"]
    scores = {row["system"]: row["value"] for row in rows if row["metric"] == "f_score@0.05"}
    distances = [row for row in rows if row["metric"] == "chamfer_distance"]
    cells = []
    for row in sorted(distances, key=lambda row: row["value"]):
        interval = f"{10 * row['low']:.3f} to {10 * row['high']:.3f}"
        score = f"{scores[row['system']]:.3f}"
        cells.append(
            [row["system"].split(": ")[1], f"{10 * row['value']:.3f}", interval, score, row["n"], row["steps"]]
        )
    return _markdown(["neighbours in training", "10 x CD", "95 %", "FS@5", "n", "steps"], cells)


def photographs_section(path: Path = RESULTS / "eth80_neighbors.json") -> str:
    """What notebook 01 measured on ETH-80's photographs, with 95 % intervals over models."""
    scales = {"same_model": 100, "own_object_preferred": 100, "azimuth_difference": 1}
    systems: dict[str, dict[str, str]] = {}
    for row in read_results(path):
        if row["metric"] == "own_object_preferred" and row["protocol"] != "own object turned by 90 degrees":
            continue
        value, low, high = (f"{scales[row['metric']] * row[key]:.1f}" for key in ("value", "low", "high"))
        exact = low == high  # chance, which is counted, not estimated
        systems.setdefault(row["system"], {})[row["metric"]] = value if exact else f"{value} [{low}, {high}]"
    names = ["same object among 5 neighbours, %", "own object preferred after 90°, %", "neighbours' azimuth off by, °"]
    rows = [[name, *(row.get(metric, "") for metric in scales)] for name, row in systems.items()]
    return _markdown(["embedding", *names], rows)


def experiments_section(folder: Path = RESULTS) -> str:
    """The tables of the experiments (`lib.course.grids`) that were kept, and the command for those that were not."""
    parts = []
    for name, grid in GRIDS.items():
        rows = grid_results(name, folder)
        if rows is None:
            parts.append(f"*{grid.title}*: not run. `make experiment NAME={name} SEEDS=3`")
            continue
        first = rows[0]
        about = f"{first['dataset']}, {first['steps']} steps, protocol `{grid.protocol}`, `lib/results/{name}.json`"
        table = markdown_table(comparison_table(rows, grid.protocol))
        parts.append(f"*{grid.title}*, our numbers: {about}\n\n{table}")
    return "\n\n".join(parts)


def claims_section(folder: Path = RESULTS.parent) -> str:
    """How many numbers of each paper's tables and text we have at which size."""
    return markdown_table(summary_table(folder).set_index("paper"))


SECTIONS = {
    "summary": lambda: results_section(whole=False),
    "results": results_section,
    "neighbors": neighbors_section,
    "photographs": photographs_section,
    "experiments": experiments_section,
    "claims": claims_section,
}


def updated(text: str) -> str:
    """A page with the sections between their marks made anew."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin in text:
            before, rest = text.split(begin)
            _, after = rest.split(end)
            text = f"{before}{begin}\n{section()}\n{end}{after}"
    return text


def draw_picture(path: Path = NOTEBOOKS / "overview.png") -> None:
    """Four held-out chairs: image, reconstruction as seen, and from two other sides, true shape."""
    system = load_system(WEIGHTS / "shapeclipper-furniture-chair")
    data = PreparedDataset(FURNITURE, "test", ["chair"])
    rows = instance_rows(len(data))
    batch = data.batch(torch.tensor(rows))
    shape = system.reconstruct(batch.rgb)
    sheet = []
    for i, row in enumerate(rows):
        mesh = shape.mesh(100, i)
        turned = [draw_mesh(mesh, facing(shape.viewpoint[i], turn)) for turn in (0.0, 60.0, 180.0)]
        sheet.append([batch.rgb[i].numpy(), *turned, draw_mesh(data.mesh(row), facing(batch.viewpoint[i]))])
    titles = ["one image", "our shape, same view", "turned by 60°", "turned by 180°", "true shape, same view"]
    figure = image_grid(sheet, titles, size=1.6)
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.course.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page shows other numbers")
    parser.add_argument("--picture", action="store_true", help="draw notebooks/overview.png too")
    options = parser.parse_args(arguments)
    pages = {page: page.read_text(encoding="utf-8") for page in (README, RESULTS_PAGE)}
    stale = {page: updated(text) for page, text in pages.items() if updated(text) != text}
    if options.check and stale:
        names = " and ".join(page.name for page in stale)
        print(
            f"error: {names} shows other numbers than were measured; run python -m lib.course.readme", file=sys.stderr
        )
        return 2
    for page, text in stale.items():
        page.write_text(text, encoding="utf-8")
    if options.picture:
        draw_picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
