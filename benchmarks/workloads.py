"""What is timed: the step, its parts, the data and the evaluation, each in its ways."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from benchmarks.batches import data, data_224
from benchmarks.measure import Workload, same
from benchmarks.released import render_rays_released
from benchmarks.released_field import by_the_released_route
from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.evaluation.instances import measure_shape
from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField
from lib.geometry.alignment import Clouds
from lib.geometry.cameras import Viewpoint, camera_rays
from lib.geometry.meshes import grid_points, marching_cubes, sample_surface
from lib.geometry.surface_grid import surface_grid
from lib.networks.backbones import Backbone
from lib.paths import FURNITURE, WEIGHTS
from lib.rendering.fast import render_fields
from lib.rendering.volume import RenderedMaps, sample_depths
from lib.systems.sdf_srn import SDFSRN
from lib.systems.sdf_srn_config import SDFSRNConfig
from lib.systems.shapeclipper import ShapeClipper
from lib.systems.shapeclipper import PAPER
from lib.training.checkpoints import load_system

PATHS = {"plain": "plain", "fast": "compiled", "fast, not compiled": "fast"}


def random_batch(size: int, pixels: int, device: str, neighbor: bool = True, seed: int = 0) -> Batch:
    """Discs with random colours and normals."""
    generator = torch.Generator().manual_seed(seed)
    axis = (torch.arange(pixels) + 0.5) / pixels - 0.5
    mask = (axis[:, None].square() + axis.square() < 0.12).float().expand(size, -1, -1)
    normal = torch.randn(size, pixels, pixels, 3, generator=generator) - torch.tensor([0.0, 0.0, 2.0])
    azimuth, elevation = torch.rand(2, size, generator=generator)
    batch = Batch(
        torch.arange(size),
        1 - mask[..., None] * torch.rand(size, pixels, pixels, 3, generator=generator),
        mask,
        nn.functional.normalize(normal, dim=-1) * mask[..., None],
        Viewpoint.from_angles(6 * azimuth, 0.5 * elevation),
        torch.full((size, pixels, pixels), 1 / pixels**2),
        random_batch(size, pixels, "cpu", False, seed + 1) if neighbor else None,
    )
    return batch.to(device)


def render(device: str, size: int) -> Workload:
    """512 rays of 64 samples an image, forward and backward, with normals and camera gradient."""
    torch.manual_seed(0)
    fields = (SDFField().to(device), TextureField().to(device))
    codes = [torch.randn(size, 64, device=device, requires_grad=True) for _ in range(2)]
    angles = torch.rand(2, size, device=device, requires_grad=True)
    pixels, beta = torch.rand(size, 512, 2, device=device), torch.tensor(0.1, device=device, requires_grad=True)
    leaves = [*fields[0].parameters(), *fields[1].parameters(), *codes, angles, beta]

    def run(renderer: Callable[..., RenderedMaps]) -> tuple[torch.Tensor, ...]:
        view = Viewpoint.from_angles(*angles)
        near, far = view.distance - 0.7, view.distance + 0.7
        depths = sample_depths(near, far, 512, 64, torch.Generator().manual_seed(0))
        maps = renderer(*fields, *codes, camera_rays(view, pixels), depths, beta)
        seen = maps.mask.detach() > 0.5
        loss = maps.rgb.square().mean() + maps.mask.square().mean() + (maps.normal[..., 0] * seen).mean()
        return loss.detach(), *torch.autograd.grad(loss, leaves)

    renderers = {"released": render_rays_released} | {
        name: lambda *given, path=path: render_fields(path, *given) for name, path in PATHS.items()
    }
    variants = {name: lambda r=renderer: run(r) for name, renderer in renderers.items()}
    twin = {"fast": variants["fast, not compiled"]}
    return Workload("render", (size, 512, 64), variants, lambda: same(variants, 1e-4), twin)


def shapeclipper_step(device: str, size: int) -> Workload:
    """The paper's networks and objective on random photographs: losses, backward, Adam.

    "fast, bf16" is what ``mixed_precision="bf16"`` makes of "fast": other numbers, so it is timed and not compared.
    """
    if not hasattr(PAPER, "render_path"):
        raise InputError("shapeclipper_step needs ShapeClipperConfig.render_path; update lib.systems")
    batch = random_batch(size, 224, device)
    variants, first = {}, {}
    for name, path in PATHS.items():
        torch.manual_seed(0)
        system = ShapeClipper(replace(PAPER, backbone_weights="random", render_path=path)).to(device).train()
        first[name] = lambda s=system: tuple(
            v.detach() for v in s.losses(batch, torch.Generator().manual_seed(0)).values()
        )
        variants[name] = step_of(system, batch)
        if name == "fast":
            variants["fast, bf16"] = step_of(system, batch, half=True)
    twins = dict.fromkeys(("fast", "fast, bf16"), variants["fast, not compiled"])
    return Workload("shapeclipper_step", (size, 512, 64, 224), variants, lambda: same(first, 1e-3), twins)


def sdf_srn_step(device: str, size: int) -> Workload:
    """SDF-SRN's paper setting on random photographs: losses, backward, Adam.

    "fast" is `lib.fields.written_layers`: derivatives by hand, in parts that stay in the processor's cache. In the
    process that does it memory is kept (`lib.rendering.memory`), for the other variants too.
    """
    config = replace(SDFSRNConfig(), backbone_weights="random")
    batch = random_batch(size, config.image_size, device, neighbor=False)
    variants, first = {}, {}
    for name, path in {"released": "fast", "fast": "compiled", "fast, not compiled": "fast"}.items():
        torch.manual_seed(0)
        system = SDFSRN(replace(config, render_path=path)).to(device).train()
        if name == "released":
            system.hypernetwork.register_forward_hook(by_the_released_route)
        else:
            system.plan(steps=100_000, batch_size=size)
        first[name] = lambda s=system: losses_and_gradient(s, batch)
        variants[name] = step_of(system, batch)
    twin = {"fast": variants["fast, not compiled"]}
    return Workload("sdf_srn_step", (size, config.image_size), variants, lambda: same(first, 1e-3), twin)


def losses_and_gradient(system: SDFSRN, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Every term, and the gradient of those that do not march: ten strides multiply what float32 rounds away."""
    losses = system.losses(batch, torch.Generator().manual_seed(0))
    of_distance = list(system.hypernetwork.writers[:-1].parameters())  # the last one writes colours
    gradients = torch.autograd.grad(losses["sdf"] + losses["eikonal"], of_distance)
    return *(loss.detach() for loss in losses.values()), torch.cat([gradient.flatten() for gradient in gradients])


