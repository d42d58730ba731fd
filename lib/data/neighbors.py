"""Semantic neighbours: for each image the K others of its split and category with the most similar features.

    python -m lib.data.neighbors FOLDER --model efficientnet_lite0 --count 5 --method exact --name OUT

finds them for the embeddings that `lib.data.embeddings` wrote, and writes ``neighbors/OUT.parquet``, one row a
neighbour: id, neighbor (an id), rank (from 0), score (cosine similarity). The file's metadata say which embedding it
was made from (name and checksum of its weights).
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.embedders import lite0_checksum
from lib.data.embeddings import read_embeddings
from lib.data.images import read_sample_images
from lib.data.prepared import METADATA, read_prepared
from lib.errors import InputError, exit_code
from lib.files import write_atomically
from lib.networks.backbones import LITE0, Backbone

NEIGHBOR_FILE = "efficientnet_lite0"
METHODS = ("exact", "ivf", "hnsw")
Labels = Sequence | np.ndarray | pd.Series | Tensor

BLOCK = 2**24  # products that are in memory at once
SAME = 1e-6  # scores closer than this are equal: float32 products of 512 terms are no better
SMALL = 2000  # smaller groups are searched exactly whatever the method: building an index takes longer
SAMPLE = 1000  # queries on which an index is measured
TARGET_RECALL = 0.995  # of an index, on the sample; leaves room above 0.99 for chance
EFFORTS = np.unique(np.geomspace(1, 8192, 24).round())  # 1.5 times more each


@dataclass(frozen=True)
class Neighbors:
    """K neighbours of each of N images, best first."""

    index: Int[Tensor, "images count"]  # rows; -1 where there are fewer
    score: Float[Tensor, "images count"]  # cosine similarities; NaN where there is no neighbour, or no score
    recall: float = 1.0  # share of the exact neighbours that were found: 1 for the exact method, else of a sample


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
    """The K most similar others of each image.

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
        Of that sample.
    fill : bool
        Accept groups with fewer than K candidates, and put -1 in their last places.

    Raises
    ------
    InputError
        No such method, vectors that are not of unit length, or K too large.
    """
    if method not in METHODS:
        raise InputError(f"neighbours: there is no method {method!r}; choose exact, ivf or hnsw")
    wrong = ~((vectors.norm(dim=1) - 1).abs() < 1e-2)  # so written, NaN is wrong
    if wrong.any():
        raise InputError(f"neighbours: row {int(wrong.int().argmax())} of the embeddings is not of unit length")
    label = torch.arange(len(vectors)) if exclude is None else _codes(exclude)
    members = _members(groups, label, count, fill)
    index = torch.full((len(vectors), count), -1)
    score = torch.full((len(vectors), count), float("nan"))
    found = 0.0
    for rows in members:
        group = _Group(vectors[rows], label[rows], count, near_duplicate)
        if method == "exact" or len(rows) < SMALL:
            inside = group.exact(torch.arange(len(rows)))
        else:
            inside = group.approximate(method, seed)
        missing = (inside.index < 0) | (inside.score < min_similarity)
        index[rows] = rows[inside.index].masked_fill(missing, -1)
        score[rows] = inside.score.masked_fill(missing, float("nan"))
        found += inside.recall * len(rows)
    return Neighbors(index, score, found / max(len(vectors), 1))


def random_neighbors(groups: Labels | None, exclude: Labels, count: int, seed: int, fill: bool = False) -> Neighbors:
    """K different random others of the same group and of another label: what neighbours are held against.

    Raises
    ------
    InputError
        A group has too few, and `fill` does not ask for -1 in their last places.
    """
    label = _codes(exclude)
    generator = torch.Generator().manual_seed(seed)
    index = torch.full((len(label), count), -1)
    for rows in _members(groups, label, count, fill):
        for row in rows:
            others = rows[label[rows] != label[row]]
            chosen = others[torch.randperm(len(others), generator=generator)[:count]]
            index[row, : len(chosen)] = chosen
    return Neighbors(index, torch.full(index.shape, float("nan")))


def nearest(
    features: Float[Tensor, "images size"], groups: pd.Series, models: pd.Series | None, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, K) of the exact neighbours within a group, best first, and their cosine similarities.

    Images of one model are never neighbours of each other: otherwise recoloured copies of the query's own object are
    the nearest, and semantic consistency becomes multi-view supervision in disguise. ``models=None`` allows them.
    """
    found = find_neighbors(features, count, groups=groups, exclude=models)
    return found.index.numpy(), found.score.numpy()


