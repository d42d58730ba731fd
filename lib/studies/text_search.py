"""What a text finds among images, where both have vectors in one space (notebook 01)."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

FILLERS = {"a", "an", "the", "on", "with", "of"}
NO_CAPTIONS = "No image has a caption: what a text finds can be looked at, not counted."

Labels = Shaped[np.ndarray, " images"]


def closest_texts(
    images: Float[np.ndarray, "images size"], texts: Float[np.ndarray, "texts size"], count: int = 5
) -> tuple[Int[np.ndarray, "texts count"], Float[np.ndarray, "texts count"]]:
    """For each text the rows of the images nearest to it, best first, and their cosine similarities."""
    similarity = texts @ images.T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(similarity, order, axis=1)


def text_ranks(
    images: Float[np.ndarray, "images size"], texts: Float[np.ndarray, "texts size"]
) -> Int[np.ndarray, "texts images"]:
    """For each text the place of every image in the order of similarity to it; 1 is the nearest."""
    order, _ = closest_texts(images, texts, len(images))
    return np.argsort(order, axis=1) + 1


def caption_shares(texts: Sequence[str], captions: Labels, rows: Int[np.ndarray, "texts count"]) -> pd.DataFrame:
    """For each text the share of images whose caption has all its words: of those found, and of all (chance).

    Articles and prepositions do not count; rows without a caption have no words. Where no image has a caption at all
    there is nothing to count, and both are NaN.
    """
    words = [set(re.findall(r"\w+", caption)) if isinstance(caption, str) else set() for caption in captions]
    lines = []
    for text, found in zip(texts, rows, strict=True):
        wanted = set(re.findall(r"\w+", text)) - FILLERS
        right = np.array([wanted <= own for own in words])
        lines.append((text, right[found].mean(), right.mean()) if any(words) else (text, np.nan, np.nan))
    return pd.DataFrame(lines, columns=["text", "found", "chance"]).set_index("text")
