"""What an image's nearest neighbours have in common with it: model, shape, side (notebook 01).

A row of ``index`` holds the rows of an image's neighbours, best first; -1 stands where there were fewer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from lib.data.embeddings import Embedder, embed_images, make_embedder, read_embeddings
from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, load_mesh, read_prepared
from lib.errors import InputError
from lib.evaluation.summary import bootstrap_interval, weighted_mean, weighted_quantile
from lib.geometry.meshes import sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances, wrap_degrees

# share of the 5 nearest of 136 thousand car photos that show the query's car model (Huang et al., 2023, Sec. 3.2)
PAPER_MATCHES = {"CLIP, CompCars (paper)": 0.512, "ImageNet ViT, CompCars (paper)": 0.278}
HELD_OUT = ("val", "test")
NO_REPEATS = "Nothing to measure: no model has two images, so no neighbour can show the query's own."

Index = Int[np.ndarray, "images neighbors"]
Labels = Shaped[np.ndarray, " images"]
Cloud = Float[np.ndarray, "points 3"]


@dataclass(frozen=True)
class Pictures:
    """Images of a study, on white, with their rows of metadata in the same order."""

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
    """Read the images of a study from a prepared folder.

    Parameters
    ----------
    split : str
        "train", "val", "test", "held-out" for the last two, or "all".
    count : int
        At most about so many images, of whole models drawn at random; 0: all.

    Raises
    ------
    InputError
        The folder or an image cannot be used, no image is left, or images differ in size.
    """
    prepared = read_prepared(folder)
    splits = {"held-out": HELD_OUT, "all": ("train", *HELD_OUT)}.get(split, (split,))
    table = prepared.metadata[prepared.metadata["split"].isin(splits)]
    if table.empty:
        raise InputError(f"split: {folder} has no images of split {split!r}; try 'all'")
    if count:
        table = table[table["model"].isin(_some_models(table["model"], count, seed))]
    table = table.reset_index(drop=True)
    images = [_read(prepared, row) for row in table.itertuples()]
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{folder}: images differ in size; prepare them at one size")
    return Pictures(prepared, table, np.stack(images))


def embed_pictures(
    pictures: Pictures, names: Sequence[str], weights: Mapping[str, str], allow_download: bool = False
) -> tuple[dict[str, Embedder], dict[str, Float[Tensor, "images size"]], list[str]]:
    """Embedders by name, their vectors of the pictures, and a sentence for each name that is not at hand.

    Vectors that lie in the prepared folder (`lib.data.embeddings.embed_dataset`) are taken from there, if the
    same weights made them.

    Parameters
    ----------
    weights : mapping
        Name -> path of a local checkpoint.

    Raises
    ------
    InputError
        None of the names is at hand.
    """
    embedders, vectors, left_out = {}, {}, []
    for name in names:
        try:
            embedders[name] = make_embedder(name, weights.get(name), allow_download)
        except InputError as error:
            left_out.append(f"{name} is left out: {error}")
            continue
        vectors[name] = _stored_vectors(pictures, embedders[name])
        if vectors[name] is None:
            vectors[name] = embed_images(embedders[name], pictures.rgb)
    if not vectors:
        raise InputError(f"embeddings: none is at hand. {left_out[0] if left_out else 'Name at least one.'}")
    return embedders, vectors, left_out


def has_repeats(models: Labels) -> bool:
    """Whether any model has two images; if none has, every `match_share` is 0 and says nothing (`NO_REPEATS`)."""
    return len(set(models)) < len(models)


def match_share(index: Index, labels: Labels) -> Float[np.ndarray, " images"]:
    """For each image the share of its neighbours that carry its own label; NaN without neighbours."""
    same = np.where(index < 0, np.nan, labels[index] == labels[:, None])
    known = np.isfinite(same).sum(axis=1)
    return np.where(known > 0, np.nansum(same, axis=1) / np.maximum(known, 1), np.nan)


def chance_share(labels: Labels, groups: Labels | None = None) -> float:
    """Expected `match_share` of neighbours drawn at random, of the same group where groups are given."""
    table = pd.DataFrame({"label": labels, "group": 0 if groups is None else groups})
    same = table.groupby(["label", "group"])["label"].transform("size") - 1
    others = table.groupby("group")["label"].transform("size") - 1
    return float((same / others.where(others > 0)).mean())


def match_row(index: Index, models: Labels, seed: int = 0) -> dict[str, float]:
    """The CompCars protocol: mean `match_share` with the middle 95 % of resamples of the models, and its n."""
    share = match_share(index, models)
    known = np.isfinite(share)
    value, low, high = bootstrap_interval(share[known], models[known], weighted_mean, seed=seed)
    return {"share": value, "low": low, "high": high, "n": int(known.sum()), "models": len(set(models[known]))}


def surface_points(pictures: Pictures, count: int = 1000, seed: int = 0) -> Callable[[int], Cloud]:
    """A function that gives points of the true surface of a row, canonical frame, and remembers them."""
    rows, known = list(pictures.metadata.itertuples()), {}

    def points(row: int) -> Cloud:
        if row not in known:
            known[row] = sample_surface(load_mesh(pictures.prepared, rows[row]), count, [seed, row])
        return known[row]

    return points


def shape_distances(
    points: Callable[[int], Cloud],
    queries: Int[np.ndarray, " queries"],
    others: Mapping[str, Int[np.ndarray, "queries neighbors"]],
) -> pd.DataFrame:
    """Chamfer distances between the shapes of images and those of others.

    Parameters
    ----------
    points : callable
        Row -> points of its surface; all in one frame.
    others : mapping
        Name -> rows of the others, one line a query; -1 is left out.

    Returns
    -------
    DataFrame
        query, kind, rank, row, distance (in the unit of the points), a line a pair.
    """
    lines, known = [], {}
    for kind, found in others.items():
        for query, line in zip(queries.tolist(), found.tolist(), strict=True):
            for rank, row in enumerate(line):
                if row < 0:
                    continue
                pair = (min(query, row), max(query, row))
                if pair not in known:
                    known[pair] = chamfer_distance(*nearest_distances(points(pair[0]), points(pair[1])))
                lines.append((query, kind, rank, row, known[pair]))
    return pd.DataFrame(lines, columns=["query", "kind", "rank", "row", "distance"])


def distance_rows(distances: pd.DataFrame, models: Labels, seed: int = 0) -> pd.DataFrame:
    """Mean distance of each kind with the middle 95 % of resamples of the queries' models, and n queries."""
    lines = []
    for kind, part in distances.groupby("kind", sort=False):
        means = part.groupby("query")["distance"].mean()
        interval = bootstrap_interval(means.to_numpy(), models[means.index], weighted_mean, seed=seed)
        lines.append((kind, *interval, len(means)))
    return pd.DataFrame(lines, columns=["kind", "distance", "low", "high", "n"]).set_index("kind")


