"""Fields whose weights are written by a network: one code, one small MLP (SDF-SRN Sec. 3.3, Fig. 3).

A backbone of hyper-linear layers, each followed by LayerNorm without affine terms (in the released code, not in the
paper) and ReLU, sees the encoded point at every layer. Its feature goes to the head of f (signed distance), the head of
g (colour) and the marcher h, whose own weights are shared by all images.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.fields.encoding import encode, encoded_size


def encode_point(points: Float[Tensor, "*shape 3"], frequencies: int) -> Float[Tensor, "*shape encoded"]:
    """x, sin(2^k pi x), cos(2^k pi x) for k < frequencies: NeRF's encoding with its factor pi, and the point."""
    return torch.cat([points, encode(math.pi * points, frequencies)[..., 3:]], dim=-1)


@dataclass(frozen=True)
class Linear:
    """A linear layer an image: weight (B, in, out), bias (B, 1, out)."""

    weight: Float[Tensor, "batch inputs outputs"]
    bias: Float[Tensor, "batch 1 outputs"]

    def __call__(self, x: Float[Tensor, "batch points inputs"]) -> Float[Tensor, "batch points outputs"]:
        """X W + b for each image."""
        return torch.baddbmm(self.bias, x, self.weight)

    def __getitem__(self, index: slice) -> "Linear":
        return Linear(self.weight[index], self.bias[index])


@dataclass(frozen=True)
class WrittenField:
    """f and g of B images, as the hypernetwork wrote them.

    Attributes
    ----------
    layers : tuple of Linear
        The backbone; all but the first see (previous layer, encoded point).
    to_distance, to_color : Linear
        The heads.
    frequencies : int
        Octaves of the encoding; 0 is the paper's "w/o positional encoding".
    """

    layers: tuple[Linear, ...]
    to_distance: Linear
    to_color: Linear
    frequencies: int

    def feature(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points width"]:
        """The backbone's last layer, which both heads and the marcher read."""
        encoded, value = encode_point(points, self.frequencies), None
        for layer in self.layers:
            previous, point = self._split(layer)
            total = torch.baddbmm(layer.bias, encoded, point)
            if previous is not None:
                total = torch.baddbmm(total, value, previous)
            value = F.relu(F.layer_norm(total, total.shape[-1:]))
        return value

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance f, negative inside."""
        return self.to_distance(self.feature(points))[..., 0]

    def distance_and_feature(self, points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, Tensor]:
        """Signed distance and what the marcher sees."""
        feature = self.feature(points)
        return self.to_distance(feature)[..., 0], feature

    def color(self, feature: Float[Tensor, "batch points width"]) -> Float[Tensor, "batch points 3"]:
        """g, RGB in [0, 1] (the released code's tanh in [-1, 1], rescaled)."""
        return (self.to_color(feature).tanh() + 1) / 2

    def with_gradient(
        self, points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points width"], Float[Tensor, "batch points 3"]]:
        """Signed distance, the feature and the gradient of the signed distance with respect to the point.

        By autograd, twice where a loss on the gradient is to be differentiated. (Written out by hand, as for
        ShapeClipper's field, LayerNorm made it slower: 0.52 s instead of 0.44 s for 20,000 points of the paper's size.)
        """
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            distance, feature = self.distance_and_feature(leaf)
            (gradient,) = torch.autograd.grad(distance.sum(), leaf, create_graph=training)
        return (distance, feature, gradient) if training else (distance.detach(), feature.detach(), gradient)

    def __getitem__(self, index: slice) -> "WrittenField":
        layers = tuple(layer[index] for layer in self.layers)
        return WrittenField(layers, self.to_distance[index], self.to_color[index], self.frequencies)

    def _split(self, layer: Linear) -> tuple[Tensor | None, Tensor]:
        """A layer's weight as its rows for the previous layer and for the encoded point."""
        size = encoded_size(self.frequencies)
        if layer.weight.shape[1] == size:
            return None, layer.weight
        return layer.weight[:, :-size], layer.weight[:, -size:]


class Hypernetwork(nn.Module):
    """Code -> the weights of f and g: an MLP of its own for each layer, as in the released code.

    Parameters
    ----------
    code_size : int
        Of the image's latent.
    hyper_layers, hyper_width : int
        Hidden layers of each MLP and their width (ShapeNet: 5 of 512).
    width, layers, frequencies : int
        Of the written field (ShapeNet: 128, 4, 5).
    """

    def __init__(
        self,
        code_size: int = 512,
        hyper_layers: int = 5,
        hyper_width: int = 512,
        width: int = 128,
        layers: int = 4,
        frequencies: int = 5,
    ):
        super().__init__()
        self.code_size, self.frequencies = code_size, frequencies
        point = encoded_size(frequencies)
        self.shapes = [(point, width)] + [(width + point, width)] * (layers - 1) + [(width, 1), (width, 3)]
        self.writers = nn.ModuleList(
            [_mlp(code_size, hyper_layers, hyper_width, (inputs + 1) * outputs) for inputs, outputs in self.shapes]
        )

    def forward(self, code: Float[Tensor, "batch code"]) -> WrittenField:
        """The fields of B codes."""
        *layers, distance, color = (
            self._layer(writer(code), shape) for writer, shape in zip(self.writers, self.shapes, strict=True)
        )
        return WrittenField(tuple(layers), distance, color, self.frequencies)

    @staticmethod
    def _layer(values: Tensor, shape: tuple[int, int]) -> Linear:
        matrix = values.unflatten(-1, (shape[0] + 1, shape[1]))
        return Linear(matrix[:, 1:], matrix[:, :1])


def _mlp(inputs: int, hidden_layers: int, width: int, outputs: int) -> nn.Sequential:
    sizes = [inputs] + [width] * hidden_layers
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))
