"""A prepared set as parquet shards, for training on more images than fit into memory: rows are read as batches ask.

A sharded folder holds ``metadata.parquet``, ``dataset.json`` and ``neighbors/`` of the prepared one, ``shards.json``,
and ``shards/00000.parquet`` and so on, in the order of the metadata. Row groups are small, so that one image costs
the reading of few others; the last ones read are kept, up to a number of bytes. Images are shuffled as in memory, all
with all.
"""

from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.data.loading import CAMERA, PreparedDataset, select_rows, viewpoints_of
from lib.data.prepared import INFO, METADATA, Prepared, sha256
from lib.errors import InputError
from lib.files import read_json
from lib.rendering.sampling import ray_weights

INDEX = "shards.json"
CACHE = 2**30  # bytes of decoded row groups that are kept
OPEN_FILES = 64
COLUMNS = ["id", "category", "model", "split", *CAMERA]  # of the metadata, which is in memory
AGAIN = "write the shards again with shard_dataset.py"
WHOLE = ("rgb", "mask", "normal", "ray_weights")  # what a set in memory has as one tensor


@dataclass(frozen=True)
class Layout:
    """``shards.json``: how rows lie in the shards, and whose they are.

    Attributes
    ----------
    samples, rows_per_shard, rows_per_group : int
        All shards but the last are full.
    image_size : int
        Pixels a side.
    normals : bool
        Whether every sample has them.
    dataset : str
        Checksum of the metadata; every shard carries it.
    """

    samples: int
    rows_per_shard: int
    rows_per_group: int
    image_size: int
    normals: bool
    dataset: str

    @property
    def shards(self) -> int:
        """Number of files."""
        return -(-self.samples // self.rows_per_shard)

    def rows_of(self, shard: int) -> range:
        """Rows of the metadata in a shard."""
        first = shard * self.rows_per_shard
        return range(first, min(first + self.rows_per_shard, self.samples))


def shard_path(folder: Path, shard: int) -> Path:
    """Where a shard lies."""
    return folder / "shards" / f"{shard:05d}.parquet"


def open_dataset(
    folder: Path | str, split: str | None = None, categories: list[str] | None = None, views: int | None = None
) -> PreparedDataset:
    """A part of a prepared folder in memory, or of a sharded one on disk; the arguments are `PreparedDataset`'s."""
    make = ShardedDataset if (Path(folder) / INDEX).is_file() else PreparedDataset
    return make(folder, split, categories, views)


def read_layout(folder: Path) -> Layout:
    """Read ``shards.json``.

    Raises
    ------
    InputError
        It is damaged.
    """
    found = read_json(folder / INDEX)
    if not isinstance(found, dict) or found.keys() != {f.name for f in fields(Layout)}:
        raise InputError(f"{folder / INDEX} does not describe shards; {AGAIN}")
    return Layout(**found)


def open_shard(folder: Path, layout: Layout, shard: int) -> pq.ParquetFile:
    """Open a shard and check that it is whole and one of these.

    Raises
    ------
    InputError
        It is missing, damaged, or of another dataset.
    """
    path = shard_path(folder, shard)
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InputError(f"The shard {path} is missing; {AGAIN}") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"The shard {path} is damaged ({type(error).__name__}); {AGAIN}") from error
    notes = file.schema_arrow.metadata or {}
    mine = (notes.get(b"dataset", b"").decode(), notes.get(b"shard", b"").decode(), file.metadata.num_rows)
    if mine != (layout.dataset, str(shard), len(layout.rows_of(shard))):
        raise InputError(f"The shard {path} belongs to another dataset or place; {AGAIN}")
    return file


