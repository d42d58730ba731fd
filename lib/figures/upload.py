"""Upload a photo and its mask, and see the shape."""

from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import torch
import trimesh
from IPython.display import display
from jaxtyping import Float
from torch import Tensor, nn

from lib.data.photos import SUFFIXES, read_photo, save_upload, write_glb
from lib.errors import InputError
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import image_grid
from lib.figures.viewer import closed
from lib.geometry.cameras import Viewpoint
from lib.paths import REPOSITORY

TURNS = (0, 60, 120, 180)


def photo_figure(system: nn.Module, images: Float[Tensor, "1 height width 3"], title: str, resolution: int = 64):
    """A photo whose viewpoint nobody knows, and the predicted mesh from its side and from three others.

    Returns
    -------
    matplotlib.figure.Figure
    """
    shape = system.reconstruct(images.to(next(system.parameters()).device))
    return shape_figure(images, shape.mesh(resolution), shape.viewpoint, title)


def shape_figure(images: Float[Tensor, "1 height width 3"], mesh: trimesh.Trimesh, viewpoint: Viewpoint, title: str):
    """`photo_figure` of a mesh that was made already."""
    drawn = [draw_mesh(mesh, facing(viewpoint.to("cpu"), turn)) for turn in TURNS]
    titles = [title, *(f"turned {turn}°" if turn else "as the photo" for turn in TURNS)]
    return image_grid([[images[0].cpu().numpy(), *drawn]], titles, size=1.7)


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
        shape = system.reconstruct(images.to(next(system.parameters()).device))
        mesh = shape.mesh(resolution=100)
        path = write_glb(mesh, folder / "photo.glb")
        shown = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path
        return shape_figure(images, mesh, shape.viewpoint, "your photo"), f"The mesh is in {shown}."
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

    def forget_mask(_=None) -> None:
        masks.value = ()

    without = ipywidgets.Button(description="no mask")
    without.on_click(forget_mask)
    button.on_click(reconstruct)
    display(ipywidgets.VBox([ipywidgets.HBox([photos, masks, without, button]), shown]))
    return reconstruct
