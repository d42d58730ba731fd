"""Compiled strides of two written fields beside plain ones, in float64: `python tests/compiled_strides.py BACKEND`."""

import functools
import json
import sys

import torch

from lib.fields.hypernetwork import Hypernetwork
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.rendering.ray_marching import Marcher, march


def marched(compiled: bool, seed: int = 0) -> list[torch.Tensor]:
    """Depths and values, and what a loss on them says to the hypernetwork and the marcher."""
    torch.manual_seed(seed)
    network, marcher = Hypernetwork(6, 1, 12, 10, 3, 2).double(), Marcher(10, 8).double()
    field = network(torch.randn(2, 6, dtype=torch.float64))
    angles = torch.rand(2, 2, dtype=torch.float64)
    rays = camera_rays(
        Viewpoint.from_angles(*angles, distance=2.5), pixel_centers(3, dtype=torch.float64).expand(2, -1, -1)
    )
    start = torch.tensor([1.5, 2.0], dtype=torch.float64)
    depths, values = march(field.distance_and_feature, marcher, rays, start, 5, compiled)
    weights = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).view_as(values)
    heads = [*network.writers[:-1].parameters(), *marcher.parameters()]  # the last writer's is that of colours
    return [depths, values, *torch.autograd.grad((weights * (values + depths.square())).sum(), heads)]


if __name__ == "__main__":
    torch.compile = functools.partial(torch.compile, backend=sys.argv[1])
    errors = []
    for seed in (0, 1):
        for ours, expected in zip(marched(True, seed), marched(False, seed), strict=True):
            errors.append(float((ours - expected).detach().abs().max() / expected.abs().max()))
    print(json.dumps({"errors": errors, "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}))
