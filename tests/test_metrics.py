"""Metrics against brute force in float64 and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.geometry import metrics
from lib.geometry.cameras import Viewpoint

degrees = st.floats(-720, 720, allow_subnormal=False)


def brute_force(predicted, target):
    """Both directions from the full matrix of float64 differences."""
    difference = predicted.astype(np.float64)[:, None] - target.astype(np.float64)[None]
    distance = np.sqrt((difference**2).sum(-1))
    return distance.min(1), distance.min(0)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10_000), st.sampled_from([np.float32, np.float64]))
def test_distances_and_metrics_equal_brute_force(n, m, seed, kind):
    generator = np.random.default_rng(seed)
    predicted, target = generator.normal(size=(n, 3)).astype(kind), generator.normal(size=(m, 3)).astype(kind)
    to_target, to_predicted = metrics.nearest_distances(predicted, target)
    exact_target, exact_predicted = brute_force(predicted, target)
    assert to_target == pytest.approx(exact_target, abs=1e-5)
    assert to_predicted == pytest.approx(exact_predicted, abs=1e-5)
    chamfer = (exact_target.mean() + exact_predicted.mean()) / 2
    assert metrics.chamfer_distance(to_target, to_predicted) == pytest.approx(chamfer, abs=1e-5)
    # a threshold halfway between two distances, where rounding decides nothing
    values = np.unique(np.concatenate([exact_target, exact_predicted, [0]]))
    threshold = float(np.diff(values).max() / 2 + values[np.diff(values).argmax()]) if len(values) > 1 else 1.0
    precision, recall = np.mean(exact_target < threshold), np.mean(exact_predicted < threshold)
    expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
    assert metrics.f_score(to_target, to_predicted, threshold) == pytest.approx(expected)


def test_f_score_of_half_a_shape():
    # every predicted point is right, half of the target is found: 2 * 1 * 0.5 / 1.5
    assert metrics.f_score(np.zeros(10), np.array([0.0, 1.0] * 5), 0.1) == pytest.approx(2 / 3)
    assert metrics.f_score(np.ones(10), np.ones(10), 0.1) == 0.0


@given(degrees, st.floats(-80, 80, allow_subnormal=False), st.floats(-40, 40, allow_subnormal=False))
def test_camera_azimuth_reads_the_angle_that_made_the_rotation(azimuth, elevation, roll):
    angles = torch.tensor([[azimuth, elevation, roll]], dtype=torch.float64).deg2rad().unbind(-1)
    rotation = Viewpoint.from_angles(*angles).rotation()[0].numpy()
    assert abs(metrics.wrap_degrees(metrics.camera_azimuth(rotation) - np.float64(azimuth))) < 1e-6


@given(degrees, degrees)
def test_azimuth_error_is_the_angle_between_directions(a, b):
    directions = np.exp(1j * np.radians([a, b]))
    between = np.degrees(np.abs(np.angle(directions[0] / directions[1])))
    assert metrics.azimuth_error(np.array(a), np.array(b)) == pytest.approx(between, abs=1e-6)
    assert metrics.azimuth_error(np.array(a), np.array(b), 180) == pytest.approx(180 - between, abs=1e-6)


def test_azimuth_entropy_of_an_even_a_collapsed_and_a_half_collapsed_spread():
    assert metrics.azimuth_entropy(np.arange(15.0, 360, 30)) == pytest.approx(1)
    assert metrics.azimuth_entropy(np.full(20, 100.0)) == 0
    assert metrics.azimuth_entropy(np.array([10.0, 190.0, -350.0, -170.0])) == pytest.approx(np.log(2) / np.log(12))


@given(st.floats(0, 180, allow_subnormal=False), st.integers(0, 1000))
def test_rotation_error_is_the_angle_of_the_turn_between(angle, seed):
    generator = np.random.default_rng(seed)
    axis = generator.normal(size=3)
    base = Rotation.random(rng=generator).as_matrix()
    turn = Rotation.from_rotvec(np.radians(angle) * axis / np.linalg.norm(axis)).as_matrix()
    assert metrics.rotation_error(turn @ base, base) == pytest.approx(angle, abs=2e-5)
