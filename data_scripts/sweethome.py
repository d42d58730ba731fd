"""Read Sweet Home 3D furniture libraries (.sh3f): the catalogue and its textured models.

A library is a zip file with ``PluginFurnitureCatalog.properties`` (lines ``key#number=value``), OBJ + MTL
models, textures and a licence text. Models are y-up and face +z; ours are z-up and face +y.
"""

import csv
import logging
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, Int

from data_scripts.archives import extract
from data_scripts.arrays import Faces, Points, Rgb, Vertices
from lib.errors import InputError

CATALOGUE = "PluginFurnitureCatalog.properties"
MODEL_LIST = Path(__file__).with_name("furniture_models.csv")
# (x, y, z) of the libraries -> (-x, z, y) of ours: a rotation, so nothing is mirrored.
TO_WORLD = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
LICENCES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}


@dataclass(frozen=True)
class Entry:
    """One piece of furniture of a library.

    Attributes
    ----------
    category : str
        Ours, from the committed list.
    pack, key : str
        Library (file name without ``.sh3f``) and the id within it.
    name, creator : str
        As the catalogue has them.
    path : str
        Of the OBJ file inside the library.
    size : tuple of float
        Width, depth and height in centimetres.
    rotation : tuple of float
        Row-major 3 x 3 matrix applied to the stored model before anything else.
    licence : str
        The library's, unless the model's own licence text says otherwise (a column of the committed list).
    family : str
        Models that are nearly the same share one, and so a split; the model's own name by default.
    turn : float
        Degrees about the vertical axis that bring the front to +y (from the committed list).
    """

    category: str
    pack: str
    key: str
    name: str
    creator: str
    path: str
    size: tuple[float, float, float]
    rotation: tuple[float, ...]
    licence: str = ""
    family: str = ""
    turn: float = 0.0

    @property
    def model(self) -> str:
        """Name of the model in the prepared folder, unique over all libraries."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.pack}-{self.key}".lower()).strip("-")


@dataclass(frozen=True)
class TexturedMesh:
    """A model with the colour of every surface point.

    Attributes
    ----------
    vertices : array, shape (V, 3)
        World frame, bounding box centred at the origin, longest side 1.
    faces : array, shape (F, 3)
    uv : array, shape (F, 3, 2)
        Texture coordinates of the corners, v upwards.
    material : array, shape (F,)
        Index into ``textures``.
    textures : tuple of arrays, shape (H, W, 3), uint8
        One a material; a plain colour is a texture of one pixel.
    """

    vertices: Vertices
    faces: Faces
    uv: Float[np.ndarray, "faces 3 2"]
    material: Int[np.ndarray, " faces"]
    textures: tuple[Rgb, ...]


def read_catalogue(library: Path) -> dict[str, dict[str, str]]:
    """Properties of every piece of a library, by the id after the ``#``."""
    if not library.is_file():
        raise InputError(f"{library} is missing; --source must hold the .sh3f files of sweethome3d-furniture.")
    try:
        with zipfile.ZipFile(library) as archive:
            text = archive.read(CATALOGUE).decode("latin-1")
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise InputError(f"{library} is not a whole Sweet Home 3D library ({error}); fetch it again.") from error
    pieces: dict[str, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*?)\r?$", text, flags=re.MULTILINE):
        pieces.setdefault(number, {})[key] = value.strip()
    return {piece["id"].split("#")[-1]: piece for piece in pieces.values() if "model" in piece}


def read_entries(source: Path, model_list: Path = MODEL_LIST) -> list[Entry]:
    """The committed list of models joined with the catalogues of the libraries in ``source``."""
    if not model_list.is_file():
        raise InputError(f"There is no list of models {model_list}; --models takes a CSV file.")
    with model_list.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    catalogues = {pack: read_catalogue(source / f"{pack}.sh3f") for pack in sorted({row["pack"] for row in rows})}
    return [_entry(row, catalogues[row["pack"]]) for row in rows]


