"""What notebook 05 measures, against brute force, known geometry and finite differences."""

import numpy as np
import pytest
import torch

from lib.data.loading import Batch
from lib.geometry.cameras import Viewpoint
from lib.rendering.volume import RenderedMaps
from lib.systems.base import Reconstruction
from support import nb05

RADII = torch.tensor([0.25, 0.35, 0.45])


def ellipsoid(_, points):
    """Smooth, with a closed gradient: what finite differences need."""
    length = (points / RADII).norm(dim=-1)
    gradient = 0.3 * points / RADII**2 / length[..., None]
    return 0.3 * (length - 1), gradient, torch.full_like(points, 0.5)


@pytest.fixture(scope="module")
def shape() -> Reconstruction:
    angles = torch.tensor([[0.5, 0.9], [0.35, 0.35]])
    return Reconstruction(ellipsoid, lambda i, p: ellipsoid(i, p)[0], Viewpoint.from_angles(*angles), 0.02)


@pytest.fixture(scope="module")
def maps(shape) -> RenderedMaps:
    return shape.render(image_size=24, samples=64)


@pytest.fixture(scope="module")
def batch(shape, maps) -> Batch:
    """The two images that the shape renders, with their normals in the frame of each camera."""
    normal = (maps.normal.flatten(1, 2) @ shape.viewpoint.rotation().mT).view_as(maps.normal)
    return Batch(torch.arange(2), maps.rgb, maps.mask, normal, shape.viewpoint, torch.full((2, 24, 24), 1 / 576), None)


def test_spoiled_normals_are_a_share_of_the_object_turned_by_the_angle(batch):
    spoiled = nb05.corrupted(batch, 0.25, torch.Generator().manual_seed(0))
    inside = batch.mask > 0.5
    assert not bool((spoiled.wrong & ~inside).any())
    assert float(spoiled.wrong.sum() / inside.sum()) == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(spoiled.normal[~spoiled.wrong], batch.normal[~spoiled.wrong])
    wrong = spoiled.normal[spoiled.wrong]
    torch.testing.assert_close(wrong.norm(dim=-1), torch.ones(len(wrong)))
    angle = torch.rad2deg(torch.acos((wrong * batch.normal[spoiled.wrong]).sum(-1)))
    assert 30 < float(angle.max()) <= 70.1  # 70 degrees about the axis; less for normals near to it
    assert int(nb05.corrupted(batch, 0.0, torch.Generator()).wrong.sum()) == 0


def test_dropout_finds_all_wrong_normals_of_a_perfect_rendering(batch, maps):
    ranked = nb05.ranking(batch, maps, nb05.corrupted(batch, 0.25, torch.Generator().manual_seed(0)))
    share = float(ranked.wrong.float().mean())
    assert ranked.quality(1 - share) == pytest.approx((1, 1), abs=0.05)
    assert ranked.wrong_share(1.0) == pytest.approx(share) and ranked.wrong_share(0.5) == 0
    assert ranked.quality(0.5) == pytest.approx((2 * share, 1), abs=0.01)  # too many: all the wrong ones are among them


def test_slopes_are_those_of_finite_differences(shape, batch):
    rays = (batch.mask[0].flatten() > 0.99).nonzero()[::3, 0]
    turns, step = np.array([-15.0, 5.0]), 0.1
    _, slopes = nb05.azimuth_slopes(shape, batch, turns, rays)
    above, below = (nb05.azimuth_slopes(shape, batch, turns + move, rays)[0] for move in (step, -step))
    np.testing.assert_allclose(slopes, (above - below) / (2 * step), rtol=0.02)
    assert (slopes * turns > 0).all()  # downhill is towards the truth


def test_both_losses_are_lowest_at_the_true_azimuth(shape, batch):
    for losses in nb05.landscape(shape, batch, np.array([-40, -20, 0, 20, 40])).values():
        assert losses.shape == (2, 5)
        assert losses.argmin(axis=1).tolist() == [2, 2]


def test_basins_are_those_of_a_walk():
    turns = np.arange(-180, 180, 20)
    losses = np.random.default_rng(0).random((40, len(turns)))
    home = np.zeros(len(turns))
    for start in range(len(turns)):
        for row in losses:
            last, place = -1, start
            while place != last:
                last, around = place, [place, (place - 1) % len(turns), (place + 1) % len(turns)]
                place = min(around, key=lambda i: row[i])
            home[start] += abs(turns[place]) <= 20
    np.testing.assert_allclose(nb05.basin_share(losses, turns, 20), home / len(losses))
