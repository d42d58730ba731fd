"""Where mixed precision ends."""

import torch
from torch import Tensor


def all_digits(like: Tensor) -> torch.autocast:
    """Mixed precision switched off, for what follows the image networks: cameras, surfaces and normals need float32."""
    return torch.autocast(like.device.type, enabled=False)
