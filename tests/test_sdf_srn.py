"""SDF-SRN put together: its switches, its terms, its configurations, and what it reconstructs."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SIZE, disc, make_batch, write_prepared

from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers, project
from lib.geometry.distance_transform import distance_transform
from lib.geometry.meshes import first_hits, ray_scene
from lib.losses.field import cube_distance, cube_loss
from lib.rendering.sampling import values_at
from lib.systems import SYSTEMS, make_system, sdf_srn, sdf_srn_small
from lib.systems.checkpoints import load_system, save_weights
from lib.systems.sdf_srn import (
    ABLATIONS,
    CONFIGS,
    SDFSRN,
    SDFSRNConfig,
    outside_only,
    rescaled,
    sample_target,
    silhouette_bound,
)
from lib.systems.sdf_srn_small import SDFSRNSmallConfig
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

TINY = SDFSRNConfig(
    backbone="test_resnet",
    backbone_weights="random",
    image_size=32,
    latent_size=8,
    hyper_layers=1,
    hyper_width=16,
    width=16,
    frequencies=2,
    distance=5.0,
    focal=4.0,
    near=0.8,
    far=0.8,
    rays=40,
    silhouette_depths=3,
    eikonal_points=30,
    pretrain_points=200,
)
TERMS = {"ray_last", "ray_free", "rgb", "sdf", "eikonal"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tiny(**changes) -> SDFSRN:
    """The paper's system, or with a setting of ours the course's."""
    torch.manual_seed(0)
    if {"hit_gradient", "cube_weight"} & set(changes):
        sizes = {name: getattr(TINY, name) for name in vars(TINY)}
        return make_system(SDFSRNSmallConfig(**{**sizes, "cube_weight": 0.0, **changes}))
    return make_system(replace(TINY, **changes))


def terms_of(batch=None, **changes) -> dict[str, float]:
    batch = make_batch(neighbor=False) if batch is None else batch
    return {name: value.item() for name, value in make_tiny(**changes).losses(batch, generator()).items()}


@pytest.fixture(scope="module")
def few_strides():
    """For the rest of the module: a trained marcher keeps its number of strides."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def ball(few_strides) -> SDFSRN:
    """A system that writes spheres of radius 0.4 and has learned to march to them."""
    few_strides.setattr(sdf_srn, "STRIDES", 6)
    system = make_tiny(sphere_radius=0.4, width=32, frequencies=1)
    batch = replace(make_batch(4, neighbor=False, mask=disc(0.317)), index=torch.arange(4))  # 0.4 at distance 5
    optimizer = torch.optim.Adam(system.hypernetwork.parameters(), 1e-2)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 1e-2 if step < 200 else 2.5e-3
        optimizer.zero_grad()
        sum(system.pretrain_losses(batch, generator(step)).values()).backward()
        optimizer.step()
    return march_to_it(system, batch).eval()


def march_to_it(system: SDFSRN, batch) -> SDFSRN:
    optimizer = torch.optim.Adam(system.marcher.parameters(), 1e-2)
    code = torch.randn(4, 8, generator=generator(7))
    for step in range(150):
        optimizer.zero_grad()
        losses = system.losses_of(code, batch, system.config.rays, generator(step))
        (losses["ray_last"] + losses["ray_free"]).backward()
        optimizer.step()
    return system


# --- configurations ------------------------------------------------------------------------------------------------


def test_settings_of_the_paper():
    c = CONFIGS["shapenet"]
    assert c == SDFSRNConfig() and c.backbone == "resnet18.tv_in1k" and c.image_size == 64
    assert (c.rays, c.silhouette_depths, c.margin, c.frequencies) == (1024, 5, 0.01, 5)
    assert (c.rgb_weight, c.sdf_weight, c.eikonal_weight, c.last_weight, c.free_weight) == (1, 3, 0.01, 1, 0.1)
    assert c.distance - c.near == pytest.approx(2) and c.distance + c.far == pytest.approx(3.5)
    assert (sdf_srn.STRIDES, sdf_srn.LAYERS, c.eikonal_points) == (10, 4, 10_000)
    pascal = CONFIGS["pascal3d"]
    assert (pascal.rgb_weight, pascal.eikonal_weight) == (10, 1)
    assert (pascal.sdf_weight, pascal.last_weight, pascal.free_weight, pascal.margin) == (6, 2, 0.2, 0.005)  # by 2
    assert (pascal.latent_size, pascal.hyper_layers, pascal.width, pascal.projection) == (
        256,
        1,
        64,
        "weak_perspective",
    )
    assert pascal.rescale == 0.2 and CONFIGS["shapenet-single-view"].jitter > 0 == c.jitter


