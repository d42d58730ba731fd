"""A written field by code compiled for the processor at hand: parts of an image's points, a core each.

What training asks of a field, with the numbers of `lib.fields.hypernetwork.WrittenField` to rounding. A program knows
one number of points: `Readout` fills its last part up, for silhouettes have another number of points in every step.
"""

from dataclasses import fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.fields.eikonal import Eikonal
from lib.fields.hypernetwork import WrittenField, as_color
from lib.fields.parts import PART, Part, parts_of, summed, taken, together
from lib.fields.written_layers import ascend, encode_point, paired, retrace
from lib.rendering.compiling import run_compiled
from lib.rendering.threads import in_parallel

FULL = 256  # points: a part that is smaller than `PART` has a multiple of them, so there are few programs


class CompiledField(WrittenField):
    """f and g of B images; the attributes are `WrittenField`'s."""

    @classmethod
    def of(cls, field: WrittenField) -> "CompiledField":
        """The same field, compiled."""
        return cls(**{of.name: getattr(field, of.name) for of in fields(field)})

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance f, negative inside."""
        return Readout.apply(points, self.frequencies, self.to_distance.matrix, *self.matrices)[..., 0]

    def color_at(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
        """g, RGB in [0, 1]."""
        return as_color(Readout.apply(points, self.frequencies, self.to_color.matrix, *self.matrices))

    def eikonal(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, ""]:
        """The mean of (|grad f| - 1)^2, with gradients for the field alone."""
        return Eikonal.apply(points, self.frequencies, True, self.to_distance.weight.mT, *self.matrices)


class Readout(torch.autograd.Function):
    """What a head (B, 1 + C, O) of the field makes of points (B, P, 3): (B, P, O); the feature itself is not kept."""

    @staticmethod
    def forward(ctx, points: Tensor, frequencies: int, head: Tensor, *matrices: Tensor) -> Tensor:
        """Every part's encoded points and layers are kept."""
        ctx.size, given = min(PART, -(-points.shape[1] // FULL) * FULL), (head, *matrices)
        ctx.parts = parts_of(*points.shape[:2], ctx.size)

        def work(part: Part) -> tuple[Tensor, ...]:
            own = (matrix[part[0], None] for matrix in given)
            return run_compiled(_readout, (frequencies,), taken(points, part, ctx.size), *own)

        values, *kept = zip(*in_parallel(work, ctx.parts), strict=True)
        ctx.save_for_backward(*given, *(tensor for of_parts in kept for tensor in of_parts))
        return together(values, ctx.parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        """Gradients of the points, where they are needed, of the head and of every matrix."""
        count, to_points = len(ctx.needs_input_grad) - 2, ctx.needs_input_grad[0]
        given, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]

        def work(job: tuple[int, Part]) -> tuple[Tensor, ...]:
            index, part = job
            own = (*(matrix[part[0], None] for matrix in given), *kept[index :: len(ctx.parts)])
            return run_compiled(_readout_back, (to_points,), taken(upstream, part, ctx.size), *own)

        found = in_parallel(work, enumerate(ctx.parts))
        points = together([back for *_, back in found], ctx.parts) if to_points else None
        return points, None, *summed([gradients[:count] for gradients in found], ctx.parts)


def read(feature: Tensor, head: Tensor) -> Tensor:
    """The head's outputs (B, P, O), one by one: few, so that a product would be slower."""
    outputs = [(feature * head[:, 1:, k, None].mT).sum(dim=-1) + head[:, :1, k] for k in range(head.shape[-1])]
    return torch.stack(outputs, dim=-1)


def read_back(upstream: Tensor, feature: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the feature and of the head from that of the outputs."""
    to_feature = sum(upstream[..., k, None] * head[:, 1:, k, None].mT for k in range(head.shape[-1]))
    of_head = [(upstream[..., k, None] * feature).sum(dim=1) for k in range(head.shape[-1])]
    return to_feature, torch.cat([upstream.sum(dim=1)[:, None], torch.stack(of_head, dim=-1)], dim=1)


def _readout(frequencies: int, points: Tensor, head: Tensor, *matrices: Tensor) -> tuple[Tensor, ...]:
    encoded = encode_point(points, frequencies)
    layers = ascend(encoded, matrices)
    return read(layers[-1][0].relu(), head), encoded, *(part for layer in layers for part in layer)


def _readout_back(to_points: bool, upstream: Tensor, head: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the head, of the matrices and of the points; `given`: the matrices and what `_readout` kept."""
    count = len(given) // 3
    matrices, encoded, layers = given[:count], given[count], paired(given[count + 1 :])
    upstream, of_head = read_back(upstream, layers[-1][0].relu(), head)
    back, gradients = retrace(upstream, encoded, layers, matrices, to_points)
    return (of_head, *gradients, back) if to_points else (of_head, *gradients)
