"""Which images a training step sees, in what order, and what is random in it: the same whenever it is asked."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lib.data.loading import Batch, PreparedDataset
from lib.data.neighbors import read_neighbors
from lib.data.shards import ShardedDataset
from lib.errors import InputError
from lib.losses.semantic import choose_neighbors, neighbor_probabilities
from lib.rendering.parallel import Share


@dataclass(frozen=True)
class Draw:
    """A part of a step's batch on its way through a system.

    Attributes
    ----------
    batch : Batch
        The images that this process computes.
    generator : torch.Generator
        At the step's state, for all that is drawn.
    share : Share or None
        Where those images are in the step's batch; None: they are all of it.
    """

    batch: Batch
    generator: torch.Generator
    share: Share | None


class Batches:
    """Step -> images, each with a neighbour where the system wants one.

    Parameters
    ----------
    config : TrainingConfig
        Its `batch_size`, `accumulate`, `seed` and `neighbors`.
    accelerator : Accelerator
        Says which process this is: each computes as many images of every part.

    Raises
    ------
    InputError
        The batch cannot be divided evenly, or the data lack what the system needs.
    """

    def __init__(self, system: nn.Module, config, data: PreparedDataset, accelerator: Accelerator):
        self.config, self.data, self.accelerator = config, data, accelerator
        self.per_epoch = max(1, len(data) // config.batch_size)
        self.size = min(config.batch_size, len(data))
        self.images = _divided(self.size, config.accumulate, accelerator.num_processes)
        self.neighbors = self.probabilities = None
        if getattr(system.config, "semantic_weight", 0) > 0:
            self.neighbors = read_neighbors(data.prepared.folder, data.metadata, config.neighbors)
            self.weighting = system.config.neighbor_weighting
            if not isinstance(data, ShardedDataset):
                masks = data.mask.float() / 255
                rows = zip(masks.split(64), self.neighbors.split(64), strict=True)
                self.probabilities = torch.cat([neighbor_probabilities(m, masks[n], self.weighting) for m, n in rows])
            elif self.weighting == "released":
                what = f"neighbor_weighting: 'released' looks at all masks; {data.prepared.folder} is read in shards"
                raise InputError(f"{what}; choose 'uniform' or 'silhouette'")
        self.near = data.near(accelerator.device)
        self.order = lru_cache(maxsize=1)(self._order)

    def draw(self, step: int, with_neighbors: bool, part: int = 0) -> Draw:
        """Images of one of the step's `accumulate` parts that this process computes."""
        epoch, within = divmod(step, self.per_epoch)
        index = self.order(epoch)[within * self.config.batch_size : (within + 1) * self.config.batch_size]
        generator = seeded(self.config.seed, 1, step)
        neighbor = None
        if with_neighbors and self.neighbors is not None:
            neighbor = choose_neighbors(self.neighbors[index], self._probabilities(index), generator)
        share = self._share(part)
        if share is not None:
            index, neighbor = index[share.rows], None if neighbor is None else neighbor[share.rows]
        return Draw(self.near.batch(index, neighbor, self.accelerator.device), generator, share)

    def _probabilities(self, index: Tensor) -> Tensor:
        """Of each image's neighbours; of images in shards worked out when they are asked for."""
        neighbors = self.neighbors[index]
        if self.probabilities is not None:
            return self.probabilities[index]
        if self.weighting == "uniform":  # masks would not be looked at
            return torch.full(neighbors.shape, 1 / neighbors.shape[1])
        masks = self.data.masks(neighbors.flatten()).unflatten(0, neighbors.shape)
        return neighbor_probabilities(self.data.masks(index), masks, self.weighting)

    def _order(self, epoch: int) -> Tensor:
        return torch.randperm(len(self.data), generator=seeded(self.config.seed, 0, epoch))

    def _share(self, part: int) -> Share | None:
        if self.images == self.size:
            return None
        processes = self.accelerator.num_processes
        first = (part * processes + self.accelerator.process_index) * self.images
        return Share(first, self.images, self.size, processes)


def _divided(size: int, parts: int, processes: int) -> int:
    if size % (parts * processes) == 0:
        return size // (parts * processes)
    shares = f"{processes} processes" if parts == 1 else f"{processes} x {parts} (processes x accumulate)"
    raise InputError(f"batch_size: {size} images cannot be divided evenly by {shares}; choose a multiple of it")


def seeded(*numbers: int) -> torch.Generator:
    """A generator whose stream is fixed by several whole numbers."""
    state = 0
    for number in numbers:  # a 64-bit mix (splitmix64's constants), so that neighbouring numbers give unlike streams
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = state ^ (state >> 31)
    return torch.Generator().manual_seed(state & 0x7FFFFFFFFFFFFFFF)