def test_distance_to_the_cube_is_that_of_its_nearest_point():
    points = torch.rand(200, 3, generator=generator()) * 4 - 2
    axis = torch.linspace(-0.5, 0.5, 41)
    solid = torch.cartesian_prod(axis, axis, axis)
    brute = torch.cdist(points, solid).amin(dim=-1)
    assert (cube_distance(points) - brute).abs().max() < 0.5 * 3**0.5 / 40


def test_cube_term_forbids_surfaces_behind_the_scene_and_no_object_in_it():
    points = torch.rand(500, 3, generator=generator()) * 4 - 2
    ball = points.norm(dim=-1) - 0.5  # the largest ball in the cube: an exact distance
    assert cube_loss(points, ball) < 1e-7
    wall = 3 - points[:, 1]  # free space, and a surface at y = 3, as a marcher that runs away asks for
    assert cube_loss(points + torch.tensor([0.0, 5, 0]), wall - 5) > 1  # beyond the wall
    assert cube_loss(points * 0.25, wall) == 0  # within the cube nothing is said
    batch = make_batch(neighbor=False)
    assert "cube" not in terms_of(batch) and terms_of(batch, cube_weight=2.0)["cube"] >= 0


def test_cube_term_of_an_occupancy_asks_for_its_sign_alone(monkeypatch):
    system = make_tiny(field="occupancy", cube_weight=1.0)
    points = torch.tensor([[[[0.0, 0, 0.7], [0.0, 0, 7.0], [0.1, 0, 0]]]])
    empty, full = torch.full((1, 1, 3), 20.0), torch.full((1, 1, 3), -20.0)
    monkeypatch.setattr(sdf_srn_small, "points_along", lambda rays, depths: points)
    target = sample_target(make_batch(1, neighbor=False), 1, True, generator())
    assert system.ray_losses(target, empty, empty)["cube"] < 1e-7  # a logit is no distance: it need not grow
    assert system.ray_losses(target, full, full)["cube"] == pytest.approx(2 * 20 / 3, rel=1e-6)  # the third is inside


def test_mixed_precision_leaves_the_surface_its_digits():
    system, batch = make_tiny(), make_batch(neighbor=False)
    system.set_precision(torch.bfloat16)
    losses = system.losses(batch, generator())
    sum(losses.values()).backward()
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert system.to_code.weight.grad.abs().sum() > 0


def test_airplanes_weigh_silhouettes_less_on_shapenet_only():
    assert CONFIGS["shapenet"].for_category("airplane").sdf_weight == 1
    assert CONFIGS["shapenet"].for_category("chair") == CONFIGS["shapenet"]
    assert CONFIGS["pascal3d"].for_category("airplane") == CONFIGS["pascal3d"]


def test_impossible_settings_are_refused_by_name():
    for name, value in [
        ("rays", 0),
        ("rescale", 1.0),
    ]:
        with pytest.raises(InputError, match=name):
            replace(TINY, **{name: value})


def test_systems_are_found_by_name_and_by_configuration():
    assert SYSTEMS["sdf_srn"] == (SDFSRN, SDFSRNConfig) and SDFSRN.name == "sdf_srn"
    assert type(make_system(TINY)) is SDFSRN


# --- terms and switches --------------------------------------------------------------------------------------------


