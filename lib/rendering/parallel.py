"""A batch divided among processes, or into parts that follow one another, as if one had computed it whole.

`lib.training.loop` says inside `sharing` which images of the batch are computed at the moment. Then

- what is random is drawn for all images of the batch by everyone, with the same generator, and each keeps the rows of
  its own images (`draw_rows`; `whole_batch`, `own_rows` for other draws): the cost is that everyone draws everything;
- a loss that is more than a mean over images, because it sorts or counts over the batch, is computed by every process
  from all of their values (`gathered`, `largest`).

Outside `sharing`, and so with one process and whole batches, all of them give back what they are given.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """Which images of a batch are computed here and now.

    Attributes
    ----------
    first, images : int
        The number of the first one, and how many there are.
    batch : int
        Images of the whole batch.
    processes : int
        So many compute other images, as many, at the same time.
    """

    first: int
    images: int
    batch: int
    processes: int = 1

    @property
    def rows(self) -> slice:
        """Of tensors that hold the whole batch."""
        return slice(self.first, self.first + self.images)


_share: ContextVar[Share | None] = ContextVar("share", default=None)


@contextmanager
def sharing(share: Share | None) -> Iterator[None]:
    """Within it the functions of this module act for the share; None is the whole batch."""
    before = _share.set(share)
    try:
        yield
    finally:
        _share.reset(before)


def current_share() -> Share | None:
    """The share that is computed here and now; None is the whole batch."""
    return _share.get()


def whole_batch(images: int) -> int:
    """How many images to draw random numbers for, where `images` are computed."""
    share = _share.get()
    if share is None:
        return images
    if images != share.images:
        raise ValueError(f"random numbers for {images} images in a share of {share.images}")
    return share.batch


def own_rows(values: Shaped[Tensor, "batch *shape"]) -> Shaped[Tensor, "images *shape"]:
    """Of values for the whole batch those for the images that are computed here."""
    share = _share.get()
    return values if share is None else values[share.rows]


def draw_rows(
    draw: Callable[..., Tensor], shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype | None = None
) -> Tensor:
    """Random numbers for the images that are computed here, on the generator's device; `shape` begins with the images.

    Parameters
    ----------
    draw : callable
        ``torch.rand`` or ``torch.randn``.
    """
    whole = (whole_batch(shape[0]), *shape[1:])
    return own_rows(draw(whole, generator=generator, device=generator.device, dtype=dtype))


def gathered(values: Shaped[Tensor, "images *shape"]) -> Shaped[Tensor, "together *shape"]:
    """The values of all processes, one below the other, in the batch's order.

    Every process must compute the same loss from them. Each then keeps the gradient with respect to its own values
    times the number of processes, so that the mean over processes, which is what a wrapper for several devices takes
    of the parameters' gradients, is the gradient of that loss.
    """
    share = _share.get()
    if share is None or share.processes == 1:
        return values
    return _Gather.apply(values.byte()).bool() if values.dtype == torch.bool else _Gather.apply(values)


def largest(value: int, device: torch.device) -> int:
    """The largest of a whole number of each process."""
    share = _share.get()
    if share is None or share.processes == 1:
        return value
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, dist.ReduceOp.MAX)
    return int(number)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        ctx.rank, ctx.processes, ctx.count = dist.get_rank(), dist.get_world_size(), len(values)
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(ctx.processes)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        return gradient[ctx.rank * ctx.count : (ctx.rank + 1) * ctx.count] * ctx.processes
