"""The volume renderer for ShapeClipper's fields, faster and in little memory: the same maps and gradients.

What `lib.rendering.volume.render_rays` computes, with

- the codes folded into one bias an image, and 1 / sqrt(2) of the skips into the weights;
- each point encoded once, and the encoding multiplied at once for all layers that see it;
- the shape feature's layer and the texture's first one, between which there is no activation, as one matrix;
- rays in chunks that fit a processor's cache, computed again in the backward pass instead of being kept;
- no normals of rays that miss the object, and no gradient of normals that were dropped as outliers;
- the chunk's functions compiled, where that is asked for and a compiler is at hand;
- compiled chunks side by side on a processor's cores, each on one thread.

`benchmarks/README.md` says what each gives.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField, colored_field
from lib.geometry.cameras import Rays
from lib.rendering.chunk import Layout, Weights, fold, render_chunk
from lib.rendering.compiling import run_compiled
from lib.rendering.paths import RenderPath
from lib.rendering.precision import all_digits
from lib.rendering.skipping import Skip, render_rays_skipping
from lib.rendering.threads import in_parallel
from lib.rendering.volume import LastInterval, RenderedMaps, check_width, render_rays

POINTS = 2048  # of a chunk on a processor: 64 numbers each are half a megabyte
DEVICE_POINTS = 2**17  # elsewhere: launches cost more than memory
GROUPS = 100  # of chunks of an image, whose gradients are added up before they are kept: they are a quarter of a MB
Outcome = TypeVar("Outcome")
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
    wanted: Bool[Tensor, "batch rays"] | None = None,
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
    wanted : Tensor, optional
        Rays whose normal is asked for; that of the others may be 0. All without it.
    chunk : int, optional
        Points computed at once.
    compiled : bool
        Compile the chunk's functions the first time a shape of chunk is met (about ten seconds each, kept on
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
        wanted = torch.ones_like(depths[..., 0], dtype=torch.bool) if wanted is None else wanted
        given = (rays.origins, rays.directions, depths, beta)
        mask, depth, *color, normal = _Render.apply(plan, wanted, *given, *weights.flat())
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
    wanted: Bool[Tensor, "batch rays"] | None = None,
) -> RenderedMaps:
    """The maps of both fields by the way that `choose_render_path` chose; the arguments are `render_rays_fast`'s.

    Where `skip` applies to this beta, points that hardly count are left out, whatever the path.
    """
    given = (sdf_field, texture_field, shape_code, texture_code)
    if skip.applies(beta):
        return _skipping(*given, rays, depths, beta, skip.weight, last_interval)
    if path == "plain":
        return render_rays(colored_field(*given), rays, depths, beta, last_interval)
    return render_rays_fast(*given, rays, depths, beta, last_interval, wanted=wanted, compiled=path == "compiled")


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


class _Chunk(NamedTuple):
    """Some rays of one image, by number."""

    image: int
    rays: Tensor
    with_normals: bool
    compiled: bool

    def own(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Of tensors (batch, rays, ...), what belongs to these rays."""
        return [tensor[self.image][self.rays] for tensor in tensors]