def test_all_terms_are_there_and_reach_all_weights():
    system = make_tiny(hit_gradient="implicit")
    with torch.no_grad():  # residual branches start at zero, and would hide what is before them
        for parameter in system.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    losses = system.losses(make_batch(neighbor=False), generator())
    assert set(losses) == TERMS
    sum(losses.values()).backward()
    assert [name for name, p in system.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert sum(system.crossings[kind] for kind in ("last", "early", "none")) == 3 * TINY.rays


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_table_3_change_what_they_say(name):
    full, less = terms_of(), terms_of(**ABLATIONS[name])
    missing = {"w/o rendering loss": {"rgb"}}.get(name, set())
    assert set(less) == TERMS - missing
    if name == "w/o importance weighting":
        assert less["ray_last"] != full["ray_last"] and less["sdf"] != full["sdf"]
        assert all(less[kept] == full[kept] for kept in ("rgb", "ray_free", "eikonal"))
    if name == "w/o rendering loss":
        assert all(less[kept] == full[kept] for kept in ("ray_last", "ray_free"))
    if name == "w/o positional encoding":
        assert make_tiny(frequencies=0).hypernetwork.shapes[0] == (3, TINY.width)


@pytest.mark.parametrize(
    ("weight", "term"),
    [
        ("sdf_weight", "sdf"),
        ("last_weight", "ray_last"),
        ("free_weight", "ray_free"),
        ("rgb_weight", "rgb"),
        ("eikonal_weight", "eikonal"),
    ],
)
def test_terms_scale_with_their_weights_alone(weight, term):
    before, after = terms_of(), terms_of(**{weight: 2 * getattr(TINY, weight)})
    assert after.pop(term) == pytest.approx(2 * before.pop(term), rel=1e-5)
    assert after == before


def test_occupancy_terms_are_cross_entropies():
    """With logit -f, against torch's own, without importance."""
    system = make_tiny(field="occupancy", importance=False)
    batch = system.with_projection(make_batch(neighbor=False))
    losses = system.losses(batch, generator())
    target = sample_target(batch, TINY.rays, False, generator())
    code = system.encode(batch.rgb)
    _, values = system.march(system.hypernetwork(code), target.viewpoint, target.rays)
    last = F.binary_cross_entropy_with_logits(-values[..., -1], target.inside.float())
    free = F.binary_cross_entropy_with_logits(-values[..., :-1], torch.zeros_like(values[..., :-1]))
    torch.testing.assert_close(losses["ray_last"], last)
    torch.testing.assert_close(losses["ray_free"], 0.1 * free)


def test_silhouette_loss_of_a_true_distance_is_nothing_and_of_a_swollen_one_is_not(ball):
    """A sphere of radius 0.4 and its own silhouette: f >= b; the same silhouette of a smaller object is violated."""
    code = torch.zeros(1, 8)
    view = Viewpoint.from_angles(torch.tensor([0.4]), torch.tensor([0.2]))
    size = 64
    rays = camera_rays(view, pixel_centers(size)[None])
    closest = torch.linalg.cross(rays.origins, rays.directions).norm(dim=-1)
    losses = []
    for radius in (0.42, 0.2):
        mask = (closest < radius).float().view(1, size, size)
        batch = Batch(torch.tensor([0]), torch.ones(1, size, size, 3), mask, None, view, torch.ones(1, size, size))
        target = outside_only(sample_target(batch, 900, True, generator()))
        losses.append(ball.silhouette_loss(ball.hypernetwork(code), target, generator()).item())
    assert losses[0] < 0.02 and losses[1] > max(10 * losses[0], 1e-3)


# --- what is compared with -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_target_has_the_pixels_of_its_rays(projection):
    batch = make_batch(2, neighbor=False)
    view = replace(batch.viewpoint, projection=projection, center=torch.tensor([[0.5, 0.45], [0.55, 0.5]]))
    target = sample_target(replace(batch, viewpoint=view), 50, True, generator())
    points = target.rays.origins + 5.3 * target.rays.directions
    pixels = project(view, points)
    torch.testing.assert_close((pixels - view.center[:, None]) / 4, target.plane, rtol=0, atol=1e-5)
    index = ((pixels * SIZE).floor() @ torch.tensor([1.0, SIZE])).long()
    assert torch.equal(values_at(batch.mask, index) > 0.5, target.inside)
    expected = (values_at(distance_transform(batch.mask), index) - 0.5).clamp(min=0) / (4 * SIZE)
    torch.testing.assert_close(target.distance, expected)
    assert (target.distance[target.inside] == 0).all()


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_bound_holds_for_a_sphere_at_every_depth(projection):
    """b <= the true distance to a sphere that fills the disc; a margin for the pixels' size."""
    batch = make_batch(2, neighbor=False)
    view = replace(batch.viewpoint, projection=projection)
    target = outside_only(sample_target(replace(batch, viewpoint=view), 150, True, generator()))
    depth = 5 + torch.linspace(-0.8, 0.8, 9).expand(2, target.plane.shape[1], 9)
    points = target.rays.origins[..., None, :] + depth[..., None] * target.rays.directions[..., None, :]
    radius = 0.3 * 5 / 4  # of the disc in world units
    gap = points.norm(dim=-1) - radius - silhouette_bound(target, depth)
    far = gap[(~target.inside)[..., None].expand_as(gap)]
    assert far.min() > -0.05 and far.min() < 0.05


def test_outside_only_keeps_every_outside_ray():
    target = sample_target(make_batch(3, neighbor=False), 60, True, generator())
    chosen = outside_only(target)
    assert chosen.plane.shape[1] == int((~target.inside).sum(1).max())
    assert torch.equal((~chosen.inside).sum(1), (~target.inside).sum(1))
    assert chosen.distance.sum() == pytest.approx(target.distance.sum().item(), rel=1e-5)


def test_rescaled_image_is_seen_by_the_rescaled_camera():
    """A disc of radius 0.2 magnified by 1.5 is one of 0.3, and the camera's focal length grows as much."""
    batch = make_batch(2, neighbor=False, mask=disc(0.2))
    other = rescaled(batch, torch.tensor([1.5, 1.0]))
    assert other.mask[0].sum() == pytest.approx(1.5**2 * batch.mask[0].sum().item(), rel=0.05)
    assert ((other.mask[0] > 0.5).float() - disc(0.3)).abs().sum() <= 16  # of 72 pixels: a ring of a quarter of one
    torch.testing.assert_close(other.rgb[1], batch.rgb[1], rtol=0, atol=1e-5)
    assert other.viewpoint.focal.tolist() == [6, 4]
    points = torch.rand(2, 5, 3) - 0.5
    moved = 0.5 + torch.tensor([1.5, 1.0])[:, None, None] * (project(batch.viewpoint, points) - 0.5)
    torch.testing.assert_close(project(other.viewpoint, points), moved)


# --- bad input -----------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(["empty", "full", "border", "one pixel", "noise"]),
    st.sampled_from([*ABLATIONS, "full model"]),
)
@settings(max_examples=15)
def test_no_silhouette_makes_a_loss_or_gradient_that_is_not_finite(kind, ablation):
    mask = torch.zeros(SIZE, SIZE)
    if kind == "full":
        mask[:] = 1
    elif kind == "border":
        mask[:, :5] = 1
    elif kind == "one pixel":
        mask[3, 4] = 1
    elif kind == "noise":
        mask = (torch.rand(SIZE, SIZE, generator=generator(3)) < 0.5).float()
    system = make_tiny(rays=SIZE**2, **ABLATIONS.get(ablation, {}))
    losses = system.losses(make_batch(2, neighbor=False, mask=mask), generator())
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