def step_of(system: nn.Module, batch: Batch, half: bool = False) -> Callable[[], None]:
    """One update of a system, always with the same draws; `half`: under autocast to bfloat16."""
    optimizer = torch.optim.Adam(system.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        with torch.autocast(batch.rgb.device.type, dtype=torch.bfloat16, enabled=half):
            loss = sum(system.losses(batch, torch.Generator().manual_seed(0)).values())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def encoder(device: str, size: int) -> Workload:
    """ResNet-34 forward and backward at 224 pixels: layouts and precisions."""
    torch.manual_seed(0)
    last, first = (
        Backbone("resnet34", "random", 224, layout=layout).to(device) for layout in ("channels_last", "channels_first")
    )
    first.load_state_dict(last.state_dict())
    images = random_batch(size, 224, device, neighbor=False).rgb

    def run(network: Backbone, half: bool) -> tuple[torch.Tensor, ...]:
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=half):
            features = network(images)
        features.float().square().mean().backward()
        return (features.detach().float(),)

    variants = {"plain": lambda: run(first, False), "fast": lambda: run(last, False), "bf16": lambda: run(last, True)}
    exact = {name: variants[name] for name in ("plain", "fast")}
    return Workload("encoder", (size, 224), variants, lambda: same(exact, 1e-3))


def evaluation(device: str, size: int) -> Workload:
    """An instance of ShapeClipper's shipped checkpoint; see `measured_shape`."""
    return measured_shape("evaluation", "shapeclipper-furniture-chair", device)


def sdf_srn_evaluation(device: str, size: int) -> Workload:
    """An instance of SDF-SRN's shipped checkpoint; see `measured_shape`."""
    return measured_shape("sdf_srn_evaluation", "sdf-srn-furniture-chair", device)


def measured_shape(name: str, checkpoint: str, device: str) -> Workload:
    """One instance after the network: 100^3 grid, mesh, 2 x 100,000 points, Chamfer distance and F-scores (`view`)."""
    system, dataset = load_system(WEIGHTS / checkpoint, device), PreparedDataset(FURNITURE, "test", ["chair"])
    batch = dataset.batch(torch.tensor([0])).to(device)
    given = [batch.viewpoint] if isinstance(system, SDFSRN) else []
    shape, true = system.reconstruct(batch.rgb, *given), dataset.mesh(0)
    rotations = [view.rotation()[0].detach().double().cpu().numpy() for view in (shape.viewpoint, batch.viewpoint)]

    @torch.no_grad()
    def ask(points: np.ndarray, chunk: int) -> np.ndarray:
        parts = torch.as_tensor(points, device=device)[None].split(chunk, dim=1)
        return torch.cat([shape.distance(0, part)[0] for part in parts]).cpu().numpy()

    def measure(values: np.ndarray) -> tuple[torch.Tensor]:
        predicted = sample_surface(marching_cubes(values, 0.7), 100_000, 0)
        found = measure_shape(Clouds(predicted, sample_surface(true, 100_000, 1), *rotations), "view")
        return (torch.tensor(list(found.values())),)

    def near_the_surface() -> np.ndarray:
        chunk = 4096 if device == "cpu" else 65536
        return surface_grid(lambda points: ask(points, chunk), 100, 0.7, slope=shape.slope)

    variants = {
        "plain": lambda: measure(ask(grid_points(100, 0.7), 65536).reshape(100, 100, 100)),
        "fast": lambda: measure(near_the_surface()),
    }
    return Workload(name, (100, 100_000), variants, lambda: same(variants, 1e-4))


WORKLOADS: dict[str, Callable[[str, int], Workload]] = {
    "shapeclipper_step": shapeclipper_step,
    "render": render,
    "encoder": encoder,
    "data": data,
    "data_224": data_224,
    "evaluation": evaluation,
    "sdf_srn_step": sdf_srn_step,
    "sdf_srn_evaluation": sdf_srn_evaluation,
}
