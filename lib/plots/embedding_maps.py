"""An embedding in pictures: a map of all images, drawn or under the pointer, and what a text finds (notebook 01)."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from PIL import Image

from lib.figures.style import PALETTE, plain, styled
from lib.studies.retrieval import Pictures

Line = tuple[
    str, Sequence[int] | np.ndarray, Sequence[str]
]  # what stands before images, their rows, what stands above each

THUMBNAIL = 32  # pixels a side in the map
MAP_STYLE = (
    ".nbmap{position:relative;max-width:100%;background:#fff;margin:50px}"
    ".nbmap i{position:absolute;width:11px;height:11px;margin:-5px;border-radius:6px;opacity:.75}"
    ".nbmap i:hover{z-index:9;opacity:1;outline:2px solid #000}"
    ".nbmap img{display:none;position:absolute;left:-38px;bottom:14px;width:88px;max-width:none;pointer-events:none;"
    "border:1px solid #888;background:#fff}"
    ".nbmap i:hover img{display:block}"
)


@styled()
def map_figure(pictures: Pictures, places: Float[np.ndarray, "images 2"], rows: Sequence[int]):
    """Every image as a dot in its category's colour, and the images of some rows at their places."""
    import matplotlib.pyplot as plt
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    figure, axis = plt.subplots(figsize=(7.6, 6.2), layout="constrained")
    plain(axis)
    for category, color in category_colors(pictures).items():
        own = pictures.labels("category") == category
        axis.plot(*places[own].T, "o", ms=4, color=color, alpha=0.6, label=category)
    for row in rows:
        image = pictures.rgb[row].copy()
        clear = np.dstack([image, np.where((image > 250).all(axis=-1), 0, 255).astype(np.uint8)])
        axis.add_artist(AnnotationBbox(OffsetImage(clear, zoom=30 / len(image)), places[row], frameon=False))
    axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    axis.legend(loc="lower left", bbox_to_anchor=(1, 0))
    return figure


def hover_map(pictures: Pictures, places: Float[np.ndarray, "images 2"], rows: Sequence[int], side: int = 560) -> str:
    """The map as HTML whose points show their picture under the pointer: elements and style, no script, no network.

    Parameters
    ----------
    rows : sequence of int
        Images that are drawn; about 1.5 kB each.
    side : int
        Pixels of the map.
    """
    colors = category_colors(pictures)
    categories, models = pictures.labels("category"), pictures.labels("model")
    points = "".join(
        f'<i style="left:{places[row, 0]:.1%};top:{1 - places[row, 1]:.1%};background:{colors[categories[row]]}">'
        f'<img src="{thumbnail(pictures.rgb[row])}" alt="{_escape(models[row])}" title="{_escape(models[row])}"></i>'
        for row in rows
    )
    keys = "".join(f'<span style="color:{c}">&#9679;</span> {_escape(name)} &nbsp; ' for name, c in colors.items())
    frame = f"width:{side}px;height:{side}px"
    return f'<div><style>{MAP_STYLE}</style><div class="nbmap" style="{frame}">{points}</div><div>{keys}</div></div>'


def thumbnail(rgb, side: int = THUMBNAIL) -> str:
    """A small JPEG of an 8-bit image as a data URL."""
    stream = io.BytesIO()
    Image.fromarray(np.asarray(rgb)).resize((side, side), Image.Resampling.BOX).save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def category_colors(pictures: Pictures) -> dict[str, str]:
    """A colour for each category; more than there are colours begin again."""
    names = sorted(set(pictures.labels("category")))
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(names)}


@styled()
def text_figure(pictures: Pictures, lines: Sequence[Line], size: float = 1.1):
    """What texts find: a line a text, of images with a title each.

    Parameters
    ----------
    lines : sequence of `Line`
        See `found_lines`; they may differ in length.
    """
    import matplotlib.pyplot as plt

    count = max(len(rows) for _, rows, _ in lines)
    side = (size * count + 2.6, (size + 0.25) * len(lines))
    figure, axes = plt.subplots(len(lines), count, figsize=side, squeeze=False, layout="constrained")
    for axis in axes.flat:
        plain(axis)
    for drawn, (label, rows, titles) in zip(axes, lines, strict=True):
        for axis, row, title in zip(drawn, rows, titles, strict=False):
            axis.imshow(pictures.rgb[row])
            axis.set_title(title, fontsize=8)
        drawn[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
    return figure


def found_lines(rows, scores, shares: pd.DataFrame) -> list[Line]:
    """Lines of `text_figure` for what texts found (`lib.studies.text_search`): similarities, and captions counted."""
    lines = []
    for (text, share), found, values in zip(shares.iterrows(), rows, scores, strict=True):
        counted = f"\n{share['found']:.0%} by caption, chance {share['chance']:.0%}"
        counted = "\nin no caption" if share["chance"] == 0 else "" if np.isnan(share["chance"]) else counted
        lines.append((f"“{text}”{counted}", np.asarray(found).tolist(), [f"{value:.2f}" for value in values]))
    return lines


def _escape(text: str) -> str:
    return html.escape(str(text), quote=True)
