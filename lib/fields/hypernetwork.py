"""Fields whose weights are written by a network: one code, one small MLP (SDF-SRN Sec. 3.3, Fig. 3).

Every layer of the written MLP sees the encoded point; LayerNorm without affine terms (in the released code, not in the
paper) and ReLU follow. The last feature goes to the head of f (signed distance), the head of g (colour) and the marcher
h, whose own weights are shared by all images.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.fields.encoding import encode, encoded_size


@dataclass(frozen=True)
class WrittenField:
    """f and g of B images, as the hypernetwork wrote them.

    Attributes
    ----------
    layers : tuple of Tensor, shapes (B, 1 + in, width)
        The MLP; the first row of each is the bias. All but the first see (previous layer, encoded point).
    to_distance, to_color : Tensor, shapes (B, 1 + width, 1) and (B, 1 + width, 3)
        The heads.
    frequencies : int
        Octaves of the encoding; 0 is the paper's "w/o positional encoding".
    """

    layers: tuple[Float[Tensor, "batch _ width"], ...]
    to_distance: Float[Tensor, "batch _ 1"]
    to_color: Float[Tensor, "batch _ 3"]
    frequencies: int

    def feature(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points width"]:
        """The last layer, which both heads and the marcher read; points in the world frame."""
        encoded = encode(points, self.frequencies, math.pi)  # (B, P, 3 + 6 F)
        value = None
        for layer in self.layers:
            seen = encoded if value is None else torch.cat([value, encoded], dim=-1)
            value = F.relu(F.layer_norm(linear(seen, layer), layer.shape[-1:]))  # (B, P, width)
        return value

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """Signed distance f in world units, negative inside."""
        return linear(self.feature(points), self.to_distance)[..., 0]

    def distance_and_feature(self, points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, Tensor]:
        """Signed distance (B, P), and the feature (B, P, width) that the marcher sees."""
        feature = self.feature(points)
        return linear(feature, self.to_distance)[..., 0], feature

    def color(self, feature: Float[Tensor, "batch points width"]) -> Float[Tensor, "batch points 3"]:
        """g, RGB in [0, 1]: the released code's tanh in [-1, 1], rescaled."""
        return (linear(feature, self.to_color).tanh() + 1) / 2

    def color_at(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 3"]:
        """The colour at points."""
        return self.color(self.feature(points))

    def with_gradient(
        self, points: Float[Tensor, "batch points 3"], create_graph: bool = False
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points width"], Float[Tensor, "batch points 3"]]:
        """Signed distance, feature and the gradient of the signed distance with respect to the point.

        With `create_graph` a loss on the gradient can be differentiated again; without it nothing keeps a graph.
        """
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            sdf, feature = self.distance_and_feature(points)
            (gradient,) = torch.autograd.grad(sdf.sum(), points, create_graph=create_graph)
        if create_graph:
            return sdf, feature, gradient
        return sdf.detach(), feature.detach(), gradient

    def __getitem__(self, index: slice) -> "WrittenField":
        layers = tuple(layer[index] for layer in self.layers)
        return WrittenField(layers, self.to_distance[index], self.to_color[index], self.frequencies)


def linear(
    x: Float[Tensor, "batch points inputs"], matrix: Float[Tensor, "batch rows outputs"]
) -> Float[Tensor, "batch points outputs"]:
    """A linear layer an image: its first row is the bias, the rest the weights."""
    return torch.baddbmm(matrix[:, :1], x, matrix[:, 1:])


class Hypernetwork(nn.Module):
    """Code -> the weights of f and g: one MLP for each written layer, as in the released code.

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
        self.frequencies = frequencies
        point = encoded_size(frequencies)
        self.shapes = [(point, width)] + [(width + point, width)] * (layers - 1) + [(width, 1), (width, 3)]
        self.writers = nn.ModuleList()
        for inputs, outputs in self.shapes:
            hidden = []
            for size, next_size in pairwise([code_size] + [hyper_width] * hyper_layers):
                hidden += [nn.Linear(size, next_size), nn.ReLU()]
            last_size = hyper_width if hyper_layers else code_size
            self.writers.append(nn.Sequential(*hidden, nn.Linear(last_size, (inputs + 1) * outputs)))

    def forward(self, code: Float[Tensor, "batch code"]) -> WrittenField:
        """The fields of B codes."""
        *layers, to_distance, to_color = (
            writer(code).unflatten(-1, (inputs + 1, outputs))
            for writer, (inputs, outputs) in zip(self.writers, self.shapes, strict=True)
        )
        return WrittenField(tuple(layers), to_distance, to_color, self.frequencies)
