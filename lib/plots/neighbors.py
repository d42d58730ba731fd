"""Neighbours in pictures: queries and what is near them, and how much they have in common (notebook 01)."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from lib.figures.style import BLUE, GREY, ORANGE, PALETTE, plain, styled
from lib.studies.retrieval import Pictures

MARKS = {"same model": ORANGE, "same category": BLUE, "other category": "0.6"}
LINES = ("-", "--", "-.", ":")
Found = tuple[Sequence[int] | np.ndarray, Sequence[float] | np.ndarray]  # rows of neighbours, -1: none; similarities


@styled()
def neighbor_sheet(pictures: Pictures, query: int, found: Mapping[str, Found], size: float = 1.25):
    """A query and its neighbours, a row an embedding; the frame says what a neighbour shares with the query.

    Parameters
    ----------
    found : mapping
        Embedding -> rows of the neighbours and their cosine similarities.
    size : float
        Side of an image in inches.

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib.pyplot as plt

    count = max(len(rows) for rows, _ in found.values())
    side = (size * (count + 1) + 1.1, (size + 0.3) * len(found) + 0.5)
    figure, axes = plt.subplots(len(found), count + 1, figsize=side, squeeze=False, layout="constrained")
    for line, (name, (rows, scores)) in zip(axes, found.items(), strict=True):
        for axis in line:
            plain(axis)
        line[0].imshow(pictures.rgb[query])
        line[0].set_ylabel(name.replace("_", "\n"), fontsize=8.5, rotation=0, ha="right", va="center")
        for axis, row, score in zip(line[1:], map(int, rows), map(float, scores), strict=False):
            if row >= 0:
                axis.imshow(pictures.rgb[row])
                axis.set_title(_title(pictures, row, score), fontsize=8)
                _frame(axis, MARKS[relation(pictures, query, row)])
    axes[0, 0].set_title(f"query{_side(pictures, query)}", fontsize=8)
    handles = [plt.Line2D([], [], color=color, lw=3, label=name) for name, color in MARKS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def relation(pictures: Pictures, query: int, row: int) -> str:
    """A key of `MARKS`: what two images share."""
    models, categories = pictures.labels("model"), pictures.labels("category")
    if models[row] == models[query]:
        return "same model"
    return "same category" if categories[row] == categories[query] else "other category"


@styled()
def match_figure(table: pd.DataFrame, chance: Mapping[str, float], published: Mapping[str, float]):
    """Shares of neighbours that show the query's model, best first, with intervals, chance and the paper's values.

    Parameters
    ----------
    table : DataFrame
        Indexed by embedding, with share, low and high in [0, 1].
    chance : mapping
        Name -> share of neighbours drawn at random.
    published : mapping
        Name -> share, measured on other data.
    """
    import matplotlib.pyplot as plt

    ours = table.sort_values("share")
    names = [*published, *ours.index]
    figure, axis = plt.subplots(figsize=(7.6, 0.36 * len(names) + 1.0), layout="constrained")
    low, high = 100 * (ours["share"] - ours["low"]), 100 * (ours["high"] - ours["share"])
    places = np.arange(len(published), len(names))
    axis.errorbar(100 * ours["share"], places, xerr=[low, high], fmt="o", color=BLUE, capsize=3)
    axis.plot([100 * v for v in published.values()], range(len(published)), "D", mfc="white", color=GREY)
    for place, value in enumerate([*published.values(), *ours["share"]]):
        axis.annotate(f"{100 * value:.1f}", (100 * value, place), (0, 6), textcoords="offset points", ha="center")
    for (name, value), style in zip(chance.items(), LINES[1:], strict=False):
        axis.axvline(100 * value, color=ORANGE, ls=style, lw=1.2, label=f"{name}: {100 * value:.1f}")
    axis.axhline(len(published) - 0.5, color="0.8", lw=0.8)
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 100), ylim=(-0.6, len(names) - 0.3))
    axis.set_xlabel("neighbours that show the query's model (%)")
    axis.legend(loc="lower right")
    return figure


@styled()
def distance_figure(rows: pd.DataFrame, distances: pd.DataFrame):
    """Chamfer distances between queries and others: every query's mean as a dot, the mean with its interval.

    Parameters
    ----------
    rows : DataFrame
        Of `lib.studies.retrieval.distance_rows`.
    distances : DataFrame
        Of `lib.studies.retrieval.shape_distances`.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.6, 0.42 * len(rows) + 0.9), layout="constrained")
    spread = np.random.default_rng(0)
    for place, (kind, row) in enumerate(rows[::-1].iterrows()):
        values = 10 * distances[distances["kind"] == kind].groupby("query")["distance"].mean()
        axis.plot(values, place + spread.uniform(-0.18, 0.18, len(values)), ".", ms=3.5, color="0.75")
        mean, low, high = 10 * row["distance"], 10 * row["low"], 10 * row["high"]
        color = GREY if kind.startswith("random,") else BLUE
        axis.errorbar([mean], [place], xerr=[[mean - low], [high - mean]], fmt="o", capsize=3, color=color)
        axis.annotate(f"{mean:.2f}", (mean, place), (0, 6), textcoords="offset points", ha="center")
    axis.set(yticks=range(len(rows)), yticklabels=rows.index[::-1], ylim=(-0.6, len(rows) - 0.3), xlim=(0, None))
    axis.set_xlabel("10 x Chamfer distance to the query's shape (1 = longest side)")
    return figure


@styled()
def robustness_figure(curves: Mapping[str, pd.DataFrame]):
    """Similarity of two images of one object, and of two objects, against the angle between the cameras.

    Parameters
    ----------
    curves : mapping
        Embedding -> `lib.studies.robustness.similarity_curves`.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(2.3 * len(curves) + 0.6, 3.1), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, (name, table) in zip(axes[0], curves.items(), strict=True):
        for kind, color in (("same object", BLUE), ("other object", ORANGE)):
            _band(axis, table[table["kind"] == kind].set_index("angle"), "similarity", color, kind)
        other = table[table["kind"] == "other object"]
        if len(other):
            axis.axhline(other["similarity"].iloc[0], color=ORANGE, lw=0.8, ls=":")
        axis.set_title(name)
        axis.set(xlim=(0, 180), xticks=[0, 60, 120, 180], xlabel="angle between cameras (°)")
    axes[0, 0].set_ylabel("cosine similarity")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@styled()
