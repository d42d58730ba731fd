"""One signed distance fitted to one silhouette: by distances or by yes and no (notebook 02)."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.fields.sdf import SDFField
from lib.losses.field import eikonal_loss
from lib.losses.silhouette import sdf_bound_loss
from lib.studies.bounds import BoundScene

Supervision = Literal["distance", "occupancy"]
TEMPERATURE = 0.02  # of the occupancy sigmoid(-f / t), world units
REACH = 0.6


@dataclass(frozen=True)
class SilhouetteFit:
    """A fitted field, and how its silhouette's overlap grew.

    Attributes
    ----------
    steps : list of int
    iou : list of float
        Of the silhouettes at those steps.
    error, missing : float
        Means in the end over points whose pixels are outside, world units: |f - true distance|, and max(0, b - f),
        what the silhouette forbids.
    """

    field: SDFField
    steps: list[int]
    iou: list[float]
    error: float
    missing: float


def ray_gradients(
    scene: BoundScene, sdf: Float[Tensor, "height height depths"], depths: Float[Tensor, " depths"]
) -> dict[Supervision, Float[Tensor, "height height"]]:
    """How strongly each outside pixel pulls at a field under both losses: sum over depths of |dL/df|; 0 inside."""
    outside = ~scene.mask
    found: dict[Supervision, Tensor] = {}
    for kind in ("distance", "occupancy"):
        f = sdf.clone().requires_grad_()
        _outside_loss(
            kind, f[outside][None], scene.bound(depths)[outside][None], scene.distance[outside][None]
        ).backward()
        found[kind] = f.grad.abs().sum(-1)
    return found


def fit_silhouette(
    scene: BoundScene, supervision: Supervision, steps: int = 150, rays: int = 256, samples: int = 6, seed: int = 0
) -> SilhouetteFit:
    """Fit a small network, first a ball, to one silhouette: outside by Eq. 4 or by cross-entropy, inside by a hit."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network, code = SDFField(code_size=1, radius=0.4), torch.zeros(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    mask = scene.mask.flatten()
    draw = mask / mask.sum() + ~mask / (~mask).sum()  # half of the rays inside
    log: tuple[list[int], list[float]] = ([], [])
    for step in range(steps + 1):
        if step % 25 == 0:
            log[0].append(step)
            log[1].append(_silhouette_iou(scene, network, code))
        index = torch.multinomial(draw, rays, generator=generator)
        loss = _step_loss(scene, network, code, supervision, index, samples, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    return SilhouetteFit(network, *log, *_outside_errors(scene, network, code))


def _step_loss(scene, network, code, supervision: Supervision, index, samples: int, generator) -> Tensor:
    middle = float(scene.viewpoint.distance)
    share = (torch.arange(samples) + torch.rand(samples, generator=generator)) / samples
    depths = middle - REACH + 2 * REACH * share
    points = scene.to_world(scene.points(depths).flatten(0, 1)[index])
    sdf, _, gradient = network.with_gradient(points.reshape(1, -1, 3), code)
    sdf, inside = sdf.reshape(len(index), samples), scene.mask.flatten()[index]
    bound = scene.bound(depths).flatten(0, 1)[index]
    loss = _outside_loss(
        supervision, sdf[~inside][None], bound[~inside][None], scene.distance.flatten()[index][~inside][None]
    )
    deepest = sdf[inside].amin(-1)
    if supervision == "occupancy":
        return loss + F.softplus(deepest / TEMPERATURE).mean()
    return 10 * loss + 10 * F.relu(deepest + 0.02).mean() + 0.1 * eikonal_loss(gradient)


def _outside_loss(kind: Supervision, sdf, bound, distance) -> Tensor:
    if kind == "distance":
        return sdf_bound_loss(sdf, bound, distance) / sdf.shape[-1]
    return F.softplus(-sdf / TEMPERATURE).mean()  # -log(1 - occupancy)


@torch.no_grad()
def _silhouette_iou(scene: BoundScene, network, code, depths: int = 24) -> float:
    every = scene.to_world(scene.points(_all_depths(scene, depths)))[::2, ::2]
    hit = network(every.reshape(1, -1, 3), code)[0].reshape(every.shape[:-1]).amin(-1) < 0
    mask = scene.mask[::2, ::2]
    return float((hit & mask).sum() / (hit | mask).sum())


@torch.no_grad()
def _outside_errors(scene: BoundScene, network, code, depths: int = 12) -> tuple[float, float]:
    at, outside = _all_depths(scene, depths), ~scene.mask
    points = scene.to_world(scene.points(at))[outside]
    sdf = network(points.reshape(1, -1, 3), code)[0].reshape(points.shape[:-1])
    missing = (scene.bound(at)[outside] - sdf).clamp(min=0)
    return float((sdf - scene.truth(at)[outside]).abs().mean()), float(missing.mean())


def _all_depths(scene: BoundScene, count: int) -> Tensor:
    middle = float(scene.viewpoint.distance)
    return torch.linspace(middle - REACH, middle + REACH, count)
