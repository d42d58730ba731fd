"""Cameras and silhouettes that SDF-SRN cannot learn from: one sentence, or a counted fallback, and never a NaN."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sdf_srn import TINY, generator, make_tiny
from tiny import SIZE, disc, make_batch, write_prepared

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint
from lib.systems.base import Reconstruction
from lib.systems.sdf_srn import ABLATIONS, SDFSRN, outside_only, sample_target
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

BAD = [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e30, 1e-30]
HARMLESS = {("center", 0.0), ("center", -1.0), ("center", 1e-30)}


def with_bad(view: Viewpoint, name: str, value: float, row: int = 1) -> Viewpoint:
    """The viewpoint with one number of one of its images replaced: of a pair, the first."""
    changed = getattr(view, name).clone()
    changed[row].view(-1)[0] = value
    return replace(view, **{name: changed})


@pytest.fixture(scope="module")
def systems() -> dict[tuple[str, str], tuple[SDFSRN, Reconstruction]]:
    """Of each projection and field, with the shapes of three images."""
    kinds = [(p, f) for p in ("perspective", "weak_perspective") for f in ("distance", "occupancy")]
    made = {(p, f): make_tiny(projection=p, field=f, rays=8, image_size=16).eval() for p, f in kinds}
    batch = make_batch(3, neighbor=False)
    return {kind: (system, system.reconstruct(batch.rgb, batch.viewpoint)) for kind, system in made.items()}


@given(
    st.sampled_from(["perspective", "weak_perspective"]),
    st.sampled_from(["distance", "occupancy"]),
    st.sampled_from([(name, value) for name in ("distance", "focal", "center") for value in BAD]),
)
@settings(max_examples=40)
def test_no_camera_makes_a_loss_or_a_picture_that_is_no_number(systems, projection, field, bad):
    """Refused, by its name and its image's number, or finite: in training, refining, decoding and rendering."""
    (system, shape), batch = systems[projection, field], make_batch(3, neighbor=False)
    view = with_bad(batch.viewpoint, *bad)
    uses = [
        lambda: list(system.losses(replace(batch, viewpoint=view), generator()).values()),
        lambda: [system.refine(replace(batch, viewpoint=view), generator(), 1).sdf(torch.zeros(3, 1, 3))],
        lambda: [system.reconstruct(batch.rgb, view).render(image_size=2).depth],
        lambda: [getattr(shape.render(view, 2), name) for name in ("rgb", "mask", "normal", "depth")],
    ]
    for use in uses:
        if bad in HARMLESS:
            assert all(value.isfinite().all() for value in use())
        else:
            with pytest.raises(InputError, match=f"the {bad[0]} of image 1 is"):
                use()


@pytest.mark.parametrize("name", ["azimuth", "elevation", "roll"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0, 1e30])
@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_angles_that_are_none_are_one_sentence(systems, name, value, projection):
    """Numbers, and pairs that are no (cos, sin)."""
    batch = make_batch(2, neighbor=False)
    views = [replace(batch.viewpoint, **{name: torch.tensor([[1.0, 0.0], [value, 0.5]])})]
    if not math.isfinite(value):  # as an angle that a table holds
        angle = torch.tensor([0.3, value])
        views.append(replace(batch.viewpoint, **{name: torch.stack([angle.cos(), angle.sin()], dim=-1)}))
    for view in views:
        for field in ("distance", "occupancy"):
            with pytest.raises(InputError, match=f"the {name} of image 1 is .*unit pair"):
                systems[projection, field][0].losses(replace(batch, viewpoint=view), generator())


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
@pytest.mark.parametrize(
    "extreme", [{"distance": 1e6}, {"focal": 1e6}, {"focal": 1e-6}, {"distance": 1e6, "focal": 1e-6}]
)
def test_the_last_cameras_that_are_not_refused_give_numbers(projection, extreme):
    batch = make_batch(2, neighbor=False)
    view = replace(batch.viewpoint, **{name: torch.full((2,), value) for name, value in extreme.items()})
    view = replace(view, center=torch.full((2, 2), -1e6))
    for field in ("distance", "occupancy"):
        for hit_gradient in ("implicit", "unrolled"):
            system = make_tiny(projection=projection, field=field, rays=8, hit_gradient=hit_gradient)
            losses = system.losses(replace(batch, viewpoint=view), generator())
            sum(losses.values()).backward()
            assert all(torch.isfinite(value) for value in losses.values())
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


def test_camera_within_the_depths_of_the_silhouette_is_one_sentence():
    """Perspective rays would start behind it; parallel ones come from anywhere."""
    batch = make_batch(2, neighbor=False)
    near = replace(batch, viewpoint=replace(batch.viewpoint, distance=torch.tensor([5.0, TINY.near])))
    with pytest.raises(InputError, match=r"the distance of image 1 is 0\.8.*; it must be over 0\.8"):
        make_tiny().losses(near, generator())
    losses = make_tiny(projection="weak_perspective").losses(near, generator())
    assert all(torch.isfinite(value) for value in losses.values())


# --- silhouettes ---------------------------------------------------------------------------------------------------


def masks_of_all_kinds() -> torch.Tensor:
    """Empty, full, cut on the left, cut at a corner, whole, noise."""
    masks = torch.zeros(6, SIZE, SIZE)
    masks[1] = 1
    masks[2, 4:9, :5] = 1
    masks[3, -1, -1] = 1
    masks[4] = disc(0.3)
    masks[5, 1:-1, 1:-1] = (torch.rand(SIZE - 2, SIZE - 2, generator=generator(3)) < 0.5).float()
    return masks


