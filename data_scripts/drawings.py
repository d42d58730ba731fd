"""Draw textured CAD models: images, masks and normals from known viewpoints, with the mesh beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data_scripts.cad_models import CadFile, outer_surface, read_mesh, write_mesh
from data_scripts.cad_sizes import extents
from data_scripts.crops import write_images
from data_scripts.instances import draw_light, generator, oversampling
from data_scripts.raycasting import Look, TexturedCaster, render
from data_scripts.sweethome import TexturedMesh, read_textured, textured_mesh
from lib.data.images import INSIDE
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint

FOCAL, DISTANCE = 1.8660254, 2.732  # a field of view of 30 degrees, as the known renderings of ShapeNet have


@dataclass(frozen=True)
class Drawing:
    """A model and the views of it to draw.

    Attributes
    ----------
    elevations : pair of float
        Degrees between which a view's elevation is drawn; azimuths are drawn from all around.
    texture : Path, optional
        A file that the model needs, and without which it would be drawn grey.
    """

    category: str
    model: str
    file: CadFile
    views: int
    elevations: tuple[float, float]
    caption: str
    texture: Path | None = None

    @property
    def source(self) -> Path:
        """What is listed where the model cannot be used."""
        return self.file.path


def draw(drawing: Drawing, folder: Path, size: int) -> list[dict[str, Any]]:
    """Draw the views of a model and write its mesh; a row for each. InputError where the model cannot be used."""
    if drawing.texture:
        _check_texture(drawing.texture)
    sizes = extents(read_mesh(drawing.file.path))  # says what is wrong with the file
    mesh = load_textured(drawing.file)
    caster = TexturedCaster(mesh)
    relative = f"meshes/{drawing.category}/{drawing.model}.ply"
    rows = [_draw_view(drawing, caster, view, folder, size) for view in range(drawing.views)]
    write_mesh(outer_surface(mesh.vertices, mesh.faces), folder / relative)
    return [{**row, "mesh": relative, "caption": drawing.caption, **sizes} for row in rows]


def load_textured(file: CadFile) -> TexturedMesh:
    """A CAD model that `read_mesh` can read, with its textures, in the world frame, centred, longest side 1."""

    def place(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
        points = points @ np.array(file.axes).T
        low, high = points[faces].min(axis=(0, 1)), points[faces].max(axis=(0, 1))
        return (points - (low + high) / 2) / (high - low).max()

    try:
        parts = read_textured(file.path)
    except Exception as error:  # with materials more can be damaged
        raise InputError(f"The materials of {file.path.name} cannot be read ({type(error).__name__}).") from error
    return textured_mesh(parts, place)


def _check_texture(path: Path) -> None:
    """Refuse models that the mesh reader would paint grey without a word."""
    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError as error:
        raise InputError(f"The texture {path.name} is missing; unpack the data set again.") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"The texture {path.name} is damaged; unpack the data set again.") from error


def _draw_view(drawing: Drawing, caster: TexturedCaster, view: int, folder: Path, size: int) -> dict[str, Any]:
    rng = generator(drawing.category, drawing.model, view)
    azimuth, elevation = rng.uniform(0.0, 360.0), rng.uniform(*drawing.elevations)
    angles = torch.tensor([[azimuth], [elevation]], dtype=torch.float64).deg2rad()
    camera = Viewpoint.from_angles(*angles, distance=DISTANCE, focal=FOCAL)
    # the model's own colours under one lamp
    count = len(caster.mesh.textures)
    curve, mix = np.broadcast_to(np.linspace(0.0, 1.0, 256), (count, 256)), np.broadcast_to(np.eye(3), (count, 3, 3))
    look = Look(curve, mix, **draw_light(rng, azimuth))
    rgba, normal = render(caster, np.ones(3), camera, look, size, oversampling(size))
    if not (rgba[..., 3] >= INSIDE).any():
        raise InputError(f"The model {drawing.model} is thinner than the pixels of its image.")
    name = f"{drawing.model}-{view:02d}"
    files = {kind: f"{kind}s/{drawing.category}/{drawing.model}/{name}.png" for kind in ("image", "normal")}
    write_images(folder, files, rgba, normal)
    pose = {"azimuth": azimuth, "elevation": elevation, "tilt": 0.0}
    lens = {"distance": DISTANCE, "focal_length": FOCAL, "center_x": 0.5, "center_y": 0.5}
    return {"id": name, "category": drawing.category, "model": drawing.model, **files, **pose, **lens}
