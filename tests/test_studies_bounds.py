"""What notebook 02 measures: solids, scenes, spoiled masks, carving and fits, against closed forms and rays."""

import numpy as np
import pytest
import torch
import trimesh

from lib.geometry.distance_transform import distance_transform
from lib.studies.bounds import (
    ball,
    bound_scene,
    box_chair,
    carve,
    cropped,
    near_camera,
    ring,
    silhouette,
    spoiled_masks,
    verdict,
)
from lib.studies.silhouette_fit import fit_silhouette, ray_gradients


@pytest.mark.parametrize("make", [box_chair, ball, ring])
def test_distances_of_solids_are_those_to_their_meshes(make):
    solid = make()
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (60, 3))
    found = solid.distance(torch.from_numpy(points)).numpy()
    points, found = points[found > 0], found[found > 0]
    triangles = np.asarray(solid.mesh.triangles)
    pairs = np.repeat(points, len(triangles), axis=0)
    on_surface = trimesh.triangles.closest_point(np.tile(triangles, (len(points), 1, 1)), pairs)
    expected = np.linalg.norm(pairs - on_surface, axis=1).reshape(len(points), -1).min(1)
    np.testing.assert_allclose(found, expected, atol=3e-3)  # a sphere's mesh lies within the sphere


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_points_of_a_scene_are_seen_at_their_pixels(projection):
    from lib.geometry.cameras import project

    scene = bound_scene(ball(), near_camera(40, 25, projection), 16)
    world = scene.to_world(scene.points(torch.tensor([1.4, 2.2])))
    at = project(scene.viewpoint, world.reshape(1, -1, 3))[0].reshape(16, 16, 2, 2)
    expected = (torch.arange(16) + 0.5) / 16
    torch.testing.assert_close(at[..., 0], expected[None, :, None].expand(16, 16, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(at[..., 1], expected[:, None, None].expand(16, 16, 2), rtol=0, atol=1e-5)


def test_bound_of_a_ball_in_parallel_rays_is_the_distance_at_its_depth():
    scene = bound_scene(ball(), near_camera(0, 0, "weak_perspective"), 96, margin=0.5)
    at = torch.tensor([1.8])
    outside = ~scene.mask
    error = (scene.truth(at) - scene.bound(at))[outside]
    assert float(error.abs().max()) < 1.8 / 1.25 / 96  # one pixel


def test_verdict_counts_broken_bounds():
    good = bound_scene(box_chair(), near_camera(40, 25), 48)
    bad = bound_scene(box_chair(), near_camera(40, 25), 48, mask=silhouette(ball(0.1), near_camera(40, 25), 48))
    assert verdict(good).broken < 0.01 and verdict(good).worst < 0.02 and 0.3 < verdict(good).strength < 1
    assert verdict(bad).broken > 0.3 and verdict(bad).worst > 0.1


def test_spoiled_masks_do_what_they_say():
    mask = silhouette(box_chair(), near_camera(40, 25), 64)
    masks = dict(zip(("same", "dust", "pinholes", "hole", "tight"), spoiled_masks(mask).values(), strict=True))
    assert bool((masks["same"] == mask).all())
    assert bool((masks["dust"] >= mask).all()) and int((masks["dust"] & ~mask).sum()) > 0
    for name in ("pinholes", "hole", "tight"):
        assert bool((masks[name] <= mask).all()) and int((mask & ~masks[name]).sum()) > 0


def test_a_crop_breaks_bounds_unless_the_surroundings_are_unknown():
    scene = bound_scene(box_chair(), near_camera(40, 25), 64)
    assert verdict(cropped(scene, 22, "background")).worst > 0.1
    assert verdict(cropped(scene, 22, "unknown")).worst < 0.02
    part = distance_transform(scene.mask[:, :22], beyond="unknown")
    assert float(part[:, 21].max()) == 1.0


def test_carving_a_box_grows_towards_it_and_stays_below_the_hull():
    carving = carve(trimesh.creation.box((0.5, 0.6, 0.7)), (1, 4), resolution=32, size=96)
    one, four = carving.table()
    assert one["iou"] < four["iou"] and four["iou"] > 0.6
    assert one["bound"] < four["bound"] < four["hull"] + 1e-3 and four["hull"] < four["truth"] + 0.01
    assert four["broken"] < 1e-3
    for bounds, hull in zip(carving.bounds, carving.hulls, strict=True):
        assert not ((bounds > 0) & hull).any()  # what a view carves is outside its hull
        assert hull[carving.truth < -0.03].all()  # and the hull holds the solid


def test_only_pixels_below_their_bound_pull_by_distance():
    scene = bound_scene(box_chair(), near_camera(40, 25), 32)
    depths = torch.linspace(1.3, 2.3, 6)
    bound = scene.bound(depths)
    above = ray_gradients(scene, bound + 0.01, depths)
    assert float(above["distance"].abs().max()) == 0 and float(above["occupancy"].max()) > 0
    below = ray_gradients(scene, bound - 0.01, depths)
    usable = ~scene.mask & (scene.distance > 0)
    assert bool((below["distance"][usable] > 0).all()) and float(below["distance"][scene.mask].max()) == 0


def test_a_short_fit_draws_nearer_to_the_silhouette():
    scene = bound_scene(ball(0.25), near_camera(0, 0), 32)
    fit = fit_silhouette(scene, "distance", steps=50, rays=128, samples=4)
    assert fit.steps == [0, 25, 50]
    assert fit.iou[-1] > fit.iou[0] + 0.15
    assert 0 <= fit.missing < fit.error
