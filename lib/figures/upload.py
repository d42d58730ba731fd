"""Upload a photo and its mask, and see the shape."""

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import torch
from IPython.display import display
from jaxtyping import Float
from torch import Tensor, nn

from lib.data.photos import SUFFIXES, read_photo, save_upload, write_glb
from lib.errors import InputError
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import image_grid
from lib.figures.viewer import closed
from lib.systems.base import Reconstruction

TURNS = (0, 60, 120, 180)


def photo_figure(system: nn.Module, images: Float[Tensor, "1 height width 3"], title: str, resolution: int = 64):
    """A photo, and the predicted mesh from its side and from three others; returns the matplotlib figure."""
    return shape_figure(images, reconstruct_photo(system, images), title, resolution)


def reconstruct_photo(system: nn.Module, images: Float[Tensor, "1 height width 3"]) -> Reconstruction:
    """The shape of one image whose viewpoint nobody knows."""
    return system.reconstruct(images.to(next(system.parameters()).device))


def shape_figure(images: Float[Tensor, "1 height width 3"], shape: Reconstruction, title: str, resolution: int = 64):
    """`photo_figure` of a shape that is there already."""
    mesh, view = shape.mesh(resolution), shape.viewpoint.to("cpu")
    pictures = [images[0].cpu().numpy(), *(draw_mesh(mesh, facing(view, turn)) for turn in TURNS)]
    return image_grid([pictures], [title, *(f"turned {turn}°" if turn else "as the photo" for turn in TURNS)], size=1.7)


def shape_of_uploads(
    system: nn.Module, photos: Sequence[dict], masks: Sequence[dict], folder: Path, size: int = 64
) -> tuple[object, str]:
    """What the upload control does: read, reconstruct, write ``photo.glb``.

    Parameters
    ----------
    photos, masks : sequence of dict
        Values of two ``ipywidgets.FileUpload``.
    folder : Path
        Gets the uploaded images and the mesh.

    Returns
    -------
    figure or None, str
        What to show, and one sentence: where the mesh is, what is missing, or what was wrong.
    """
    try:
        photo, mask = save_upload(photos, folder, "photo"), save_upload(masks, folder, "photo-mask")
        if photo is None:
            return None, "Choose a photo: an image with transparent background, or any image together with a mask."
        images = read_photo(photo, mask or "", size)
        shape = reconstruct_photo(system, images)
        path = write_glb(shape.mesh(100), folder / "photo.glb")
        return shape_figure(images, shape, "your photo"), f"The mesh is in {path}."
    except InputError as error:
        return None, f"error: {error}"


def upload_button(label: str) -> ipywidgets.FileUpload:
    """A button that offers the files which `save_upload` takes."""
    return ipywidgets.FileUpload(accept=",".join(SUFFIXES), description=label)


def upload_control(system: nn.Module, folder: Path, size: int = 64) -> Callable[[object], None]:
    """Show two upload buttons and one that reconstructs; returns what that button calls."""
    photos, masks = upload_button("photo"), upload_button("mask")
    button = ipywidgets.Button(description="reconstruct", button_style="primary")
    shown = ipywidgets.Output()

    def reconstruct(_=None) -> None:
        shown.clear_output(wait=True)
        with shown, torch.no_grad():
            figure, sentence = shape_of_uploads(system, photos.value, masks.value, folder, size)
            if figure is not None:
                display(closed(figure))
            print(sentence)

    button.on_click(reconstruct)
    display(ipywidgets.VBox([ipywidgets.HBox([photos, masks, button]), shown]))
    return reconstruct
