"""Companion of notebook 01: its measurements and figures, in the order of the lesson.

A row of ``index`` holds the rows of an image's neighbours, best first; -1 stands where there were fewer. A measurement
is a row of value, low, high (the middle 95 % of resamples of the models) and n.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped, UInt8
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image
from sklearn.manifold import TSNE
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.embeddings import Embedder, embed_images, make_embedder, read_embeddings
from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, load_mesh, read_prepared
from lib.errors import InputError
from lib.evaluation.summary import bootstrap_interval, weighted_mean, weighted_quantile
from lib.figures.style import BLUE, GREY, ORANGE, PALETTE, image_grid, plain, styled
from lib.geometry.meshes import sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances, wrap_degrees

NO_REPEATS = "Nothing to measure: no model has two images, so no neighbour can show the query's own."

Index = Int[np.ndarray, "images neighbors"]
Labels = Shaped[np.ndarray, " images"]
Angles = Float[np.ndarray, " images"]  # degrees
Places = Float[np.ndarray, "images 2"]  # in a map, both in [0, 1]

# --- Neighbours to look at -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pictures:
    """Images on white, with their rows of metadata in the same order."""

    prepared: Prepared
    metadata: pd.DataFrame
    rgb: UInt8[np.ndarray, "images height width 3"]

    def labels(self, column: str) -> Labels:
        """A column as an array."""
        return self.metadata[column].to_numpy()

    def knows(self, *columns: str) -> bool:
        """Whether every image has a value in these columns."""
        return not self.metadata[list(columns)].isna().any(axis=None)


def read_pictures(folder: Path | str, split: str = "held-out", count: int = 0, seed: int = 0) -> Pictures:
    """Read the images of a split ("held-out": val and test, or "all") from a prepared folder.

    Parameters
    ----------
    count : int
        At most about this many images, of whole models drawn at random; 0: all.

    Raises
    ------
    InputError
        The folder or an image cannot be used, no image is left, or images differ in size.
    """
    prepared = read_prepared(folder)
    splits = {"held-out": ("val", "test"), "all": ("train", "val", "test")}.get(split, (split,))
    table = prepared.metadata[prepared.metadata["split"].isin(splits)]
    if table.empty:
        raise InputError(f"split: {folder} has no images of split {split!r}; try 'all'")
    if count:
        sizes = table["model"].value_counts().sort_index().sample(frac=1, random_state=seed)
        table = table[table["model"].isin(sizes.index[: max(1, int((sizes.cumsum() <= count).sum()))])]
    images = []
    for row in table.itertuples():
        mask = prepared.path(row.mask) if isinstance(row.mask, str) else None
        images.append(read_sample_images(prepared.path(row.image), mask)[0])
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{folder}: images differ in size; prepare them at one size")
    return Pictures(prepared, table.reset_index(drop=True), np.stack(images))


def embed_pictures(
    pictures: Pictures, names: Sequence[str], weights: Mapping[str, str], allow_download: bool = False
) -> tuple[dict[str, Embedder], dict[str, Float[Tensor, "images size"]], list[str]]:
    """Embedders by name, their vectors of the pictures, and a sentence for each name that is not at hand.

    Vectors in the prepared folder (`lib.data.embeddings.embed_dataset`) are used if the same weights made them.
    `weights` gives the path of a local checkpoint by name. `InputError` if none of the names is at hand.
    """
    folder = pictures.prepared.folder
    embedders, vectors, left_out = {}, {}, []
    for name in names:
        try:
            embedders[name] = make_embedder(name, weights.get(name), allow_download)
        except InputError as error:
            left_out.append(f"{name} is left out: {error}")
            continue
        stored = read_embeddings(folder, name) if (folder / "embeddings" / f"{name}.safetensors").is_file() else None
        if stored and stored.checksum == embedders[name].checksum:
            vectors[name] = stored.vectors[pd.Index(stored.ids).get_indexer(pictures.metadata["id"])]
        else:
            vectors[name] = embed_images(embedders[name], pictures.rgb)
    if not vectors:
        raise InputError(f"embeddings: none is at hand. {left_out[0] if left_out else 'Name at least one.'}")
    return embedders, vectors, left_out


MARKS = {"same model": ORANGE, "same category": BLUE, "other category": "0.6"}


def neighbor_sheet(pictures: Pictures, query: int, found: Mapping[str, tuple[np.ndarray, np.ndarray]]):
    """A query and its neighbours (rows, similarities) in each embedding, framed by what they share with the query."""
    grid = [[pictures.rgb[row] / 255 if row >= 0 else None for row in (query, *rows)] for rows, _ in found.values()]
    figure = image_grid(grid, labels=[name.replace("_", "\n") for name in found], size=1.25)
    axes = np.reshape(figure.axes, (len(found), -1))
    models, categories = pictures.labels("model"), pictures.labels("category")
    azimuths = ["" if pd.isna(angle) else f", {angle:.0f}°" for angle in pictures.labels("azimuth")]
    axes[0, 0].set_title(f"query{azimuths[query]}", fontsize=8)
    for line, (rows, scores) in zip(axes, found.values(), strict=True):
        for axis, row, score in zip(line[1:], rows, scores, strict=False):
            if row < 0:
                continue
            axis.set_title(f"{score:.2f}{azimuths[row]}", fontsize=8)
            shared = "same category" if categories[row] == categories[query] else "other category"
            shared = "same model" if models[row] == models[query] else shared
            for spine in axis.spines.values():
                spine.set(visible=True, color=MARKS[shared], linewidth=2.5)
    handles = [plt.Line2D([], [], color=color, lw=3, label=name) for name, color in MARKS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure


# --- The paper's test ------------------------------------------------------------------------------------------------

# share of the 5 nearest of 136 thousand car photos that show the query's car model (Huang et al., 2023, Sec. 3.2)
PAPER_MATCHES = {"CLIP, CompCars (paper)": 0.512, "ImageNet ViT, CompCars (paper)": 0.278}


def match_share(index: Index, models: Labels) -> Float[np.ndarray, " images"]:
    """For each image the share of its neighbours that show its own model; NaN without neighbours."""
    same = np.where(index < 0, np.nan, models[index] == models[:, None])
    known = np.isfinite(same).sum(axis=1)
    return np.where(known > 0, np.nansum(same, axis=1) / np.maximum(known, 1), np.nan)


def match_row(index: Index, models: Labels, seed: int = 0) -> dict[str, float]:
    """The CompCars protocol: mean `match_share` with its interval."""
    share = match_share(index, models)
    known = np.isfinite(share)
    return interval_row(share[known], models[known], seed=seed)


def interval_row(values, models: Iterable, statistic=weighted_mean, seed: int = 0) -> dict[str, float]:
    """A statistic of one value for each image, with its interval over models: value, low, high, n."""
    interval = bootstrap_interval(np.asarray(values), models, statistic, seed=seed)
    return dict(zip(("value", "low", "high"), interval, strict=True)) | {"n": len(values)}


def chance_share(models: Labels, groups: Labels | None = None) -> float:
    """Expected `match_share` of neighbours drawn at random, of the same group where groups are given."""
    table = pd.DataFrame({"model": models, "group": 0 if groups is None else groups})
    same = table.groupby(["model", "group"])["model"].transform("size") - 1
    others = table.groupby("group")["model"].transform("size") - 1
    return float((same / others.where(others > 0)).mean())


def draw_intervals(axis, table: pd.DataFrame, form: str) -> None:
    """A dot with its interval for each row of a table, from bottom to top, and its value above; random ones grey."""
    for place, (name, row) in enumerate(table.iterrows()):
        value, color = row["value"], GREY if name.startswith("random,") else BLUE
        limits = [[value - row["low"]], [row["high"] - value]]
        axis.errorbar([value], [place], xerr=limits, fmt="o", capsize=3, color=color)
        behind = {"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8}  # dots may lie there
        axis.annotate(f"{value:{form}}", (value, place), (0, 6), textcoords="offset points", ha="center", bbox=behind)
    axis.set(yticks=range(len(table)), yticklabels=table.index, ylim=(-0.6, len(table) - 0.3))


@styled()
def match_figure(table: pd.DataFrame, chance: Mapping[str, float]):
    """Shares of neighbours that show the query's model, best first, with intervals, chance and the paper's values."""
    paper = pd.DataFrame({name: dict.fromkeys(("value", "low", "high"), v) for name, v in PAPER_MATCHES.items()}).T
    rows = 100 * pd.concat([paper, table.sort_values("value")])[["value", "low", "high"]]
    figure, axis = plt.subplots(figsize=(7.6, 0.36 * len(rows) + 1.0), layout="constrained")
    draw_intervals(axis, rows, ".1f")
    axis.plot(rows["value"][: len(paper)], range(len(paper)), "D", mfc="white", color=GREY, zorder=3)
    for (name, value), style in zip(chance.items(), ("--", "-."), strict=False):
        axis.axvline(100 * value, color=ORANGE, ls=style, lw=1.2, label=f"{name}: {100 * value:.1f}")
    axis.axhline(len(paper) - 0.5, color="0.8", lw=0.8)
    axis.set(xlim=(0, 100), xlabel="neighbours that show the query's model (%)")
    axis.legend(loc="lower right")
    return figure


# --- The bet itself: is the shape nearer? ----------------------------------------------------------------------------


def surface_points(pictures: Pictures, count: int = 1000) -> Callable[[int], np.ndarray]:
    """A function that gives points of the true surface of a row, canonical frame, and remembers them."""
    rows = list(pictures.metadata.itertuples())
    return cache(lambda row: sample_surface(load_mesh(pictures.prepared, rows[row]), count, [0, row]))


def shape_distances(
    points: Callable[[int], np.ndarray], queries: Int[np.ndarray, " queries"], others: Mapping[str, Index]
) -> pd.DataFrame:
    """Chamfer distance of each pair of a query and one of its others: query, kind, rank, row, distance."""
    distance = cache(lambda a, b: chamfer_distance(*nearest_distances(points(a), points(b))))
    lines = []
    pairs = [(kind, *pair) for kind, found in others.items() for pair in zip(queries.tolist(), found, strict=True)]
    for kind, query, found in tqdm(pairs, "shapes", unit="query"):
        for rank, row in enumerate(found.tolist()):
            if row >= 0:
                lines.append((query, kind, rank, row, distance(min(query, row), max(query, row))))
    return pd.DataFrame(lines, columns=["query", "kind", "rank", "row", "distance"])


def distance_rows(distances: pd.DataFrame, models: Labels, seed: int = 0) -> pd.DataFrame:
    """Mean over queries of their mean distance, with its interval: a row for each kind."""
    rows = {}
    for kind, part in distances.groupby("kind", sort=False):
        means = part.groupby("query")["distance"].mean()
        rows[kind] = interval_row(means, models[means.index], seed=seed)
    return pd.DataFrame(rows).T


def gain_row(distances: pd.DataFrame, kind: str, against: str, models: Labels, seed: int = 0) -> dict[str, float]:
    """By what share the mean distance of one kind is below that of another, of the same queries; 0: no gain.

    Both kinds are drawn together, so that what makes a query's shape rare or common does not blur the comparison.
    """
    means = distances.groupby(["query", "kind"])["distance"].mean().unstack()[[kind, against]].dropna()
    other = means[against].to_numpy()
    return interval_row(means[kind], models[means.index], lambda v, w: 1 - (w @ v) / (w @ other), seed)


@styled()
def distance_figure(rows: pd.DataFrame, distances: pd.DataFrame):
    """Chamfer distances of `distance_rows`, and every query's mean as a grey dot."""
    figure, axis = plt.subplots(figsize=(7.6, 0.42 * len(rows) + 0.9), layout="constrained")
    spread = np.random.default_rng(0)
    means = distances.groupby(["kind", "query"])["distance"].mean()
    for place, kind in enumerate(rows.index[::-1]):
        axis.plot(10 * means[kind], place + spread.uniform(-0.18, 0.18, len(means[kind])), ".", ms=3.5, color="0.75")
    draw_intervals(axis, 10 * rows[::-1], ".2f")
    axis.set(xlim=(0, None), xlabel="10 x Chamfer distance to the query's shape (1 = longest side)")
    return figure


