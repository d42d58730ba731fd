"""Which pixels of a photo show the object: a salient-object network, a rule for its mask, and checks of it.

Default network: U2-Net, small version (Qin et al., Pattern Recognition 2020), shipped in ``lib/weights/u2netp``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from lib.data.onnx import open_onnx
from lib.errors import InputError
from lib.files import sha256
from lib.paths import WEIGHTS

U2NETP = WEIGHTS / "u2netp" / "u2netp.onnx"
SIZE = 320  # pixels a side that U2-Net was trained with
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
HOLE = 0.01  # smaller holes, as a share of the object, are filled; one sees through larger ones (a chair's legs)
FAINT = 0.5  # the network's largest opacity must reach this: U2-Net answers any picture, at times with a shadow
SMALLEST, LARGEST = 0.01, 0.9  # share of the photo
SECOND = 0.25  # another part as large as this share of the object: two objects, or one behind a bar
CONTACT = 0.02  # share of the photo's border that may be object
EIGHT = np.ones((3, 3), dtype=int)  # neighbours of a pixel, diagonal ones too


@dataclass(frozen=True)
class SilhouetteModel:
    """A network that marks the object of a photo."""

    name: str
    checksum: str  # SHA-256 of the weights
    predict: Callable[[np.ndarray], np.ndarray]  # uint8 colours (H, W, 3) -> float32 opacities (H, W) in [0, 1]


@dataclass(frozen=True)
class Silhouette:
    """The mask of one photo and what is wrong with it.

    Attributes
    ----------
    mask : array, shape (H, W)
        uint8, 0 or 255: the largest part, small holes filled.
    problems : dict
        Name of a failed check -> sentence. Names: ``no_foreground``, ``all_foreground``, ``small``, ``large``,
        ``truncated`` (cut by the border), ``several_parts`` (several objects, or one that another cuts in two).
    """

    mask: UInt8[np.ndarray, "height width"]
    problems: dict[str, str]


def load_silhouette_model(path: Path | str = U2NETP, threads: int = 1) -> SilhouetteModel:
    """A salient-object network from an ONNX file that maps (1, 3, S, S) to opacities (1, 1, S, S).

    The input is U2-Net's: bilinear to S x S, divided by its largest value, minus ImageNet's mean, over its deviation.

    Raises
    ------
    InputError
        The file is missing, damaged, changed, or of another kind.
    """
    path = Path(path)
    session = open_onnx(path, threads)
    (entry,) = session.get_inputs()
    size = entry.shape[2] if isinstance(entry.shape[2], int) else SIZE  # where any size will do, U2-Net's

    def predict(rgb: np.ndarray) -> np.ndarray:
        try:
            opacity = session.run(None, {entry.name: network_input(rgb, size)})[0]
        except Exception as error:  # onnxruntime's errors share no base class
            raise InputError(f"{path} cannot be run on an image of {size} x {size} pixels ({error})") from error
        if opacity.shape[:2] != (1, 1):
            raise InputError(f"{path} gives an output of shape {opacity.shape}; opacities (1, 1, H, W) are needed.")
        full = Image.fromarray(opacity[0, 0].astype(np.float32))
        return np.asarray(full.resize(rgb.shape[1::-1], Image.Resampling.BILINEAR))

    return SilhouetteModel(path.stem, sha256(path), predict)


def network_input(rgb: UInt8[np.ndarray, "height width 3"], size: int) -> Float[np.ndarray, "1 3 size size"]:
    """The photo as U2-Net was trained on photos: float32."""
    small = np.asarray(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR), dtype=np.float32)
    scaled = (small / max(1.0, small.max()) - MEAN) / STD
    return scaled.transpose(2, 0, 1)[None].astype(np.float32)


def find_silhouette(rgb: UInt8[np.ndarray, "height width 3"], model: SilhouetteModel) -> Silhouette:
    """Mask of the most salient object of a photo.

    The opacities are stretched so that the largest is 1, as U2-Net's authors do; where even the largest is faint,
    there is no object.
    """
    opacity = model.predict(rgb)
    low, high = float(opacity.min()), float(opacity.max())
    if high < FAINT:
        return check_silhouette(np.zeros(opacity.shape, dtype=bool))
    return check_silhouette((opacity - low) / max(high - low, 1e-6) >= 0.5)


def check_silhouette(inside: Bool[np.ndarray, "height width"]) -> Silhouette:
    """Clean a raw mask and name what speaks against using it."""
    mask, problems = largest_part(inside), {}
    if not mask.any():
        sentence = "no object was found; give a mask, or a photo with a plain background"
        return Silhouette(mask, {"no_foreground": sentence})
    share = (mask > 0).mean()
    if share == 1:
        problems["all_foreground"] = "the mask covers every pixel; the background must be visible, or give a mask"
    elif share > LARGEST:
        problems["large"] = f"the object covers {share:.0%} of the photo, more than {LARGEST:.0%}"
    if share < SMALLEST:
        problems["small"] = f"the object covers {share:.2%} of the photo, less than {SMALLEST:.0%}"
    sides = {"left": mask[:, 0], "top": mask[0], "right": mask[:, -1], "bottom": mask[-1]}
    if (np.concatenate(list(sides.values())) > 0).mean() > CONTACT:
        names = ", ".join(name for name, pixels in sides.items() if pixels.any())
        problems["truncated"] = f"the object touches the border ({names}): a part of it is probably not in the photo"
    sizes = np.sort(np.bincount(ndimage.label(inside, EIGHT)[0].ravel())[1:])
    if len(sizes) > 1 and sizes[-2] > SECOND * sizes[-1]:
        problems["several_parts"] = f"a second part has {sizes[-2] / sizes[-1]:.0%} of the object's size"
    return Silhouette(mask, problems)


def largest_part(inside: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """The largest 8-connected part, with its holes of less than 1 % of its area filled: 0 or 255."""
    if not inside.any():
        return np.zeros(inside.shape, dtype=np.uint8)
    parts, _ = ndimage.label(inside, EIGHT)
    part = parts == 1 + np.bincount(parts.ravel())[1:].argmax()  # the first of equals
    holes, _ = ndimage.label(np.pad(~part, 1, constant_values=True))  # label 1 is the outside, met first
    fill = np.bincount(holes.ravel()) < HOLE * np.count_nonzero(part)
    fill[:2] = False
    return ((part | fill[holes][1:-1, 1:-1]) * 255).astype(np.uint8)
