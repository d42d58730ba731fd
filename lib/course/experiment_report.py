"""What an experiment has found so far: ``results.json``, ``table.md``, ``table.csv`` and ``instances.png``."""

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import pandas as pd

from lib.course.experiment_cells import ABOUT, Cell, Settings
from lib.course.grids import FULL, Grid, find_recipe, size_of
from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import read_instances, read_results, refined_predictor, system_predictor, write_results
from lib.evaluation.comparison import compare_rows, comparison_table, markdown_table
from lib.evaluation.results import check_one_commit, kept_name
from lib.figures.experiments import instance_rows, side_by_side
from lib.files import read_json, write_atomically
from lib.paths import RESULTS
from lib.systems.checkpoints import load_system

LEGEND = """
10 x CD, accuracy and coverage are mean distances times ten: less is better. FS@5 is a share: more is better. Azimuths
are there where nobody gives them: mean of how far they are off. ± is the standard deviation over seeds. A difference is
the row's minus *{reference}*'s, image by image, with the middle 95 % of bootstrap resamples of the models; * where that
leaves out 0 and every seed, of two or more, has its sign.
"""


def write_report(grid: Grid, settings: Settings, cells: Sequence[Cell]) -> str:
    """Write the files of an experiment from those of its cells that are finished; gives the table with its heading."""
    finished = [cell for cell in cells if cell.finished]
    measured = [read_results(cell.folder / "results.json") for cell in finished]
    instances = pd.concat([read_instances(cell.folder / "instances.parquet") for cell in finished])
    rows = [row for row in grid.rows if any(cell.row == row for cell in finished)]
    pairs = list(zip(finished, measured, strict=True))
    about = {row: _common([numbers for cell, numbers in pairs if cell.row == row]) for row in rows}
    results = [number for numbers in measured for number in numbers]
    results += compare_rows(instances, about, FULL)
    write_results(settings.output / "results.json", results)
    table = comparison_table(results, grid.protocol)
    heading = _heading(grid, settings, f"{len(finished)} of {len(cells)} cells")
    text = f"{heading}\n\n{markdown_table(table)}\n{LEGEND.format(reference=FULL)}"
    write_atomically(settings.output / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(settings.output / "table.csv", lambda path: table.to_csv(path))
    _draw(settings, {row: next(cell for cell in finished if cell.row == row) for row in rows})
    return f"\n{text}\nwrote results.json, table.md, table.csv and instances.png to {settings.output}"


def _common(measured: Sequence[list[dict]]) -> dict:
    """The columns that the results of a row's cells have in common; seconds are those of all of them."""
    first = next(row for row in measured[0] if row["protocol"] != "none")
    several = {key: ", ".join(sorted({rows[0][key] for rows in measured})) for key in ("commit", "machine")}
    return first | several | {"seconds": round(sum(rows[0]["seconds"] or 0 for rows in measured), 2)}


def _heading(grid: Grid, settings: Settings, cells: str) -> str:
    name = settings.recipe or grid.recipe
    recipe = find_recipe(name).changed(**dict(settings.changes))
    steps = f"{recipe.training.pretrain_steps} + {recipe.training.steps} steps"
    changed = [f"{key}={value}" for key, value in settings.changes if key not in ("steps", "pretrain_steps")]
    measured = [f"{name} {value}" for name, value in settings.measured.items()]
    how = ", ".join([steps, f"images of {recipe.system.image_size} pixels", *changed, *measured])
    return (
        f"**{grid.title}**, our numbers: {settings.category or 'all categories'} of {settings.dataset.name}, "
        f"recipe `{name}` ({how}), profile {settings.profile}, protocol `{grid.protocol}`, {cells}"
    )


def _draw(settings: Settings, cells: dict[str, Cell]) -> None:
    """The same held-out images for every row, from the first seed that it has."""
    predictors = {}
    for row, cell in cells.items():
        other = cell.parameters.get("refine_from")  # its networks are another cell's
        system = load_system(other or cell.folder)
        predictors[row] = system_predictor(system, 80)
        if other:
            predictors[row] = refined_predictor(system, 80, cell.about["system"]["refine_steps"], cell.seed)
    test = PreparedDataset(settings.dataset, "test", [settings.category] if settings.category else None)
    figure = side_by_side(predictors, test, instance_rows(len(test)))
    write_atomically(settings.output / "instances.png", lambda path: figure.savefig(path, dpi=110, format="png"))


def keep_report(name: str, settings: Settings, cells: Sequence[Cell], folder: Path = RESULTS) -> Path:
    """Copy the results and the figure of a whole experiment to where the ledger and RESULTS.md look for them.

    Parameters
    ----------
    name : str
        Of the grid; `kept_name` makes the files' name of it.

    Raises
    ------
    InputError
        Cells are not finished, or were not all trained and measured at one clean commit.
    """
    missing = sum(not cell.finished for cell in cells)
    if missing:
        raise InputError(f"--keep: {missing} of {len(cells)} cells are not finished, so nothing was copied to {folder}")
    begun_at = [commit for cell in cells for commit in read_json(cell.folder / ABOUT).get("commits", ["unknown"])]
    measured_at = [row["commit"] for row in read_results(settings.output / "results.json")]
    check_one_commit([*begun_at, *measured_at], settings.output)
    about = cells[0].parameters
    size = size_of(about["recipe"], settings.profile)
    path = folder / f"{kept_name(name, about['dataset'], settings.category, size)}.json"
    for source, target in (("results.json", path), ("instances.png", path.with_suffix(".png"))):
        write_atomically(target, lambda temporary, source=source: copyfile(settings.output / source, temporary))
    return path
