"""Nearest neighbours by cosine: exact by blocked products, or approximate through FAISS with the recall measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from lib.errors import InputError

METHODS = ("exact", "ivf", "hnsw")
Labels = Sequence | np.ndarray | pd.Series | Tensor

TILE = 1024  # rows and columns of a block of products: 4 MB stay in the cache
STRIP = 32  # columns that share one maximum
SLACK = 2  # kept besides the K, so that rounding in a product does not decide the last place
TARGET_RECALL = 0.995  # of an approximate index, on the sample; leaves room above 0.99 for chance
SAMPLE = 1000  # queries on which an index is measured
SMALL = 2000  # smaller groups are searched exactly whatever the method: building an index takes longer
SAME = 1e-6  # scores closer than this are equal: float32 products of 512 terms are no better


@dataclass(frozen=True)
class Neighbors:
    """K neighbours of each of N images, best first.

    Attributes
    ----------
    index : int64 Tensor, shape (N, K)
        Rows; -1 where there are fewer.
    score : float32 Tensor, shape (N, K)
        Cosine similarities; NaN where there is no neighbour, or no score.
    recall : float
        Share of the exact neighbours that were found: 1 for the exact method, else measured on a sample.
    """

    index: Int[Tensor, "images count"]
    score: Float[Tensor, "images count"]
    recall: float = 1.0


def find_neighbors(
    vectors: Float[Tensor, "images size"],
    count: int = 5,
    *,
    groups: Labels | None = None,
    exclude: Labels | None = None,
    min_similarity: float = -1.0,
    near_duplicate: float | None = None,
    method: str = "exact",
    seed: int = 0,
    fill: bool = False,
) -> Neighbors:
    """The K most similar others of each image. Of equal ones the earlier comes first, as far as float32 can tell.

    Parameters
    ----------
    vectors : Tensor, shape (N, D)
        L2-normalised rows.
    count : int
        K.
    groups : N labels, optional
        Neighbours are of the same group (a split, a category).
    exclude : N labels, optional
        Images of one label (views of one object) are never neighbours of each other; an image never is its own.
    min_similarity : float
        Worse ones are left out, and their places are -1.
    near_duplicate : float, optional
        Images more similar than this are taken for copies and skipped, e.g. 0.999.
    method : {"exact", "ivf", "hnsw"}
        The last two are FAISS indexes whose effort is raised until they find 99.5 % of the neighbours of a sample.
        Groups of fewer than 2,000 are searched exactly. An HNSW index that several threads build differs a little
        from run to run; nothing else does.
    seed : int
        Of the sample and of the clustering in IVF.
    fill : bool
        Accept groups with fewer than K candidates, and put -1 in their last places.

    Raises
    ------
    InputError
        No such method, vectors that are not of unit length, labels of another number, or K too large.
    """
    _check(vectors, count, method)
    group = _codes(groups, len(vectors), "groups", np.zeros(len(vectors), int))
    label = _codes(exclude, len(vectors), "exclude", np.arange(len(vectors)))
    if not fill:
        _check_counts(group, label, count, groups, exclude)
    index = torch.full((len(vectors), count), -1)
    score = torch.full((len(vectors), count), float("-inf"))
    found = 0.0
    for rows in _members(group):
        part = vectors if len(rows) == len(vectors) else vectors[rows]
        task = Group(part, label[rows], count, near_duplicate)
        inside = _exact(task) if method == "exact" or len(rows) < SMALL else _approximate(task, method, seed)
        index[rows] = torch.where(inside.index < 0, -1, rows[inside.index])
        score[rows] = inside.score
        found += inside.recall * len(rows)
    missing = (index < 0) | (score < min_similarity)
    return Neighbors(
        index.masked_fill(missing, -1), score.masked_fill(missing, float("nan")), found / max(len(vectors), 1)
    )


def recall(found: Neighbors, truth: Neighbors) -> float:
    """Share of the true neighbours that were found; one as similar as the last true one counts as true.

    Copies of one image are equally similar, and which of them is listed means nothing. 1 if there are none.
    """
    wanted = (truth.index >= 0).sum(1)
    last = truth.score.masked_fill(truth.index < 0, float("inf")).amin(1, keepdim=True)
    hits = ((found.index >= 0) & (found.score >= last - SAME)).sum(1).clamp(max=wanted)
    return float(hits.sum() / wanted.sum()) if wanted.any() else 1.0


def random_neighbors(groups: Labels | None, exclude: Labels, count: int, seed: int) -> Neighbors:
    """K different random others of the same group and of another label: what neighbours are held against.

    Raises
    ------
    InputError
        A group has too few.
    """
    label = _codes(exclude, len(exclude), "exclude", None)
    group = _codes(groups, len(exclude), "groups", np.zeros(len(exclude), int))
    _check_counts(group, label, count, groups, exclude)
    generator = torch.Generator().manual_seed(seed)
    index = torch.full((len(label), count), -1)
    for rows in _members(group):
        for row in rows:
            others = rows[label[rows] != label[row]]
            index[row] = others[torch.randperm(len(others), generator=generator)[:count]]
    return Neighbors(index, torch.full(index.shape, float("nan")))


# --- the exact search ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """What is searched: vectors (M, D), labels (M,) that exclude each other, K, and from where on a copy is a copy."""

    vectors: Tensor
    label: Tensor
    count: int
    near_duplicate: float | None

    def bar(self, scores: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Scores (R, C) of rows (R,) and columns (R, C), minus infinity where the column is no candidate."""
        most = len(self.label) - 1
        own = self.label[rows.clamp(max=most), None]  # rows and columns may be padding
        barred = (columns > most) | (columns < 0) | (self.label[columns.clamp(0, most)] == own)
        if self.near_duplicate is not None:
            barred |= scores > self.near_duplicate
        return scores.masked_fill(barred, float("-inf"))


