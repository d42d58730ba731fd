"""ShapeClipper put together: its switches, its gradients, its determinism, and what it reconstructs."""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
import trimesh
from tiny import EVERYTHING, TINY, make_batch, make_system

from lib.errors import InputError
from lib.fields.texture import colored_field
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.meshes import first_hits, ray_scene
from lib.losses.camera import viewpoint_distance
from lib.rendering import volume
from lib.systems import SYSTEMS, shapeclipper
from lib.systems.shapeclipper import PAPER, RELEASED, ShapeClipper, ShapeClipperConfig
from lib.systems.shapeclipper_small import SMALL, ShapeClipperSmall

QUERY = {"rgb", "mask", "normal", "eikonal"}
NEIGHBOR = {"neighbor_rgb", "neighbor_mask", "neighbor_normal"}
CAMERA = {"azimuth_prior", "camera_margin", "mirror"}
ALL_TERMS = QUERY | NEIGHBOR | CAMERA | {"guess"}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def terms_of(config: ShapeClipperConfig, batch=None, state=None, **kwargs) -> dict[str, float]:
    system = make_system(config, shake=0.02)
    if state is not None:
        system.load_state_dict(state, strict=False)
    batch = make_batch(**kwargs) if batch is None else batch
    return {name: value.item() for name, value in system.losses(batch, generator()).items()}


# --- configurations ------------------------------------------------------------------------------------------------

# value in the paper's setting, or what the released Pix3D configuration has where the paper is silent
PAPER_VALUES = {
    "backbone": "resnet34.tv_in1k",
    "viewpoint_backbone": "resnet18.tv_in1k",
    "image_size": 224,
    "image_mean": 0.0,
    "image_std": 1.0,
    "latent_size": 512,
    "viewpoint": "predicted",
    "hard_masks": True,
    "symmetric": True,
    "rays": 512,
    "neighbor_rays": 512,
    "samples": 64,
    "depth_bins": "released",
    "last_interval": "zero",
    "beta": 0.1,
    "rgb_weight": 1.0,
    "mask_weight": 0.5,
    "normal_weight": 0.01,
    "normal_keep": 0.8,
    "normal_rank": "loss",
    "semantic_weight": 1.0,
    "neighbor_weighting": "uniform",
    "eikonal_weight": 0.03,
    "azimuth_prior_weight": 0.1,
    "camera_margin_weight": 0.0,
    "mirror_weight": 0.0,
    "pretrain_points": 10_000,
    "head_batchnorm": True,
    "freeze_batchnorm": False,
}
RELEASED_DIFFERENCES = {
    "neighbor_weighting": "released",
    "normal_rank": "angle",
    "camera_margin_weight": 0.01,
    "mirror_weight": 0.1,
}


def test_paper_and_released_values_are_those_of_the_table():
    paper, released = asdict(PAPER), asdict(RELEASED)
    assert {name: paper[name] for name in PAPER_VALUES} == PAPER_VALUES
    assert {name: value for name, value in released.items() if value != paper[name]} == RELEASED_DIFFERENCES
    assert ShapeClipperConfig() == PAPER
    camera = shapeclipper.CAMERA
    assert (camera.distance, camera.distance_range, camera.focal, camera.projection) == (5.0, 0.2, 4.0, "perspective")
    assert (camera.start_elevation, camera.center_range, shapeclipper.DEPTH_RANGE) == (0.0, 0.0, 0.7)
    assert (shapeclipper.CODE_SIZE, shapeclipper.SPHERE_RADIUS, shapeclipper.LEAST_BETA) == (64, 0.5, 1e-4)


def test_small_configuration_keeps_the_released_objective_but_for_two_weights():
    objective = {f.name for f in fields(RELEASED) if f.name.endswith("_weight") or f.name.startswith("normal_")}
    differences = {name for name in objective if getattr(SMALL, name) != getattr(RELEASED, name)}
    assert differences == {"camera_margin_weight", "mirror_weight"}
    assert SMALL.backbone == "tf_efficientnet_lite0" and SMALL.guess_weight == 0


