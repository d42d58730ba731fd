"""The volume renderer for ShapeClipper's fields, faster and in little memory: the same maps and gradients.

What `lib.rendering.volume.render_rays` computes, with

- the codes folded into one bias an image, and 1 / sqrt(2) of the skips into the weights;
- each point encoded once, and the encoding multiplied at once for all layers that see it;
- the shape feature's layer and the texture's first one, between which there is no activation, as one matrix;
- rays in chunks that fit a processor's cache, computed again in the backward pass instead of being kept;
- no gradient of normals where the loss has none (rays that miss the object, outliers that were dropped);
- the chunk's functions compiled, where that is asked for and a compiler is at hand.

`benchmarks/README.md` says what each gives.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField, colored_field
from lib.geometry.cameras import Rays
from lib.precision import all_digits
from lib.rendering.chunk import Layout, Weights, fold, render_chunk
from lib.rendering.compiling import RenderPath, run_compiled
from lib.rendering.skipping import Skip, render_rays_skipping
from lib.rendering.volume import LastInterval, RenderedMaps, check_width, render_rays

POINTS = 2048  # of a chunk on a processor: 64 numbers each are half a megabyte
DEVICE_POINTS = 2**17  # elsewhere: launches cost more than memory
Program = Callable[..., tuple[Tensor, ...]]
NONE = Skip()


def render_rays_fast(
    sdf_field: SDFField,
    texture_field: TextureField,
    shape_code: Float[Tensor, "batch code"],
    texture_code: Float[Tensor, "batch code"] | None,
    rays: Rays,
    depths: Float[Tensor, "batch rays samples"],
    beta: float | Tensor,
    last_interval: LastInterval = "zero",
    *,
    chunk: int | None = None,
    compiled: bool = False,
) -> RenderedMaps:
    """The maps of `render_rays`, within rounding.

    Parameters
    ----------
    texture_code : Tensor, optional
        Without it everything is white.
    rays, depths, beta, last_interval
        As in `render_rays`.
    chunk : int, optional
        Points computed at once.
    compiled : bool
        Compile the chunk's functions the first time a shape of chunk is met (half a minute to a minute each, kept on
        disk). Where that fails, one sentence says so and the rest of the process does without.

    Returns
    -------
    RenderedMaps
        With shapes (B, N, ...). They can be differentiated once; twice is refused with a RuntimeError.
    """
    check_width(beta)
    dtype = sdf_field.head.weight.dtype
    with all_digits(depths):
        codes = [None if code is None else code.to(dtype) for code in (shape_code, texture_code)]
        layout, weights = fold(sdf_field, texture_field, *codes, last_interval)
        beta = torch.as_tensor(beta, dtype=dtype, device=depths.device)
        chunk = chunk or (POINTS if depths.device.type == "cpu" else DEVICE_POINTS)
        plan = (layout, _rays_of_chunk(*depths.shape[1:], chunk), compiled)
        mask, depth, *color, normal = _Render.apply(plan, rays.origins, rays.directions, depths, beta, *weights.flat())
    return RenderedMaps(color[0] if color else torch.ones_like(normal), mask, normal, depth)


def render_fields(
    path: RenderPath,
    sdf_field: SDFField,
    texture_field: TextureField,
    shape_code: Float[Tensor, "batch code"],
    texture_code: Float[Tensor, "batch code"] | None,
    rays: Rays,
    depths: Float[Tensor, "batch rays samples"],
    beta: float | Tensor,
    last_interval: LastInterval = "zero",
    skip: Skip = NONE,
) -> RenderedMaps:
    """The maps of both fields by the way that `choose_render_path` chose; the arguments are `render_rays_fast`'s.

    Where `skip` applies to this beta, points that hardly count are left out, whatever the path.
    """
    given = (sdf_field, texture_field, shape_code, texture_code)
    if skip.applies(beta):
        return _skipping(*given, rays, depths, beta, skip.weight, last_interval)
    if path == "plain":
        return render_rays(colored_field(*given), rays, depths, beta, last_interval)
    return render_rays_fast(*given, rays, depths, beta, last_interval, compiled=path == "compiled")


def _skipping(sdf_field, texture_field, shape_code, texture_code, rays, depths, beta, weight, last_interval):
    """Image after image, because each keeps a number of points of its own."""
    images = []
    for i in range(len(depths)):
        one = slice(i, i + 1)
        codes = [None if code is None else code[one] for code in (shape_code, texture_code)]
        field = colored_field(sdf_field, texture_field, *codes)
        ray = Rays(rays.origins[one], rays.directions[one])
        distance = partial(_distance, sdf_field, codes[0])
        images.append(render_rays_skipping(distance, field, ray, depths[one], beta, weight, last_interval))
    names = [part.name for part in fields(RenderedMaps)]
    return RenderedMaps(*(torch.cat([getattr(image, name) for image in images]) for name in names))


def _distance(sdf_field: SDFField, code: Tensor, points: Tensor) -> Tensor:
    return sdf_field(points, code)[0]


class _Render(torch.autograd.Function):
    """Images and chunks of rays, one after the other; the backward pass starts from the rays again."""

    @staticmethod
    def forward(ctx, plan, origins, directions, depths, beta, *weights):
        ctx.plan = plan
        layout, size, compiled = plan
        batch, count = depths.shape[:2]
        ctx.save_for_backward(origins, directions, depths, beta, *weights)
        shapes = [()] * 2 + [(3,)] * (1 + layout.textured)
        maps = [depths.new_empty(batch, count, *shape) for shape in shapes]
        weights = Weights.of(layout, [w.contiguous() for w in weights])
        for image in range(batch):
            own = weights._replace(encoding=weights.encoding[image])
            for start in range(0, count, size):
                part = (image, slice(start, start + size))
                given = [t[part].contiguous() for t in (origins, directions, depths)]
                program = _program("maps", layout, True, compiled and len(given[0]) == size)
                for whole, piece in zip(maps, program(*given, beta, own), strict=True):
                    whole[part] = piece
        return tuple(maps)

    @staticmethod
    def backward(ctx, *upstream):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fast renderer can be differentiated once only; set render_path to 'plain' for second derivatives"
            )
        layout, size, compiled = ctx.plan
        origins, directions, depths, beta, *flat = ctx.saved_tensors
        weights = Weights.of(layout, [w.contiguous() for w in flat])
        to_rays = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (origins, directions, depths)]
        to_beta, to_weights = torch.zeros_like(beta), [torch.zeros_like(w) for w in weights.flat()]
        for image in range(len(depths)):
            own = weights._replace(encoding=weights.encoding[image])
            order, with_normals = _by_normal(upstream[-1][image])
            to_own = [to_weights[0][image], *to_weights[1:]]
            for start in range(0, len(order), size):
                part = order[start : start + size]
                needed = start < with_normals
                given = [t[image][part] for t in (origins, directions, depths)]
                wanted = tuple(t[image][part] for t in (upstream if needed else upstream[:-1]))
                program = _program("gradients", layout, needed, compiled and len(part) == size)
                *of_rays, of_beta, of_weights = program(*given, beta, own, wanted)
                for whole, piece in zip(to_rays, of_rays, strict=True):
                    whole[image].index_copy_(0, part, piece)
                to_beta += of_beta
                for total, piece in zip(to_own, of_weights.flat(), strict=True):
                    total += piece
        return None, *to_rays, to_beta, *to_weights


def _rays_of_chunk(rays: int, samples: int, points: int) -> int:
    """Rays a chunk: as many chunks as needed, all of one size if that comes out even."""
    chunks = -(-rays * samples // max(points, samples))
    return -(-rays // max(chunks, 1)) or 1


def _by_normal(upstream: Float[Tensor, "rays 3"]) -> tuple[Tensor, int]:
    """Rays in an order that begins with those whose normal the loss depends on, and how many those are."""
    needed = (upstream != 0).any(dim=-1)
    return torch.argsort(~needed, stable=True), int(needed.sum())


def _gradients(layout: Layout, with_normals: bool, origins, directions, depths, beta, weights, upstream):
    """Gradients of a loss on a chunk's maps, given its gradient with respect to them."""
    _, pull = torch.func.vjp(
        lambda *inputs: render_chunk(layout, with_normals, *inputs), origins, directions, depths, beta, weights
    )
    return pull(upstream)


def _program(name: Literal["maps", "gradients"], layout: Layout, with_normals: bool, compiled: bool) -> Program:
    function = {"maps": render_chunk, "gradients": _gradients}[name]
    return partial(run_compiled if compiled else _run, function, layout, with_normals)


def _run(function: Callable, *inputs):
    return function(*inputs)
