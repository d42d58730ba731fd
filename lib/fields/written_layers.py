"""The layers of a written field and their derivatives by hand: what training SDF-SRN spends its time on.

A layer is c = x M, n = r c with r = 1 / sqrt(mean(c^2) + eps), v = max(n, 0), for x = (1, previous layer, encoded
point). With a matrix M whose rows have mean 0 so has c, and n is its LayerNorm: the mean is taken off one matrix
instead of off every point. From a gradient dv the way back is a = dv [n > 0], dc = r (a - n mean(a n)), dx = dc M^T.

A loss on the gradient of f needs the derivative of that way back as well; autograd's LayerNorm does it in many passes
over memory. `Eikonal` does all of it by hand for as many points as stay in the processor's cache.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.fields.encoding import encode

EPSILON = 1e-5  # of LayerNorm
CHUNKS = {"cpu": 2048}  # points of all images that are worked on at once: what stays in the processor's cache
LARGEST_CHUNK = 65536

Layer = tuple[Tensor, Tensor, Tensor]  # x (B, P, 1 + in), n (B, P, C) and r (B, P, 1)


def chunks(points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, ...]:
    """The points of all images in parts of a size that suits the device."""
    return points.split(max(1, CHUNKS.get(points.device.type, LARGEST_CHUNK) // max(1, len(points))), dim=1)


def encode_point(points: Float[Tensor, "*shape 3"], frequencies: int) -> Float[Tensor, "*shape encoded"]:
    """x, sin(2^k pi x), cos(2^k pi x) for k < frequencies: NeRF's encoding with its factor pi, and the point."""
    return torch.cat([points, encode(math.pi * points, frequencies)[..., 3:]], dim=-1)


def encoding_slope(encoded: Float[Tensor, "*shape encoded"]) -> Float[Tensor, "*shape octaves 3"]:
    """Derivative of every encoded value with respect to its own coordinate; the encoding holds its own derivatives."""
    waves = encoded[..., 3:].unflatten(-1, (2, -1, 3))
    octaves = math.pi * 2.0 ** torch.arange(waves.shape[-2], device=encoded.device, dtype=encoded.dtype)[:, None]
    sine, cosine = waves.unbind(-3)
    return torch.cat([torch.ones_like(encoded[..., None, :3]), cosine * octaves, -sine * octaves], dim=-2)


def centered(matrix: Float[Tensor, "batch inputs outputs"]) -> Float[Tensor, "batch inputs outputs"]:
    """The matrix whose products have mean 0 over the outputs."""
    return matrix - matrix.mean(dim=-1, keepdim=True)


def ascend(encoded: Float[Tensor, "batch points encoded"], matrices: tuple[Tensor, ...]) -> list[Layer]:
    """All layers' inputs x, normalised values n and scales r."""
    x, layers = _with_input(None, encoded), []
    for matrix in matrices:
        if layers:
            x = _with_input(layers[-1][1], encoded)
        n = torch.bmm(x, matrix)
        r = n.square().mean(dim=-1, keepdim=True).add_(EPSILON).rsqrt_()
        layers.append((x, n.mul_(r), r))
    return layers


def _with_input(previous: Tensor | None, encoded: Tensor) -> Tensor:
    """(1, max(previous, 0), encoded), written once."""
    width = 0 if previous is None else previous.shape[-1]
    x = encoded.new_empty((*encoded.shape[:2], 1 + width + encoded.shape[-1]))
    x[..., 0] = 1
    x[..., 1 + width :] = encoded
    if previous is not None:
        torch.clamp_min(previous, 0, out=x[..., 1 : 1 + width])
    return x


def _gate(gradient: Tensor, n: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, n, 0)


def _through_norm(gradient: Tensor, n: Tensor, r: Tensor, more: Tensor | float = 0.0) -> Tensor:
    """From dn to dc = r (dn - n (mean(dn n) + more)); `more` is r dr / C where r is used elsewhere too."""
    share = (gradient * n).mean(dim=-1, keepdim=True) + more
    return torch.addcmul(gradient, n, share, value=-1).mul_(r)


class Backbone(torch.autograd.Function):
    """Encoded points (B, P, E) and the centered matrices of L layers -> the last layer (B, P, C); once differentiable.

    What autograd does with bias, product, LayerNorm and ReLU, with half of the passes over memory.
    """

    @staticmethod
    def forward(ctx, encoded: Tensor, *matrices: Tensor) -> Tensor:
        """All layers; their inputs, normalised values and scales are kept."""
        layers = ascend(encoded, matrices)
        ctx.size = encoded.shape[-1]
        ctx.save_for_backward(*matrices, *(part for layer in layers for part in layer))
        return layers[-1][1].relu()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        """Gradients of the encoded points and of every matrix, where they are needed."""
        saved, count = ctx.saved_tensors, len(ctx.saved_tensors) // 4
        gradients, encoded = [None] * count, None
        for index in reversed(range(count)):
            x, n, r = saved[count + 3 * index : count + 3 * index + 3]
            total = _through_norm(_gate(upstream, n), n, r)
            if ctx.needs_input_grad[1 + index]:
                gradients[index] = torch.bmm(x.mT, total)
            if index or ctx.needs_input_grad[0]:
                upstream, point = _back(total, saved[index], ctx.size)
                encoded = point if encoded is None else encoded.add_(point)
        return (encoded if ctx.needs_input_grad[0] else None, *gradients)


