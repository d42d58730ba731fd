"""Every term of the objective: closed forms, and its gradient against finite differences in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from lib.geometry.cameras import Viewpoint, unit_pair
from lib.losses.camera import axis_alignment, azimuth_prior_loss, camera_margin_loss, mirror_loss, viewpoint_distance
from lib.losses.field import eikonal_loss, sphere_sdf
from lib.losses.normal import inliers, normal_errors, normal_loss, to_canonical
from lib.losses.reprojection import mask_loss, rgb_loss, soft_iou
from lib.losses.semantic import choose_neighbors, neighbor_probabilities

seeds = st.integers(0, 2**31)
angles = st.floats(-math.pi, math.pi, allow_subnormal=False)


def numbers(seed: int, *shape: int) -> Tensor:
    """Uniform in [0, 1], float64."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(seed: int, *shape: int) -> Tensor:
    return torch.nn.functional.normalize(numbers(seed, *shape, 3) - 0.5, dim=-1)


def assert_gradient(loss, *values: Tensor, atol: float = 1e-7):
    """Autograd against central differences, every entry, and not zero everywhere."""
    values = [v.detach().clone().requires_grad_(True) for v in values]
    gradients = torch.autograd.grad(loss(*values), values)
    for number, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
        expected = torch.zeros(value.numel(), dtype=torch.float64)
        for i in range(value.numel()):
            change = torch.zeros(value.numel(), dtype=torch.float64)
            change[i] = 1e-6
            above, below = (
                [*values[:number], value + s * change.view_as(value), *values[number + 1 :]] for s in (1, -1)
            )
            expected[i] = (loss(*above) - loss(*below)).detach() / 2e-6
        torch.testing.assert_close(gradient.flatten(), expected, rtol=1e-5, atol=atol)
        assert float(gradient.abs().max()) > 1e-4


# --- reprojection --------------------------------------------------------------------------------------------------


def test_rgb_loss_is_the_mean_square_over_rays_and_channels():
    assert rgb_loss(torch.zeros(2, 5, 3), torch.ones(2, 5, 3)).item() == 1
    a, b = numbers(0, 2, 3, 3), numbers(1, 2, 3, 3)
    assert rgb_loss(a, b).item() == pytest.approx(np.mean((a.numpy() - b.numpy()) ** 2))
    assert_gradient(lambda rendered: rgb_loss(rendered, b), a)


@pytest.mark.parametrize(("inside_a", "inside_b", "expected"), [(6, 6, 1.0), (6, 0, 0.0), (4, 8, 0.5), (0, 0, 1.0)])
def test_iou_of_nested_hard_masks_counts_pixels(inside_a, inside_b, expected):
    place = torch.arange(12)[None]
    iou = soft_iou((place < inside_a).double(), (place < inside_b).double())
    assert iou.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30)
@given(seeds, seeds)
def test_soft_iou_is_eq_2_symmetric_and_between_0_and_1(seed, other):
    a, b = numbers(seed, 3, 10), numbers(other, 3, 10)
    expected = (a * b).numpy().sum(1) / (a + b - a * b).numpy().sum(1)
    np.testing.assert_allclose(soft_iou(a, b), expected, atol=1e-5)
    np.testing.assert_allclose(soft_iou(a, b), soft_iou(b, a))
    assert mask_loss(a, b).item() == pytest.approx(1 - expected.mean(), abs=1e-5)
    assert float(soft_iou(a, b).max()) <= 1


def test_mask_loss_has_the_gradient_of_finite_differences():
    target = (numbers(1, 3, 6) > 0.5).double()
    assert_gradient(lambda rendered: mask_loss(rendered, target), numbers(0, 3, 6))


# --- normals -------------------------------------------------------------------------------------------------------


def turned_by(degrees: float) -> tuple[Tensor, Tensor]:
    """Two unit vectors at an angle, as one image with one ray."""
    angle = math.radians(degrees)
    vectors = torch.tensor([[[1.0, 0.0, 0.0]], [[math.cos(angle), math.sin(angle), 0.0]]], dtype=torch.float64)
    return vectors[:1], vectors[1:]


