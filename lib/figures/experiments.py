"""Figures of experiments: the same held-out objects for every row of a table."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import torch
from torch import nn

from lib.data.loading import PreparedDataset
from lib.evaluation import Predictor, system_predictor
from lib.figures.results import view_of_rotation
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import image_grid

TITLE_WIDTH = 16  # letters above a column; longer names take several lines


def instance_rows(size: int, count: int = 4) -> list[int]:
    """Rows of a dataset of this size that every cell shows: evenly spread, away from both ends.

    Examples
    --------
    >>> instance_rows(60)
    [8, 25, 42, 59]
    """
    return torch.linspace(0, size - 1, 2 * count).round().long()[1::2].tolist()


@torch.no_grad()
def side_by_side(
    systems: Mapping[str, nn.Module | Predictor],
    dataset: PreparedDataset,
    rows: Sequence[int],
    turn: float = 60.0,
    resolution: int = 80,
):
    """The same samples for every system: a line a sample, a column a system, from `turn` degrees beside the photo.

    A predictor has its own resolution, a system that of `resolution`. Returns the matplotlib figure.
    """
    batch = dataset.batch(torch.as_tensor(list(rows)))
    columns = [[image.numpy() / 255 for image in dataset.rgb[list(rows)]]]
    for system in systems.values():
        predict = system_predictor(system, resolution) if isinstance(system, nn.Module) else system
        views = [(one.mesh, facing(view_of_rotation(one.rotation), turn)) for one in predict(batch)]
        columns.append([draw_mesh(mesh, view, smooth=True) for mesh, view in views])
    columns.append([draw_mesh(dataset.mesh(row), facing(dataset.viewpoint[row], turn), smooth=False) for row in rows])
    titles = [fill(name, TITLE_WIDTH, break_long_words=False) for name in ("photo", *systems, "true")]
    return image_grid(list(zip(*columns, strict=True)), titles, size=1.45)
