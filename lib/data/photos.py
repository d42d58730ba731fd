"""A reader's own photo in, files to keep out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from torch import Tensor

from lib.data.images import INSIDE, FileContent, crop_to_mask, open_image, read_sample_images
from lib.data.photos_reading import MODES
from lib.errors import InputError
from lib.files import write_atomically

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def read_photo(photo: Path | str, mask: Path | str = "", size: int = 64) -> Float[Tensor, "1 size size 3"]:
    """A photo as a system wants it, in [0, 1]: on white, cropped to 1.2 times its mask's box, `size` pixels a side.

    Parameters
    ----------
    photo : path
        RGBA image whose alpha is the mask, or any image together with `mask`.
    mask : path, optional
        White object on black, of the photo's size.

    Raises
    ------
    InputError
        A file cannot be read, the two differ in size, or the mask marks the background.
    """
    rgb, opacity, _ = read_sample_images(Path(photo), Path(mask) if str(mask) else None)
    border = np.concatenate([opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]])
    if str(mask) and (border >= INSIDE).mean() > 0.5:
        raise InputError(f"The mask {mask} marks most of the photo's border; the object must be white, the rest black.")
    cropped, _ = crop_to_mask(rgb, opacity, size=size)
    return torch.tensor(cropped)[None].float() / 255


def save_upload(files: Sequence[dict], folder: Path, name: str) -> Path | None:
    """Write the file that an ``ipywidgets.FileUpload`` holds, upright, as ``folder/name.png``; None without a file.

    Parameters
    ----------
    files : sequence of dict
        The control's value: ``name`` and ``content`` of each file; the last counts. That name is not used as a path.

    Raises
    ------
    InputError
        The file is not an image that can be read, or its colours are those of print.
    """
    if not files:
        return None
    given = files[-1]
    if Path(given["name"]).suffix.lower() not in SUFFIXES:
        raise InputError(f"{given['name']} is not an image file; upload one of {', '.join(SUFFIXES)}.")
    image = open_image(FileContent(bytes(given["content"]), given["name"]))
    if image.mode not in MODES:
        raise InputError(f"The colours of {given['name']} are {image.mode}; convert it to RGB and upload it again.")
    path = folder / f"{name}.png"
    write_atomically(path, lambda temporary: image.save(temporary, "PNG"))
    return path


def write_glb(mesh: trimesh.Trimesh, path: Path | str) -> Path:
    """Write a mesh as GLB, which 3D viewers and Blender open; its up axis becomes y, as that format wants."""
    if len(mesh.faces) == 0:
        raise InputError("There is no surface to write: the system found none in this image.")
    upright = mesh.copy()
    upright.vertices = np.asarray(mesh.vertices)[:, [0, 2, 1]] * [1.0, 1.0, -1.0]
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(upright.export(file_type="glb")))
    return Path(path)
