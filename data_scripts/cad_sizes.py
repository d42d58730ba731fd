"""Whether CAD models are as large as their source says, and as large as their photos show them.

All meshes are centred and scaled, so a model of another size gives a good mesh; but the size says whether the file is
what the source made, and whether a camera that was fitted to it still belongs to it.
"""

import numpy as np
import trimesh

from data_scripts.cad_models import Cad, Camera
from lib.errors import InputError

SLACK = 1.02  # of a size that a source states
FACTOR = 2.0  # by which sizes that should be equal may differ

Box = tuple[float, float, float, float]


def extents(mesh: trimesh.Trimesh) -> dict[str, float]:
    """Measures of a mesh in the units of its file: its longest side, and twice its furthest coordinate."""
    used = np.asarray(mesh.vertices)[np.unique(mesh.faces)]
    return {"longest": float(np.ptp(used, axis=0).max()), "reach": float(2 * np.abs(used).max())}


def apparent_size(cad: Cad, camera: Camera, box: Box, photo: tuple[int, int] | None = None) -> float:
    """How many times as large as its annotated box a CAD model appears: the root of the ratio of the areas.

    Parameters
    ----------
    box : tuple of float
        Left, top, right, bottom in pixels of the photo.
    photo : pair of int, optional
        Width and height of the photo, if objects can be cut off by it: what lies outside does not count.
    """
    corners = [camera.project(np.asarray(cad.whole.vertices, dtype=np.float64)[np.unique(cad.whole.faces)])]
    corners += [np.reshape(box, (2, 2))]
    if photo:
        corners = [np.clip(points, 0, photo) for points in corners]
    seen, stated = (np.maximum(np.ptp(points, axis=0), 1.0) for points in corners)  # at least a pixel
    return float(np.sqrt((seen / stated).prod()))


def check_apparent_size(size: float, model: str) -> None:
    """Refuse a CAD model that appears more than twice as large or as small as the annotated box."""
    if not 1 / FACTOR <= size <= FACTOR:
        raise InputError(f"The CAD model {model} appears {size:.3g} times as large as the annotated box: "
                         "the model and its camera are not in the same units.")  # fmt: skip


def apparent_size_notes(rows: list[dict]) -> list[str]:
    """A sentence where CAD models appear much larger or smaller than boxes of objects that can be partly hidden."""
    sizes: dict[str, list[float]] = {}
    for row in rows:
        if "apparent_size" in row:
            sizes.setdefault(row["mesh"], []).append(row["apparent_size"])
    medians = {mesh: float(np.median(found)) for mesh, found in sizes.items()}
    odd = _odd(medians, 1 / FACTOR, FACTOR)
    return [
        f"{len(odd)} of {len(medians)} CAD models, such as {mesh}, appear {medians[mesh]:.3g} times as large as their "
        "boxes (the median): they and their cameras are not in the same units, so do not use their viewpoints."
        for mesh in odd[:1]
    ]


def unit_cube_notes(rows: list[dict], centred: bool) -> list[str]:
    """A sentence where CAD models do not fit the unit cube that their source promises.

    Parameters
    ----------
    centred : bool
        The cube is about the origin; else only its size is promised.
    """
    sizes = {row["model"]: row["reach" if centred else "longest"] for row in rows if "reach" in row}
    odd, where = _odd(sizes, 0.0, SLACK), " about the origin" if centred else ""
    return [
        f"{len(odd)} of {len(sizes)} CAD models, such as {model}, do not fit the unit cube{where} that their source "
        f"promises, but one of {sizes[model]:.3g}: centred and scaled here, but are they the source's?"
        for model in odd[:1]
    ]


def even_size_notes(rows: list[dict]) -> list[str]:
    """A sentence where CAD models that their source calls normalised are not of one size."""
    lengths = {row["model"]: row["longest"] for row in rows if "longest" in row}
    usual = np.median(list(lengths.values())) if lengths else 1.0
    sizes = {model: float(length / usual) for model, length in lengths.items()}
    odd = _odd(sizes, 1 / FACTOR, FACTOR)
    return [
        f"{len(odd)} of {len(sizes)} CAD models, such as {model}, are not normalised as the rest are: "
        f"{sizes[model]:.3g} times as long as the median; centred and scaled here, but are they the source's?"
        for model in odd[:1]
    ]


def _odd(sizes: dict[str, float], least: float, most: float) -> list[str]:
    """Names of sizes out of bounds, the furthest from 1 first."""
    odd = (name for name, size in sizes.items() if not least <= size <= most)
    return sorted(odd, key=lambda name: (-abs(np.log(sizes[name])), name))
