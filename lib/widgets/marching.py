"""Controls of notebook 10: which field, which of its rays, and how many evaluations have been made."""

from collections.abc import Sequence

import ipywidgets

from lib.figures.viewer import dropdown, slider
from lib.plots.marching import marching_figure
from lib.studies.marching import Case

RAYS, HALVINGS = 40, 6


def march_controls(cases: Sequence[Case], shown: int = 8) -> dict[str, ipywidgets.Widget]:
    """Field, ray and evaluations; nothing is drawn of evaluations that a march does not have."""
    most = max(max(case.marchers) + 1 + HALVINGS for case in cases)
    return {
        "field": dropdown("field", [(case.name, index) for index, case in enumerate(cases)]),
        "ray": slider("ray", 0, 0, RAYS - 1, 1),
        "shown": slider("evaluations", min(shown, most), 1, most, 1),
    }


def chosen_ray(case: Case, number: int) -> int:
    """The row of a ray: 0 has the nearest surface, and the others follow by depth; those that never hit are last."""
    order = case.exact.argsort(stable=True)
    return int(order[number * max(1, len(order) // (2 * RAYS)) % len(order)])


def draw_march(cases: Sequence[Case]):
    """A function of the controls' values that draws `marching_figure`."""
    return lambda field, ray, shown: marching_figure(cases[field], chosen_ray(cases[field], ray), shown, HALVINGS)
