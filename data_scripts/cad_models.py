"""CAD models that come with photographs, and the cameras that were fitted to both.

A data set brings a mesh in a frame of its own and, for each photo, a pinhole camera for that frame. Here the mesh
becomes the prepared format's (world frame, unit cube, what is seen from outside) and the camera the viewpoint of the
square crop.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from data_scripts.arrays import Faces, Mask, Matrix, Points, Vector, Vertices
from data_scripts.surfaces import clean, visible_faces
from lib.data.images import INSIDE
from lib.errors import InputError
from lib.files import write_atomically
from lib.geometry.cameras import WORLD_TO_CAMERA_AXES, Viewpoint, camera_rays, pixel_centers
from lib.geometry.meshes import first_hits, is_empty, ray_scene, sample_surface

Axes = tuple[tuple[float, float, float], ...]
FITTED = 2000  # points of the surface that decide on the crop's camera
FLATTEST = 1e-6  # shortest side over the longest


@dataclass(frozen=True)
class CadFile:
    """A mesh file and how its axes lie in the world.

    Attributes
    ----------
    axes : 3 x 3 numbers
        Rotation: world vector = axes @ vector of the file.
    """

    path: Path
    axes: Axes


@dataclass(frozen=True)
class Cad:
    """A CAD model in the world frame.

    Attributes
    ----------
    mesh : trimesh.Trimesh
        Outer surface, centred, longest side 1.
    whole : trimesh.Trimesh
        All faces, in the frame and units of the file.
    turn : array, shape (3, 3)
        `CadFile.axes`.
    center, scale : array, shape (3,), and float
        Point of the file = scale * turn^T @ point of the world + center.
    name : str
        Of the file.
    """

    mesh: trimesh.Trimesh
    whole: trimesh.Trimesh
    turn: Matrix
    center: Vector
    scale: float
    name: str


@dataclass(frozen=True)
class Camera:
    """A pinhole camera of a data set: pixel = focal * (x, y) / z + center, with (x, y, z) = rotation @ X + translation.

    Attributes
    ----------
    rotation, translation : arrays, shapes (3, 3) and (3,)
        From the frame of the CAD file to OpenCV's camera axes (x right, y down, z forward).
    focal : float
        Pixels.
    center : array, shape (2,)
        Pixels from the upper left corner of the photo, where the first pixel has its centre at (0.5, 0.5).
    """

    rotation: Matrix
    translation: Vector
    focal: float
    center: Float[np.ndarray, "2"]

    def project(self, points: Points) -> Float[np.ndarray, "points 2"]:
        """Pixels of points of the CAD file's frame; InputError if one is not in front of the camera."""
        inside = points @ self.rotation.T + self.translation
        if not np.isfinite(inside).all() or inside[:, 2].min() <= 0:
            raise InputError("The annotated camera has the object behind it or in it; its annotation is wrong.")
        return self.focal * inside[:, :2] / inside[:, 2:] + self.center


@lru_cache(maxsize=2)  # the photos of one model come one after another
def load_cad(file: CadFile) -> Cad:
    """Read, turn and normalise a CAD model."""
    whole = read_mesh(file.path)
    turn = np.array(file.axes, dtype=np.float64)
    faces = np.asarray(whole.faces)
    turned = np.asarray(whole.vertices, dtype=np.float64) @ turn.T
    low, high = turned[faces].min(axis=(0, 1)), turned[faces].max(axis=(0, 1))
    scale = float((high - low).max())
    unit = (turned - (low + high) / 2) / scale
    return Cad(outer_surface(unit, faces), whole, turn, (low + high) / 2 @ turn, scale, file.path.name)


def outer_surface(vertices: Vertices, faces: Faces) -> trimesh.Trimesh:
    """What can be seen from outside of a mesh in the unit cube, face by face, none left out for being small."""
    return trimesh.Trimesh(*clean(vertices, faces[visible_faces(vertices, faces)]), process=False)


def write_mesh(mesh: trimesh.Trimesh, path: Path) -> None:
    """Write a mesh as PLY, whole or not at all."""
    write_atomically(path, lambda temporary: mesh.export(temporary, file_type="ply", encoding="binary"))


def read_mesh(path: Path) -> trimesh.Trimesh:
    """All faces of a mesh file (OBJ, OFF, PLY ...); InputError where it holds no surface of finite size."""
    if not path.is_file():
        raise InputError(f"The CAD model {path.name} is missing; unpack the data set again.")
    try:
        mesh = trimesh.load(path, process=False, force="mesh", skip_materials=True)
    except Exception as error:  # readers of damaged files raise nearly anything; the next model must have its turn
        raise InputError(f"The CAD model {path.name} cannot be read ({type(error).__name__}).") from error
    if not isinstance(mesh, trimesh.Trimesh) or is_empty(mesh) or not np.isfinite(mesh.vertices).all():
        raise InputError(f"The CAD model {path.name} has no surface, or vertices that are not finite.")
    sides = np.sort(mesh.extents)
    if sides[1] < FLATTEST * sides[2]:
        raise InputError(f"The CAD model {path.name} is a line; it has no surface.")
    return mesh