def gain_row(distances: pd.DataFrame, kind: str, against: str, models: Labels, seed: int = 0) -> dict[str, float]:
    """By what share the mean distance of one kind is below that of another, of the same queries; 0: no gain.

    The interval is the middle 95 % of resamples of the queries' models. Both kinds are drawn together, so that what
    makes a query's shape rare or common does not blur the comparison.
    """
    means = distances.groupby(["query", "kind"])["distance"].mean().unstack()[[kind, against]].dropna()
    own, other = means[kind].to_numpy(), means[against].to_numpy()
    value, low, high = bootstrap_interval(own, models[means.index], lambda v, w: 1 - (w @ v) / (w @ other), seed=seed)
    return {"gain": value, "low": low, "high": high, "n": len(means)}


def azimuth_differences(index: Index, azimuth: Float[np.ndarray, " images"]) -> Float[np.ndarray, "images neighbors"]:
    """By how many degrees in [0, 180] the camera of each neighbour stands elsewhere on the circle; NaN without one."""
    turned = np.abs(wrap_degrees(azimuth[index] - azimuth[:, None]))
    return np.where(index < 0, np.nan, turned)


def spread_row(differences: Float[np.ndarray, "images neighbors"], models: Labels, seed: int = 0) -> dict[str, float]:
    """Median over images of their neighbours' mean azimuth difference, with its interval over models.

    ``new_side`` is the share of neighbours that stand more than 45 degrees away: those show another side.
    """
    known = np.isfinite(differences).all(axis=1)
    means, drawn = differences[known].mean(axis=1), models[known]
    value, low, high = bootstrap_interval(means, drawn, weighted_quantile, seed=seed)
    far = (differences[known] > 45).mean(axis=1)
    side, side_low, side_high = bootstrap_interval(far, drawn, weighted_mean, seed=seed)
    names = ("difference", "low", "high", "new_side", "new_side_low", "new_side_high")
    return dict(zip(names, (value, low, high, side, side_low, side_high), strict=True)) | {"n": int(known.sum())}


