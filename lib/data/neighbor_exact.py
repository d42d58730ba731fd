"""The exact nearest neighbours by cosine, from blocks of products."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TILE = 1024  # rows and columns of a block of products: 4 MB stay in the cache
STRIP = 32  # columns that share one maximum
PASS = 4  # strips of a row that are looked into at once
SLACK = 2  # kept besides the K, so that rounding in a product does not decide the last place
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


def recall(found: Neighbors, truth: Neighbors) -> float:
    """Share of the true neighbours that were found; one as similar as the last true one counts as true.

    Copies of one image are equally similar, and which of them is listed means nothing. 1 if there are none.
    """
    wanted = (truth.index >= 0).sum(1)
    last = truth.score.masked_fill(truth.index < 0, float("inf")).amin(1, keepdim=True)
    hits = ((found.index >= 0) & (found.score >= last - SAME)).sum(1).clamp(max=wanted)
    return float(hits.sum() / wanted.sum()) if wanted.any() else 1.0


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


def search_exact(task: Group) -> Neighbors:
    """All pairs, each product taken once: a tile serves its rows and, transposed, its columns.

    The products are most of the time. FAISS's flat index takes each of them twice, which at 136,000 x 512 costs more
    than finding the best ones here (benchmarks/README.md); below some 30,000 it is the other way round, where either
    takes seconds. The tiles come in an order in which each row meets its columns from first to last, so that the
    first of equals stays.
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
    return rescored(task, torch.arange(len(task.vectors)), torch.where(score > float("-inf"), index, -1)[rows])


def _merge(
    task: Group, score: Tensor, index: Tensor, row_start: int, column_start: int, strips: Tensor, peaks: Tensor
) -> None:
    """Put the better ones of a tile (R, S, STRIP) into the lists; only strips whose peak beats a row's last can."""
    last = score[row_start : row_start + len(strips), -1:]
    row, strip = (peaks > last).nonzero().unbind(1)
    turn = _places(row) // PASS  # a few strips of a row at a time: the first ones raise what the next must beat
    for now in range(int(turn.max()) + 1 if len(row) else 0):
        r, s = row[turn == now], strip[turn == now]
        columns = column_start + s[:, None] * STRIP + torch.arange(STRIP)
        values = task.bar(strips[r, s], row_start + r, columns)
        better = values > score[row_start + r, -1:]
        _insert(score, index, row_start + r[better.nonzero()[:, 0]], columns[better], values[better])


def _insert(score: Tensor, index: Tensor, rows: Tensor, columns: Tensor, values: Tensor) -> None:
    """Put candidates, ordered by row and column, into the lists of their rows."""
    if not len(rows):
        return
    lists, which = rows.unique_consecutive(return_inverse=True)
    place = score.shape[1] + _places(rows)
    shape = (len(lists), int(place.max()) + 1)
    joined, others = values.new_full(shape, float("-inf")), index.new_full(shape, -1)
    joined[:, : score.shape[1]], others[:, : score.shape[1]] = score[lists], index[lists]
    joined[which, place], others[which, place] = values, columns
    best = first_largest(joined, score.shape[1])
    score[lists], index[lists] = joined.gather(1, best), others.gather(1, best)


def _places(sorted_rows: Tensor) -> Tensor:
    """0 for the first entry of each row, 1 for the second, and so on."""
    return torch.arange(len(sorted_rows)) - torch.searchsorted(sorted_rows, sorted_rows)


def first_largest(values: Tensor, count: int) -> Tensor:
    """Columns of the largest values of each row, largest first, and of equal ones the first first."""
    return values.sort(dim=1, descending=True, stable=True).indices[:, :count]


def rescored(task: Group, rows: Tensor, index: Tensor) -> Neighbors:
    """The best K of some candidates by products in float64: the same whatever the blocks or threads were."""
    index = index.sort(1).values
    scores = []
    for some, others in zip(rows.split(1024), index.split(1024), strict=True):
        products = torch.einsum("nd,nkd->nk", task.vectors[some].double(), task.vectors[others.clamp(min=0)].double())
        scores.append(products.float().masked_fill(others < 0, float("-inf")))
    score = torch.cat(scores)
    best = first_largest(score, task.count)
    index, score = index.gather(1, best), score.gather(1, best)
    short = task.count - score.shape[1]
    return Neighbors(F.pad(index, (0, short), value=-1), F.pad(score, (0, short), value=float("-inf")))


def exact_rows(task: Group, rows: Tensor) -> Neighbors:
    """Exact neighbours of some rows of a group."""
    columns = torch.arange(len(task.vectors))[None]
    kept = min(task.count + SLACK, len(task.vectors))
    chosen = [torch.empty(0, kept, dtype=torch.int64)]
    for some in rows.split(256):
        score = task.bar(task.vectors[some] @ task.vectors.T, some, columns.expand(len(some), -1))
        best = score.topk(kept, dim=1)
        chosen.append(torch.where(best.values > float("-inf"), best.indices, -1))
    return rescored(task, rows, torch.cat(chosen))
