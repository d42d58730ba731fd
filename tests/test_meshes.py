"""Marching cubes, cleaning, sampling and carving against closed forms."""

import numpy as np
import pytest
import trimesh

from lib.errors import InputError
from lib.geometry import meshes
from lib.geometry.surface_grid import surface_grid

RADIUS = 0.4


def sphere_sdf(points, radius=RADIUS, center=(0.0, 0.0, 0.0)):
    return np.linalg.norm(points - np.asarray(center), axis=1) - radius


def torus_sdf(points, major=0.35, minor=0.1):
    ring = np.linalg.norm(points[:, :2], axis=1) - major
    return np.hypot(ring, points[:, 2]) - minor


@pytest.mark.parametrize("center", [(0.0, 0.0, 0.0), (0.1, -0.05, 0.15)])
def test_marching_cubes_of_a_sphere_has_its_radius_centre_and_volume(center):
    mesh = meshes.marching_cubes(lambda p: sphere_sdf(p, center=center), resolution=80)
    distance = np.linalg.norm(mesh.vertices - center, axis=1)
    step = 1.2 / 79
    # vertices lie on grid edges, where linear interpolation errs by at most step^2 / (8 radius)
    assert np.abs(distance - RADIUS).max() < step**2 / (8 * RADIUS) * 1.1 + 1e-6
    assert np.abs(mesh.bounds.mean(0) - center).max() < 1e-3
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=2e-3)  # positive: faces turn outwards
    assert mesh.is_watertight


def test_marching_cubes_of_a_torus_has_its_volume_area_and_hole():
    mesh = meshes.marching_cubes(torus_sdf, resolution=120)
    assert mesh.volume == pytest.approx(2 * np.pi**2 * 0.35 * 0.1**2, rel=1e-2)
    assert mesh.area == pytest.approx(4 * np.pi**2 * 0.35 * 0.1, rel=1e-2)
    assert mesh.euler_number == 0


@pytest.mark.parametrize("samples", [65, 101])
def test_released_shrink_is_the_known_scale_and_shift(samples):
    true = meshes.marching_cubes(sphere_sdf, resolution=samples)
    shrunk = meshes.marching_cubes(sphere_sdf, resolution=samples, released_shrink=True)
    # reference values of the released code with N = samples - 1: scale N / (N + 1), shift -0.6 / (N + 1)
    scale, shift = {65: (0.98462, -0.00923), 101: (0.99010, -0.00594)}[samples]
    assert shrunk.extents / true.extents == pytest.approx(np.full(3, scale), abs=1e-5)
    assert shrunk.bounds.mean(0) == pytest.approx(np.full(3, shift), abs=1e-5)
    assert true.bounds.mean(0) == pytest.approx(np.zeros(3), abs=1e-5)


def test_array_and_function_give_the_same_mesh_and_axes_are_not_swapped():
    center = (0.1, 0.2, -0.15)
    values = sphere_sdf(meshes.grid_points(40), 0.3, center).reshape(40, 40, 40)
    from_array = meshes.marching_cubes(values)
    from_function = meshes.marching_cubes(lambda p: sphere_sdf(p, 0.3, center), resolution=40)
    assert np.array_equal(from_array.vertices, from_function.vertices)
    assert from_array.bounds.mean(0) == pytest.approx(center, abs=1e-2)


@pytest.mark.parametrize("value", [1.0, -1.0, 0.0])
def test_field_without_a_crossing_is_the_empty_mesh(value):
    mesh = meshes.marching_cubes(np.full((10, 10, 10), value))
    assert isinstance(mesh, trimesh.Trimesh)
    assert meshes.is_empty(mesh)


def test_bad_grids_are_refused():
    with pytest.raises(InputError, match="NaN or infinite"):
        meshes.marching_cubes(np.full((8, 8, 8), np.nan))
    with pytest.raises(InputError, match="cubic"):
        meshes.marching_cubes(np.zeros((8, 8, 9)))
    with pytest.raises(InputError, match="resolution"):
        meshes.grid_points(1)


def test_sampling_is_uniform_by_area_on_the_surface_and_repeatable():
    box = trimesh.creation.box((1.0, 0.5, 0.25))
    points = meshes.sample_surface(box, 40_000, 3)
    on_face = np.isclose(np.abs(points), [0.5, 0.25, 0.125], atol=1e-6)
    assert on_face.any(1).all()
    share = on_face.mean(0)
    areas = np.array([0.5 * 0.25, 1.0 * 0.25, 1.0 * 0.5])
    assert share == pytest.approx(areas / areas.sum(), abs=0.01)  # four standard errors
    top = points[on_face[:, 2], :2] / [0.5, 0.25]
    assert np.mean(np.abs(top), axis=0) == pytest.approx([0.5, 0.5], abs=0.01)
    assert np.array_equal(points, meshes.sample_surface(box, 40_000, 3))
    assert not np.array_equal(points, meshes.sample_surface(box, 40_000, 4))
    with pytest.raises(InputError, match="empty mesh"):
        meshes.sample_surface(trimesh.Trimesh(), 10)


