"""How well a system does on held-out samples while it trains: from images alone, or also from shapes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.data.loading import PreparedDataset
from lib.geometry.metrics import azimuth_entropy, azimuth_error
from lib.losses.reprojection import mask_loss, rgb_loss


@torch.no_grad()
def validate(
    system: nn.Module, data: PreparedDataset, seed: int = 0, shapes: bool = False, limit: int = 48, image_size: int = 32
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
    device = next(system.parameters()).device
    batch = data.batch(rows).to(device)
    given = batch.viewpoint if getattr(system.config, "viewpoint", None) == "given" else None
    shape = system.reconstruct(batch.rgb, given)
    maps = shape.render(image_size=image_size, samples=32)
    mask, rgb = _resized(batch.mask[..., None], image_size)[..., 0], _resized(batch.rgb, image_size)
    scores = {
        "image_rgb": float(rgb_loss(maps.rgb.flatten(1, 2), rgb.flatten(1, 2))),
        "image_mask": float(mask_loss(maps.mask.flatten(1), mask.flatten(1))),
    }
    scores["image_loss"] = scores["image_rgb"] + 0.5 * scores["image_mask"]
    if given is None and batch.viewpoint is not None:
        predicted, true = (v.angles()[0].rad2deg().cpu().numpy() for v in (shape.viewpoint, batch.viewpoint))
        scores["azimuth_entropy"] = azimuth_entropy(predicted)
        scores["azimuth_error"] = float(min(np.median(azimuth_error(predicted, true, turn)) for turn in (0, 180)))
    if shapes:
        scores["chamfer_distance"] = _chamfer_distance(system, data, rows, seed)
    system.train(was_training)
    return {name: round(value, 6) for name, value in scores.items()}


def _resized(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images.permute(0, 3, 1, 2), size=size, mode="area").permute(0, 2, 3, 1)


def _chamfer_distance(system: nn.Module, data: PreparedDataset, rows: Tensor, seed: int) -> float:
    """The released code's way to choose a checkpoint: 3D ground truth of the validation samples."""
    from lib.evaluation import validation_chamfer_distance

    return validation_chamfer_distance(system, data, rows.tolist(), seed)