def preference_figure(curves: Mapping[str, pd.DataFrame]):
    """How often the turned object beats another object seen from the query's side (`preference_curve`)."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.8, 3.1), layout="constrained")
    for (name, table), color, style in zip(curves.items(), PALETTE * 2, LINES * 4, strict=False):
        _band(axis, table.set_index("angle"), "preference", color, name, style)
    axis.axhline(0.5, color="0.4", lw=1, label="no preference")
    axis.set(xlim=(0, 180), ylim=(0, 1.02), xlabel="by how much the object is turned (°)", xticks=range(0, 181, 30))
    axis.set_ylabel("own object preferred (share)")
    axis.legend(loc="lower left", bbox_to_anchor=(1, 0))
    return figure


@styled()
def spread_figure(differences: Mapping[str, Float[np.ndarray, "..."]]):
    """How far round the object the cameras of neighbours stand: cumulative shares, a line each.

    Parameters
    ----------
    differences : mapping
        Name -> azimuth differences in degrees; names that begin with "random," are drawn grey.
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.8, 3.1), layout="constrained")
    steps = np.linspace(0, 180, 91)
    colors = iter(PALETTE * 2)
    for place, (name, values) in enumerate(differences.items()):
        known = np.sort(values[np.isfinite(values)])
        share = np.searchsorted(known, steps, side="right") / len(known)
        color, style = ("0.5", "-") if name.startswith("random,") else (next(colors), LINES[place % 4])
        axis.plot(steps, 100 * share, color=color, ls=style, lw=2, label=f"{name}: {100 * (known > 45).mean():.0f} %")
    axis.axvspan(0, 45, color="0.95", zorder=0)
    axis.annotate("known side", (22, 97), ha="center", va="top", fontsize=8, color="0.35")
    axis.set(xlim=(0, 180), ylim=(0, 100), xticks=range(0, 181, 45), xlabel="azimuth between query and neighbour (°)")
    axis.set_ylabel("neighbours up to there (%)")
    axis.legend(title="more than 45° away", loc="lower left", bbox_to_anchor=(1, 0))
    return figure


@styled()
def sweep_figure(panels: Mapping[str, Mapping[str, pd.DataFrame]], references: Mapping[str, float]):
    """What changes with K: a panel a measure, a line with its band an embedding.

    Parameters
    ----------
    panels : mapping
        Label of the measure -> embedding -> value, low, high, indexed by K (`lib.studies.retrieval.sweep`).
    references : mapping
        Label of the measure -> its value for random neighbours.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 0.6, 2.9), squeeze=False)
    figure.set_layout_engine("constrained")
    for axis, (label, lines) in zip(axes[0], panels.items(), strict=True):
        for (name, values), color, style in zip(lines.items(), PALETTE * 2, LINES * 4, strict=False):
            _band(axis, values, "value", color, name, style)
        if label in references:
            axis.axhline(references[label], color=GREY, lw=1, ls=":", label="random")
        axis.set(xlabel="K", xscale="log", ylabel=label)
        ticks = next(iter(lines.values())).index
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure


@styled()
def wishes_figure(rows: pd.DataFrame):
    """Both wishes at once: neighbours should have the query's shape (low) and show another side of it (right).

    Parameters
    ----------
    rows : DataFrame
        Indexed by kind, with distance, low, high, and new_side, new_side_low, new_side_high in [0, 1].
    """
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.8, 3.4), layout="constrained")
    colors = iter(PALETTE * 2)
    for kind, row in rows.iterrows():
        x, y = 100 * row["new_side"], 10 * row["distance"]
        across = [[x - 100 * row["new_side_low"]], [100 * row["new_side_high"] - x]]
        along = [[y - 10 * row["low"]], [10 * row["high"] - y]]
        color = GREY if kind.startswith("random,") else next(colors)
        axis.errorbar([x], [y], xerr=across, yerr=along, fmt="o", color=color, capsize=2, lw=1, label=kind)
    axis.annotate("what we want", (0.97, 0.04), xycoords="axes fraction", ha="right", color="0.35", style="italic")
    axis.set(xlabel="neighbours that show another side (%)", ylabel="10 x CD to the query's shape")
    axis.legend(loc="lower left", bbox_to_anchor=(1, 0))
    return figure


def _title(pictures: Pictures, row: int, score: float) -> str:
    return f"{score:.2f}{_side(pictures, row)}"


def _side(pictures: Pictures, row: int) -> str:
    azimuth = pictures.metadata["azimuth"].iloc[row]
    return "" if pd.isna(azimuth) else f", {azimuth:.0f}°"


def _frame(axis, color: str) -> None:
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=2.5)


def _band(axis, table: pd.DataFrame, column: str, color: str, label: str, style: str = "-") -> None:
    """A column over the table's index, with a band from low to high."""
    axis.plot(table.index, table[column], color=color, ls=style, lw=1.8, marker="o", ms=3, label=label)
    axis.fill_between(table.index, table["low"], table["high"], color=color, alpha=0.15, lw=0)
