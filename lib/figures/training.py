"""Curves of a training run, and the same object rendered again and again while it learns."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from lib.figures.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, YELLOW, plain, styled

TERM_COLORS = {
    "rgb": BLUE,
    "mask": ORANGE,
    "normal": GREEN,
    "eikonal": PURPLE,
    "azimuth_prior": RED,
    "mirror": YELLOW,
    "camera_margin": SKY,
    "guess": GREY,
}
NOT_TERMS = ("step", "phase", "loss", "seconds", "beta")
COUNTS = ("rays_", "silhouettes_")
COLUMNS = 5  # panels in a row


def loss_terms(rows: list[dict]) -> list[str]:
    """Names of the losses in a log, in order of appearance."""
    seen = {name: None for row in rows if row["phase"] != "validation" for name in row}
    return [name for name in seen if name not in NOT_TERMS and not name.startswith(COUNTS)]


def series(rows: list[dict], name: str, smooth: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one column of a log, each value the mean of itself and those up to `smooth` - 1 before it.

    Examples
    --------
    >>> rows = [{"step": i, "phase": "training", "loss": float(i)} for i in (1, 2, 3)]
    >>> series(rows, "loss", smooth=2)[1]
    array([1. , 1.5, 2.5])
    """
    values = {row["step"]: row[name] for row in rows if row["phase"] != "validation" and name in row}
    means = pd.Series(values, dtype=float).rolling(max(smooth, 1), min_periods=1).mean()
    return means.index.to_numpy(), means.to_numpy()


def loss_panels(rows: list[dict]) -> dict[str, list[str]]:
    """What to draw together: the sum, then each term with its neighbour's twin."""
    terms = loss_terms(rows)
    own = list(dict.fromkeys(name.removeprefix("neighbor_") for name in terms))
    return {"sum": ["loss"]} | {name: [t for t in (name, f"neighbor_{name}") if t in terms] for name in own}


@styled()
def draw_losses(figure, rows: list[dict], smooth: int = 5):
    """Weighted losses over the steps of training, a panel a term; those of the neighbour are dashed.

    Parameters
    ----------
    figure : matplotlib Figure or SubFigure
        Filled with the panels.
    rows : list of dict
        Of ``log.jsonl``.
    smooth : int
        Each point is the mean of this many logged rows.
    """
    rows = [row for row in rows if row["phase"] == "training"]
    panels = loss_panels(rows)
    columns = min(COLUMNS, len(panels))
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for axis, (title, names) in zip(axes, panels.items(), strict=False):
        for name in names:
            line, label = ("--", "neighbour") if name.startswith("neighbor_") else ("-", "own")
            axis.plot(*series(rows, name, smooth), line, color=TERM_COLORS.get(title, "black"), lw=1.4, label=label)
        axis.set_title(title.replace("_", " "), fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_ylim(bottom=0)
        if len(names) > 1:
            axis.legend(fontsize=7, loc="lower left")
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    axes[0].set_ylabel("weighted loss", fontsize=8.5)


def loss_figure(rows: list[dict], smooth: int = 5):
    """The panels of `draw_losses` as a matplotlib figure."""
    import matplotlib.pyplot as plt

    lines = -(-len(loss_panels([row for row in rows if row["phase"] == "training"])) // COLUMNS)
    figure = plt.figure(figsize=(8.6, 2.1 * lines), layout="constrained")
    draw_losses(figure, rows, smooth)
    return figure


def training_board(
    rows: list[dict], target: list[Float[np.ndarray, "size size 3"]], frames: dict[int, list], shown: int = 8
):
    """Loss curves above, one held-out object below: how the system renders it as training goes on.

    Parameters
    ----------
    rows : list of dict
        Of ``log.jsonl`` so far.
    target : list of images
        What should be seen: the photo and its true normals, in RGB.
    frames : dict
        Step -> images rendered at that step, in the order of `target`.
    shown : int
        Show at most this many frames, evenly chosen.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(8.6, 4.3), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1])
    draw_losses(top, rows)
    steps = sorted(frames)
    chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, min(shown, len(steps))).round().astype(int))]
    axes = bottom.subplots(len(target), shown + 1, squeeze=False)
    for axis in axes.flat:
        plain(axis)
    for column, (title, pictures) in enumerate([("goal", target), *((f"step {s}", frames[s]) for s in chosen)]):
        axes[0, column].set_title(title, fontsize=8)
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            axis.imshow(picture)
    return figure