def sweep(index: Index, models: Labels, counts: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """`match_row` of the first K neighbours for each K: value, low, high, indexed by K."""
    rows = [match_row(index[:, :count], models, seed) for count in counts]
    return _by_count(counts, [(row["share"], row["low"], row["high"]) for row in rows])


def distance_sweep(distances: pd.DataFrame, models: Labels, counts: Sequence[int], seed: int = 0) -> pd.DataFrame:
    """`distance_rows` of the first K neighbours for each K, from `shape_distances` of one kind."""
    rows = [distance_rows(distances[distances["rank"] < count], models, seed).iloc[0] for count in counts]
    return _by_count(counts, [(row["distance"], row["low"], row["high"]) for row in rows])


def flat_map(vectors: Float[np.ndarray, "images size"], seed: int = 0) -> Float[np.ndarray, "images 2"]:
    """t-SNE of the vectors (van der Maaten and Hinton, 2008) with cosine distances, scaled to [0, 1]."""
    from sklearn.manifold import TSNE

    if len(vectors) < 5:
        raise InputError("A map needs at least five images; choose more.")
    perplexity = min(30.0, (len(vectors) - 1) / 3)
    settings = {"metric": "cosine", "init": "random", "random_state": seed, "perplexity": perplexity}
    places = TSNE(max_iter=750, **settings).fit_transform(vectors)
    low, high = places.min(axis=0), places.max(axis=0)
    return ((places - low) / np.maximum(high - low, 1e-9)).astype(np.float64)


def _by_count(counts: Sequence[int], lines: Sequence[tuple[float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(lines, columns=["value", "low", "high"], index=pd.Index(counts, name="K"))


def _some_models(models: pd.Series, count: int, seed: int) -> set[str]:
    sizes = models.value_counts().sort_index()
    drawn = sizes.sample(frac=1, random_state=seed)
    return set(drawn.index[: max(1, int((drawn.cumsum() <= count).sum()))])


def _stored_vectors(pictures: Pictures, embedder: Embedder) -> Float[Tensor, "images size"] | None:
    folder = pictures.prepared.folder
    if not (folder / "embeddings" / f"{embedder.name}.safetensors").is_file():
        return None
    stored = read_embeddings(folder, embedder.name)
    if stored.checksum != embedder.checksum:
        return None
    row_of = {id_: row for row, id_ in enumerate(stored.ids)}
    return stored.vectors[[row_of[id_] for id_ in pictures.metadata["id"]]]


def _read(prepared: Prepared, row) -> UInt8[np.ndarray, "height width 3"]:
    mask = prepared.path(row.mask) if isinstance(row.mask, str) else None
    return read_sample_images(prepared.path(row.image), mask)[0]
