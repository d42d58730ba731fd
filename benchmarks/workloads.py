"""What is timed: a training step of each recipe, the evaluation of one instance, the search for neighbours."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import released, released_field
from benchmarks.measure import Once, Workload
from lib.data.loading import Batch, PreparedDataset
from lib.data.neighbors import find_neighbors
from lib.evaluation.instances import measure_shape
from lib.geometry.alignment import Clouds
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import grid_points, marching_cubes, sample_surface
from lib.paths import FURNITURE, WEIGHTS
from lib.systems import make_system
from lib.systems.base import System
from lib.systems.checkpoints import load_system
from lib.training.loop import TrainingConfig
from lib.training.recipes import ALL_RECIPES

RELEASED = "released structure"
COMPUTE_AS_RELEASED = {
    "shapeclipper": released.compute_as_released,
    "sdf_srn": released_field.compute_as_released,
}
CHECKPOINTS = {
    "evaluate shapeclipper": "shapeclipper-furniture-chair",
    "evaluate sdf-srn": "sdf-srn-furniture-chair",
}
SEARCH = "neighbours"
# name -> images, instances or vectors at once
SIZES = {
    **dict.fromkeys(("small", "small-given", "quick", "sdf-srn-small", "sdf-srn-quick"), (12,)),
    "paper": (2, 12),
    "released": (2,),
    "sdf-srn": (2,),
    **dict.fromkeys(CHECKPOINTS, (1,)),
    SEARCH: (12_000,),
}


def workload(name: str, size: int, device: str) -> Workload:
    """A workload by its name in `SIZES`."""
    if name in CHECKPOINTS:
        return evaluation(name, device)
    return neighbor_search(size) if name == SEARCH else training_step(name, size, device)


def training_step(recipe_name: str, size: int, device: str) -> Workload:
    """Losses, backward pass, clipping and Adam: as the released code would compute them, and as we do.

    A recipe of small images sees the shipped chairs, half of its training done; one of paper size random discs.
    """
    recipe = ALL_RECIPES[recipe_name]
    config = replace(recipe.system, backbone_weights="random")
    data = PreparedDataset(FURNITURE, "train", ["chair"]) if sees_shipped_images(recipe_name) else None

    def make(as_released: bool) -> Once:
        torch.manual_seed(0)
        system = make_system(config)
        if as_released:
            COMPUTE_AS_RELEASED[system.name.removesuffix("_small")](system)
        if data is None:
            batch = random_batch(size, config.image_size)
        else:
            system.prepare(data)
            batch = data.batch(*torch.randperm(len(data), generator=seeded())[: 2 * size].view(2, -1))
        system.to(device).train()
        system.begin_step(0.5)
        return one_step(system, batch.to(device), recipe.training)

    ways = {RELEASED: lambda: make(True), "ours": lambda: make(False)}
    return Workload(f"step of {recipe_name}", size, ways, 1e-3)


def sees_shipped_images(recipe_name: str) -> bool:
    """Whether a recipe is for the images that ship with the course."""
    return recipe_name.endswith(("small", "small-given", "quick"))


def one_step(system: System, batch: Batch, training: TrainingConfig) -> Once:
    """An update that hardly moves the weights, always with the same draws; gives the losses before it."""
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-9, fused=True)

    def step() -> tuple[Tensor, ...]:
        losses = system.losses(batch, seeded())
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        if training.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, training.clip)
        optimizer.step()
        return tuple(loss.detach() for loss in losses.values())

    return step


def random_batch(size: int, pixels: int, neighbor: bool = True, seed: int = 0) -> Batch:
    """Discs with random colours and normals."""
    generator = seeded(seed)
    axis = (torch.arange(pixels) + 0.5) / pixels - 0.5
    mask = (axis[:, None].square() + axis.square() < 0.12).float().expand(size, -1, -1)
    normal = torch.randn(size, pixels, pixels, 3, generator=generator) - torch.tensor([0.0, 0.0, 2.0])
    azimuth, elevation = torch.rand(2, size, generator=generator)
    return Batch(
        torch.arange(size),
        1 - mask[..., None] * torch.rand(size, pixels, pixels, 3, generator=generator),
        mask,
        F.normalize(normal, dim=-1) * mask[..., None],
        Viewpoint.from_angles(6 * azimuth, 0.5 * elevation),
        torch.full((size, pixels, pixels), 1 / pixels**2),
        random_batch(size, pixels, False, seed + 1) if neighbor else None,
    )


def evaluation(name: str, device: str) -> Workload:
    """One shape of a shipped checkpoint: 100^3 grid, mesh, 2 x 100,000 points, Chamfer distance and F-scores (`view`).

    The whole grid, as the released code asks for it, and near the surface only.
    """
    system, dataset = load_system(WEIGHTS / CHECKPOINTS[name], device), PreparedDataset(FURNITURE, "test", ["chair"])
    batch = dataset.batch(torch.tensor([0])).to(device)
    shape = system.reconstruct_batch(batch)
    rotations = [view.rotation()[0].detach().double().cpu().numpy() for view in (shape.viewpoint, batch.viewpoint)]

    def whole_grid():
        points = torch.from_numpy(grid_points(100, 0.7)).to(device)
        return marching_cubes(shape.sdf(points[None]).view(100, 100, 100).cpu().numpy(), 0.7)

    def measured(mesh_of: Callable) -> Once:
        def once() -> tuple[Tensor]:
            clouds = sample_surface(mesh_of(), 100_000, 0), sample_surface(dataset.mesh(0), 100_000, 1)
            return (torch.tensor(list(measure_shape(Clouds(*clouds, *rotations), "view").values())),)

        return once

    ways = {
        "whole grid": lambda: measured(whole_grid),
        "near the surface": lambda: measured(lambda: shape.mesh(100, 0, 0.7, colored=False)),
    }
    return Workload(name, 1, ways, 1e-4)


def neighbor_search(count: int) -> Workload:
    """The five nearest of each of `count` clustered vectors of 512 numbers; their similarities must be the same."""
    generator = seeded()
    centers = F.normalize(torch.randn(round(count**0.5), 512, generator=generator), dim=1)
    noise = torch.randn(count, 512, generator=generator) * (0.5 / 512**0.5)
    vectors = F.normalize(centers[torch.randint(len(centers), (count,), generator=generator)] + noise, dim=1)

    def all_at_once() -> tuple[Tensor]:
        return ((vectors @ vectors.T).fill_diagonal_(-2).topk(5, dim=1).values,)

    def found(method: str) -> Once:
        return lambda: (find_neighbors(vectors, 5, method=method).score,)

    ways = {"all similarities at once": lambda: all_at_once}
    ways |= {method: lambda method=method: found(method) for method in ("exact", "ivf")}
    return Workload(SEARCH, count, ways, 0.02)  # an index may miss a few


def seeded(seed: int = 0) -> torch.Generator:
    """Random numbers that are always the same."""
    return torch.Generator().manual_seed(seed)
