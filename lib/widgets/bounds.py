"""Controls of notebook 02: a silhouette to paint or load; which solid or silhouette, camera, pixel and depth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import display

from lib.data.silhouette_files import read_silhouette
from lib.errors import InputError
from lib.geometry.distance_transform import distance_transform
from lib.photos import save_upload
from lib.plots.bounds import bound_figure, silhouette_figure
from lib.studies.bounds import BoundScene
from lib.studies.easel import CAMERAS, FILE, SOLIDS, Brush, Easel, scene_of
from lib.widgets.viewer import controlled, dropdown, slider

OWN = "your silhouette"


def paint_controls(easel: Easel) -> dict[str, ipywidgets.ValueWidget]:
    """A silhouette to start from, and a brush; off where a file is shown, which should be seen as it is."""
    return {
        "start": dropdown("start", easel.starts(), easel.start),
        "brush": dropdown("brush", ["paint", "erase", "off"], "off" if easel.start == FILE else "paint"),
        "x": slider("x", 0.78, 0.0, 1.0, 0.02),
        "y": slider("y", 0.26, 0.0, 1.0, 0.02),
        "radius": slider("radius", 0.06, 0.0, 0.5, 0.02),
    }


def draw_painted(easel: Easel) -> Callable[..., Any]:
    """A function of the values of `paint_controls` that paints and draws the `silhouette_figure`."""

    def draw(start: str, brush: str, x: float, y: float, radius: float):
        easel.paint(start, Brush(brush, x, y, radius))
        mask = easel.mask()
        return silhouette_figure(mask, distance_transform(mask))

    return draw


def load_upload(easel: Easel, files: tuple[dict, ...], folder: Path) -> str:
    """What the upload button does: give the easel the file's silhouette; one sentence of what was read or wrong."""
    try:
        path = save_upload(files, folder, "silhouette")
        if path is None:
            return "Choose an image with transparent background, or a black and white one."
        easel.given, source = read_silhouette(path, easel.size)
        return f"The silhouette was read from the image's {source}."
    except InputError as error:
        return f"error: {error}"


def easel_control(easel: Easel, folder: Path) -> Callable[[], None]:
    """Show buttons and `paint_controls` over the painting; returns what draws it again.

    Parameters
    ----------
    folder : Path
        Gets the uploaded image.
    """
    controls, said = paint_controls(easel), ipywidgets.Output()
    upload = ipywidgets.FileUpload(accept="image/*", description="load a file")
    keep, clear = (ipywidgets.Button(description=name) for name in ("keep this touch", "clear touches"))
    display(ipywidgets.VBox([ipywidgets.HBox([upload, keep, clear]), said]))
    redraw = controlled(draw_painted(easel), **controls)

    def load(_=None) -> None:
        before = easel.given
        said.clear_output()
        with said:
            print(load_upload(easel, upload.value, folder))
        if easel.given is not before:
            easel.kept.clear()
            controls["brush"].value = "off"
            controls["start"].options = easel.starts()  # chooses the first, so that what follows is a change
            controls["start"].value = FILE

    def wipe(_=None) -> None:
        easel.kept.clear()
        redraw()

    upload.observe(load, names="value")
    keep.on_click(lambda _: easel.kept.append(easel.brush))
    clear.on_click(wipe)
    return redraw


def bound_controls(
    column: int, row: int, depth: float, size: int = 64, scene: str = "chair of boxes"
) -> dict[str, ipywidgets.ValueWidget]:
    """Solid or own silhouette, camera, pixel and depth."""
    return {
        "scene": dropdown("scene", [*SOLIDS, OWN], scene),
        "camera": dropdown("camera", list(CAMERAS)),
        "column": slider("column", column, 0, size - 1, 1),
        "row": slider("row", row, 0, size - 1, 1),
        "depth": slider("depth", depth, 1.2, 2.4, 0.05),
    }


def chosen_scene(easel: Easel, scene: str, camera: str) -> BoundScene:
    """The scene that the first two of `bound_controls` name."""
    return easel.scene(camera) if scene == OWN else scene_of(scene, camera, easel.size)


def bound_explorer(easel: Easel, controls: dict[str, ipywidgets.ValueWidget]) -> Callable[[], None]:
    """Show `bound_controls` over the `bound_figure`, which follows the easel too; returns what draws it again."""

    def draw(scene: str, camera: str, column: int, row: int, depth: float):
        return bound_figure(chosen_scene(easel, scene, camera), column, row, depth)

    redraw = controlled(draw, **controls)

    def follow() -> None:
        if controls["scene"].value == OWN:
            redraw()

    easel.changed.append(follow)
    return redraw
