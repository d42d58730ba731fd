"""What notebook 05 measures: wrong normals, which of them are dropped, what a viewpoint learns from the rest."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from lib.data.loading import Batch
from lib.geometry.cameras import Viewpoint, camera_rays, index_to_pixel
from lib.losses.normal import inliers, normal_errors, normal_loss, to_canonical
from lib.losses.reprojection import soft_iou
from lib.rendering.volume import RenderedMaps, render_rays, sample_depths
from lib.systems.base import Reconstruction


@dataclass(frozen=True)
class Corruption:
    """Normals (B, H, W, 3) of which some are wrong, and which (B, H, W)."""

    normal: Float[Tensor, "batch height width 3"]
    wrong: Bool[Tensor, "batch height width"]


def corrupted(batch: Batch, share: float, generator: torch.Generator, turn: float = 70.0) -> Corruption:
    """Turn the normals inside a blob of each image, as an estimator does that misreads a part of an object.

    Parameters
    ----------
    share : float
        About this share of each object's pixels is wrong: those nearest to a random pixel of the object.
    turn : float
        By how many degrees, about one random axis an image, so that the wrong part looks smooth and plausible.
    """
    size = batch.mask.shape[1]
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1).float()
    normal, wrong = batch.normal.clone(), torch.zeros_like(batch.mask, dtype=torch.bool)
    for i, inside in enumerate(batch.mask > 0.5):
        places = inside.nonzero()
        count = int(share * len(places))
        if count == 0:
            continue
        middle = places[int(torch.randint(len(places), (1,), generator=generator))]
        reach = (grid - middle).norm(dim=-1)
        wrong[i] = inside & (reach <= reach[inside].sort().values[count - 1])
        axis = F.normalize(torch.randn(3, generator=generator), dim=0)
        normal[i][wrong[i]] = normal[i][wrong[i]] @ _turn(axis, np.deg2rad(turn)).mT
    return Corruption(normal, wrong)


@dataclass(frozen=True)
class Ranking:
    """Pixels of one minibatch: their angular error 1 - cos, which are wrong, and where they come from."""

    angular: Float[Tensor, " pixels"]
    wrong: Bool[Tensor, " pixels"]
    place: Bool[Tensor, "batch height width"]

    def dropped(self, keep: float) -> Bool[Tensor, " pixels"]:
        """What outlier dropout leaves out."""
        return ~inliers(self.angular, keep)

    def quality(self, keep: float) -> tuple[float, float]:
        """Precision and recall of the dropped pixels as a finder of wrong ones."""
        dropped = self.dropped(keep)
        hits = float((dropped & self.wrong).sum())
        return hits / max(1.0, float(dropped.sum())), hits / max(1.0, float(self.wrong.sum()))

    def wrong_share(self, keep: float) -> float:
        """Share of wrong pixels among those that are kept."""
        return float(self.wrong[~self.dropped(keep)].float().mean())


def ranking(batch: Batch, maps: RenderedMaps, viewpoint: Viewpoint, corruption: Corruption) -> Ranking:
    """Errors of all pixels where both the image and the rendering show the object."""
    place = (batch.mask > 0.5) & (maps.mask > 0.5)
    target = to_canonical(corruption.normal.flatten(1, 2), viewpoint.rotation()).unflatten(1, place.shape[1:])
    _, angular = normal_errors(maps.normal[place], target[place])
    return Ranking(angular, corruption.wrong[place], place)


@torch.no_grad()
def landscape(
    shape: Reconstruction, batch: Batch, turns: Float[np.ndarray, " turns"], image_size: int = 24, samples: int = 24
) -> dict[str, Float[np.ndarray, "batch turns"]]:
    """Losses of each image if its azimuth were wrong by so many degrees, from normals alone and from the mask alone."""
    mask = F.interpolate(batch.mask[:, None], size=image_size, mode="area")[:, 0]
    normal = F.interpolate(batch.normal.permute(0, 3, 1, 2), size=image_size, mode="area").permute(0, 2, 3, 1)
    normal = F.normalize(normal, dim=-1)
    columns = {"normals": [], "mask": []}
    for turn in turns:
        view = batch.viewpoint.turned(torch.full((len(mask),), float(np.deg2rad(turn))))
        maps = shape.render(view, image_size, samples)
        both = ((mask > 0.5) & (maps.mask > 0.5)).flatten(1)
        target = to_canonical(normal.flatten(1, 2), view.rotation())
        error, _ = normal_errors(maps.normal.flatten(1, 2), target)
        columns["normals"].append((error * both).sum(1) / both.sum(1).clamp(min=1))
        columns["mask"].append(1 - soft_iou(maps.mask.flatten(1), mask.flatten(1)))
    return {name: torch.stack(column, dim=1).numpy() for name, column in columns.items()}


def basin_share(
    losses: Float[np.ndarray, "batch turns"], turns: Float[np.ndarray, " turns"], tolerance: float
) -> Float[np.ndarray, " turns"]:
    """For each start, the share of images whose downhill walk over the turns ends within `tolerance` degrees of 0.

    The turns are evenly spaced over the circle; a step goes to the lower neighbour until none is lower.
    """
    ends = np.stack([[_downhill(row, start) for start in range(len(turns))] for row in losses])
    return (np.abs(turns[ends]) <= tolerance).mean(axis=0)


def azimuth_slopes(
    shape: Reconstruction, batch: Batch, turns: Float[np.ndarray, " turns"], rays: Tensor, samples: int = 48
) -> tuple[Float[np.ndarray, " turns"], Float[np.ndarray, " turns"]]:
    """Normal loss of the first image against a turn of its azimuth, and the gradient that the azimuth receives.

    The gradient comes from automatic differentiation through R^T n and through the rendering (per degree).
    """
    one, size = batch.viewpoint[0], batch.mask.shape[1]
    target, inside = batch.normal[:1].flatten(1, 2)[:, rays], batch.mask[:1].flatten(1)[:, rays] > 0.5
    values, slopes = [], []
    for turn in turns:
        angle = torch.tensor([float(np.deg2rad(turn))], requires_grad=True)
        view = one.turned(angle)
        depths = sample_depths(view.distance - 0.7, view.distance + 0.7, len(rays), samples)
        pixels = camera_rays(view, index_to_pixel(rays[None], size))
        maps = render_rays(lambda p: shape.field(0, p), pixels, depths, shape.beta)
        loss = normal_loss(maps.normal, target, view.rotation(), inside & (maps.mask > 0.5), keep=1.0)
        values.append(float(loss.detach()))
        slopes.append(float(torch.autograd.grad(loss, angle)[0]) * np.pi / 180)
    return np.array(values), np.array(slopes)


def _downhill(losses: Float[np.ndarray, " turns"], start: int) -> int:
    count = len(losses)
    while True:
        around = [start, (start - 1) % count, (start + 1) % count]
        best = min(around, key=lambda i: losses[i])
        if best == start:
            return start
        start = best


def _turn(axis: Float[Tensor, "3"], angle: float) -> Float[Tensor, "3 3"]:
    """Rotation about an axis (Rodrigues' formula)."""
    x, y, z = axis.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return torch.eye(3) + float(np.sin(angle)) * cross + float(1 - np.cos(angle)) * cross @ cross
