"""Which pixels are rendered: distances by brute force, frequencies by counting."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from lib.rendering.sampling import boundary_distance, ray_weights, sample_pixels

seeds = st.integers(0, 2**31)


def random_mask(seed: int, height: int = 7, width: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.5


def disc(size: int) -> np.ndarray:
    axis = (np.arange(size) + 0.5) / size - 0.5
    return axis[:, None] ** 2 + axis[None] ** 2 < 0.3**2


@settings(max_examples=50)
@given(seeds)
def test_boundary_distance_is_half_a_pixel_less_than_to_the_nearest_pixel_of_the_other_kind(seed):
    mask = random_mask(seed)
    assume(mask.any() and not mask.all())
    rows, columns = np.indices(mask.shape)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    apart[mask.ravel()[:, None] == mask.ravel()[None]] = np.inf
    np.testing.assert_allclose(boundary_distance(mask).ravel(), apart.min(axis=1) - 0.5, atol=1e-12)


@settings(max_examples=30)
@given(seeds)
def test_boundary_distance_does_not_care_which_side_is_the_object(seed):
    mask = random_mask(seed)
    assume(mask.any() and not mask.all())
    np.testing.assert_allclose(boundary_distance(mask), boundary_distance(~mask))


@settings(max_examples=30)
@given(seeds, st.floats(0.001, 1))
def test_ray_weights_are_a_distribution_that_falls_with_the_distance(seed, softening):
    mask = random_mask(seed)
    assume(mask.any() and not mask.all())
    weights, distance = ray_weights(mask, softening), boundary_distance(mask)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert weights.min() > 0
    expected = 1 / (distance + softening * mask.shape[1])
    np.testing.assert_allclose(weights / weights.max(), expected / expected.max(), rtol=1e-5)


def test_softening_of_the_released_code_is_five_pixels_at_224():
    mask = disc(224)
    weights, distance = ray_weights(mask), boundary_distance(mask)
    near, far = distance.argmin(), distance.argmax()
    expected = (distance.flat[far] + 5) / (distance.flat[near] + 5)
    assert weights.flat[near] / weights.flat[far] == pytest.approx(expected, rel=1e-5)


def test_weights_agree_between_image_sizes():
    coarse, fine = ray_weights(disc(32)), ray_weights(disc(128))
    blocks = fine.reshape(32, 4, 32, 4).sum(axis=(1, 3))
    in_pixels = ray_weights(disc(32), softening=5 / 32)  # 5 pixels whatever the size
    assert np.abs(blocks - coarse).sum() < 0.15  # two distributions differ by at most 2
    assert np.abs(blocks - in_pixels).sum() > 0.3


@settings(max_examples=30)
@given(seeds, st.integers(1, 80))
def test_pixels_are_different_and_repeat_with_the_generator(seed, rays):
    weights = torch.from_numpy(np.stack([ray_weights(disc(8)), ray_weights(disc(8).T)]))
    index = sample_pixels(weights, rays, torch.Generator().manual_seed(seed))
    assert index.shape == (2, min(rays, 64))  # an image has no more pixels than it has
    assert all(len(set(row.tolist())) == index.shape[1] for row in index)
    assert int(index.min()) >= 0 and int(index.max()) < 64
    assert torch.equal(index, sample_pixels(weights, rays, torch.Generator().manual_seed(seed)))


def test_pixels_come_as_often_as_their_weights_say():
    weights = torch.from_numpy(ray_weights(disc(6)))
    many = sample_pixels(weights.expand(40_000, 6, 6), 1, torch.Generator().manual_seed(0))
    counts = np.bincount(many.flatten().numpy(), minlength=36)
    assert chisquare(counts, weights.flatten().double().numpy() / float(weights.double().sum()) * 40_000).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-6  # and unevenly, so that the test can tell


def test_each_image_is_sampled_by_its_own_weights():
    weights = torch.full((2, 4, 4), 1e-9)
    weights[0, 0, 1], weights[1, 3, 2] = 1, 1
    index = sample_pixels(weights, 1, torch.Generator().manual_seed(0))
    assert index.tolist() == [[1], [14]]  # row-major
