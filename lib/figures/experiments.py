"""Figures of experiments: the same held-out objects for every row of a table."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import torch

from lib.data.loading import PreparedDataset
from lib.evaluation import Predictor
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
    predictors: Mapping[str, Predictor],
    dataset: PreparedDataset,
    rows: Sequence[int],
    turn: float = 60.0,
):
    """The same samples for every system: a row for each sample, a column for each system.

    Shapes are seen from `turn` degrees beside the photo.

    Returns the matplotlib figure.
    """
    batch = dataset.batch(torch.as_tensor(list(rows)))
    columns = [[image.numpy() / 255 for image in dataset.rgb[list(rows)]]]
    for predict in predictors.values():
        views = [(one.mesh, facing(view_of_rotation(one.rotation), turn)) for one in predict(batch)]
        columns.append([draw_mesh(mesh, view, smooth=True) for mesh, view in views])
    columns.append([draw_mesh(dataset.mesh(row), facing(dataset.viewpoint[row], turn), smooth=False) for row in rows])
    titles = [fill(name, TITLE_WIDTH, break_long_words=False) for name in ("photo", *predictors, "true")]
    return image_grid(list(zip(*columns, strict=True)), titles, size=1.45)
