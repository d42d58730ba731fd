"""The look of all figures: colours that everyone can tell apart, small axes, grids of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

# Okabe & Ito (2008): told apart by readers with any kind of colour vision
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW, GREY = "#CC79A7", "#56B4E9", "#F0E442", "#7F7F7F"
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY)
SIGNED = "RdBu_r"  # diverging, for differences
MAGNITUDE = "cividis"  # sequential, for amounts

DEFAULTS = {
    "figure.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "image.interpolation": "nearest",
}


@contextmanager
def styled() -> Iterator[None]:
    """The course's look for the figures that are made inside: ``with styled():``, or ``@styled()`` over a function."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib import cycler

    # A notebook's backend loads with the first figure and then turns interactive drawing on, without which later
    # figures are not shown. Loaded inside the context, it would be turned off again at the context's end.
    plt.draw_if_interactive()
    with mpl.rc_context({**DEFAULTS, "axes.prop_cycle": cycler(color=PALETTE)}):
        yield


@styled()
def image_grid(
    rows: Sequence[Sequence[np.ndarray | None]],
    columns: Sequence[str] = (),
    labels: Sequence[str] = (),
    size: float = 1.5,
    limits: Sequence[tuple[float, float, str] | None] = (),
):
    """Images in rows and columns; returns the matplotlib figure.

    Parameters
    ----------
    rows : sequence of sequences
        RGB (H, W, 3) in [0, 1], scalar maps (H, W), or None for an empty place.
    columns, labels : sequences of str
        Titles above the columns and left of the rows; may be short or empty.
    size : float
        Side of an image in inches.
    limits : sequence, optional
        For each column the range and the colour map of its scalar maps, and a colour bar below it; None: grey, 0 to 1.
    """
    import matplotlib.pyplot as plt

    count = max(len(row) for row in rows)
    side = (size * count + 0.6, size * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), count, figsize=side, squeeze=False, layout="constrained")
    for axis in axes.flat:
        plain(axis)
    shown = [_show_row(line, row, limits) for line, row in zip(axes, rows, strict=True)]
    for axis, title in zip(axes[0], columns, strict=False):
        axis.set_title(title, fontsize=9.5)
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(label, fontsize=9.5)
    for column, limit in zip(range(count), limits, strict=False):
        drawn = [row[column] for row in shown if column < len(row) and row[column] is not None]
        if limit and drawn:
            figure.colorbar(drawn[-1], ax=axes[:, column], location="bottom", shrink=0.85, pad=0.02)
    return figure


def plain(axis):
    """An axis for an image: no ticks, no frame, no grid; its labels stay."""
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis


def _show_row(axes, images, limits) -> list:
    padded = [*limits, *[None] * (len(images) - len(limits))]
    return [_show(axis, image, limit) for axis, image, limit in zip(axes, images, padded, strict=False)]


def _show(axis, image, limit):
    if image is None:
        return None
    low, high, colors = limit or (0, 1, "gray")
    drawn = axis.imshow(np.clip(image, 0, 1) if np.ndim(image) == 3 else image, vmin=low, vmax=high, cmap=colors)
    return drawn if np.ndim(image) == 2 else None
