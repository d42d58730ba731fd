"""Distance transforms and the bounds that follow, against brute force, closed forms and real meshes."""

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given
from hypothesis import strategies as st
from pykdtree.kdtree import KDTree
from scipy.spatial.distance import cdist

from lib.errors import InputError
from lib.geometry.distance_transform import HALF_DIAGONAL, count_unusable, distance_transform, sdf_lower_bound
from lib.geometry.meshes import marching_cubes
from lib.losses.silhouette import sdf_bound_loss

DOUBLE = torch.float64


def bound(pixels, distance, depth, camera="perspective") -> np.ndarray:
    """ "parallel": rays along z, which no depth magnifies."""
    if camera == "parallel":
        depth, camera = np.ones_like(depth), "weak_perspective"
    return sdf_lower_bound(np.asarray(pixels, float), distance, depth, camera).numpy()


# --- the transform --------------------------------------------------------------------------------------------------


def brute_force_transform(mask: np.ndarray) -> np.ndarray:
    places = np.argwhere(np.ones_like(mask))
    return cdist(places, np.argwhere(mask)).min(1).reshape(mask.shape)


@pytest.mark.parametrize("shape", [(17, 17), (9, 23)])
def test_transform_is_the_distance_to_the_nearest_silhouette_pixel(shape):
    masks = np.random.default_rng(0).random((2, 3, *shape)) < 0.03
    masks[..., 4, 5] = True
    expected = np.stack([brute_force_transform(m) for m in masks.reshape(-1, *shape)]).reshape(masks.shape)
    np.testing.assert_allclose(distance_transform(masks), expected, rtol=1e-6)
    np.testing.assert_allclose(distance_transform(torch.from_numpy(masks), "image"), expected / shape[1], rtol=1e-6)


def test_unknown_surroundings_are_as_foreground_all_around():
    mask = np.zeros((8, 11), dtype=bool)
    mask[3, 4] = True
    expected = brute_force_transform(np.pad(mask, 1, constant_values=True))[1:-1, 1:-1]
    np.testing.assert_allclose(distance_transform(mask, beyond="unknown"), expected, rtol=1e-6)


def test_margin_is_taken_off_down_to_zero():
    mask = torch.tensor([[1.0, 0.4, 0.0]])  # over one half is foreground
    assert distance_transform(mask, margin=1.5).tolist() == [[0.0, 0.0, 0.5]]


def test_empty_and_full_silhouettes():
    empty, full = torch.zeros(4, 4), torch.ones(4, 4)
    assert bool(distance_transform(empty).isinf().all())
    assert float(distance_transform(empty, beyond="unknown").max()) == 2.0
    assert float(distance_transform(full).max()) == 0.0
    cut = torch.zeros(4, 4)
    cut[2, 3] = 1
    found = count_unusable(torch.stack([empty, full, cut, torch.nn.functional.pad(torch.ones(2, 2), (1, 1, 1, 1))]))
    assert (found.empty, found.full, found.cut) == (1, 1, 1)


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (distance_transform, (torch.zeros(0, 4),), "shape"),
        (distance_transform, (torch.full((2, 2), torch.nan),), "NaN"),
        (distance_transform, (torch.zeros(2, 2), "pixels", "background", -1.0), "margin"),
        (sdf_lower_bound, (torch.zeros(1, 2), 0.1, -1.0), "depth"),
        (sdf_lower_bound, (torch.zeros(1, 2), torch.tensor([torch.nan]), 1.0), "distance"),
    ],
)
def test_bad_input_is_one_sentence(call, arguments, message):
    with pytest.raises(InputError, match=message):
        call(*arguments)


# --- Eq. 1-3 --------------------------------------------------------------------------------------------------------


def random_circles(count: int, seed: int):
    """u, D and z; in a tenth each the principal point is u itself, very near it, or on the circle."""
    rng = np.random.default_rng(seed)
    distance, depth = 10 ** rng.uniform(-3, 0.5, count), rng.uniform(0.3, 5, count)
    radius, angle = 10 ** rng.uniform(-2, 0.5, count), rng.uniform(0, 2 * np.pi, count)
    tenth = count // 10
    radius[:tenth] = 0
    radius[tenth : 2 * tenth] = 10 ** rng.uniform(-12, -4, tenth)
    radius[2 * tenth : 3 * tenth] = distance[2 * tenth : 3 * tenth]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1), distance, depth