def test_full_and_empty_silhouettes_say_nothing_about_the_outside():
    for value in (0.0, 1.0):
        batch = make_batch(2, neighbor=False, mask=torch.full((SIZE, SIZE), value))
        assert terms_of(batch)["sdf"] == 0


def test_missing_viewpoints_are_one_sentence():
    batch = replace(make_batch(neighbor=False), viewpoint=None)
    with pytest.raises(InputError, match="azimuth"):
        make_tiny().losses(batch, generator())


# --- repeatable ----------------------------------------------------------------------------------------------------


def test_losses_depend_on_the_generator_alone():
    first = terms_of(jitter=0.2, rescale=0.2)
    torch.rand(5)
    assert terms_of(jitter=0.2, rescale=0.2) == first
    system = make_tiny()
    other = {name: value.item() for name, value in system.losses(make_batch(neighbor=False), generator(1)).items()}
    assert other != terms_of()


# --- reconstruction ------------------------------------------------------------------------------------------------


def test_pretraining_writes_spheres_for_any_code(ball):
    points = torch.rand(1, 400, 3, generator=generator(2)) - 0.5
    codes = torch.randn(8, 8, generator=generator(3))
    before = make_tiny(**{name: getattr(ball.config, name) for name in ("width", "frequencies")})
    errors = []
    for system in (before, ball):
        sdf = system.hypernetwork(codes).distance(points.expand(8, -1, -1)).detach()
        errors.append((sdf - (points.norm(dim=-1) - 0.4)).abs().mean().item())
    assert errors[0] > 0.3 and errors[1] < 0.12


