"""What may listen to a training run: `lib.training.loop.train` calls each with the system and every row of the log."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from lib.data.loading import Batch


class TensorBoard:
    """Writes every number of the log as a scalar that ``tensorboard --logdir`` shows.

    Tags are ``training/rgb``, ``validation/image_loss`` and so on. Use it as a context, or call `close` at the end.

    Events of steps from the first row on, which a run that was killed may have left, are hidden.

    Parameters
    ----------
    folder : path
        Gets the event files, with the first row.
    """

    def __init__(self, folder: Path | str):
        self.folder, self.writer = folder, None

    def __call__(self, system: nn.Module, row: dict) -> None:
        """Write one row."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.folder), purge_step=row["step"])
        for name, value in row.items():
            if isinstance(value, int | float) and name != "step":
                self.writer.add_scalar(f"{row['phase']}/{name}", value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        """End the event file."""
        if self.writer is not None:
            self.writer.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


@dataclass
class Snapshots:
    """Renders the same held-out image every so many steps, so that one can watch a shape appear.

    Attributes
    ----------
    batch : Batch
        One sample.
    every : int
        Steps from one frame to the next.
    image_size, samples : int
        Of the rendering: small, since it interrupts training.
    frames : dict
        Step -> [colours, normals in the camera frame as colours], each (size, size, 3) in [0, 1].
    """

    batch: Batch
    every: int
    image_size: int = 48
    samples: int = 32
    frames: dict[int, list[Float[np.ndarray, "size size 3"]]] = field(default_factory=dict)

    def __call__(self, system: nn.Module, row: dict) -> None:
        """Render if enough steps have passed since the last frame."""
        if row["phase"] != "validation" and row["step"] >= max(self.frames, default=-self.every) + self.every:
            self.frames[row["step"]] = rendered_pictures(system, self.batch, self.image_size, self.samples)


@torch.no_grad()
def rendered_pictures(system: nn.Module, batch: Batch, image_size: int, samples: int) -> list[np.ndarray]:
    """Colours and normals of the first sample as the system sees it now; the system is left as it was."""
    from lib.figures.maps import on_white_normals

    was_training = system.training
    system.eval()
    batch = batch.to(next(system.parameters()).device)
    given = batch.viewpoint if system.config.viewpoint == "given" else None
    shape = system.reconstruct(batch.rgb[:1], given and given[0])
    maps = shape.render(image_size=image_size, samples=samples)
    system.train(was_training)
    return [maps.rgb[0].clamp(0, 1).cpu().numpy(), on_white_normals(maps, shape.viewpoint.rotation())[0]]
