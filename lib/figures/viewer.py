"""Controls under which a figure is drawn again, and figures that follow a training run."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
import numpy as np
import torch
import trimesh
from IPython.display import Pretty, display
from jaxtyping import Float
from torch import nn

from lib.data.loading import Batch
from lib.errors import InputError
from lib.figures.maps import normal_colors, on_white_normals
from lib.figures.shapes import draw_mesh, viewpoint_at
from lib.figures.style import image_grid
from lib.figures.training import training_board
from lib.systems.base import Reconstruction


def controlled(draw: Callable[..., Any], **controls: ipywidgets.ValueWidget) -> Callable[[], None]:
    """Show controls, and below them what `draw` returns for their values; draw again when one moves.

    The first figure is an ordinary output of the cell, so it is there without scripts too, and its errors are the
    cell's errors. Later errors appear below the controls; a sentence takes the figure's place, which is out of date.

    Parameters
    ----------
    draw : callable
        Keyword arguments named like the controls -> a matplotlib figure, or anything that can be displayed.
    controls : widgets
        With a `value`.

    Returns
    -------
    callable
        Draws again; what the controls call.
    """
    errors, busy = ipywidgets.Output(), ipywidgets.Label()
    row = ipywidgets.HBox([*controls.values(), busy], layout={"flex_flow": "row wrap"})
    display(ipywidgets.VBox([row, errors]))
    handle = display(closed(draw(**values_of(controls))), display_id=True)

    def redraw(change: Any = None) -> None:
        errors.clear_output()
        busy.value = "drawing …"
        with errors:
            try:
                handle.update(closed(draw(**values_of(controls))))
            except InputError as error:  # what a reader can mend is one sentence, the rest a traceback
                handle.update(Pretty(""))
                print(f"error: {error}")
        busy.value = ""

    for control in controls.values():
        control.observe(redraw, names="value")
    return redraw


@contextmanager
def drawn_once(redraw: Callable[[], None], controls: dict[str, ipywidgets.ValueWidget]) -> Iterator[None]:
    """Set several of the controls of `controlled`, and draw once, after all."""
    for control in controls.values():
        control.unobserve(redraw, names="value")
    try:
        yield
    finally:
        for control in controls.values():
            control.observe(redraw, names="value")
    redraw()


def values_of(controls: dict[str, ipywidgets.ValueWidget]) -> dict[str, Any]:
    """What the controls are set to."""
    return {name: control.value for name, control in controls.items()}


def closed(shown: Any) -> Any:
    """The same object; a matplotlib figure is closed, so that the cell does not show it a second time."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    if isinstance(shown, Figure):
        plt.close(shown)
    return shown


def slider(label: str, value: float, low: float, high: float, step: float, unit: str = ""):
    """A slider that reports when it is let go: pictures take a moment to draw."""
    whole = all(isinstance(number, int) for number in (value, low, high, step))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    name = f"{label} ({unit})" if unit else label
    about = {"description": name, "continuous_update": False, "style": {"description_width": "initial"}}
    if not whole:  # as many digits as a step has
        about["readout_format"] = f".{len(f'{step:g}'.partition('.')[2])}f"
    return kind(value, min=low, max=high, step=step, **about)


def dropdown(label: str, options: list, value: Any = None) -> ipywidgets.Dropdown:
    """A list of values, or of (name, value), to choose from; the first is chosen where no value is given."""
    control = ipywidgets.Dropdown(options=options, description=label, style={"description_width": "initial"})
    if value is not None:
        control.value = value
    return control


def turned_views(shape: Reconstruction, mesh: trimesh.Trimesh, azimuth: float, elevation: float, size: int = 96):
    """What a system predicts from a side that nobody saw: volume-rendered colours and normals, and the mesh.

    Parameters
    ----------
    shape : Reconstruction
        Its first shape is shown.
    azimuth, elevation : float
        Of the camera, degrees.

    Returns
    -------
    matplotlib.figure.Figure
    """
    viewpoint = viewpoint_at(azimuth, elevation).to(shape.viewpoint.distance.device)
    maps = shape.render(viewpoint, image_size=size, samples=48)
    normals = on_white_normals(maps, viewpoint.rotation())[0]
    pictures = [maps.rgb[0].cpu().numpy(), normals, draw_mesh(mesh, viewpoint.to("cpu"), 2 * size)]
    figure = image_grid([pictures], ["rendered", "rendered normals", "mesh"], size=2.3)
    figure.suptitle(f"azimuth {azimuth:g}°, elevation {elevation:g}°", fontsize=10)
    return figure


@dataclass
class Snapshots:
    """A listener of `lib.training.loop.train`: renders the same held-out image every few steps.

    Attributes
    ----------
    batch : Batch
        One sample.
    every : int
        Steps from one frame to the next.
    image_size, samples : int
        Of the rendering: small, since it interrupts training.
    frames : dict
        Step -> [colours, normals in the camera frame as colours], each (size, size, 3) in [0, 1].
    """

    batch: Batch
    every: int
    image_size: int = 48
    samples: int = 32
    frames: dict[int, list[Float[np.ndarray, "size size 3"]]] = field(default_factory=dict)

    def __call__(self, system: nn.Module, row: dict) -> None:
        """Render if enough steps have passed since the last frame."""
        if row["phase"] != "validation" and row["step"] >= max(self.frames, default=-self.every) + self.every:
            self.frames[row["step"]] = self.render(system)

    @torch.no_grad()
    def render(self, system: nn.Module) -> list[Float[np.ndarray, "size size 3"]]:
        """Colours and normals of the sample as the system sees it now; the system is left as it was."""
        was_training = system.training
        system.eval()
        shape = system.reconstruct_batch(self.batch)
        maps = shape.render(image_size=self.image_size, samples=self.samples)
        system.train(was_training)
        return [maps.rgb[0].clamp(0, 1).cpu().numpy(), on_white_normals(maps, shape.viewpoint.rotation())[0]]


class LiveBoard:
    """A listener of `lib.training.loop.train`: the board of `training_board`, drawn again with each new snapshot.

    There is one output, updated in place, so nothing piles up; without a browser the last state is stored.

    Parameters
    ----------
    snapshots : Snapshots
        Takes the frames; its sample, the photo and its normals (white where unknown), is the goal.
    rows : list of dict
        Of the log so far, where a run goes on.
    """

    def __init__(self, snapshots: Snapshots, rows: list[dict] | None = None):
        self.snapshots, self.rows, self.handle = snapshots, list(rows or []), None
        photo, normal = snapshots.batch.rgb[0].cpu().numpy(), snapshots.batch.normal
        self.goal = [photo, np.ones_like(photo) if normal is None else normal_colors(normal[0])]

    def __call__(self, system: nn.Module, row: dict) -> None:
        """Note the row; draw if the snapshots have a new frame."""
        self.rows.append(row)
        before = len(self.snapshots.frames)
        self.snapshots(system, row)
        if len(self.snapshots.frames) > before:
            self.show()

    def show(self) -> None:
        """Draw, in the place of the last drawing."""
        figure = closed(training_board(self.rows, self.goal, self.snapshots.frames))
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