def recall(found: Neighbors, truth: Neighbors) -> float:
    """Share of the true neighbours that were found; one as similar as the last true one counts as true.

    Copies of one image are equally similar, and which of them is listed means nothing. 1 if there are none.
    """
    wanted = (truth.index >= 0).sum(1)
    last = truth.score.masked_fill(truth.index < 0, float("inf")).amin(1, keepdim=True)
    hits = ((found.index >= 0) & (found.score >= last - SAME)).sum(1).clamp(max=wanted)
    return float(hits.sum() / wanted.sum()) if wanted.any() else 1.0


@dataclass(frozen=True)
class _Group:
    """What is searched: vectors (M, D), labels (M,) that exclude each other, K, and from where on a copy is a copy."""

    vectors: Tensor
    label: Tensor
    count: int
    near_duplicate: float | None

    def exact(self, rows: Tensor) -> Neighbors:
        """Neighbours of some rows: their products with all others, block by block."""
        columns = torch.arange(len(self.vectors))[None]
        blocks = rows.split(max(1, BLOCK // len(self.vectors)))
        best = [self._best(self.vectors[block] @ self.vectors.T, columns, block) for block in blocks]
        return Neighbors(*map(torch.cat, zip(*best, strict=True)))

    def approximate(self, method: str, seed: int) -> Neighbors:
        """Neighbours of all rows, by an index of FAISS with as little effort as reaches the recall."""
        import faiss  # takes a second to load, and small sets do without it

        faiss.omp_set_num_threads(torch.get_num_threads())
        images, size = self.vectors.shape
        kind, effort = {"ivf": (f"IVF{round(4 * images**0.5)},Flat", "nprobe"), "hnsw": ("HNSW32", "efSearch")}[method]
        index = faiss.index_factory(size, kind, faiss.METRIC_INNER_PRODUCT)
        if method == "ivf":  # centres need not be good, only to spread the points
            index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64
        index.train(self.vectors.numpy())
        index.add(self.vectors.numpy())
        sample = torch.randperm(images, generator=torch.Generator().manual_seed(seed))[:SAMPLE]
        truth, reached = self.exact(sample), 0.0
        for value in EFFORTS:
            faiss.ParameterSpace().set_index_parameter(index, effort, value)
            reached = recall(self._ask(index, sample), truth)
            if reached >= TARGET_RECALL:
                break
        found = self._ask(index, torch.arange(images))
        return Neighbors(found.index, found.score, reached)

    def _ask(self, index, rows: Tensor) -> Neighbors:
        """Ask an index for as many more as may be excluded; rows that stay short of K are searched exactly."""
        fetch = min(self.count + int(self.label.bincount().max()), 512, len(self.vectors))
        best = []
        for some in rows.split(8192):
            score, columns = map(torch.from_numpy, index.search(self.vectors[some].numpy(), fetch))
            best.append(self._best(score, columns, some))
        found = Neighbors(*map(torch.cat, zip(*best, strict=True)))
        short = (found.index < 0).any(1)
        if short.any():
            exact = self.exact(rows[short])
            found.index[short], found.score[short] = exact.index, exact.score
        return found

    def _best(self, score: Tensor, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The K best that are allowed among candidates (R, C) or (1, C) of rows (R,); -1 where there are fewer."""
        barred = (columns < 0) | (self.label[columns] == self.label[rows, None])
        if self.near_duplicate is not None:
            barred |= score > self.near_duplicate
        best = score.masked_fill(barred, float("-inf")).topk(min(self.count, score.shape[1]), dim=1)
        index = columns.expand_as(score).gather(1, best.indices).masked_fill(best.values.isinf(), -1)
        short = self.count - index.shape[1]
        return F.pad(index, (0, short), value=-1), F.pad(best.values, (0, short), value=float("-inf"))


def _codes(labels: Labels) -> Int[Tensor, " images"]:
    """Labels as numbers from 0."""
    return torch.as_tensor(pd.factorize(np.asarray(labels), use_na_sentinel=False)[0])


def _members(groups: Labels | None, label: Tensor, count: int, fill: bool) -> list[Tensor]:
    """Rows of each group, ascending; without `fill`, groups in which an image has fewer than K candidates are refused.

    A candidate is of the same group and of another label.
    """
    if count < 1:
        raise InputError(f"neighbours: {count} is no number of neighbours; ask for at least 1")
    group = torch.zeros_like(label) if groups is None else _codes(groups)
    table = pd.DataFrame({"group": group.numpy(), "label": label.numpy()})
    together = table.groupby("group")["label"].transform("size")
    candidates = together - table.groupby(["group", "label"])["label"].transform("size")
    if len(label) and candidates.min() < count and not fill:
        whole = "the set" if groups is None else f"group {str(np.asarray(groups)[candidates.argmin()])!r}"
        kind = "other images" if len(table) == table["label"].nunique() else "images of other models"
        fewer = f"ask for at most {candidates.min()} (--count) or " if candidates.min() else ""
        raise InputError(f"neighbours: {whole} has fewer than {count} {kind}; {fewer}accept fewer (--fill)")
    return [torch.from_numpy(rows) for rows in table.groupby("group").indices.values()]


# --- features and files ----------------------------------------------------------------------------------------------


@torch.no_grad()
def image_features(rgb, image_size: int = 128, batch_size: int = 64) -> Float[Tensor, "images size"]:
    """L2-normalised ImageNet features (EfficientNet-Lite0) of uint8 images (N, H, W, 3) on white."""
    backbone = Backbone(LITE0, "imagenet", image_size, 127 / 255, 128 / 255).eval()
    batches = torch.as_tensor(rgb).split(batch_size)
    if len(batches) > 1:
        batches = tqdm(batches, "features", unit="batch")
    parts = [backbone(part.float() / 255) for part in batches]
    return F.normalize(torch.cat(parts), dim=-1)


def write_neighbors(folder: Path | str, count: int = 5) -> Path:
    """Find the neighbours of a prepared folder's images and write them to ``neighbors/efficientnet_lite0.parquet``."""
    folder = Path(folder)
    table = pd.read_parquet(folder / METADATA)
    images = [read_sample_images(folder / row.image, row.mask and folder / row.mask)[0] for row in table.itertuples()]
    groups = table["split"] + " " + table["category"]
    found = find_neighbors(image_features(np.stack(images)), count, groups=groups, exclude=table["model"])
    return save_neighbors(_path(folder, NEIGHBOR_FILE), table["id"], found, NEIGHBOR_FILE, lite0_checksum())


def save_neighbors(
    path: Path | str, ids: Sequence[str] | pd.Series, neighbors: Neighbors, embedding: str = "", checksum: str = ""
) -> Path:
    """Write neighbours as parquet, whole or not at all. Places without a neighbour have no row.

    `ids` are the names of the rows. The name and checksum of the embedding are kept in the file's metadata.
    """
    path, ids = Path(path), np.asarray(ids, dtype=object)
    images, count = neighbors.index.shape
    there = (neighbors.index >= 0).flatten().numpy()
    columns = {
        "id": np.repeat(ids, count),
        "neighbor": ids[neighbors.index.flatten().numpy()],
        "rank": np.tile(np.arange(count, dtype=np.int8 if count < 128 else np.int32), images),
        "score": neighbors.score.flatten().numpy().astype(np.float32),
    }
    table = pa.Table.from_pandas(pd.DataFrame({k: v[there] for k, v in columns.items()}), preserve_index=False)
    if embedding:
        notes = {"embedding": embedding, "embedding_sha256": checksum, "recall": f"{neighbors.recall:.4f}"}
        table = table.replace_schema_metadata({**table.schema.metadata, **notes})
    write_atomically(path, lambda temporary: pq.write_table(table, temporary))
    return path


def read_neighbors(
    folder: Path | str, metadata: pd.DataFrame, name: str = NEIGHBOR_FILE
) -> Int[Tensor, "samples count"]:
    """Rows of the neighbours of each sample of `metadata`.

    Parameters
    ----------
    folder : Path
        A prepared folder.
    metadata : DataFrame
        The samples of interest; their order decides the rows.
    name : str
        Of the file in ``neighbors/``.

    Raises
    ------
    InputError
        The file is missing or damaged, was made from another embedding than the folder now has under that name, names
        a sample that is not in `metadata`, or has not as many neighbours of each.
    """
    path = _path(folder, name)
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with lib.data.neighbors.write_neighbors")
    try:
        table = pd.read_parquet(path, columns=["id", "neighbor", "rank", "score"])
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        what = f"{path} is no readable file of neighbours ({type(error).__name__})"
        raise InputError(f"{what}; write it again") from error
    _check_embedding(path)
    row_of = pd.Series(np.arange(len(metadata)), index=metadata["id"])
    table = table[table["id"].isin(row_of.index)].sort_values(["id", "rank"])
    unknown = sorted(set(table["neighbor"]) - set(row_of.index))
    if unknown:
        raise InputError(f"{path} names the neighbour {unknown[0]!r}, which is no sample of this selection")
    counts = table.groupby("id").size().reindex(metadata["id"], fill_value=0)
    if counts.nunique() != 1:
        raise InputError(f"{path}: {_lacking(metadata, counts.to_numpy())}")
    others = row_of.loc[table["neighbor"]].to_numpy().reshape(len(metadata), -1)  # samples in the order of their ids
    return torch.from_numpy(others[metadata["id"].argsort().argsort().to_numpy()])


def _path(folder: Path | str, name: str) -> Path:
    return Path(folder) / "neighbors" / f"{name}.parquet"


def _lacking(metadata: pd.DataFrame, counts: Int[np.ndarray, " samples"]) -> str:
    """Which sample has fewer neighbours than others, why, and what to do: often there are no more."""
    row = int(counts.argmin())
    sample = metadata.iloc[row]
    inside = metadata[(metadata["split"] == sample["split"]) & (metadata["category"] == sample["category"])]
    others = int((inside["model"] != sample["model"]).sum())
    told = f"sample {sample['id']!r} has {counts[row]} neighbours, others have {counts.max()}"
    if counts[row] < others:
        return f"{told}; write the file again, without limits to similarity"
    why = f"category {sample['category']!r} has {len(inside)} {sample['split']} samples, {others} of other objects"
    fewer = f", or find neighbours again (python -m lib.data.neighbors) with --count {others}" if others else ""
    return f"{told}, for {why}; leave that category out (--categories){fewer}"


def _check_embedding(path: Path) -> None:
    """Compare the embedding that neighbours were made from with the one of that name in the folder now, if any."""
    notes = pq.read_schema(path).metadata or {}
    name, checksum = (notes.get(key, b"").decode() for key in (b"embedding", b"embedding_sha256"))
    present = path.parent.parent / "embeddings" / f"{name}.safetensors"
    if name and present.is_file():
        with safe_open(present, "pt") as file:
            now = (file.metadata() or {}).get("weights_sha256", "")
        if now != checksum:
            was, now = (f"{name} ({digits[:8] or 'no checksum'})" for digits in (checksum, now))
            raise InputError(f"{path} was made from {was}, not from {now}; find the neighbours again")


# --- command line ----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.neighbors", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="prepared folder with embeddings/MODEL.safetensors")
    parser.add_argument("--model", required=True, help="name of the embedding")
    parser.add_argument("--count", type=int, default=5, help="neighbours of an image (default: %(default)s)")
    parser.add_argument("--method", default="exact", choices=[*METHODS, "random"])
    parser.add_argument("--name", help="name of the file to write (default: the model's)")
    parser.add_argument("--min-similarity", type=float, default=-1.0, help="leave out less similar ones")
    parser.add_argument("--near-duplicate", type=float, help="skip images more similar than this, e.g. 0.999")
    parser.add_argument("--across-categories", action="store_true", help="neighbours of any category of the split")
    parser.add_argument("--same-model", action="store_true", help="allow other views of the image's own object")
    parser.add_argument("--fill", action="store_true", help="accept images that have fewer candidates than asked for")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), "Stopped; nothing was written, the same command starts again.")


def _run(options: argparse.Namespace) -> None:
    """Find the neighbours that the options ask for, write them, and say how good they are."""
    embeddings = read_embeddings(options.folder, options.model)
    table = read_prepared(options.folder).metadata
    groups = table["split"] if options.across_categories else table["split"] + " " + table["category"]
    exclude = np.arange(len(table)) if options.same_model else table["model"]
    if options.method == "random":
        found = random_neighbors(groups, exclude, options.count, options.seed, options.fill)
    else:
        names = ("count", "min_similarity", "near_duplicate", "method", "seed", "fill")
        asked = {name: getattr(options, name) for name in names}
        found = find_neighbors(embeddings.vectors, groups=groups, exclude=exclude, **asked)
    path = _path(options.folder, options.name or options.model)
    save_neighbors(path, embeddings.ids, found, embeddings.name, embeddings.checksum)
    lacking = int((found.index < 0).any(1).sum())
    print(f"{path}: {len(table)} images, recall {found.recall:.3f}, {lacking} with fewer than {options.count}")


if __name__ == "__main__":
    sys.exit(main())
