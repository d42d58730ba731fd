"""Write a prepared folder as parquet shards, so that a set larger than memory can be trained on.

python data_scripts/shard_dataset.py runs/data/openimages runs/data/openimages-shards

Shards hold the decoded images (colours on white, masks, normals), compressed, and the folder what training reads beside
them: the metadata and the neighbours that were found before. A stopped run goes on where it was; the same folder gives
the same bytes. `python -m lib.training` takes the result like any prepared folder.
"""

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from data_scripts.options import positive
from data_scripts.output import NOTE, check_output, going_on, partial_of, publish, take_up
from lib.data.loading import read_row_images
from lib.data.prepared import INFO, METADATA, Prepared, read_prepared
from lib.data.shards import INDEX, Layout, open_shard, shard_path
from lib.errors import InputError, exit_code
from lib.files import write_atomically, write_json

GROUP_BYTES = 2**20  # of decoded images that are read together


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: shard(options.folder, options.output, options.rows_per_shard))


def shard(folder: Path, output: Path, rows_per_shard: int = 2048) -> None:
    """Write the shards of a prepared folder.

    Raises
    ------
    InputError
        The folder is not prepared, its images differ in size, or the output is something else.
    """
    check_output(output, folder, holds=(INDEX,))
    with going_on(output):
        _shard(read_prepared(folder), output, rows_per_shard)


def _shard(prepared: Prepared, output: Path, rows_per_shard: int) -> None:
    folder, layout, partial = prepared.folder, _layout(prepared, rows_per_shard), partial_of(output)
    take_up(partial, asdict(layout))
    write_json(partial / INDEX, asdict(layout))
    with tqdm(total=layout.samples, unit="image") as bar:
        for number in range(layout.shards):
            rows = layout.rows_of(number)
            if not _is_done(partial, layout, number):
                _write(prepared, layout, partial, number)
            bar.update(len(rows))
    for name in (METADATA, INFO):
        shutil.copyfile(folder / name, partial / name)
    if (folder / "neighbors").is_dir():
        shutil.copytree(folder / "neighbors", partial / "neighbors", dirs_exist_ok=True)
    size = sum(path.stat().st_size for path in partial.glob("shards/*"))
    publish(partial, output)
    shutil.rmtree(output / NOTE.parent)
    print(f"{layout.samples} images in {layout.shards} shards, {size / layout.samples:.0f} bytes an image, in {output}")


def _layout(prepared: Prepared, rows_per_shard: int) -> Layout:
    table = prepared.metadata
    first = _sample(prepared, next(table.itertuples()), bool(table["normal"].notna().all()))
    group = max(1, GROUP_BYTES // sum(array.nbytes for array in first.values()))
    size, checksum = first["mask"].shape[0], prepared.info["metadata_sha256"]
    return Layout(len(table), rows_per_shard, min(group, rows_per_shard), size, "normal" in first, checksum)


def _is_done(partial: Path, layout: Layout, number: int) -> bool:
    try:
        open_shard(partial, layout, number).close()
    except InputError:
        return False
    return True


def _write(prepared: Prepared, layout: Layout, partial: Path, number: int) -> None:
    kinds = ["rgb", "mask", "normal"] if layout.normals else ["rgb", "mask"]
    notes = {"dataset": layout.dataset, "shard": str(number)}
    schema = pa.schema([(name, pa.binary()) for name in kinds], metadata=notes)
    how = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema, **how) as writer:
            rows, size = layout.rows_of(number), layout.rows_per_group
            for first in range(rows.start, rows.stop, size):
                part = prepared.metadata.iloc[first : min(first + size, rows.stop)]
                writer.write_table(_table(prepared, layout, part, schema), row_group_size=size)

    write_atomically(shard_path(partial, number), write)


def _table(prepared: Prepared, layout: Layout, rows: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    samples = [_sample(prepared, row, layout.normals) for row in rows.itertuples()]
    for row, sample in zip(rows.itertuples(), samples, strict=True):
        if sample["mask"].shape != (layout.image_size,) * 2:
            size = f"{layout.image_size} x {layout.image_size}"
            raise InputError(f"{prepared.folder / row.image} is not {size} as the first image; prepare all at one size")
    columns = [pa.array([sample[name].tobytes() for sample in samples], pa.binary()) for name in schema.names]
    return pa.Table.from_arrays(columns, schema=schema)


def _sample(prepared: Prepared, row, normals: bool) -> dict[str, np.ndarray]:
    """What `lib.data.loading.PreparedDataset` keeps of a sample."""
    rgb, mask, normal = read_row_images(prepared, row, normals)
    return {"rgb": rgb, "mask": mask, **({} if normal is None else {"normal": normal.astype(np.float16)})}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a prepared folder")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--rows-per-shard", type=positive, default=2048, help="images a file (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
