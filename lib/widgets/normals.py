"""Controls of notebook 05: how many pixels count, and how many normals are wrong."""

import ipywidgets
import torch

from lib.data.loading import Batch
from lib.plots.normals import dropout_figure
from lib.rendering.volume import RenderedMaps
from lib.studies.outliers import corrupted, ranking


def keep_slider(value: float = 0.8) -> ipywidgets.FloatSlider:
    """Share of the minibatch's pixels that count."""
    return ipywidgets.FloatSlider(value, min=0.4, max=1.0, step=0.05, description="keep", continuous_update=False)


def share_slider(value: float = 0.25) -> ipywidgets.FloatSlider:
    """Share of each object's normals that are spoiled."""
    return ipywidgets.FloatSlider(value, min=0.0, max=0.6, step=0.05, description="wrong", continuous_update=False)


def draw_dropout(batch: Batch, maps: RenderedMaps, keep: float, share: float, seed: int):
    """`dropout_figure` of the first three images, for the values of the controls."""
    spoiled = corrupted(batch, share, torch.Generator().manual_seed(seed))
    return dropout_figure(batch, spoiled, ranking(batch, maps, batch.viewpoint, spoiled), keep, range(3))
