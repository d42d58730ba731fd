"""Cameras against constructions that share nothing with `lib.geometry.cameras`: look-at, scipy, the pinhole matrix."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from lib.errors import InputError
from lib.geometry.cameras import Viewpoint, camera_rays, check_viewpoint, index_to_pixel, pixel_centers, project

angles = st.floats(-math.pi, math.pi, allow_subnormal=False)
# short of the poles, where a look-at with z up has no answer
elevations = st.floats(-1.5, 1.5, allow_subnormal=False)
seeds = st.integers(0, 2**31)
projections = st.sampled_from(["perspective", "weak_perspective"])
fast = settings(max_examples=50, deadline=None)


def view(azimuth=0.0, elevation=0.0, roll=0.0, **kwargs) -> Viewpoint:
    """One camera in float64; every value in radians, world units or image widths."""
    center = kwargs.pop("center", None)
    center = None if center is None else torch.tensor([center], dtype=torch.float64)
    azimuth, elevation, roll = (torch.tensor([v], dtype=torch.float64) for v in (azimuth, elevation, roll))
    return Viewpoint.from_angles(azimuth, elevation, roll, center=center, **kwargs)


def look_at(position: np.ndarray) -> np.ndarray:
    """World-to-camera rotation (x right, y down, z forward) of an upright camera that looks at the origin."""
    forward = -position / np.linalg.norm(position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def position_of(camera: Viewpoint) -> np.ndarray:
    return (-camera.rotation()[0].mT @ torch.tensor([0, 0, 1.0], dtype=torch.float64) * camera.distance).numpy()


def random_points(seed: int, count: int = 9) -> torch.Tensor:
    return torch.rand(1, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 0.5


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [
        (0, 0, (0, 5, 0)),
        (90, 0, (-5, 0, 0)),
        (180, 0, (0, -5, 0)),
        (-90, 0, (5, 0, 0)),
        (0, 30, (0, 5 * math.cos(math.pi / 6), 2.5)),
        (90, -30, (-5 * math.cos(math.pi / 6), 0, -2.5)),
    ],
)
def test_cameras_stand_where_the_convention_says(azimuth, elevation, expected):
    camera = view(math.radians(azimuth), math.radians(elevation))
    np.testing.assert_allclose(position_of(camera), expected, atol=1e-12)
    np.testing.assert_allclose(camera_rays(camera, pixel_centers(2)[None]).origins[0, 0], expected, atol=1e-12)


@fast
@given(angles, elevations, angles)
def test_rotation_is_a_look_at_leaned_by_the_roll(azimuth, elevation, roll):
    camera = view(azimuth, elevation, roll)
    position = np.array(
        [-math.sin(azimuth) * math.cos(elevation), math.cos(azimuth) * math.cos(elevation), math.sin(elevation)]
    )
    lean = Rotation.from_euler("z", -roll).as_matrix()
    np.testing.assert_allclose(camera.rotation()[0], lean @ look_at(position), atol=1e-9)


def test_front_view_shows_the_side_of_positive_x_on_the_left_and_the_top_above():
    x, y = project(view(), torch.tensor([[[0.3, 0.0, 0.4]]], dtype=torch.float64))[0, 0].tolist()
    assert x < 0.5
    assert y < 0.5


@fast
@given(angles, elevations, angles, st.floats(1, 9), st.floats(0.5, 6), st.tuples(*[st.floats(0.1, 0.9)] * 2), seeds)
def test_perspective_projection_is_a_pinhole(azimuth, elevation, roll, distance, focal, center, seed):
    camera = view(azimuth, elevation, roll, distance=distance, focal=focal, center=center)
    points = random_points(seed)
    pinhole = np.array([[focal, 0, center[0]], [0, focal, center[1]], [0, 0, 1]])
    matrix = pinhole @ np.hstack([camera.rotation()[0].numpy(), [[0], [0], [distance]]])
    homogeneous = np.hstack([points[0].numpy(), np.ones((points.shape[1], 1))]) @ matrix.T
    np.testing.assert_allclose(project(camera, points)[0], homogeneous[:, :2] / homogeneous[:, 2:], atol=1e-10)


@fast
@given(angles, angles, angles, projections, st.floats(2, 9), st.floats(0.5, 6), seeds)
def test_rays_pass_through_the_points_that_project_to_their_pixel(
    azimuth, elevation, roll, kind, distance, focal, seed
):
    camera = view(azimuth, elevation, roll, distance=distance, focal=focal, center=(0.4, 0.7), projection=kind)
    points = random_points(seed)
    rays = camera_rays(camera, project(camera, points))
    np.testing.assert_allclose(rays.directions.norm(dim=-1), 1, atol=1e-12)
    depth = ((points - rays.origins) * rays.directions).sum(-1, keepdim=True)
    assert (depth > 0).all()
    np.testing.assert_allclose(rays.origins + depth * rays.directions, points, atol=1e-9)


def test_weak_perspective_depths_are_measured_from_the_plane_of_the_camera():
    camera = view(0.4, 0.2, -0.3, projection="weak_perspective")
    rays = camera_rays(camera, pixel_centers(4, dtype=torch.float64)[None])
    in_camera = rays.origins[0] @ camera.rotation()[0].mT
    np.testing.assert_allclose(in_camera[:, 2], -5, atol=1e-12)  # X_cam = R X + t has z = 0 there
    np.testing.assert_allclose(rays.directions[0], camera.rotation()[0, 2].expand(16, 3), atol=1e-12)


@fast
@given(angles, angles, angles, projections, seeds)
def test_mirrored_viewpoint_sees_the_mirrored_image(azimuth, elevation, roll, kind, seed):
    camera = view(azimuth, elevation, roll, center=(0.35, 0.6), projection=kind)
    points = random_points(seed)
    other_side = points * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)  # of an object symmetric in x
    flipped = project(camera, points) * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    np.testing.assert_allclose(project(camera.mirrored(), other_side), flipped, atol=1e-9)
    twice = camera.mirrored().mirrored()
    np.testing.assert_allclose(twice.rotation(), camera.rotation(), atol=1e-12)
    np.testing.assert_allclose(twice.center, camera.center, atol=1e-12)


@fast
@given(angles, elevations, angles, angles, projections, seeds)
def test_turned_viewpoint_sees_the_object_turned_the_other_way(azimuth, elevation, roll, turn, kind, seed):
    camera = view(azimuth, elevation, roll, projection=kind)
    points = random_points(seed)
    # adding to the azimuth moves the camera from +y towards -x: counter-clockwise about z, seen from above
    against = torch.from_numpy(points[0].numpy() @ Rotation.from_euler("z", -turn).as_matrix().T)[None]
    turned = camera.turned(torch.tensor([turn], dtype=torch.float64))
    np.testing.assert_allclose(project(turned, points), project(camera, against), atol=1e-9)


@fast
@given(angles, angles, angles)
def test_angles_come_back_modulo_a_full_turn(azimuth, elevation, roll):
    for given_angle, angle in zip((azimuth, elevation, roll), view(azimuth, elevation, roll).angles(), strict=True):
        assert -math.pi <= angle.item() <= math.pi
        assert abs(math.remainder(angle.item() - given_angle, 2 * math.pi)) < 1e-12


def test_pixel_centres_and_indices_are_row_major():
    expected = [[(column + 0.5) / 4, (row + 0.5) / 4] for row in range(4) for column in range(4)]
    np.testing.assert_allclose(pixel_centers(4), expected)
    np.testing.assert_allclose(index_to_pixel(torch.arange(16)[None], 4)[0], expected)


def test_selection_keeps_the_batch_axis_and_the_order():
    azimuth = torch.tensor([0.1, 0.2, 0.3])
    cameras = Viewpoint.from_angles(azimuth, azimuth * 2, distance=azimuth + 4, projection="weak_perspective")
    assert len(cameras) == 3 and len(cameras[1]) == 1
    torch.testing.assert_close(cameras[1].distance, torch.tensor([4.2]))
    for last in (-1, 2, np.int64(2)):
        torch.testing.assert_close(cameras[last].distance, torch.tensor([4.3]))
    picked = cameras[torch.tensor([2, 0])]
    torch.testing.assert_close(picked.angles()[0], torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(picked.angles()[1], torch.tensor([0.6, 0.2]))
    assert picked.projection == "weak_perspective"
    assert cameras.to(torch.float64).center.dtype == torch.float64


def test_rotation_passes_its_gradient_to_the_angles():
    angle = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def image(a):
        camera = Viewpoint.from_angles(a[:1], a[1:2], a[2:], distance=2.0)
        return project(camera, random_points(0))

    assert torch.autograd.gradcheck(image, (angle,))
    azimuth = angle[:1]
    assert not Viewpoint.from_angles(azimuth, azimuth).detach().azimuth.requires_grad


def test_a_camera_that_sees_nothing_is_named_with_its_image_and_what_it_must_be():
    seen = Viewpoint.from_angles(torch.rand(3), torch.rand(3), torch.rand(3), distance=2.0, focal=1.5)
    check_viewpoint(seen, nearest=1.9)
    check_viewpoint(seen[:0])
    check_viewpoint(seen.to(torch.float16))
    with pytest.raises(InputError, match=r"the distance of image 0 is 2\.0; it must be over 2 "):
        check_viewpoint(seen, nearest=2.0)
    focal = replace(seen, focal=torch.tensor([1.5, 1.5, 0.0]))
    with pytest.raises(InputError, match=r"the focal of image 9 is 0\.0; it must be over 0 "):
        check_viewpoint(focal, first=7)
    two = replace(seen, center=torch.tensor([[0.5, 0.5], [0.5, math.nan], [0.5, 0.5]]))
    with pytest.raises(InputError, match=r"the center of image 1 is \[0\.5, nan\]"):
        check_viewpoint(two)