# --- The other half of the bet: a turn must not matter ---------------------------------------------------------------


def view_angles(azimuth: Angles, elevation: Angles) -> Float[np.ndarray, "images images"]:
    """Angle between the viewing directions of each two cameras, degrees in [0, 180]."""
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.stack([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)], axis=-1)
    chord = np.linalg.norm(direction[:, None] - direction[None], axis=-1)  # stays exact for small angles
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def turn_curves(vectors, models: Labels, categories: Labels, angles, seed: int = 0) -> dict[str, pd.DataFrame]:
    """What a turn does to an embedding: measurements indexed by the angle between two cameras (bins of 20 degrees).

    "same object" and "other object" (of the same category): the mean cosine similarity of two images. "preference":
    how often the query's own object, turned by the angle, is more similar than another object of its category seen
    from the query's side (the first bin); 0.5: a turn counts as much as another object. n counts pairs.
    """
    query, other = np.nonzero((categories[:, None] == categories) & ~np.eye(len(models), dtype=bool))
    pairs = pd.DataFrame({"query": query, "model": models[query], "similarity": (vectors @ vectors.T)[query, other]})
    pairs["kind"] = np.where(models[query] == models[other], "same object", "other object")
    pairs["angle"] = 20 * np.minimum(angles[query, other] // 20, 8) + 10  # the middle of the bin
    preferences = []
    for _, part in tqdm(pairs.groupby("query"), "turns", unit="query"):
        own = part[part["kind"] == "same object"]
        rivals = np.sort(part["similarity"][(part["kind"] == "other object") & (part["angle"] == 10)])
        if len(rivals):  # the share of rivals that each own image beats; ties count half
            beaten = [np.searchsorted(rivals, own["similarity"], side) for side in ("left", "right")]
            preferences.append(own.assign(kind="preference", similarity=np.mean(beaten, axis=0) / len(rivals)))
    curves = {}
    for (kind, angle), part in pd.concat([pairs, *preferences]).groupby(["kind", "angle"]):
        sums = part.groupby("model")["similarity"].agg(["sum", "count"])
        pairs_of = sums["count"].to_numpy()
        row = interval_row(sums["sum"], sums.index, lambda v, w, n=pairs_of: (w @ v) / (w @ n), seed)
        curves.setdefault(kind, {})[angle] = row | {"n": len(part)}
    return {kind: pd.DataFrame(rows).T for kind, rows in curves.items()}


@styled()
def band_figure(panels: Mapping[str, Mapping[str, pd.DataFrame]], reference: str, levels: Mapping[str, float], **axes):
    """Measurements over their index, with bands from low to high: a panel for each group, a line for each table.

    `levels` are drawn dotted, one in each panel; `axes` are labels, limits and scales, as for ``Axes.set``.
    """
    width = max(7.6, 2.3 * len(panels) + 1.6)
    figure, drawn = plt.subplots(1, len(panels), figsize=(width, 3.1), squeeze=False, layout="constrained")
    for axis, (title, tables) in zip(drawn[0], panels.items(), strict=True):
        for (name, table), color, style in zip(tables.items(), PALETTE * 2, ("-", "--", "-.", ":") * 4, strict=False):
            axis.plot(table.index, table["value"], color=color, ls=style, lw=1.8, marker="o", ms=3, label=name)
            axis.fill_between(table.index, table["low"], table["high"], color=color, alpha=0.15, lw=0)
        axis.axhline(levels[title], color=GREY, lw=1, ls=":", label=reference)
        axis.set(title=title, **axes)
    figure.legend(*drawn[0, 0].get_legend_handles_labels(), loc="outside right center")
    return figure


# --- Do neighbours show another side? --------------------------------------------------------------------------------


def azimuth_differences(index: Index, azimuth: Angles) -> Float[np.ndarray, "images neighbors"]:
    """By how many degrees in [0, 180] the camera of each neighbour stands elsewhere on the circle; NaN without one."""
    return np.where(index < 0, np.nan, np.abs(wrap_degrees(azimuth[index] - azimuth[:, None])))


@styled()
def spread_figure(differences: Mapping[str, Float[np.ndarray, "..."]]):
    """How far round the object the cameras of neighbours stand: cumulative shares of `azimuth_differences`."""
    figure, axis = plt.subplots(figsize=(6.8, 3.1), layout="constrained")
    steps = np.linspace(0, 180, 91)
    for (name, angles), color in zip(differences.items(), PALETTE * 2, strict=False):
        known = np.sort(angles[np.isfinite(angles)])
        share = 100 * np.searchsorted(known, steps, side="right") / len(known)
        color = GREY if name.startswith("random,") else color
        axis.plot(steps, share, color=color, lw=2, label=f"{name}: {100 * (known > 45).mean():.0f} %")
    axis.axvspan(0, 45, color="0.95", zorder=0)
    axis.annotate("known side", (22, 97), ha="center", va="top", fontsize=8, color="0.35")
    axis.set(xlim=(0, 180), ylim=(0, 100), xticks=range(0, 181, 45), xlabel="azimuth between query and neighbour (°)")
    axis.set_ylabel("neighbours up to there (%)")
    axis.legend(title="more than 45° away", loc="lower left", bbox_to_anchor=(1, 0))
    return figure


def spread_rows(differences: Float[np.ndarray, "images neighbors"], models: Labels, seed: int = 0) -> dict[str, dict]:
    """Median of each image's mean "difference", and the share of neighbours more than 45 degrees away ("new side")."""
    known = np.isfinite(differences).all(axis=1)
    kept, of = differences[known], models[known]
    difference = interval_row(kept.mean(axis=1), of, weighted_quantile, seed)
    return {"difference": difference, "new side": interval_row((kept > 45).mean(axis=1), of, seed=seed)}


@styled()
def wishes_figure(sides: pd.DataFrame, distances: pd.DataFrame):
    """Both wishes at once: neighbours should have the query's shape (low) and show another side of it (right)."""
    figure, axis = plt.subplots(figsize=(6.8, 3.4), layout="constrained")
    for name, color in zip(sides.index, PALETTE * 2, strict=False):
        x, y = 100 * sides.loc[name], 10 * distances.loc[name]
        xerr, yerr = ([[row["value"] - row["low"]], [row["high"] - row["value"]]] for row in (x, y))
        color = GREY if name.startswith("random,") else color
        axis.errorbar([x["value"]], [y["value"]], yerr, xerr, fmt="o", color=color, label=name, capsize=2, lw=1)
    axis.annotate("what we want", (0.97, 0.04), xycoords="axes fraction", ha="right", color="0.35", style="italic")
    axis.set(xlabel="neighbours that show another side (%)", ylabel="10 x CD to the query's shape")
    axis.legend(loc="lower left", bbox_to_anchor=(1, 0))
    return figure


# --- A map, and a search with words ----------------------------------------------------------------------------------


def flat_map(vectors: Float[np.ndarray, "images size"], seed: int = 0) -> Places:
    """t-SNE of the vectors (van der Maaten and Hinton, 2008) with cosine distances, scaled to [0, 1]."""
    if len(vectors) < 5:
        raise InputError("A map needs at least five images; choose more.")
    settings = {"metric": "cosine", "init": "random", "random_state": seed, "max_iter": 750}
    places = TSNE(perplexity=min(30.0, (len(vectors) - 1) / 3), **settings).fit_transform(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    return ((places - low) / np.maximum(high - low, 1e-9)).astype(np.float64)


def category_colors(categories: Iterable[str]) -> dict[str, str]:
    """A colour for each category; more than there are colours begin again."""
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sorted(set(categories)))}


