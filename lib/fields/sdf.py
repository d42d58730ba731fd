"""The shape field f_S: a point and a shape code -> signed distance (negative inside)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lib.fields.encoding import encode, encoded_size, encoding_gradient

SHARPNESS = 100.0  # beta of the Softplus in VolSDF and ShapeClipper: nearly a ReLU, but with a second derivative


class SDFField(nn.Module):
    """Signed distance MLP with geometric initialisation and skips (VolSDF App. B; ShapeClipper Sec. 3.4).

    Parameters
    ----------
    code_size, width, hidden_layers, feature_size : int
        ShapeClipper: 64, 64, 5, 64.
    frequencies : int
        Octaves of the positional encoding.
    skips : tuple of int
        Layers that see the encoded point and the code again, next to the previous layer, divided by sqrt(2).
    symmetric : bool
        Mirror symmetry in x, made hard by x := |x|.
    radius : float
        The untrained field is about a sphere of this radius (geometric initialisation, Atzmon & Lipman 2020).
    """

    def __init__(
        self,
        code_size: int = 64,
        width: int = 64,
        hidden_layers: int = 5,
        feature_size: int = 64,
        frequencies: int = 6,
        skips: tuple[int, ...] = (1, 2),
        symmetric: bool = True,
        radius: float = 0.5,
    ):
        super().__init__()
        self.frequencies, self.skips, self.symmetric = frequencies, skips, symmetric
        point_size = encoded_size(frequencies)
        self.sizes = (width, point_size, code_size)
        inputs = [point_size + code_size] + [width] * (hidden_layers - 1)
        inputs = [n + (point_size + code_size if i in skips else 0) for i, n in enumerate(inputs)]
        self.hidden = nn.ModuleList([nn.Linear(n, width) for n in inputs])
        self.head = nn.Linear(width, 1 + feature_size)
        self._initialise(radius)

    @torch.no_grad()
    def _initialise(self, radius: float):
        for index, layer in enumerate(self.hidden):
            nn.init.zeros_(layer.bias)
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / layer.out_features))
            if index == 0:
                layer.weight[:, 3:] = 0  # only the bare point: octaves and code start silent
            elif index in self.skips:
                layer.weight[:, self.sizes[0] + 3 :] = 0
        nn.init.normal_(self.head.weight, math.sqrt(math.pi / self.head.in_features), 1e-4)
        nn.init.constant_(self.head.bias, -radius)

    def forward(
        self, points: Float[Tensor, "batch points 3"], code: Float[Tensor, "batch code"]
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points feature"]]:
        """Signed distance (world units) and the last layer's feature, which the texture field sees."""
        _, _, output = self._layers(points, code)
        return output[..., 0], output[..., 1:]

    def with_gradient(
        self,
        points: Float[Tensor, "batch points 3"],
        code: Float[Tensor, "batch code"],
        where: Bool[Tensor, "batch points"] | None = None,
    ) -> tuple[Float[Tensor, "batch points"], Float[Tensor, "batch points feature"], Float[Tensor, "batch points 3"]]:
        """Signed distance, feature and the gradient of the signed distance with respect to the point.

        The gradient is the chain rule written out, layer by layer from the top, so that a loss on it needs one
        ordinary backward pass instead of a second differentiation. The tests compare it with autograd. It costs as
        much as the distance itself: `where` says which points need it, and the others get 0.
        """
        encoded, pre_activations, output = self._layers(points, code)
        if where is not None:
            chosen = where.flatten().nonzero()[:, 0]  # row numbers among the points of all images
            encoded = encoded.flatten(0, 1)[chosen]
            pre_activations = [total.flatten(0, 1)[chosen] for total in pre_activations]
        upstream = self.head.weight[0]
        to_encoding = 0.0
        for index in reversed(range(len(self.hidden))):
            upstream = upstream * torch.sigmoid(SHARPNESS * pre_activations[index])
            previous, point, _ = self.split(index)
            if point is not None:
                to_encoding = to_encoding + upstream @ point
            if previous is not None:
                upstream = upstream @ previous
        gradient = encoding_gradient(encoded, to_encoding, self.frequencies)
        if where is not None:
            gradient = gradient.new_zeros(where.numel(), 3).index_copy(0, chosen, gradient).unflatten(0, where.shape)
        if self.symmetric:
            gradient = gradient * _mirror_sign(points)
        return output[..., 0], output[..., 1:], gradient

    def _layers(self, points: Tensor, code: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        encoded = encode(mirror(points) if self.symmetric else points, self.frequencies)
        value, pre_activations = None, []
        for index, layer in enumerate(self.hidden):
            previous, point, latent = self.split(index)
            if point is None:
                total = F.linear(value, previous, layer.bias)
            else:
                per_image = (layer.bias + code @ latent.mT)[:, None]  # the code is the same for all points of an image
                total = torch.baddbmm(per_image, encoded, point.mT.expand(len(encoded), -1, -1))
                if previous is not None:
                    total = torch.baddbmm(total, value, previous.mT.expand(len(value), -1, -1))
            pre_activations.append(total)
            value = F.softplus(total, beta=SHARPNESS)
        return encoded, pre_activations, self.head(value)

    def split(self, index: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """A layer's weight as its columns for the previous layer, the encoded point and the code."""
        width, point, code = self.sizes
        weight = self.hidden[index].weight
        if index == 0:
            return None, weight[:, :point], weight[:, point:]
        if index in self.skips:
            return (weight / math.sqrt(2)).split([width, point, code], dim=1)
        return weight, None, None


def mirror(points: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape 3"]:
    """Fold space at the mirror plane: x := |x|."""
    return torch.cat([points[..., :1].abs(), points[..., 1:]], dim=-1)


def _mirror_sign(points: Tensor) -> Tensor:
    sign = torch.where(points[..., :1] < 0, -1.0, 1.0)
    return torch.cat([sign, torch.ones_like(points[..., 1:])], dim=-1)
