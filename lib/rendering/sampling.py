"""What is drawn in a training step: which pixels of an image are rendered, and points in space."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def boundary_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in pixels of every pixel centre to the silhouette's boundary, on both sides of it.

    The boundary runs half-way between a foreground and a background pixel, hence the half pixel less than the
    distance to the nearest pixel of the other kind. `mask` is boolean, (H, W).
    """
    return distance_transform_edt(mask) + distance_transform_edt(~mask) - 0.5


def ray_weights(mask: np.ndarray, softening: float = 5 / 224) -> np.ndarray:
    """Sampling weight of every pixel, 1 / (distance to the boundary + softening), scaled to sum to 1.

    Released code: 5 pixels of softening at 224 x 224; `softening` is in image widths so that other sizes agree.
    """
    weights = 1.0 / (boundary_distance(mask) + softening * mask.shape[1])
    return (weights / weights.sum()).astype(np.float32)


def sample_pixels(
    weights: Float[Tensor, "batch height width"], rays: int, generator: torch.Generator
) -> Int[Tensor, "batch rays"]:
    """Row-major indices of `rays` different pixels an image, drawn with probability proportional to the weights."""
    flat = weights.flatten(1).to(generator.device)
    count = min(rays, flat.shape[1])
    return torch.multinomial(flat, count, generator=generator).to(weights.device)


def values_at(
    maps: Float[Tensor, "batch height width *channels"], index: Int[Tensor, "batch rays"]
) -> Float[Tensor, "batch rays *channels"]:
    """Values of images at row-major pixel indices."""
    flat = maps.flatten(1, 2)
    return flat[torch.arange(len(flat), device=flat.device)[:, None], index]


def uniform(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [-1, 1], drawn on the generator's device, on the device and of the type of `like`."""
    return (2 * torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype) - 1).to(like.device)
