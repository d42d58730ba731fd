"""Whether CAD models are as large as their source says, and as large as their photos show them.

All meshes are centred and scaled, so a model of another size gives a good mesh; but the size says whether the file is
what the source made, and whether a camera that was fitted to it still belongs to it.
"""

import numpy as np
import pandas as pd
import trimesh

from data_scripts.cad_models import Cad, Camera
from lib.errors import InputError

SLACK = 1.02  # of a size that a source states
FACTOR = 2.0  # by which sizes that should be equal may differ
MENDED = "centred and scaled here, but are they the source's?"

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
    seen = pd.DataFrame([row for row in rows if "apparent_size" in row], columns=["mesh", "apparent_size"])
    return _note(
        dict(seen.groupby("mesh")["apparent_size"].median()),
        (1 / FACTOR, FACTOR),
        "appear {size:.3g} times as large as their boxes (the median): they and their cameras are not in the same "
        "units, so do not use their viewpoints.",
    )


def unit_cube_notes(rows: list[dict], centred: bool) -> list[str]:
    """A sentence where CAD models do not fit the unit cube (about the origin, if ``centred``) of their source."""
    where = " about the origin" if centred else ""
    return _note(
        {row["model"]: row["reach" if centred else "longest"] for row in rows if "reach" in row},
        (0.0, SLACK),
        f"do not fit the unit cube{where} that their source promises, but one of {{size:.3g}}: {MENDED}",
    )


def even_size_notes(rows: list[dict]) -> list[str]:
    """A sentence where CAD models that their source calls normalised are not of one size."""
    lengths = {row["model"]: row["longest"] for row in rows if "longest" in row}
    usual = np.median(list(lengths.values())) if lengths else 1.0
    return _note(
        {model: length / usual for model, length in lengths.items()},
        (1 / FACTOR, FACTOR),
        f"are not normalised as the rest are: {{size:.3g}} times as long as the median; {MENDED}",
    )


def _note(sizes: dict[str, float], bounds: tuple[float, float], words: str) -> list[str]:
    """A sentence where sizes are out of bounds, about the one that is furthest from 1."""
    odd = [name for name, size in sizes.items() if not bounds[0] <= size <= bounds[1]]
    if not odd:
        return []
    worst = min(odd, key=lambda name: (-abs(np.log(sizes[name])), name))
    return [f"{len(odd)} of {len(sizes)} CAD models, such as {worst}, {words.format(size=sizes[worst])}"]
