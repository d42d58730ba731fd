"""What notebook 04 measures and draws, against closed forms and known shapes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh

from lib.data.loading import Batch
from lib.figures.shapes import viewpoint_at
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.distance_grid import DistanceGrid, distance_grid
from support import nb04
from support.nb03 import as_image, cast_rays


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def box() -> trimesh.Trimesh:
    return trimesh.creation.box((0.5, 0.7, 0.9))


def target_of(mesh: trimesh.Trimesh, viewpoint: Viewpoint, size: int = 32) -> Batch:
    """An image of a mesh with exact mask and camera-frame normals."""
    maps = as_image(cast_rays(mesh, camera_rays(viewpoint, pixel_centers(size)[None]), 6.0), size)
    normal = maps.normal @ viewpoint.rotation()[0].mT
    weights = torch.full((1, size, size), 1 / size**2)
    return Batch(
        torch.zeros(1, dtype=torch.long), maps.rgb[None], maps.mask[None], normal[None], viewpoint, weights, None
    )


def test_the_true_shape_explains_its_own_image_better_than_a_smaller_one(box):
    target = target_of(box, viewpoint_at(30, 20))
    losses = []
    for scale in (1.0, 0.8):
        field = distance_grid(box.copy().apply_scale(scale), resolution=48).field()
        loss, maps = nb04.view_loss(field, target, nb04.all_pixels(target), 0.005, 64, rgb=False)
        losses.append(float(loss))
    assert 3 * losses[0] < losses[1]
    rendered = nb04.render_view(field, target, 0.005)
    assert rendered.mask.shape == (1, 32, 32)
    assert float(rendered.mask.mean()) == pytest.approx(float(maps.mask.mean()), abs=0.01)


def test_a_shape_that_is_too_small_is_asked_to_grow_where_the_camera_sees_it(box):
    view = viewpoint_at(0, 0)  # the camera is at +y
    small = distance_grid(box.copy().apply_scale(0.8), resolution=48).field()
    gradient = nb04.surface_gradient(small, target_of(box, view), 0.01, resolution=24)
    edge = torch.tensor([[0.23, 0.0, 0.0], [-0.23, 0.0, 0.0], [0.0, 0.0, 0.42]])  # inside the target, outside the shape
    assert bool((gradient(edge)[0] > 0).all())
    assert float(gradient(torch.tensor([[0.0, -0.28, 0.0]]))[0].abs()) < 0.01 * float(gradient(edge)[0].max())


def test_sides_of_a_box_seen_from_the_front():
    sides = nb04.surface_sides(trimesh.creation.box((0.4, 0.4, 0.4)), viewpoint_at(0, 0), 6000)
    for side in (sides.towards, sides.away):
        assert float(side.float().mean()) == pytest.approx(1 / 6, abs=0.02)
    assert bool((sides.points[sides.towards][:, 1] > 0.199).all())  # the camera is at +y


def test_shares_count_the_area_over_the_threshold():
    values = torch.zeros(5, 5, 5)
    values[:, 3:] = 1.0  # y >= 0.3
    points = torch.tensor([[0.0, 0.5, 0.0], [0.0, -0.5, 0.0]])
    sides = nb04.Sides(points, torch.tensor([True, False]), torch.tensor([False, True]), torch.tensor([False, False]))
    shares = sides.shares(DistanceGrid(values, 0.6), 0.5)
    assert shares["towards"] == 1 and shares["away"] == 0 and shares["all"] == 0.5


def test_a_neighbour_changes_the_picture_and_none_does_not():
    mesh = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    own = DistanceGrid(torch.zeros(8, 8, 8), 0.6)
    others = [own, DistanceGrid(torch.ones(8, 8, 8), 0.6)]
    pictures = []
    for _, neighbor in nb04.neighbor_choice([10.0, -100.0])["neighbor"].options:
        figure = nb04.draw_gradient(mesh, viewpoint_at(0, 10), own, others, 1.0, neighbor, False)
        pictures.append(np.concatenate([np.asarray(axis.images[0].get_array()).ravel() for axis in figure.axes]))
    np.testing.assert_array_equal(pictures[0], pictures[1])
    assert np.abs(pictures[2] - pictures[0]).max() > 0.1


def test_weightings_of_equal_and_of_different_masks():
    masks = torch.zeros(1, 3, 32, 32)
    masks[:, :2, :, :12] = 1  # the query and its first neighbour
    masks[:, 2, :, 20:] = 1
    weighting = nb04.compare_weightings(masks[:, 0], masks[:, 1:])
    torch.testing.assert_close(weighting.aligned, torch.tensor([[1.0, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(weighting.intended_probability, torch.tensor([[0.0, 1.0]]), atol=1e-6, rtol=0)
    assert float(weighting.released_probability.max()) < 0.7  # hardly a preference
    assert float(weighting.identical) < 0.6  # of a mask and itself, where 1 is right


def test_fit_to_views_of_a_box_is_nearer_to_it_than_the_ball():
    box = trimesh.creation.box((0.3, 0.5, 0.9))
    views = [target_of(box, viewpoint_at(azimuth, 20), 24) for azimuth in (30, 120)]
    mesh = nb04.field_mesh(nb04.fit_field(views, steps=25, rays=64, samples=16), 24)
    np.testing.assert_allclose(mesh.extents, box.extents, atol=0.2)
