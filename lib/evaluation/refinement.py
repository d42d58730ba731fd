"""Test-time optimisation: the code of each image descends on the training's losses before its shape is measured."""

from dataclasses import fields, replace

import torch
from torch import nn

from lib.data.loading import Batch
from lib.errors import InputError
from lib.evaluation.instances import Prediction, Predictor


def refined_predictor(
    system: nn.Module, resolution: int = 100, steps: int | None = None, seed: int = 0, colored: bool = True
) -> Predictor:
    """A system that can optimise its codes (SDF-SRN, Table 3: "w/ test-time optimization") as a predictor.

    Images are optimised one by one with equal random numbers: what is found for one does not depend on the others.

    Parameters
    ----------
    resolution, colored
        As of `lib.evaluation.system_predictor`.
    steps : int, optional
        Of Adam; the configuration's `refine_steps` without it.

    Raises
    ------
    InputError
        The system has no such optimisation; on use, the dataset has no viewpoints.
    """
    if not hasattr(system, "refine"):
        raise InputError(f"{system.name} has no test-time optimisation; measure a checkpoint of sdf_srn")

    def predict_one(one: Batch) -> Prediction:
        with torch.enable_grad():
            shape = system.refine(one, torch.Generator().manual_seed(seed), steps)
        rotation = shape.viewpoint.rotation()[0].detach().double().cpu().numpy()
        return Prediction(shape.mesh(resolution, 0, colored=colored), rotation, true_view=True)

    def predict(batch: Batch) -> list[Prediction]:
        batch = batch.to(next(system.parameters()).device)
        return [predict_one(_only(batch, i)) for i in range(len(batch.rgb))]

    return predict


def _only(batch: Batch, i: int) -> Batch:
    """A batch of one of the images."""
    parts = {f.name: getattr(batch, f.name) for f in fields(batch) if f.name != "neighbor"}
    one = {name: value[i : i + 1] for name, value in parts.items() if value is not None}
    return replace(batch, neighbor=None, **one)
