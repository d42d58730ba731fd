"""Viewpoints, rotations, rays and projection.

World: right-handed, z up, the object centred in the unit cube with its front towards +y and its mirror
plane at x = 0. Camera: OpenCV (x right, y down, z forward), ``X_cam = R X + t`` with ``t = (0, 0, distance)``.
Image coordinates are in units of the image width: (0, 0) is the upper left corner, (1, 1) the lower right
one of a square image, and the centre of pixel ``i`` of ``n`` is ``(i + 0.5) / n``.
"""

from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lib.errors import InputError

Projection = Literal["perspective", "weak_perspective"]

# World axes to camera axes at azimuth = elevation = roll = 0: the camera stands at +y and looks to -y.
WORLD_TO_CAMERA_AXES = ((-1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, -1.0, 0.0))
LARGEST = 1e6  # of a camera's lengths, and 1 / it the least of those that are positive: their squares stay numbers


@dataclass(frozen=True)
class Viewpoint:
    """Where cameras stand and how they project.

    Attributes
    ----------
    azimuth, elevation, roll : Tensor, shape (B, 2)
        Angles as unit pairs (cos, sin): ShapeClipper Sec. 3.1, v = [cos gamma, sin gamma].
    distance : Tensor, shape (B,)
        From the camera centre to the world's origin, in world units.
    focal : Tensor, shape (B,)
        Focal length in image widths.
    center : Tensor, shape (B, 2)
        Principal point in image widths; (0.5, 0.5) is the middle of the image.
    projection : {"perspective", "weak_perspective"}
        Weak perspective magnifies every point by ``focal / distance``: parallel rays.
    """

    azimuth: Float[Tensor, "batch 2"]
    elevation: Float[Tensor, "batch 2"]
    roll: Float[Tensor, "batch 2"]
    distance: Float[Tensor, " batch"]
    focal: Float[Tensor, " batch"]
    center: Float[Tensor, "batch 2"]
    projection: Projection = "perspective"

    @classmethod
    def from_angles(
        cls,
        azimuth: Float[Tensor, " batch"],
        elevation: Float[Tensor, " batch"],
        roll: Float[Tensor, " batch"] | None = None,
        *,
        distance: float | Tensor = 5.0,
        focal: float | Tensor = 4.0,
        center: Tensor | None = None,
        projection: Projection = "perspective",
    ) -> "Viewpoint":
        """Build viewpoints from angles in radians; the other values default to ShapeClipper's."""
        roll = torch.zeros_like(azimuth) if roll is None else roll
        return cls(
            unit_pair(azimuth),
            unit_pair(elevation),
            unit_pair(roll),
            torch.zeros_like(azimuth) + distance,
            torch.zeros_like(azimuth) + focal,
            azimuth.new_full((len(azimuth), 2), 0.5) if center is None else center,
            projection,
        )

    def __len__(self) -> int:
        return len(self.azimuth)

    def angles(self) -> tuple[Tensor, Tensor, Tensor]:
        """Azimuth, elevation and roll in radians in (-pi, pi], each of shape (B,)."""
        return tuple(torch.atan2(pair[:, 1], pair[:, 0]) for pair in (self.azimuth, self.elevation, self.roll))

    def rotation(self) -> Float[Tensor, "batch 3 3"]:
        """World-to-camera rotation ``R = Rz(roll) Rx(elevation) Ry(azimuth) P``."""
        cos_a, sin_a = self.azimuth.unbind(-1)
        cos_e, sin_e = self.elevation.unbind(-1)
        cos_r, sin_r = self.roll.unbind(-1)
        one, zero = torch.ones_like(cos_a), torch.zeros_like(cos_a)
        turn = _matrix(cos_a, zero, sin_a, zero, one, zero, -sin_a, zero, cos_a)
        tip = _matrix(one, zero, zero, zero, cos_e, -sin_e, zero, sin_e, cos_e)
        lean = _matrix(cos_r, sin_r, zero, -sin_r, cos_r, zero, zero, zero, one)
        return lean @ tip @ turn @ cos_a.new_tensor(WORLD_TO_CAMERA_AXES)

    def mirrored(self) -> "Viewpoint":
        """The viewpoint of the left-right mirrored image of an object that is symmetric in x."""
        flip = self.azimuth.new_tensor([1.0, -1.0])
        shift = self.center.new_tensor([1.0, 0.0])
        return replace(self, azimuth=self.azimuth * flip, roll=self.roll * flip, center=shift + self.center * -flip)

    def turned(self, angle: Float[Tensor, " batch"]) -> "Viewpoint":
        """The viewpoint after adding angles in radians to the azimuths."""
        (cos, sin), (cos_t, sin_t) = self.azimuth.unbind(-1), (angle.cos(), angle.sin())
        return replace(self, azimuth=torch.stack([cos * cos_t - sin * sin_t, sin * cos_t + cos * sin_t], dim=-1))

    def to(self, *args, **kwargs) -> "Viewpoint":
        """Move to a device or dtype."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> "Viewpoint":
        """The same viewpoint without gradient."""
        return self._map(Tensor.detach)

    def __getitem__(self, index) -> "Viewpoint":
        """Select samples with a slice, a mask or an index tensor (an int keeps the batch axis)."""
        if isinstance(index, Integral):
            index = slice(index, index + 1 or None)
        return self._map(lambda tensor: tensor[index])

    def _map(self, function) -> "Viewpoint":
        tensors = {f.name: function(getattr(self, f.name)) for f in fields(self) if f.name != "projection"}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Rays:
    """Rays in the world frame: points are ``origins + depth * directions``.

    Attributes
    ----------
    origins, directions : Tensor, shape (B, N, 3)
        Directions have unit length, so that depth is the distance from the origin in world units; or, of
        `projective_rays`, a step of 1 along the viewing axis, so that depth is measured along that.
    """

    origins: Float[Tensor, "batch rays 3"]
    directions: Float[Tensor, "batch rays 3"]


def check_viewpoint(viewpoint: Viewpoint, nearest: float = 0.0, first: int = 0) -> None:
    """Refuse cameras that see nothing, so that no NaN comes out of them later.

    Parameters
    ----------
    nearest : float
        World units: cameras must be farther from the origin.
    first : int
        The number of the first camera in its batch, for the sentence.

    Raises
    ------
    InputError
        An angle is no unit pair, the distance is not over `nearest`, the focal length not over 0, or a number is not
        finite or beyond `LARGEST`. The sentence names such a camera and what is wrong with it.
    """
    distance, focal, end = viewpoint.distance, viewpoint.focal, f"and at most {LARGEST:g}"
    rules = dict.fromkeys(("azimuth", "elevation", "roll"), "a unit pair (cos, sin)")
    sound = {name: (getattr(viewpoint, name).norm(dim=-1) - 1).abs() < 0.01 for name in rules}
    rules |= {"distance": f"over {nearest:g} {end}", "focal": f"over 0 {end}", "center": f"finite {end}"}
    sound["distance"] = (distance > max(nearest, 1 / LARGEST)) & (distance <= LARGEST)
    sound["focal"] = (focal >= 1 / LARGEST) & (focal <= LARGEST)
    sound["center"] = (viewpoint.center.abs() <= LARGEST).all(dim=-1)
    if torch.stack(list(sound.values())).all():
        return
    name = next(name for name, good in sound.items() if not good.all())
    image = int(sound[name].int().argmin())
    value = getattr(viewpoint, name)[image].tolist()
    raise InputError(f"viewpoint: the {name} of image {first + image} is {value}; it must be {rules[name]}")


def points_along(rays: Rays, depths: Float[Tensor, "batch rays samples"]) -> Float[Tensor, "batch rays samples 3"]:
    """Points o + z d in the world frame, several depths a ray."""
    return rays.origins[..., None, :] + depths[..., None] * rays.directions[..., None, :]


def unit_pair(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape 2"]:
    """(cos, sin) of angles in radians."""
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def pixel_centers(image_size: int, device=None, dtype=torch.float32) -> Float[Tensor, "pixels 2"]:
    """Centres (x, y) of all pixels of a square image in image widths, row by row: (size * size, 2)."""
    axis = (torch.arange(image_size, device=device, dtype=dtype) + 0.5) / image_size
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=-1)


def index_to_pixel(index: Int[Tensor, "batch rays"], image_size: int) -> Float[Tensor, "batch rays 2"]:
    """Centres (x, y) in image widths of pixels given by their row-major index."""
    column, row = index % image_size, index // image_size
    return (torch.stack([column, row], dim=-1) + 0.5) / image_size


def camera_rays(viewpoint: Viewpoint, pixels: Float[Tensor, "batch rays 2"]) -> Rays:
    """Rays in the world frame through image points (x, y) in image widths.

    Perspective rays start at the camera centre; weak-perspective rays start on the plane through the camera centre
    parallel to the image, so depths mean the same in both.
    """
    rays = projective_rays(viewpoint, pixels)
    if viewpoint.projection == "weak_perspective":
        return rays
    return Rays(rays.origins, torch.nn.functional.normalize(rays.directions, dim=-1))


def projective_rays(viewpoint: Viewpoint, pixels: Float[Tensor, "batch rays 2"]) -> Rays:
    """The same rays with depth as a camera measures it: points at depth z lie on the plane z in front of the camera."""
    rotation = viewpoint.rotation()
    offset = pixels - viewpoint.center[:, None]
    back = -viewpoint.distance[:, None] * rotation[:, 2]  # camera centre -R^T t, (B, 3)
    if viewpoint.projection == "perspective":
        in_camera = torch.cat([offset / viewpoint.focal[:, None, None], torch.ones_like(offset[..., :1])], dim=-1)
        directions = in_camera @ rotation
        return Rays(back[:, None].expand_as(directions), directions)
    on_plane = offset * (viewpoint.distance / viewpoint.focal)[:, None, None]
    directions = rotation[:, None, 2].expand(*pixels.shape[:2], 3)
    return Rays(back[:, None] + on_plane @ rotation[:, :2], directions)


def project(viewpoint: Viewpoint, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch points 2"]:
    """Image points (x, y) in image widths of world points."""
    in_camera = points @ viewpoint.rotation().mT
    scale = viewpoint.focal[:, None, None]
    if viewpoint.projection == "perspective":
        scale = scale / (in_camera[..., 2:] + viewpoint.distance[:, None, None])
    else:
        scale = scale / viewpoint.distance[:, None, None]
    return in_camera[..., :2] * scale + viewpoint.center[:, None]


def _matrix(*entries: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3 3"]:
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