def test_rendering_many_points_in_parts_gives_the_same_losses_and_gradients(monkeypatch):
    """In float64, where only the order of sums may differ; the parts are small and uneven."""
    system, batch = make_system(TINY, shake=0.05).double().eval(), make_batch(2)
    cast = {name: getattr(batch, name).double() for name in ("rgb", "mask", "normal", "ray_weights")}
    batch = replace(batch, **cast, neighbor=replace(batch.neighbor, **cast))
    found = []
    for many in (10**9, 0):
        monkeypatch.setattr(shapeclipper, "MANY_POINTS", many)
        monkeypatch.setattr(volume.render_rays_in_parts, "__defaults__", ("zero", None, 7 * 2 * TINY.samples))
        losses = system.losses(batch, generator())
        learned = [p for p in system.parameters() if p.requires_grad]
        found.append([*losses.values(), *torch.autograd.grad(sum(losses.values()), learned)])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


def test_system_of_the_papers_size_has_its_parts():
    system = ShapeClipper(replace(PAPER, backbone_weights="random"))
    assert system.backbone.size == system.viewpoint_backbone.size == 512
    assert [layer.in_features for layer in system.sdf_field.hidden] == [103, 167, 167, 64, 64]
    assert system.texture_field.first.in_features == 167
    assert system.raw_beta.item() == pytest.approx(0.1) and system.raw_beta.requires_grad
    assert system.viewpoint_head.angles[-1].weight.shape == (6, 512)


@pytest.mark.parametrize(("name", "value"), [("normal_keep", 0.0), ("normal_keep", 1.5), ("rays", 0), ("samples", 0)])
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        replace(TINY, **{name: value})


# --- switches ------------------------------------------------------------------------------------------------------


def test_everything_on_has_every_term():
    assert set(terms_of(EVERYTHING)) == ALL_TERMS
    assert set(terms_of(TINY)) == QUERY | NEIGHBOR | {"azimuth_prior"}


