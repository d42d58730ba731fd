"""What may listen to a training run: `lib.training.loop.train` calls each with the system and every row of the log."""

from pathlib import Path

from torch import nn


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
