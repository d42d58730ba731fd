"""What a silhouette's distance transform proves about a shape, measured on shapes that are known (notebook 02)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from torch import Tensor

from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers, project
from lib.geometry.distance_grid import distance_grid
from lib.geometry.distance_transform import HALF_DIAGONAL, Beyond, distance_transform, sdf_lower_bound
from lib.geometry.meshes import grid_points
from lib.rendering.surface import cast_rays

# seat, back and four legs: centre and half sides, world units, front towards +y
CHAIR_BOXES = (
    ((0.0, 0.0, -0.05), (0.26, 0.25, 0.03)),
    ((0.0, -0.23, 0.24), (0.26, 0.03, 0.26)),
    *(((x, y, -0.29), (0.03, 0.03, 0.21)) for x in (-0.23, 0.23) for y in (-0.22, 0.22)),
)
SIDES = ((30, 15), (120, 15), (75, 50), (165, 50), (210, -20), (300, -20), (345, 50), (30, 80))  # azimuth, elevation


@dataclass(frozen=True)
class Solid:
    """A shape whose distance is known everywhere: points (..., 3) -> (...), world units; and its mesh for rays."""

    mesh: trimesh.Trimesh
    distance: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BoundScene:
    """A solid, its silhouette, and what the silhouette proves.

    Attributes
    ----------
    solid : Solid or None
        None where only the silhouette is known.
    viewpoint : Viewpoint
        One camera, "perspective" or "weak_perspective".
    mask : Tensor, shape (H, H), bool
    pixels : Tensor, shape (H, H, 2)
        Pixel centres on the image plane at focal length 1, principal point at 0.
    distance : Tensor, shape (H, H)
        D on that plane.
    """

    solid: Solid | None
    viewpoint: Viewpoint
    mask: Bool[Tensor, "height height"]
    pixels: Float[Tensor, "height height 2"]
    distance: Float[Tensor, "height height"]

    def points(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "height height depths 3"]:
        """Points of all rays at projective depths, camera frame."""
        spread = depths if self.viewpoint.projection == "perspective" else self.viewpoint.distance.expand_as(depths)
        across = self.pixels[:, :, None] * spread[:, None]
        return torch.cat([across, depths[:, None].expand(*across.shape[:-1], 1)], dim=-1)

    def bound(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "height height depths"]:
        """The bound b at `points`; 0 on the silhouette."""
        perspective = self.viewpoint.projection == "perspective"
        z = depths if perspective else self.viewpoint.distance.expand_as(depths)
        camera = "perspective" if perspective else "weak_perspective"
        return sdf_lower_bound(self.pixels[:, :, None], self.distance[..., None], z, camera)

    def to_world(self, points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
        """Camera frame to world frame."""
        shift = points.new_tensor([0.0, 0.0, float(self.viewpoint.distance)])
        return (points - shift) @ self.viewpoint.rotation()[0]

    def truth(self, depths: Float[Tensor, " depths"]) -> Float[Tensor, "height height depths"]:
        """The solid's signed distance at `points`; there must be a solid."""
        return self.solid.distance(self.to_world(self.points(depths)))


def near_camera(azimuth: float, elevation: float, projection="perspective", focal: float = 1.25) -> Viewpoint:
    """A camera so near (1.8 world units) that perspective matters."""
    angles = torch.tensor([[azimuth], [elevation]], dtype=torch.float32).deg2rad()
    return Viewpoint.from_angles(angles[0], angles[1], distance=1.8, focal=focal, projection=projection)


def silhouette(solid: Solid, viewpoint: Viewpoint, size: int) -> Bool[Tensor, "size size"]:
    """Pixels whose centre's ray meets the solid."""
    hits = cast_rays(solid.mesh, camera_rays(viewpoint, pixel_centers(size)[None]), 10.0).mask
    return hits[0].reshape(size, size) > 0.5


