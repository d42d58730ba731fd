"""Companion of notebook 08: a cell's predictions beside the truth."""

from collections.abc import Sequence

import torch

from lib.data.loading import PreparedDataset
from lib.evaluation import Predictor
from lib.figures.results import Case, make_case


@torch.no_grad()
def cases_of(predict: Predictor, dataset: PreparedDataset, rows: Sequence[int]) -> list[Case]:
    """Predictions for some rows of a dataset beside the truth, for `lib.figures.results.case_sheet`."""
    made = predict(dataset.batch(torch.as_tensor(list(rows))))
    return [
        make_case(f"image {row}", dataset.rgb[row], one, dataset.mesh(row), dataset.viewpoint[row])
        for row, one in zip(rows, made, strict=True)
    ]
