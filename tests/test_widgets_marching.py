"""Figures and controls of notebook 10: what a figure says, and every end of every control draws."""

import itertools
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import trimesh
from matplotlib.figure import Figure
from tiny import disc, make_batch

from lib.evaluation.comparison import compare_rows
from lib.plots import marching as plots
from lib.studies import marching as study
from lib.widgets import marching as controls


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def case() -> study.Case:
    return study.solid_case("sphere", (4,), rays=120, steps=60)


def test_every_end_of_the_controls_draws(case):
    widgets = controls.march_controls([case])
    draw = controls.draw_march([case])
    ends = itertools.product((widgets["ray"].min, widgets["ray"].max), (widgets["shown"].min, widgets["shown"].max))
    for ray, shown in ends:
        assert isinstance(draw(field=widgets["field"].value, ray=ray, shown=shown), Figure)


def test_rays_of_the_control_are_different_and_begin_with_one_that_hits(case):
    rays = [controls.chosen_ray(case, number) for number in range(controls.RAYS)]
    assert len(set(rays)) == controls.RAYS and case.exact[rays[0]] == case.exact.min()


def test_title_counts_what_is_shown(case):
    ray = controls.chosen_ray(case, 0)
    titles = [plots.marching_figure(case, ray, shown).axes[0].get_title() for shown in (3, 5, 8, 99)]
    counts = ((3, 0), (5, 0), (5, 3), (5, 6))
    for title, (strides, halvings) in zip(titles, counts, strict=True):
        assert f"{strides} evaluations by strides, {halvings} by halvings" in title
    error = float(titles[-1].rsplit(" ", 1)[1])
    trace = study.trace_ray(case, ray)
    assert error == pytest.approx(abs(float(trace.middles[-1] - case.exact[ray])), abs=6e-5)


def test_title_tells_a_surface_that_was_missed_from_none(case):
    away = int((~case.exact.isfinite()).nonzero()[0])
    assert plots.marching_figure(case, away, 99).axes[0].get_title().endswith("; it never hits")
    unseen = replace(case, exact=torch.full_like(case.exact, 2.5))
    assert plots.marching_figure(unseen, away, 99).axes[0].get_title().endswith("; the march misses the surface")


def test_study_figure_has_a_line_a_method_and_a_panel_a_field(case):
    table = study.marching_table(case, counts=(8, 16))
    other = table.assign(field="again")
    figure = plots.study_figure(pd.concat([table, other]))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["sphere", "again"]
    assert len(figure.axes[0].lines) == table["method"].nunique()


def test_idea_figure_cuts_the_true_shape_on_the_chosen_column():
    batch = make_batch(1, neighbor=False, mask=disc(0.32))
    figure = plots.idea_figure(batch, trimesh.creation.icosphere(3, 0.4))
    lines = figure.axes[2].lines
    depths = torch.tensor([list(line.get_xdata()) for line in lines])
    assert len(lines) > 8 and 4.55 < depths.min() < 5 < depths.max() < 5.45


def test_crossings_are_drawn_as_shares_of_one():
    counts = [{"step": s, "last": s, "early": 10 - s, "none": 30, "inside": 2} for s in (1, 5, 9)]
    axis = plots.crossings_figure(counts).axes[0]
    tops = [band.get_paths()[0].vertices[:, 1].max() for band in axis.collections]
    assert tops == pytest.approx([9 / 40, 10 / 40, 1])


def test_ablation_figure_shows_means_and_spreads_over_seeds():
    cells = pd.DataFrame(
        [
            (row, seed, f"{image}", "chair", f"{image}", "raw", metric, value + 0.01 * seed)
            for row, value in (("full", 0.05), ("binary occupancy", 0.08))
            for seed in (0, 1)
            for image in (0, 1)
            for metric in ("accuracy", "completeness", "chamfer_distance")
        ],
        columns=["row", "seed", "id", "category", "model", "protocol", "metric", "value"],
    )
    about = {row: {"system": f"sdf_srn: {row}"} for row in ("full", "binary occupancy")}
    figure = plots.ablation_figure(compare_rows(cells, about, "full"))
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["binary occupancy", "full"]
    means = [float(container[0].get_xdata()[0]) for container in axis.containers]
    assert means == pytest.approx([0.85, 0.55])
    lengths = [float(container[2][0].get_segments()[0][:, 0] @ [-1, 1]) for container in axis.containers]
    assert lengths == pytest.approx([2 * 10 * 0.01 / 2**0.5] * 2)  # standard deviation of two numbers 0.01 apart
