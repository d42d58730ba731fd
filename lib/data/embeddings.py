"""Embeddings of a prepared folder: ``python -m lib.data.embeddings FOLDER --model NAME``.

Written in parts, so that a run that was killed goes on, and several processes share the work (``accelerate launch -m
lib.data.embeddings ...``). What is in a part does not depend on who computes it: one process and two write the same.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.embedders import NAMES, Embedder, make_embedder
from lib.data.loading import read_row_images
from lib.data.prepared import METADATA, Prepared, read_prepared
from lib.errors import InputError, exit_code
from lib.files import sha256, write_atomically
from lib.networks.weights import read_tensors

__all__ = ["Embedder", "Embeddings", "embed_dataset", "embed_images", "make_embedder", "read_embeddings"]
PART = 256  # samples a part: what a kill can cost


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a dataset."""

    name: str  # of the embedder
    ids: list[str]  # in the order of ``metadata.parquet``
    vectors: Float[Tensor, "samples size"]  # float32, length 1
    checksum: str  # of the embedder's weights


def embed_images(
    embedder: Embedder, images, batch_size: int = 64, progress: bool = True
) -> Float[Tensor, "images size"]:
    """Unit vectors of pictures in memory: uint8, shape (N, H, W, 3), on white."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(f"images: expected uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}")
    starts = range(0, len(images), batch_size)
    starts = tqdm(starts, embedder.name, unit="batch") if progress else starts
    batches = ([Image.fromarray(image) for image in images[start : start + batch_size]] for start in starts)
    return torch.cat([embedder.encode(pictures) for pictures in batches])


def embed_dataset(
    folder: Path | str, embedder: Embedder, batch_size: int = 64, accelerator: Accelerator | None = None
) -> Path:
    """Embed a prepared folder and write ``<folder>/embeddings/<name>.safetensors``; what is there and fits, stays.

    The tensor "embeddings" (N, D), float32, has the rows of ``metadata.parquet``; the header says model, weights_sha256
    and metadata_sha256. Parts are kept in ``<name>.partial`` until all are there.

    Parameters
    ----------
    accelerator : Accelerator, optional
        Processes that share the work; each calls this function, and each must see the folder.

    Raises
    ------
    InputError
        The folder or one of its images cannot be read, or the disk is full; finished parts are kept.
    """
    prepared = read_prepared(folder)
    path = _path(prepared.folder, embedder.name)
    header = {"model": embedder.name, "weights_sha256": embedder.checksum}
    header["metadata_sha256"] = prepared.info["metadata_sha256"]
    if _has_header(path, header):
        return path
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    partial, plan = path.with_suffix(".partial"), header | {"batch_size": str(batch_size)}
    parts = [partial / f"{start:09d}.safetensors" for start in range(0, len(prepared.metadata), PART)]
    mine = parts[rank::processes]
    for part in tqdm(mine, embedder.name, unit="part") if rank == 0 else mine:
        if not _has_header(part, plan):
            vectors = _embed_part(prepared, embedder, int(part.stem), batch_size)
            write_atomically(part, lambda p, v=vectors: save_file({"embeddings": v}, p, metadata=plan))
    if accelerator:
        accelerator.wait_for_everyone()
    if rank == 0:
        vectors = torch.cat([read_tensors(part)["embeddings"] for part in parts])
        write_atomically(path, lambda p: save_file({"embeddings": vectors}, p, metadata=header))
        shutil.rmtree(partial)
    if accelerator:
        accelerator.wait_for_everyone()
    return path


def read_embeddings(folder: Path | str, name: str) -> Embeddings:
    """The embeddings of a prepared folder by the embedder of this name.

    Raises
    ------
    InputError
        They are missing, damaged, of another model, or of other metadata than the folder has now.
    """
    folder = Path(folder)
    path = _path(folder, name)
    if not path.is_file():
        raise InputError(f"{path} does not exist; write it with python -m lib.data.embeddings {folder} --model {name}")
    header = _header(path)
    if header.get("model") != name:
        raise InputError(f"{path} holds embeddings of {header.get('model')!r}, not of {name!r}; write it again")
    if header.get("metadata_sha256") != sha256(folder / METADATA):
        raise InputError(f"{path} was written for another {METADATA} than the folder has now; write it again")
    ids = read_prepared(folder).metadata["id"].tolist()
    vectors = read_tensors(path).get("embeddings")
    if vectors is None or vectors.dtype != torch.float32 or vectors.ndim != 2 or len(vectors) != len(ids):
        raise InputError(f"{path} holds no float32 matrix of {len(ids)} embeddings; write it again")
    return Embeddings(name, ids, vectors, header.get("weights_sha256", ""))


def _embed_part(prepared: Prepared, embedder: Embedder, start: int, batch_size: int) -> Tensor:
    rows = list(prepared.metadata.iloc[start : start + PART].itertuples())
    vectors = []
    for first in range(0, len(rows), batch_size):
        images = [read_row_images(prepared, row, False)[0] for row in rows[first : first + batch_size]]
        vectors.append(embedder.encode([Image.fromarray(image) for image in images]))
    return torch.cat(vectors).contiguous()


def _path(folder: Path, name: str) -> Path:
    return folder / "embeddings" / f"{name}.safetensors"


def _has_header(path: Path, header: dict[str, str]) -> bool:
    """Whether a file is there, whole and written for this; a header that can be read is that of a whole file."""
    try:
        return path.is_file() and _header(path) == header
    except InputError:
        return False


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and write it again") from error


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.data.embeddings", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a prepared folder")
    parser.add_argument("--model", default="efficientnet_lite0", help=NAMES)
    parser.add_argument("--weights", type=Path, help="a local checkpoint")
    parser.add_argument("--allow-download", action="store_true", help="fetch weights that are not at hand")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    accelerator = Accelerator(cpu=options.device == "cpu")
    embedder = make_embedder(options.model, options.weights, options.allow_download, accelerator.device)
    path = embed_dataset(options.folder, embedder, options.batch_size, accelerator)
    if accelerator.is_main_process:
        print(path)


if __name__ == "__main__":
    sys.exit(main())
