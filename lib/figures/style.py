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

    count = max(len(images) for images in rows)
    limits = [*limits, *[None] * (count - len(limits))]
    side = (size * count + 0.6, size * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), count, figsize=side, squeeze=False, layout="constrained")
    scalar_maps = {}  # column -> the last one in it
    for line, images in zip(axes, rows, strict=True):
        for axis in line:
            plain(axis)
        for column, image in enumerate(images):
            if image is None:
                continue
            if np.ndim(image) == 3:
                line[column].imshow(np.clip(image, 0, 1))
            else:
                low, high, colors = limits[column] or (0, 1, "gray")
                scalar_maps[column] = line[column].imshow(image, vmin=low, vmax=high, cmap=colors)
    for axis, title in zip(axes[0], columns, strict=False):
        axis.set_title(title, fontsize=9.5)
    for axis, label in zip(axes[:, 0], labels, strict=False):
        axis.set_ylabel(label, fontsize=9.5)
    for column, scalar_map in scalar_maps.items():
        if limits[column]:
            figure.colorbar(scalar_map, ax=axes[:, column], location="bottom", shrink=0.85, pad=0.02)
    return figure


def plain(axis):
    """An axis for an image: no ticks, no frame, no grid; its labels stay."""
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return axis
