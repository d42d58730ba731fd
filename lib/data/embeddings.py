"""Embeddings of a prepared folder: ``python -m lib.data.embeddings FOLDER --model NAME``.

Written in parts, so that a run that was killed goes on, and several processes share the work (``accelerate launch -m
lib.data.embeddings ...``). What is in a part does not depend on who computes it: one process and two write the same.
"""

import argparse
import os
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
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.embedders import NAMES, Embedder, make_embedder
from lib.data.images import read_sample_images
from lib.data.prepared import METADATA, Prepared, read_prepared, sha256
from lib.errors import InputError, exit_code
from lib.files import read_json, read_tensors, write_atomically, write_json

__all__ = ["Embedder", "Embeddings", "embed_dataset", "embed_images", "make_embedder", "read_embeddings"]
PART = 256  # samples a part: what a kill can cost


@dataclass(frozen=True)
class Embeddings:
    """The vectors of a dataset.

    Attributes
    ----------
    name : str
        Of the embedder.
    ids : list of str
        Samples, in the order of ``metadata.parquet``.
    vectors : Tensor, shape (N, D)
        float32, length 1.
    checksum : str
        Of the embedder's weights.
    """

    name: str
    ids: list[str]
    vectors: Float[Tensor, "samples size"]
    checksum: str


def embed_images(
    embedder: Embedder, images, batch_size: int = 64, progress: bool = True
) -> Float[Tensor, "images size"]:
    """Unit vectors of pictures in memory: uint8, shape (N, H, W, 3), on white."""
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or len(images) == 0:
        raise InputError(f"images: expected uint8 of shape (N, H, W, 3), got {images.dtype} {images.shape}")
    quiet = not progress or bool(os.environ.get("TQDM_DISABLE"))
    vectors = []
    with tqdm(total=len(images), unit="image", desc=embedder.name, disable=quiet) as bar:
        for start in range(0, len(images), batch_size):
            pictures = [Image.fromarray(image) for image in images[start : start + batch_size]]
            vectors.append(embedder.encode(pictures))
            bar.update(len(pictures))
    return torch.cat(vectors)


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
    if _is_done(path, header):
        return path
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    partial = path.with_suffix(".partial")
    if rank == 0:
        _open_partial(partial, header | {"batch_size": batch_size, "size": embedder.size})
    _wait(accelerator)
    parts = [partial / f"{start:09d}.safetensors" for start in range(0, len(prepared.metadata), PART)]
    _write_parts(parts[rank::world], prepared, embedder, batch_size, _quiet(rank))
    _wait(accelerator)
    if rank == 0:
        vectors = torch.cat([read_tensors(part)["embeddings"] for part in parts])
        write_atomically(path, lambda p: save_file({"embeddings": vectors}, p, metadata=header))
        shutil.rmtree(partial)
    _wait(accelerator)
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


def _write_parts(parts: list[Path], prepared: Prepared, embedder: Embedder, batch_size: int, quiet: bool) -> None:
    for part in tqdm(parts, unit="part", desc=embedder.name, disable=quiet):
        if not _is_readable(part):
            vectors = _embed_part(prepared, embedder, int(part.stem), batch_size, quiet)
            write_atomically(part, lambda p, v=vectors: save_file({"embeddings": v}, p))


def _embed_part(prepared: Prepared, embedder: Embedder, start: int, batch_size: int, quiet: bool) -> Tensor:
    rows = list(prepared.metadata.iloc[start : start + PART].itertuples())
    vectors = []
    for first in tqdm(range(0, len(rows), batch_size), unit="batch", leave=False, disable=quiet):
        batch = rows[first : first + batch_size]
        vectors.append(embedder.encode([_picture(prepared, row) for row in batch]))
    return torch.cat(vectors).contiguous()


def _picture(prepared: Prepared, row) -> Image.Image:
    mask = prepared.path(row.mask) if isinstance(row.mask, str) else None
    return Image.fromarray(read_sample_images(prepared.path(row.image), mask)[0])


def _path(folder: Path, name: str) -> Path:
    return folder / "embeddings" / f"{name}.safetensors"


def _open_partial(partial: Path, plan: dict) -> None:
    """Keep parts of the same plan, drop those of another."""
    try:
        same = read_json(partial / "plan.json") == plan
    except InputError:
        same = False
    if not same:
        shutil.rmtree(partial, ignore_errors=True)
        write_json(partial / "plan.json", plan)


def _is_done(path: Path, header: dict) -> bool:
    try:
        return path.is_file() and _header(path) == header
    except InputError:
        return False


def _is_readable(part: Path) -> bool:
    try:
        return part.is_file() and "embeddings" in load_file(part)
    except SafetensorError:
        return False


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); delete it and write it again") from error


def _wait(accelerator: Accelerator | None) -> None:
    if accelerator is not None:
        accelerator.wait_for_everyone()


def _quiet(rank: int) -> bool:
    return rank != 0 or bool(os.environ.get("TQDM_DISABLE"))


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parse(arguments)
    return exit_code(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.batch_size < 1:
        raise InputError("--batch-size must be at least 1")
    accelerator = Accelerator(cpu=options.device == "cpu")
    settings = (options.weights, options.allow_download, accelerator.device)
    path = embed_dataset(options.folder, make_embedder(options.model, *settings), options.batch_size, accelerator)
    if accelerator.is_main_process:
        print(path)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lib.data.embeddings", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="a prepared folder")
    parser.add_argument("--model", default="efficientnet_lite0", help=NAMES)
    parser.add_argument("--weights", type=Path, help="a local checkpoint")
    parser.add_argument("--allow-download", action="store_true", help="fetch weights that are not at hand")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