class _Render(torch.autograd.Function):
    """Chunks of rays of every image; the backward pass starts from the rays again."""

    @staticmethod
    def forward(ctx, plan, wanted, origins, directions, depths, beta, *weights):
        ctx.plan = plan
        ctx.save_for_backward(origins, directions, depths, beta, *weights)
        layout, *_ = plan
        shapes = [()] * 2 + [(3,)] * (1 + layout.textured)
        maps = [depths.new_zeros(*depths.shape[:2], *shape) for shape in shapes]
        weights = Weights.of(layout, [w.contiguous() for w in weights])

        def work(group: list[_Chunk]) -> None:
            for chunk in group:
                pieces = _computed(render_chunk, layout, chunk, (origins, directions, depths), beta, weights)
                for whole, piece in zip(maps, pieces, strict=chunk.with_normals):  # the normals are the last map
                    whole[chunk.image].index_copy_(0, chunk.rays, piece)

        _work_through(work, wanted, plan)
        return tuple(maps)

    @staticmethod
    def backward(ctx, *upstream):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the fast renderer can be differentiated once only; set render_path to 'plain' for second derivatives"
            )
        layout, *_ = ctx.plan
        origins, directions, depths, beta, *flat = ctx.saved_tensors
        weights = Weights.of(layout, [w.contiguous() for w in flat])
        to_rays = [torch.empty_like(t, memory_format=torch.contiguous_format) for t in (origins, directions, depths)]
        to_beta, to_weights = torch.zeros_like(beta), [torch.zeros_like(w) for w in weights.flat()]

        def work(group: list[_Chunk]) -> tuple[int, list[Tensor]]:
            total = None
            for chunk in group:
                known = tuple(chunk.own(upstream if chunk.with_normals else upstream[:-1]))
                *of_rays, of_beta, of_weights = _computed(
                    _gradients, layout, chunk, (origins, directions, depths), beta, weights, known
                )
                for whole, piece in zip(to_rays, of_rays, strict=True):
                    whole[chunk.image].index_copy_(0, chunk.rays, piece)
                found = [of_beta, *of_weights.flat()]
                total = found if total is None else list(torch._foreach_add(total, found))
            return group[0].image, total

        for image, (of_beta, of_encoding, *others) in _work_through(work, (upstream[-1] != 0).any(dim=-1), ctx.plan):
            to_beta += of_beta
            to_weights[0][image] += of_encoding
            torch._foreach_add_(to_weights[1:], others)
        return None, None, *to_rays, to_beta, *to_weights


def _computed(function: Callable, layout: Layout, chunk: _Chunk, rays: tuple, beta, weights: Weights, *more) -> tuple:
    """A chunk's function of its own rays and its image's weights, by its compiled form where that is wanted."""
    settings = (layout, chunk.with_normals)
    run = partial(run_compiled, function, settings) if chunk.compiled else partial(function, *settings)
    return run(*chunk.own(rays), beta, weights._replace(encoding=weights.encoding[chunk.image]), *more)


def _work_through(work: Callable[[list[_Chunk]], Outcome], with_normals: Tensor, plan: tuple) -> list[Outcome]:
    """Divide the rays into chunks, those with normals first, and work at a few chunks of one image at a time.

    Compiled ones are worked at side by side on a processor's cores: Python would hold up the others.
    """
    _, size, compiled = plan
    groups, rest = [], []
    together = -(-with_normals.numel() // (size * GROUPS)) or 1
    orders = torch.argsort(~with_normals, dim=1, stable=True)
    for image, (order, count) in enumerate(zip(orders, with_normals.sum(dim=1).tolist(), strict=True)):
        parts = order.split(size)
        chunks = [_Chunk(image, r, i * size < count, compiled and len(r) == size) for i, r in enumerate(parts)]
        whole = [chunk for chunk in chunks if chunk.compiled]
        groups += [whole[i : i + together] for i in range(0, len(whole), together)]
        rest += [[chunk] for chunk in chunks if not chunk.compiled]
    groups.sort(key=lambda group: not group[0].with_normals)  # what takes longest begins first
    side_by_side = in_parallel if with_normals.device.type == "cpu" else map
    return [*side_by_side(work, groups), *map(work, rest)]


def _rays_of_chunk(rays: int, samples: int, points: int) -> int:
    """Rays a chunk: as many chunks as needed, all of one size if that comes out even."""
    chunks = -(-rays * samples // max(points, samples))
    return -(-rays // max(chunks, 1)) or 1


def _gradients(layout: Layout, with_normals: bool, origins, directions, depths, beta, weights, upstream):
    """Gradients of a loss on a chunk's maps, given its gradient with respect to them."""
    _, pull = torch.func.vjp(
        lambda *inputs: render_chunk(layout, with_normals, *inputs), origins, directions, depths, beta, weights
    )
    return pull(upstream)