@pytest.mark.parametrize(
    ("change", "gone"),
    [
        ({"semantic_weight": 0.0}, NEIGHBOR),
        ({"normal_weight": 0.0}, {"normal", "neighbor_normal"}),
        ({"mirror_weight": 0.0}, {"mirror"}),
        ({"camera_margin_weight": 0.0}, {"camera_margin"}),
        ({"guess_weight": 0.0}, {"guess"}),
        ({"viewpoint": "given"}, CAMERA | {"guess"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_switch_removes_exactly_its_terms(change, gone):
    assert set(terms_of(replace(EVERYTHING, **change))) == ALL_TERMS - gone


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"mirror_weight": 0.0}, {"mirror"}),
        ({"normal_weight": 0.0}, {"normal", "neighbor_normal"}),
        ({"camera_margin_weight": 0.0}, {"camera_margin"}),
        ({"semantic_weight": 0.0}, NEIGHBOR | {"azimuth_prior"}),  # the prior counts the neighbours' azimuths too
        ({"normal_keep": 0.5}, {"normal", "neighbor_normal"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_switch_leaves_the_other_terms_as_they_were(change, touched):
    config = replace(EVERYTHING, guess_weight=0.0)
    before, after = terms_of(config), terms_of(replace(config, **change))
    for name in before.keys() - touched:
        assert after[name] == pytest.approx(before[name], rel=1e-4), name
    for name in touched & after.keys():
        assert after[name] != pytest.approx(before[name], rel=1e-4), name


@pytest.mark.parametrize(
    ("weight", "scaled"),
    [
        ("rgb_weight", {"rgb", "neighbor_rgb"}),
        ("mask_weight", {"mask", "neighbor_mask"}),
        ("normal_weight", {"normal", "neighbor_normal"}),
        ("semantic_weight", NEIGHBOR),
        ("eikonal_weight", {"eikonal"}),
        ("azimuth_prior_weight", {"azimuth_prior"}),
        ("camera_margin_weight", {"camera_margin"}),
        ("mirror_weight", {"mirror"}),
    ],
)
def test_each_weight_multiplies_its_terms(weight, scaled):
    config = replace(
        EVERYTHING, guess_weight=0.0, start_elevation=100.0
    )  # beyond the margin, so that it costs something
    before = terms_of(config)
    after = terms_of(replace(config, **{weight: 3 * getattr(config, weight)}))
    for name, value in before.items():
        assert value > 0, name
        assert after[name] == pytest.approx(value * (3 if name in scaled else 1), rel=1e-4), name


# --- semantic consistency ------------------------------------------------------------------------------------------


def gradient_of(term: str, config: ShapeClipperConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Of one term with respect to the images that the encoder sees: of the query, of the neighbour."""
    system, batch = make_system(config, shake=0.02), make_batch(2)
    query, neighbor = (b.rgb.clone().requires_grad_(True) for b in (batch, batch.neighbor))
    batch = replace(batch, rgb=query, neighbor=replace(batch.neighbor, rgb=neighbor))
    gradients = torch.autograd.grad(system.losses(batch, generator())[term], (query, neighbor), allow_unused=True)
    return tuple(torch.zeros(1) if g is None else g for g in gradients)


GIVEN = replace(EVERYTHING, viewpoint="given")


def test_neighbours_mask_is_explained_by_the_querys_shape():
    query, neighbor = gradient_of("neighbor_mask", GIVEN)
    assert query.any() and not neighbor.any()  # the neighbour's own shape takes no part


def test_neighbours_colours_come_from_the_querys_shape_and_the_neighbours_texture():
    query, neighbor = gradient_of("neighbor_rgb", GIVEN)
    assert query.any() and neighbor.any()


def test_neighbours_mask_teaches_the_neighbours_viewpoint_where_it_is_predicted():
    query, neighbor = gradient_of("neighbor_mask", replace(EVERYTHING, guess_weight=0.0))
    assert query.any() and neighbor.any()


def test_query_terms_do_not_look_at_the_neighbour():
    for term in ("rgb", "mask", "normal"):
        query, neighbor = gradient_of(term, replace(EVERYTHING, guess_weight=0.0))
        assert query.any() and not neighbor.any()


def test_eikonal_term_teaches_the_field_and_not_the_encoder():
    query, neighbor = gradient_of("eikonal", GIVEN)
    assert not query.any() and not neighbor.any()
    system = make_system(GIVEN)
    system.losses(make_batch(), generator())["eikonal"].backward()
    assert all(layer.weight.grad.any() for layer in system.sdf_field.hidden)


def test_normal_term_teaches_the_viewpoint():
    system = make_system(replace(EVERYTHING, guess_weight=0.0), shake=0.02)
    system.losses(make_batch(), generator())["normal"].backward()
    assert system.viewpoint_head.angles[-1].weight.grad.any()


# --- training behaviour --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [EVERYTHING, TINY, GIVEN], ids=["everything", "paper", "given"])
def test_gradient_reaches_every_trainable_parameter(config):
    system = make_system(config, shake=0.05).train()
    sum(system.losses(make_batch(4), generator()).values()).backward()
    for name, parameter in system.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all() and parameter.grad.any(), name


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_losses_are_finite_when_nothing_or_everything_is_object(level):
    system = make_system(EVERYTHING)
    losses = system.losses(make_batch(mask=torch.full((16, 16), level)), generator())
    assert all(torch.isfinite(value) for value in losses.values()), losses
    if level == 0:
        assert losses["normal"] == 0 and losses["neighbor_normal"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in system.parameters() if p.grad is not None)


def test_same_generator_same_losses_and_another_one_others():
    system, batch = make_system(EVERYTHING, shake=0.02).eval(), make_batch()
    first, second, other = (
        {name: value.item() for name, value in system.losses(batch, generator(seed)).items()} for seed in (1, 1, 2)
    )
    assert first == second
    assert first["rgb"] != other["rgb"] and first["eikonal"] != other["eikonal"]


def test_losses_do_not_touch_the_global_generator():
    system, batch = make_system(EVERYTHING), make_batch()
    before = torch.get_rng_state()
    system.losses(batch, generator())
    system.pretrain_losses(batch, generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_few_steps_lower_the_losses():
    system, batch = make_system(GIVEN), make_batch(2)
    optimizer = torch.optim.Adam(system.parameters(), 1e-3)
    totals = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = sum(system.losses(batch, generator()).values())
        loss.backward()
        optimizer.step()
        totals.append(loss.item())
    assert totals[-1] < 0.8 * totals[0]


def test_pretraining_makes_a_sphere_and_leaves_the_backbones_alone():
    system, batch = make_system(TINY), make_batch()
    assert set(system.pretrain_losses(batch, generator())) == {"shape", "azimuth_prior"}
    optimizer = torch.optim.Adam(system.parameters(), 3e-3)
    for step in range(60):
        optimizer.zero_grad()
        sum(system.pretrain_losses(batch, generator(step)).values()).backward()
        assert all(p.grad is None for p in system.pretrained_parameters())
        optimizer.step()
    points = 2 * torch.rand(1, 500, 3) - 1
    sdf = system.eval().reconstruct(batch.rgb[:1]).sdf(points)
    assert float((sdf - (points.norm(dim=-1) - 0.5)).abs().mean()) < 0.1


def test_pretraining_with_given_viewpoints_is_about_the_shape_alone():
    assert set(make_system(GIVEN).pretrain_losses(make_batch(), generator())) == {"shape"}


def test_forward_chooses_between_training_and_pretraining():
    system, batch = make_system(GIVEN), make_batch()
    assert set(system(batch, generator())) == QUERY | NEIGHBOR
    assert set(system(batch, generator(), True)) == {"shape"}


# --- guesses -------------------------------------------------------------------------------------------------------


def test_pretraining_on_guesses_teaches_the_viewpoints_of_images_and_mirror_images():
    system, batch = (
        make_system(replace(EVERYTHING, guess_weight=1.0)),
        make_batch(),
    )
    losses = system.pretrain_losses(batch, generator())
    assert set(losses) == {"shape", "guess"}
    guess = Viewpoint.from_angles(*system.guesses[:3].T)
    read = [system.encode(images)[2] for images in (batch.rgb, batch.rgb.flip(2))]
    expected = [viewpoint_distance(read[0], guess), viewpoint_distance(read[1], guess.mirrored())]
    assert losses["guess"].item() == pytest.approx(torch.cat(expected).mean().item(), rel=1e-5)
    losses["guess"].backward()
    assert system.viewpoint_head.angles[-1].weight.grad.any()
    assert any(p.grad is not None and p.grad.any() for p in system.viewpoint_backbone.parameters())


def test_images_are_rendered_from_the_quarter_of_the_guess_that_the_estimator_means():
    system = make_system(EVERYTHING)
    system.begin_step(0.0)  # the shape has no say yet
    azimuth, elevation = system.guesses[:4].T
    near = Viewpoint.from_angles(azimuth + torch.tensor([0.3, 1.8, -1.4, 3.4]), elevation + 0.1, distance=4.5)
    view = system.guessed(make_batch(4), near, torch.zeros(4, 64), generator())
    expected = azimuth + torch.tensor([0, 1, -1, 2]) * torch.pi / 2
    torch.testing.assert_close(view.azimuth, Viewpoint.from_angles(expected, elevation).azimuth, rtol=0, atol=1e-5)
    torch.testing.assert_close(view.angles()[1], elevation)
    torch.testing.assert_close(view.distance, near.distance)


def test_guesses_pull_the_estimator_towards_what_is_rendered(monkeypatch):
    """The mean over query, neighbour and mirrored query of the distance to the guess, the estimate being known."""
    system, batch = make_system(replace(EVERYTHING, guess_weight=2.0)).eval(), make_batch(4)
    off = torch.tensor([0.3, -0.2, 0.1, 0.25])
    guess = Viewpoint.from_angles(*system.guesses[:4].T)
    estimates = [guess.turned(off), guess.turned(off), guess.mirrored()]
    monkeypatch.setattr(system, "estimate", lambda images: estimates.pop(0))
    system.begin_step(0.0)
    pull = (2 * (off / 2).sin().abs()).mean().item()
    expected = 2 * (2 * pull + 0.01) / 3  # equal viewpoints have distance 0.01
    assert system.losses(batch, generator())["guess"].item() == pytest.approx(expected, rel=5e-3)


def test_mixed_precision_is_for_the_image_networks_alone():
    system, batch = make_system(EVERYTHING), make_batch()
    exact, features = system.losses(batch, generator()), system.backbone(batch.rgb)
    system.set_precision(torch.bfloat16)
    assert 0 < float((system.backbone(batch.rgb) - features).norm() / features.norm()) < 0.05  # they are rounded
    *codes, viewpoint = system.encode(batch.rgb)
    losses, pretraining = system.losses(batch, generator()), system.pretrain_losses(batch, generator())
    assert {x.dtype for x in (*codes, viewpoint.azimuth, *losses.values(), *pretraining.values())} == {torch.float32}
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in system.parameters())
    assert losses["eikonal"].item() == pytest.approx(exact["eikonal"].item(), rel=0.05)


def test_with_the_mean_colour_the_hue_of_the_object_reaches_the_texture_code_alone():
    batch = make_batch()
    plain = make_system(EVERYTHING)
    system = make_system(replace(EVERYTHING, mean_color=True))
    assert {name for name, _ in system.named_parameters()} - {name for name, _ in plain.named_parameters()} == {
        "color_code.linear.weight",
        "color_code.linear.bias",
    }
    plain.load_state_dict(system.state_dict(), strict=False)  # the same networks
    shape, texture, _ = system.encode(batch.rgb)
    expected_shape, expected_texture, _ = plain.encode(batch.rgb)
    torch.testing.assert_close(shape, expected_shape)
    inked = batch.rgb.flatten(1, 2).lt(0.99).any(-1)
    colors = [image[seen].mean(0) for image, seen in zip(batch.rgb.flatten(1, 2), inked, strict=True)]
    weight, bias = system.color_code.linear.parameters()
    torch.testing.assert_close(texture - expected_texture, 15 * (torch.stack(colors) - 0.5) @ weight.T + bias)


def test_an_estimator_of_its_own_reads_where_features_are():
    estimator = {"viewpoint_backbone": "tf_efficientnet_lite0", "viewpoint_channels": 4}
    config = replace(EVERYTHING, **estimator)
    system = make_system(config)
    assert system.viewpoint_backbone.size == 4 * (TINY.image_size // 16) ** 2
    losses = system.losses(make_batch(), generator())
    (losses["guess"] + losses["mask"]).backward()
    moved = {name for name, p in system.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert {"viewpoint_backbone.mix.weight", "viewpoint_backbone.network.conv_stem.weight"} <= moved
    learned_slowly = {id(p) for p in system.pretrained_parameters()}
    assert id(system.viewpoint_backbone.network.conv_stem.weight) in learned_slowly
    assert id(system.viewpoint_backbone.mix.weight) not in learned_slowly


def test_guesses_end_before_the_training_does():
    system = make_system(replace(EVERYTHING, guesses_until=0.5))
    system.begin_step(0.4)
    assert "guess" in system.losses(make_batch(), generator())
    system.begin_step(0.6)
    assert "guess" not in system.losses(make_batch(), generator())


def test_best_quarter_is_the_turn_that_explains_mask_and_normals():
    config = replace(EVERYTHING, beta=0.01, beta_final=0.01, symmetric=False)
    system = make_system(config, seed=1, shake=0.02).eval()
    code = torch.zeros(2, 64)
    angle = torch.tensor([0.4, 1.1])
    true = Viewpoint.from_angles(angle, angle * 0 + 0.2)
    shape = system.reconstruct(make_batch(2).rgb, true)
    field = colored_field(system.sdf_field, system.texture_field, code[:1], None)
    maps = replace(shape, field=lambda i, p: field(p)).render(true, 16)
    mask = (maps.mask > 0.5).float()
    normal = (maps.normal.flatten(1, 2) @ true.rotation().mT).unflatten(1, (16, 16)) * mask[..., None]
    target = replace(make_batch(2), mask=mask, normal=normal)
    for quarter in range(4):
        wrong = true.turned(torch.full((2,), -quarter * torch.pi / 2))
        view = system.best_quarter(target, code, wrong, generator())
        torch.testing.assert_close(view.azimuth, true.azimuth, rtol=0, atol=1e-5)


# --- width of the surface ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("progress", "expected"), [(0, 0.1), (0.35, (0.1 * 0.004) ** 0.5), (0.7, 0.004), (1, 0.004)])
def test_scheduled_beta_falls_geometrically_over_the_first_part_of_training(progress, expected):
    system = make_system(replace(EVERYTHING, beta_final=0.004))
    system.begin_step(progress)
    assert float(system.beta()) == pytest.approx(expected, rel=1e-5)
    assert not system.raw_beta.requires_grad


def test_learned_beta_stays_positive():
    system = make_system(TINY)
    system.raw_beta.data.fill_(-0.03)
    assert system.beta().item() == pytest.approx(0.03 + 1e-4)


# --- what is missing -----------------------------------------------------------------------------------------------


def test_missing_parts_of_a_batch_are_one_sentence():
    batch = make_batch(neighbor=False)
    with pytest.raises(InputError, match="neighbour"):
        make_system(TINY).losses(batch, generator())
    with pytest.raises(InputError, match="viewpoint"):
        make_system(replace(GIVEN, semantic_weight=0.0)).losses(replace(batch, viewpoint=None), generator())


def test_missing_normals_are_one_sentence():
    batch = replace(make_batch(neighbor=False), normal=None)
    with pytest.raises(InputError, match="normal"):
        make_system(replace(TINY, semantic_weight=0.0)).losses(batch, generator())


def test_normals_are_not_needed_where_their_weight_is_0():
    config = replace(TINY, semantic_weight=0.0, normal_weight=0.0)
    assert "rgb" in make_system(config).losses(replace(make_batch(neighbor=False), normal=None), generator())


# --- reconstruction ------------------------------------------------------------------------------------------------

SOLID = replace(GIVEN, beta=0.002, beta_final=0.002)


@pytest.fixture(scope="module")
def solid():
    """Two shapes near a sphere, with sharp surfaces."""
    system = make_system(SOLID, seed=1, shake=0.01).eval()
    with torch.no_grad():  # smooth: the octaves of the encoding stay silent, as in a new field
        for start, layer in ((0, 0), (64, 1), (64, 2)):
            system.sdf_field.hidden[layer].weight[:, start + 3 : start + 39] = 0
    azimuth = torch.tensor([0.5, 2.5])
    return system.reconstruct(make_batch(2).rgb, Viewpoint.from_angles(azimuth, azimuth * 0 + 0.3))


def test_mesh_lies_where_the_sdf_is_0_and_wears_the_texture(solid):
    for index in range(2):
        mesh = solid.mesh(64, index)
        assert mesh.is_watertight and mesh.volume > 0.01
        vertices = torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32).expand(2, -1, 3)
        assert float(solid.sdf(vertices)[index].abs().max()) < 0.02
        assert float(solid.sdf(vertices)[index].abs().mean()) < 0.002
        color = solid.texture(vertices)[index].numpy() * 255
        np.testing.assert_allclose(mesh.visual.vertex_colors[:, :3], color, atol=1)
        plain = solid.mesh(64, index, colored=False)
        np.testing.assert_array_equal(plain.vertices, mesh.vertices)
        assert np.ptp(plain.visual.vertex_colors, axis=0).max() == 0
    own, other = solid.sdf(vertices)[1].abs().mean(), solid.sdf(vertices)[0].abs().mean()
    assert float(other) > 3 * float(own)  # the other image's shape is another one


def test_mesh_has_its_size_whatever_the_grid(solid):
    coarse, wide = solid.mesh(40, bound=0.6), solid.mesh(40, bound=0.8)
    np.testing.assert_allclose(wide.bounds, coarse.bounds, atol=0.015)


@pytest.mark.parametrize("projection", ["perspective", "weak_perspective"])
def test_rendering_agrees_with_ray_casting_of_the_mesh(solid, projection):
    azimuth = torch.tensor([0.8, -2.0])
    view = Viewpoint.from_angles(azimuth, azimuth * 0.2, azimuth * 0.1, projection=projection)
    maps = solid.render(view, image_size=24, samples=300)
    rays = camera_rays(view, pixel_centers(24)[None].expand(2, -1, 2))
    for index in range(2):
        mesh = solid.mesh(64, index)
        depth = first_hits(ray_scene(mesh), rays.origins[index].numpy(), rays.directions[index].numpy())
        hit, mask = np.isfinite(depth), maps.mask[index].flatten().numpy()
        assert 100 < hit.sum() < 500
        assert ((mask > 0.5) != hit).sum() < 0.05 * hit.sum()
        both = hit & (mask > 0.5)
        assert (
            np.percentile(np.abs(maps.depth[index].flatten().numpy() - depth)[both], 90) < 0.015
        )  # a sample is 0.005 long
        assert_normals_agree(mesh, rays, depth, maps.normal[index].reshape(-1, 3).numpy(), both, index)


def assert_normals_agree(mesh: trimesh.Trimesh, rays, depth, normal, both, index):
    points = rays.origins[index].numpy() + np.where(both, depth, 0)[:, None] * rays.directions[index].numpy()
    nearest = np.linalg.norm(mesh.vertices[None] - points[both][:, None], axis=-1).argmin(axis=1)
    cosine = (mesh.vertex_normals[nearest] * normal[both]).sum(-1)
    assert np.median(np.degrees(np.arccos(cosine.clip(-1, 1)))) < 3


def test_rendering_keeps_no_gradient_and_has_the_image_shape(solid):
    maps = solid.render(image_size=8, samples=4)
    assert maps.rgb.shape == maps.normal.shape == (2, 8, 8, 3) and maps.mask.shape == maps.depth.shape == (2, 8, 8)
    assert not maps.rgb.requires_grad


def test_rendered_rows_are_the_images_asked_for(solid):
    both = solid.render(image_size=8, samples=32)
    swapped = solid.render(solid.viewpoint[torch.tensor([1, 0])], image_size=8, samples=32)
    assert not torch.allclose(both.rgb, swapped.rgb)
    assert not torch.allclose(both.rgb[0], both.rgb[1])


def test_shape_without_a_surface_is_the_empty_mesh():
    system = make_system(SOLID).eval()
    with torch.no_grad():
        system.sdf_field.head.bias[0] += 5
    assert len(system.reconstruct(make_batch(1).rgb).mesh(16).faces) == 0


def test_reconstruction_uses_the_given_viewpoint_or_the_prediction_or_the_front():
    images, given = make_batch(2).rgb, make_batch(2).viewpoint
    assert make_system(GIVEN).reconstruct(images, given).viewpoint is given
    front = make_system(GIVEN).reconstruct(images).viewpoint
    assert not any(angle.any() for angle in front.angles()) and front.distance.tolist() == [5, 5]
    system = make_system(TINY, shake=0.1).eval()
    torch.testing.assert_close(system.reconstruct(images).viewpoint.azimuth, system.encode(images)[2].azimuth)


@pytest.mark.parametrize("symmetric", [True, False])
def test_reconstructions_are_symmetric_where_the_config_says_so(symmetric):
    shape = make_system(replace(SOLID, symmetric=symmetric), shake=0.05).eval().reconstruct(make_batch(1).rgb)
    points = torch.rand(1, 100, 3) - 0.5
    other = points * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.equal(shape.sdf(points), shape.sdf(other)) == symmetric
    assert torch.equal(shape.texture(points), shape.texture(other)) == symmetric


def test_systems_are_found_by_name():
    assert SYSTEMS["shapeclipper"] == (ShapeClipper, ShapeClipperConfig)
    assert SYSTEMS["shapeclipper_small"] == (ShapeClipperSmall, type(SMALL))
