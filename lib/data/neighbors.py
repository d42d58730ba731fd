"""Semantic neighbours: for each image the K others of its split and category with the most similar features.

    python -m lib.data.neighbors FOLDER --model efficientnet_lite0 --count 5 --method exact --name OUT

finds them for the embeddings that `lib.data.embeddings` wrote into a prepared folder, and writes
``neighbors/OUT.parquet``, one row a neighbour: id, neighbor (an id), rank (from 0), score (cosine similarity). The
file's metadata say which embedding it was made from (name and checksum of its weights).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from lib.data.neighbor_exact import Neighbors, recall
from lib.data.neighbor_index import find_neighbors, random_neighbors
from lib.errors import InputError, exit_code

__all__ = [
    "NEIGHBOR_FILE",
    "Neighbors",
    "find_neighbors",
    "image_features",
    "nearest",
    "random_neighbors",
    "read_neighbors",
    "recall",
    "save_neighbors",
    "write_neighbors",
]
NEIGHBOR_FILE = "efficientnet_lite0"


@torch.no_grad()
def image_features(rgb, image_size: int = 128, batch_size: int = 64) -> Float[Tensor, "images size"]:
    """L2-normalised ImageNet features (EfficientNet-Lite0) of uint8 images (N, H, W, 3) on white."""
    from lib.networks.backbones import LITE0, Backbone

    backbone = Backbone(LITE0, "imagenet", image_size, 127 / 255, 128 / 255).eval()
    parts = [backbone(part.float() / 255) for part in torch.as_tensor(rgb).split(batch_size)]
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def nearest(
    features: Float[Tensor, "images size"], groups: pd.Series, models: pd.Series | None, count: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Exact cosine neighbours within a group.

    Parameters
    ----------
    features : Tensor
        L2-normalised rows.
    groups : Series of N labels
        Neighbours come from the same group (a split and category).
    models : Series of N labels, optional
        Images of one model are never neighbours of each other: otherwise recoloured copies of the query's own object
        are the nearest, and semantic consistency becomes multi-view supervision in disguise. None allows them.
    count : int
        K.

    Returns
    -------
    tuple of arrays (N, K)
        Rows of the neighbours, best first, and their cosine similarities.
    """
    found = find_neighbors(features, count, groups=groups, exclude=models)
    return found.index.numpy(), found.score.numpy()


def write_neighbors(folder: Path | str, count: int = 5) -> Path:
    """Find the neighbours of a prepared folder's images and write them to ``neighbors/efficientnet_lite0.parquet``."""
    from lib.data.embedders import lite0_checksum
    from lib.data.images import read_sample_images

    folder = Path(folder)
    table = pd.read_parquet(folder / "metadata.parquet")
    images = [read_sample_images(folder / row.image, row.mask and folder / row.mask)[0] for row in table.itertuples()]
    groups = table["split"] + " " + table["category"]
    found = find_neighbors(image_features(np.stack(images)), count, groups=groups, exclude=table["model"])
    return save_neighbors(_path(folder, NEIGHBOR_FILE), table["id"], found, NEIGHBOR_FILE, lite0_checksum())


def save_neighbors(
    path: Path | str, ids: Sequence[str] | pd.Series, neighbors: Neighbors, embedding: str = "", checksum: str = ""
) -> Path:
    """Write neighbours as parquet, whole or not at all. Places without a neighbour have no row.

    Parameters
    ----------
    path : Path
        Its folder is made if missing.
    ids : N texts
        Names of the rows.
    neighbors : Neighbors
        Of N rows.
    embedding, checksum : str
        What they were made from, kept in the file's metadata; see `read_neighbors`.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, partial)
    partial.replace(path)
    return path


def read_neighbors(
    folder: Path | str,
    metadata: pd.DataFrame,
    name: str = NEIGHBOR_FILE,
    embedding: tuple[str, str] | None = None,
    fill: bool = False,
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
    embedding : (name, checksum), optional
        The embedding that the neighbours must have been made from.
    fill : bool
        Accept samples with fewer neighbours than others; their last places are -1.

    Raises
    ------
    InputError
        The file is missing, was made from another embedding, lacks a sample, or names a sample that is not in
        `metadata`.
    """
    path = _path(folder, name)
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with lib.data.neighbors.write_neighbors")
    table = _read_table(path)
    _check_embedding(path, embedding)
    row_of = pd.Series(np.arange(len(metadata)), index=metadata["id"])
    table = table[table["id"].isin(row_of.index)].sort_values(["id", "rank"])
    unknown = sorted(set(table["neighbor"]) - set(row_of.index))
    if unknown:
        raise InputError(f"{path} names the neighbour {unknown[0]!r}, which is no sample of this selection")
    counts = table.groupby("id").size().reindex(metadata["id"])
    if not fill and (counts.isna().any() or counts.nunique() != 1):
        raise InputError(f"{path}: {_lacking(metadata, counts.fillna(0).to_numpy(dtype=int))}")
    place = table.groupby("id").cumcount().to_numpy()
    result = torch.full((len(metadata), int(place.max(initial=-1)) + 1), -1)
    rows, others = (torch.tensor(row_of.loc[table[name]].to_numpy()) for name in ("id", "neighbor"))
    result[rows, torch.tensor(place)] = others
    return result