def _back(total: Tensor, matrix: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Dc -> gradients of the previous layer and of the encoded point."""
    back = torch.bmm(total, matrix.mT)
    return back[..., 1:-size], back[..., -size:]


def descend(layers: list[Layer], matrices: tuple[Tensor, ...], way: Tensor, size: int):
    """The gradient of f = v . way + const with respect to the encoded point, and what led to it.

    Returns
    -------
    encoded : Tensor, shape (B, P, E)
    steps : list
        For each layer a, mean(a n) and dc.
    """
    encoded, steps, upstream = 0, [], way.expand_as(layers[-1][1])
    for (_, n, r), matrix in zip(reversed(layers), reversed(matrices), strict=True):
        a = _gate(upstream, n)
        share = (a * n).mean(dim=-1, keepdim=True)
        total = torch.addcmul(a, n, share, value=-1).mul_(r)
        steps.append((a, share, total))
        upstream, point = _back(total, matrix, size)
        encoded = encoded + point
    return encoded, steps[::-1]


class Eikonal(torch.autograd.Function):
    """The mean of (|grad f| - 1)^2 over points (B, P, 3), and its gradients with respect to the field's matrices.

    All is done in the forward pass, chunk by chunk; the backward pass multiplies by what it is given.
    """

    @staticmethod
    def forward(ctx, points: Tensor, frequencies: int, way: Tensor, *matrices: Tensor) -> Tensor:
        """`way` (B, 1, C) is f's head; `matrices` are the L centered layers."""
        gradients = [torch.zeros_like(tensor) for tensor in (way, *matrices)]
        loss = sum(_eikonal(part, frequencies, way, matrices, gradients) for part in chunks(points))
        count = points.shape[:2].numel()
        ctx.save_for_backward(*(gradient / count for gradient in gradients))
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        """Points are drawn at random and get no gradient."""
        return None, None, *(upstream * gradient for gradient in ctx.saved_tensors)


def _eikonal(points: Tensor, frequencies: int, way: Tensor, matrices: tuple[Tensor, ...], gradients: list) -> Tensor:
    """The sum over a chunk's points; adds to `gradients`, of the head and the matrices."""
    encoded = encode_point(points, frequencies)
    slope, layers = encoding_slope(encoded), ascend(encoded, matrices)
    upstream, steps = descend(layers, matrices, way, encoded.shape[-1])
    gradient = (upstream.view_as(slope) * slope).sum(dim=-2)
    length = gradient.norm(dim=-1, keepdim=True)
    toward = 2 * gradient * torch.where(length > 0, 1 - 1 / length, 0)
    adjoint = (slope * toward[..., None, :]).flatten(-2)
    normalised, head = _ascend_again(adjoint, layers, steps, matrices, gradients[1:])
    gradients[0] += head
    _descend_again(normalised, layers, matrices, gradients[1:])
    return (length - 1).square().sum()


def _ascend_again(adjoint: Tensor, layers: list[Layer], steps: list, matrices, gradients):
    """The way back, differentiated: from the adjoint of the encoded point's gradient, which every layer adds to.

    Returns
    -------
    normalised : list
        For each layer the adjoint of n, and r dr / C: what the way back has to say to the way there.
    head : Tensor, shape (B, 1, C)
        The gradient of f's head.
    """
    normalised, y = [], torch.nn.functional.pad(adjoint, (1, 0))
    for (_, n, r), (a, share, total), matrix, gradient in zip(layers, steps, matrices, gradients, strict=True):
        if normalised:
            y = torch.cat([torch.zeros_like(y[..., :1]), upward, adjoint], dim=-1)
        gradient.baddbmm_(y.mT, total)
        h = torch.bmm(y, matrix)
        scale = (h * total).mean(dim=-1, keepdim=True)
        h.mul_(r)
        pull = (h * n).mean(dim=-1, keepdim=True).neg_()
        upward = _gate(torch.addcmul(h, n, pull), n)
        normalised.append((torch.addcmul(a * pull, h, share, value=-1), scale))
    return normalised, upward.sum(dim=1, keepdim=True)


def _descend_again(normalised: list, layers: list[Layer], matrices, gradients):
    """The way there, differentiated: what the adjoints of n of all layers say about the matrices."""
    upstream = None
    for index in reversed(range(len(layers))):
        (x, n, r), (adjoint, scale) = layers[index], normalised[index]
        if upstream is not None:
            adjoint = adjoint.add_(_gate(upstream, n))
        total = _through_norm(adjoint, n, r, scale)
        gradients[index].baddbmm_(x.mT, total)
        if index:
            width = n.shape[-1]
            upstream = torch.bmm(total, matrices[index][:, 1 : 1 + width].mT)
