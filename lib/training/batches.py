"""Which images a training step sees, in what order, and what is random in it: the same whenever it is asked."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from lib.data.loading import Batch, PreparedDataset
from lib.data.neighbors import read_neighbors
from lib.errors import InputError
from lib.losses.semantic import choose_neighbors, neighbor_probabilities
from lib.systems.base import System


class Batches:
    """Step -> images, each with a neighbour where the system wants one.

    Parameters
    ----------
    config : TrainingConfig
        Its `batch_size`, `accumulate`, `seed` and `neighbors`.
    accelerator : Accelerator
        Says which process this is: each computes an equal share of every batch.

    Raises
    ------
    InputError
        The batch cannot be divided evenly, or the data lack what the system needs.
    """

    def __init__(self, system: System, config, data: PreparedDataset, accelerator: Accelerator):
        self.config, self.data, self.accelerator = config, data, accelerator
        self.per_epoch = max(1, len(data) // config.batch_size)
        size, parts = min(config.batch_size, len(data)), config.accumulate * accelerator.num_processes
        if size % parts:
            shares = f"{accelerator.num_processes} x {config.accumulate} (processes x accumulate)"
            raise InputError(f"batch_size: {size} images cannot be divided evenly by {shares}; choose a multiple of it")
        self.part_size = size // parts
        self.weighting, self.neighbors, self.probabilities = system.neighbor_weighting, None, None
        if self.weighting is not None:
            self.neighbors = read_neighbors(data.prepared.folder, data.metadata, config.neighbors)
            if data.in_memory:
                masks = data.masks(torch.arange(len(data)))
                rows = zip(masks.split(64), self.neighbors.split(64), strict=True)
                self.probabilities = torch.cat([neighbor_probabilities(m, masks[n], self.weighting) for m, n in rows])
            elif self.weighting == "released":
                what = f"neighbor_weighting: 'released' looks at all masks; {data.prepared.folder} is read from disk"
                raise InputError(f"{what}; choose 'uniform' or 'silhouette'")
        self.near = data.near(accelerator.device)
        self.order = lru_cache(maxsize=1)(self.shuffled)

    def draw(self, step: int, with_neighbors: bool) -> Iterator[tuple[Batch, torch.Generator]]:
        """The `accumulate` parts of the step's batch that this process computes, and what draws in them."""
        epoch, within = divmod(step, self.per_epoch)
        index = self.order(epoch)[within * self.config.batch_size :][: self.config.batch_size]
        process = self.accelerator.process_index
        generator = seeded(self.config.seed, 1, step, process)
        parts = index.split(self.part_size)[process * self.config.accumulate :][: self.config.accumulate]
        for part in parts:
            neighbor = None
            if with_neighbors and self.neighbors is not None:
                neighbor = choose_neighbors(self.neighbors[part], self.probabilities_of(part), generator)
            yield self.near.batch(part, neighbor, self.accelerator.device), generator

    def probabilities_of(self, index: Tensor) -> Tensor:
        """Of each image's neighbours; of a dataset larger than memory they are worked out when they are asked for."""
        if self.probabilities is not None:
            return self.probabilities[index]
        neighbors = self.neighbors[index]
        if self.weighting == "uniform":  # masks would not be looked at
            return torch.full(neighbors.shape, 1 / neighbors.shape[1])
        masks = self.data.masks(neighbors.flatten()).unflatten(0, neighbors.shape)
        return neighbor_probabilities(self.data.masks(index), masks, self.weighting)

    def shuffled(self, epoch: int) -> Tensor:
        """The order of an epoch."""
        return torch.randperm(len(self.data), generator=seeded(self.config.seed, 0, epoch))


def seeded(*numbers: int) -> torch.Generator:
    """A generator whose stream is fixed by several whole numbers, none negative."""
    state = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
