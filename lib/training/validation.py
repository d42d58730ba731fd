"""How well a system does on held-out samples while it trains: from images alone, or also from shapes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.data.loading import PreparedDataset
from lib.geometry.alignment import Clouds, aligned_chamfer_distance
from lib.geometry.meshes import is_empty, sample_surface
from lib.geometry.metrics import azimuth_entropy, azimuth_error
from lib.losses.reprojection import mask_loss, rgb_loss
from lib.systems.base import Reconstruction, System


@torch.no_grad()
def validate(
    system: System, data: PreparedDataset, seed: int = 0, shapes: bool = False, limit: int = 48, image_size: int = 32
) -> dict[str, float]:
    """Scores on up to `limit` samples, spread evenly over the dataset.

    Returns
    -------
    dict
        ``image_loss`` = rgb + 0.5 * mask loss (Eq. 1, 5) of whole images rendered from the predicted (or given)
        viewpoint, and its parts; where the dataset knows viewpoints ``azimuth_entropy`` (1 even, 0 collapsed) and
        ``azimuth_error`` (median, degrees, for the better of the turns 0 and 180 that keep the mirror plane);
        with `shapes` also ``chamfer_distance`` (view protocol, in 1: not times 10).
    """
    was_training = system.training
    system.eval()
    rows = torch.linspace(0, len(data) - 1, min(limit, len(data))).round().long().unique()
    batch = data.batch(rows).to(next(system.parameters()).device)
    shape = system.reconstruct_batch(batch)
    maps = shape.render(image_size=image_size, samples=32)
    mask, rgb = _resized(batch.mask[..., None], image_size)[..., 0], _resized(batch.rgb, image_size)
    scores = {
        "image_rgb": float(rgb_loss(maps.rgb.flatten(1, 2), rgb.flatten(1, 2))),
        "image_mask": float(mask_loss(maps.mask.flatten(1), mask.flatten(1))),
    }
    scores["image_loss"] = scores["image_rgb"] + 0.5 * scores["image_mask"]
    if not system.needs_viewpoint and batch.viewpoint is not None:
        predicted, true = (v.angles()[0].rad2deg().cpu().numpy() for v in (shape.viewpoint, batch.viewpoint))
        scores["azimuth_entropy"] = azimuth_entropy(predicted)
        scores["azimuth_error"] = float(min(np.median(azimuth_error(predicted, true, turn)) for turn in (0, 180)))
    if shapes:
        distances = [chamfer_distance_of(shape, data, int(row), i, seed) for i, row in enumerate(rows)]
        scores["chamfer_distance"] = float(np.mean(distances))
    system.train(was_training)
    return {name: round(value, 6) for name, value in scores.items()}


def _resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.permute(0, 3, 1, 2), size=size, mode="area").permute(0, 2, 3, 1)


def chamfer_distance_of(
    shape: Reconstruction, data: PreparedDataset, row: int, index: int, seed: int, points: int = 10_000
) -> float:
    """Of one shape to the truth (``view`` protocol), by a coarse grid and few points.

    The released code chooses checkpoints this way, and so sees the 3D ground truth of the validation samples.
    """
    mesh = shape.mesh(64, index, colored=False)
    predicted = np.zeros((1, 3)) if is_empty(mesh) else sample_surface(mesh, points, [seed, row, 1])
    target = sample_surface(data.mesh(row), points, [seed, row, 0])
    rotation = shape.viewpoint[index].rotation()[0].detach().double().cpu().numpy()
    true_rotation = data.viewpoint[row].rotation()[0].double().cpu().numpy()
    return aligned_chamfer_distance(Clouds(predicted, target, rotation, true_rotation), "view")
