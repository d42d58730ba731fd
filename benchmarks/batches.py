"""Batches of training: read from files as the released code does, or cut from memory."""

import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.measure import Workload, same
from lib.data.images import read_sample_images, write_normals
from lib.data.loading import PreparedDataset
from lib.data.prepared import write_metadata
from lib.paths import FURNITURE, RUNS

PIXELS = 224  # the paper's images
ENLARGED = 144  # of these in memory: 100 MB, more than a processor's cache


def data(device: str, size: int) -> Workload:
    """The shipped photographs, 64 pixels."""
    return drawn(PreparedDataset(FURNITURE, "train"), device, size)


def data_224(device: str, size: int) -> Workload:
    """Some of them, enlarged to the paper's size; kept beside the results."""
    folder = RUNS / "bench" / f"furniture-{PIXELS}"
    if not folder.is_dir():
        enlarge(folder, max(ENLARGED, 6 * size))
    return drawn(PreparedDataset(folder), device, size)


def drawn(dataset: PreparedDataset, device: str, size: int) -> Workload:
    """A batch with one neighbour each: from files (with all five neighbours, as released), or from memory."""
    draws = torch.randint(len(dataset), (6 * size,), generator=torch.Generator().manual_seed(0))
    index, neighbors = draws[:size], draws[size:].view(5, size)
    table, folder = dataset.metadata, dataset.prepared.folder

    def read(rows: torch.Tensor) -> torch.Tensor:
        files = [table.iloc[int(row)] for row in rows]
        images = [read_sample_images(folder / f["image"], None, folder / f["normal"])[0] for f in files]
        return torch.from_numpy(np.stack(images)).float() / 255

    def from_files() -> tuple[torch.Tensor, ...]:
        return read(index).to(device), torch.stack([read(row) for row in neighbors])[0].to(device)

    held = dataset.near(torch.device(device))

    def from_memory() -> tuple[torch.Tensor, ...]:
        batch = held.batch(index, neighbors[0], device)
        return batch.rgb, batch.neighbor.rgb

    variants = {"plain": from_files, "fast": from_memory}
    return Workload("data", (size, dataset.rgb.shape[1]), variants, lambda: same(variants, 1e-6))


def enlarge(output: Path, count: int) -> None:
    """A prepared folder of `count` shipped photographs with their normals, 224 pixels a side."""
    small = PreparedDataset(FURNITURE, "train")
    partial = output.with_name(output.name + ".tmp")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rows = [_enlarged(small, row, partial) for row in np.linspace(0, len(small) - 1, count, dtype=int)]
    write_metadata(partial, rows, small.prepared.info | {"image_size": PIXELS})
    partial.rename(output)


def _enlarged(dataset: PreparedDataset, row: int, folder: Path) -> dict:
    about = dataset.metadata.loc[row, ["id", "category", "model", "split"]].to_dict()
    one = dataset.batch(torch.tensor([row]))
    planes = torch.cat([one.rgb, one.mask[..., None], one.normal], dim=-1).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=(PIXELS, PIXELS), mode="bilinear")[0].permute(1, 2, 0)
    color, normal = planes[..., :4], F.normalize(planes[..., 4:], dim=-1) * (planes[..., 3:4] > 0.25)
    names = {"image": f"{about['id']}.png", "normal": f"{about['id']}-normal.png"}
    Image.fromarray((color * 255).round().to(torch.uint8).numpy()).save(folder / names["image"])
    write_normals(folder / names["normal"], normal.numpy())
    return about | names
