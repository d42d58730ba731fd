"""The course's small contrastive image-text model: pictures of furniture and phrases about them in one space.

Built of open_clip's own classes, with EfficientNet-Lite0 as the image tower and a two-layer text tower whose
vocabulary is the few words of the captions. It has seen renders of 134 models of furniture and nothing else: it shows
how such a model works, offline, and knows nothing of the world.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor, nn

from lib.errors import InputError
from lib.files import read_json, sha256, write_atomically, write_json
from lib.networks.backbones import LITE0, load_network
from lib.networks.compat import import_torchvision
from lib.networks.weights import load_state, read_tensors
from lib.paths import WEIGHTS

NAME = "image_text_furniture"
FOLDER = WEIGHTS / "image-text-furniture"
PAD, UNKNOWN, START = 0, 1, 2
FIRST_WORD = 3
MEAN, STD = 127 / 255, 128 / 255  # what Lite0 was trained with


@dataclass(frozen=True)
class ImageTextConfig:
    """Size of the two towers."""

    vocabulary: tuple[str, ...]  # words with their own token; all others share the token "unknown"
    image_size: int = 96  # pixels a side of what the image tower sees
    embed_dim: int = 256  # dimensions of the common space
    context_length: int = 20  # longest phrase in tokens, start and end included; more is cut off
    text_width: int = 128  # of the text tower, a causal transformer
    text_layers: int = 2
    text_heads: int = 4

    @property
    def end(self) -> int:
        """Token of the end: the highest, because open_clip reads the phrase's features where the token is highest."""
        return FIRST_WORD + len(self.vocabulary)


@dataclass(frozen=True)
class ImageText:
    """A trained model: phrases and pictures in, unit vectors out."""

    network: nn.Module  # an `open_clip.CLIP` in evaluation mode
    config: ImageTextConfig
    checksum: str  # SHA-256 of the file of weights

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "batch size"]:
        """Unit vectors of RGB pictures on white."""
        pixels = torch.stack([prepare_image(image, self.config.image_size) for image in images])
        pixels = pixels.to(self.network.logit_scale.device).contiguous(memory_format=torch.channels_last)
        return self.network.encode_image(pixels, normalize=True)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Float[Tensor, "batch size"]:
        """Unit vectors of phrases."""
        return self.network.encode_text(tokenize(texts, self.config).to(self.network.logit_scale.device), True)


def split_words(text: str) -> list[str]:
    """Lower-case words and numbers, without punctuation.

    >>> split_words("A red car, Ford Focus")
    ['a', 'red', 'car', 'ford', 'focus']
    """
    return re.findall(r"[a-z0-9]+", text.lower())


def tokenize(texts: Sequence[str], config: ImageTextConfig) -> Int[Tensor, "batch length"]:
    """Tokens: start, a token a word, end, padding.

    >>> tokenize(["a chair", "a throne"], ImageTextConfig(("a", "chair"), context_length=5))
    tensor([[2, 3, 4, 5, 0],
            [2, 3, 1, 5, 0]])
    """
    token_of = {word: FIRST_WORD + place for place, word in enumerate(config.vocabulary)}
    tokens = torch.full((len(texts), config.context_length), PAD)
    for row, text in zip(tokens, texts, strict=True):
        words = [token_of.get(word, UNKNOWN) for word in split_words(text)[: config.context_length - 2]]
        row[: len(words) + 2] = torch.tensor([START, *words, config.end])
    return tokens


def prepare_image(image: Image.Image, size: int) -> Float[Tensor, "3 size size"]:
    """Padded with white to a square, resized and scaled to what the image tower expects.

    Padded, not cropped or squeezed: the phrases speak of proportions.
    """
    square = ImageOps.pad(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC, color=(255, 255, 255))
    return normalize_pixels(torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255)


def normalize_pixels(rgb: Tensor) -> Tensor:
    """From [0, 1] to the range that Lite0 was trained with."""
    return (rgb - MEAN) / STD


def build_network(config: ImageTextConfig, backbone: str = "random") -> nn.Module:
    """An untrained `open_clip.CLIP` of this size.

    Parameters
    ----------
    backbone : {"imagenet", "random"}
        First weights of the image tower (see `lib.networks.backbones.Backbone`); all else is random.
    """
    import_torchvision()
    import open_clip

    vision = {"timm_model_name": LITE0, "timm_proj": "linear", "image_size": config.image_size}
    text = {
        "context_length": config.context_length,
        "vocab_size": config.end + 1,
        "width": config.text_width,
        "heads": config.text_heads,
        "layers": config.text_layers,
    }
    network = open_clip.CLIP(config.embed_dim, vision, text)
    if backbone == "imagenet":
        network.visual.trunk.load_state_dict(load_network(LITE0).state_dict())
    return network.to(memory_format=torch.channels_last)


def save_image_text(folder: Path, network: nn.Module, config: ImageTextConfig, about: dict) -> None:
    """Write ``weights.safetensors`` (float16) and ``config.json`` with their checksum."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    halves = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    path = folder / "weights.safetensors"
    write_atomically(path, lambda temporary: save_file(halves, temporary))
    described = {"system": NAME, "config": asdict(config), "weights_sha256": sha256(path)}
    write_json(folder / "config.json", {**described, **about})


def load_image_text(folder: Path | str = FOLDER, device: str = "cpu") -> ImageText:
    """The model of a folder, by default the one that ships with the course.

    Raises
    ------
    InputError
        The folder is no such model, or its weights have another checksum or architecture.
    """
    folder = Path(folder)
    about = read_json(folder / "config.json")
    if not isinstance(about, dict) or about.get("system") != NAME:
        raise InputError(f"{folder / 'config.json'} does not describe an image-text model; choose another folder")
    path = folder / "weights.safetensors"
    tensors = read_tensors(path)
    if sha256(path) != about.get("weights_sha256"):
        raise InputError(f"{path} has another checksum than config.json gives; restore the file")
    try:
        config = ImageTextConfig(**{**about["config"], "vocabulary": tuple(about["config"]["vocabulary"])})
        network = build_network(config)
    except (TypeError, KeyError, ValueError, AssertionError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe an image-text model: {error}") from error
    load_state(network, tensors, path)
    return ImageText(network.to(device).eval(), config, about["weights_sha256"])
