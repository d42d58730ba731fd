"""Turn one model into samples: variants in proportion and colour, views, light, files."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_scripts.cad_models import write_mesh
from data_scripts.captions import Measures, caption, measure
from data_scripts.crops import write_images
from data_scripts.raycasting import Look, TexturedCaster, crop_camera, render
from data_scripts.surfaces import outer_mesh
from data_scripts.sweethome import Entry, load_model

DISTANCE = 5.0
MARGIN = 1.2
STRETCH = (0.85, 1.15)
ELEVATION = (0.0, 30.0)
STRETCH_COLUMNS = ("stretch_x", "stretch_y", "stretch_z")
LUMA = np.array([0.299, 0.587, 0.114])
GREY_AXIS = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)


@dataclass(frozen=True)
class Settings:
    """What all samples of a run share.

    Attributes
    ----------
    image_size : int
        Pixels along each side.
    views : int
        Images of an instance in val and test; in training each instance is seen once.
    seed : int
    """

    image_size: int
    views: int
    seed: int


@dataclass(frozen=True)
class Task:
    """One model to prepare: where it is, its split, how many instances of it to make."""

    entry: Entry
    library: Path
    split: str
    variants: int
    settings: Settings

    @property
    def samples(self) -> int:
        """How many images it makes."""
        return self.variants * self.views

    @property
    def views(self) -> int:
        """How many images each instance has."""
        return 1 if self.split == "train" else self.settings.views


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the given words and numbers only, not on order or process."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def prepare_model(task: Task, folder: Path) -> list[dict[str, Any]]:
    """Write mesh, images and normals of one model under ``folder``; its metadata rows."""
    entry = task.entry
    with tempfile.TemporaryDirectory(dir=folder / "parts") as unpacked:
        mesh = load_model(task.library, entry, Path(unpacked))
    caster = TexturedCaster(mesh)
    outer = outer_mesh(mesh.vertices, mesh.faces)
    write_mesh(outer, folder / "meshes" / f"{entry.model}.ply")
    measures = measure(outer)
    return [row for variant in range(task.variants) for row in _instance(task, caster, measures, variant, folder)]


def draw_colours(rng: np.random.Generator, materials: int) -> tuple[np.ndarray, np.ndarray]:
    """Random tone curves (materials, 256) and colour matrices (materials, 3, 3) of an instance.

    Hue turns about the grey axis, saturation and value change, and a tint colours what is grey; materials
    differ a little from each other, so that an object keeps its contrasts.
    """
    hue = rng.uniform(-np.pi, np.pi) if rng.random() < 0.7 else rng.normal(0.0, 0.3)
    hues = hue + rng.normal(0.0, 0.4, materials)
    saturation = rng.uniform(0.5, 1.4) * np.exp(rng.normal(0.0, 0.1, materials))
    tint = rng.uniform(0.0, 0.45) * rng.random(materials)
    tint_hue = rng.uniform(-np.pi, np.pi) + rng.normal(0.0, 0.4, materials)
    gain = rng.uniform(0.6, 1.0) * np.exp(rng.normal(0.0, 0.08, materials))
    exponent = np.exp(rng.uniform(-0.6, 0.5) + rng.normal(0.0, 0.1, materials))
    floor = rng.uniform(0.05, 0.35)
    curve = floor + (1.0 - floor) * np.linspace(0.0, 1.0, 256) ** exponent[:, None]
    sin, cos = np.sin(hues)[:, None, None], np.cos(hues)[:, None, None]
    turn = np.eye(3) + sin * GREY_AXIS + (1.0 - cos) * GREY_AXIS @ GREY_AXIS  # about the grey axis (Rodrigues)
    grey = np.outer(np.ones(3), LUMA)
    mix = saturation[:, None, None] * turn + (1.0 - saturation)[:, None, None] * grey
    tints = tint[:, None] * np.stack([np.cos(tint_hue + k * 2 * np.pi / 3) for k in range(3)], axis=1)
    return curve, gain[:, None, None] * (mix + tints[:, :, None] * LUMA)


def draw_light(rng: np.random.Generator, azimuth: float) -> dict[str, Any]:
    """Ambient light and one lamp above, anywhere on the camera's side of the object."""
    around, above = np.radians(azimuth + rng.uniform(-80.0, 80.0)), np.radians(rng.uniform(15.0, 75.0))
    light = np.array([-np.sin(around) * np.cos(above), np.cos(around) * np.cos(above), np.sin(above)])
    return {"light": light, "ambient": rng.uniform(0.4, 0.6), "diffuse": rng.uniform(0.4, 0.65)}


def oversampling(image_size: int) -> int:
    """Rays along each side of a pixel: 4 for small images, 2 for large ones."""
    return max(2, min(4, 384 // image_size))


def _instance(
    task: Task, caster: TexturedCaster, measures: Measures, variant: int, folder: Path
) -> list[dict[str, Any]]:
    entry, seed = task.entry, task.settings.seed
    rng = generator(seed, entry.model, variant)
    vertices = caster.mesh.vertices[np.unique(caster.mesh.faces)]
    factors = rng.uniform(*STRETCH, size=3)
    stretch = factors / (factors * np.ptp(vertices, axis=0)).max()  # so that the longest side stays 1
    colours = draw_colours(rng, len(caster.mesh.textures))
    points = vertices * stretch
    shared = {
        "category": entry.category, "model": entry.model, "split": task.split, "mesh": f"meshes/{entry.model}.ply",
        **dict(zip(STRETCH_COLUMNS, stretch.tolist(), strict=True)),
    }  # fmt: skip
    rows = []
    for view in range(task.views):
        name = f"{entry.model}-{variant:03d}-{view}"
        draws = generator(seed, entry.model, variant, view)
        azimuth, elevation, tilt = draws.uniform(0.0, 360.0), draws.uniform(*ELEVATION), 0.0
        camera = crop_camera(points, azimuth, elevation, tilt, DISTANCE, MARGIN)
        center_x, center_y = camera.center[0].tolist()
        pose = {"azimuth": azimuth, "elevation": elevation, "tilt": tilt, "distance": DISTANCE}
        lens = {"focal_length": camera.focal.item(), "center_x": center_x, "center_y": center_y}
        look = Look(*colours, **draw_light(draws, azimuth))
        size = task.settings.image_size
        rgba, normal = render(caster, stretch, camera, look, size, oversampling(size))
        files = {kind: f"{kind}s/{entry.category}/{name}.png" for kind in ("image", "normal")}
        write_images(folder, files, rgba, normal, level=9)
        text = caption(entry, measures, np.ptp(points, axis=0), rgba)
        rows.append({"id": name, **shared, **files, **pose, **lens, "caption": text})
    return rows