def load_model(library: Path, entry: Entry, folder: Path) -> TexturedMesh:
    """Unpack one model into ``folder`` and load it in our frame, centred, longest side 1."""
    path = entry.path.lstrip("/")
    extract(library, folder, path.rsplit("/", 1)[0] + "/")
    parts = read_textured(folder / path)
    if not parts:
        raise InputError(f"The model {entry.pack}/{entry.key} has no faces; take it off {MODEL_LIST.name}.")
    return textured_mesh(parts, lambda points, faces: _to_unit_cube(points, entry))


def read_textured(path: Path) -> list[trimesh.Trimesh]:
    """The parts of a model file that have faces, each with its material."""
    logging.getLogger("trimesh").setLevel(logging.ERROR)  # it warns of each missing texture file
    scene = trimesh.load(path, process=False, force="scene")
    return [geometry for geometry in scene.geometry.values() if len(getattr(geometry, "faces", ()))]


def textured_mesh(parts: list[trimesh.Trimesh], place: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> TexturedMesh:
    """One mesh of several parts; ``place`` moves all vertices, given with the faces, to the world frame."""
    offsets = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = np.concatenate([part.faces + offset for part, offset in zip(parts, offsets, strict=False)])
    return TexturedMesh(
        place(np.concatenate([part.vertices for part in parts]), faces),
        faces,
        np.concatenate([_corner_uv(part) for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts]),
        tuple(_texture(part) for part in parts),
    )


def _entry(row: dict[str, str], catalogue: dict[str, dict[str, str]]) -> Entry:
    piece = catalogue.get(row["id"])
    if piece is None:
        raise InputError(f"The library {row['pack']} has no piece {row['id']!r}; use package version 1.8 of it.")
    entry = Entry(
        licence=row.get("licence") or LICENCES.get(row["pack"], f"see licenses/{row['pack']}.txt"),
        category=row["category"],
        pack=row["pack"],
        key=row["id"],
        name=piece["name"].encode("latin-1").decode("unicode_escape"),
        creator=piece.get("creator", "").encode("latin-1").decode("unicode_escape"),
        path=piece["model"],
        size=tuple(float(piece[side]) for side in ("width", "depth", "height")),
        rotation=tuple(float(v) for v in piece.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()),
        turn=float(row.get("turn") or 0),
    )
    return replace(entry, family=row.get("family") or entry.model)


def _to_unit_cube(vertices: Vertices, entry: Entry) -> Vertices:
    """Apply the catalogue's rotation and size, our axes and turn, then centre and scale to longest side 1."""
    points = vertices @ np.reshape(entry.rotation, (3, 3)).T @ TO_WORLD.T
    points = centre(points)
    extent = np.ptp(points, axis=0)
    points *= np.asarray(entry.size) / np.where(extent > 0, extent, 1.0)
    cos, sin = np.cos(np.radians(entry.turn)), np.sin(np.radians(entry.turn))
    points = centre(points @ np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]]))
    return points / np.ptp(points, axis=0).max()


def centre(points: Points) -> Points:
    """Move the centre of the bounding box to the origin."""
    return points - (points.min(axis=0) + points.max(axis=0)) / 2


def _corner_uv(part: trimesh.Trimesh) -> Float[np.ndarray, "faces 3 2"]:
    uv = getattr(part.visual, "uv", None)
    if uv is None or len(uv) != len(part.vertices):
        return np.zeros((len(part.faces), 3, 2))
    return np.nan_to_num(np.asarray(uv, dtype=np.float64))[part.faces]


def _texture(part: trimesh.Trimesh) -> Rgb:
    """The material's image, or one pixel of its diffuse colour."""
    material = getattr(part.visual, "material", None)
    image = getattr(material, "image", None)
    if image is not None:
        image.draft("RGB", (512, 512))  # a 64-pixel render never shows more; JPEGs decode faster
        return np.asarray(image.convert("RGB"))
    colour = np.asarray(getattr(material, "diffuse", (180, 180, 180)), dtype=np.uint8)[:3]
    return colour.reshape(1, 1, 3)
