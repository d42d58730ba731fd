"""Read photos that anybody may have put into a folder: upright, 8-bit, not too large, or one sentence why not."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from lib.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # only what needs no other program to read
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA")
SMALLEST = 16  # pixels a side: less shows no object
LARGEST = 64e6  # pixels that are decoded; JPEG is decoded at 1/2, 1/4 or 1/8 of its size and may be larger
WORKING = 1024  # larger photos are reduced to this many pixels along their longer side
PNG_DEPTH_BYTE = 24  # of the file: bits a channel (PNG specification, 11.2.2)
TIFF_BITS = 258  # tag: bits of each channel
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF: how the camera was held; values that swap width and height


@dataclass(frozen=True)
class Photo:
    """A photo in memory, upright, perhaps reduced."""

    rgb: UInt8[np.ndarray, "height width 3"]
    alpha: UInt8[np.ndarray, "height width"] | None  # opacity, where the file has one that is not opaque everywhere
    size: tuple[int, int]  # width and height of the upright photo in the file


def read_photo_file(path: Path | str, working: int = WORKING) -> Photo:
    """Decode one photo, reduced to `working` pixels along its longer side.

    Raises
    ------
    InputError
        Empty, no image, animated, CMYK or another colour space, 16-bit, tiny, huge, truncated, or unreadable.
    """
    try:
        content = Path(path).read_bytes()
        if not content:
            raise InputError("the file is empty (0 bytes); copy it again")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limits here are our own
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                return _decoded(image, content, working)
    except UnidentifiedImageError as error:
        raise InputError("this is no image of a known kind; give PNG, JPEG, WebP, BMP, TIFF or GIF") from error
    except Image.DecompressionBombError as error:
        raise InputError("the image is far too large to be decoded safely; make it smaller") from error
    except InputError:
        raise
    except Exception as error:  # decoders of damaged files raise nearly anything; the next photo must have its turn
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"the image is damaged or cannot be read ({reason}); replace it") from error


def _decoded(image: Image.Image, content: bytes, working: int) -> Photo:
    _check_kind(image, content)
    width, height = image.size
    image.draft("RGB", (working, working))  # JPEG only: decodes no more than is needed
    if image.width * image.height > LARGEST:
        millions = image.width * image.height / 1e6
        raise InputError(f"the image has {millions:.0f} megapixels, more than {LARGEST / 1e6:.0f}; make it smaller")
    image.load()
    held = image.getexif().get(ORIENTATION, 1)
    mode = "RGBA" if image.has_transparency_data else "RGB"
    small = image if image.mode == mode else image.convert(mode)  # before anything else is copied at full size
    small.thumbnail((working, working), Image.Resampling.LANCZOS)
    small.getexif()[ORIENTATION] = held
    pixels = np.array(ImageOps.exif_transpose(small))
    alpha = pixels[..., 3].copy() if mode == "RGBA" and pixels[..., 3].min() < 255 else None
    return Photo(pixels[..., :3].copy(), alpha, (height, width) if held in SIDEWAYS else (width, height))


def _check_kind(image: Image.Image, content: bytes) -> None:
    """Refuse, before anything is decoded, images of a kind that would be read wrongly."""
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a phone's JPEG with a preview in it
        raise InputError(f"the image is animated ({image.n_frames} frames); save one frame")
    bits = 8  # Pillow cuts off what is above 8 silently in some formats
    if image.format == "PNG":
        bits = content[PNG_DEPTH_BYTE]
    elif image.format == "TIFF":
        bits = np.max(image.tag_v2.get(TIFF_BITS, 8))
    if bits > 8 or image.mode.startswith(("I", "F")):
        raise InputError("the image has more than 8 bits a channel; convert it to 8 bits")
    if image.mode not in MODES:
        raise InputError(f"the image's colours are {image.mode}; convert it to RGB")
    if min(image.size) < SMALLEST:
        size = f"{image.width} x {image.height}"
        raise InputError(f"the image has {size} pixels; at least {SMALLEST} x {SMALLEST} are needed")
