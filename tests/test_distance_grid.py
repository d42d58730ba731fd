"""The signed distance of a mesh on a grid: against a closed form, autograd, and faces that disagree on their sides."""

import numpy as np
import pytest
import torch
import trimesh

from lib.geometry.distance_grid import DistanceGrid, distance_grid, hidden
from lib.geometry.meshes import grid_points

SIDES = np.array((0.5, 0.7, 0.9))


def box_distance(points: np.ndarray) -> np.ndarray:
    excess = np.abs(points) - SIDES / 2
    return np.linalg.norm(np.maximum(excess, 0), axis=-1) + np.minimum(excess.max(-1), 0)


def test_distance_grid_of_a_box_is_its_signed_distance():
    grid = distance_grid(trimesh.creation.box(SIDES), resolution=41)
    points = grid_points(41, grid.bound)
    expected = box_distance(points.astype(np.float64)).reshape((41,) * 3)
    error = np.abs(grid.values.numpy() - expected)
    assert error[np.abs(expected) < 1.5 * grid.spacing].max() < 2e-3  # up to the spacing of the drawn points
    assert error.max() < grid.spacing and error.mean() < 1e-3  # farther away, up to the choice of the face
    assert ((grid.values.numpy() < 0) == (expected < 0))[np.abs(expected) > 1e-3].all()


def test_grid_interpolates_a_linear_function_exactly_with_its_gradient():
    slope = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    points = torch.from_numpy(grid_points(9, 0.5)).double()
    grid = DistanceGrid((points @ slope + 0.1).reshape(9, 9, 9), 0.5)
    where = torch.rand(2, 50, 3, dtype=torch.float64) * 0.98 - 0.49
    value, gradient = grid(where)
    torch.testing.assert_close(value, where @ slope + 0.1, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, slope.expand_as(gradient), rtol=0, atol=1e-5)


def test_grid_gradient_is_that_of_autograd():
    grid = DistanceGrid(torch.randn(7, 7, 7, dtype=torch.float64), 0.5)
    where = (torch.rand(1, 200, 3, dtype=torch.float64) * 0.9 - 0.45).requires_grad_()
    value, gradient = grid(where)
    (expected,) = torch.autograd.grad(value.sum(), where)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


def test_outside_the_grid_the_distance_to_it_is_added():
    grid = DistanceGrid(torch.full((3, 3, 3), 0.2), 0.5)
    assert grid(torch.tensor([[[0.5, 0.5, 0.8]]]))[0].item() == pytest.approx(0.5)


def test_hidden_does_not_need_faces_that_agree_on_a_side():
    mesh = trimesh.creation.box(SIDES)
    mesh.faces[::2] = mesh.faces[::2, ::-1]
    points = np.random.default_rng(0).uniform(-0.6, 0.6, (500, 3))
    np.testing.assert_array_equal(hidden(mesh, points), box_distance(points) < 0)
