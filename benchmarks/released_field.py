"""SDF-SRN's written field as the released code builds it: the baseline that the course's is timed against.

Written from what the code does, not from its text: every layer joins its input, multiplies, adds its bias, normalises
and rectifies in an operation each, and all points go through at once.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.fields.encoding import encode
from lib.fields.hypernetwork import WrittenField
from lib.systems.base import System


@dataclass(frozen=True)
class ReleasedField(WrittenField):
    """The numbers of `WrittenField`, by the released code's route."""

    def feature(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points width"]:
        """The last layer, an operation at a time."""
        encoded = encode(points, self.frequencies, math.pi)
        value = None
        for layer in self.layers:
            seen = encoded if value is None else torch.cat([value, encoded], dim=-1)
            total = seen @ layer[:, 1:] + layer[:, :1]
            value = F.relu(F.layer_norm(total, total.shape[-1:]))
        return value

    def distance_and_feature(self, points: Float[Tensor, "batch points 3"]) -> tuple[Tensor, Tensor]:
        """The head of f on the last layer."""
        feature = self.feature(points)
        return (feature @ self.to_distance[:, 1:] + self.to_distance[:, :1])[..., 0], feature

    def distance(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points"]:
        """The same without the feature."""
        return self.distance_and_feature(points)[0]


def compute_as_released(system: System) -> None:
    """Let the hypernetwork of an SDF-SRN write such fields."""

    def written(_module, _inputs, field: WrittenField) -> ReleasedField:
        return ReleasedField(field.layers, field.to_distance, field.to_color, field.frequencies)

    system.hypernetwork.register_forward_hook(written)
