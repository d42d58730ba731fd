"""What an experiment has found so far: ``results.json``, ``table.md``, ``table.csv`` and ``instances.png``."""

from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile

import pandas as pd
from torch import nn

from lib.course.experiment_cells import Cell, Settings
from lib.course.grids import FULL, Grid, find_recipe, kept_name, size_of
from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import Predictor, read_instances, read_results, refined_predictor, write_results
from lib.evaluation.comparison import compare_rows, comparison_table, markdown_table
from lib.files import write_atomically
from lib.paths import RESULTS
from lib.training.checkpoints import load_system

LEGEND = """
10 x CD, accuracy and coverage are mean distances times ten: less is better. FS@5 is a share: more is better. ± is the
standard deviation over seeds. A difference is the row's minus *{reference}*'s, image by image, with the middle 95 % of
bootstrap resamples of the models; * where that leaves out 0 and every seed, of two or more, has its sign.
"""


def write_report(grid: Grid, settings: Settings, cells: Sequence[Cell], planned: int) -> str:
    """Write the files of an experiment from its finished cells; gives back the table with its heading."""
    results = [row for cell in cells for row in read_results(cell.folder / "results.json")]
    instances = pd.concat([read_instances(cell.folder / "instances.parquet") for cell in cells])
    results += compare_rows(instances, {row: _about(row, cells) for row in grid.rows if _cells(row, cells)}, FULL)
    write_results(settings.output / "results.json", results)
    table = comparison_table(results, grid.protocol)
    text = (
        f"{_heading(grid, settings, len(cells), planned)}\n\n{markdown_table(table)}\n{LEGEND.format(reference=FULL)}"
    )
    write_atomically(settings.output / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(settings.output / "table.csv", lambda path: table.to_csv(path))
    _draw(settings, cells)
    return f"\n{text}\nwrote results.json, table.md, table.csv and instances.png to {settings.output}"


def _cells(row: str, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.row == row]


def _about(row: str, cells: Sequence[Cell]) -> dict:
    """The columns that the results of a row's cells have in common; seconds are those of all of them."""
    of_cells = [read_results(cell.folder / "results.json") for cell in _cells(row, cells)]
    first = next(one for one in of_cells[0] if one["protocol"] != "none")
    several = {key: ", ".join(sorted({rows[0][key] for rows in of_cells})) for key in ("commit", "machine")}
    return first | several | {"seconds": round(sum(rows[0]["seconds"] or 0 for rows in of_cells), 2)}


def _heading(grid: Grid, settings: Settings, finished: int, planned: int) -> str:
    name = settings.recipe or grid.recipe
    recipe = find_recipe(name).changed(**dict(settings.changes))
    given = "viewpoints given" if recipe.system.viewpoint == "given" else "viewpoints unknown"
    training = recipe.training
    return (
        f"**{grid.title}**, our numbers: {settings.category or 'all categories'} of {settings.dataset.name}, "
        f"recipe `{name}` ({given}, {training.pretrain_steps} + {training.steps} steps, images of "
        f"{recipe.system.image_size} pixels{_changed(settings)}), profile {settings.profile}, "
        f"protocol `{grid.protocol}`, "
        f"{finished} of {planned} cells"
    )


def _changed(settings: Settings) -> str:
    """Settings that differ from the recipe's, for all rows."""
    return "".join(f", {name}={value}" for name, value in settings.changes if name not in ("steps", "pretrain_steps"))


def keep_report(name: str, settings: Settings, cells: Sequence[Cell], folder: Path = RESULTS) -> Path:
    """Copy the results and the figure of a whole experiment to where the ledger and the README look for them.

    Parameters
    ----------
    name : str
        Of the grid; `lib.course.grids.kept_name` makes the files' name of it.

    Raises
    ------
    InputError
        Cells are not finished.
    """
    missing = sum(not cell.finished for cell in cells)
    if missing:
        raise InputError(f"--keep: {missing} of {len(cells)} cells are not finished, so nothing was copied to {folder}")
    about = cells[0].parameters
    size = size_of(about["recipe"], settings.profile)
    path = folder / f"{kept_name(name, about['dataset'], settings.category, size)}.json"
    for source, target in (("results.json", path), ("instances.png", path.with_suffix(".png"))):
        write_atomically(target, lambda temporary, source=source: copyfile(settings.output / source, temporary))
    return path


def _draw(settings: Settings, cells: Sequence[Cell]) -> None:
    """The same held-out images for every row, of the first seed that it has."""
    from lib.figures.experiments import instance_rows, side_by_side

    categories = [settings.category] if settings.category else None
    test = PreparedDataset(settings.dataset, "test", categories)
    chosen = {cell.row: cell for cell in sorted(cells, key=lambda cell: -cell.seed)}
    rows = {cell.row: chosen[cell.row] for cell in cells}  # in the order of the table
    systems = {row: _measured(cell) for row, cell in rows.items()}
    figure = side_by_side(systems, test, instance_rows(len(test)))
    write_atomically(settings.output / "instances.png", lambda path: figure.savefig(path, dpi=110, format="png"))


def _measured(cell: Cell) -> nn.Module | Predictor:
    """What a cell measured: its own networks, or another's with codes that are optimised for each image."""
    other = cell.parameters.get("refine_from")
    if other is None:
        return load_system(cell.folder)
    return refined_predictor(load_system(other), 80, cell.made_of["system"]["refine_steps"], cell.seed)
