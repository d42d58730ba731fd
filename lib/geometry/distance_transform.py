"""What the distance transform of a silhouette says about a 3D signed distance: SDF-SRN Eq. 1-3.

Image planes: a *plane* point is (x, y) at focal length 1 with the principal point at 0, so that the plane point u at
projective depth z is the camera-frame point ``z (u, 1)`` (OpenCV: x right, y down, z forward). A distance D in pixels
of an image W pixels wide with a focal length of f image widths is ``D / (f W)`` on that plane.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Num
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from lib.errors import InputError

Camera = Literal["perspective", "weak_perspective"]
Unit = Literal["pixels", "image"]
Beyond = Literal["background", "unknown"]

HALF_DIAGONAL = 0.5**0.5  # no place of a pixel is farther from its centre, in pixels
LARGEST_DISTANCE = 1e12  # stands for an infinite one: its square is still a float32


def distance_transform(
    mask: Num[Tensor | np.ndarray, "*batch height width"] | Bool[Tensor | np.ndarray, "*batch height width"],
    unit: Unit = "pixels",
    beyond: Beyond = "background",
    margin: float = 0.0,
) -> Float[Tensor, "*batch height width"]:
    """Exact Euclidean distance D of every pixel centre to the nearest centre of a silhouette's pixel.

    Parameters
    ----------
    mask : Tensor or ndarray, shape (..., H, W)
        Silhouettes: True, or over one half.
    unit : {"pixels", "image"}
        Pixels, or image widths (pixels / W, the unit of `lib.geometry.cameras`).
    beyond : {"background", "unknown"}
        What is outside the picture. For a crop that may cut the object take "unknown": no distance is then larger
        than that to the nearest pixel centre outside the picture.
    margin : float
        Pixels taken off every distance, down to 0. A silhouette's pixels have an extent: 0.5 puts the boundary
        half-way between two centres, as the released code does; `HALF_DIAGONAL` is always safe.

    Returns
    -------
    Tensor, shape (..., H, W), float32, on the mask's device
        0 on the silhouette. Infinite for an empty silhouette when the background goes on beyond the picture: nothing
        is near (`count_unusable` counts those).

    Raises
    ------
    InputError
        The mask is no picture, or the unit, `beyond` or the margin is unknown.

    Examples
    --------
    >>> distance_transform(torch.tensor([[1, 0, 0], [0, 0, 0]]))
    tensor([[0.0000, 1.0000, 2.0000],
            [1.0000, 1.4142, 2.2361]])
    """
    inside = _silhouettes(mask)
    _check(unit, Unit, "unit")
    _check(beyond, Beyond, "beyond")
    if not margin >= 0:
        raise InputError(f"margin: {margin} pixels cannot be taken off a distance; give 0 or more.")
    distance = np.full(inside.shape, np.inf)  # of an empty silhouette
    for one in np.ndindex(inside.shape[:-2]):
        if beyond == "unknown":
            distance[one] = distance_transform_edt(~np.pad(inside[one], 1, constant_values=True))[1:-1, 1:-1]
        elif inside[one].any():
            distance[one] = distance_transform_edt(~inside[one])
    distance = np.maximum(distance - margin, 0) / (inside.shape[-1] if unit == "image" else 1)
    found = torch.from_numpy(distance.astype(np.float32))
    return found.to(mask.device) if isinstance(mask, Tensor) else found


def sdf_lower_bound(
    pixels: Float[Tensor | np.ndarray, "*pixels 2"],
    distance: Float[Tensor | np.ndarray, "..."] | float,
    depth: Float[Tensor | np.ndarray, "..."] | float,
    camera: Camera = "perspective",
) -> Float[Tensor, "..."]:
    """Largest distance to the surface that a silhouette proves: b(z; u) <= f(z (u, 1)), SDF-SRN Eq. 1-2.

    The ball of radius b around the point stays in the cone of rays that pass D around u. Eq. 1 with v of Eq. 2 is
    ``b = z |ū - (v̄·ū / v̄·v̄) v̄| = z |ū x v̄| / |v̄|``, and as ``|ū x v̄| = |v - u| = D`` for v on the line of u,

    ``b = z D / sqrt(1 + (|u| + D)^2)``.

    That is Eq. 1 without its division by |u|, and without a difference of nearly equal numbers: it also holds at the
    principal point.

    Parameters
    ----------
    pixels : Tensor or ndarray, shape (..., 2)
        u, on the image plane at focal length 1 with the principal point at 0.
    distance : Tensor, ndarray or float, shape (...)
        D(u) on that plane, 0 or more; infinite where no silhouette is near.
    depth : Tensor, ndarray or float, shape (...)
        Projective depth z in world units, not the length along the ray. Shapes are broadcast against each other.
    camera : {"perspective", "weak_perspective"}
        Weak perspective magnifies all points by 1 / z with one z, the distance of the camera; then the bound is z D.

    Returns
    -------
    Tensor, shape (...)
        World units, 0 or more. With infinite D: z in perspective (the distance to the camera's plane), else infinite.

    Raises
    ------
    InputError
        The camera is unknown, or a depth or distance is negative or NaN.
    """
    _check(camera, Camera, "camera")
    pixels = torch.as_tensor(pixels)
    distance, depth = (torch.as_tensor(part, dtype=pixels.dtype, device=pixels.device) for part in (distance, depth))
    for name, values in (("distance", distance), ("depth", depth)):
        if not bool((values >= 0).all()):
            raise InputError(f"{name}: values must be 0 or more and not NaN; a bound needs points before the camera.")
    radius = torch.linalg.vector_norm(pixels, dim=-1)
    if camera == "weak_perspective":
        # infinite distance at depth 0 stays infinite instead of NaN
        return torch.where(distance.isinf(), distance, depth * distance) + torch.zeros_like(radius)
    distance = distance.clamp(max=LARGEST_DISTANCE)
    return depth * distance / torch.sqrt(1 + (radius + distance) ** 2)


@dataclass(frozen=True)
class Unusable:
    """How many silhouettes of a batch say less than they seem to, or nothing: training uses and counts them.

    Attributes
    ----------
    empty : int
        Without a foreground pixel: their bounds are infinite or those of the picture's border.
    full : int
        Without a background pixel: no bound at all.
    cut : int
        Neither, and touching the border: the object may go on outside (`beyond` of `distance_transform`).
    """

    empty: int
    full: int
    cut: int


def count_unusable(mask) -> Unusable:
    """Count empty, full and possibly cut silhouettes of a batch (..., H, W)."""
    inside = _silhouettes(mask).reshape(-1, *mask.shape[-2:])
    some, every = inside.any((1, 2)), inside.all((1, 2))
    border = inside[:, [0, -1]].any((1, 2)) | inside[:, :, [0, -1]].any((1, 2))
    return Unusable(int((~some).sum()), int(every.sum()), int((border & ~every).sum()))


def _silhouettes(mask) -> Bool[np.ndarray, "*batch height width"]:
    values = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.ndim < 2 or 0 in values.shape[-2:]:
        raise InputError(f"A silhouette is a picture of shape (..., height, width), not one of shape {values.shape}.")
    if np.issubdtype(values.dtype, np.floating) and np.isnan(values).any():
        raise InputError("A silhouette has values that are NaN; a mask is boolean or in [0, 1].")
    return values > 0.5


def _check(value: str, allowed, name: str) -> None:
    if value not in get_args(allowed):
        raise InputError(f"{name}: {value!r} is not one of {', '.join(get_args(allowed))}.")
