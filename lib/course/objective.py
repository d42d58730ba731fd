"""ShapeClipper's objective as tables: what each term is, what it weighs, and which switch turns it off."""

from dataclasses import dataclass

import pandas as pd

from lib.systems.shapeclipper_config import ShapeClipperConfig
from lib.training.recipes import RECIPES


@dataclass(frozen=True)
class Term:
    """One term of the objective.

    Attributes
    ----------
    name : str
        Its key in the losses that the system gives, and in the log.
    symbol, equation : str
        In the paper; a dash where the paper has none.
    source : str
        Who asks for it: "paper", "released code", or "ours".
    weight : str
        Setting of the configuration that weighs it.
    meaning : str
        What it compares, and what it is for.
    """

    name: str
    symbol: str
    equation: str
    source: str
    weight: str
    meaning: str


TERMS = (
    Term("rgb", "L_I", "Eq. 1", "paper", "rgb_weight", "mean squared colour difference of rendering and image"),
    Term("mask", "L_M", "Eq. 1-2", "paper", "mask_weight", "1 - IoU of rendered and true silhouette"),
    Term("normal", "L_N", "Eq. 4", "paper", "normal_weight", "rendered normals against given ones, canonical frame"),
    Term("neighbor_rgb", "L_SSC_I", "Eq. 3", "paper", "rgb_weight", "the query's shape as the neighbour's image"),
    Term("neighbor_mask", "L_SSC_M", "Eq. 3", "paper", "mask_weight", "the query's shape in its silhouette"),
    Term("neighbor_normal", "L_SSC_N", "Sec. 3.3", "paper", "normal_weight", "the query's shape with its normals"),
    Term("eikonal", "—", "Sec. 3.4", "paper", "eikonal_weight", "length of the gradient of the distance is 1"),
    Term("azimuth_prior", "—", "Sec. 3.4", "paper", "azimuth_prior_weight", "azimuths of a batch spread evenly"),
    Term("mirror", "—", "—", "released code", "mirror_weight", "the mirrored image has the mirrored viewpoint"),
    Term("camera_margin", "—", "—", "released code", "camera_margin_weight", "elevation and roll stay below 85°"),
    Term("guess", "—", "—", "ours", "guess_weight", "pull towards the viewpoint guessed from normals"),
    Term("shape", "—", "Sec. 3.4", "paper", "", "pretraining: every code gives a sphere"),
)

# the rows of the paper's Tables 2 and 3, and what else can be taken away, as changes of the configuration
ABLATIONS = {
    "w/o L_SSC": {"semantic_weight": 0.0},
    "w/o normal": {"normal_weight": 0.0},
    "w/o noise-tol": {"normal_keep": 1.0},
    "w/o symmetry": {"symmetric": False},
    "w/o eikonal": {"eikonal_weight": 0.0},
    "w/o azimuth prior": {"azimuth_prior_weight": 0.0},
    "viewpoint given": {"viewpoint": "given"},
}
OF_THE_VIEWPOINT = ("azimuth_prior", "mirror", "camera_margin", "guess")
IN_THE_PAPER = ("w/o L_SSC", "w/o normal", "w/o noise-tol")


def term_weight(term: Term, config: ShapeClipperConfig) -> float:
    """What the term is multiplied by; 0 where the configuration leaves it out."""
    if term.name == "shape":
        return 1.0
    if term.name in OF_THE_VIEWPOINT and config.viewpoint == "given":
        return 0.0
    if term.name.startswith("neighbor_"):
        return config.semantic_weight * getattr(config, term.weight)
    return getattr(config, term.weight)


def objective_table(config: ShapeClipperConfig, **others: ShapeClipperConfig) -> pd.DataFrame:
    """Every term with its weight in a configuration, and in others by name: 0 means off."""
    columns = {
        "symbol": [term.symbol for term in TERMS],
        "in the paper": [term.equation for term in TERMS],
        "asked for by": [term.source for term in TERMS],
        "weight": [term_weight(term, config) for term in TERMS],
        **{f"in {name}": [term_weight(term, other) for term in TERMS] for name, other in others.items()},
        "setting": [term.weight for term in TERMS],
        "what it compares": [term.meaning for term in TERMS],
    }
    return pd.DataFrame(columns, index=pd.Index([term.name for term in TERMS], name="term"))


def ablation_table() -> pd.DataFrame:
    """The switches: name, settings to change, and whether the paper's tables have the row."""
    rows = [
        (name, ", ".join(f"{key}={value!r}" for key, value in changes.items()), "yes" if name in IN_THE_PAPER else "no")
        for name, changes in ABLATIONS.items()
    ]
    return pd.DataFrame(rows, columns=["ablation", "change", "row of the paper's Tables 2 and 3"]).set_index("ablation")


def recipe_table() -> pd.DataFrame:
    """The named trainings side by side: what a step computes and how many there are."""
    system = ("backbone", "image_size", "viewpoint", "rays", "neighbor_rays", "samples", "guess_weight", "mean_color")
    training = ("steps", "pretrain_steps", "batch_size", "learning_rate", "schedule", "select")
    columns = {
        name: {key: getattr(recipe.system, key) for key in system}
        | {key: getattr(recipe.training, key) for key in training}
        for name, recipe in RECIPES.items()
    }
    return pd.DataFrame(columns).rename_axis("setting")
