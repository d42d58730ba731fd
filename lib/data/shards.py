"""A prepared set for training on more images than fit into memory, by Hugging Face `datasets`.

`data_scripts/shard_dataset.py` writes such a folder: ``metadata.parquet``, ``dataset.json`` and ``neighbors/`` of the
prepared one, and ``arrow/``, a `datasets.Dataset` on disk whose columns image, mask and normal hold the files as they
are, in the order of the metadata. It is mapped into memory, so that the system keeps what was read last as far as
there is room.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.data.images import FileContent, read_sample_images
from lib.data.loading import CAMERA, PreparedDataset, fractions, select_rows, stacked, viewpoints_of
from lib.data.prepared import INFO, METADATA, Prepared
from lib.errors import InputError
from lib.files import read_json, sha256

ARROW = "arrow"
OLD_INDEX = "shards.json"  # of a format that was ours, before Hugging Face's
FILES = ("image", "mask", "normal")
COLUMNS = ["id", "category", "model", "split", "normal", *CAMERA]  # of the metadata, which is in memory
AGAIN = "write the folder again: python data_scripts/shard_dataset.py PREPARED"


def open_dataset(
    folder: Path | str, split: str | None = None, categories: list[str] | None = None, views: int | None = None
) -> PreparedDataset:
    """A part of a prepared folder in memory, or of one on disk as above; the arguments are `PreparedDataset`'s."""
    folder = Path(folder)
    if (folder / OLD_INDEX).is_file():
        raise InputError(f"{folder} holds shards of an earlier version; {AGAIN} {folder}")
    make = ShardedDataset if (folder / ARROW).is_dir() else PreparedDataset
    return make(folder, split, categories, views)


class ShardedDataset(PreparedDataset):
    """A part of a set on disk, with the face of `lib.data.loading.PreparedDataset` that training needs.

    Only the metadata is in memory. What needs every image at once is refused. Images, and so losses, are those of the
    set in memory, bit for bit. The arguments are `PreparedDataset`'s.
    """

    in_memory = False

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        categories: list[str] | None = None,
        views: int | None = None,
    ):
        import datasets  # takes a second to load

        folder = Path(folder)
        info = read_json(folder / INFO)
        try:
            whole = sha256(folder / METADATA) == info["metadata_sha256"]
            table = pd.read_parquet(folder / METADATA, columns=COLUMNS)
            self.files = datasets.load_from_disk(str(folder / ARROW))
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise InputError(f"{folder} is not whole ({type(error).__name__}); {AGAIN} {folder}") from error
        if not whole or len(table) != len(self.files):
            raise InputError(f"{METADATA} of {folder} does not fit {ARROW} and {INFO} beside it; {AGAIN} {folder}")
        self.prepared = Prepared(folder, info, table)
        chosen = select_rows(self.prepared, split, categories, views)
        self.rows, self.metadata = torch.tensor(chosen.index.to_numpy()), chosen.reset_index(drop=True)
        self.with_normals = bool(self.metadata["normal"].notna().all())
        self.viewpoint = viewpoints_of(self.metadata)

    def __getattr__(self, name: str):
        if name in ("rgb", "mask", "normal", "ray_weights"):
            what = f"{self.prepared.folder} is read from disk, so {name!r} of all its images is not in memory"
            raise InputError(f"{what}; use the prepared folder, or settings that need one batch at a time")
        raise AttributeError(name)

    def stored(self, rows: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Images, masks, normals and ray weights by row, decoded now."""
        return stacked(self._decoded(rows, self.with_normals), self.prepared.folder)

    def masks(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch height width"]:
        """Masks by row, in [0, 1]."""
        return fractions(torch.from_numpy(np.stack([mask for _, mask, _ in self._decoded(index, False)])))

    def _decoded(self, rows: Tensor, normals: bool) -> list[tuple]:
        """What `read_sample_images` gives for samples."""
        found = self.files[self.rows[rows].tolist()]
        kinds = FILES if normals else FILES[:2]
        sources = ([file and FileContent(file["bytes"], file["path"]) for file in found[kind]] for kind in kinds)
        return [read_sample_images(*files) for files in zip(*sources, strict=True)]

    def near(self, device: torch.device) -> "ShardedDataset":
        """Itself: images are read as batches ask."""
        return self

    def mesh(self, row: int):
        """Refused: the folder holds what training needs."""
        raise InputError(f"{self.prepared.folder} has no meshes, sample {row} among them; use the prepared folder")
