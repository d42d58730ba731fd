"""Neighbours within groups, without those that are barred: exact, through an index of FAISS, or random."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.data.neighbor_exact import Group, Neighbors, exact_rows, first_largest, recall, rescored, search_exact
from lib.errors import InputError

METHODS = ("exact", "ivf", "hnsw")
Labels = Sequence | np.ndarray | pd.Series | Tensor

TARGET_RECALL = 0.995  # of an approximate index, on the sample; leaves room above 0.99 for chance
SAMPLE = 1000  # queries on which an index is measured
SMALL = 2000  # smaller groups are searched exactly whatever the method: building an index takes longer


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
        inside = search_exact(task) if method == "exact" or len(rows) < SMALL else _approximate(task, method, seed)
        index[rows] = torch.where(inside.index < 0, -1, rows[inside.index])
        score[rows] = inside.score
        found += inside.recall * len(rows)
    missing = (index < 0) | (score < min_similarity)
    return Neighbors(
        index.masked_fill(missing, -1), score.masked_fill(missing, float("nan")), found / max(len(vectors), 1)
    )


def random_neighbors(groups: Labels | None, exclude: Labels, count: int, seed: int, fill: bool = False) -> Neighbors:
    """K different random others of the same group and of another label: what neighbours are held against.

    Raises
    ------
    InputError
        A group has too few, and `fill` does not ask for -1 in their last places.
    """
    label = _codes(exclude, len(exclude), "exclude", None)
    group = _codes(groups, len(exclude), "groups", np.zeros(len(exclude), int))
    if not fill:
        _check_counts(group, label, count, groups, exclude)
    generator = torch.Generator().manual_seed(seed)
    index = torch.full((len(label), count), -1)
    for rows in _members(group):
        for row in rows:
            others = rows[label[rows] != label[row]]
            chosen = others[torch.randperm(len(others), generator=generator)[:count]]
            index[row, : len(chosen)] = chosen
    return Neighbors(index, torch.full(index.shape, float("nan")))


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
        index.cp.seed, index.cp.niter = seed + 1, 10  # centres need not be good, only to spread the points
        index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 64, 1
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
        best = first_largest(score, task.count)
        chosen = torch.where(score.gather(1, best) > float("-inf"), found.gather(1, best), -1)
        parts.append(F.pad(chosen, (0, task.count - chosen.shape[1]), value=-1))
    result = rescored(task, rows, torch.cat(parts))
    short = (result.index < 0).any(1)
    exact = exact_rows(task, rows[short])
    result.index[short], result.score[short] = exact.index, exact.score
    return result


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
        most = f"ask for at most {candidates.min()} (--count) or " if candidates.min() else ""
        advice = f"{most}accept fewer (--fill)"
        raise InputError(f"neighbours: {whole} has fewer than {count} {kind}; {advice}")


def _members(group: Tensor) -> list[Tensor]:
    """Rows of each group, ascending."""
    return list(group.argsort(stable=True).split(group.bincount().tolist())) if len(group) else []