@pytest.mark.parametrize("degrees", [0, 10, 60, 90, 180])
def test_normal_error_of_a_known_angle(degrees):
    error, angular = normal_errors(*turned_by(degrees))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    assert angular.item() == pytest.approx(1 - cos, abs=1e-12)
    assert error.item() == pytest.approx(5 * (1 - cos + sin) + 1 - cos, abs=1e-12)
    assert normal_errors(*turned_by(degrees), l1_weight=0)[0].item() == pytest.approx(1 - cos, abs=1e-12)


@settings(max_examples=30)
@given(angles, angles, angles)
def test_canonical_normals_are_the_ones_that_the_camera_turned(azimuth, elevation, roll):
    pose = Viewpoint.from_angles(*(torch.tensor([v], dtype=torch.float64) for v in (azimuth, elevation, roll)))
    world = directions(0, 1, 5)
    seen = torch.einsum("bij,bnj->bni", pose.rotation(), world)
    np.testing.assert_allclose(to_canonical(seen, pose.rotation()), world, atol=1e-12)


def test_surface_that_faces_the_camera_has_the_normal_towards_it():
    pose = Viewpoint.from_angles(torch.tensor([0.4]), torch.tensor([0.3]))
    position = -pose.rotation()[0].T @ torch.tensor([0.0, 0.0, 5.0])
    facing = to_canonical(torch.tensor([[[0.0, 0.0, -1.0]]]), pose.rotation())
    np.testing.assert_allclose(facing[0, 0], position / 5, atol=1e-6)


@settings(max_examples=40)
@given(seeds, st.integers(1, 60), st.floats(0.05, 0.99))
def test_inliers_are_the_smallest_errors_and_as_many_as_asked(seed, count, keep):
    errors = numbers(seed, count)
    kept = inliers(errors, keep)
    assert int(kept.sum()) == max(1, int(keep * count))
    if not kept.all():
        assert float(errors[kept].max()) <= float(errors[~kept].min())


def test_dropout_can_be_off_and_bears_nothing_to_drop():
    assert inliers(numbers(0, 7), 1.0).all()
    assert len(inliers(torch.zeros(0), 0.8)) == 0