def test_to_unit_cube_centres_and_scales():
    box = trimesh.creation.box((4.0, 2.0, 1.0))
    box.apply_translation([3.0, -7.0, 9.0])
    assert meshes.to_unit_cube(box).bounds == pytest.approx(np.array([[-0.5, -0.25, -0.125], [0.5, 0.25, 0.125]]))
    with pytest.raises(InputError, match="empty mesh"):
        meshes.to_unit_cube(trimesh.Trimesh())


def test_first_hits_of_a_sphere_are_exact_and_misses_infinite():
    scene = meshes.ray_scene(trimesh.creation.icosphere(5, radius=RADIUS))
    height = np.array([0.0, 0.1, 0.3, 0.39, 0.41])
    origins = np.stack([np.full(5, -2.0), height, np.zeros(5)], axis=1)
    distance = meshes.first_hits(scene, origins, np.tile([1.0, 0.0, 0.0], (5, 1)))
    exact = 2 - np.sqrt(np.maximum(RADIUS**2 - height**2, 0))
    assert distance[:4] == pytest.approx(exact[:4], abs=5e-3)
    assert np.isinf(distance[4])


def test_carving_finds_the_inside_of_a_torus_with_a_missing_face_and_goes_through_its_hole():
    torus = meshes.marching_cubes(torus_sdf, resolution=100)
    carved = meshes.carve_occupancy(trimesh.Trimesh(torus.vertices, torus.faces[:-1]), 48)
    signed = torus_sdf(meshes.grid_points(48)).reshape(carved.shape)
    assert np.mean(carved == (signed < 0)) > 0.99
    assert not carved[signed > 1.2 / 47].any()


# --- grids asked for near the surface only --------------------------------------------------------------------------


def thin_handle(points):
    """A ball with a wire, thinner than a block, that leads to another ball: only following it finds all of it."""
    wire = np.maximum(np.hypot(points[:, 1] - 0.011, points[:, 2] + 0.007), np.abs(points[:, 0]) - 0.4) - 0.012
    return np.minimum(np.minimum(sphere_sdf(points, 0.15, (-0.4, 0, 0)), sphere_sdf(points, 0.1, (0.4, 0, 0))), wire)


@pytest.mark.parametrize("shape", [sphere_sdf, torus_sdf, thin_handle])
@pytest.mark.parametrize("resolution", [64, 41, 5, 2])
def test_a_grid_near_the_surface_gives_the_mesh_of_the_whole_grid(shape, resolution):
    asked = []

    def counted(points):
        asked.append(len(points))
        return shape(points)

    dense = shape(meshes.grid_points(resolution)).reshape((resolution,) * 3).astype(np.float32)
    sparse = surface_grid(counted, resolution)
    expected, found = meshes.marching_cubes(dense), meshes.marching_cubes(sparse)
    assert np.array_equal(found.faces, expected.faces)
    assert np.array_equal(found.vertices, expected.vertices)
    assert np.array_equal(sparse < 0, dense < 0)
    if resolution == 64:
        assert sum(asked) < 0.4 * resolution**3


@pytest.mark.parametrize("seed", range(2))
def test_a_steep_surface_is_followed_from_block_to_block(seed):
    """Ten times as steep as a distance, so that most blocks on it have corners far from 0."""
    generator = np.random.default_rng(seed)
    waves, phases = generator.normal(size=(3, 6)) * 5, generator.uniform(0, 6, 6)

    def bumpy(points):
        return 10 * sphere_sdf(points) + 0.4 * np.sin(points @ waves + phases).sum(1)

    dense = bumpy(meshes.grid_points(48)).reshape((48,) * 3).astype(np.float32)
    expected, found = (meshes.marching_cubes(v) for v in (dense, surface_grid(bumpy, 48, slope=0.01)))
    assert np.array_equal(found.faces, expected.faces)
    assert np.array_equal(found.vertices, expected.vertices)


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_a_grid_without_a_surface_is_empty(value):
    assert meshes.is_empty(meshes.marching_cubes(surface_grid(lambda p: np.full(len(p), value), 30)))
