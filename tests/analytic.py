"""Shapes whose signed distance and whose first hit with a ray are known in closed form."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

COLOR = 0.25  # grey of every analytic shape


@dataclass(frozen=True)
class Shape:
    """A field for `render_rays`, and the exact depth of the first hit (infinite without one)."""

    field: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    first_hit: Callable[[np.ndarray, np.ndarray], np.ndarray]


def sphere(radius: float | Tensor = 0.4, center: Tensor | None = None) -> Shape:
    def field(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = points if center is None else points - center
        length = offset.norm(dim=-1)
        return length - radius, offset / length[..., None], torch.full_like(points, COLOR)

    def first_hit(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        middle = -(origins * directions).sum(-1)
        square = radius**2 - (origins**2).sum(-1) + middle**2
        return np.where(square > 0, middle - np.sqrt(np.maximum(square, 0)), np.inf)

    return Shape(field, first_hit)


def torus(ring: float = 0.3, tube: float = 0.12) -> Shape:
    def field(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        across = points[..., :2].norm(dim=-1)
        distance = torch.stack([across - ring, points[..., 2]], dim=-1).norm(dim=-1)
        slope = (across - ring) / distance / across
        gradient = torch.cat([slope[..., None] * points[..., :2], (points[..., 2] / distance)[..., None]], dim=-1)
        return distance - tube, gradient, torch.full_like(points, COLOR)

    def first_hit(origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        hits = [_torus_hit(o, d, ring, tube) for o, d in zip(origins, directions, strict=True)]
        return np.array(hits)

    return Shape(field, first_hit)


def _torus_hit(origin: np.ndarray, direction: np.ndarray, ring: float, tube: float) -> float:
    """Smallest real root of (|x|^2 + R^2 - r^2)^2 = 4 R^2 (x^2 + y^2) along a ray."""
    start = -origin @ direction  # from the nearest point to the centre on: small numbers, exact roots
    near = origin + start * direction
    square = np.array([1.0, 2 * near @ direction, near @ near])
    across = np.array([direction[:2] @ direction[:2], 2 * near[:2] @ direction[:2], near[:2] @ near[:2]])
    quadratic = square + np.array([0, 0, ring**2 - tube**2])
    roots = np.roots(np.polysub(np.polymul(quadratic, quadratic), 4 * ring**2 * across))
    real = roots[np.abs(roots.imag) < 1e-6].real
    return start + real.min() if len(real) else np.inf