def _exact(task: Group) -> Neighbors:
    """All pairs, each product taken once: a tile serves its rows and, transposed, its columns.

    Twice as fast as FAISS's flat index where that matters (136,000 x 512; see benchmarks/README.md), as the products
    are most of the time and it takes each of them twice. The tiles come in an order in which each row meets its
    columns from first to last, so that the first of equals stays.
    """
    padded = F.pad(task.vectors, (0, 0, 0, -len(task.vectors) % STRIP))
    kept = min(task.count, len(task.vectors)) + SLACK
    score, index = torch.full((len(padded), kept), float("-inf")), torch.full((len(padded), kept), -1)
    starts = range(0, len(padded), TILE)
    for a in starts:
        for b in starts[a // TILE :]:
            tile = padded[a : a + TILE] @ padded[b : b + TILE].T
            strips = tile.unflatten(1, (-1, STRIP))
            _merge(task, score, index, a, b, strips, strips.amax(2))
            if a != b:  # the maximum over the middle of three axes is 20 times as fast as of a transposed tile
                strips = tile.unflatten(0, (-1, STRIP))
                _merge(task, score, index, b, a, strips.permute(2, 0, 1), strips.amax(1).T)
    rows = slice(len(task.vectors))
    return _rescored(task, torch.arange(len(task.vectors)), torch.where(score > float("-inf"), index, -1)[rows])


def _merge(
    task: Group, score: Tensor, index: Tensor, row_start: int, column_start: int, strips: Tensor, peaks: Tensor
) -> None:
    """Put the better ones of a tile (R, S, STRIP) into the lists; only strips whose peak beats a row's last can."""
    last = score[row_start : row_start + len(strips), -1:]
    row, strip = (peaks > last).nonzero().unbind(1)
    turn = torch.arange(len(row)) - torch.searchsorted(row, row)  # 0 for the first strip of a row, 1 for the second
    for now in range(int(turn.max()) + 1 if len(row) else 0):
        r, s = row[turn == now], strip[turn == now]
        rows, columns = row_start + r, column_start + s[:, None] * STRIP + torch.arange(STRIP)
        joined = torch.cat([score[rows], task.bar(strips[r, s], rows, columns)], 1)
        best = _first_largest(joined, score.shape[1])
        score[rows] = joined.gather(1, best)
        index[rows] = torch.cat([index[rows], columns], 1).gather(1, best)


def _first_largest(values: Tensor, count: int) -> Tensor:
    """Columns of the largest values of each row, largest first, and of equal ones the first first."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _rescored(task: Group, rows: Tensor, index: Tensor) -> Neighbors:
    """The best K of some candidates by products in float64: the same whatever the blocks or threads were."""
    index = index.sort(1).values
    scores = []
    for some, others in zip(rows.split(1024), index.split(1024), strict=True):
        products = torch.einsum("nd,nkd->nk", task.vectors[some].double(), task.vectors[others.clamp(min=0)].double())
        scores.append(products.float().masked_fill(others < 0, float("-inf")))
    score = torch.cat(scores)
    best = _first_largest(score, task.count)
    index, score = index.gather(1, best), score.gather(1, best)
    short = task.count - score.shape[1]
    return Neighbors(F.pad(index, (0, short), value=-1), F.pad(score, (0, short), value=float("-inf")))


# --- FAISS -----------------------------------------------------------------------------------------------------------


def _approximate(task: Group, method: str, seed: int) -> Neighbors:
    index = build_index(task.vectors, method, seed)
    reached = tune_index(task, index, seed)
    found = search_index(task, index, torch.arange(len(task.vectors)))
    return Neighbors(found.index, found.score, reached)


def tune_index(task: Group, index, seed: int = 0) -> float:
    """Give an index the least effort with which it finds 99.5 % of the neighbours of a sample; the recall reached."""
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(task.vectors), generator=generator)[:SAMPLE]
    truth, reached = exact_rows(task, sample), 0.0
    for effort in _efforts(index):
        _set_effort(index, effort)
        reached = recall(search_index(task, index, sample), truth)
        if reached >= TARGET_RECALL:
            break
    return reached


def build_index(vectors: Float[Tensor, "images size"], method: str, seed: int = 0):
    """An IVF index of about 4 sqrt(N) clusters, or an HNSW graph of 32 links a point; inner products, float32."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    size, metric = vectors.shape[1], faiss.METRIC_INNER_PRODUCT
    if method == "hnsw":
        index = faiss.IndexHNSWFlat(size, 32, metric)
    else:
        lists = round(4 * len(vectors) ** 0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(size), size, lists, metric)
        index.cp.seed, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = seed + 1, 64, 1
        index.train(vectors.numpy())
    index.add(vectors.numpy())
    return index


def _efforts(index) -> Iterator[int]:
    """1.5 times more each time: clusters looked into up to all of them, or the length of HNSW's queue."""
    effort, most = (1, index.nlist) if hasattr(index, "nprobe") else (16, min(index.ntotal, 8192))
    while effort < most:
        yield effort
        effort = int(np.ceil(effort * 1.5))
    yield most


def _set_effort(index, effort: int) -> None:
    if hasattr(index, "nprobe"):
        index.nprobe = effort
    else:
        index.hnsw.efSearch = effort


def search_index(task: Group, index, rows: Tensor) -> Neighbors:
    """Ask for as many more as may be excluded; rows that stay short of K are searched exactly."""
    fetch = min(task.count + int(task.label.bincount().max()), 512, len(task.vectors))
    parts = []
    for some in rows.split(8192):
        score, found = map(torch.from_numpy, index.search(task.vectors[some].numpy(), fetch))
        score = task.bar(score, some, found)
        best = _first_largest(score, task.count)
        chosen = torch.where(score.gather(1, best) > float("-inf"), found.gather(1, best), -1)
        parts.append(F.pad(chosen, (0, task.count - chosen.shape[1]), value=-1))
    result = _rescored(task, rows, torch.cat(parts))
    short = (result.index < 0).any(1)
    exact = exact_rows(task, rows[short])
    result.index[short], result.score[short] = exact.index, exact.score
    return result


def exact_rows(task: Group, rows: Tensor) -> Neighbors:
    """Exact neighbours of some rows of a group."""
    columns = torch.arange(len(task.vectors))[None]
    kept = min(task.count + SLACK, len(task.vectors))
    chosen = [torch.empty(0, kept, dtype=torch.int64)]
    for some in rows.split(256):
        score = task.bar(task.vectors[some] @ task.vectors.T, some, columns.expand(len(some), -1))
        best = score.topk(kept, dim=1)
        chosen.append(torch.where(best.values > float("-inf"), best.indices, -1))
    return _rescored(task, rows, torch.cat(chosen))


# --- checks ----------------------------------------------------------------------------------------------------------


def _check(vectors: Tensor, count: int, method: str) -> None:
    if method not in METHODS:
        raise InputError(f"neighbours: there is no method {method!r}; choose exact, ivf or hnsw")
    if count < 1:
        raise InputError(f"neighbours: {count} is no number of neighbours; ask for at least 1")
    wrong = ~((vectors.norm(dim=1) - 1).abs() < 1e-2)  # so written, NaN is wrong
    if wrong.any():
        raise InputError(f"neighbours: row {int(wrong.int().argmax())} of the embeddings is not of unit length")


def _codes(labels: Labels | None, count: int, name: str, default: np.ndarray | None) -> Tensor:
    """Labels as numbers from 0."""
    if labels is None:
        return torch.as_tensor(default)
    if len(labels) != count:
        raise InputError(f"neighbours: {name} has {len(labels)} labels for {count} images; give one for each")
    codes, _ = pd.factorize(np.asarray(labels), use_na_sentinel=False)
    return torch.as_tensor(codes.astype(np.int64))


def _check_counts(group: Tensor, label: Tensor, count: int, groups: Labels | None, exclude: Labels | None) -> None:
    """Refuse groups in which an image has fewer than K candidates."""
    table = pd.DataFrame({"group": group.numpy(), "label": label.numpy()})
    in_group = table.groupby("group")["label"].transform("size")
    candidates = (in_group - table.groupby(["group", "label"])["label"].transform("size")).to_numpy()
    if len(candidates) and candidates.min() < count:
        row = int(candidates.argmin())
        whole = "the set" if groups is None else f"group {str(np.asarray(groups)[row])!r}"
        kind = "other images" if exclude is None else "images of other models"
        advice = f"ask for at most {candidates.min()}" if candidates.min() else "leave it out"
        raise InputError(f"neighbours: {whole} has fewer than {count} {kind}; {advice}")


def _members(group: Tensor) -> list[Tensor]:
    """Rows of each group, ascending."""
    return list(group.argsort(stable=True).split(group.bincount().tolist())) if len(group) else []
