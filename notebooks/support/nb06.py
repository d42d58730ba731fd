"""Companion of notebook 06: one step in a picture, the tables of the objective and of the recipes, a run to watch."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib import colormaps

from lib.data.loading import Batch
from lib.figures.maps import normal_colors
from lib.figures.style import MAGNITUDE, image_grid
from lib.figures.viewer import LiveBoard, Snapshots
from lib.rendering.volume import RenderedMaps
from lib.systems.shapeclipper import ABLATIONS, IN_THE_PAPER, ShapeClipperConfig
from lib.training.log import read_log
from lib.training.recipes import RECIPES

# --- One step in a picture --------------------------------------------------------------------------------------------


def step_figure(batch: Batch, rendered: RenderedMaps, neighbor_rendered: RenderedMaps):
    """One training step in a picture: an image and its neighbour, where rays go, and what the shape looks like now.

    Parameters
    ----------
    batch : Batch
        One sample with its neighbour.
    rendered, neighbor_rendered : RenderedMaps
        The sample's shape, from the sample's viewpoint and from the neighbour's.

    Returns
    -------
    matplotlib.figure.Figure
    """
    titles = ("image", "mask", "normals", "where rays are drawn", "rendered now")
    rows = []
    for target, maps in ((batch, rendered), (batch.neighbor, neighbor_rendered)):
        normals = None if target.normal is None else normal_colors(target.normal[0])
        chances = (target.ray_weights[0] / target.ray_weights[0].max()).cpu().numpy()
        rgb, mask, seen = (image[0].cpu().numpy() for image in (target.rgb, target.mask, maps.rgb))
        rows.append([rgb, mask, normals, colormaps[MAGNITUDE](chances), seen])
    return image_grid(rows, titles, ("query", "neighbour"))


# --- The objective, term by term --------------------------------------------------------------------------------------


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
    Term("camera_margin", "—", "—", "released code", "camera_margin_weight", "elevation and roll stay below 95°"),
    Term("guess", "—", "—", "ours", "guess_weight", "pull towards the viewpoint guessed from normals"),
    Term("shape", "—", "Sec. 3.4", "paper", "", "pretraining: every code gives a sphere"),
)
OF_THE_VIEWPOINT = ("azimuth_prior", "mirror", "camera_margin", "guess")


def term_weight(term: Term, config: ShapeClipperConfig) -> float:
    """What the term is multiplied by; 0 where the configuration leaves it out."""
    if term.name == "shape":
        return 1.0
    if term.name in OF_THE_VIEWPOINT and config.viewpoint == "given":
        return 0.0
    weight = getattr(config, term.weight, 0.0)  # a term of ours is no setting of the paper's configuration
    return config.semantic_weight * weight if term.name.startswith("neighbor_") else weight


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


# --- The profiles -----------------------------------------------------------------------------------------------------

SYSTEM = ("backbone", "image_size", "viewpoint", "rays", "neighbor_rays", "samples", "guess_weight", "mean_color")
TRAINING = ("steps", "pretrain_steps", "batch_size", "learning_rate", "schedule", "select")


def recipe_table() -> pd.DataFrame:
    """The named trainings side by side: what a step computes and how many there are; a dash where there is no such."""
    columns = {
        name: {key: getattr(recipe.system, key, "—") for key in SYSTEM}
        | {key: getattr(recipe.training, key) for key in TRAINING}
        for name, recipe in RECIPES.items()
    }
    return pd.DataFrame(columns).rename_axis("setting")


# --- Train ------------------------------------------------------------------------------------------------------------


def watch(run: Path, total: int, sample: Batch, frames: int = 9) -> LiveBoard:
    """A listener that draws curves and pictures while `train` runs; says first what `train` will find in the folder.

    Parameters
    ----------
    run : path
        Where the run is. The curves begin with the rows that an earlier part of it left in its log.
    total : int
        Steps of the whole run.
    sample : Batch
        One held-out image.
    frames : int
        About how many times it is rendered.
    """
    log = run / "log.jsonl"
    rows = read_log(log) if log.is_file() else []
    done = max((row["step"] for row in rows), default=0)
    if done >= total:
        print(f"finished already, {total} steps: nothing is left to train, and nothing is drawn.")
        print(f"To begin anew, run the second code cell again (quick profile), or delete {run}.")
    elif done:
        print(f"goes on after about step {done} of {total}")
    else:
        print(f"a new run of {total} steps")
    return LiveBoard(Snapshots(sample, every=max(1, total // frames)), rows)