def noisy_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two images: the first has 3 of 5 normals wrong by 90 degrees, the second is right but for 1 degree."""
    rotation = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    first, second = turned_by(90), turned_by(1)
    rendered = torch.cat([first[0], second[0]]).expand(2, 5, 3)
    target = torch.cat([first[0].expand(1, 5, 3), second[1].expand(1, 5, 3)]).clone()
    target[0, :3] = first[1][0]
    return rendered, target, rotation, torch.ones(2, 5, dtype=torch.bool)


def test_outliers_are_dropped_over_the_whole_minibatch_not_image_by_image():
    rendered, target, rotation, visible = noisy_batch()
    rotation = rotation.clone()
    one = normal_errors(*turned_by(1))[0].item()
    wrong = normal_errors(*turned_by(90))[0].item()
    assert normal_loss(rendered, target, rotation, visible, keep=0.7).item() == pytest.approx(5 * one / 7)
    assert normal_loss(rendered, target, rotation, visible, keep=0.8).item() == pytest.approx((5 * one + wrong) / 8)
    assert normal_loss(rendered, target, rotation, visible, keep=1).item() == pytest.approx((5 * one + 3 * wrong) / 10)


def test_outliers_are_ranked_by_the_angle_alone():
    # at the same angle, a difference along a diagonal has sqrt(3) times the L1 norm of one along an axis
    half = torch.tensor([0.50, 0.51])[:, None].double()  # half the angles: the second is the larger
    along = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).double()
    across = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 0.0]]).double()
    along, across = (torch.nn.functional.normalize(v, dim=-1) for v in (along, across))
    rendered = (half.cos() * across + half.sin() * along)[None]
    target = (half.cos() * across - half.sin() * along)[None]
    error, angular = normal_errors(rendered, target)
    assert float(angular[0, 0]) < float(angular[0, 1])
    assert float(error[0, 0]) > 1.5 * float(error[0, 1])
    rotation, visible = torch.eye(3, dtype=torch.float64)[None], torch.ones(1, 2, dtype=torch.bool)
    loss = normal_loss(rendered, target, rotation, visible, keep=0.5)
    assert loss.item() == pytest.approx(float(error[0, 0]))
    swapped = normal_loss(target, rendered, rotation, visible, keep=0.5)
    assert swapped.item() == pytest.approx(float(error[0, 0]))


def test_what_is_not_visible_does_not_count_and_nothing_visible_costs_nothing():
    rendered, target, rotation, visible = noisy_batch()
    visible[0, :3] = False
    one = normal_errors(*turned_by(1))[0].item()
    assert normal_loss(rendered, target, rotation, visible, keep=1).item() == pytest.approx(5 * one / 7)
    rendered = rendered.clone().requires_grad_(True)
    nothing = normal_loss(rendered, target, rotation, torch.zeros_like(visible))
    nothing.backward()
    assert nothing.item() == 0 and not rendered.grad.any()


@pytest.mark.parametrize("keep", [0.8, 1.0])
def test_normal_loss_has_the_gradient_of_finite_differences_also_to_the_viewpoint(keep):
    visible = numbers(3, 2, 8) > 0.2
    target = directions(4, 2, 8)

    def loss(rendered, azimuth, elevation, roll):
        rotation = Viewpoint.from_angles(azimuth, elevation, roll).rotation()
        unit = torch.nn.functional.normalize(rendered, dim=-1)
        return normal_loss(unit, target, rotation, visible, keep=keep)

    assert_gradient(loss, directions(5, 2, 8), *(numbers(6 + i, 2) for i in range(3)))


def test_descending_the_normal_loss_turns_the_viewpoint_to_the_truth():
    world = directions(0, 1, 30)
    true = Viewpoint.from_angles(torch.tensor([0.5], dtype=torch.float64), torch.tensor([0.2], dtype=torch.float64))
    seen = torch.einsum("bij,bnj->bni", true.rotation(), world)
    azimuth = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([azimuth], lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        pose = Viewpoint.from_angles(azimuth, torch.tensor([0.2], dtype=torch.float64))
        normal_loss(world, seen, pose.rotation(), torch.ones(1, 30, dtype=torch.bool)).backward()
        optimizer.step()
    assert azimuth.item() == pytest.approx(0.5, abs=0.05)


# --- field ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_eikonal_loss_is_the_square_of_the_excess_slope(scale):
    assert eikonal_loss(scale * directions(0, 2, 9)).item() == pytest.approx((scale - 1) ** 2, abs=1e-12)


def test_sphere_sdf_is_the_distance_to_the_nearest_of_its_points():
    points = 2 * numbers(0, 40, 3) - 1
    surface = 0.4 * directions(1, 100_000)
    sdf = sphere_sdf(points, 0.4)
    np.testing.assert_allclose(sdf.abs(), torch.cdist(points, surface).amin(dim=-1), atol=0.01)
    assert ((sdf < 0) == (points.square().sum(-1) < 0.16)).all() and (sdf < 0).any()


def test_eikonal_loss_has_the_gradient_of_finite_differences():
    assert_gradient(eikonal_loss, numbers(0, 2, 4, 3) + 0.1)
    flat = torch.zeros(1, 2, 3, requires_grad=True)
    eikonal_loss(flat).backward()
    assert torch.isfinite(flat.grad).all()


# --- camera --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 12, 37])
@pytest.mark.parametrize("power", [1, 2])
def test_azimuth_prior_is_0_for_the_even_grid_in_any_order(count, power):
    even = torch.tensor([(2 * k - 1) * math.pi / count for k in range(1, count + 1)], dtype=torch.float64)
    shuffled = even[torch.randperm(count)]
    assert azimuth_prior_loss(unit_pair(shuffled), power).item() == pytest.approx(0, abs=1e-12)


@settings(max_examples=50)
@given(seeds, st.integers(2, 20))
def test_azimuth_prior_is_the_wasserstein_distance_of_three_projections(seed, count):
    azimuth = 2 * math.pi * numbers(seed, count).numpy()
    even = (2 * np.arange(1, count + 1) - 1) * np.pi / count
    total = {1: 0.0, 2: 0.0}
    for project in (np.cos, np.sin, lambda a: np.cos(a) * np.sin(a)):
        difference = np.sort(project(azimuth)) - np.sort(project(even))
        total[1] += np.abs(difference).mean() / 3
        total[2] += np.sqrt((difference**2).sum()) / (3 * count)
    for power in (1, 2):
        loss = azimuth_prior_loss(unit_pair(torch.from_numpy(azimuth)), power)
        assert loss.item() == pytest.approx(total[power], abs=1e-9)


@settings(max_examples=50)
@given(angles, seeds, st.sampled_from([1, 2]))
def test_azimuth_prior_punishes_collapse_more_than_any_spread(place, seed, power):
    collapsed = azimuth_prior_loss(unit_pair(torch.full((24,), place, dtype=torch.float64)), power)
    half = azimuth_prior_loss(unit_pair(place + math.pi * numbers(seed, 24)), power)
    whole = azimuth_prior_loss(unit_pair(2 * math.pi * numbers(seed, 24)), power)
    assert collapsed.item() > half.item() > 0
    assert collapsed.item() > 1.5 * whole.item()


@pytest.mark.parametrize("power", [1, 2])
def test_azimuth_prior_has_the_gradient_of_finite_differences(power):
    assert_gradient(lambda a: azimuth_prior_loss(unit_pair(a), power), 6 * numbers(0, 7))


def pose(azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Viewpoint:
    return Viewpoint.from_angles(azimuth, elevation, roll)


def test_camera_margin_is_a_hinge_in_degrees():
    elevation = torch.tensor([0.0, 84.0, 98.0, -110.0], dtype=torch.float64).deg2rad()
    roll = torch.tensor([0.0, -95.0, 0.0, 145.0], dtype=torch.float64).deg2rad()
    loss = camera_margin_loss(pose(torch.zeros(4, dtype=torch.float64), elevation, roll))
    assert loss.item() == pytest.approx((3 + 15) / 4 + 50 / 4)
    tighter = camera_margin_loss(pose(elevation * 0, elevation, roll * 0), limit=60, slack=0)
    assert tighter.item() == pytest.approx((24 + 38 + 50) / 4)


def test_camera_margin_has_the_gradient_of_finite_differences():
    zero = torch.zeros(3, dtype=torch.float64)
    elevation, roll = torch.tensor([[1.6, 0.3, -2.0], [-1.7, 1.2, 0.1]], dtype=torch.float64)
    assert_gradient(lambda e, r: camera_margin_loss(pose(zero, e, r)), elevation, roll, atol=1e-6)


@settings(max_examples=30)
@given(seeds)
def test_mirror_loss_is_0_for_the_pair_minus_azimuth_elevation_minus_roll(seed):
    azimuth, elevation, roll = 6 * numbers(seed, 3, 4) - 3
    view = pose(azimuth, elevation, roll)
    assert mirror_loss(view, pose(-azimuth, elevation, -roll)).item() == pytest.approx(0, abs=1e-12)
    opposite = pose(math.pi - azimuth, elevation + math.pi, math.pi - roll)
    assert mirror_loss(view, opposite).item() == pytest.approx(12)  # the largest value: opposite unit vectors


def test_mirror_loss_of_known_angles():
    zero, quarter = torch.zeros(1), torch.full((1,), math.pi / 2)
    expected = 2  # one of three pairs is off by 90 degrees
    assert mirror_loss(pose(zero, zero, zero), pose(quarter, zero, zero)).item() == pytest.approx(expected)
    assert mirror_loss(pose(zero, zero, zero), pose(zero, quarter, zero)).item() == pytest.approx(expected)
    assert mirror_loss(pose(zero, zero, zero), pose(zero, zero, quarter)).item() == pytest.approx(expected)


def test_mirror_loss_has_the_gradient_of_finite_differences_on_both_sides():
    start = [4 * numbers(i, 3) - 2 for i in range(6)]
    assert_gradient(lambda *a: mirror_loss(pose(*a[:3]), pose(*a[3:])), *start)


def test_axis_alignment_is_1_along_the_axes_except_downwards():
    normals = torch.tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [0.6, 0.8, 0]])
    assert axis_alignment(normals).tolist() == pytest.approx([1, 1, 1, 1, 1, 0, 0.8])
    up = torch.tensor([1.0, 1.0, 1.0]) / 3**0.5
    assert axis_alignment(up).item() == pytest.approx(3**-0.5)


def test_viewpoint_distance_is_the_chord_of_azimuths_and_five_times_the_rest():
    zero, angle = torch.zeros(1, dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64)
    start, chord, gap = pose(zero, zero, zero), 2 * math.sin(0.35), 1 - math.cos(0.7)
    assert viewpoint_distance(start, start).item() == pytest.approx(0.01)
    assert viewpoint_distance(pose(angle, zero, zero), start).item() == pytest.approx(chord, rel=2e-4)
    assert viewpoint_distance(pose(zero, angle, zero), start).item() == pytest.approx(0.01 + 5 * gap)
    assert viewpoint_distance(pose(angle, angle, angle), start).item() == pytest.approx(chord + 10 * gap, rel=2e-4)


def test_viewpoint_targets_of_which_a_fifth_are_a_quarter_turn_off_are_met_where_most_are():
    targets = torch.tensor([0.0, 0.0, 0.0, 0.0, math.pi / 2])
    azimuth = torch.tensor([0.5], requires_grad=True)
    optimizer = torch.optim.SGD([azimuth], lr=0.05)
    zeros = torch.zeros(5)
    for _ in range(200):
        optimizer.zero_grad()
        viewpoint_distance(pose(azimuth.expand(5), zeros, zeros), pose(targets, zeros, zeros)).mean().backward()
        optimizer.step()
    assert abs(azimuth.item()) < math.radians(1)  # 1 - cos would have its minimum at atan(1/4), 14 degrees


# --- semantic neighbours -------------------------------------------------------------------------------------------


def square(start: int, side: int = 4, size: int = 12) -> Tensor:
    mask = torch.zeros(size, size)
    mask[4 : 4 + side, start : start + side] = 1
    return mask


def test_uniform_neighbours_are_equally_likely():
    probabilities = neighbor_probabilities(torch.rand(3, 4, 4), torch.rand(3, 5, 4, 4), "uniform")
    np.testing.assert_allclose(probabilities, np.full((3, 5), 0.2), rtol=1e-6)


def test_silhouette_weighting_prefers_other_silhouettes_by_the_fourth_power():
    others = torch.stack([square(4), square(6), square(8), square(0)])[None]
    probabilities = neighbor_probabilities(square(4)[None], others, "silhouette")[0].double()
    assert probabilities.sum().item() == pytest.approx(1)
    iou = 8 / 24  # two columns of four are shared
    assert (probabilities[1] / probabilities[2]).item() == pytest.approx((1 - iou) ** 4, rel=1e-4)
    assert probabilities[2].item() == pytest.approx(probabilities[3].item())
    assert probabilities[0] < 1e-9  # the same silhouette


def test_probabilities_are_finite_for_equal_and_empty_masks():
    for mask in (square(4), torch.zeros(12, 12), torch.ones(12, 12)):
        probabilities = neighbor_probabilities(mask[None], mask.expand(1, 3, 12, 12), "silhouette")
        np.testing.assert_allclose(probabilities, np.full((1, 3), 1 / 3), rtol=1e-5)


def test_each_image_is_compared_with_its_own_neighbours():
    masks = torch.stack([square(0), square(8)])
    neighbors = torch.stack([torch.stack([square(0), square(8)])] * 2)
    probabilities = neighbor_probabilities(masks, neighbors, "silhouette")
    assert probabilities[0, 1] > 0.99 and probabilities[1, 0] > 0.99


def test_chosen_neighbours_follow_their_probabilities():
    neighbors = torch.tensor([[10, 20, 30], [40, 50, 60]]).repeat(5000, 1)
    probabilities = torch.tensor([[0.1, 0.3, 0.6], [1.0, 0.0, 0.0]]).repeat(5000, 1)
    chosen = choose_neighbors(neighbors, probabilities, torch.Generator().manual_seed(0))
    assert set(chosen[1::2].tolist()) == {40}
    counts = [int((chosen[::2] == n).sum()) for n in (10, 20, 30)]
    assert chisquare(counts, [500, 1500, 3000]).pvalue > 1e-3
    assert torch.equal(chosen, choose_neighbors(neighbors, probabilities, torch.Generator().manual_seed(0)))
