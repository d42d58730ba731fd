"""Predictions beside the truth, and which of them are the best and the worst."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import trimesh
from jaxtyping import Float

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction
from lib.figures.shapes import draw_mesh, facing, viewpoint_at
from lib.figures.style import image_grid
from lib.geometry.cameras import Viewpoint
from lib.geometry.metrics import camera_azimuth


@dataclass(frozen=True)
class Case:
    """One image with what was predicted and what is true.

    Attributes
    ----------
    title : str
    image : ndarray, shape (H, W, 3)
    predicted, target : trimesh.Trimesh
        In their canonical frames.
    predicted_view, target_view : Viewpoint
        Of one camera each; either mesh is drawn from its own.
    """

    title: str
    image: Float[np.ndarray, "height width 3"]
    predicted: trimesh.Trimesh
    target: trimesh.Trimesh
    predicted_view: Viewpoint
    target_view: Viewpoint


def make_case(title: str, image, prediction: Prediction, target: trimesh.Trimesh, target_view: Viewpoint) -> Case:
    """A case from an 8-bit image and a prediction, whose rotation becomes a viewpoint again."""
    predicted_view = view_of_rotation(prediction.rotation)
    return Case(title, np.asarray(image) / 255, prediction.mesh, target, predicted_view, target_view)


def case_sheet(cases: Sequence[Case], turn: float = 120.0):
    """Predictions beside the truth, a row a case: as the photo sees them, and turned to a side that it hides.

    Parameters
    ----------
    turn : float
        Degrees of azimuth.

    Returns
    -------
    matplotlib.figure.Figure
    """
    titles = ("photo", "predicted", "true", f"predicted, {turn:g}° on", f"true, {turn:g}° on")
    rows = []
    for case in cases:
        row = [case.image]
        for angle in (0.0, turn):
            row.append(draw_mesh(case.predicted, facing(case.predicted_view, angle), smooth=True))
            row.append(draw_mesh(case.target, facing(case.target_view, angle), smooth=False))
        rows.append(row)
    return image_grid(rows, titles, [case.title for case in cases], size=1.65)


def ranked_rows(instances: pd.DataFrame, dataset: PreparedDataset, protocol: str = "view") -> list[tuple[int, float]]:
    """Rows of a dataset with their Chamfer distances, best first, from `lib.evaluation.evaluate_instances`.

    What is no sample of the dataset is left out.
    """
    chosen = instances[(instances["metric"] == "chamfer_distance") & (instances["protocol"] == protocol)]
    distance = chosen.set_index("id")["value"].to_dict()
    pairs = [(row, float(distance[name])) for row, name in enumerate(dataset.metadata["id"]) if name in distance]
    return sorted(pairs, key=lambda pair: pair[1])


def view_of_rotation(rotation: Float[np.ndarray, "3 3"]) -> Viewpoint:
    """A camera with this world-to-camera rotation's azimuth and elevation; its roll is left out.

    Examples
    --------
    >>> view = view_of_rotation(np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]))
    >>> [abs(round(float(angle), 3)) for angle in view.angles()]
    [0.0, 0.0, 0.0]
    """
    elevation = np.degrees(np.arcsin(np.clip(-rotation[2, 2], -1, 1)))
    return viewpoint_at(float(camera_azimuth(rotation)), float(elevation))
