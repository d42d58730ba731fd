"""Read the images of a sample and check that they can be used.

Colours are composited on white, masks are 8-bit opacities, normals unit vectors in the camera frame.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lib.data.png import read_png16, write_png16
from lib.errors import InputError

WHITE = 255
INSIDE = 128  # opacities from here on count as the object
UNIT_TOLERANCE = 0.02


def read_sample_images(
    image_path: Path, mask_path: Path | None = None, normal_path: Path | None = None
) -> tuple[
    UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"], Float[np.ndarray, "height width 3"] | None
]:
    """Colour on white, mask and normals of one sample.

    Parameters
    ----------
    image_path : Path
        RGBA image with straight alpha, or RGB if there is a mask.
    mask_path : Path, optional
        One channel; replaces the alpha of the image.
    normal_path : Path, optional
        16-bit RGB PNG, ``round((n + 1) / 2 * 65535)``; 0, 0, 0 outside the mask. Camera frame.

    Returns
    -------
    rgb, mask : uint8 arrays, shapes (H, W, 3) and (H, W)
    normal : float32 array, shape (H, W, 3), or None
        Unit inside the mask, 0 outside.

    Raises
    ------
    InputError
        If a file is missing or truncated, sizes differ, there is no mask, the mask is empty or all
        foreground, or normals are not unit vectors.
    """
    image = _open(image_path)
    mask = _read_mask(image, image_path, mask_path)
    check_mask(mask, mask_path or image_path)
    colour = np.asarray(image.convert("RGB"))
    rgb = on_white(colour, mask)
    return rgb, mask, None if normal_path is None else _read_normals(normal_path, mask)


def on_white(rgb: UInt8[np.ndarray, "height width 3"], mask: UInt8[np.ndarray, "height width"]):
    """Composite straight colours on white with the mask as opacity: uint8, shape (H, W, 3)."""
    alpha = mask[..., None] / 255.0
    return np.rint(rgb * alpha + WHITE * (1.0 - alpha)).astype(np.uint8)


def check_mask(mask: UInt8[np.ndarray, "height width"], name: object) -> None:
    """Refuse masks that say nothing.

    Raises
    ------
    InputError
        If no pixel, or every pixel, is at least half opaque.
    """
    inside = mask >= INSIDE
    if not inside.any():
        raise InputError(f"The mask of {name} is empty; give an image whose mask marks the object.")
    if inside.all():
        raise InputError(f"The mask of {name} is all foreground; the background must have opacity 0.")


def check_normals(normal: Float[np.ndarray, "rows columns 3"], mask: UInt8[np.ndarray, "height width"], name: object):
    """Refuse normal maps with NaN, infinite or non-unit vectors inside the mask.

    Raises
    ------
    InputError
        If so, or if the sizes differ.
    """
    if normal.shape[:2] != mask.shape:
        raise InputError(f"{name} has {_size(normal)} pixels but its mask {_size(mask)}; they must be equal.")
    if not np.isfinite(normal).all():
        raise InputError(f"{name} holds normals that are not finite (NaN); compute them again.")
    length = np.linalg.norm(normal[mask >= INSIDE], axis=-1)
    if len(length) and np.abs(length - 1.0).max() > UNIT_TOLERANCE:
        worst = length[np.abs(length - 1.0).argmax()]
        raise InputError(f"{name} holds normals of length {worst:.2f} inside the mask; normals must have length 1.")


def write_normals(path: Path, normal: Float[np.ndarray, "height width 3"]) -> None:
    """Write unit normals (0 outside the mask) as a 16-bit RGB PNG: ``round((n + 1) / 2 * 65535)``."""
    inside = np.any(normal != 0, axis=-1, keepdims=True)
    levels = np.rint((np.clip(normal, -1.0, 1.0) + 1.0) / 2.0 * 65535.0) * inside
    write_png16(path, levels.astype(np.uint16))


def crop_to_mask(
    rgb: UInt8[np.ndarray, "rows columns 3"],
    mask: UInt8[np.ndarray, "height width"],
    margin: float = 1.2,
    size: int = 64,
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """The square crop that the built-in data has: side ``margin`` times the larger side of the mask's box.

    The crop is centred on the box; what lies outside the photo becomes white background.

    Raises
    ------
    InputError
        If the mask is empty, all foreground, or of another size than the photo.
    """
    if rgb.shape[:2] != mask.shape:
        raise InputError(f"The photo has {_size(rgb)} pixels but its mask {_size(mask)}; they must be equal.")
    check_mask(mask, "the photo")
    rows, columns = np.nonzero(mask >= INSIDE)
    low = np.array([columns.min(), rows.min()])
    high = np.array([columns.max(), rows.max()]) + 1
    side = int(np.ceil(margin * (high - low).max()))
    left, top = np.rint((low + high - side) / 2).astype(int)
    box = (left, top, left + side, top + side)
    # Cropping beyond the border gives opacity 0, which compositing turns white.
    small = Image.fromarray(mask).crop(box).resize((size, size), Image.Resampling.BOX)
    colour = Image.fromarray(on_white(rgb, mask)).convert("RGBA").crop(box)
    colour = Image.alpha_composite(Image.new("RGBA", colour.size, (WHITE,) * 4), colour)
    return np.asarray(colour.resize((size, size), Image.Resampling.BOX).convert("RGB")), np.asarray(small)


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a phone stores beside the pixels how it was held
            return image
    except FileNotFoundError as error:
        raise InputError(f"There is no image {path}; prepare the folder again.") from error
    except UnidentifiedImageError as error:  # its own words repeat the path
        raise InputError(f"The image {path} is truncated or damaged (no known format); replace it.") from error
    except (OSError, SyntaxError) as error:
        raise InputError(f"The image {path} is truncated or damaged ({error}); replace it.") from error


def _read_mask(image: Image.Image, image_path: Path, mask_path: Path | None) -> UInt8[np.ndarray, "height width"]:
    if mask_path is not None:
        mask = np.asarray(_open(mask_path).convert("L"))
        if mask.shape != image.size[::-1]:
            sizes = f"{image.size[0]} x {image.size[1]} pixels but its mask {mask_path} has {_size(mask)}"
            raise InputError(f"{image_path} has {sizes}; they must be equal.")
        return mask
    if not image.has_transparency_data:
        raise InputError(f"{image_path} has no alpha channel and no mask; give a mask or an RGBA image.")
    return np.asarray(image.convert("RGBA"))[..., 3]


def _read_normals(path: Path, mask: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "rows columns 3"]:
    if not Path(path).is_file():
        raise InputError(f"There is no normal map {path}; prepare the folder again.")
    levels = read_png16(path)
    normal = (levels.astype(np.float32) / 65535.0 * 2.0 - 1.0) * levels.any(axis=-1, keepdims=True)
    check_normals(normal, mask, path)
    return normal


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
