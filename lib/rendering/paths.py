"""Which way to render."""

from typing import Literal, get_args

from lib.errors import InputError
from lib.rendering.compiling import can_compile

RenderPath = Literal["auto", "plain", "fast", "compiled"]
LONG_RUN = 3e8  # points rendered in training: below, compiling costs more than it saves
LARGE_STEP = 200_000  # points rendered in a step: above, the plain renderer needs gigabytes


def choose_render_path(setting: str, points: float = 0, steps: int = 1, device: str = "cpu") -> RenderPath:
    """What "auto" stands for; any other setting is itself.

    The choice depends on the machine and the plan of the run, never on the clock, so that a run can be repeated.

    Parameters
    ----------
    points : float
        Rendered in a training step.
    steps : int
        Of the run.

    Raises
    ------
    InputError
        An unknown setting.
    """
    if setting not in get_args(RenderPath):
        raise InputError(f"render_path: {setting!r} is none of 'auto', 'plain', 'fast', 'compiled'")
    if setting != "auto":
        return setting
    if points * steps >= LONG_RUN and can_compile(device):
        return "compiled"
    return "fast" if points >= LARGE_STEP else "plain"
