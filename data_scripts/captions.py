"""A phrase for a sample that says only what the catalogue names or what was measured on shape and image."""

import colorsys
import re
from dataclasses import dataclass

import numpy as np
import trimesh
from scipy import ndimage

from data_scripts.arrays import Grid, Rgba, Vector
from data_scripts.raycasting import Caster
from data_scripts.sweethome import Entry

GRID = 96
NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}
HUES = ((18, "red"), (42, "brown"), (70, "yellow"), (165, "green"), (200, "turquoise"), (260, "blue"), (300, "purple"))
CARS = {"Van": "van", "SUV": "SUV", "Smart car": "smart car"}
HAS_LEGS = ("chair", "table", "sofa", "bed")


@dataclass(frozen=True)
class Measures:
    """What was measured on a model; None where nothing clear came out.

    Attributes
    ----------
    legs : int or None
        Separate pieces of the cross-section near the floor, if they stay the same over a range of heights.
    plan : str or None
        "round" or "rectangular", from the outline seen from above.
    boards : int or None
        Levels of horizontal surface that cover most of the outline seen from above.
    """

    legs: int | None
    plan: str | None
    boards: int | None


def measure(mesh: trimesh.Trimesh) -> Measures:
    """Measure a mesh in the unit cube (z up)."""
    # which points of the bounding rectangle have the object below them
    steps = (np.arange(GRID) + 0.5) / GRID - 0.5
    x, y = np.meshgrid(steps * mesh.extents[0], steps * mesh.extents[1], indexing="ij")
    origins = np.stack([x, y, np.full_like(x, 2.0)], axis=-1).reshape(-1, 3)
    down = np.broadcast_to([0.0, 0.0, -1.0], origins.shape)
    outline = Caster(mesh.vertices, mesh.faces).blocked(origins, down).reshape(GRID, GRID)
    # a disc fills pi/4 of its bounding square, a rectangle all of it
    share, (width, depth, _) = outline.mean(), mesh.extents
    disc = abs(width - depth) < 0.1 * max(width, depth) and abs(share - np.pi / 4) < 0.02
    plan = "rectangular" if share > 0.97 else "round" if disc else None
    return Measures(_count_legs(mesh), plan, _count_boards(mesh, outline))


def caption(entry: Entry, measures: Measures, extents: Vector, rgba: Rgba) -> str:
    """For example "a low round brown table on one leg" or "a tall narrow white bookcase with four boards"."""
    noun = re.sub("shelves$", "shelf", entry.name.lower())
    if entry.category == "car":  # most are named by make
        noun = CARS.get(entry.name, f"car, {entry.name}")
    plan = measures.plan if entry.category == "table" and measures.plan not in (None, *noun.split()) else ""
    words = [*proportions(extents), plan, colour_name(rgba), noun]
    phrase = " ".join(word for word in words if word and word not in noun.split(" ")[:-1])
    article = "an" if phrase[0] in "aeio" else "a"
    if entry.category == "shelf" and measures.boards in NUMBERS and measures.boards > 1:
        return f"{article} {phrase} with {NUMBERS[measures.boards]} boards"
    if entry.category in HAS_LEGS and measures.legs in NUMBERS:
        return f"{article} {phrase} on {NUMBERS[measures.legs]} leg{'s' if measures.legs > 1 else ''}"
    return f"{article} {phrase}"


def proportions(extents: Vector) -> list[str]:
    """Words for width, depth and height that are clearly unequal."""
    width, depth, height = extents
    words = []
    if height > 1.8 * max(width, depth):
        words.append("tall")
    if height < 0.4 * max(width, depth):
        words.append("low")
    if width > 1.8 * max(depth, height):
        words.append("wide")
    if height > 2.2 * width:
        words.append("narrow")
    return words


def colour_name(rgba: Rgba) -> str:
    """The plain word for the median colour of the opaque pixels."""
    opaque = rgba[rgba[..., 3] == 255]
    red, green, blue = np.median(opaque if len(opaque) else rgba[rgba[..., 3] > 0], axis=0)[:3] / 255.0
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.8 else "grey"
    name = next((word for limit, word in HUES if hue * 360 < limit), "pink" if hue * 360 < 340 else "red")
    if name == "brown" and value > 0.75:
        name = "orange" if saturation > 0.6 else "beige"
    return f"dark {name}" if value < 0.35 and name != "brown" else name


def _count_legs(mesh: trimesh.Trimesh) -> int | None:
    """The number of pieces that is the same in cross-sections at 8, 12, 16 and 20 % of the height."""
    low = mesh.bounds[0, 2]
    slices = [_cross_section(mesh, low + share * mesh.extents[2]) for share in (0.08, 0.12, 0.16, 0.2)]
    counts = {ndimage.label(cut, structure=np.ones((3, 3)))[1] for cut in slices}
    if len(counts) != 1 or counts == {0}:
        return None
    covered = max(ndimage.binary_fill_holes(cut).mean() for cut in slices)
    return counts.pop() if covered < 0.12 else None  # a box that stands on the floor has no legs


def _cross_section(mesh: trimesh.Trimesh, height: float) -> Grid:
    """Raster of where a horizontal plane cuts the surface, thickened so that small gaps close."""
    segments = trimesh.intersections.mesh_plane(mesh, plane_normal=[0, 0, 1], plane_origin=[0, 0, height])
    raster = np.zeros((GRID, GRID), dtype=bool)
    if len(segments):
        steps = np.linspace(0.0, 1.0, 2 * GRID)[:, None, None]
        points = (segments[:, 0] * (1 - steps) + segments[:, 1] * steps).reshape(-1, 3)[:, :2]
        cells = ((points - mesh.bounds[0, :2]) / mesh.extents[:2] * (GRID - 1)).round().astype(int)
        raster[tuple(cells.clip(0, GRID - 1).T)] = True
    return ndimage.binary_dilation(raster, iterations=2)


def _count_boards(mesh: trimesh.Trimesh, outline: Grid) -> int | None:
    """Heights at which horizontal faces cover at least half of the outline; both sides of a board are one."""
    level = np.abs(mesh.face_normals[:, 2]) > 0.98
    heights, areas = mesh.triangles_center[level, 2], mesh.area_faces[level]
    footprint = outline.mean() * mesh.extents[0] * mesh.extents[1]
    order = np.argsort(heights)
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > 0.03)
    totals = np.add.reduceat(areas[order], starts) if len(starts) else np.array([])
    return int((totals > 0.5 * footprint).sum()) or None