def test_rendering_by_marching_agrees_with_ray_casting_of_the_mesh(ball):
    view = make_batch(2).viewpoint
    shape = ball.reconstruct(make_batch(2).rgb, view)
    maps = shape.render(image_size=24)
    rays = camera_rays(view, pixel_centers(24)[None].expand(2, -1, 2))
    for index in range(2):
        mesh = shape.mesh(64, index)
        assert mesh.is_watertight and mesh.volume == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.2)
        depth = first_hits(ray_scene(mesh), rays.origins[index].numpy(), rays.directions[index].numpy())
        hit, mask = np.isfinite(depth), maps.mask[index].flatten().numpy() > 0.5
        assert (hit != mask).mean() < 0.15  # a marcher that learned for seconds misses some rays
        both = hit & mask
        assert np.percentile(np.abs(maps.depth[index].flatten().numpy() - depth)[both], 90) < 0.01
        normal = maps.normal[index].reshape(-1, 3).numpy()[both]
        assert np.median((normal * -rays.directions[index].numpy()[both]).sum(-1)) > 0.6
    assert (maps.rgb[maps.mask == 0] == 1).all()


def test_reconstruction_wears_its_texture_and_takes_the_given_view(ball):
    view = make_batch(1).viewpoint
    shape = ball.reconstruct(make_batch(1).rgb, view)
    assert torch.equal(shape.viewpoint.azimuth, view.azimuth)
    mesh = shape.mesh(24)
    vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32)[None]
    np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3], shape.texture(vertices)[0] * 255, atol=1)
    assert shape.sdf(vertices).abs().max() < 0.02
    assert not any(angle.any() for angle in ball.reconstruct(make_batch(1).rgb).viewpoint.angles())


def test_refining_carves_what_the_silhouette_forbids_and_leaves_the_network(monkeypatch):
    monkeypatch.setattr(sdf_srn, "REFINE_RATE", 0.05)
    system = make_tiny().eval()
    batch = make_batch(2, neighbor=False, mask=disc(0.22))
    weights = {name: tensor.clone() for name, tensor in system.state_dict().items()}

    def depth_of_forbidden_points(shape):
        points = torch.rand(2, 500, 3, generator=generator(1)) - 0.5
        index = (project(batch.viewpoint, points) * SIZE).floor().clamp(0, SIZE - 1) @ torch.tensor([1.0, SIZE])
        outside = values_at(batch.mask, index.long()) < 0.5
        return F.relu(-shape.sdf(points))[outside].mean().item()

    before, after = (depth_of_forbidden_points(system.refine(batch, generator(), steps)) for steps in (0, 40))
    assert after < 0.5 * before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in system.state_dict().items())
    assert all(parameter.grad is None for parameter in system.parameters())


# --- the rest of the course ----------------------------------------------------------------------------------------


def test_checkpoint_comes_back_bit_for_bit(tmp_path):
    system = make_tiny().eval()
    save_weights(tmp_path, system, {"step": 3})
    loaded = load_system(tmp_path, expected="sdf_srn")
    assert asdict(loaded.config) == {**asdict(TINY), "backbone_weights": "random"}
    assert all(
        torch.equal(a, b) for a, b in zip(system.state_dict().values(), loaded.state_dict().values(), strict=True)
    )
    images = make_batch(1).rgb
    assert torch.equal(
        system.reconstruct(images).sdf(torch.ones(1, 4, 3)), loaded.reconstruct(images).sdf(torch.ones(1, 4, 3))
    )