def bound_scene(
    solid: Solid | None,
    viewpoint: Viewpoint,
    size: int = 64,
    *,
    mask: Bool[Tensor, "size size"] | None = None,
    beyond: Beyond = "background",
    margin: float = HALF_DIAGONAL,
) -> BoundScene:
    """Look at a solid, or be given a mask: of it, perhaps wrong, or of something unknown (no solid)."""
    mask = silhouette(solid, viewpoint, size) if mask is None else mask
    pixels = (pixel_centers(size) - viewpoint.center) / viewpoint.focal[:, None]
    distance = distance_transform(mask, "image", beyond, margin) / viewpoint.focal
    return BoundScene(solid, viewpoint, mask, pixels.reshape(size, size, 2), distance)


def box_chair() -> Solid:
    """A chair of six boxes; its distance is exact outside."""
    parts = [trimesh.creation.box(2 * np.array(half)) for _, half in CHAIR_BOXES]
    for part, (center, _) in zip(parts, CHAIR_BOXES, strict=True):
        part.apply_translation(center)
    center, half = (torch.tensor(column) for column in zip(*CHAIR_BOXES, strict=True))

    def distance(points: Tensor) -> Tensor:
        excess = (points[..., None, :] - center).abs() - half
        return (excess.clamp(min=0).norm(dim=-1) + excess.amax(-1).clamp(max=0)).amin(-1)

    return Solid(trimesh.util.concatenate(parts), distance)


def ball(radius: float = 0.4) -> Solid:
    """A sphere about the origin."""
    return Solid(trimesh.creation.icosphere(4, radius), lambda points: points.norm(dim=-1) - radius)


def ring(radius: float = 0.33, tube: float = 0.12) -> Solid:
    """A torus with its axis towards +y, the front."""

    def distance(points: Tensor) -> Tensor:
        across = points[..., [0, 2]].norm(dim=-1) - radius
        return torch.stack([across, points[..., 1]], dim=-1).norm(dim=-1) - tube

    mesh = trimesh.creation.torus(radius, tube, major_sections=96, minor_sections=48)
    return Solid(mesh.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0])), distance)


@dataclass(frozen=True)
class Verdict:
    """How the bounds of a scene compare with the truth, over pixels outside the mask and depths around the solid.

    Attributes
    ----------
    broken : float
        Share of points where the bound is larger than the distance.
    worst : float
        Largest excess, world units.
    strength : float
        Mean bound over mean distance: 1 would be everything there is to know.
    """

    broken: float
    worst: float
    strength: float


def verdict(scene: BoundScene, depths: int = 24) -> Verdict:
    """Compare b with f between 0.6 in front of and behind the origin."""
    middle = float(scene.viewpoint.distance)
    at = torch.linspace(middle - 0.6, middle + 0.6, depths)
    outside = ~scene.mask
    bound, truth = scene.bound(at)[outside], scene.truth(at)[outside]
    excess = bound - truth
    return Verdict(
        float((excess > 1e-4).float().mean()),
        float(excess.max().clamp(min=0)),
        float(bound.mean() / truth.clamp(min=0).mean()),
    )