def check_camera(cad: Cad, camera: Camera) -> None:
    """Refuse a camera that does not have the whole CAD model in front of it, and say which of them is wrong.

    If the camera stands in the model, or nearer than the model is long, the two are not in the same units; if it looks
    away from the whole of it, the annotation is wrong.
    """
    points = np.asarray(cad.whole.vertices, dtype=np.float64)[np.unique(cad.whole.faces)]
    away = float(np.linalg.norm(camera.translation))
    depth = points @ camera.rotation[2] + camera.translation[2]
    if depth.min() <= 0 and (depth.max() > 0 or cad.scale > away):
        raise InputError(f"The CAD model {cad.name} is {cad.scale:.3g} long, and the annotated camera {away:.3g} away "
                         "from its origin: the two are not in the same units.")  # fmt: skip
    camera.project(points)  # says what else is wrong


def crop_viewpoint(cad: Cad, camera: Camera, box: tuple[int, int, int]) -> tuple[dict[str, float], float]:
    """The viewpoint of a square crop: columns of the prepared format, and how far it errs.

    The prepared format's camera looks at the middle of the object, the photo's somewhere else. The two images differ
    by a homography; its similarity (focal length, roll, principal point) is fitted to points of the surface by least
    squares in complex numbers, p = m q + b. The rest is the error, in image widths, the largest over the points.

    Parameters
    ----------
    box : tuple of int
        Left, top and side of the crop in pixels of the photo.
    """
    check_camera(cad, camera)
    left, top, side = box
    points = sample_surface(cad.mesh, FITTED).astype(np.float64)
    pixels = (camera.project(cad.scale * points @ cad.turn + cad.center) - (left, top)) / side
    middle = camera.rotation @ cad.center + camera.translation
    distance = float(np.linalg.norm(middle) / cad.scale)
    # the smallest rotation that brings the middle onto the optical axis (Rodrigues)
    x, y, z = middle / np.linalg.norm(middle)
    cross = np.array([[0.0, 0.0, -x], [0.0, 0.0, -y], [x, y, 0.0]])
    rotation = (np.eye(3) + cross + cross @ cross / (1.0 + z)) @ camera.rotation @ cad.turn.T
    inside = points @ rotation.T
    ideal = (inside[:, :2] / (inside[:, 2:] + distance)) @ (1, 1j)
    seen = pixels @ (1, 1j)
    (m, b), *_ = np.linalg.lstsq(np.stack([ideal, np.ones_like(ideal)], axis=1), seen, rcond=None)
    error = float(np.abs(m * ideal + b - seen).max())
    azimuth, elevation, tilt = angles_of(Rotation.from_euler("z", np.angle(m)).as_matrix() @ rotation)
    angles = {"azimuth": azimuth % 360.0, "elevation": elevation, "tilt": tilt}
    lens = {"focal_length": float(abs(m)), "center_x": float(b.real), "center_y": float(b.imag)}
    return {**angles, "distance": distance, **lens}, error


def angles_of(rotation: Matrix) -> tuple[float, float, float]:
    """Azimuth, elevation and roll in degrees of a world-to-camera rotation: `Viewpoint.rotation` turned round."""
    turned = rotation @ np.array(WORLD_TO_CAMERA_AXES).T
    azimuth = np.arctan2(-turned[2, 0], turned[2, 2])
    elevation = np.arcsin(np.clip(turned[2, 1], -1.0, 1.0))
    roll = np.arctan2(turned[0, 1], turned[1, 1])
    return tuple(float(np.degrees(angle)) for angle in (azimuth, elevation, roll))


def silhouette(mesh: trimesh.Trimesh, camera: Camera, width: int, height: int) -> Mask:
    """What a mesh, in the frame of its file, covers in a photo: 255 inside, 0 outside."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    plane = (np.stack([x, y], axis=-1).reshape(-1, 2) - camera.center) / camera.focal
    directions = np.column_stack([plane, np.ones(len(plane))]) @ camera.rotation
    origin = -camera.translation @ camera.rotation
    hit = first_hits(ray_scene(mesh), np.broadcast_to(origin, directions.shape), directions)
    return (np.isfinite(hit) * 255).astype(np.uint8).reshape(height, width)


def overlap(mesh: trimesh.Trimesh, columns: dict[str, float], mask: Mask) -> float:
    """Intersection over union of a prepared mask and the prepared mesh, seen from the prepared viewpoint."""
    angles = torch.tensor([[columns[name]] for name in ("azimuth", "elevation", "tilt")], dtype=torch.float64)
    center = torch.tensor([[columns["center_x"], columns["center_y"]]], dtype=torch.float64)
    lens = {"distance": columns["distance"], "focal": columns["focal_length"], "center": center}
    view = Viewpoint.from_angles(*angles.deg2rad(), **lens)
    rays = camera_rays(view, pixel_centers(len(mask), dtype=torch.float64)[None])
    hit = np.isfinite(first_hits(ray_scene(mesh), rays.origins[0].numpy(), rays.directions[0].numpy()))
    hit, inside = hit.reshape(mask.shape), mask >= INSIDE
    return float((hit & inside).sum() / max((hit | inside).sum(), 1))
