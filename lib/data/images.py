"""Read the images of a sample and check that they can be used.

Colours are composited on white, masks are 8-bit opacities, normals unit vectors in the camera frame.
"""

import io
from pathlib import Path

import numpy as np
import png
from jaxtyping import Float, UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from lib.errors import InputError

WHITE = 255
INSIDE = 128  # opacities from here on count as the object
UNIT_TOLERANCE = 0.02
HIGH_BYTES, LOW_BYTES = "RGB;16B", "RGB;16L"  # which half of a 16-bit channel Pillow's decoder keeps


class FileContent(io.BytesIO):
    """A file that is in memory, with the name that messages give it."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name


Source = Path | FileContent


def read_sample_images(
    image_path: Source, mask_path: Source | None = None, normal_path: Source | None = None
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
    image = open_image(image_path)
    if mask_path is not None:
        mask = np.asarray(open_image(mask_path).convert("L"))
        if mask.shape != image.size[::-1]:
            sizes = f"{image.width} x {image.height} pixels but its mask {mask_path} has {_size(mask)}"
            raise InputError(f"{image_path} has {sizes}; they must be equal.")
    elif image.has_transparency_data:
        mask = np.asarray(image.convert("RGBA"))[..., 3]
    else:
        raise InputError(f"{image_path} has no alpha channel and no mask; give a mask or an RGBA image.")
    check_mask(mask, mask_path or image_path)
    rgb = on_white(np.asarray(image.convert("RGB")), mask)
    return rgb, mask, None if normal_path is None else read_normals(normal_path, mask)


def open_image(source: Source, half: str = "") -> Image.Image:
    """A decoded image, upright; with `half`, the high or the low bytes of a 16-bit RGB PNG.

    Raises
    ------
    InputError
        It is missing, damaged, or no 16-bit RGB PNG where its halves are asked for.
    """
    try:
        with Image.open(source) as image:
            if half:
                tiles = [(kind, box, offset, half) for kind, box, offset, stored in image.tile if stored == HIGH_BYTES]
                if not tiles:
                    what = f"{source} is no plain 16-bit RGB PNG"
                    raise InputError(f"{what}; write normals with lib.data.images.write_normals.")
                image.tile = tiles
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a phone stores beside the pixels how it was held
            return image
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"There is no image {source}; prepare the folder again.") from error
    except UnidentifiedImageError as error:  # its own words repeat the path
        raise InputError(f"{source} is truncated or damaged (no known format); replace it.") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{source} is truncated or damaged ({error}); replace it.") from error


def on_white(rgb: UInt8[np.ndarray, "height width 3"], mask: UInt8[np.ndarray, "height width"]):
    """Composite straight colours on white with the mask as opacity: uint8, shape (H, W, 3)."""
    alpha = mask[..., None] / 255.0
    return np.rint(rgb * alpha + WHITE * (1.0 - alpha)).astype(np.uint8)


def check_mask(mask: UInt8[np.ndarray, "height width"], name: object) -> None:
    """Refuse masks that say nothing: no pixel, or every pixel, is at least half opaque."""
    inside = mask >= INSIDE
    if not inside.any():
        raise InputError(f"The mask of {name} is empty; give an image whose mask marks the object.")
    if inside.all():
        raise InputError(f"The mask of {name} is all foreground; the background must have opacity 0.")


def check_normals(normal: Float[np.ndarray, "rows columns 3"], mask: UInt8[np.ndarray, "height width"], name: object):
    """Refuse normal maps of another size than the mask, or with vectors inside it that have not length 1."""
    if normal.shape[:2] != mask.shape:
        raise InputError(f"{name} has {_size(normal)} pixels but its mask {_size(mask)}; they must be equal.")
    if not np.isfinite(normal).all():
        raise InputError(f"{name} holds normals that are not finite (NaN); compute them again.")
    length = np.linalg.norm(normal[mask >= INSIDE], axis=-1)
    if len(length) and np.abs(length - 1.0).max() > UNIT_TOLERANCE:
        worst = length[np.abs(length - 1.0).argmax()]
        raise InputError(f"{name} holds normals of length {worst:.2f} inside the mask; normals must have length 1.")


def read_normals(path: Source, mask: UInt8[np.ndarray, "height width"]) -> Float[np.ndarray, "height width 3"]:
    """Unit normals, float32, of a file that `write_normals` wrote; checked by `check_normals`."""
    levels = read_png16(path)
    normal = (levels.astype(np.float32) / 65535.0 * 2.0 - 1.0) * levels.any(axis=-1, keepdims=True)
    check_normals(normal, mask, path)
    return normal


def write_normals(path: Path, normal: Float[np.ndarray, "height width 3"]) -> None:
    """Write unit normals (0 outside the mask) as a 16-bit RGB PNG: ``round((n + 1) / 2 * 65535)``."""
    inside = np.any(normal != 0, axis=-1, keepdims=True)
    levels = np.rint((np.clip(normal, -1.0, 1.0) + 1.0) / 2.0 * 65535.0) * inside
    write_png16(path, levels.astype(np.uint16))


def write_png16(path: Path, image: UInt16[np.ndarray, "height width 3"]) -> None:
    """Write a 16-bit RGB PNG, which Pillow cannot; the same pixels always give the same bytes."""
    height, width, _ = image.shape
    with Path(path).open("wb") as file:
        png.Writer(width, height, greyscale=False, bitdepth=16, compression=9).write(file, image.reshape(height, -1))


def read_png16(path: Source) -> UInt16[np.ndarray, "height width 3"]:
    """Read a 16-bit RGB PNG.

    Pillow keeps 8 bits of a channel, so it decodes the file twice: seven times as fast as pypng, which is Python.
    """
    high, low = (np.asarray(open_image(path, half), dtype=np.uint16) for half in (HIGH_BYTES, LOW_BYTES))
    return high << 8 | low


def crop_to_mask(
    rgb: UInt8[np.ndarray, "rows columns 3"],
    mask: UInt8[np.ndarray, "height width"],
    margin: float = 1.2,
    size: int = 64,
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """The square crop that the built-in data has: side ``margin`` times the larger side of the mask's box.

    The crop is centred on the box; what is outside the photo becomes white background.

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


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"
