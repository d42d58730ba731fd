"""A silhouette from an image file: the object's pixels, square and small."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from lib.data.images import INSIDE
from lib.data.photos_reading import read_photo_file
from lib.errors import InputError

GREY = np.array([0.299, 0.587, 0.114])  # brightness of red, green and blue (ITU-R BT.601)


def read_silhouette(path: Path | str, size: int = 64, called: str = "") -> tuple[Bool[Tensor, "size size"], str]:
    """The silhouette in an image file, in the middle of a square of background, its aspect ratio kept.

    The object is what is at least half opaque. If that is nothing or everything, there is no alpha channel to speak
    of, and brightness decides: the border's is the background's, so both white on black and black on white will do.

    Parameters
    ----------
    size : int
        Pixels a side of the result; each is the object's if at least half of its area is.
    called : str
        The file's name in messages; empty: its path.

    Returns
    -------
    Tensor, shape (size, size), bool
    str
        Which it was: "alpha channel", "brightness (bright on dark)" or "brightness (dark on bright)".
    """
    path, name = Path(path), called or str(path)
    if not path.is_file():
        raise InputError(f"There is no silhouette file {name}; give the path of an image.")
    try:
        photo = read_photo_file(path)
    except InputError as error:
        raise InputError(f"The silhouette file {name} cannot be used: {error}.") from error
    inside, source = np.zeros(photo.rgb.shape[:2], dtype=bool), "alpha channel"
    if photo.alpha is not None:
        inside = photo.alpha >= INSIDE
    if inside.all() or not inside.any():
        inside, source = photo.rgb @ GREY >= INSIDE, "brightness (bright on dark)"
        border = np.concatenate([inside[0], inside[-1], inside[1:-1, 0], inside[1:-1, -1]])
        if border.mean() > 0.5:
            inside, source = ~inside, "brightness (dark on bright)"
    _check(inside, f"in {name} the {source} marks" if inside.any() else f"all of {name} has one brightness and marks")

    height, width = inside.shape
    side = max(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(np.uint8(inside) * 255).crop((left, top, left + side, top + side))  # 0 beyond the border
    small = np.asarray(square.resize((size, size), Image.Resampling.BOX)) >= INSIDE
    _check(small, f"in {name} the {source} marks, at {size} x {size} pixels,")
    return torch.from_numpy(small), source


def _check(inside: Bool[np.ndarray, "height width"], found: str) -> None:
    if inside.all() or not inside.any():
        every = "every pixel" if inside.all() else "no pixel"
        raise InputError(f"A silhouette needs object and background, but {found} {every}; give another image.")