def test_training_pauses_and_goes_on_as_if_it_never_stopped(tmp_path):
    folder = write_prepared(tmp_path / "data")
    data, held_out = (PreparedDataset(folder, split) for split in ("train", "val"))
    config = TrainingConfig(steps=3, pretrain_steps=1, batch_size=2, validate_every=3, save_every=10, log_every=1)
    weights = []
    for stops in ([None], [2, None]):
        run = tmp_path / f"run-{len(stops)}"
        for stop in stops:
            system = make_tiny()
            train(system, config, data, run, validation=held_out, accelerator=Accelerator(cpu=True), stop_after=stop)
        weights.append(system.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    trained = [row for row in read_log(run / "log.jsonl") if row["phase"] == "training"]
    counts = [row["rays_last"] + row["rays_early"] + row["rays_none"] for row in trained]
    assert counts == [config.batch_size * system.config.rays] * config.steps


def test_single_view_training_takes_one_sample_of_each_model(tmp_path):
    folder = write_prepared(tmp_path, train=5, val=2, views=3)
    everything, single = (PreparedDataset(folder, "train", views=views) for views in (None, 1))
    assert len(everything) == 15 and len(single) == 5
    assert list(single.metadata["model"]) == list(everything.metadata["model"].unique())
    assert len(single.rgb) == len(single.batch(torch.arange(5)).viewpoint) == 5


# --- more bad input ------------------------------------------------------------------------------------------------


@given(
    st.floats(0, 6.3, allow_subnormal=False),
    st.sampled_from(["straight", "inside the object", "far away", "pole", "tiny focal", "off centre"]),
    st.sampled_from(["unrolled", "implicit"]),
)
@settings(max_examples=10)
def test_degenerate_cameras_give_finite_losses_and_gradients(azimuth, kind, hit_gradient):
    """Rays that start inside, never come near, or are all alike: counted, never a NaN."""
    batch = make_batch(2, neighbor=False)
    angle = torch.full((2,), azimuth)
    elevation = torch.full((2,), {"pole": math.pi / 2}.get(kind, 0.3))
    view = Viewpoint.from_angles(angle, elevation)
    changes = {
        "inside the object": {"distance": torch.full((2,), 0.85)},  # a ray's start: 0.05 before the camera
        "far away": {"distance": torch.full((2,), 1e4)},
        "tiny focal": {"focal": torch.full((2,), 1e-3)},
        "off centre": {"center": torch.full((2, 2), 5.0)},
    }
    system = make_tiny(hit_gradient=hit_gradient)
    losses = system.losses(replace(batch, viewpoint=replace(view, **changes.get(kind, {}))), generator())
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())
    assert sum(system.crossings[name] for name in ("last", "early", "none")) == 2 * TINY.rays


def test_rays_that_never_hit_keep_their_last_depth_and_are_counted():
    """A field that is positive everywhere: no surface, a white picture, and a colour loss that is still a number."""
    system = make_tiny()
    with torch.no_grad():
        for parameter in system.hypernetwork.writers[-2].parameters():
            parameter.zero_()
        system.hypernetwork.writers[-2][-1].bias[0] = 1.0  # the bias of f
    batch = make_batch(2, neighbor=False)
    losses = system.losses(batch, generator())
    assert system.crossings == {"last": 0, "early": 0, "none": 2 * TINY.rays, "inside": 0}
    assert torch.isfinite(losses["rgb"]) and losses["ray_last"] > 0.9
    maps = system.eval().reconstruct(batch.rgb, batch.viewpoint).render(image_size=6)
    assert not maps.mask.any() and (maps.rgb == 1).all() and torch.isfinite(maps.depth).all()
    assert len(system.reconstruct(batch.rgb, batch.viewpoint).mesh(12).vertices) == 0


def test_field_that_is_negative_everywhere_starts_inside():
    system = make_tiny()
    with torch.no_grad():
        for parameter in system.hypernetwork.writers[-2].parameters():
            parameter.zero_()
        system.hypernetwork.writers[-2][-1].bias[0] = -1.0
    system.losses(make_batch(2, neighbor=False), generator())
    assert system.crossings == {"last": 0, "early": 0, "none": 2 * TINY.rays, "inside": 2 * TINY.rays}
