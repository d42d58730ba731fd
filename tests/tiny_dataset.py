"""A prepared folder of a few boxes and balls, drawn by exact ray casting: what evaluation needs, and no more."""

from pathlib import Path

import numpy as np
import torch
import trimesh
from PIL import Image

from lib.data.prepared import write_metadata
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.geometry.meshes import first_hits, ray_scene, to_unit_cube

SIZE = 24
# model: category, split, sides; of each a few views
MODELS = {
    "flat": ("box", "train", (1.0, 0.8, 0.2)),
    "tall": ("box", "train", (0.4, 0.5, 1.0)),
    "cube": ("box", "train", (1.0, 0.9, 0.8)),
    "egg": ("ball", "train", (1.0, 0.7, 0.7)),
    "pill": ("ball", "train", (0.5, 0.5, 1.0)),
    "crate": ("box", "test", (1.0, 0.9, 0.7)),
    "lens": ("ball", "test", (1.0, 1.0, 0.5)),
}
AZIMUTHS = (20.0, 130.0, 250.0)


def write_tiny_dataset(folder: Path, viewpoints: bool = True, meshes: bool = True) -> Path:
    """Write the folder; columns of viewpoint or mesh can be left out."""
    rows = []
    for name in ("images", "meshes"):
        (folder / name).mkdir(parents=True)
    for model, (category, split, sides) in MODELS.items():
        base = trimesh.creation.box() if category == "box" else trimesh.creation.icosphere(3, radius=0.5)
        mesh = to_unit_cube(base.apply_scale(sides))
        mesh.export(folder / "meshes" / f"{model}.ply")
        for view, azimuth in enumerate(AZIMUTHS):
            row = {"id": f"{model}-{view}", "category": category, "model": model, "split": split}
            row["image"] = f"images/{model}-{view}.png"
            _draw(mesh, azimuth, folder / row["image"])
            rows.append(row | (_camera(azimuth) if viewpoints else {}))
            if meshes:
                rows[-1]["mesh"] = f"meshes/{model}.ply"
    about = {"name": "tiny", "source": "tests", "licence": "MIT", "version": "1", "image_size": SIZE}
    write_metadata(folder, rows, about)
    return folder


def _camera(azimuth: float) -> dict[str, float]:
    lens = {"distance": 5.0, "focal_length": 4.0, "center_x": 0.5, "center_y": 0.5}
    return {"azimuth": azimuth, "elevation": 25.0, "tilt": 0.0} | lens


def _draw(mesh: trimesh.Trimesh, azimuth: float, path: Path) -> None:
    angles = torch.tensor([[azimuth, 25.0]]).deg2rad()
    rays = camera_rays(Viewpoint.from_angles(angles[:, 0], angles[:, 1]), pixel_centers(SIZE)[None])
    hit = first_hits(ray_scene(mesh), rays.origins[0].numpy(), rays.directions[0].numpy())
    near = np.isfinite(hit)
    image = np.zeros((SIZE * SIZE, 4), dtype=np.uint8)
    image[near, :3] = np.clip((hit[near, None] - 4.0) * 120, 0, 255)
    image[near, 3] = 255
    Image.fromarray(image.reshape(SIZE, SIZE, 4)).save(path)
