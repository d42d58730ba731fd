"""A chair that is not symmetric, and its photographs by a camera that is given as a data set gives it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image
from scipy.spatial import cKDTree

from lib.data.images import read_sample_images
from lib.data.prepared import Prepared, load_mesh
from lib.geometry.cameras import Viewpoint, project
from lib.geometry.meshes import first_hits, ray_scene

GREY = 90  # of the background


def chair(seed: int = 0) -> trimesh.Trimesh:
    """In the world frame (z up, front towards +y), off the origin, with an arm on the left (+x) only."""
    width, depth, back = np.random.default_rng(seed).uniform((0.8, 0.8, 0.9), (1.2, 1.2, 1.4))
    boxes = [((-width / 2, -depth / 2, 0.4), (width / 2, depth / 2, 0.5))]
    boxes += [((-width / 2, -depth / 2, 0.5), (width / 2, -depth / 2 + 0.1, 0.5 + back))]
    boxes += [((width / 2 - 0.1, -depth / 2, 0.5), (width / 2, depth / 2, 0.8))]
    boxes += [((x, y, 0.0), (x + 0.1, y + 0.1, 0.4)) for x in (-width / 2, width / 2 - 0.1)
              for y in (-depth / 2, depth / 2 - 0.1)]  # fmt: skip
    mesh = trimesh.util.concatenate([trimesh.creation.box(bounds=bounds) for bounds in boxes])
    return trimesh.Trimesh(mesh.vertices + np.array([0.05, -0.1, 0.02]), mesh.faces, process=False)


def write_obj(mesh: trimesh.Trimesh, path: Path, turn: np.ndarray) -> np.ndarray:
    """Write the mesh in another frame, world = turn @ file; its vertices there."""
    vertices = np.round(mesh.vertices @ turn, 6)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in mesh.faces + 1]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vertices


def resize(path: Path, scale: float, shift: float = 0.0) -> None:
    """Scale and shift the vertices of an OBJ or OFF file that has one on each line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        kind, numbers = ("v ", line.split()[1:]) if line.startswith("v ") else ("", line.split())
        if len(numbers) == 3 and all("." in word for word in numbers):
            lines[number] = kind + " ".join(f"{scale * float(word) + shift:.6f}" for word in numbers)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def photograph(
    vertices: np.ndarray, faces: np.ndarray, ray: Callable[[np.ndarray, np.ndarray], tuple], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Colours and mask of a photo; ``ray`` gives origin and directions, in the mesh's frame, of pixels x, y."""
    width, height = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    origin, directions = ray(x.ravel(), y.ravel())
    scene = ray_scene(trimesh.Trimesh(vertices, faces, process=False))
    depth = first_hits(scene, np.broadcast_to(origin, directions.shape), directions).reshape(height, width)
    near = np.isfinite(depth)
    shade = np.clip(255 - 200 * (depth - depth[near].min()) / max(np.ptp(depth[near]), 1e-6), 0, 255)
    rgb = np.stack([np.where(near, shade, GREY), np.where(near, 60, GREY), np.where(near, 40, GREY)], axis=-1)
    return rgb.astype(np.uint8), (near * 255).astype(np.uint8)


def save(array: np.ndarray, path: Path) -> None:
    """An image file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def box_of(mask: np.ndarray) -> list[int]:
    """Left, top, right, bottom of a mask, the last two exclusive."""
    rows, columns = np.nonzero(mask)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def view_of(row) -> Viewpoint:
    """The camera of a row."""
    angles = torch.tensor([[row.azimuth], [row.elevation], [row.tilt]], dtype=torch.float64).deg2rad()
    center = torch.tensor([[row.center_x, row.center_y]], dtype=torch.float64)
    return Viewpoint.from_angles(*angles, distance=row.distance, focal=row.focal_length, center=center)


def projected(prepared: Prepared, row) -> np.ndarray:
    """Vertices of the stored mesh in the stored view, in image widths."""
    vertices = torch.from_numpy(np.asarray(load_mesh(prepared, row).vertices, dtype=np.float64))
    return project(view_of(row), vertices[None])[0].numpy()


def cropped(points: np.ndarray, mask: np.ndarray, margin: float = 1.2) -> np.ndarray:
    """Pixels of a photo in widths of the square crop about its mask, which is a whole number of pixels wide."""
    left, top, right, bottom = box_of(mask)
    side = np.ceil(margin * max(right - left, bottom - top))
    start = np.rint((np.array([left + right, top + bottom]) - side) / 2)
    return (points - start) / side


def matched(mesh: trimesh.Trimesh, original: trimesh.Trimesh) -> np.ndarray:
    """The original's vertex for each vertex of its mesh in the unit cube."""
    low, high = original.bounds
    unit = (original.vertices - (low + high) / 2) / (high - low).max()
    far, index = cKDTree(unit).query(mesh.vertices)
    assert far.max() < 1e-4
    return original.vertices[index]


def homography_error(first: np.ndarray, second: np.ndarray) -> float:
    """How far the best homography leaves image points of one camera from those of another at the same place."""
    one = np.column_stack([first, np.ones(len(first))])
    rows = [np.concatenate([one * 0, -one, second[:, 1:] * one], axis=1)]
    rows += [np.concatenate([one, one * 0, -second[:, :1] * one], axis=1)]
    matrix = np.linalg.svd(np.concatenate(rows))[2][-1].reshape(3, 3)
    moved = one @ matrix.T
    return float(np.abs(moved[:, :2] / moved[:, 2:] - second).max())


def mask_overlap(prepared: Prepared, row) -> float:
    """Intersection over union of the stored mask and the stored mesh in the stored view."""
    view, mesh = view_of(row), load_mesh(prepared, row)
    mask = read_sample_images(prepared.path(row.image))[1] >= 128
    # pixel by pixel: the ray through its centre, by hand, in the camera's frame
    axis = (np.arange(len(mask)) + 0.5) / len(mask)
    x, y = np.meshgrid(axis - row.center_x, axis - row.center_y)
    rays = np.stack([x.ravel(), y.ravel(), np.full(x.size, row.focal_length)], axis=1)
    rotation = view.rotation()[0].numpy()
    origin = rotation.T @ [0, 0, -row.distance]
    hit = np.isfinite(first_hits(ray_scene(mesh), np.broadcast_to(origin, rays.shape), rays @ rotation))
    hit = hit.reshape(mask.shape)
    return (hit & mask).sum() / (hit | mask).sum()