class ShardedDataset(PreparedDataset):
    """A part of a sharded folder, with the face of `lib.data.loading.PreparedDataset` that training needs.

    Only the metadata is in memory, and the row groups read last. What needs every image at once is refused. Images,
    and so losses, are those of the set in memory, bit for bit.

    Parameters
    ----------
    folder, split, categories, views
        As of `PreparedDataset`.
    cache : int
        Bytes of decoded row groups that are kept.

    Attributes
    ----------
    cached, groups_read : int
        Bytes kept at the moment, and row groups read so far.

    Raises
    ------
    InputError
        The folder or a shard is not what it should be, or nothing is selected.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        categories: list[str] | None = None,
        views: int | None = None,
        cache: int = CACHE,
    ):
        folder = Path(folder)
        self.layout = read_layout(folder)
        self.prepared = _read_tables(folder, self.layout)
        chosen = select_rows(self.prepared, split, categories, views)
        self.rows, self.metadata = torch.tensor(chosen.index.to_numpy()), chosen.reset_index(drop=True)
        self.viewpoint = viewpoints_of(self.metadata)
        self.limit, self.cached, self.groups_read = cache, 0, 0
        self._groups: OrderedDict[tuple[int, int], dict[str, np.ndarray]] = OrderedDict()
        self._files: OrderedDict[int, pq.ParquetFile] = OrderedDict()

    def __getattr__(self, name: str):
        if name in WHOLE:
            what = f"{self.prepared.folder} is read in shards, so {name!r} of all its images is not in memory"
            raise InputError(f"{what}; use the prepared folder, or settings that need one batch at a time")
        raise AttributeError(name)

    def mesh(self, row: int):
        """Refused: shards hold what training needs."""
        raise InputError(f"{self.prepared.folder} has no meshes, sample {row} among them; use the prepared folder")

    def stored(self, rows: Int[Tensor, " batch"]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Images, masks, normals and ray weights by row, read from the shards where they are not at hand."""
        samples = self._read(rows, WHOLE[: 3 if self.layout.normals else 2])
        weights = torch.from_numpy(np.stack([ray_weights(mask > 127) for mask in samples["mask"]]))
        whole = {name: torch.from_numpy(values) for name, values in samples.items()}
        return whole["rgb"], whole["mask"], whole.get("normal"), weights

    def near(self, device: torch.device) -> "ShardedDataset":
        """Itself: images are read as batches ask."""
        return self

    def masks(self, index: Int[Tensor, " batch"]) -> Float[Tensor, "batch height width"]:
        """Masks by row, in [0, 1]."""
        return torch.from_numpy(self._read(index, ("mask",))["mask"]).float() / 255

    def _read(self, index: Tensor, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        """Values of samples, group by group, so that a group is read once for all that are in it."""
        rows = self.rows[index].tolist()
        found: list[dict[str, np.ndarray]] = [{}] * len(rows)
        for place in sorted(range(len(rows)), key=rows.__getitem__):
            shard, within = divmod(rows[place], self.layout.rows_per_shard)
            group, offset = divmod(within, self.layout.rows_per_group)
            values = self._group(shard, group)
            found[place] = {name: values[name][offset] for name in names}
        return {name: np.stack([sample[name] for sample in found]) for name in names}

    def _group(self, shard: int, group: int) -> dict[str, np.ndarray]:
        key = (shard, group)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        values = self._decode(shard, group)
        self.groups_read += 1
        size = _bytes(values)
        while self._groups and self.cached + size > self.limit:
            self.cached -= _bytes(self._groups.popitem(last=False)[1])
        if size <= self.limit:
            self._groups[key], self.cached = values, self.cached + size
        return values

    def _decode(self, shard: int, group: int) -> dict[str, np.ndarray]:
        try:
            table = self._file(shard).read_row_group(group, use_threads=False)
        except (OSError, IndexError, pa.ArrowException) as error:
            path = shard_path(self.prepared.folder, shard)
            what = f"The shard {path} is damaged ({type(error).__name__})"
            raise InputError(f"{what}; {AGAIN}") from error
        size, kinds = self.layout.image_size, {"rgb": ("u1", 3), "mask": ("u1", 1), "normal": ("f2", 3)}
        values = {}
        for name in table.column_names:
            kind, channels = kinds[name]
            flat = np.frombuffer(b"".join(table[name].to_pylist()), kind).copy()
            shape = (table.num_rows, size, size) + ((channels,) if channels > 1 else ())
            values[name] = flat.reshape(shape)
        return values

    def _file(self, shard: int) -> pq.ParquetFile:
        if shard not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = open_shard(self.prepared.folder, self.layout, shard)
        self._files.move_to_end(shard)
        return self._files[shard]


def _read_tables(folder: Path, layout: Layout) -> Prepared:
    """The tables of a sharded folder; they were checked when the shards were written."""
    info, path = read_json(folder / INFO), folder / METADATA
    if not path.is_file() or sha256(path) != layout.dataset:
        raise InputError(f"{folder / INDEX} does not belong to {METADATA} beside it; {AGAIN}")
    return Prepared(folder, info, pd.read_parquet(path, columns=COLUMNS))


def _bytes(values: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in values.values())
