"""The texture field f_T: a point, a texture code and the shape field's feature -> colour."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.fields.encoding import encode, encoded_size
from lib.fields.sdf import SDFField, mirror


class TextureField(nn.Module):
    """Colour MLP: 3 hidden ReLU layers of 64, sigmoid (ShapeClipper Sec. 3.4). No view direction, no normal."""

    def __init__(
        self,
        code_size: int = 64,
        width: int = 64,
        hidden_layers: int = 3,
        feature_size: int = 64,
        frequencies: int = 6,
        symmetric: bool = True,
    ):
        super().__init__()
        self.frequencies, self.symmetric = frequencies, symmetric
        self.sizes = (encoded_size(frequencies), code_size, feature_size)
        self.first = nn.Linear(sum(self.sizes), width)
        rest = [layer for _ in range(hidden_layers - 1) for layer in (nn.Linear(width, width), nn.ReLU())]
        self.rest = nn.Sequential(nn.ReLU(), *rest, nn.Linear(width, 3), nn.Sigmoid())

    def forward(
        self,
        points: Float[Tensor, "batch points 3"],
        code: Float[Tensor, "batch code"],
        feature: Float[Tensor, "batch points feature"],
    ) -> Float[Tensor, "batch points 3"]:
        """RGB in [0, 1] at points of the world frame."""
        encoded = encode(mirror(points) if self.symmetric else points, self.frequencies)
        point, latent, shape = self.first.weight.split(self.sizes, dim=1)
        per_image = (self.first.bias + code @ latent.mT)[:, None]
        return self.rest(encoded @ point.mT + feature @ shape.mT + per_image)


def colored_field(
    sdf_field: SDFField,
    texture_field: TextureField,
    shape_code: Float[Tensor, "batch code"],
    texture_code: Float[Tensor, "batch code"] | None,
) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Signed distance, its gradient and colour (white without a code) as one function of points (B, P, 3).

    Its second argument, booleans (B, P), says where the gradient is needed (default: everywhere).
    """

    def evaluate(points: Tensor, where: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        sdf, feature, gradient = sdf_field.with_gradient(points, shape_code, where)
        if texture_code is None:
            return sdf, gradient, torch.ones_like(points)
        return sdf, gradient, texture_field(points, texture_code, feature)

    return evaluate
