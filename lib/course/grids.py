"""Named experiments: which rows a table has, what each changes in a recipe, and how they are compared."""

from dataclasses import dataclass
from pathlib import Path

from lib.errors import InputError
from lib.evaluation import read_results
from lib.evaluation.results import check_one_commit
from lib.paths import RESULTS
from lib.systems.sdf_srn import ABLATIONS as SDF_SRN_ABLATIONS
from lib.systems.shapeclipper import ABLATIONS, IN_THE_PAPER
from lib.training.recipes import ALL_RECIPES, Recipe

FULL = "full"  # the row that all others are compared with
SAVE_EVERY = 100  # steps that an interrupted cell repeats at most


@dataclass(frozen=True)
class Grid:
    """The rows of a table; with so many seeds each makes the cells of an experiment.

    Attributes
    ----------
    title : str
        Whose table it is.
    recipe : str
        Trained where no other is asked for: the one that fits two cores.
    protocol : str
        In which the paper compares: ``view`` (ShapeClipper), ``raw`` (SDF-SRN, known poses).
    rows : dict
        Name -> settings of the recipe to change. The first, `FULL`, changes nothing.
    refined : str
        The row that trains nothing: it takes `FULL`'s networks and optimises the code of each test image; or empty.
    """

    title: str
    recipe: str
    protocol: str
    rows: dict[str, dict]
    refined: str = ""


REFINED = "w/ test-time optimization"
GRIDS = {
    "tables-2-3": Grid(
        "ShapeClipper (CVPR 2023), Tables 2 and 3",
        "small-given",
        "view",
        {FULL: {}} | {name: ABLATIONS[name] for name in IN_THE_PAPER},
    ),
    "sdf-srn-table-3": Grid(
        "SDF-SRN (NeurIPS 2020), Table 3",
        "sdf-srn-small",
        "raw",
        {FULL: {}} | dict(SDF_SRN_ABLATIONS) | {REFINED: {}},
        REFINED,
    ),
    # nobody gives the viewpoints, and a second image of the shape could say more about them than the first alone
    "unknown-viewpoints": Grid(
        "ShapeClipper (CVPR 2023), Tables 2 and 3 with viewpoints that nobody gives",
        "small",
        "view",
        {FULL: {}} | {name: ABLATIONS[name] for name in ("w/o L_SSC", "w/o normal")},
    ),
    # "full" prefers other silhouettes, normalises images, gives the last sample length 0, and sees no 3D shape
    "differences": Grid(
        "ShapeClipper (CVPR 2023), where paper and released code differ",
        "small-given",
        "view",
        {
            FULL: {},
            "neighbours uniform (paper)": {"neighbor_weighting": "uniform"},
            "neighbours as released": {"neighbor_weighting": "released"},
            "images not normalised (released)": {"image_mean": 0.0, "image_std": 1.0},
            "checkpoint chosen by 3D shapes (released)": {"select": "shapes"},
            "last interval infinite (VolSDF)": {"last_interval": "infinite"},
        },
    ),
}


def find_grid(name: str) -> Grid:
    """A grid by its name; `InputError` says which there are."""
    if name not in GRIDS:
        raise InputError(f"NAME: there is no experiment {name!r}; there are {', '.join(GRIDS)}")
    return GRIDS[name]


def grid_results(name: str, folder: Path = RESULTS) -> list[dict] | None:
    """Rows of a grid that was run and kept in ``lib/results``; None where it was not.

    Raises
    ------
    InputError
        They are not all of one clean commit: such rows cannot be compared.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        return None
    rows = read_results(path)
    check_one_commit((row["commit"] for row in rows), path.name)
    return rows


def find_recipe(name: str) -> Recipe:
    """A recipe of any system by its name; `InputError` says which there are."""
    if name not in ALL_RECIPES:
        raise InputError(f"recipe: there is no {name!r}; there are {', '.join(ALL_RECIPES)}")
    return ALL_RECIPES[name]


def size_of(recipe: str, profile: str) -> str:
    """How large a training is, as results call it: "quick", "small" or "paper"."""
    if "quick" in (profile, recipe.removeprefix("sdf-srn-")):
        return "quick"
    return "small" if "small" in recipe else "paper"
