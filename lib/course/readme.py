"""The README's numbers and picture, made from what is shipped: ``python -m lib.course.readme [--check] [--picture]``.

Numbers come from the ``results.json`` beside each shipped checkpoint and stand between two marks of the README, so
that nobody types one.
"""

import argparse
import sys
from pathlib import Path

from lib.paths import REPOSITORY, RESULTS, WEIGHTS

README = REPOSITORY / "README.md"
PICTURE = REPOSITORY / "notebooks" / "overview.png"
METRICS = {"chamfer_distance": "10 x CD", "f_score@0.01": "FS@1", "f_score@0.05": "FS@5", "f_score@0.1": "FS@10"}


def results_section(folder: Path = WEIGHTS, protocol: str = "view") -> str:
    """A Markdown table, a row a system, of all shipped results under one protocol, best Chamfer distance first."""
    from lib.evaluation import read_results

    paths = sorted(folder.glob("*/results.json"))
    rows = [row | {"file": path.parent.name} for path in paths for row in read_results(path)]
    rows = [row for row in rows if row["protocol"] == protocol and row["category"] == "all"]
    systems = {}
    for row in rows:
        systems.setdefault(row["system"], {})[row["metric"]] = row
    lines = ["| system | " + " | ".join(METRICS.values()) + " | n | from |", "|---|" + "---|" * (len(METRICS) + 2)]
    for name, metrics in sorted(systems.items(), key=lambda item: item[1]["chamfer_distance"]["value"]):
        first = metrics["chamfer_distance"]
        cells = [f"{metrics[metric]['value'] * (10 if metric == 'chamfer_distance' else 1):.3f}" for metric in METRICS]
        bold = "**" if name.startswith("shapeclipper") else ""
        lines.append(f"| {bold}{name}{bold} | {' | '.join(cells)} | {first['n']} | `{first['file']}` |")
    return "\n".join(lines)


def neighbors_section(path: Path = RESULTS / "which_neighbors.json") -> str:
    """A Markdown table of the same training with other neighbours, with 95 % intervals over models."""
    from lib.evaluation import read_results

    lines = ["| neighbours in training | 10 x CD | 95 % | FS@5 | n | steps |", "|---|---|---|---|---|---|"]
    rows = [row for row in read_results(path) if row["category"] == "all"]
    distances = [row for row in rows if row["metric"] == "chamfer_distance"]
    scores = {row["system"]: row["value"] for row in rows if row["metric"] == "f_score@0.05"}
    for row in sorted(distances, key=lambda row: row["value"]):
        name, interval = row["system"].split(": ")[1], f"{10 * row['low']:.3f} to {10 * row['high']:.3f}"
        cells = f"{10 * row['value']:.3f} | {interval} | {scores[row['system']]:.3f} | {row['n']} | {row['steps']}"
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def photographs_section(path: Path = RESULTS / "eth80_neighbors.json") -> str:
    """A Markdown table of what notebook 01 measured on ETH-80's photographs, with 95 % intervals over models."""
    from lib.evaluation import read_results

    metrics = {"same_model": (100, 1), "own_object_preferred": (100, 1), "azimuth_difference": (1, 1)}
    names = ["same object among 5 neighbours, %", "own object preferred after 90°, %", "neighbours' azimuth off by, °"]
    systems = {}
    for row in read_results(path):
        if row["metric"] == "own_object_preferred" and row["protocol"] != "own object turned by 90 degrees":
            continue
        scale, digits = metrics[row["metric"]]
        value, low, high = (f"{scale * row[key]:.{digits}f}" for key in ("value", "low", "high"))
        exact = low == high  # chance, which is counted, not estimated
        systems.setdefault(row["system"], {})[row["metric"]] = value if exact else f"{value} [{low}, {high}]"
    lines = ["| embedding | " + " | ".join(names) + " |", "|---|---|---|---|"]
    lines += [f"| {name} | {' | '.join(row.get(key, '') for key in metrics)} |" for name, row in systems.items()]
    return "\n".join(lines)


def experiments_section(folder: Path = RESULTS) -> str:
    """The tables of the experiments (`lib.course.grids`) that were kept, and the command for those that were not."""
    from lib.course.grids import GRIDS, grid_results
    from lib.evaluation.comparison import comparison_table, markdown_table

    parts = []
    for name, grid in GRIDS.items():
        rows = grid_results(name, folder)
        if rows is None:
            parts.append(f"*{grid.title}*: not run. `make experiment NAME={name} SEEDS=3`")
            continue
        first = rows[0]
        about = f"{first['dataset']}, {first['steps']} steps, protocol `{grid.protocol}`, `lib/results/{name}.json`"
        parts.append(f"*{grid.title}*, our numbers: {about}\n\n{markdown_table(comparison_table(rows, grid.protocol))}")
    return "\n\n".join(parts)


def claims_section(folder: Path = RESULTS.parent) -> str:
    """How many numbers of each paper's tables and text we have at which size: a Markdown table."""
    from lib.evaluation.claims import summary_table
    from lib.evaluation.comparison import markdown_table

    return markdown_table(summary_table(folder).set_index("paper"))


SECTIONS = {
    "results": results_section,
    "neighbors": neighbors_section,
    "photographs": photographs_section,
    "experiments": experiments_section,
    "claims": claims_section,
}


def updated(text: str) -> str:
    """The README with the sections between their marks made anew."""
    for name, section in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if begin not in text:
            continue
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = f"{before}{begin}\n{section()}\n{end}{after}"
    return text


def draw_picture() -> None:
    """Four held-out chairs: image, reconstruction as seen, and from two other sides, true shape."""
    import matplotlib

    matplotlib.use("Agg")
    import torch

    from lib.data.loading import PreparedDataset
    from lib.figures.experiments import instance_rows
    from lib.figures.shapes import draw_mesh, facing
    from lib.figures.style import image_grid
    from lib.paths import FURNITURE
    from lib.training.checkpoints import load_system

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
    figure.savefig(PICTURE, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.course.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the README's numbers are not the shipped ones")
    parser.add_argument("--picture", action="store_true", help="draw notebooks/overview.png too")
    options = parser.parse_args(arguments)
    old = README.read_text(encoding="utf-8")
    new = updated(old)
    if options.check and new != old:
        print("error: README.md shows other numbers than lib/weights; run python -m lib.course.readme", file=sys.stderr)
        return 2
    README.write_text(new, encoding="utf-8")
    if options.picture:
        draw_picture()
    return 0


if __name__ == "__main__":
    sys.exit(main())