def brute_force(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel centre to the nearest one of the mask in a picture with a border of one more pixel."""
    centres = np.stack(np.meshgrid(np.arange(SIZE + 2), np.arange(SIZE + 2), indexing="ij"), -1).reshape(-1, 2)
    there = centres[np.pad(mask, 1, constant_values=True).ravel()]
    return np.linalg.norm(centres[:, None] - there[None], axis=-1).min(1).reshape(SIZE + 2, SIZE + 2)[1:-1, 1:-1]


def test_a_border_that_is_unknown_counts_as_boundary_on_both_sides():
    masks = masks_of_all_kinds()
    batch = make_batch(6, neighbor=False)
    target = sample_target(replace(batch, mask=masks), SIZE**2, True, generator(), "unknown")
    inside = masks.numpy() > 0.5
    outer = np.stack([brute_force(one) for one in inside]) - 0.5
    inner = np.stack([brute_force(~one) for one in inside]) - 0.5
    index = ((target.plane * 4 + 0.5) * SIZE).floor() @ torch.tensor([1.0, SIZE])  # focal length 4
    index = index.long().flatten(1).numpy()
    expected = np.take_along_axis(outer.clip(0).reshape(6, -1), index, 1) / (4 * SIZE)
    np.testing.assert_allclose(target.distance, expected, atol=1e-6)
    weights = np.take_along_axis(1 / np.maximum(outer, inner).reshape(6, -1), index, 1)
    np.testing.assert_allclose(target.weights, weights, rtol=1e-5)


@pytest.mark.parametrize("rows", [10, 0], ids=["cut", "outside"])
def test_a_crop_forbids_nothing_that_the_whole_picture_allows_if_what_is_beyond_it_is_unknown(rows):
    """A post with an arm, of which the crop, the middle of a picture, shows the foot of the post, or nothing."""
    whole = np.zeros((2 * SIZE, 2 * SIZE), dtype=bool)
    whole[5, 6:22] = True
    whole[2 : 2 + rows, 6:10] = True
    crop = slice(SIZE // 2, SIZE // 2 + SIZE)
    there = np.argwhere(whole)
    places = np.stack(np.meshgrid(np.arange(2 * SIZE), np.arange(2 * SIZE), indexing="ij"), -1)[crop, crop]
    true = np.linalg.norm(places[:, :, None] - there, axis=-1).min(-1).ravel()
    batch = replace(make_batch(1, neighbor=False), mask=torch.from_numpy(whole[crop, crop]).float()[None])
    for beyond, valid in (("unknown", True), ("background", False)):
        target = outside_only(sample_target(batch, SIZE**2, True, generator(), beyond))
        index = ((target.plane[0] * 4 + 0.5) * SIZE).floor() @ torch.tensor([1.0, SIZE])  # focal length 4
        bound = target.distance[0].numpy() * 4 * SIZE
        assert bool((bound <= true[index.long()] + 1e-4).all()) is valid


@given(
    st.sampled_from(["full model", *ABLATIONS]),
    st.sampled_from(["background", "unknown"]),
    st.sampled_from(["perspective", "weak_perspective"]),
)
@settings(max_examples=10)
def test_unusable_silhouettes_are_counted_and_give_numbers(ablation, beyond, projection):
    settings = ABLATIONS.get(ablation, {}) | {"beyond": beyond, "projection": projection}
    system = make_tiny(rays=SIZE**2, **settings)
    losses = system.losses(replace(make_batch(6, neighbor=False), mask=masks_of_all_kinds()), generator())
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())
    assert system.silhouettes == {"empty": 1, "full": 1, "cut": 2}
    assert sum(system.crossings[name] for name in ("last", "early", "none")) == 6 * SIZE**2


def test_crossings_without_the_rendering_loss_are_those_with_it():
    counts, batch = [], make_batch(3, neighbor=False)
    for weight in (1.0, 0.0):
        system = make_tiny(rgb_weight=weight, rays=SIZE**2)
        system.losses(batch, generator())
        counts.append(system.crossings)
    assert counts[0] == counts[1] and counts[0]["early"] + counts[0]["last"] > 0


def test_a_log_counts_rays_and_silhouettes_of_the_whole_batch(tmp_path):
    data = PreparedDataset(write_prepared(tmp_path / "data"), "train")
    data.mask[:4] = (255 * masks_of_all_kinds()[:4]).to(data.mask.dtype)  # of 8 images
    config = TrainingConfig(steps=2, pretrain_steps=1, batch_size=8, accumulate=2, log_every=1)
    train(make_tiny(rgb_weight=0.0), config, data, tmp_path / "run", accelerator=Accelerator(cpu=True))
    first, *rows = read_log(tmp_path / "run" / "log.jsonl")
    assert first["phase"] == "pretraining" and not any("_empty" in name for name in first)
    for row in rows:
        assert {name: row[f"silhouettes_{name}"] for name in ("empty", "full", "cut")} == {
            "empty": 1,
            "full": 1,
            "cut": 2,
        }
        assert row["rays_last"] + row["rays_early"] + row["rays_none"] == 8 * TINY.rays


@pytest.mark.parametrize(("setting", "value"), [("field", "grass"), ("beyond", "grass"), ("hit_gradient", "slow")])
def test_settings_are_what_their_lists_name(setting, value):
    config = make_tiny(hit_gradient="implicit").config
    object.__setattr__(config, setting, value)  # around the type checker of these tests, which users do not have
    with pytest.raises(InputError, match=f"{setting}: '{value}'"):
        config.__post_init__()
