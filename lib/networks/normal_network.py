"""A small network that guesses the surface normals of one object on white: U-Net on EfficientNet-Lite0."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.errors import InputError
from lib.files import read_json
from lib.networks.backbones import LITE0, load_network
from lib.networks.compat import import_torchvision
from lib.networks.weights import load_state, read_tensors

INPUT_MEAN, INPUT_STD = 127 / 255, 128 / 255  # what Lite0 was trained with


@dataclass(frozen=True)
class NormalNetworkConfig:
    """What the network is made of."""

    image_size: int = 128  # pixels a side of the images that it is trained on and estimates at; a multiple of 32
    widths: tuple[int, ...] = (96, 64, 48, 32)  # of the decoder at 1/16, 1/8, 1/4 and 1/2 of the image's size


class NormalNetwork(nn.Module):
    """Image and mask -> unit normals in the camera frame (x right, y down, z forward).

    The encoder is Lite0 without its classifier; each step of the decoder doubles the resolution, and sees the
    encoder's features of that resolution and the mask. The last step has half the image's resolution; its output
    is enlarged, normalised, and 0 where the mask is 0.
    """

    def __init__(self, config: NormalNetworkConfig, weights: str = "random"):
        super().__init__()
        self.config = config
        self.encoder = _encoder(weights)
        deep, *skips = reversed(self.encoder.feature_info.channels())
        self.steps = nn.ModuleList()
        for width, skip in zip(config.widths, skips, strict=True):
            self.steps.append(_block(deep + skip + 1, width))
            deep = width
        self.head = nn.Sequential(_block(deep + 4, deep), nn.Conv2d(deep, 3, 3, padding=1))
        nn.init.zeros_(self.head[-1].weight)  # starts with every normal towards the camera
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.tensor([0.0, 0.0, -1.0]))

    def forward(
        self, rgb: Float[Tensor, "batch height width 3"], mask: Float[Tensor, "batch height width"]
    ) -> Float[Tensor, "batch height width 3"]:
        """Normals of images in [0, 1] on white with masks in [0, 1]."""
        image, opacity = rgb.permute(0, 3, 1, 2).contiguous(), mask[:, None]
        scaled = (image - INPUT_MEAN) / INPUT_STD
        *skips, x = self.encoder(scaled)
        for step, skip in zip(self.steps, reversed(skips), strict=True):
            size = skip.shape[-2:]
            x = step(torch.cat([F.interpolate(x, size=size, mode="nearest"), skip, _shrink(opacity, size)], dim=1))
        x = self.head(torch.cat([x, _shrink(scaled, x.shape[-2:]), _shrink(opacity, x.shape[-2:])], dim=1))
        x = F.interpolate(x, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return F.normalize(x.permute(0, 2, 3, 1), dim=-1) * (mask[..., None] > 0)

    def train(self, mode: bool = True) -> "NormalNetwork":
        """Switch to training; the encoder's batch statistics stay ImageNet's, small batches would spoil them."""
        super().train(mode)
        self.encoder.eval()
        return self


def load_normal_network(folder: Path) -> NormalNetwork:
    """The network of a folder with ``config.json`` and ``weights.safetensors``, in evaluation mode.

    Raises
    ------
    InputError
        The folder lacks a file, or holds something else.
    """
    about = read_json(folder / "config.json")
    if not isinstance(about, dict) or about.get("system") != "normal_network":
        raise InputError(f"{folder} holds no normal network; give a folder that data_scripts/train_normals.py wrote")
    try:
        config = NormalNetworkConfig(**{**about["config"], "widths": tuple(about["config"]["widths"])})
        network = NormalNetwork(config)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe a normal network ({error})") from error
    load_state(network, read_tensors(folder / "weights.safetensors"), folder)
    return network.eval()


def describe(network: NormalNetwork) -> dict:
    """What ``config.json`` says of a network."""
    return {"system": "normal_network", "config": asdict(network.config)}


def _encoder(weights: str) -> nn.Module:
    """Lite0's features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the image's size."""
    import_torchvision()
    import timm

    encoder = timm.create_model(LITE0, features_only=True, pretrained=False)
    if weights != "random":
        whole = load_network(LITE0, weights).state_dict()
        encoder.load_state_dict({name: whole[name] for name in encoder.state_dict()})
    return encoder


def _block(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


def _shrink(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="area")