def minimum_over_circle_and_depth(u, distance, depth, grid=32, zooms=9) -> np.ndarray:
    """Eq. 3 by search: a grid over the angle, zoomed in on its best place; at each angle over z' >= 0."""
    angle, half, rows = np.zeros((len(u), 1)), np.pi, np.arange(len(u))
    for steps in [np.linspace(-1, 1, grid + 1)] + zooms * [np.linspace(-1, 1, 9)]:
        t = angle + half * steps
        v = u[:, None] + distance[:, None, None] * np.stack([np.cos(t), np.sin(t)], -1)

        def square(z, v=v):
            across = depth[:, None, None] * u[:, None] - z[..., None] * v
            return (across**2).sum(-1) + (depth[:, None] - z) ** 2

        # a parabola in z': its lowest place follows from three values
        zero, one, two = (square(np.full_like(t, z)) for z in (0.0, 1.0, 2.0))
        z = np.maximum(1 - (two - zero) / (2 * (two - 2 * one + zero)), 0)
        found = square(z)
        best = found.argmin(1)
        angle, half = t[rows, best, None], half * 2 * (steps[1] - steps[0])
    return np.sqrt(found.min(1))


def test_bound_is_the_minimum_of_eq_3_on_100_000_circles():
    u, distance, depth = random_circles(100_000, 0)
    found = bound(u, distance, depth)
    parts = [slice(i, i + 4000) for i in range(0, len(u), 4000)]
    searched = np.concatenate([minimum_over_circle_and_depth(u[p], distance[p], depth[p]) for p in parts])
    assert (np.linalg.norm(u, axis=1) < distance).mean() > 0.4  # the circle contains the principal point
    assert (searched > found * (1 - 1e-9)).all()
    np.testing.assert_allclose(found, searched, rtol=1e-6)


def eq_1_and_2(u, distance, depth) -> np.ndarray:
    """The paper's letter, which divides by |u|."""
    v = (1 + distance / np.linalg.norm(u, axis=-1))[:, None] * u
    u, v = (np.concatenate([x, np.ones((len(x), 1))], -1) for x in (u, v))
    return depth * np.linalg.norm(u - ((v * u).sum(-1) / (v * v).sum(-1))[:, None] * v, axis=-1)


def test_bound_is_eq_1_and_2_where_those_can_be_computed():
    u, distance, depth = random_circles(10_000, 1)
    u, distance, depth = u[2000:], distance[2000:], depth[2000:]  # not next to the principal point
    np.testing.assert_allclose(bound(u, distance, depth), eq_1_and_2(u, distance, depth), rtol=1e-7)


def test_limit_at_the_principal_point():
    assert bound([0, 0], 0.75, 2.0) == pytest.approx(2 * 0.6)  # z D / sqrt(1 + D^2)
    near = [bound([10.0**-k, 0], 0.75, 2.0) - 1.2 for k in range(1, 9)]
    assert (np.diff(np.abs(near)) < 0).all() and abs(near[-1]) < 1e-7
    pixels = torch.zeros(3, 2, requires_grad=True)
    sdf_lower_bound(pixels, 0.3, 1.0).sum().backward()
    assert bool(pixels.grad.isfinite().all())


def test_bound_keeps_its_digits_in_single_precision():
    u, distance, depth = (x.astype(np.float32) for x in random_circles(5000, 2))
    single = sdf_lower_bound(torch.from_numpy(u), torch.from_numpy(distance), torch.from_numpy(depth)).numpy()
    np.testing.assert_allclose(single, bound(u, distance, depth), rtol=1e-6)


def test_limits_of_the_distance_and_parallel_rays():
    for camera, far in (("perspective", 2.0), ("weak_perspective", np.inf)):
        assert bound([0.3, 0.4], 0.0, 2.0, camera) == 0
        assert bound([0.3, 0.4], np.inf, 2.0, camera) == pytest.approx(far)
    assert bound([0.3, 0.4], np.inf, 0.0, "weak_perspective") == np.inf
    pixels = np.random.default_rng(0).normal(size=(5, 2))
    np.testing.assert_allclose(bound(pixels, 0.3, 2.0, "weak_perspective"), 0.6)
    # far away, perspective becomes weak perspective with the camera's distance as z
    np.testing.assert_allclose(bound(pixels / 1e4, 0.3 / 1e4, 1e4), 0.3, rtol=1e-3)
    assert sdf_lower_bound(torch.rand(2, 5, 1, 2), torch.rand(2, 5, 1), torch.rand(2, 1, 7)).shape == (2, 5, 7)


# --- valid and tight ------------------------------------------------------------------------------------------------


def sphere_distance(points, center, radius):
    return np.linalg.norm(points - center, axis=-1) - radius


def box_distance(points, center, half):
    excess = np.abs(points - center) - half
    return np.linalg.norm(np.maximum(excess, 0), axis=-1) + np.minimum(excess.max(-1), 0)


def torus_distance(points, center, ring, tube):
    x, y, z = np.moveaxis(points - center, -1, 0)
    return np.hypot(np.hypot(x, y) - ring, z) - tube


def picture_plane(side=32, half=1.1):
    axis = (np.arange(side) + 0.5) / side * 2 * half - half
    return np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)


def on_plane(points, camera):
    return points[:, :2] / points[:, 2:] if camera == "perspective" else points[:, :2]


