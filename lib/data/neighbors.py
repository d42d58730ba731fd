"""Semantic neighbours: for each image the K others of its split and category with the most similar features."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from lib.errors import InputError

NEIGHBOR_FILE = "efficientnet_lite0"


@torch.no_grad()
def image_features(rgb, image_size: int = 128, batch_size: int = 64) -> Float[Tensor, "images size"]:
    """L2-normalised ImageNet features (EfficientNet-Lite0) of uint8 images (N, H, W, 3) on white."""
    from lib.encoders import LITE0, Backbone

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
    similarity = (features @ features.T).numpy()
    allowed = groups.to_numpy()[:, None] == groups.to_numpy()[None]
    if models is not None:
        allowed &= models.to_numpy()[:, None] != models.to_numpy()[None]
    np.fill_diagonal(allowed, False)
    if allowed.sum(axis=1).min() < count:
        row = int(allowed.sum(axis=1).argmin())
        raise InputError(f"neighbours: group {groups.iloc[row]!r} has fewer than {count} images of other models")
    ranked = np.argsort(np.where(allowed, -similarity, np.inf), axis=1, kind="stable")[:, :count]
    return ranked, np.take_along_axis(similarity, ranked, axis=1)


def write_neighbors(folder: Path | str, count: int = 5) -> Path:
    """Find the neighbours of a prepared folder's images and write them to ``neighbors/efficientnet_lite0.parquet``.

    Columns: id, neighbor (an id), rank (from 0), score (cosine similarity).
    """
    from lib.data.images import read_sample_images

    folder = Path(folder)
    table = pd.read_parquet(folder / "metadata.parquet")
    images = [read_sample_images(folder / row.image, row.mask and folder / row.mask)[0] for row in table.itertuples()]
    groups = table["split"] + " " + table["category"]
    rows, scores = nearest(image_features(np.stack(images)), groups, table["model"], count)
    ids = table["id"].to_numpy()
    result = pd.DataFrame(
        {
            "id": np.repeat(ids, count),
            "neighbor": ids[rows.ravel()],
            "rank": np.tile(np.arange(count, dtype=np.int8), len(ids)),
            "score": scores.ravel().astype(np.float32),
        }
    )
    path = folder / "neighbors" / f"{NEIGHBOR_FILE}.parquet"
    path.parent.mkdir(exist_ok=True)
    result.to_parquet(path, index=False)
    return path


def read_neighbors(folder: Path | str, metadata: pd.DataFrame, name: str = NEIGHBOR_FILE) -> Tensor:
    """Rows of the neighbours of each sample of `metadata`: a LongTensor (N, K).

    Raises
    ------
    InputError
        The file is missing, lacks a sample, or names a sample that is not in `metadata`.
    """
    path = Path(folder) / "neighbors" / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with lib.data.neighbors.write_neighbors")
    table = pd.read_parquet(path)
    row_of = pd.Series(np.arange(len(metadata)), index=metadata["id"])
    table = table[table["id"].isin(row_of.index)].sort_values(["id", "rank"])
    unknown = sorted(set(table["neighbor"]) - set(row_of.index))
    if unknown:
        raise InputError(f"{path} names the neighbour {unknown[0]!r}, which is no sample of this selection")
    counts = table.groupby("id").size().reindex(metadata["id"])
    if counts.isna().any() or counts.nunique() != 1:
        row = int((counts.isna() | (counts != counts.max())).to_numpy().argmax())
        raise InputError(f"{path} lacks neighbours of sample {metadata['id'].iloc[row]!r}; write it again")
    wide = row_of.loc[table["neighbor"]].to_numpy().reshape(len(metadata), -1)
    order = row_of.loc[table["id"].drop_duplicates()].to_numpy()
    result = np.empty_like(wide)
    result[order] = wide
    return torch.from_numpy(result)