@styled()
def map_figure(rgb, categories: Labels, places: Places, rows: Sequence[int]):
    """Every image as a dot in its category's colour, and the images of some rows at their places."""
    figure, axis = plt.subplots(figsize=(7.6, 6.2), layout="constrained")
    plain(axis)
    for category, color in category_colors(categories).items():
        axis.plot(*places[categories == category].T, "o", ms=4, color=color, alpha=0.6, label=category)
    for row in rows:
        alpha = np.where((rgb[row] > 250).all(axis=-1), 0, 255).astype(np.uint8)
        picture = OffsetImage(np.dstack([rgb[row], alpha]), zoom=30 / len(alpha))
        axis.add_artist(AnnotationBbox(picture, places[row], frameon=False))
    axis.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    axis.legend(loc="lower left", bbox_to_anchor=(1, 0))
    return figure


MAP_STYLE = """
.nbmap {position: relative; width: 560px; height: 560px; max-width: 100%; background: #fff; margin: 50px}
.nbmap i {position: absolute; width: 11px; height: 11px; margin: -5px; border-radius: 6px; opacity: .75}
.nbmap i:hover {z-index: 9; opacity: 1; outline: 2px solid #000}
.nbmap img {display: none; position: absolute; left: -38px; bottom: 14px; width: 88px; max-width: none;
  pointer-events: none; border: 1px solid #888; background: #fff}
.nbmap i:hover img {display: block}
"""


