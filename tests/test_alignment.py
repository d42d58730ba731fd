"""Protocols: what they must not notice, and what they must find again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.geometry import alignment
from lib.geometry.alignment import PROTOCOLS, Clouds
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances, rotation_error


def lopsided_chair():
    """No two of its poses look alike."""
    parts = [((0.5, 0.5, 0.06), (0, 0, 0)), ((0.5, 0.06, 0.5), (0, -0.22, 0.25)), ((0.08, 0.3, 0.2), (0.25, 0.1, 0.1))]
    parts += [((0.06, 0.06, 0.4), (x, y, -0.2)) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    boxes = [trimesh.creation.box(size).apply_translation(place) for size, place in parts]
    return trimesh.util.concatenate(boxes)


def view_rotation(azimuth, elevation=20.0):
    angles = torch.tensor([[azimuth, elevation]], dtype=torch.float64).deg2rad()
    return Viewpoint.from_angles(angles[:, 0], angles[:, 1]).rotation()[0].numpy()


@pytest.fixture(scope="module")
def chair():
    return sample_surface(lopsided_chair(), 20_000, 1), sample_surface(lopsided_chair(), 20_000, 2)


def distance(clouds, protocol):
    return alignment.aligned_chamfer_distance(clouds, protocol)


@given(
    st.floats(0.2, 5, allow_subnormal=False),
    st.tuples(*[st.floats(-3, 3, allow_subnormal=False)] * 3),
    st.floats(-180, 180, allow_subnormal=False),
)
def test_view_protocol_ignores_scale_and_translation_of_each_cloud(scale, shift, azimuth):
    generator = np.random.default_rng(0)
    points, target = generator.normal(size=(200, 3)), generator.normal(size=(200, 3))
    clouds = Clouds(points, target, view_rotation(azimuth), view_rotation(30.0))
    moved = replace(clouds, predicted=points * scale + np.array(shift))
    for one, other in zip(alignment.align_view(clouds), alignment.align_view(moved), strict=True):
        assert one == pytest.approx(other, abs=1e-9)
    turned = alignment.align_view(clouds)[0]
    assert np.ptp(turned[:, :2], axis=0).max() == pytest.approx(1)
    assert turned.mean(0) == pytest.approx(np.zeros(3), abs=1e-12)


@given(st.floats(-180, 180, allow_subnormal=False), st.floats(-180, 180, allow_subnormal=False))
def test_view_protocol_ignores_a_turn_of_the_canonical_frame_but_not_of_the_camera(turn, azimuth):
    generator = np.random.default_rng(0)
    points = generator.normal(size=(100, 3)) * [1, 0.6, 0.3]
    about_z = Rotation.from_euler("z", turn, degrees=True).as_matrix()
    camera = view_rotation(azimuth)
    clouds = Clouds(points @ about_z.T, points, camera @ about_z.T, camera)
    assert distance(clouds, "view") == pytest.approx(0, abs=1e-9)
    wrong = replace(clouds, predicted_rotation=view_rotation(azimuth + 90) @ about_z.T)
    assert distance(wrong, "view") > 0.01


@given(st.integers(0, 1000))
def test_kabsch_of_mirrored_points_is_the_best_proper_rotation(seed):
    generator = np.random.default_rng(seed)
    source = generator.normal(size=(20, 3)) * [1.0, 0.7, 0.4]
    target = source * [1, 1, -1] + 0.05 * generator.normal(size=(20, 3))
    rotation, shift = alignment.best_rigid_motion(source, target)
    assert np.linalg.det(rotation) == pytest.approx(1)

    def residual(matrix):
        centred = (source - source.mean(0)) @ matrix.T
        return np.sum((centred - (target - target.mean(0))) ** 2)

    # independent truth: no small turn away from it, and none of many others, is better
    assert np.sum((source @ rotation.T + shift - target) ** 2) == pytest.approx(residual(rotation))
    for turn in Rotation.random(50, rng=generator):
        assert residual(rotation) <= residual(turn.as_matrix()) + 1e-9
        small = Rotation.from_rotvec(0.01 * turn.as_rotvec()).as_matrix()
        assert residual(rotation) <= residual(small @ rotation) + 1e-9


def test_icp_recovers_a_small_rigid_motion(chair):
    predicted, target = chair
    turn = Rotation.from_euler("xyz", [6, -5, 8], degrees=True).as_matrix().astype(np.float32)
    moved = (predicted - predicted.mean(0)) @ turn.T + np.float32([0.03, -0.02, 0.02])
    target = target - target.mean(0)
    found = alignment.iterative_closest_point(moved, target)
    back, _ = alignment.best_rigid_motion(moved, found)
    assert rotation_error(back @ turn, np.eye(3)) < 0.5
    floor = chamfer_distance(*nearest_distances(predicted - predicted.mean(0), target))
    assert chamfer_distance(*nearest_distances(found, target)) < 1.1 * floor
    assert chamfer_distance(*nearest_distances(moved, target)) > 2 * floor


def test_rotation_grid_holds_rotations_and_covers_all_of_them():
    grid = alignment.rotation_grid(4096)
    assert grid @ grid.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), grid.shape), abs=1e-9)
    assert np.linalg.det(grid) == pytest.approx(np.ones(4096))
    gaps = [rotation_error(grid, one.as_matrix()).min() for one in Rotation.random(300, rng=0)]
    assert max(gaps) < 15
    assert 6 < np.mean(gaps) < 9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotation_search_recovers_any_rotation_and_scale(chair, seed):
    predicted, target = chair
    turn = Rotation.random(rng=seed).as_matrix()
    camera = view_rotation(40.0)
    moved = (2.5 * predicted @ turn.T + 7).astype(np.float32)
    aligned, fixed = alignment.align_rotation(Clouds(moved, target, np.eye(3), camera))
    exact = alignment.align_view(Clouds(predicted, target, camera, camera))[0]
    assert rotation_error(alignment.best_rigid_motion(exact, aligned)[0], np.eye(3)) < 1.0
    floor = chamfer_distance(*nearest_distances(exact, fixed))
    assert chamfer_distance(*nearest_distances(aligned, fixed)) < 1.3 * floor


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_protocol_survives_the_stand_in_for_an_empty_mesh(chair, protocol):
    clouds = Clouds(np.zeros((1, 3), np.float32), chair[1][:500], view_rotation(0), view_rotation(10))
    assert 0.1 < distance(clouds, protocol) < 1
