"""Where the released code is easily misread: each term against its formula, written here from what that code does."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from test_sdf_srn import make_tiny
from tiny import EVERYTHING, SIZES, TINY, disc, make_batch, make_system, write_prepared
from torch import Tensor

from lib.data.augment import color_jitter
from lib.data.loading import PreparedDataset
from lib.geometry.cameras import Viewpoint, project
from lib.losses.camera import azimuth_prior_loss, camera_margin_loss, mirror_loss
from lib.losses.normal import normal_loss
from lib.losses.silhouette import sdf_bound_loss
from lib.networks.compat import import_torchvision
from lib.rendering.volume import sample_depths
from lib.systems import sdf_srn
from lib.systems.sdf_srn import CONFIGS, sample_target
from lib.systems.shapeclipper import PAPER, RELEASED
from lib.training import loop
from lib.training.loop import TrainingConfig, train

RELEASED_TINY = replace(RELEASED, **SIZES)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen_from(azimuth: float, elevation: float = 0.0, roll: float = 0.0) -> Viewpoint:
    """One viewpoint, from degrees."""
    return Viewpoint.from_angles(*torch.tensor([[azimuth], [elevation], [roll]]).double().deg2rad())


# --- ShapeClipper --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("degrees", "cost"), [(94, 0), (-94, 0), (96, 1), (-96, 1), (120, 25)])
def test_camera_margin_begins_at_95_degrees_and_is_summed_over_elevation_and_roll(degrees, cost):
    assert camera_margin_loss(seen_from(30, degrees)).item() == pytest.approx(cost, abs=1e-9)
    assert camera_margin_loss(seen_from(30, degrees, degrees)).item() == pytest.approx(2 * cost, abs=1e-9)


def test_mirror_term_is_the_sum_of_three_squared_distances():
    assert mirror_loss(seen_from(90), seen_from(90)).item() == pytest.approx(4)  # (0, 1) should have been (0, -1)
    assert mirror_loss(seen_from(90, 0, 90), seen_from(90, 90, 90)).item() == pytest.approx(4 + 2 + 4)


def test_azimuth_prior_looks_at_the_queries_alone():
    system, batch = make_system(RELEASED_TINY, shake=0.02).eval(), make_batch(4)
    other = replace(batch, neighbor=replace(batch.neighbor, rgb=batch.neighbor.rgb.flip(0)))
    first, second = (system.losses(one, generator()) for one in (batch, other))
    assert first["neighbor_rgb"] != second["neighbor_rgb"]
    assert first["azimuth_prior"] == second["azimuth_prior"]
    azimuth = system.estimate(batch.rgb).azimuth
    torch.testing.assert_close(first["azimuth_prior"], 0.1 * azimuth_prior_loss(azimuth))


def test_half_of_the_eikonal_points_lie_on_the_querys_rays_and_move_its_viewpoint(monkeypatch):
    system, batch = make_system(RELEASED_TINY, shake=0.02), make_batch(2)
    asked, evaluate = [], system.sdf_field.with_gradient

    def record(points: Tensor, code: Tensor, where: Tensor | None = None):
        if where is None:  # rendering asks for some gradients only
            asked.append(points.detach())
        return evaluate(points, code, where)

    monkeypatch.setattr(system.sdf_field, "with_gradient", record)
    losses = system.losses(batch, generator())
    (points,), rays = asked, SIZES["rays"]
    assert points.shape == (2, 2 * rays, 3) and points[:, :rays].abs().max() <= 1
    view = system.estimate(batch.rgb)
    pixels = project(view, points[:, rays:]) * batch.rgb.shape[1] - 0.5
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-2)  # through the middles of pixels
    depth = (points[:, rays:] + view.distance[:, None, None] * view.rotation()[:, None, 2]).norm(dim=-1)
    assert ((depth - view.distance[:, None]).abs() <= 0.7 + 1e-4).all()
    losses["eikonal"].backward()
    assert system.viewpoint_head.angles[-1].weight.grad.any()


def test_query_and_neighbour_are_encoded_in_passes_of_their_own(monkeypatch):
    """Batch normalisation in training sees one of the two at a time."""
    system, batch = make_system(RELEASED_TINY, shake=0.02).train(), make_batch(4)
    expected, used = system.encode(batch.rgb), []
    compare = system.compare
    monkeypatch.setattr(system, "compare", lambda target, *codes: used.append(codes) or compare(target, *codes))
    system.losses(batch, generator())
    torch.testing.assert_close(used[0][:2], expected[:2])
    assert used[1][0] is used[0][0]  # the neighbour is rendered with the query's shape


def test_image_networks_begin_with_torchvisions_first_weights():
    assert PAPER.backbone == RELEASED.backbone == "resnet34.tv_in1k"
    assert {PAPER.viewpoint_backbone, CONFIGS["shapenet"].backbone} == {"resnet18.tv_in1k"}


def test_pretraining_teaches_the_estimators_last_layer_and_the_shape_alone():
    system, batch = make_system(RELEASED_TINY, shake=0.02).train(), make_batch(4)
    losses = system.pretrain_losses(batch, generator())
    azimuth = system.viewpoint_head.azimuth_of_last_layer(system.viewpoint_backbone(batch.rgb))
    torch.testing.assert_close(losses["azimuth_prior"], azimuth_prior_loss(azimuth, power=1))
    sum(losses.values()).backward()
    moved = {name.rsplit(".", 1)[0] for name, p in system.named_parameters() if p.grad is not None and p.grad.any()}
    assert {name for name in moved if name.startswith("viewpoint")} == {"viewpoint_head.angles.1"}
    assert all(name.startswith(("viewpoint", "sdf_field", "codes.shape_projection")) for name in moved)


def test_moments_of_pretraining_are_forgotten(tmp_path, monkeypatch):
    """What Adam counts is the steps of training, also in a run that stopped where pretraining ends."""
    data = PreparedDataset(write_prepared(tmp_path / "data"), "train")
    config, made = TrainingConfig(steps=3, pretrain_steps=2, batch_size=2, select="last"), []
    make = loop.make_optimizer
    monkeypatch.setattr(loop, "make_optimizer", lambda *about: made.append(make(*about)) or made[-1])
    for stop in (2, None):
        system = make_system(RELEASED_TINY)
        train(system, config, data, tmp_path / "run", accelerator=Accelerator(cpu=True), stop_after=stop)
        assert {int(state["step"]) for state in made[-1].state.values()} == {stop or 3}


@pytest.mark.parametrize(("rank_by", "kept"), [("loss", [0, 2]), ("angle", [1, 2])])
def test_outliers_are_ranked_by_the_loss_in_the_paper_and_by_the_angle_in_the_code(rank_by, kept):
    """Along a diagonal the L1 difference of equal angles is larger: a smaller angle may cost more."""
    diagonal = F.normalize(torch.tensor([1.0, 1.0, 1.0]).double(), dim=0)
    target = torch.stack([torch.tensor([0, 0, 1.0]).double(), diagonal, diagonal])
    beside = torch.stack([torch.tensor([1.0, 0, 0]), torch.tensor([1.0, -1, 0]), torch.tensor([1.0, -1, 0])]).double()
    angle = torch.tensor([0.52, 0.50, 0.1])[:, None].double()
    rendered = angle.cos() * target + angle.sin() * F.normalize(beside, dim=-1)
    angular = 1 - (rendered * target).sum(-1)
    errors = 5 * (rendered - target).abs().sum(-1) + angular
    ranked = sorted(range(3), key=(errors if rank_by == "loss" else angular).tolist().__getitem__)
    assert sorted(ranked[:2]) == kept  # the two rules differ here
    eye, all_visible = torch.eye(3).double()[None], torch.ones(1, 3, dtype=torch.bool)
    loss = normal_loss(rendered[None], target[None], eye, all_visible, 2.5 / 3, rank_by)
    assert loss.item() == pytest.approx(errors[kept].mean().item())


def test_released_masks_are_0_and_1_and_images_are_composited_with_them():
    color, mask = torch.rand(2, 16, 16, 3, generator=generator()), torch.rand(2, 16, 16, generator=generator(1))
    soft = replace(make_batch(2), rgb=color * mask[..., None] + 1 - mask[..., None], mask=mask)
    hard = soft.with_hard_masks()
    assert set(hard.mask.unique().tolist()) == {0, 1} and torch.equal(hard.mask > 0.5, mask > 0.5)
    torch.testing.assert_close(hard.rgb, torch.where(mask[..., None] > 0.5, color, 1.0), rtol=0, atol=1e-5)
    assert RELEASED.hard_masks and PAPER.hard_masks and not EVERYTHING.hard_masks
    system, seen = make_system(RELEASED_TINY, shake=0.02), []
    system.encode = lambda rgb, encode=system.encode: seen.append(rgb) or encode(rgb)
    system.losses(replace(soft, neighbor=replace(soft, neighbor=None)), generator())
    system.reconstruct_batch(soft)
    assert len(seen) == 3 and all(torch.equal(rgb, hard.rgb) for rgb in seen)


def test_released_depths_are_even_and_drawn_half_way_to_their_neighbours():
    near, far, samples = torch.tensor([4.3]), torch.tensor([5.7]), 64
    even = np.linspace(4.3, 5.7, samples)
    np.testing.assert_allclose(sample_depths(near, far, 2, samples, None, "released")[0, 1], even, rtol=1e-6)
    middle = (even[1:] + even[:-1]) / 2
    low, high = np.append(even[0], middle), np.append(middle, even[-1])
    share = torch.rand(1, 3, samples, generator=generator(4)).numpy()  # the same draws
    drawn = sample_depths(near, far, 3, samples, generator(4), "released").numpy()
    np.testing.assert_allclose(drawn, low + share * (high - low), rtol=1e-6)
    assert PAPER.depth_bins == RELEASED.depth_bins == "released"


# --- SDF-SRN -------------------------------------------------------------------------------------------------------


def test_silhouette_term_is_pooled_over_the_images_of_a_batch():
    """One pixel an image, at distances 1/4 and 1: weights 4 and 1, and violations of 1 and 3."""
    sdf, bound = torch.zeros(2, 1, 1), torch.tensor([1.0, 3.0]).view(2, 1, 1)
    distance = torch.tensor([[0.25], [1.0]])
    assert sdf_bound_loss(sdf, bound, distance).item() == pytest.approx((4 * 1 + 1 * 3) / 5)
    assert sdf_bound_loss(sdf, bound, distance, weighted=False).item() == pytest.approx(2)


def test_perspective_rays_start_on_a_plane_and_step_along_the_axis():
    batch = make_batch(2, neighbor=False)
    view = replace(batch.viewpoint, distance=torch.full((2,), 2.732), focal=torch.full((2,), 1.8660254))
    system = make_tiny(distance=2.732, near=0.732, far=0.768)
    target = sample_target(system.with_projection(replace(batch, viewpoint=view)), 40, True, generator())
    depths, _ = system.march(system.hypernetwork(torch.randn(2, 8)), view, target.rays)
    points = target.rays.origins[..., None, :] + depths[..., None] * target.rays.directions[..., None, :]
    in_camera = torch.einsum("bij,brnj->brni", view.rotation(), points)[..., 2] + 2.732
    torch.testing.assert_close(in_camera[..., 0], torch.full((2, 40), 2.0), rtol=0, atol=1e-5)
    torch.testing.assert_close(in_camera, depths, rtol=0, atol=1e-4)


def test_occupancy_is_pretrained_by_cross_entropy_against_the_sphere(monkeypatch):
    """A logit that is 0 on the sphere costs log 2 there; far from it one that grows costs nothing."""
    system = make_tiny(field="occupancy")
    directions = F.normalize(torch.randn(3, 200, 3, generator=generator()), dim=-1)
    for radius, cost in [(0.5, math.log(2)), (1.0, math.log1p(math.exp(-50.0))), (0.0, math.log1p(math.exp(-50.0)))]:
        points = radius * directions
        monkeypatch.setattr(sdf_srn, "uniform", lambda *about, points=points: points)
        field = type(system.hypernetwork(torch.zeros(1, 8)))
        monkeypatch.setattr(field, "distance", lambda self, points: 100 * (points.norm(dim=-1) - 0.5))
        loss = system.pretrain_losses(make_batch(3), generator())["shape"]
        assert loss.item() == pytest.approx(cost, abs=1e-4)


def test_occupancy_keeps_its_eikonal_term():
    assert "eikonal" in make_tiny(field="occupancy").losses(make_batch(neighbor=False), generator())


@pytest.mark.parametrize(("refine_rays", "rays"), [(None, 256), (30, 30)])
def test_test_time_optimisation_looks_at_all_pixels(monkeypatch, refine_rays, rays):
    seen = []
    monkeypatch.setattr(sdf_srn, "sample_target", lambda *about: seen.append(sample_target(*about)) or seen[-1])
    make_tiny(refine_rays=refine_rays).eval().refine(make_batch(1, neighbor=False), generator(), 2)
    assert [target.rgb.shape[1] for target in seen] == [rays, rays]
    assert CONFIGS["shapenet"].refine_rays is None


def test_colour_jitter_is_torchvisions():
    """The same factors and order on an 8-bit image, by torchvision's other implementation, Pillow's."""
    import_torchvision()
    from torchvision.transforms import functional

    mask = disc().expand(2, -1, -1)
    rgb = (torch.rand(2, 16, 16, 3, generator=generator()) * 255).round() / 255
    jittered = color_jitter(rgb * mask[..., None] + 1 - mask[..., None], mask, 0.2, generator(3))
    drawn = generator(3)
    for index in range(2):
        image = Image.fromarray(
            (rgb[index] * mask[index][..., None] * 255 + 255 * (1 - mask[index][..., None]))
            .round()
            .to(torch.uint8)
            .numpy()
        )
        noise = (2 * torch.rand(4, generator=drawn) - 1).tolist()
        steps = [
            lambda x, n=noise: functional.adjust_brightness(x, 1 + 0.2 * n[0]),
            lambda x, n=noise: functional.adjust_contrast(x, 1 + 0.2 * n[1]),
            lambda x, n=noise: functional.adjust_saturation(x, 1 + 0.2 * n[2]),
            lambda x, n=noise: functional.adjust_hue(x, 0.5 * n[3]),
        ]
        for number in torch.randperm(4, generator=drawn).tolist():
            image = steps[number](image)
        expected = torch.where(mask[index][..., None] > 0.5, torch.tensor(np.array(image)) / 255, 1.0)
        assert (jittered[index] - expected).abs().mean() < 0.01  # Pillow rounds to 8 bits after each


@pytest.mark.parametrize(("make", "samples"), [(lambda: make_system(TINY), 101), (make_tiny, 129)])
def test_shapes_are_measured_on_the_papers_grids(make, samples):
    """The released codes ask for 100 and 128 intervals in [-0.6, 0.6]: a plane's vertices lie on such a grid."""
    batch = make_batch(1)
    shape = make().eval().reconstruct(batch.rgb, batch.viewpoint)
    tilted = replace(shape, distance=lambda index, points: points[..., 2] + 0.1 * points[..., 0] + 0.0123)
    x = np.unique(np.round(tilted.mesh(colored=False).vertices[:, 0], 5))
    np.testing.assert_allclose(x[[0, -1]], [-0.6, 0.6], atol=1e-5)
    assert np.isin(np.linspace(-0.6, 0.6, samples).round(5), x).all()


def test_nothing_of_this_is_in_the_small_recipes():
    """They keep what they optimise: halves and sixths of the released weights make up for what is summed now."""
    assert (EVERYTHING.camera_margin_weight, EVERYTHING.mirror_weight) == (0.005, 0.1 / 6)
    assert (EVERYTHING.depth_bins, EVERYTHING.hard_masks, EVERYTHING.normal_rank) == ("equal", False, "angle")
