"""Controls of notebook 03: the pixel, beta and the number of samples."""

import ipywidgets

from lib.figures.viewer import slider
from lib.plots.rays import comparison_figure, ray_figure
from lib.rendering.surface import Scene

SAMPLES = (8, 16, 24, 32, 64, 128, 256, 512)


def beta_slider(value: float = 0.02) -> ipywidgets.FloatLogSlider:
    """Beta from 0.001 to 0.1 world units, on a logarithmic scale."""
    return ipywidgets.FloatLogSlider(
        value=value, base=10, min=-3, max=-1, step=0.05, description="β", readout_format=".4f", continuous_update=False
    )


def samples_slider(value: int = 64) -> ipywidgets.SelectionSlider:
    """Number of samples a ray."""
    return ipywidgets.SelectionSlider(options=SAMPLES, value=value, description="samples", continuous_update=False)


def pixel_sliders(scene: Scene, column: int, row: int) -> dict[str, ipywidgets.IntSlider]:
    """Column and row of a pixel of the scene's image."""
    last = scene.image_size - 1
    return {"column": slider("column", column, 0, last, 1), "row": slider("row", row, 0, last, 1)}


def draw_ray(scene: Scene, column: int, row: int, beta: float, samples: int):
    """`ray_figure` for the pixel nearest to (column, row) that the image has."""
    last = scene.image_size - 1
    return ray_figure(scene, min(max(column, 0), last), min(max(row, 0), last), beta, samples)


def draw_comparison(scene: Scene, beta: float, samples: int):
    """`comparison_figure` for the values of the controls."""
    return comparison_figure(scene, beta, samples)
