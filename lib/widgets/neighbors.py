"""Controls of notebook 01: browse queries and their neighbours."""

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
import numpy as np

from lib.figures.viewer import dropdown, slider
from lib.plots.neighbors import neighbor_sheet
from lib.studies.retrieval import Pictures

Found = Mapping[str, tuple[np.ndarray, np.ndarray]]  # embedding -> rows (N, K) of the neighbours, similarities (N, K)


def query_controls(pictures: Pictures, admitted: Mapping[str, Found], start: int = 0) -> dict[str, ipywidgets.Widget]:
    """A list of what is admitted as a neighbour, a list of categories, and a slider over a category's images.

    Parameters
    ----------
    start : int
        Row of the first query.
    """
    categories = pictures.labels("category")
    own = np.flatnonzero(categories == categories[start])
    largest = int(np.unique(categories, return_counts=True)[1].max())
    return {
        "admitted": dropdown("admit", list(admitted)),
        "category": dropdown("category", sorted(set(categories)), categories[start]),
        "image": slider("image", int(np.flatnonzero(own == start)[0]), 0, largest - 1, 1),
    }


def draw_query(pictures: Pictures, all_found: Mapping[str, Found]) -> Callable[..., Any]:
    """A function of the values of `query_controls` that draws the query's `neighbor_sheet`."""

    def draw(admitted: str, category: str, image: int):
        query = query_row(pictures, category, image)
        found = {name: (rows[query], scores[query]) for name, (rows, scores) in all_found[admitted].items()}
        return neighbor_sheet(pictures, query, found)

    return draw


def query_row(pictures: Pictures, category: str, image: int) -> int:
    """Row of the image with this number within its category; numbers beyond the last mean the last."""
    rows = np.flatnonzero(pictures.labels("category") == category)
    return int(rows[min(image, len(rows) - 1)])
