"""Figures of notebook 05: normals in two frames, outliers and their dropout, losses against the viewpoint."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from lib.data.loading import Batch
from lib.figures.style import BLUE, GREY, ORANGE, RED, image_grid, styled
from lib.losses.normal import to_canonical
from lib.studies.outliers import Corruption, Ranking


def frames_figure(batch: Batch, rendered: Float[torch.Tensor, "batch height width 3"]):
    """A row an image: the image, its normals as estimated (camera frame), turned (canonical), and rendered."""
    canonical = to_canonical(batch.normal.flatten(1, 2), batch.viewpoint.rotation()).view_as(batch.normal)
    rows = [
        [batch.rgb[i].numpy(), _normals(batch.normal[i]), _normals(canonical[i]), _normals(rendered[i])]
        for i in range(len(batch.rgb))
    ]
    return image_grid(rows, ["image", "camera frame", "canonical frame", "rendered, canonical"])


def error_figure(
    batch: Batch,
    rendered: Float[torch.Tensor, "batch height width 3"],
    loss: Float[torch.Tensor, "batch height width"],
):
    """A row an image: the image, the rendered normals, and the loss of Eq. 4 at every pixel that both show."""
    rows = [[batch.rgb[i].numpy(), _normals(rendered[i]), loss[i].numpy()] for i in range(len(loss))]
    return image_grid(rows, ["image", "rendered normals", "normal loss"], limits=[None, None, (0.0, 6.0, "cividis")])


@styled()
def dropout_figure(batch: Batch, corruption: Corruption, ranked: Ranking, keep: float, shown: Sequence[int]):
    """Histogram of 1 - cos over the minibatch with the cut, and for some images what was wrong and what was dropped."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(shown) + 2, figsize=(8.4, 3.4), layout="constrained")
    grid = axes[0, 0].get_gridspec()
    for axis in axes[:, :2].flat:
        axis.remove()
    _draw_histogram(figure.add_subplot(grid[:, :2]), ranked, keep)
    dropped = torch.zeros_like(ranked.place)
    dropped[ranked.place] = ranked.dropped(keep)
    for column, i in zip(axes[:, 2:].T, shown, strict=True):
        column[0].imshow(_normals(corruption.normal[i]))
        column[1].imshow(_verdicts(batch.mask[i] > 0.5, corruption.wrong[i], dropped[i], ranked.place[i]))
        for axis in column:
            axis.set_axis_off()
    axes[0, 2].set_title("normals, some wrong", fontsize=8.5, loc="left")
    axes[1, 2].set_title("dropped: orange right, blue by mistake;\nred: wrong, but kept", fontsize=8.5, loc="left")
    return figure


@styled()
def quality_figure(ranked: Ranking, keeps: Sequence[float]):
    """Precision and recall of the dropped pixels, and what is still wrong among the kept, against the kept share."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    precision, recall = zip(*(ranked.quality(keep) for keep in keeps), strict=True)
    axis.plot(keeps, precision, "o-", label="dropped pixels that are wrong (precision)")
    axis.plot(keeps, recall, "s-", label="wrong pixels that are dropped (recall)")
    axis.plot(keeps, [ranked.wrong_share(keep) for keep in keeps], "^-", color=RED, label="kept pixels that are wrong")
    axis.axvline(0.8, color=GREY, linestyle=":", label="released code: keep 0.8")
    axis.set(xlabel="share of pixels kept", ylabel="share", ylim=(0, 1.02))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@styled()
def slope_figure(turns: Float[np.ndarray, " n"], values: Float[np.ndarray, " n"], slopes: Float[np.ndarray, " n"]):
    """A loss against a wrong azimuth; arrows show where gradient descent would move it."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.6, 3), layout="constrained")
    axis.plot(turns, values, color=BLUE)
    largest = np.abs(slopes).max()
    for turn, value, slope in zip(turns[::2], values[::2], slopes[::2], strict=True):
        step = -slope / largest * 40
        arrow = {"arrowstyle": "->", "color": ORANGE, "linewidth": 1.4}
        axis.annotate("", xy=(turn + step, value), xytext=(turn, value), arrowprops=arrow)
    axis.axvline(0, color=GREY, linestyle=":")
    axis.set(xlabel="azimuth minus the true one (degrees)", ylabel="normal loss (Eq. 4)", xticks=range(-180, 181, 45))
    return figure


@styled()
def basin_figure(turns: Float[np.ndarray, " n"], losses: dict[str, np.ndarray], shares: dict[str, np.ndarray]):
    """Mean loss over images, and the share of images that come home, against the error the azimuth starts with."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
    for (name, loss), color in zip(losses.items(), (BLUE, ORANGE), strict=True):
        spread = loss / loss.max(axis=1, keepdims=True)
        axes[0].plot(turns, spread.mean(axis=0), color=color, label=name)
        axes[1].plot(turns, shares[name], color=color, label=name)
    for axis in axes:
        axis.axvline(0, color=GREY, linestyle=":")
        axis.set(xlabel="azimuth minus the true one (degrees)", xticks=range(-180, 181, 90))
    axes[0].set(ylabel="mean loss (largest = 1)")
    axes[1].set(ylabel="share of images that come home", ylim=(-0.02, 1.02))
    axes[0].legend()
    return figure


def _draw_histogram(axis, ranked: Ranking, keep: float):
    bins = np.linspace(0, 2, 41)
    right, wrong = ranked.angular[~ranked.wrong].numpy(), ranked.angular[ranked.wrong].numpy()
    axis.hist([right, wrong], bins, stacked=True, color=[GREY, RED], label=["good normals", "wrong normals"])
    kept = ranked.angular[~ranked.dropped(keep)]
    axis.axvline(float(kept.max()), color=ORANGE, label=f"cut: keep {keep:.0%}")
    axis.set(xlabel="1 - cos between rendered and given normal", ylabel="pixels of the minibatch", yscale="log")
    axis.legend()


def _verdicts(inside, wrong, dropped, place) -> Float[np.ndarray, "height width 3"]:
    picture = np.ones((*inside.shape, 3))
    colors = [(inside, "#D9D9D9"), (dropped & ~wrong, BLUE), (wrong & place & ~dropped, RED), (dropped & wrong, ORANGE)]
    for where, color in colors:
        picture[where.numpy()] = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return picture


def _normals(normal: torch.Tensor) -> Float[np.ndarray, "height width 3"]:
    """Red, green and blue for x, y and z of whichever frame; white where there is no normal."""
    seen = normal.norm(dim=-1, keepdim=True).numpy() > 0.1
    return np.where(seen, (normal.numpy() + 1) / 2, 1.0).clip(0, 1)
