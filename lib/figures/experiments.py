"""Figures of experiments: the same held-out objects for every row of a table."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import torch
from torch import nn

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction, Predictor, system_predictor
from lib.figures.results import Case, make_case, view_of_rotation
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


def predictions_of(
    system: nn.Module | Predictor, dataset: PreparedDataset, rows: Sequence[int], resolution: int = 80
) -> list[Prediction]:
    """What a system makes of some samples; a predictor has its own resolution."""
    predict = system_predictor(system, resolution) if isinstance(system, nn.Module) else system
    with torch.no_grad():
        return predict(dataset.batch(torch.as_tensor(list(rows))))


def cases_of(
    system: nn.Module | Predictor, dataset: PreparedDataset, rows: Sequence[int], resolution: int = 80
) -> list[Case]:
    """Predictions beside the truth, for `lib.figures.results.case_sheet`."""
    made = predictions_of(system, dataset, rows, resolution)
    return [
        make_case(f"image {row}", dataset.rgb[row], one, dataset.mesh(row), dataset.viewpoint[row])
        for row, one in zip(rows, made, strict=True)
    ]


def side_by_side(
    systems: Mapping[str, nn.Module | Predictor],
    dataset: PreparedDataset,
    rows: Sequence[int],
    turn: float = 60.0,
    resolution: int = 80,
):
    """The same samples for every system: a line a sample, a column a system, from `turn` degrees beside the photo.

    Returns
    -------
    matplotlib.figure.Figure
    """
    made = {name: predictions_of(system, dataset, rows, resolution) for name, system in systems.items()}
    lines = []
    for i, row in enumerate(rows):
        seen = [predictions[i] for predictions in made.values()]
        drawn = [draw_mesh(one.mesh, facing(view_of_rotation(one.rotation), turn), smooth=True) for one in seen]
        truth = draw_mesh(dataset.mesh(row), facing(dataset.viewpoint[row], turn), smooth=False)
        lines.append([dataset.rgb[row].numpy() / 255, *drawn, truth])
    titles = [fill(name, TITLE_WIDTH, break_long_words=False) for name in ("photo", *systems, "true")]
    return image_grid(lines, titles, size=1.45)
