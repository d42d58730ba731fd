"""Write a prepared folder in the form that is trained on from disk, for a set larger than memory.

python data_scripts/shard_dataset.py runs/data/openimages runs/data/openimages-shards

The new folder holds the image files in a few large ones, as a `datasets.Dataset` of Hugging Face (`lib.data.shards`),
and what training reads beside them: the metadata and the neighbours that were found before. `python -m lib.training`
takes it like any prepared folder. A stopped run begins anew.
"""

import argparse
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from data_scripts.output import NOTE, check_output, going_on, partial_of, publish, take_up
from lib.data.loading import read_row_images
from lib.data.prepared import INFO, METADATA, Prepared, read_prepared
from lib.data.shards import ARROW, FILES, OLD_INDEX
from lib.errors import InputError, exit_code


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a prepared folder")
    parser.add_argument("output", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    return exit_code(lambda: shard(options.folder, options.output), "Stopped; the same command begins again.")


def shard(folder: Path, output: Path) -> None:
    """Write a prepared folder's images as a dataset on disk.

    Raises
    ------
    InputError
        The folder is not prepared, its images cannot be used or differ in size, or the output is something else.
    """
    import datasets  # after the arguments are read: takes a second to load

    earlier = (output / OLD_INDEX).is_file()  # is replaced as well
    check_output(output, folder, holds=(OLD_INDEX,) if earlier else (f"{ARROW}/state.json",))
    with going_on(output):
        prepared, partial = read_prepared(folder), partial_of(output)
        take_up(partial, {"source": prepared.info["metadata_sha256"]})
        check_images(prepared)
        shutil.rmtree(partial / ARROW, ignore_errors=True)  # of a stopped run
        paths = {n: [p and str(prepared.path(p)) for p in prepared.metadata[n]] for n in FILES}
        features = datasets.Features({name: datasets.Image(decode=False) for name in FILES})
        datasets.Dataset.from_dict(paths, features=features).save_to_disk(str(partial / ARROW))  # reads the files
        for name in (METADATA, INFO):
            shutil.copyfile(folder / name, partial / name)
        if (folder / "neighbors").is_dir():
            shutil.copytree(folder / "neighbors", partial / "neighbors", dirs_exist_ok=True)
        publish(partial, output)
        shutil.rmtree(output / NOTE.parent)
    print(f"{len(prepared.metadata)} images in {output}")


def check_images(prepared: Prepared) -> None:
    """Refuse images that training could not use, before any is copied."""
    size = None
    for row in tqdm(prepared.metadata.itertuples(), total=len(prepared.metadata), unit="image"):
        mask = read_row_images(prepared, row, isinstance(row.normal, str))[1]
        size = size or mask.shape
        if mask.shape != size:
            what = f"{prepared.path(row.image)} is not {size[1]} x {size[0]} as the first image"
            raise InputError(f"{what}; prepare all at one size")


if __name__ == "__main__":
    sys.exit(main())
