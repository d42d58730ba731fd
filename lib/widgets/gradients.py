"""Control of notebook 04: which neighbours take part in the gradient of a shape."""

import ipywidgets
import trimesh

from lib.geometry.cameras import Viewpoint
from lib.geometry.distance_grid import DistanceGrid
from lib.plots.gradients import colored_by_gradient, gradient_figure, sides_of
from lib.studies.shape import added


def neighbor_choice(azimuths: list[float]) -> dict[str, ipywidgets.Widget]:
    """A list of neighbours by their azimuth in degrees, and a switch for the mirror symmetry."""
    options = [("none", -1)] + [(f"neighbour {i + 1}, azimuth {a:.0f}°", i) for i, a in enumerate(azimuths)]
    return {
        "neighbor": ipywidgets.Dropdown(options=options, value=0, description="with"),
        "mirrored": ipywidgets.Checkbox(value=False, description="symmetric shape"),
    }


def draw_gradient(
    mesh: trimesh.Trimesh,
    viewpoint: Viewpoint,
    own: DistanceGrid,
    others: list[DistanceGrid],
    scale: float,
    neighbor: int,
    mirrored: bool,
):
    """A shape coloured by its gradient from the own view, with one neighbour added; -1: with none."""
    chosen = [own] + ([others[neighbor]] if neighbor >= 0 else [])
    colored = colored_by_gradient(mesh, added(chosen, mirrored), scale)
    title = "own view" if neighbor < 0 else f"with neighbour {neighbor + 1}"
    return gradient_figure({title: colored}, sides_of(viewpoint))