def hover_map(rgb, categories: Labels, models: Labels, places: Places, rows) -> str:
    """Some rows of the map as HTML that shows pictures under the pointer: no script, no network, 1.5 kB an image."""
    colors, points = category_colors(categories), []
    for row in rows:
        stream = io.BytesIO()
        Image.fromarray(rgb[row]).resize((32, 32), Image.Resampling.BOX).save(stream, "JPEG", quality=80)
        source = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
        look = f"left:{places[row, 0]:.1%};top:{1 - places[row, 1]:.1%};background:{colors[categories[row]]}"
        name = html.escape(models[row])
        points.append(f'<i style="{look}"><img src="{source}" alt="{name}" title="{name}"></i>')
    return f'<div><style>{MAP_STYLE}</style><div class="nbmap">{"".join(points)}</div></div>'


FILLERS = {"a", "an", "the", "on", "with", "of"}  # words that need not be in a caption
Line = tuple[str, Sequence[int], Sequence[str]]  # what stands before images, their rows, what stands above each


def text_lines(
    texts: Sequence[str], similarity: Float[np.ndarray, "texts images"], captions: Labels, count: int = 6
) -> list[Line]:
    """For each text the most similar images; how many have all its words in their caption, of those and of all."""
    words = [set(re.findall(r"\w+", caption)) if isinstance(caption, str) else set() for caption in captions]
    lines = []
    for text, scores in zip(texts, similarity, strict=True):
        rows = np.argsort(-scores, kind="stable")[:count]
        asked = set(re.findall(r"\w+", text)) - FILLERS
        fits = np.array([asked <= told for told in words])
        counted = f"\n{fits[rows].mean():.0%} by caption, chance {fits.mean():.0%}" if fits.any() else "\nin no caption"
        label = f"“{text}”{counted if any(words) else ''}"
        lines.append((label, rows.tolist(), [f"{score:.2f}" for score in scores[rows]]))
    return lines


def text_figure(pictures: Pictures, lines: Sequence[Line]):
    """Lines of images with a text before them and a title above each; they may differ in length."""
    figure = image_grid([[pictures.rgb[row] / 255 for row in rows] for _, rows, _ in lines], size=1.2)
    figure.set_figwidth(figure.get_figwidth() + 2)
    for axes, (label, _, titles) in zip(np.reshape(figure.axes, (len(lines), -1)), lines, strict=True):
        axes[0].set_ylabel(label, fontsize=9, rotation=0, ha="right", va="center")
        for axis, title in zip(axes, titles, strict=False):
            axis.set_title(title, fontsize=8)
    return figure
