"""What is measured: for each image of a batch a mesh and a viewpoint."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import trimesh
from jaxtyping import Float

from lib.data.loading import Batch
from lib.errors import InputError
from lib.systems.base import System


@dataclass(frozen=True)
class Prediction:
    """What a system says about one image.

    The mesh is in the system's canonical frame, and empty where it found no surface; the rotation is world to camera
    (OpenCV). `true_view`: the rotation was given, not predicted, and is not measured.
    """

    mesh: trimesh.Trimesh
    rotation: Float[np.ndarray, "3 3"]
    true_view: bool = False


Predictor = Callable[[Batch], list[Prediction]]


def system_predictor(system: System, resolution: int | None = None, colored: bool = True) -> Predictor:
    """A system of `lib.systems` as a predictor. One that needs viewpoints gets those of the batch.

    `resolution` are samples along each axis of marching cubes; the system's own number without it. Meshes are `colored`
    to be looked at; measuring needs no texture.
    """
    if resolution is not None and resolution < 2:
        raise InputError(f"The resolution of marching cubes must be at least 2 samples an axis, not {resolution}.")
    given = system.needs_viewpoint

    def predict(batch: Batch) -> list[Prediction]:
        if given and batch.viewpoint is None:
            raise InputError("This system was trained with given viewpoints, and the dataset has none.")
        return _predictions(system.reconstruct_batch(batch), len(batch.rgb), resolution, colored, given)

    return predict


def refined_predictor(
    system: System, resolution: int | None = None, steps: int | None = None, seed: int = 0, colored: bool = True
) -> Predictor:
    """A system that optimises its codes on each image first (SDF-SRN, Table 3: "w/ test-time optimization").

    Images are optimised one by one with equal random numbers: what is found for one does not depend on the others.
    `steps` of Adam; the system's own number without it. A system that has no such optimisation is refused.
    """
    if not system.can_refine:
        raise InputError(f"{system.name} has no test-time optimisation; measure a checkpoint of sdf_srn")

    def predict(batch: Batch) -> list[Prediction]:
        batch = batch.to(next(system.parameters()).device)
        predictions = []
        for i in range(len(batch.rgb)):
            with torch.enable_grad():
                shape = system.refine(_only(batch, i), torch.Generator().manual_seed(seed), steps)
            predictions += _predictions(shape, 1, resolution, colored, given=True)
        return predictions

    return predict


def _predictions(shapes, count: int, resolution: int | None, colored: bool, given: bool) -> list[Prediction]:
    """Meshes and viewpoints of a `lib.systems.base.Reconstruction`."""
    rotations = shapes.viewpoint.rotation().detach().double().cpu().numpy()
    meshes = [shapes.mesh(resolution, i, colored=colored) for i in range(count)]
    return [Prediction(mesh, rotation, given) for mesh, rotation in zip(meshes, rotations, strict=True)]


def _only(batch: Batch, i: int) -> Batch:
    """A batch of one of the images."""
    parts = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "neighbor"}
    one = {name: value[i : i + 1] for name, value in parts.items() if value is not None}
    return replace(batch, neighbor=None, **one)
