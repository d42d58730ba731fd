"""Companion of notebook 10: solids against their meshes, counted evaluations, and what figures and controls say."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from tiny import disc, make_batch

from lib.geometry.cameras import points_along
from lib.geometry.meshes import first_hits, ray_scene, sample_surface
from support import nb10

RAYS = nb10.random_rays(300, torch.Generator().manual_seed(3))
MESHES = {
    "sphere": lambda: trimesh.creation.icosphere(5, 0.4),
    "box": lambda: trimesh.creation.box((0.8, 0.5, 0.6)),
    "torus": lambda: trimesh.creation.torus(0.32, 0.1, 200, 200),
}


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def case() -> nb10.Case:
    return nb10.solid_case("sphere", (4,), rays=200, steps=120)


@pytest.mark.parametrize("name", nb10.SOLIDS)
def test_solids_are_their_meshes(name):
    solid, mesh = nb10.SOLIDS[name], MESHES[name]()
    points = torch.rand(400, 3, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.6
    near, _ = cKDTree(sample_surface(mesh, 200_000)).query(points.numpy())
    found = solid(points).numpy()
    np.testing.assert_allclose(np.abs(found), near, atol=6e-3)
    clear = near > 6e-3
    assert ((found < 0) == mesh.contains(points.numpy()))[clear].all() and (found < 0).any()


@pytest.mark.parametrize("name", nb10.SOLIDS)
def test_true_depths_are_those_of_ray_casting(name):
    exact = nb10.true_depths(nb10.SOLIDS[name], RAYS, 2.0, 3.5).numpy()
    cast = first_hits(ray_scene(MESHES[name]()), RAYS.origins[0].numpy(), RAYS.directions[0].numpy())
    hit = np.isfinite(exact)
    assert (hit != np.isfinite(cast)).mean() < 0.02 and hit.mean() > 0.2
    both = hit & np.isfinite(cast)
    assert np.percentile(np.abs(exact[both] - cast[both]), 95) < 2e-3


def test_marcher_learns_from_silhouettes_where_the_surface_is(case):
    table = nb10.marching_table(case, counts=(6, 16))
    learned = table[table["method"] == "learned, 4 strides"].set_index("evaluations")
    assert learned["missed"].max() < 0.15 and learned["invented"].max() < 0.1
    assert learned.loc[15, "median"] < 1e-3 < 0.02 < learned.loc[5, "median"]


@torch.no_grad()
def test_evaluations_are_what_the_field_is_asked(case):
    """Points asked over rays; bisection asks for rays that hit alone, so its calls are counted."""
    asked = []

    def counted(points):
        asked.append(points.shape[1])
        return case.distance(points)

    watched = replace(case, distance=counted, with_feature=nb10.with_point(counted))
    rays = len(case.exact)
    for method, count in ((nb10.traced, 7), (nb10.volume_rendered, 9)):
        asked.clear()
        row = method(watched, count)
        assert sum(asked) == count * rays == row["evaluations"] * rays
    depths, values = nb10.even_march(counted, case.rays, 2.0, 3.5, 5)
    asked.clear()
    assert nb10.bisected(watched, "even", depths, values, 4)["evaluations"] == 6 + 4
    assert len(asked) == 4


def test_table_holds_every_method_within_the_budget_and_draws(case):
    table = nb10.marching_table(case, counts=(8, 12))
    assert set(table["method"]) == {"learned, 4 strides", "sphere tracing", "volume rendering", "even steps"}
    assert table["evaluations"].max() <= 12 and not table[["missed", "invented"]].isna().any().any()
    traced = table[table["method"] == "sphere tracing"].set_index("evaluations")["median"]
    assert traced[12] < traced[8]
    figure = nb10.study_figure(pd.concat([table, table.assign(field="again")]))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["sphere", "again"]
    assert len(figure.axes[0].lines) == table["method"].nunique()


def test_field_of_a_system_is_measured_against_its_own_surface():
    from test_sdf_srn import make_tiny

    batch, system = make_batch(1, neighbor=False), make_tiny().eval()
    made = nb10.system_case("chair", system, batch.rgb, batch.viewpoint, 60)
    assert made.exact.shape == (60,)
    middle = float(batch.viewpoint.distance)
    assert (made.near, made.far) == pytest.approx((middle - system.config.near, middle + system.config.far))
    hit = made.exact.isfinite()
    points = points_along(made.rays, torch.where(hit, made.exact, 5.0)[None, :, None])[:, :, 0]
    with torch.no_grad():
        assert made.distance(points)[0][hit].abs().max() < 1e-2 if hit.any() else True
    assert len(nb10.marching_table(made, counts=(8,))) >= 3


def test_trace_holds_the_surface_in_every_bracket(case):
    ray = int(case.exact.argmin())
    trace = nb10.trace_ray(case, ray, 6)
    near, far = trace.bracket
    assert near <= float(case.exact[ray]) <= far and near <= trace.middles.min() and trace.middles.max() <= far
    assert float(trace.middles[0]) == pytest.approx((near + far) / 2)
    assert abs(float(trace.middles[-1] - case.exact[ray])) <= (far - near) / 2**6 + 1e-6
    nothing = nb10.trace_ray(case, int((~case.exact.isfinite()).nonzero()[0]))
    assert nothing.bracket is None and len(nothing.middles) == 0


def test_title_counts_what_is_shown_and_every_end_of_the_controls_draws(case):
    widgets = nb10.march_controls([case], shown=8)
    assert (widgets["shown"].min, widgets["shown"].max) == (1, 4 + 1 + 6)
    rays = [nb10.chosen_ray(case, number) for number in range(nb10.RAYS)]
    assert len(set(rays)) == widgets["ray"].max + 1 and case.exact[rays[0]] == case.exact.min()
    for shown, strides, halvings in ((1, 1, 0), (5, 5, 0), (8, 5, 3), (99, 5, 6)):
        title = nb10.marching_figure(case, rays[0], shown).axes[0].get_title()
        assert f"{strides} evaluations by strides, {halvings} by halvings" in title
    error = abs(float(nb10.trace_ray(case, rays[0]).middles[-1] - case.exact[rays[0]]))
    assert float(title.rsplit(" ", 1)[1]) == pytest.approx(error, abs=6e-5)


def test_title_tells_a_surface_that_was_missed_from_none(case):
    away = int((~case.exact.isfinite()).nonzero()[0])
    assert nb10.marching_figure(case, away, 99).axes[0].get_title().endswith("; it never hits")
    unseen = replace(case, exact=torch.full_like(case.exact, 2.5))
    assert nb10.marching_figure(unseen, away, 99).axes[0].get_title().endswith("; the march misses the surface")


def test_idea_figure_cuts_the_true_shape_on_the_chosen_column():
    batch = make_batch(1, neighbor=False, mask=disc(0.32))
    lines = nb10.idea_figure(batch, trimesh.creation.icosphere(3, 0.4)).axes[2].lines
    depths = torch.tensor([list(line.get_xdata()) for line in lines])
    assert len(lines) > 8 and 4.55 < depths.min() < 5 < depths.max() < 5.45


def test_ablation_figure_shows_ten_times_means_and_spreads_over_seeds():
    metrics = ("accuracy", "completeness", "chamfer_distance")
    values = {f"{m}{kind}": v for m in metrics for kind, v in (("", 0.05), ("_spread", 0.01))}
    rows = [
        {"system": f"sdf_srn: {name}", "metric": metric, "value": factor * value, "protocol": "raw", "seed": None}
        for name, factor in (("full", 1), ("binary occupancy", 2))
        for metric, value in values.items()
    ]
    axis = nb10.ablation_figure([*rows, rows[0] | {"seed": 1, "value": 9.0}]).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["binary occupancy", "full"]
    assert [float(c[0].get_xdata()[0]) for c in axis.containers] == pytest.approx([1.0, 0.5])
    lengths = [float(c[2][0].get_segments()[0][:, 0] @ [-1, 1]) for c in axis.containers]
    assert lengths == pytest.approx([0.4, 0.2])