def _path(folder: Path | str, name: str) -> Path:
    return Path(folder) / "neighbors" / f"{name}.parquet"


def _lacking(metadata: pd.DataFrame, counts: Int[np.ndarray, " samples"]) -> str:
    """Why samples have fewer neighbours than others, and what to do: often there are no more."""
    row = int(counts.argmin())
    sample, most = metadata.iloc[row], counts.max()
    inside = metadata[(metadata["split"] == sample["split"]) & (metadata["category"] == sample["category"])]
    others = int((inside["model"] != sample["model"]).sum())
    told = f"sample {sample['id']!r} has {counts[row]} neighbours, others have {most}"
    if counts[row] < others:
        return f"{told}; write the file again, without limits to similarity"
    why = f"category {sample['category']!r} has {len(inside)} {sample['split']} samples, {others} of other objects"
    fewer = f", or find neighbours again (python -m lib.data.neighbors) with --count {others}" if others else ""
    return f"{told}, for {why}; leave that category out (--categories){fewer}"


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=["id", "neighbor", "rank", "score"])
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise InputError(
            f"{path} is no readable file of neighbours ({type(error).__name__}); write it again"
        ) from error


def _check_embedding(path: Path, wanted: tuple[str, str] | None) -> None:
    """Compare with the embedding that is asked for, else with the one of that name that lies in the folder now."""
    notes = pq.read_schema(path).metadata or {}
    made_from = tuple(notes.get(key, b"").decode() for key in (b"embedding", b"embedding_sha256"))
    present = path.parent.parent / "embeddings" / f"{made_from[0]}.safetensors"
    if wanted is None and made_from[0] and present.is_file():
        with safe_open(present, "pt") as file:
            wanted = (made_from[0], (file.metadata() or {}).get("weights_sha256", ""))
    if wanted is not None and made_from != tuple(wanted):
        was, now = (
            f"{name or 'an unnamed embedding'} ({sha[:8] or 'no checksum'})" for name, sha in (made_from, wanted)
        )
        raise InputError(f"{path} was made from {was}, not from {now}; find the neighbours again")


# --- command line ----------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = parse(arguments)
    return exit_code(lambda: write_found(options), "Stopped; nothing was written, the same command starts again.")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.neighbors", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="prepared folder with embeddings/MODEL.safetensors")
    parser.add_argument("--model", required=True, help="name of the embedding")
    parser.add_argument("--count", type=int, default=5, help="neighbours of an image (default: %(default)s)")
    parser.add_argument("--method", default="exact", choices=["exact", "ivf", "hnsw", "random"])
    parser.add_argument("--name", help="name of the file to write (default: the model's)")
    parser.add_argument(
        "--min-similarity", type=float, default=-1.0, help="leave out neighbours less similar than this"
    )
    parser.add_argument("--near-duplicate", type=float, help="skip images more similar than this, e.g. 0.999; "
        "copies that prepare_photos.py found count as one object and need no such limit")  # fmt: skip
    parser.add_argument("--across-categories", action="store_true", help="neighbours of any category of the split")
    parser.add_argument("--same-model", action="store_true", help="allow other views of the image's own object")
    parser.add_argument("--fill", action="store_true", help="accept images that have fewer candidates than asked for")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


def write_found(options: argparse.Namespace) -> Path:
    """Find the neighbours that the options ask for, write them, and say how good they are."""
    from lib.data.embeddings import read_embeddings  # loads the embedding networks: only when needed
    from lib.data.prepared import read_prepared

    embeddings = read_embeddings(options.folder, options.model)
    table = read_prepared(options.folder).metadata.set_index("id").loc[list(embeddings.ids)]
    groups = table["split"] if options.across_categories else table["split"] + " " + table["category"]
    exclude = np.arange(len(table)) if options.same_model else table["model"]
    if options.method == "random":
        found = random_neighbors(groups, exclude, options.count, options.seed, options.fill)
    else:
        limits = {"min_similarity": options.min_similarity, "near_duplicate": options.near_duplicate}
        asked = {"groups": groups, "exclude": exclude, "method": options.method, "seed": options.seed}
        found = find_neighbors(embeddings.vectors, options.count, **asked, **limits, fill=options.fill)
    path = _path(options.folder, options.name or options.model)
    path = save_neighbors(path, embeddings.ids, found, embeddings.name, embeddings.checksum)
    lacking = int((found.index < 0).any(1).sum())
    print(f"{path}: {len(table)} images, recall {found.recall:.3f}, {lacking} with fewer than {options.count}")
    return path


if __name__ == "__main__":
    sys.exit(main())
