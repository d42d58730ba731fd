"""Silhouettes to choose, to paint and to load, and what they prove (notebook 02)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from lib.errors import InputError
from lib.studies.bounds import BoundScene, Solid, ball, bound_scene, box_chair, near_camera, ring, silhouette

SOLIDS: dict[str, Callable[[], Solid]] = {"chair of boxes": box_chair, "ball": ball, "ring": ring}
CAMERAS = {"perspective": "perspective", "parallel rays": "weak_perspective"}
NOTHING, FILE = "nothing", "your file"  # where a painting can start, besides the solids
START, FRONT = (40.0, 25.0), (0.0, 0.0)  # azimuth and elevation, degrees


def scene_of(solid: str, camera: str, size: int = 64) -> BoundScene:
    """One of `SOLIDS` before one of `CAMERAS`."""
    return bound_scene(SOLIDS[solid](), camera_of(solid, camera), size)


def camera_of(solid: str, camera: str):
    """The viewpoint of a solid's scene; the ring is seen from its front, into the hole."""
    return near_camera(*(FRONT if solid == "ring" else START), CAMERAS[camera])


@dataclass(frozen=True)
class Brush:
    """A round brush that has touched the picture once.

    Attributes
    ----------
    kind : {"paint", "erase", "off"}
    x, y : float
        Its middle in shares of the picture, from the left and from the top.
    radius : float
        In shares of the picture.
    """

    kind: str
    x: float
    y: float
    radius: float

    def over(self, mask: Bool[Tensor, "size size"]) -> Bool[Tensor, "size size"]:
        """The mask after it."""
        axis = (torch.arange(len(mask)) + 0.5) / len(mask)
        disc = torch.hypot(axis[None] - self.x, axis[:, None] - self.y) < self.radius
        return {"paint": mask | disc, "erase": mask & ~disc, "off": mask}[self.kind]


class Easel:
    """The reader's own silhouette: what it starts from, and the brush over it.

    Attributes
    ----------
    start : str
        One of `SOLIDS`, `NOTHING`, or `FILE` if there is one.
    given : Tensor, shape (size, size), bool, or None
        The file's silhouette.
    kept : list of Brush
        Touches that stay when the brush moves on.
    brush : Brush
        The touch that is being tried.
    changed : list of callable
        Called without arguments after each change.
    """

    def __init__(self, given: Bool[Tensor, "size size"] | None = None, size: int = 64):
        self.size, self.given = size, given
        self.start = next(iter(SOLIDS)) if given is None else FILE
        self.kept: list[Brush] = []
        self.brush = Brush("off", 0.5, 0.5, 0.0)
        self.changed: list[Callable[[], None]] = []

    def starts(self) -> list[str]:
        """What a painting can start from."""
        return [*SOLIDS, NOTHING, *([] if self.given is None else [FILE])]

    def paint(self, start: str, brush: Brush) -> None:
        """Start from something, and try a brush."""
        self.start, self.brush = start, brush
        for call in self.changed:
            call()

    def keep(self) -> None:
        """Let the brush's touch stay, once; one that is off leaves none."""
        if self.brush.kind != "off" and self.brush not in self.kept[-1:]:
            self.kept.append(self.brush)

    def mask(self, camera: str = "perspective") -> Bool[Tensor, "size size"]:
        """The silhouette; one that starts from a solid depends on the camera."""
        if self.start in SOLIDS:
            mask = silhouette(SOLIDS[self.start](), camera_of(self.start, camera), self.size)
        else:
            mask = self.given if self.start == FILE else torch.zeros(self.size, self.size, dtype=torch.bool)
        for brush in (*self.kept, self.brush):
            mask = brush.over(mask)
        return mask

    def usable_mask(self, camera: str = "perspective") -> Bool[Tensor, "size size"]:
        """The `mask`, if it has an inside and an outside.

        Raises
        ------
        InputError
            The silhouette is empty or covers the picture.
        """
        mask = self.mask(camera)
        if not mask.any():
            raise InputError("Your silhouette is empty, so nothing is anywhere; paint a part of it or load another.")
        if mask.all():
            raise InputError("Your silhouette covers the picture, which proves nothing; erase a part or load another.")
        return mask

    def scene(self, camera: str = "perspective") -> BoundScene:
        """What the silhouette proves; with the solid that it started from, if any, which it may contradict.

        Raises
        ------
        InputError
            As `usable_mask`.
        """
        mask = self.usable_mask(camera)
        solid = SOLIDS[self.start]() if self.start in SOLIDS else None
        return bound_scene(solid, camera_of(self.start, camera), self.size, mask=mask)


def open_pixel(scene: BoundScene) -> tuple[int, int]:
    """Column and row of a background pixel that is neither near the silhouette nor far: the median of D."""
    outside = (~scene.mask).flatten().nonzero()[:, 0]
    order = scene.distance.flatten()[outside].argsort(stable=True)
    row, column = divmod(int(outside[order[len(order) // 2]]), len(scene.mask))
    return column, row
