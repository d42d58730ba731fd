"""The eikonal term of a written field: the derivative of its gradient by hand, part by part.

The gradient of f is the way back through the layers of `lib.fields.written_layers`; a loss on it needs that way's
derivative. Autograd's, of LayerNorm, takes many passes over memory. `Eikonal` does all of it for as many points as stay
in the processor's cache.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.fields.encoding import encoding_tangent
from lib.fields.parts import Part, added, even, parts_of, summed, taken
from lib.fields.written_layers import (
    Inputs,
    Layer,
    ascend,
    chunks,
    descend,
    encode_point,
    gate,
    through_norm,
    to_point,
)
from lib.rendering.compiling import run_compiled
from lib.rendering.threads import in_parallel


class Eikonal(torch.autograd.Function):
    """The mean of (|grad f| - 1)^2 over points (B, P, 3), and its gradients with respect to the field's matrices.

    All is done in the forward pass, chunk by chunk; the backward pass multiplies by what it is given.
    """

    @staticmethod
    def forward(ctx, points: Tensor, frequencies: int, compiled: bool, way: Tensor, *matrices: Tensor) -> Tensor:
        """`way` (B, 1, C) is f's head; `matrices` are the L centered layers."""
        total = _sums_on_cores if compiled else _sums
        loss, *gradients = total(points, frequencies, way, matrices)
        count = points.shape[:2].numel()
        ctx.save_for_backward(*(gradient / count for gradient in gradients))
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        """Points are drawn at random and get no gradient."""
        return None, None, None, *(upstream * gradient for gradient in ctx.saved_tensors)


def _sums(points: Tensor, frequencies: int, way: Tensor, matrices: tuple[Tensor, ...]) -> list[Tensor]:
    """The loss's sum over all points and its gradients, chunk after chunk."""
    totals = None
    for part in chunks(points):
        totals = added(totals, _eikonal(frequencies, part, way, *matrices))
    return totals


def _sums_on_cores(points: Tensor, frequencies: int, way: Tensor, matrices: tuple[Tensor, ...]) -> list[Tensor]:
    """The same with parts side by side on a processor's cores, compiled."""

    def work(part: Part) -> tuple[Tensor, ...]:
        own = (matrix[part[0], None] for matrix in (way, *matrices))
        return run_compiled(_eikonal, (frequencies,), taken(points, part), *own)

    parts = parts_of(*points.shape[:2], even(points.shape[1]))
    found = in_parallel(work, parts)
    return [sum(loss for loss, *_ in found), *summed([gradients for _, *gradients in found], parts)]


def _eikonal(frequencies: int, points: Tensor, way: Tensor, *matrices: Tensor) -> tuple[Tensor, ...]:
    """The sum over a chunk's points, and its gradients with respect to the head and every matrix."""
    encoded = encode_point(points, frequencies)
    layers = ascend(encoded, matrices)
    upstream, steps = descend(layers, matrices, way, encoded.shape[-1])
    gradient = to_point(encoded, upstream)
    length = gradient.norm(dim=-1, keepdim=True)
    toward = 2 * gradient * torch.where(length > 0, 1 - 1 / length, 0)
    adjoint = encoding_tangent(encoded, toward, frequencies, math.pi)
    normalised, head, gradients = _ascend_again(adjoint, layers, steps, matrices)
    _descend_again(normalised, layers, Inputs(encoded, way.shape[-1]), matrices, gradients)
    return (length - 1).square().sum(), head, *gradients


def _ascend_again(adjoint: Tensor, layers: list[Layer], steps: list, matrices):
    """The way back, differentiated: from the adjoint of the encoded point's gradient, which every layer adds to.

    Returns
    -------
    normalised : list
        For each layer the adjoint of n, and r dr / C: what the way back has to say to the way there.
    head : Tensor, shape (B, 1, C)
        The gradient of f's head.
    gradients : list
        What the way back says about every matrix.
    """
    normalised, gradients, y = [], [], torch.nn.functional.pad(adjoint, (1, 0))
    for (n, r), (a, share, total), matrix in zip(layers, steps, matrices, strict=True):
        if normalised:
            y = torch.cat([torch.zeros_like(y[..., :1]), upward, adjoint], dim=-1)
        gradients.append(torch.bmm(y.mT, total))
        h = torch.bmm(y, matrix)
        scale = (h * total).mean(dim=-1, keepdim=True)
        h.mul_(r)
        pull = (h * n).mean(dim=-1, keepdim=True).neg_()
        upward = gate(torch.addcmul(h, n, pull), n)
        normalised.append((torch.addcmul(a * pull, h, share, value=-1), scale))
    return normalised, upward.sum(dim=1, keepdim=True), gradients


def _descend_again(normalised: list, layers: list[Layer], x: Inputs, matrices, gradients):
    """The way there, differentiated: adds what the adjoints of n of all layers say about the matrices."""
    upstream = None
    for index in reversed(range(len(layers))):
        (n, r), (adjoint, scale) = layers[index], normalised[index]
        if upstream is not None:
            adjoint = adjoint.add_(gate(upstream, n))
        total = through_norm(adjoint, n, r, scale)
        gradients[index].baddbmm_(x.after(layers[:index]).mT, total)
        if index:
            width = n.shape[-1]
            upstream = torch.bmm(total, matrices[index][:, 1 : 1 + width].mT)
