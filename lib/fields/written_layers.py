"""The layers of a written field and their derivatives by hand: what training SDF-SRN spends its time on.

A layer is c = x M, n = r c with r = 1 / sqrt(mean(c^2) + eps), v = max(n, 0), for x = (1, previous layer, encoded
point). With a matrix M whose rows have mean 0 so has c, and n is its LayerNorm: the mean is taken off one matrix
instead of off every point. From a gradient dv the way back is a = dv [n > 0], dc = r (a - n mean(a n)), dx = dc M^T.

A loss on the gradient of f needs the derivative of that way back as well: `lib.fields.eikonal`.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.fields.encoding import encode, encoding_gradient
from lib.rendering.compiling import being_compiled

EPSILON = 1e-5  # of LayerNorm
CHUNKS = {"cpu": 2048}  # points of all images that are worked on at once: what stays in the processor's cache
LARGEST_CHUNK = 65536

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
    x, layers = Inputs(encoded, matrices[0].shape[-1]), []
    for matrix in matrices:
        n = torch.bmm(x.after(layers), matrix)
        r = torch.linalg.vector_norm(n, dim=-1, keepdim=True).square_().div_(n.shape[-1]).add_(EPSILON).rsqrt_()
        layers.append((n.mul_(r), r))
    return layers


class Inputs:
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


def gate(gradient: Tensor, n: Tensor) -> Tensor:
    """From dv to dn: where n > 0."""
    return torch.ops.aten.threshold_backward(gradient, n, 0)


def through_norm(gradient: Tensor, n: Tensor, r: Tensor, more: Tensor | None = None) -> Tensor:
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
        to_points, _, *to_matrices = ctx.needs_input_grad
        back, gradients = retrace(upstream, encoded, paired(saved[count:]), saved[:count], to_points, any(to_matrices))
        return back, None, *gradients


def paired(parts: Sequence[Tensor]) -> list[Layer]:
    """Layers whose n and r were saved one after the other."""
    return list(zip(parts[::2], parts[1::2], strict=True))


def retrace(
    upstream: Tensor,
    encoded: Tensor,
    layers: list[Layer],
    matrices: Sequence[Tensor],
    to_points: bool = True,
    to_matrices: bool = True,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The way back from a gradient (B, P, C) of the last layer: that of the points, and those of all matrices."""
    x, gradients, to_encoded = Inputs(encoded, upstream.shape[-1]), [None] * len(layers), None
    for index in reversed(range(len(layers))):
        total = through_norm(gate(upstream, layers[index][0]), *layers[index])
        if to_matrices:
            gradients[index] = torch.bmm(x.after(layers[:index]).mT, total)
        if index or to_points:
            upstream, point = _back(total, matrices[index], encoded.shape[-1])
            to_encoded = point if to_encoded is None else to_encoded.add_(point)
    return (to_point(encoded, to_encoded) if to_points else None), gradients


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
        a = gate(upstream, n)
        share = (a * n).mean(dim=-1, keepdim=True)
        total = torch.addcmul(a, n, share, value=-1).mul_(r)
        steps.append((a, share, total))
        upstream, point = _back(total, matrix, size)
        encoded = encoded + point
    return encoded, steps[::-1]
