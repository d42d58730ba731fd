"""The marching study: closed forms against ray casting and dense search, counted evaluations, and what is shown."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from tiny import make_batch

from lib.geometry.cameras import Rays
from lib.geometry.meshes import first_hits, ray_scene, sample_surface
from lib.rendering.ray_marching import points_at
from lib.rendering.surface import _first_face
from lib.studies import marching as study

RAYS = study.random_rays(300, torch.Generator().manual_seed(3))
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
def case() -> study.Case:
    return study.solid_case("sphere", (4,), rays=200, steps=120)


@pytest.mark.parametrize("name", study.SOLIDS)
def test_first_hits_are_those_of_ray_casting_and_zeros_of_the_distance(name):
    solid = study.SOLIDS[name]()
    origins, directions = (part[0].double().numpy() for part in (RAYS.origins, RAYS.directions))
    directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
    exact = solid.first_hit(origins, directions)
    cast = first_hits(ray_scene(MESHES[name]()), origins, directions)
    hit = np.isfinite(exact)
    assert (hit != np.isfinite(cast)).mean() < 0.02 and hit.mean() > 0.2
    both = hit & np.isfinite(cast)
    assert np.percentile(np.abs(exact[both] - cast[both]), 95) < 2e-3
    at = torch.from_numpy(origins[hit] + exact[hit, None] * directions[hit])
    assert solid.distance(at).abs().max() < 1e-7


@pytest.mark.parametrize("name", study.SOLIDS)
def test_distances_are_those_to_points_of_the_mesh_and_negative_inside(name):
    solid = study.SOLIDS[name]()
    points = torch.rand(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1.2 - 0.6
    surface = cKDTree(sample_surface(MESHES[name](), 200_000))
    near, _ = surface.query(points.numpy())
    found = solid.distance(points).numpy()
    np.testing.assert_allclose(np.abs(found), near, atol=6e-3)
    inside = winding(MESHES[name](), points.numpy())
    clear = near > 6e-3
    assert ((found < 0) == inside)[clear].all() and inside.any()


def winding(mesh, points: np.ndarray) -> np.ndarray:
    """Inside where a ray leaves the mesh once more than it enters: by the first face that it meets, from within."""
    towards = np.tile([0.36, 0.48, 0.8], (len(points), 1))
    face, _ = _first_face(mesh, torch.from_numpy(points), torch.from_numpy(towards))
    return (face >= 0) & ((mesh.face_normals[face] * towards).sum(-1) > 0)


def test_rays_come_from_many_sides_as_units():
    assert RAYS.origins.shape == RAYS.directions.shape == (1, 300, 3)
    torch.testing.assert_close(RAYS.directions.norm(dim=-1), torch.ones(1, 300))
    torch.testing.assert_close(RAYS.origins.norm(dim=-1), torch.full((1, 300), 2.732))
    assert RAYS.origins.std(dim=1).min() > 0.5


def test_marcher_learns_from_silhouettes_where_the_surface_is(case):
    table = study.marching_table(case, counts=(6, 16))
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

    watched = replace(case, distance=counted, with_feature=study.featured(counted))
    rays = len(case.exact)
    for method, points in (
        (lambda: study._traced(watched, 7), 7 * rays),
        (lambda: study._volume(watched, 9), 9 * rays),
    ):
        asked.clear()
        row = method()
        assert sum(asked) == points == row["evaluations"] * rays
    depths, values = study.even_march(counted, case.rays, 2.0, 3.5, 5)
    asked.clear()
    assert study._bisected(watched, "even", depths, values, 4)["evaluations"] == 6 + 4
    assert len(asked) == 4


def test_table_holds_every_method_within_the_budget(case):
    table = study.marching_table(case, counts=(8, 12))
    assert set(table["method"]) == {"learned, 4 strides", "sphere tracing", "volume rendering", "even steps"}
    assert table["evaluations"].max() <= 12 and not table[["missed", "invented"]].isna().any().any()
    traced = table[table["method"] == "sphere tracing"].set_index("evaluations")["median"]
    assert traced[12] < traced[8]


def test_row_of_a_method_that_finds_nothing_says_so(case):
    never = torch.zeros(len(case.exact), dtype=torch.bool)
    row = study._row(case, "none", 1, case.exact, never)
    assert row["missed"] == 1 and row["invented"] == 0 and np.isnan(row["median"])


def test_even_steps_find_the_first_of_two_surfaces():
    solid = study.torus()
    exact = study.exact_depths(solid, RAYS)
    found = study.even_surface(solid.distance, RAYS, 2.0, 3.5, 600, 20)[0]
    both = exact.isfinite() & found.isfinite()
    assert (exact.isfinite() != found.isfinite()).float().mean() < 0.02
    torch.testing.assert_close(found[both], exact[both], rtol=0, atol=1e-4)


def test_field_of_a_system_is_measured_against_its_own_surface():
    from test_sdf_srn import make_tiny

    batch = make_batch(1, neighbor=False)
    system = make_tiny().eval()
    made = study.system_case("chair", system, batch.rgb, batch.viewpoint, 60)
    assert set(made.marchers) == {system.config.steps} and made.exact.shape == (60,)
    assert (made.near, made.far) == pytest.approx((4.2, 5.8))
    hit = made.exact.isfinite()
    points = points_at(made.rays, torch.where(hit, made.exact, 5.0)[None])
    with torch.no_grad():
        assert made.distance(points)[0][hit].abs().max() < 1e-2 if hit.any() else True
    assert len(study.marching_table(made, counts=(8,))) >= 3


def test_trace_holds_the_surface_in_every_bracket(case):
    ray = int(case.exact.argmin())
    trace = study.trace_ray(case, ray, 6)
    near, far = trace.bracket
    assert near <= float(case.exact[ray]) <= far and near <= trace.middles.min() and trace.middles.max() <= far
    assert float(trace.middles[0]) == pytest.approx((near + far) / 2)
    assert abs(float(trace.middles[-1] - case.exact[ray])) <= (far - near) / 2**6 + 1e-6
    nothing = study.trace_ray(case, int((~case.exact.isfinite()).nonzero()[0]))
    assert nothing.bracket is None and len(nothing.middles) == 0


def test_slice_holds_the_ray_in_its_middle(case):
    depths = torch.linspace(2.0, 3.5, 7)
    values = study.ray_slice(case, 5, torch.tensor([-0.2, 0.0, 0.2]), depths)
    line = Rays(case.rays.origins[:, 5:6].expand(1, 7, 3), case.rays.directions[:, 5:6].expand(1, 7, 3))
    torch.testing.assert_close(values[1], case.distance(points_at(line, depths[None]))[0])
