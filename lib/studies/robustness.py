"""How an embedding answers to a turn of the object, against how it answers to another object (notebook 01)."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from lib.evaluation.summary import bootstrap_interval

EDGES = (0, 20, 40, 60, 80, 100, 120, 140, 160, 180.001)  # degrees; the last bin is closed
TURNS = (30, 170, 90)  # degrees whose preference is kept; the quarter turn, which tells most, is the last

Labels = Shaped[np.ndarray, " images"]
Angles = Float[np.ndarray, " images"]
Vectors = Float[np.ndarray, "images size"]


def view_angles(azimuth: Angles, elevation: Angles) -> Float[np.ndarray, "images images"]:
    """Angle between the viewing directions of each two cameras, degrees in [0, 180]; all angles in degrees."""
    a, e = np.radians(azimuth), np.radians(elevation)
    direction = np.stack([-np.sin(a) * np.cos(e), np.cos(a) * np.cos(e), np.sin(e)], axis=-1)
    chord = np.linalg.norm(direction[:, None] - direction[None], axis=-1)  # stays exact for small angles
    return np.degrees(2 * np.arcsin(np.clip(chord / 2, 0, 1)))


def similarity_curves(
    vectors: Vectors, models: Labels, categories: Labels, azimuth: Angles, elevation: Angles, edges=EDGES, seed: int = 0
) -> pd.DataFrame:
    """Mean cosine similarity of two images of a category against the angle between their cameras.

    Parameters
    ----------
    vectors : ndarray
        L2-normalised rows.
    edges : sequence of float
        Of the bins of the angle, degrees.

    Returns
    -------
    DataFrame
        kind ("same object", "other object": of the same category), angle (middle of the bin), similarity, low, high
        (95 % of resamples of the query's model), pairs. Bins without pairs are left out.
    """
    sums = _binned_sums(vectors, models, categories, view_angles(azimuth, elevation), edges)
    lines = []
    for kind, (total, count) in sums.items():
        for place, angle in enumerate(_middles(edges)):
            present = count[:, place] > 0
            if present.any():
                interval = _ratio_interval(total[present, place], count[present, place], seed)
                lines.append((kind, angle, *interval, int(count[:, place].sum())))
    return pd.DataFrame(lines, columns=["kind", "angle", "similarity", "low", "high", "pairs"])


def preference_curve(
    vectors: Vectors, models: Labels, categories: Labels, azimuth: Angles, elevation: Angles, edges=EDGES, seed: int = 0
) -> pd.DataFrame:
    """How often the query's own object, turned, is nearer than another object seen from the query's side.

    For a query, an image of its object at an angle, and an image of another object of the category within the first
    bin of angles: the probability that the former is the more similar. 0.5: a turn counts as much as another object.

    Returns
    -------
    DataFrame
        angle (middle of the bin), preference, low, high (95 % of resamples of the query's model), pairs.
    """
    angles = view_angles(azimuth, elevation)
    similarity = vectors @ vectors.T
    names, owner = np.unique(models.astype(str), return_inverse=True)
    total, count = np.zeros((2, len(names), len(edges) - 1))
    for query in range(len(models)):
        same = models == models[query]
        rivals = (categories == categories[query]) & ~same & (angles[query] < edges[1])
        same[query] = False
        if same.any() and rivals.any():
            wins = _wins(similarity[query, same], np.sort(similarity[query, rivals]))
            place = np.digitize(angles[query, same], edges) - 1
            np.add.at(total[owner[query]], place, wins)
            np.add.at(count[owner[query]], place, 1)
    lines = []
    for place, angle in enumerate(_middles(edges)):
        present = count[:, place] > 0
        if present.any():
            interval = _ratio_interval(total[present, place], count[present, place], seed)
            lines.append((angle, *interval, int(count[:, place].sum())))
    return pd.DataFrame(lines, columns=["angle", "preference", "low", "high", "pairs"])


def turned_rows(preferred: Mapping[str, pd.DataFrame]) -> list[tuple[str, int, pd.Series]]:
    """Embedding, angle and row of the turns that `TURNS` names, from curves of `preference_curve`; pairs become n."""
    tables = {name: table.rename(columns={"pairs": "n"}).set_index("angle") for name, table in preferred.items()}
    return [(name, angle, t.loc[angle]) for name, t in tables.items() for angle in TURNS if angle in t.index]


def _wins(own: np.ndarray, rivals: np.ndarray) -> np.ndarray:
    """For each own similarity the share of the sorted rivals that are below it; ties count half."""
    below, upto = (np.searchsorted(rivals, own, side=side) for side in ("left", "right"))
    return (below + upto) / 2 / len(rivals)


def _binned_sums(vectors, models, categories, angles, edges) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Sums of similarities and numbers of pairs by the query's model and the bin, arrays (models, bins)."""
    similarity, place = vectors @ vectors.T, np.digitize(angles, edges) - 1
    names, owner = np.unique(models.astype(str), return_inverse=True)
    bins = len(edges) - 1
    slot = owner[:, None] * bins + place
    same = models[:, None] == models[None]
    kinds = {"same object": same, "other object": ~same & (categories[:, None] == categories[None])}
    sums = {}
    for kind, chosen in kinds.items():
        chosen = chosen & (place < bins) & ~np.eye(len(models), dtype=bool)
        total = np.bincount(slot[chosen], weights=similarity[chosen], minlength=len(names) * bins)
        count = np.bincount(slot[chosen], minlength=len(names) * bins)
        sums[kind] = total.reshape(len(names), bins), count.reshape(len(names), bins).astype(float)
    return sums


def _ratio_interval(total: np.ndarray, count: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Mean over pairs with the middle 95 % of resamples of the models (a total and a count each)."""
    return bootstrap_interval(total, range(len(total)), lambda t, w: (w @ t) / (w @ count), seed=seed)


def _middles(edges) -> list[float]:
    return [round((low + high) / 2, 1) for low, high in pairwise(edges)]
