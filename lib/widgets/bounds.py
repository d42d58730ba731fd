"""Controls of notebook 02: a silhouette to paint or load; which solid or silhouette, camera, pixel and depth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import display

from lib.data.photos import save_upload
from lib.data.silhouette_files import read_silhouette
from lib.errors import InputError
from lib.figures.upload import upload_button
from lib.figures.viewer import controlled, drawn_once, dropdown, slider, values_of
from lib.geometry.distance_transform import distance_transform
from lib.plots.bounds import bound_figure, cone_scene, silhouette_figure
from lib.studies.bounds import BoundScene
from lib.studies.easel import CAMERAS, FILE, SOLIDS, Brush, Easel, scene_of

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
        mask = easel.usable_mask()
        return silhouette_figure(mask, distance_transform(mask))

    return draw


def load_upload(easel: Easel, files: tuple[dict, ...], folder: Path) -> str:
    """What the upload button does: give the easel the file's silhouette; one sentence of what was read or wrong."""
    name = files[-1]["name"]
    try:
        easel.given, source = read_silhouette(save_upload(files, folder, "silhouette"), easel.size, name)
        return f"The silhouette was read from the {source} of {name}."
    except InputError as error:
        return f"error: {error}"


def touches(easel: Easel) -> str:
    """One sentence: how many touches are kept, and whether there is one to keep."""
    count = len(easel.kept)
    off = " The brush is off: it leaves no touch." if easel.brush.kind == "off" else ""
    return f"{count} touch{' is' if count == 1 else 'es are'} kept.{off}"


def easel_control(easel: Easel, folder: Path) -> Callable[[], None]:
    """Show buttons and `paint_controls` over the painting; returns what draws it again.

    Parameters
    ----------
    folder : Path
        Gets the uploaded image.
    """
    controls, said = paint_controls(easel), ipywidgets.Output()
    upload = upload_button("load a file")
    keep, clear = (ipywidgets.Button(description=name) for name in ("keep this touch", "clear touches"))
    display(ipywidgets.VBox([ipywidgets.HBox([upload, keep, clear]), said]))
    redraw = controlled(draw_painted(easel), **controls)

    def say(sentence: str = "") -> None:
        said.clear_output()
        with said:
            print(sentence, end="\n" if sentence else "")

    def load(_) -> None:
        files, upload.value = upload.value, ()  # else the same file, perhaps mended, is no change and does nothing
        if not files:
            return
        before, sentence = easel.given, load_upload(easel, files, folder)
        if easel.given is not before:
            easel.kept.clear()
            with drawn_once(redraw, controls):
                controls["brush"].value = "off"
                controls["start"].options = easel.starts()
                controls["start"].value = FILE
        say(sentence)

    def stay(_) -> None:
        easel.keep()
        say(touches(easel))

    def wipe(_) -> None:
        easel.kept.clear()
        with drawn_once(redraw, controls):
            controls["brush"].value = "off"
        say(touches(easel))

    upload.observe(load, names="value")
    controls["start"].observe(lambda _: say(), names="value")
    keep.on_click(stay)
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
    """Show `bound_controls` over the `bound_figure`, which follows the easel too; returns what draws it again.

    A painted silhouette that cannot be used is said in one sentence, and a solid is shown instead.
    """
    try:
        chosen_scene(easel, controls["scene"].value, controls["camera"].value)
    except InputError as error:
        print(f"error: {error}")
        controls["scene"].value = next(iter(SOLIDS))

    def draw(scene: str, camera: str, column: int, row: int, depth: float):
        return bound_figure(chosen_scene(easel, scene, camera), column, row, depth)

    redraw = controlled(draw, **controls)

    def follow() -> None:
        if controls["scene"].value == OWN:
            redraw()

    easel.changed = [follow]  # not an explorer of the same cell that was run before, which nobody sees
    return redraw


def turned_cone(easel: Easel, controls: dict[str, ipywidgets.ValueWidget]):
    """The `cone_scene` of what `bound_controls` are set to; or one sentence printed, and None."""
    values = values_of(controls)
    try:
        scene = chosen_scene(easel, values["scene"], values["camera"])
    except InputError as error:
        print(f"error: {error}")
        return None
    return cone_scene(scene, values["column"], values["row"], values["depth"])
