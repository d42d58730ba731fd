"""SDF-SRN's written field as the released code builds it: the baseline that the course's own is timed against.

Written from what the code does, not from its text: every layer joins its input, multiplies, normalises and rectifies in
an operation each, all points go through at once, and autograd does the derivatives, that of the eikonal term twice.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.fields.hypernetwork import WrittenField
from lib.fields.written_layers import encode_point
from lib.losses.field import eikonal_loss


@dataclass(frozen=True)
class ReleasedField(WrittenField):
    """The numbers of `WrittenField`, by the released code's route."""

    def feature(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points width"]:
        """The backbone, an operation at a time."""
        encoded, value = encode_point(points, self.frequencies), None
        for layer in self.layers:
            total = layer(encoded if value is None else torch.cat([value, encoded], dim=-1))
            value = F.relu(F.layer_norm(total, total.shape[-1:]))
        return value

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """The head of f on the backbone."""
        return self.to_distance(self.feature(points))[..., 0]

    def eikonal(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, ""]:
        """The gradient by autograd, whose graph is differentiated again."""
        points = points.requires_grad_()
        (gradient,) = torch.autograd.grad(self.distance(points).sum(), points, create_graph=True)
        return eikonal_loss(gradient)


def by_the_released_route(_module, _inputs, field: WrittenField) -> ReleasedField:
    """A hook for the hypernetwork, which then writes such fields."""
    return ReleasedField(field.layers, field.to_distance, field.to_color, field.frequencies)