def spoiled_masks(mask: Bool[Tensor, "size size"], seed: int = 0) -> dict[str, Bool[Tensor, "size size"]]:
    """Masks as segmentation networks give them: dust, pinholes, a hole, and an outline that is too tight."""
    generator = torch.Generator().manual_seed(seed)
    size = len(mask)
    draw = torch.rand(mask.shape, generator=generator)
    eroded = distance_transform(~mask).gt(1.5)
    place = distance_transform(~mask).argmax()
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    hole = torch.hypot((rows - place // size).float(), (columns - place % size).float()) < size / 14
    return {
        "as it is": mask,
        "dust: 0.2 % of the background": mask | (draw < 0.002),
        "pinholes: 2 % of the object": mask & (draw > 0.02),
        "a hole in the seat": mask & ~hole,
        "outline 1 pixel too tight": eroded,
    }


def cropped(scene: BoundScene, columns: int, beyond: Beyond) -> BoundScene:
    """The scene when only the first columns of its picture are left; bounds are 0 in the others."""
    part = distance_transform(scene.mask[:, :columns], "pixels", beyond, HALF_DIAGONAL)
    distance = torch.zeros_like(scene.distance)
    distance[:, :columns] = part / (len(scene.mask) * scene.viewpoint.focal)
    return replace(scene, distance=distance)


@dataclass(frozen=True)
class Carving:
    """What views prove about the points of a grid; lists have an entry a number of views.

    Attributes
    ----------
    counts : tuple of int
        Numbers of views.
    truth : ndarray, shape (R, R, R)
        Signed distance of the solid.
    bounds : list of ndarray, shape (R, R, R)
        Largest bound of the views, 0 where none speaks.
    hulls : list of ndarray, shape (R, R, R), bool
        In every silhouette: the visual hull.
    bound : float
        Half the grid's side.
    """

    counts: tuple[int, ...]
    truth: Float[np.ndarray, "x y z"]
    bounds: list[Float[np.ndarray, "x y z"]]
    hulls: list[Bool[np.ndarray, "x y z"]]
    bound: float

    def table(self) -> list[dict[str, float]]:
        """A row a number of views: overlap of hull and truth, and mean distances over the points outside the solid."""
        return [
            self._row(count, bounds, hull)
            for count, bounds, hull in zip(self.counts, self.bounds, self.hulls, strict=True)
        ]

    def _row(self, count: int, bounds: np.ndarray, hull: np.ndarray) -> dict[str, float]:
        inside, spacing = self.truth < 0, 2 * self.bound / (len(self.truth) - 1)
        to_hull = _grid_distance(hull) * spacing
        return {
            "views": count,
            "iou": float((inside & hull).sum() / (inside | hull).sum()),
            "bound": float(bounds[~inside].mean()),
            "hull": float(to_hull[~inside].mean()),
            "truth": float(self.truth[~inside].mean()),
            "broken": float((bounds > self.truth + 1e-3)[~inside].mean()),
            "carved_but_hull": float(((bounds > 0) & hull).mean()),
        }


def carve(
    mesh: trimesh.Trimesh, counts: Sequence[int] = (1, 2, 4, 8), resolution: int = 48, size: int = 128
) -> Carving:
    """Bounds and visual hulls of a mesh from the first of `SIDES`, on a grid."""
    grid = distance_grid(mesh, resolution, samples=30_000)
    points = torch.from_numpy(grid_points(resolution, grid.bound))
    solid = Solid(mesh, lambda p: grid(p)[0])
    scenes = [
        bound_scene(solid, near_camera(*side, focal=0.8), size) for side in SIDES[: max(counts)]
    ]  # the grid in view
    looked = [bounds_at(scene, points) for scene in scenes]
    cube = (resolution,) * 3
    bounds = np.stack([b.numpy().reshape(cube) for b, _ in looked])
    inside = np.stack([i.numpy().reshape(cube) for _, i in looked])
    return Carving(
        tuple(counts),
        grid.values.numpy(),
        [bounds[:n].max(0) for n in counts],
        [inside[:n].all(0) for n in counts],
        grid.bound,
    )


def bounds_at(
    scene: BoundScene, points: Float[Tensor, "points 3"]
) -> tuple[Float[Tensor, " points"], Bool[Tensor, " points"]]:
    """What a view proves about world points, and whether they are in its silhouette.

    A point falls between pixel centres; D changes by no more than the way to the next one, which is taken off. Points
    that fall beside the picture are not spoken of.
    """
    view, size = scene.viewpoint, len(scene.mask)
    at = project(view, points[None])[0]
    index = (at * size).floor().long()
    seen = ((index >= 0) & (index < size)).all(-1)
    column, row = index.clamp(0, size - 1).unbind(-1)
    plane = (at - view.center) / view.focal[:, None]
    distance = (scene.distance[row, column] - (plane - scene.pixels[row, column]).norm(dim=-1)).clamp(min=0)
    depth = (points @ view.rotation()[0, 2]) + view.distance
    bound = sdf_lower_bound(plane, distance, depth, "perspective")
    return torch.where(seen, bound, 0), scene.mask[row, column] | ~seen


def _grid_distance(inside: np.ndarray) -> np.ndarray:
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~inside)
