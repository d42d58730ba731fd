"""Named experiments: which rows a table has, what each changes in a recipe, and how they are compared."""

from dataclasses import dataclass, field

from lib.errors import InputError
from lib.objective import ABLATIONS, IN_THE_PAPER
from lib.recipes import RECIPES, SDF_SRN_RECIPES, Recipe
from lib.systems.sdf_srn_config import ABLATIONS as SDF_SRN_ABLATIONS

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
    """

    title: str
    recipe: str
    protocol: str
    rows: dict[str, dict] = field(default_factory=lambda: {FULL: {}})


GRIDS = {
    "tables-2-3": Grid(
        "ShapeClipper (CVPR 2023), Tables 2 and 3",
        "small-given",
        "view",
        {FULL: {}} | {name: ABLATIONS[name] for name in IN_THE_PAPER},
    ),
    "sdf-srn-table-3": Grid(
        "SDF-SRN (NeurIPS 2020), Table 3", "sdf-srn-small", "raw", {FULL: {}} | dict(SDF_SRN_ABLATIONS)
    ),
}


def find_grid(name: str) -> Grid:
    """A grid by its name; `InputError` says which there are."""
    if name not in GRIDS:
        raise InputError(f"NAME: there is no experiment {name!r}; there are {', '.join(GRIDS)}")
    return GRIDS[name]


def find_recipe(name: str) -> Recipe:
    """A recipe of any system by its name; `InputError` says which there are."""
    recipes = RECIPES | SDF_SRN_RECIPES
    if name not in recipes:
        raise InputError(f"recipe: there is no {name!r}; there are {', '.join(recipes)}")
    return recipes[name]


def size_of(recipe: str, profile: str) -> str:
    """How large a training is, as results call it: "quick", "small" or "paper"."""
    if "quick" in (profile, recipe.removeprefix("sdf-srn-")):
        return "quick"
    return "small" if "small" in recipe else "paper"
