"""Exact ray casting of meshes: the picture that volume rendering approaches as its samples and sharpness grow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float
from torch import Tensor

from lib.geometry.cameras import Rays, Viewpoint, camera_rays, pixel_centers
from lib.geometry.distance_grid import distance_grid
from lib.rendering.volume import Field, LastInterval, RenderedMaps, render_rays, sample_depths


def cast_rays(
    mesh: trimesh.Trimesh, rays: Rays, far: float, color: Callable[[Tensor], Tensor] | None = None
) -> RenderedMaps:
    """What B x N rays meet first on a mesh, by Embree.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        Its faces are seen from both sides.
    rays : Rays
        In the frame of the mesh, unit directions.
    far : float
        Depth that is given to rays that meet nothing, as the volume renderer does.
    color : callable, optional
        Points (..., 3) -> RGB (..., 3); grey without it.

    Returns
    -------
    RenderedMaps
        With shapes (B, N, ...); the mask is 0 or 1, the normal that of the face, turned towards the camera.
    """
    origins, directions = (part.flatten(0, 1) for part in (rays.origins, rays.directions))
    face, depth = _first_face(mesh, origins, directions)
    hit = torch.from_numpy(face >= 0)
    points = origins[hit] + depth[hit, None] * directions[hit]
    normal = torch.zeros_like(directions)
    normal[hit] = torch.from_numpy(np.asarray(mesh.face_normals)[face[face >= 0]]).to(directions)
    away = (normal * directions).sum(-1, keepdim=True) > 0
    rgb = torch.ones_like(directions)
    rgb[hit] = torch.full_like(points, 0.5) if color is None else color(points)
    maps = (rgb, hit.to(directions), torch.where(away, -normal, normal), depth.clamp(max=far))
    return RenderedMaps(*(part.unflatten(0, rays.directions.shape[:2]) for part in maps))


@dataclass(frozen=True)
class MapErrors:
    """How far rendered maps are from exact ones.

    Attributes
    ----------
    mask : float
        Mean absolute difference over all rays.
    iou : float
        Soft intersection over union of the masks.
    depth : float
        Mean absolute difference in world units, where the exact mask is 1 and the rendered one over one half.
    depth_bias : float
        Mean difference there, positive where the rendering is too far.
    normal : float
        Mean angle in degrees there.
    rgb : float
        Mean absolute difference over all rays and channels.
    """

    mask: float
    iou: float
    depth: float
    depth_bias: float
    normal: float
    rgb: float


def compare_maps(rendered: RenderedMaps, exact: RenderedMaps) -> MapErrors:
    """Errors of a rendering against the exact maps of the same rays."""
    both = (exact.mask > 0.5) & (rendered.mask > 0.5)
    depth = (rendered.depth - exact.depth)[both]
    intersection = (rendered.mask * exact.mask).sum()
    values = (
        (rendered.mask - exact.mask).abs().mean(),
        intersection / (rendered.mask.sum() + exact.mask.sum() - intersection),
        depth.abs().mean(),
        depth.mean(),
        normal_angles(rendered.normal, exact.normal)[both].mean(),
        (rendered.rgb - exact.rgb).abs().mean(),
    )
    return MapErrors(*(float(value) for value in values))


def normal_angles(a: Float[Tensor, "*rays 3"], b: Float[Tensor, "*rays 3"]) -> Float[Tensor, "*rays"]:
    """Angle between unit vectors in degrees; exact for small angles too."""
    return 2 * torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1)).rad2deg()


def _first_face(mesh: trimesh.Trimesh, origins: Tensor, directions: Tensor) -> tuple[np.ndarray, Tensor]:
    """Index of the first face of each ray (-1: none), and its depth (infinite: none), solved for in float64."""
    scene = EmbreeScene()
    TriangleMesh(scene, np.ascontiguousarray(mesh.triangles, dtype=np.float32))
    o, d = (np.ascontiguousarray(part.cpu().numpy(), dtype=np.float32) for part in (origins, directions))
    face = scene.run(o, d, query="INTERSECT")
    corner, normal = mesh.triangles[face][:, 0], np.asarray(mesh.face_normals)[face]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = ((corner - o) * normal).sum(-1) / (d * normal).sum(-1)
    return face, torch.from_numpy(np.where(face >= 0, depth, np.inf)).to(directions)


@dataclass(frozen=True)
class Scene:
    """One shape, known exactly and as a field, seen by one camera.

    Attributes
    ----------
    field : callable
        For `lib.rendering.volume.render_rays`.
    exact : RenderedMaps
        Of a square image, shapes (H, H, ...).
    viewpoint : Viewpoint
        One camera.
    reach : float
        Depths are sampled up to so far before and behind the world's origin, in world units.
    """

    field: Field
    exact: RenderedMaps
    viewpoint: Viewpoint
    reach: float = 0.7

    @property
    def image_size(self) -> int:
        """Side of the image in pixels."""
        return self.exact.mask.shape[0]

    def rays(self) -> Rays:
        """Through all pixel centres, row by row: shapes (1, H * H, 3)."""
        return camera_rays(self.viewpoint, pixel_centers(self.image_size, dtype=self.viewpoint.distance.dtype)[None])

    def depths(self, samples: int, generator: torch.Generator | None = None) -> Float[Tensor, "1 rays samples"]:
        """Sample depths of all rays."""
        middle = self.viewpoint.distance
        return sample_depths(middle - self.reach, middle + self.reach, self.image_size**2, samples, generator)

    def render(
        self,
        beta: float,
        samples: int,
        last_interval: LastInterval = "zero",
        generator: torch.Generator | None = None,
    ) -> RenderedMaps:
        """Volume rendering of the same rays as the exact maps, shapes (H, H, ...)."""
        maps = render_rays(self.field, self.rays(), self.depths(samples, generator), beta, last_interval)
        return as_image(maps, self.image_size)


def mesh_scene(
    mesh: trimesh.Trimesh,
    viewpoint: Viewpoint,
    image_size: int = 64,
    color: Callable[[Tensor], Tensor] | None = None,
    resolution: int = 112,
) -> Scene:
    """A mesh as a scene: exact by `cast_rays`, as a field by its `distance_grid`."""
    field = distance_grid(mesh, resolution).field(color)
    rays = camera_rays(viewpoint, pixel_centers(image_size)[None])
    far = float(viewpoint.distance) + Scene.reach
    return Scene(field, as_image(cast_rays(mesh, rays, far, color), image_size), viewpoint)


def sphere_scene(viewpoint: Viewpoint, radius: float = 0.4, image_size: int = 64) -> Scene:
    """A centred sphere as a scene: the field and the maps both in closed form, so any difference is the renderer's."""

    def field(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        length = points.norm(dim=-1)
        return length - radius, points / length[..., None], height_color(points)

    rays = camera_rays(viewpoint, pixel_centers(image_size, dtype=viewpoint.distance.dtype)[None])
    nearest = -(rays.origins * rays.directions).sum(-1)  # depth of the ray's point nearest to the centre
    half_chord = radius**2 - rays.origins.square().sum(-1) + nearest.square()
    hit = half_chord > 0
    depth = torch.where(hit, nearest - half_chord.clamp(min=0).sqrt(), viewpoint.distance[:, None] + Scene.reach)
    points = rays.origins + depth[..., None] * rays.directions
    normal = torch.where(hit[..., None], points / radius, 0.0)
    rgb = torch.where(hit[..., None], height_color(points), 1.0)
    exact = RenderedMaps(rgb, hit.to(depth.dtype), normal, depth)
    return Scene(field, as_image(exact, image_size), viewpoint)


def as_image(maps: RenderedMaps, image_size: int) -> RenderedMaps:
    """Maps (1, H * H, ...) of all pixels of one camera as images (H, H, ...)."""
    parts = (maps.rgb, maps.mask, maps.normal, maps.depth)
    return RenderedMaps(*(part[0].unflatten(0, (image_size, image_size)) for part in parts))


def height_color(points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points 3"]:
    """Blue at the floor, orange at the top of the unit cube: a texture that field and mesh can share."""
    low, high = points.new_tensor([[0.0, 0.45, 0.70], [0.90, 0.62, 0.0]])
    share = (points[..., 2:] + 0.5).clamp(0, 1)
    return low + share * (high - low)
