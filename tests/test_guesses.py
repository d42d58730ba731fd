"""Viewpoint guesses from normals: rendered boxes and chairs of boxes, whose true viewpoints are known."""

import numpy as np
import pytest
import torch
import trimesh

from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.metrics import azimuth_error
from lib.losses.camera import axis_alignment
from lib.systems.guesses import axis_aligned_angles, guess_viewpoints, synchronized_azimuths

SIZE = 24


def seen(mesh: trimesh.Trimesh, azimuth: float, elevation: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Camera-frame normals and mask, by exact ray casting."""
    view = Viewpoint.from_angles(*torch.tensor([[azimuth], [elevation]], dtype=torch.float32).deg2rad())
    rays = camera_rays(view, pixel_centers(SIZE)[None])
    triangle = mesh.ray.intersects_first(rays.origins[0].numpy(), rays.directions[0].numpy())
    normal = mesh.face_normals[triangle] * (triangle >= 0)[:, None]
    normal = torch.from_numpy(normal).float() @ view.rotation()[0].T
    return normal.reshape(SIZE, SIZE, 3), torch.from_numpy(triangle >= 0).float().reshape(SIZE, SIZE)


def chair(width: float, depth: float, back: float) -> trimesh.Trimesh:
    """A seat and a back rest behind it (the front is at +y)."""
    seat = trimesh.creation.box((width, depth, 0.3))
    rest = trimesh.creation.box((width, 0.12, back))
    rest.apply_translation((0, -depth / 2 + 0.06, 0.15 + back / 2))
    return trimesh.util.concatenate([seat, rest])


@pytest.mark.parametrize(("azimuth", "elevation"), [(12, 20), (47, 5), (83, 35), (152, 10), (285, 28)])
def test_normals_of_a_box_tell_elevation_and_azimuth_up_to_quarters(azimuth, elevation):
    normal, mask = seen(trimesh.creation.box((0.6, 0.8, 0.5)), azimuth, elevation)
    found = [angle.rad2deg().item() for angle in axis_aligned_angles(normal[None], mask[None], step=1.0)]
    assert found == pytest.approx([azimuth % 90, elevation], abs=0.6)


def test_chosen_angles_are_the_best_of_the_grid():
    normal, mask = seen(trimesh.creation.icosphere(subdivisions=1), 33, 21)
    azimuth, elevation = axis_aligned_angles(normal[None], mask[None], step=15.0)
    pixels = normal[mask > 0.5]
    grid = [(a, e) for a in range(0, 90, 15) for e in range(-6, 46, 15)]
    rotation = Viewpoint.from_angles(*torch.tensor(grid).float().deg2rad().T).rotation()
    scores = [axis_alignment(pixels @ r).mean().item() for r in rotation]
    best = grid[int(np.argmax(scores))]
    assert (azimuth.rad2deg().item(), elevation.rad2deg().item()) == pytest.approx(best, abs=1e-3)


def test_chairs_seen_from_all_sides_are_told_apart():
    rng = np.random.default_rng(0)
    true, models = rng.uniform(0, 360, 150), np.arange(150) // 3
    chairs = [chair(*rng.uniform((0.5, 0.5, 0.4), (0.7, 0.7, 0.6))) for _ in true]
    images = [seen(mesh, azimuth, rng.uniform(5, 30)) for mesh, azimuth in zip(chairs, true, strict=True)]
    normal, mask = (torch.stack(maps) for maps in zip(*images, strict=True))
    guesses = guess_viewpoints(zip(normal.split(40), mask.split(40), strict=True), models)
    found = guesses.azimuth.rad2deg().numpy()
    errors = min((azimuth_error(found, true, turn) for turn in (0, 180)), key=np.median)
    assert (errors < 15).mean() > 0.9
    assert (guesses.elevation.rad2deg() > 0).float().mean() > 0.9


def test_azimuths_that_agree_exactly_come_back_exactly():
    rng = np.random.default_rng(1)
    true = np.sort(rng.uniform(-np.pi, np.pi, 60))
    both = np.concatenate([true, -true])
    gap = np.abs((both[:, None] - both[None] + np.pi) % (2 * np.pi) - np.pi)
    np.fill_diagonal(gap, np.inf)
    nearest = np.argsort(gap, axis=1)[:, :6]
    found = synchronized_azimuths(both % (np.pi / 2), nearest, np.ones(nearest.shape))
    off = (found - both + np.pi / 4) // (np.pi / 2) % 4  # quarters
    assert set(off) in ({0.0}, {2.0})
    np.testing.assert_allclose(np.exp(4j * found), np.exp(4j * both), atol=1e-9)
