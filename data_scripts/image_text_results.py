"""How well the image-text model does on models it never saw: naming the category, and finding captions and pictures.

Each measure stands beside chance; intervals are bootstraps over models, since views of one model are alike.
"""

import time
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from data_scripts.phrases import OPPOSITES, contradict, without_colour
from lib.data.images import read_sample_images
from lib.data.prepared import Prepared
from lib.evaluation.results import commit, machine
from lib.evaluation.summary import bootstrap_interval, weighted_mean
from lib.networks.image_text import NAME, ImageText

RANKS = (1, 5)


def measure(model: ImageText, data: Prepared, seed: int, steps: int) -> list[dict]:
    """Rows for ``results.json``: the model, then chance.

    Metrics are fractions of held-out images: ``zero_shot_accuracy`` (nearest of the phrases "a bed", "a cabinet", ...),
    ``image_to_text@k`` (its caption is among the k nearest of all distinct captions) and ``text_to_image@k`` (one of
    the k images nearest to its caption has this caption). The last two also with the word for the colour left out.
    ``true_words``: the image is nearer to its caption than to the caption with its words for the size, the outline, the
    number of legs or of boards made wrong (of the images whose captions have such words).
    """
    from PIL import Image

    start = time.perf_counter()
    table = data.metadata[data.metadata["split"] != "train"].reset_index(drop=True)
    pictures = (read_sample_images(data.path(r.image), r.mask and data.path(r.mask))[0] for r in table.itertuples())
    images = torch.cat([model.encode_images([Image.fromarray(rgb)]) for rgb in pictures])
    hits, chances = _zero_shot(model, images, table["category"])
    found = [("a {category}", "zero_shot_accuracy", table, hits, chances)]
    for protocol, change in (("full caption", str), ("without colour", without_colour)):
        captions = table["caption"].map(change).tolist()
        found += [(protocol, metric, table, *rest) for metric, *rest in _retrieval(model, images, captions)]
    for kind in OPPOSITES:
        part, hits = _true_words(model, images, table["caption"], kind)
        if len(hits):
            found.append((kind, "true_words", table[part], hits, np.full(len(hits), 0.5)))
    common = {
        "dataset": data.info["name"], "split": "+".join(sorted(set(table["split"]))), "unit": "fraction",
        "seed": seed, "profile": "small", "steps": steps, "commit": commit(), "machine": machine(),
        "seconds": round(time.perf_counter() - start, 2),
    }  # fmt: skip
    rows = []
    for protocol, metric, part, hits, chance in found:
        for system, values in ((NAME, hits), ("chance", chance)):
            named = {"system": system, "protocol": protocol, "metric": metric}
            rows += [common | named | row for row in _rows(values, part, metric, seed)]
    return rows


def _zero_shot(model: ImageText, images: Float[Tensor, "images size"], category) -> tuple[np.ndarray, np.ndarray]:
    names = sorted(set(category))
    phrases = model.encode_text([f"{'an' if name[0] in 'aeio' else 'a'} {name}" for name in names])
    said = np.array(names)[(images @ phrases.T).argmax(dim=1).numpy()]
    return (said == category.to_numpy()).astype(float), np.full(len(images), 1 / len(names))


def _retrieval(model: ImageText, images: Float[Tensor, "images size"], captions: list[str]):
    """(metric, hit of each image, chance of each image) for both directions and each k."""
    distinct = sorted(set(captions))
    own = torch.tensor([distinct.index(caption) for caption in captions])
    similarity = images @ model.encode_text(distinct).T  # (images, distinct captions)
    fits = torch.arange(len(distinct))[None] == own[:, None]
    for k in RANKS:
        yield f"image_to_text@{k}", hit_in_first(similarity, fits, k), np.full(len(own), min(1.0, k / len(distinct)))
        hits, count = hit_in_first(similarity.T, fits.T, k), fits.sum(dim=0)
        chance = np.array([chance_of_hit(len(images), n, k) for n in count.tolist()])
        yield f"text_to_image@{k}", hits[own], chance[own]


def _true_words(model: ImageText, images: Float[Tensor, "images size"], captions, kind: str):
    """Which images have such words (bool), and for each of them 1 where it prefers its own caption."""
    wrong = [contradict(caption, kind) for caption in captions]
    part = (captions != wrong).to_numpy(copy=True)  # torch wants to be able to write to it
    own, other = (model.encode_text(texts)[part] for texts in (captions.tolist(), wrong))
    mine = images[part]
    return part, ((mine * own).sum(dim=1) > (mine * other).sum(dim=1)).numpy().astype(float)


def hit_in_first(
    similarity: Float[Tensor, "queries items"], fits: Bool[Tensor, "queries items"], k: int
) -> Float[np.ndarray, " queries"]:
    """1 where one of a query's k most similar items fits, else 0."""
    first = similarity.topk(min(k, similarity.shape[1]), dim=1).indices
    return fits.gather(1, first).any(dim=1).numpy().astype(float)


def chance_of_hit(items: int, fitting: int, k: int) -> float:
    """Probability that k of all items, drawn blindly, hold at least one that fits.

    >>> chance_of_hit(4, 1, 2)
    0.5
    """
    k = min(k, items)
    return 1 - comb(items - fitting, k) / comb(items, k)


def _rows(values: np.ndarray, table, metric: str, seed: int):
    """Over all images; by category only where the measure asks for categories."""
    chosen = {"all": np.full(len(table), True)}
    if metric == "zero_shot_accuracy":
        chosen |= {name: (table["category"] == name).to_numpy() for name in sorted(set(table["category"]))}
    for category, part in chosen.items():
        groups = table["model"][part]
        value, low, high = bootstrap_interval(values[part], groups, weighted_mean, seed=seed)
        yield {"category": category, "value": value, "low": low, "high": high, "n": int(part.sum())}
