"""Cast rays at meshes with Embree, and render antialiased colour, mask and normals with them."""

from dataclasses import dataclass

import numpy as np
import torch
from embreex import rtcore_scene
from embreex.mesh_construction import TriangleMesh
from jaxtyping import Bool, Float, Int, UInt8

from data_scripts.arrays import Faces, Normals, Points, Rgba, Vector, Vertices
from data_scripts.sweethome import TexturedMesh
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers, project


class Caster:
    """Nearest hits of rays with a mesh; built once a model, used for all its stretched variants."""

    def __init__(self, vertices: Vertices, faces: Faces):
        self._scene = rtcore_scene.EmbreeScene()
        TriangleMesh(self._scene, np.ascontiguousarray(vertices[faces], dtype=np.float32))

    def first(self, origins: Points, directions: Points) -> dict:
        """Embree's ``primID`` (-1 for no hit), barycentric ``u``, ``v`` and ``tfar``, arrays of shape (rays,)."""
        return self._scene.run(*_single(origins, directions), output=1)

    def blocked(self, origins: Points, directions: Points) -> Bool[np.ndarray, " rays"]:
        """Whether anything lies on the ray."""
        return self._scene.run(*_single(origins, directions), query="OCCLUDED") == 0


@dataclass(frozen=True)
class Look:
    """What makes an image of a model its own: colours and light.

    Attributes
    ----------
    curve : array, shape (materials, 256)
        Value of each 8-bit level, in [0, 1].
    mix : array, shape (materials, 3, 3)
        Colour matrix: ``colour = mix @ curve[level]``.
    light : array, shape (3,)
        Unit vector towards the light, world frame.
    ambient, diffuse : float
        Lambert shading: ``colour * (ambient + diffuse * max(0, n . light))``.
    """

    curve: Float[np.ndarray, "materials 256"]
    mix: Float[np.ndarray, "materials 3 3"]
    light: Vector
    ambient: float
    diffuse: float


class TexturedCaster:
    """A caster with the material of each face, its textures packed into one array."""

    def __init__(self, mesh: TexturedMesh):
        self.mesh = mesh
        self.caster = Caster(mesh.vertices, mesh.faces)
        corners = mesh.vertices[mesh.faces]
        self.face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        self._texels = np.concatenate([texture.reshape(-1, 3) for texture in mesh.textures])
        self._heights, self._widths = np.array([texture.shape[:2] for texture in mesh.textures]).T
        self._starts = np.cumsum(np.r_[0, self._heights * self._widths])[:-1]

    def levels(
        self, face: Int[np.ndarray, " hits"], u: Float[np.ndarray, " hits"], v: Float[np.ndarray, " hits"]
    ) -> UInt8[np.ndarray, "hits 3"]:
        """Nearest texel at barycentric (u, v) of faces; textures repeat outside [0, 1]."""
        corner = self.mesh.uv[face]
        uv = corner[:, 0] + u[:, None] * (corner[:, 1] - corner[:, 0]) + v[:, None] * (corner[:, 2] - corner[:, 0])
        uv -= np.floor(uv)
        material = self.mesh.material[face]
        width, height = self._widths[material], self._heights[material]
        column = np.minimum((uv[:, 0] * width).astype(np.int64), width - 1)
        row = np.minimum(((1.0 - uv[:, 1]) * height).astype(np.int64), height - 1)
        return self._texels[self._starts[material] + row * width + column]


def crop_camera(
    points: Points, azimuth: float, elevation: float, tilt: float, distance: float, margin: float
) -> Viewpoint:
    """The perspective camera whose image is the square crop around the projected points.

    The crop's side is ``margin`` times the larger side of the bounding box of the projection, and the box's
    centre is the image's. Angles in degrees; the result holds one camera in float64.
    """
    degrees = torch.tensor([[azimuth], [elevation], [tilt]], dtype=torch.float64)
    angles = torch.deg2rad(degrees)
    plain = {"distance": distance, "focal": 1.0, "center": torch.zeros(1, 2, dtype=torch.float64)}
    box = project(Viewpoint.from_angles(*angles, **plain), torch.from_numpy(points)[None])[0]
    low, high = box.amin(dim=0), box.amax(dim=0)
    focal = 1.0 / (margin * (high - low).max())
    center = 0.5 - focal * (low + high)[None] / 2
    return Viewpoint.from_angles(*angles, distance=distance, focal=focal, center=center)


def render(
    caster: TexturedCaster, stretch: Vector, viewpoint: Viewpoint, look: Look, size: int, oversample: int
) -> tuple[Rgba, Normals]:
    """Render a stretched model with ``oversample ** 2`` rays a pixel.

    Returns
    -------
    rgba : array, shape (size, size, 4), uint8
        Straight alpha: the colour is the mean over the rays that hit, alpha their share.
    normal : array, shape (size, size, 3)
        Unit, camera frame, towards the camera; 0 where nothing is hit.
    """
    pixels = pixel_centers(size * oversample, dtype=torch.float64)[None]
    rays = camera_rays(viewpoint, pixels)
    origins, directions = rays.origins[0].numpy(), rays.directions[0].numpy()
    # Rays are squeezed instead of the mesh being stretched: the same hits, and no tree to build anew.
    hit = caster.caster.first(origins / stretch, directions / stretch)
    index = np.flatnonzero(hit["primID"] >= 0)
    face = hit["primID"][index]
    normals = caster.face_normals[face] / stretch
    # unit normals turned against the rays: open surfaces have no reliable outside
    sign = np.where(np.einsum("ni,ni->n", normals, directions[index]) > 0, -1.0, 1.0)
    normals = normals * (sign / np.maximum(np.linalg.norm(normals, axis=1), 1e-30))[:, None]
    colours = shade(caster.levels(face, hit["u"][index], hit["v"][index]), caster.mesh.material[face], normals, look)
    rotation = viewpoint.rotation()[0].numpy()
    # average the hits of each pixel
    row, column = np.divmod(index, size * oversample)
    pixel = row // oversample * size + column // oversample
    count = np.bincount(pixel, minlength=size * size)
    colour = _sum_by(pixel, colours, size) / np.maximum(count, 1)[:, None]
    alpha = count / oversample**2
    rgba = np.rint(np.concatenate([colour, alpha[:, None]], axis=1) * 255.0).astype(np.uint8)
    normal = _sum_by(pixel, normals @ rotation.T, size)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    return rgba.reshape(size, size, 4), normal.reshape(size, size, 3)


def shade(
    levels: UInt8[np.ndarray, "hits 3"], material: Int[np.ndarray, " hits"], normals: Points, look: Look
) -> Points:
    """Recolour and light surface points (Lambert); values in [0, 1]."""
    albedo = np.einsum("nij,nj->ni", look.mix[material], look.curve[material[:, None], levels])
    brightness = look.ambient + look.diffuse * np.maximum(normals @ look.light, 0.0)
    return np.clip(np.clip(albedo, 0.0, 1.0) * brightness[:, None], 0.0, 1.0)


def _single(origins, directions):
    return np.ascontiguousarray(origins, dtype=np.float32), np.ascontiguousarray(directions, dtype=np.float32)


def _sum_by(pixel: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    return np.stack([np.bincount(pixel, weights=channel, minlength=size * size) for channel in values.T], axis=1)
