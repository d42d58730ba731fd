"""The cells of an experiment: a row of a table and a seed, each in a folder of its own."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from lib.course.build import slugify
from lib.course.grids import FULL, SAVE_EVERY, Grid, find_recipe
from lib.data.prepared import read_prepared
from lib.errors import InputError
from lib.evaluation.results import commit
from lib.files import read_json, write_json
from lib.paths import FURNITURE
from lib.systems import make_system
from lib.systems.checkpoints import begin_with
from lib.training.__main__ import only_category
from lib.training.state import first_difference, with_new_settings

ABOUT = "cell.json"
NOT_OF_THE_CELL = ("data_root", "run_dir", "device", "refine_from")  # where and on what, not what


@dataclass(frozen=True)
class Settings:
    """What all cells of an experiment share.

    Attributes
    ----------
    recipe : str
        Empty: the grid's own.
    changes : tuple of (name, value)
        Settings of the recipe that every cell changes; ``start`` is a checkpoint that every training begins with.
    profile : str
        "full" measures all test images; "quick" a few, coarsely.
    resolution, points : int
        How finely meshes are taken from the field and compared; 0: the profile's.
    """

    output: Path
    seeds: int = 1
    recipe: str = ""
    changes: tuple[tuple[str, object], ...] = ()
    dataset: Path = FURNITURE
    category: str = "chair"
    profile: str = "full"
    device: str = "auto"
    resolution: int = 0
    points: int = 0

    @property
    def measured(self) -> dict[str, int]:
        """How finely, where that is not the profile's."""
        return {name: value for name in ("resolution", "points") if (value := getattr(self, name))}


@dataclass(frozen=True)
class Cell:
    """One training, or refinement of another's codes: its row, its seed, its folder and what notebook 08 gets.

    Attributes
    ----------
    about : dict
        What makes a cell itself: two folders with the same hold the same cell.
    """

    row: str
    seed: int
    folder: Path
    parameters: dict
    about: dict

    @property
    def name(self) -> str:
        """As shown to the user."""
        return f"{self.row}, seed {self.seed}"

    @property
    def finished(self) -> bool:
        """The notebook writes this file last."""
        return (self.folder / "results.json").is_file()

    def begin(self) -> None:
        """Write down what the cell is, and at which commits it was worked at."""
        path = self.folder / ABOUT
        before = read_json(path).get("commits", []) if path.is_file() else []
        write_json(path, self.about | {"commits": sorted({*before, commit()})})

    @property
    def waits(self) -> bool:
        """It measures another cell's networks, and that one is not finished."""
        other = self.parameters.get("refine_from")
        return other is not None and not (Path(other) / "results.json").is_file()


def plan_cells(grid: Grid, settings: Settings) -> list[Cell]:
    """The cells of an experiment, seed by seed, all checked before the first one runs.

    Raises
    ------
    InputError
        Fewer than one seed, a setting that the recipe does not have, a start that is no checkpoint of its system, a
        dataset without the category, or a folder that holds a cell of another configuration.
    """
    if settings.seeds < 1:
        raise InputError(f"SEEDS: must be at least 1, not {settings.seeds}")
    data = read_prepared(settings.dataset)
    if settings.category and settings.category not in set(data.metadata["category"]):
        raise InputError(f"category: {settings.dataset} has no {settings.category!r}")
    cells = [_plan_cell(grid, row, seed, settings, data.info) for seed in range(settings.seeds) for row in grid.rows]
    for cell in cells:
        _check_folder(cell)
    recipe = find_recipe(settings.recipe or grid.recipe).changed(**dict(settings.changes))
    if recipe.training.start:
        begin_with(make_system(replace(recipe.system, backbone_weights="random")), Path(recipe.training.start))
    return cells


def _plan_cell(grid: Grid, row: str, seed: int, settings: Settings, info: dict) -> Cell:
    recipe = settings.recipe or grid.recipe
    # refining for longer or shorter changes only the row that refines
    shared = {name: value for name, value in settings.changes if row == grid.refined or name != "refine_steps"}
    changes = {"save_every": SAVE_EVERY, **shared, **grid.rows[row]}
    category = only_category(settings.dataset, [settings.category] if settings.category else None)
    chosen = find_recipe(recipe).for_category(category).changed(**changes)  # says what is wrong with them
    folders = {name: (settings.output / "cells" / f"{slugify(name)}-{seed}").resolve() for name in (row, FULL)}
    parameters = {
        "profile": settings.profile,
        "recipe": recipe,
        "row": row,
        "changes": changes,
        "dataset": info["name"],
        "data_root": str(settings.dataset.resolve()),
        "category": settings.category,
        "run_dir": str(folders[row]),
        "seed": seed,
        "device": settings.device,
        **settings.measured,
    }
    if row == grid.refined:
        parameters["refine_from"] = str(folders[FULL])
    about = {name: value for name, value in parameters.items() if name not in NOT_OF_THE_CELL}
    about |= {"checksum": info["metadata_sha256"], "system": asdict(chosen.system), "training": asdict(chosen.training)}
    return Cell(row, seed, folders[row], parameters, json.loads(json.dumps(about)))


def _check_folder(cell: Cell) -> None:
    """A folder must be empty or of the same cell."""
    path = cell.folder / ABOUT
    if not path.is_file():
        if cell.finished:
            raise InputError(f"{cell.folder} has results but no {ABOUT}: choose another --output or delete the folder")
        return
    recipe = find_recipe(cell.parameters["recipe"])
    saved = with_new_settings(read_json(path), recipe.system, recipe.training)
    saved.pop("commits", None)  # a cell may go on at another commit, but `keep_report` will refuse it
    what = first_difference(_flat(saved), _flat(cell.about))
    if what:
        raise InputError(f"{cell.folder} holds a cell with {what}: choose another --output or delete the folder")


def _flat(about: dict) -> dict:
    """Settings inside settings by one name each."""
    parts = {name: value for name, value in about.items() if isinstance(value, dict)}
    inner = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return {name: value for name, value in about.items() if name not in parts} | inner
