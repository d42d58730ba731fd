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

from lib.compiling import being_compiled, run_compiled
from lib.fields.encoding import encode, encoding_gradient, encoding_tangent
from lib.threads import in_parallel

EPSILON = 1e-5  # of LayerNorm
CHUNKS = {"cpu": 2048}  # points of all images that are worked on at once: what stays in the processor's cache
LARGEST_CHUNK = 65536
COMPILED_CHUNK = 1000  # points of one image, worked on by one core

Layer = tuple[Tensor, Tensor]  # n (B, P, C) and r (B, P, 1); x follows from the layer before


def chunks(points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, ...]:
    """The points of all images in parts of a size that suits the device."""
    return points.split(max(1, CHUNKS.get(points.device.type, LARGEST_CHUNK) // max(1, len(points))), dim=1)


def encode_point(points: Float[Tensor, "*shape 3"], frequencies: int) -> Float[Tensor, "*shape encoded"]:
    """x, sin(2^k pi x), cos(2^k pi x) for k < frequencies: NeRF's encoding with its factor pi, and the point."""
    return encode(points, frequencies, math.pi)


def to_point(
    encoded: Float[Tensor, "*shape encoded"], upstream: Float[Tensor, "*shape encoded"]
) -> Float[Tensor, "*shape 3"]:
    """From a gradient with respect to what `encode_point` gives to that with respect to the point."""
    return encoding_gradient(encoded, upstream, encoded.shape[-1] // 6, math.pi)


def centered(matrix: Float[Tensor, "batch inputs outputs"]) -> Float[Tensor, "batch inputs outputs"]:
    """The matrix whose products have mean 0 over the outputs."""
    return matrix - matrix.mean(dim=-1, keepdim=True)


def ascend(encoded: Float[Tensor, "batch points encoded"], matrices: tuple[Tensor, ...]) -> list[Layer]:
    """All layers' normalised values n and scales r."""
    x, layers = _Inputs(encoded, matrices[0].shape[-1]), []
    for matrix in matrices:
        n = torch.bmm(x.after(layers), matrix)
        r = torch.linalg.vector_norm(n, dim=-1, keepdim=True).square_().div_(n.shape[-1]).add_(EPSILON).rsqrt_()
        layers.append((n.mul_(r), r))
    return layers


class _Inputs:
    """The layers' inputs x, one at a time in the same memory: to write them again costs less than to keep them.

    A compiler is given them as new tensors, and puts the writing where it suits.
    """

    def __init__(self, encoded: Tensor, width: int):
        self.width, self.buffer = width, None
        self.ends = (torch.ones_like(encoded[..., :1]), encoded)
        if not being_compiled():
            self.buffer = encoded.new_empty((*encoded.shape[:2], width + 1 + encoded.shape[-1]))
            self.buffer[..., 0] = 1
            self.buffer[..., 1 + width :] = encoded

    def after(self, layers: list[Layer]) -> Tensor:
        """(1, max(n, 0) of the last of these layers, encoded), or (1, encoded) where there is none."""
        one, encoded = self.ends
        if not layers:
            return torch.cat([one, encoded], dim=-1)
        if self.buffer is None:
            return torch.cat([one, layers[-1][0].relu(), encoded], dim=-1)
        torch.clamp_min(layers[-1][0], 0, out=self.buffer[..., 1 : 1 + self.width])
        return self.buffer


def _gate(gradient: Tensor, n: Tensor) -> Tensor:
    return torch.ops.aten.threshold_backward(gradient, n, 0)


def _through_norm(gradient: Tensor, n: Tensor, r: Tensor, more: Tensor | None = None) -> Tensor:
    """From dn to dc = r (dn - n (mean(dn n) + more)); `more` is r dr / C where r is used elsewhere too.

    By torch's LayerNorm of n, whose mean is 0 and scale 1. It also takes the mean off dc, of which neither a gradient
    that goes back through `centered` nor one that goes on through a centered matrix knows.
    """
    whole = torch.ops.aten.native_layer_norm_backward(
        gradient, n, n.shape[-1:], torch.zeros_like(r), torch.ones_like(r), None, None, [True, False, False]
    )[0]
    if more is not None:
        whole = torch.addcmul(whole, n, more, value=-1)
    return whole.mul_(r)


class Backbone(torch.autograd.Function):
    """Points (B, P, 3) and the centered matrices of L layers -> the last layer (B, P, C); once differentiable.

    What autograd does with encoding, bias, product, LayerNorm and ReLU, with half of the passes over memory.
    """

    @staticmethod
    def forward(ctx, points: Tensor, frequencies: int, *matrices: Tensor) -> Tensor:
        """All layers; their normalised values and scales are kept."""
        encoded = encode_point(points, frequencies)
        layers = ascend(encoded, matrices)
        ctx.save_for_backward(encoded, *matrices, *(part for layer in layers for part in layer))
        return layers[-1][0].relu()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream: Tensor):
        """Gradients of the points and of every matrix, where they are needed."""
        encoded, *saved = ctx.saved_tensors
        count = len(saved) // 3
        matrices, layers = saved[:count], list(zip(saved[count::2], saved[count + 1 :: 2], strict=True))
        x, gradients, to_encoded = _Inputs(encoded, upstream.shape[-1]), [None] * count, None
        for index in reversed(range(count)):
            total = _through_norm(_gate(upstream, layers[index][0]), *layers[index])
            if ctx.needs_input_grad[2 + index]:
                gradients[index] = torch.bmm(x.after(layers[:index]).mT, total)
            if index or ctx.needs_input_grad[0]:
                upstream, point = _back(total, matrices[index], encoded.shape[-1])
                to_encoded = point if to_encoded is None else to_encoded.add_(point)
        return (to_point(encoded, to_encoded) if ctx.needs_input_grad[0] else None, None, *gradients)


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
    encoded, steps, upstream = 0, [], way.expand_as(layers[-1][0])
    for (n, r), matrix in zip(reversed(layers), reversed(matrices), strict=True):
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
    def forward(ctx, points: Tensor, frequencies: int, compiled: bool, way: Tensor, *matrices: Tensor) -> Tensor:
        """`way` (B, 1, C) is f's head; `matrices` are the L centered layers."""
        total = _compiled_sums if compiled and points.device.type == "cpu" else _sums
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
        found = _eikonal(frequencies, part, way, *matrices)
        if totals is None:
            totals = list(found)
        else:
            torch._foreach_add_(totals, found)
    return totals


def _compiled_sums(points: Tensor, frequencies: int, way: Tensor, matrices: tuple[Tensor, ...]) -> list[Tensor]:
    """The same with chunks side by side on a processor's cores, of one image each, all of one size but the last."""

    def work(job: tuple[int, Tensor]) -> tuple[Tensor, ...]:
        image, part = job
        own = (part, way[image, None], *(matrix[image, None] for matrix in matrices))
        if part.shape[1] < size:  # it would have to be compiled for itself
            return _eikonal(frequencies, *own)
        return run_compiled(_eikonal, (frequencies,), *own)

    size = min(COMPILED_CHUNK, points.shape[1])
    parts = points.split(size, dim=1)
    found = in_parallel(work, [(image, part[image, None]) for image in range(len(points)) for part in parts])
    images = [found[i : i + len(parts)] for i in range(0, len(found), len(parts))]
    losses, *gradients = zip(*([sum(of_part) for of_part in zip(*own, strict=True)] for own in images), strict=True)
    return [sum(losses), *(torch.cat(of_images) for of_images in gradients)]


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
    _descend_again(normalised, layers, _Inputs(encoded, way.shape[-1]), matrices, gradients)
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
        upward = _gate(torch.addcmul(h, n, pull), n)
        normalised.append((torch.addcmul(a * pull, h, share, value=-1), scale))
    return normalised, upward.sum(dim=1, keepdim=True), gradients


def _descend_again(normalised: list, layers: list[Layer], x: _Inputs, matrices, gradients):
    """The way there, differentiated: adds what the adjoints of n of all layers say about the matrices."""
    upstream = None
    for index in reversed(range(len(layers))):
        (n, r), (adjoint, scale) = layers[index], normalised[index]
        if upstream is not None:
            adjoint = adjoint.add_(_gate(upstream, n))
        total = _through_norm(adjoint, n, r, scale)
        gradients[index].baddbmm_(x.after(layers[:index]).mT, total)
        if index:
            width = n.shape[-1]
            upstream = torch.bmm(total, matrices[index][:, 1 : 1 + width].mT)
