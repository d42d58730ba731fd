"""Controls of notebook 02: which solid, seen by which camera, which pixel and depth; and a silhouette to paint."""

import ipywidgets
import torch
from torch import Tensor

from lib.geometry.distance_transform import distance_transform
from lib.plots.bounds import bound_figure, silhouette_figure
from lib.studies.bounds import BoundScene, Solid, ball, bound_scene, box_chair, near_camera, ring, silhouette
from lib.widgets.viewer import dropdown, slider

SOLIDS = {"chair of boxes": box_chair, "ball": ball, "ring": ring}
CAMERAS = {"perspective": "perspective", "parallel rays": "weak_perspective"}
START = (40.0, 25.0)  # azimuth and elevation of every scene, degrees


def scene_of(solid: str, camera: str, size: int = 64) -> BoundScene:
    """One of `SOLIDS` before one of `CAMERAS`."""
    made: Solid = SOLIDS[solid]()
    side = (0.0, 0.0) if solid == "ring" else START  # into the hole
    return bound_scene(made, near_camera(*side, CAMERAS[camera]), size)


def bound_controls(column: int, row: int, depth: float, size: int = 64) -> dict[str, ipywidgets.Widget]:
    """Solid, camera, pixel and depth."""
    return {
        "solid": dropdown("solid", list(SOLIDS)),
        "camera": dropdown("camera", list(CAMERAS)),
        "column": slider("column", column, 0, size - 1, 1),
        "row": slider("row", row, 0, size - 1, 1),
        "depth": slider("depth", depth, 1.2, 2.4, 0.05),
    }


def draw_bound(solid: str, camera: str, column: int, row: int, depth: float):
    """`bound_figure` for the values of the controls."""
    return bound_figure(scene_of(solid, camera), column, row, depth)


def paint_controls() -> dict[str, ipywidgets.Widget]:
    """A silhouette to start from, and a brush: its place and radius in shares of the picture."""
    return {
        "start": dropdown("start", [*SOLIDS, "nothing"]),
        "brush": dropdown("brush", ["paint", "erase"]),
        "x": slider("x", 0.78, 0.0, 1.0, 0.02),
        "y": slider("y", 0.26, 0.0, 1.0, 0.02),
        "radius": slider("radius", 0.06, 0.0, 0.5, 0.02),
    }


def painted(start: str, brush: str, x: float, y: float, radius: float, size: int = 64) -> Tensor:
    """The mask under the brush, (size, size) bool."""
    empty = torch.zeros(size, size, dtype=torch.bool)
    mask = empty if start == "nothing" else silhouette(SOLIDS[start](), near_camera(*START), size)
    axis = (torch.arange(size) + 0.5) / size
    disc = torch.hypot(axis[None] - x, axis[:, None] - y) < radius
    return mask | disc if brush == "paint" else mask & ~disc


def draw_painted(start: str, brush: str, x: float, y: float, radius: float):
    """`silhouette_figure` of `painted`."""
    mask = painted(start, brush, x, y, radius)
    return silhouette_figure(mask, distance_transform(mask))
