"""16-bit RGB PNG files, which Pillow reads with 8 bits only (PNG specification, chapters 5 and 9)."""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt16

from lib.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
PIXEL_BYTES = 6  # three channels of two bytes
NONE, SUB, UP, AVERAGE, PAETH = range(5)


def write_png16(path: Path, image: UInt16[np.ndarray, "height width 3"]) -> None:
    """Write a 16-bit RGB image; the same pixels always give the same bytes (with the same zlib)."""
    height, width = image.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(_filtered(np.ascontiguousarray(image)), 9)), (b"IEND", b"")
    Path(path).write_bytes(SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks))


def read_png16(path: Path) -> UInt16[np.ndarray, "height width 3"]:
    """Read a 16-bit RGB image.

    Raises
    ------
    InputError
        If the file is damaged or another kind of image.
    """
    try:
        header, data = _parse(Path(path).read_bytes())
        width, height, *kind = struct.unpack(">IIBBBBB", header)
        if kind != [16, 2, 0, 0, 0]:
            raise InputError(f"{path} is no plain 16-bit RGB PNG; write normals with lib.data.images.write_normals.")
        rows = np.frombuffer(zlib.decompress(data), dtype=np.uint8).reshape(height, 1 + width * PIXEL_BYTES)
    except (struct.error, zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged or truncated ({error}); write it again.") from error
    return _unfiltered(rows).view(">u2").astype(np.uint16).reshape(height, width, 3)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _parse(content: bytes) -> tuple[bytes, bytes]:
    """Header and joined image data; checks every checksum."""
    if not content.startswith(SIGNATURE):
        raise ValueError("no PNG signature")
    header, data, position, kind = b"", b"", len(SIGNATURE), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, position + 8 + length)
        if checksum != zlib.crc32(kind + body):
            raise ValueError("a checksum does not fit")
        header, data = (body if kind == b"IHDR" else header), (data + body if kind == b"IDAT" else data)
        position += 12 + length
    return header, data


def _filtered(image: np.ndarray) -> bytes:
    """Each row as it is, minus its left neighbour or minus the row above: whichever has smaller differences."""
    raw = image.astype(">u2").view(np.uint8).reshape(len(image), -1)
    left, above = np.zeros_like(raw), np.zeros_like(raw)
    left[:, PIXEL_BYTES:] = raw[:, :-PIXEL_BYTES]
    above[1:] = raw[:-1]
    options = np.stack([raw, raw - left, raw - above])
    best = np.abs(options.view(np.int8).astype(np.int32)).sum(axis=2).argmin(axis=0)
    rows = options[best, np.arange(len(raw))]
    return np.concatenate([best[:, None].astype(np.uint8), rows], axis=1).tobytes()


def _unfiltered(rows: np.ndarray) -> np.ndarray:
    result = np.zeros((len(rows), rows.shape[1] - 1), dtype=np.uint8)
    above = np.zeros(rows.shape[1] - 1, dtype=np.uint8)
    for index, row in enumerate(rows):
        above = result[index] = _unfilter_row(int(row[0]), row[1:], above)
    return result


def _unfilter_row(kind: int, row: np.ndarray, above: np.ndarray) -> np.ndarray:
    if kind == NONE:
        return row
    if kind == SUB:  # a running sum of each byte of the pixel, modulo 256
        return np.cumsum(row.reshape(-1, PIXEL_BYTES), axis=0, dtype=np.uint8).reshape(-1)
    if kind == UP:
        return row + above
    if kind not in (AVERAGE, PAETH):
        raise ValueError(f"unknown row filter {kind}")
    return _unfilter_serial(kind, row, above)


def _unfilter_serial(kind: int, row: np.ndarray, above: np.ndarray) -> np.ndarray:
    """The two filters that need the pixel before; our writer does not use them, other tools do."""
    values, up = row.tolist(), above.tolist()
    for i in range(len(values)):
        left = values[i - PIXEL_BYTES] if i >= PIXEL_BYTES else 0
        corner = up[i - PIXEL_BYTES] if i >= PIXEL_BYTES else 0
        guess = (left + up[i]) // 2 if kind == AVERAGE else _paeth(left, up[i], corner)
        values[i] = (values[i] + guess) % 256
    return np.array(values, dtype=np.uint8)


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))
