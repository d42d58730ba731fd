"""Upload a photo and its mask, or take a network's mask, and see the shape."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets
import numpy as np
import torch
import trimesh
from IPython.display import display
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from lib.data.images import INSIDE, crop_to_mask, open_image
from lib.data.photos import SUFFIXES, read_photo, save_upload, write_glb
from lib.data.silhouettes import find_silhouette, load_silhouette_model
from lib.errors import InputError
from lib.figures.shapes import draw_mesh, facing
from lib.figures.style import image_grid
from lib.figures.viewer import closed
from lib.geometry.cameras import Viewpoint
from lib.paths import REPOSITORY

TURNS = (0, 60, 120, 180)
MASK_NAME = "mask-of-the-network.png"
RUN_FOLDER = "the folder of this notebook's results"


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
    """What the upload control does with a photo and its mask: read, reconstruct, write ``photo.glb``.

    Parameters
    ----------
    photos, masks : sequence of dict
        Values of two ``ipywidgets.FileUpload``.
    folder : Path
        Gets the uploaded images and the mesh. The mesh of an earlier photo is removed first.

    Returns
    -------
    figure or None, str
        What to show, and one sentence: where the mesh is, what is missing, or what was wrong.
    """
    (folder / "photo.glb").unlink(missing_ok=True)
    try:
        photo, mask = save_upload(photos, folder, "photo"), save_upload(masks, folder, "photo-mask")
        if photo is None:
            return None, "Choose a photo: an image with transparent background, or any image, with or without a mask."
        images = read_photo(photo, mask or "", size)
        shape = system.reconstruct(images.to(next(system.parameters()).device))
        mesh = shape.mesh(resolution=100)
        path = write_glb(mesh, folder / "photo.glb")
        shown = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else f"{path.name} in {RUN_FOLDER}"
        title = "the example" if "about" in photos[-1] else "your photo"
        return shape_figure(images, mesh, shape.viewpoint, title), f"The mesh is {shown}."
    except InputError as error:
        return None, in_words(error, photos, masks, folder)


def offered_mask(photos: Sequence[dict], folder: Path, size: int = 64) -> tuple[object, str, dict | None] | None:
    """A mask by the shipped network for a photo that has none; None where the photo brings its own.

    Returns
    -------
    figure or None, str, dict or None
        Photo, mask and crop to look at; what to do; and the mask as an upload. Without an object there is no mask.
    """
    try:
        photo = save_upload(photos, folder, "photo")
        if photo is None:
            return None
        image = open_image(photo)
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < INSIDE:
            return None
        name, rgb = photos[-1]["name"], np.asarray(image.convert("RGB"))
        found = find_silhouette(rgb, load_silhouette_model())
        if not found.mask.any() or found.mask.all():
            return None, f"error: {name} comes without a mask, and {next(iter(found.problems.values()))}.", None
        crop, _ = crop_to_mask(rgb, found.mask, size=size)
    except InputError as error:
        return None, in_words(error, photos, (), folder), None
    content = io.BytesIO()
    Image.fromarray(found.mask).save(content, "PNG")
    titles = ("photo", "mask of a network", "what is left")
    figure = image_grid([[rgb / 255, found.mask / 255, crop / 255]], titles, size=2.2)
    doubts = "".join(f" Beware: {sentence}." for sentence in found.problems.values())
    sentence = f"{name} comes without a mask. A network (U-2-Net, small) proposes this one.{doubts}"
    return figure, sentence + " Use it, or load a mask of your own.", {"name": MASK_NAME, "content": content.getvalue()}


def in_words(error: InputError, photos: Sequence[dict], masks: Sequence[dict], folder: Path) -> str:
    """The sentence of an error with the reader's names of files instead of the places where we keep them."""
    sentence = str(error)
    for files, name in ((photos, "photo"), (masks, "photo-mask")):
        if files:
            sentence = sentence.replace(str(folder / f"{name}.png"), files[-1]["name"])
    for place in (folder, REPOSITORY):
        sentence = sentence.replace(f"{place}{os.sep}", "")
    return f"error: {sentence}"


def upload_button(label: str) -> ipywidgets.FileUpload:
    """A button that offers the files which `save_upload` takes."""
    return ipywidgets.FileUpload(accept=",".join(SUFFIXES), description=label)


def upload_control(
    system: nn.Module, folder: Path, size: int = 64, example: dict | None = None
) -> Callable[[object], None]:
    """Show buttons that take a photo and a mask and reconstruct; returns what "reconstruct" calls.

    For a photo without a mask the shipped network's is shown first, and used only if the reader says so.

    Parameters
    ----------
    example : dict, optional
        A photo to try: ``name``, ``content`` and ``about``, the sentence that says what it is.
    """
    photos, masks = upload_button("photo"), upload_button("mask")
    button = ipywidgets.Button(description="reconstruct", button_style="primary")
    without, use = ipywidgets.Button(description="no mask"), ipywidgets.Button(description="use this mask")
    trial, shown = ipywidgets.Button(description="try an example photo"), ipywidgets.Output()
    given: dict[str, Sequence[dict]] = {"photo": (), "offer": ()}

    def show(masks_given: Sequence[dict]) -> None:
        given["offer"], use.layout.display = (), "none"
        shown.clear_output()  # at once: what is shown belongs to an earlier photo
        with shown, torch.no_grad():
            if given["photo"] and "about" in given["photo"][-1]:
                print(given["photo"][-1]["about"])
            offer = None if masks_given else offered_mask(given["photo"], folder, size)
            if offer:
                (folder / "photo.glb").unlink(missing_ok=True)
                figure, sentence, mask = offer
                if mask:
                    given["offer"], use.layout.display = (mask,), ""
            else:
                figure, sentence = shape_of_uploads(system, given["photo"], masks_given, folder, size)
            if figure is not None:
                display(closed(figure))
            print(sentence)

    def choose(files: Sequence[dict]) -> None:
        given["photo"], given["offer"], use.layout.display = files, (), "none"
        shown.clear_output()
        if files:  # a sign that the upload is over, and of which photo is next
            with shown:
                print(f"{files[-1]['name']} is here ({len(files[-1]['content']) / 1e6:.1f} MB): now press reconstruct.")

    def try_example(_=None) -> None:
        photos.value = masks.value = ()
        choose((example,))
        show(())

    def reconstruct(_=None) -> None:
        show(masks.value)

    photos.observe(lambda change: choose(change["new"]), names="value")
    trial.on_click(try_example)
    without.on_click(lambda _: setattr(masks, "value", ()))
    use.on_click(lambda _: show(given["offer"]))
    button.on_click(reconstruct)
    use.layout.display = "none"
    buttons = [photos, masks, without, button, *([trial] if example else [])]
    display(ipywidgets.VBox([ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"}), shown, use]))
    return reconstruct