def slack(pixels, distance, distance_of, camera, depths):
    """f - b at every pixel and depth, shape (pixels, depths)."""
    homogeneous = np.concatenate([pixels, np.ones((len(pixels), 1))], 1)
    points = depths[:, None] * homogeneous[:, None]
    if camera != "perspective":
        points[..., :2] = pixels[:, None]
    return distance_of(points) - bound(pixels[:, None], distance[:, None], depths, camera)


SHAPES = {
    "sphere": (sphere_distance, (0.5,)),
    "box": (box_distance, (np.array([0.5, 0.3, 0.4]),)),
    "torus": (torus_distance, (0.5, 0.2)),
}


@pytest.mark.parametrize("camera", ["perspective", "parallel"])
@pytest.mark.parametrize("center", [(0.0, 0.0, 2.0), (0.6, -0.4, 1.6)])
@pytest.mark.parametrize("shape", SHAPES)
def test_valid_at_every_outside_pixel_and_depth(shape, center, camera):
    """D is to dense points of the true silhouette, so it is too large by less than their spacing."""
    function, sizes = SHAPES[shape]
    center = np.array(center)

    def distance_of(points):
        return function(points, center, *sizes)

    mesh = marching_cubes(lambda points: distance_of(points + center), 1.2, resolution=80)
    outline = on_plane(trimesh.sample.sample_surface(mesh, 40_000, seed=0)[0] + center, camera)
    pixels, depths = picture_plane(), np.geomspace(0.3, 6, 24)
    distance = KDTree(outline).query(pixels)[0]
    outside = distance > 0.03
    found = slack(pixels[outside], distance[outside], distance_of, camera, depths)
    assert outside.mean() > 0.3
    assert found.min() > -0.03 and np.median(found) > 0


def test_tight_for_a_sphere_in_parallel_rays_at_its_depth():
    pixels = picture_plane(20)
    pixels = pixels[np.linalg.norm(pixels, axis=1) > 0.5]
    distance = np.linalg.norm(pixels, axis=1) - 0.5
    center = np.array([0.0, 0, 2])
    found = slack(pixels, distance, lambda p: sphere_distance(p, center, 0.5), "parallel", np.array([1.0, 2, 3]))
    assert np.abs(found[:, 1]).max() < 1e-12 and found[:, [0, 2]].min() > 1e-3


# --- loss -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_loss_is_eq_4_with_and_without_importance(weighted):
    rng = np.random.default_rng(0)
    sdf, limit, distance = rng.normal(size=(2, 4, 3)), rng.random((2, 4, 3)), rng.random((2, 4))
    distance[:, 1] = 0  # on the silhouette: left out
    total, weights = 0.0, 0.0  # over both images
    for f, b, d in zip(sdf, limit, distance, strict=True):
        terms = [
            (1 / d[u] if weighted else 1, sum(max(0, b[u, z] - f[u, z]) for z in range(3)))
            for u in range(4)
            if d[u] > 0
        ]
        total += sum(w * e for w, e in terms)
        weights += sum(w for w, _ in terms)
    found = sdf_bound_loss(*(torch.from_numpy(x) for x in (sdf, limit, distance)), weighted=weighted)
    assert float(found) == pytest.approx(total / weights)


numbers = st.one_of(st.just(0.0), st.just(float("inf")), st.floats(1e-30, 1e30))


@given(st.lists(numbers, min_size=1, max_size=5), st.sampled_from(["perspective", "weak_perspective"]))
def test_no_nan_leaves_the_loss(distances, camera):
    distance = torch.tensor([distances], dtype=torch.float32)
    sdf = torch.zeros(1, len(distances), 2, requires_grad=True)
    pixels = torch.zeros(1, len(distances), 1, 2)
    limit = sdf_lower_bound(pixels, distance[..., None], torch.tensor([0.0, 2.0]), camera)
    loss = sdf_bound_loss(sdf, limit, distance / 1e6)
    loss.backward()
    assert bool(loss.isfinite()) and bool(sdf.grad.isfinite().all())


def test_half_diagonal_makes_a_covering_mask_safe():
    """A pixel is foreground if the disc touches it anywhere: minus half a diagonal, D is never too large."""
    side, radius = 40, 0.27
    axis = (np.arange(side) + 0.5) / side - 0.5
    x, y = np.meshgrid(axis, axis)
    nearest = np.hypot(np.maximum(abs(x) - 0.5 / side, 0), np.maximum(abs(y) - 0.5 / side, 0))
    true = np.maximum(np.hypot(x, y) - radius, 0)
    mask = nearest <= radius
    assert bool((distance_transform(mask, "image", margin=HALF_DIAGONAL).numpy() <= true + 1e-6).all())
    assert not bool((distance_transform(mask, "image").numpy() <= true + 1e-6).all())
