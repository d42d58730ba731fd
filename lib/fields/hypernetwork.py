"""Fields whose weights are written by a network: one code, one small MLP (SDF-SRN Sec. 3.3, Fig. 3).

A backbone of hyper-linear layers, each followed by LayerNorm without affine terms (in the released code, not in the
paper) and ReLU, sees the encoded point at every layer. Its feature goes to the head of f (signed distance), the head of
g (colour) and the marcher h, whose own weights are shared by all images.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.fields.eikonal import Eikonal
from lib.fields.encoding import encoded_size
from lib.fields.written_layers import (
    Backbone,
    ascend,
    centered,
    chunks,
    descend,
    encode_point,
    to_point,
)


@dataclass(frozen=True)
class Linear:
    """A linear layer an image: its matrix (B, 1 + in, out), whose first row is the bias."""

    matrix: Float[Tensor, "batch rows outputs"]

    @property
    def bias(self) -> Float[Tensor, "batch 1 outputs"]:
        """The first row."""
        return self.matrix[:, :1]

    @property
    def weight(self) -> Float[Tensor, "batch inputs outputs"]:
        """All rows but the first."""
        return self.matrix[:, 1:]

    def __call__(self, x: Float[Tensor, "batch points inputs"]) -> Float[Tensor, "batch points outputs"]:
        """X W + b for each image."""
        return torch.baddbmm(self.bias, x, self.weight)

    def __getitem__(self, index: slice) -> "Linear":
        return Linear(self.matrix[index])


@dataclass(frozen=True)
class WrittenField:
    """f and g of B images, as the hypernetwork wrote them.

    Attributes
    ----------
    layers : tuple of Linear
        The backbone, centered for its LayerNorm; all but the first see (previous layer, encoded point).
    to_distance, to_color : Linear
        The heads.
    frequencies : int
        Octaves of the encoding; 0 is the paper's "w/o positional encoding".
    """

    layers: tuple[Linear, ...]
    to_distance: Linear
    to_color: Linear
    frequencies: int

    @property
    def matrices(self) -> tuple[Float[Tensor, "batch rows outputs"], ...]:
        """Of the backbone's layers."""
        return tuple(layer.matrix for layer in self.layers)

    def feature(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points width"]:
        """The backbone's last layer, which both heads and the marcher read."""
        return joined([Backbone.apply(part, self.frequencies, *self.matrices) for part in chunks(points)])

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance f, negative inside."""
        return joined([self.to_distance(self.feature(part))[..., 0] for part in chunks(points)])

    def distance_and_feature(self, points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, Tensor]:
        """Signed distance and what the marcher sees."""
        feature = self.feature(points)
        return self.to_distance(feature)[..., 0], feature

    def color(self, feature: Float[Tensor, "batch points width"]) -> Float[Tensor, "batch points 3"]:
        """g, RGB in [0, 1]."""
        return as_color(self.to_color(feature))

    def color_at(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
        """The colour at points."""
        return self.color(self.feature(points))

    @torch.no_grad()
    def with_gradient(
        self, points: Float[Tensor, "batch points 3"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points width"], Float[Tensor, "batch points 3"]]:
        """Signed distance, feature and the gradient of the signed distance with respect to the point; no graph."""
        parts = [self._with_gradient(part) for part in chunks(points)]
        return tuple(joined(list(column)) for column in zip(*parts, strict=True))

    def _with_gradient(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        encoded = encode_point(points, self.frequencies)
        layers = ascend(encoded, self.matrices)
        upstream, _ = descend(layers, self.matrices, self.to_distance.weight.mT, encoded.shape[-1])
        feature = layers[-1][0].relu()
        return self.to_distance(feature)[..., 0], feature, to_point(encoded, upstream)

    def eikonal(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, ""]:
        """The mean of (|grad f| - 1)^2 (`lib.losses.field.eikonal_loss`), with gradients for the field alone."""
        return Eikonal.apply(points, self.frequencies, False, self.to_distance.weight.mT, *self.matrices)

    def __getitem__(self, index: slice) -> "WrittenField":
        layers = tuple(layer[index] for layer in self.layers)
        return WrittenField(layers, self.to_distance[index], self.to_color[index], self.frequencies)


def as_color(output: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
    """The released code's tanh in [-1, 1], rescaled to [0, 1]."""
    return (output.tanh() + 1) / 2


def joined(parts: list[Tensor]) -> Tensor:
    """Parts of the points as one; the part itself if it is alone."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


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
            writer(code).unflatten(-1, (inputs + 1, outputs))
            for writer, (inputs, outputs) in zip(self.writers, self.shapes, strict=True)
        )
        backbone = tuple(Linear(centered(matrix)) for matrix in layers)
        return WrittenField(backbone, Linear(distance), Linear(color), self.frequencies)


def _mlp(inputs: int, hidden_layers: int, width: int, outputs: int) -> nn.Sequential:
    sizes = [inputs] + [width] * hidden_layers
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], outputs))
