"""Points left out: how wrong the maps may be, what stays exact, and when it applies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fast_rendering import gradients, make_scene, plain

from lib.errors import InputError
from lib.rendering.fast import render_fields
from lib.rendering.skipping import Skip
from lib.rendering.volume import compositing_weights, laplace_density


def skipping(scene, weight: float, textured: bool = True, below: float = 1.0):
    leaves = scene.leaves
    codes = (leaves["shape"], leaves["texture"] if textured else None)
    skip = Skip(weight, below)
    return render_fields("plain", scene.sdf, scene.texture, *codes, *scene.view(), leaves["beta"], skip=skip)


def left_out(scene, weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """From the definition: each ray's sum of the weights at most `weight`, and the length of its blended normal."""
    rays, depths = scene.view()
    points = rays.origins[..., None, :] + depths[..., None] * rays.directions[..., None, :]
    sdf, _, gradient = scene.sdf.with_gradient(points.flatten(1, 2), scene.leaves["shape"])
    weights = compositing_weights(laplace_density(sdf.view(depths.shape), scene.leaves["beta"]), depths)
    outward = gradient.view(points.shape) / gradient.view(points.shape).norm(dim=-1, keepdim=True)
    length = (weights[..., None] * outward).sum(dim=-2).norm(dim=-1)
    return torch.where(weights <= weight, weights, 0.0).sum(dim=-1), length


@settings(max_examples=30, deadline=None)
@given(
    beta=st.floats(0.003, 0.2),
    weight=st.floats(1e-8, 0.3),
    batch=st.integers(1, 3),
    rays=st.integers(1, 20),
    samples=st.integers(1, 20),
    seed=st.integers(0, 1000),
    textured=st.booleans(),
)
def test_the_error_is_at_most_the_weights_left_out(beta, weight, batch, rays, samples, seed, textured):
    scene = make_scene(torch.float64, beta, batch=batch, rays=rays, samples=samples, seed=seed)
    exact, found = plain(scene, textured), skipping(scene, weight, textured)
    skipped, length = left_out(scene, weight)
    assert torch.allclose(found.skipped, skipped, atol=1e-12)
    error = exact.rgb - found.rgb
    assert (error.amin(dim=-1) > -1e-12).all()  # what is left out is black: too dark, never too bright
    assert (error.amax(dim=-1) < found.skipped + 1e-12).all()
    assert torch.allclose(found.mask, exact.mask, atol=1e-12) and torch.allclose(found.depth, exact.depth, atol=1e-12)
    turned = (exact.normal - found.normal).norm(dim=-1)
    assert (turned * length <= 2 * skipped + 1e-9)[length > 1e-6].all()


def test_what_has_no_weight_changes_nothing():
    """At most 1e-12 of a ray left out: maps and gradients are the plain renderer's."""
    scene = make_scene(torch.float64, 0.01)
    exact, found = plain(scene), skipping(scene, 1e-14)
    seen = exact.mask > 1e-3
    for name in ("rgb", "mask", "normal", "depth"):
        assert torch.allclose(getattr(found, name)[seen], getattr(exact, name)[seen], atol=1e-9), name
    for mine, true in zip(gradients(scene, found), gradients(scene, exact), strict=True):
        assert torch.allclose(mine, true, atol=1e-7 * float(true.abs().max()) + 1e-12)


def test_mask_and_depth_keep_all_their_gradient():
    """Where an empty ray should be filled nothing has a weight: the shape must still be able to grow there."""
    scene = make_scene(torch.float64, 0.01)
    found, expected = (
        torch.autograd.grad(maps.mask.square().sum() + maps.depth.sum(), scene.leaves["shape"])[0]
        for maps in (skipping(scene, 0.2), plain(scene))
    )
    assert torch.allclose(found, expected, rtol=1e-9)


def test_few_points_are_asked_for(monkeypatch):
    scene = make_scene(beta=0.01, batch=1, samples=32)
    asked = []
    texture = scene.texture.forward
    monkeypatch.setattr(scene.texture, "forward", lambda p, *rest: asked.append(p.shape[1]) or texture(p, *rest))
    maps = skipping(scene, 1e-3)
    assert 0 < asked[0] < 0.3 * 40 * 32 and maps.skipped.max() < 32 * 1e-3


def test_it_is_off_unless_asked_for_and_only_on_thin_surfaces():
    scene = make_scene(beta=0.01)
    assert skipping(scene, 0.0).skipped is None
    assert skipping(scene, 0.1, below=0.0099).skipped is None
    assert skipping(scene, 0.1, below=0.011).skipped is not None
    assert not Skip().applies(1e-6)


@pytest.mark.parametrize("weight", [-0.1, 1.0, float("nan")])
def test_weights_that_leave_out_everything_or_nothing_sensible_are_refused(weight):
    with pytest.raises(InputError, match="skip weight"):
        Skip(weight)


def test_a_ray_that_sees_nothing_is_white():
    scene = make_scene(torch.float64, 0.003, radius=0.05, rays=5)
    scene.pixels[:] = torch.tensor([5.0, 5.0])  # far beside the object
    maps = skipping(scene, 1e-3)
    assert torch.allclose(maps.rgb, torch.ones_like(maps.rgb)) and maps.normal.isfinite().all()
