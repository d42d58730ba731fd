"""Strides and bisection of SDF-SRN by code compiled for the processor at hand: parts of an image's rays, a core each.

The numbers of `lib.rendering.ray_marching` to rounding, with the derivative of a stride by hand. From a gradient
with respect to z^(j+1), the state (h', c') after the stride and f(x(z^(j))), the way back through dz = |w h' + b| and
the LSTM

    h' = o tanh(c'),    c' = s_f c + s_i t_g,    o = s_o,    s = sigmoid and t = tanh of the gates

leads to the feature, and from there through the field's layers (`lib.fields.written_layers.retrace`) to z^(j).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from lib.fields.compiled_field import CompiledField, read, read_back
from lib.fields.parts import Part, added, even, parts_of, summed, taken, together
from lib.fields.written_layers import ascend, encode_point, paired, retrace
from lib.geometry.cameras import Rays
from lib.rendering.compiling import run_compiled
from lib.rendering.ray_marching import Marcher, halved, points_at
from lib.rendering.threads import in_parallel

HALVED = 512  # rays of one image whose intervals a core halves: few, since only rays that hit are asked


def march_compiled(
    field: CompiledField, marcher: Marcher, rays: Rays, start: Float[Tensor, " batch"], steps: int = 10
) -> tuple[Float[Tensor, "batch rays points"], Float[Tensor, "batch rays points"]]:
    """`lib.rendering.ray_marching.march`; rays and start get no gradient."""
    given = (*marcher.matrices(), field.to_distance.matrix, *field.matrices)
    depths, values = Strides.apply(field.frequencies, steps, rays.origins, rays.directions, start, *given)
    last = field.distance(points_at(rays, depths[..., -1]))
    return depths, torch.cat([values, last[..., None]], dim=-1)


class Strides(torch.autograd.Function):
    """N strides: depths (B, R, N + 1), and the values (B, R, N) at all of them but the last."""

    @staticmethod
    def forward(ctx, frequencies: int, steps: int, origins, directions, start, *given: Tensor):
        """`given` are the matrices of the gates and of the stride, f's head and the field's layers."""
        gates, to_stride, *of_image = given
        ctx.parts, ctx.steps = parts_of(*origins.shape[:2], even(origins.shape[1])), steps

        def work(part: Part) -> tuple[Tensor, Tensor, list[Tensor]]:
            along = taken(directions, part)
            own = (taken(origins, part), along, gates, to_stride, *(m[part[0], None] for m in of_image))
            depth = start[part[0], None, None].expand(along.shape[:2]).contiguous()
            h = c = gates.new_zeros(along.shape[1], gates.shape[0] // 4)
            depths, values, kept = [depth], [], []
            for _ in range(steps):
                value, depth, *state = run_compiled(_stride, (frequencies,), depth, h, c, *own)
                kept += (h, c, *state)
                h, c = state[:2]
                depths.append(depth)
                values.append(value)
            return torch.stack(depths, dim=-1), torch.stack(values, dim=-1), [along, *kept]

        depths, values, kept = zip(*in_parallel(work, ctx.parts), strict=True)
        ctx.save_for_backward(*given, *(tensor for of_part in kept for tensor in of_part))
        return together(depths, ctx.parts), together(values, ctx.parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, to_depths: Tensor, to_values: Tensor):
        """Gradients of what was given: of each image's matrices, and of the marcher's."""
        count = len(ctx.needs_input_grad) - 5
        given, kept = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        gates, to_stride, *of_image = given
        of_part = len(kept) // len(ctx.parts)
        of_stride = (of_part - 1) // ctx.steps

        def work(job: tuple[int, Part]) -> list[Tensor]:
            index, part = job
            own = (gates, to_stride, *(m[part[0], None] for m in of_image))
            along, *strides = kept[index * of_part : (index + 1) * of_part]
            depths, values = (taken(upstream, part).unbind(-1) for upstream in (to_depths, to_values))
            depth, total = depths[-1].contiguous(), None
            h, c = torch.zeros_like(strides[0]), torch.zeros_like(strides[0])
            for j in reversed(range(ctx.steps)):
                upstream = (depth, h, c, values[j].contiguous(), depths[j].contiguous())
                state = strides[j * of_stride : (j + 1) * of_stride]
                depth, h, c, *gradients = run_compiled(_stride_back, (), *upstream, along, *own, *state)
                total = added(total, gradients)
            return total

        found = in_parallel(work, enumerate(ctx.parts))
        shared = [sum(column) for column in zip(*(own[:2] for own in found), strict=True)]
        return (None,) * 5 + (*shared, *summed([own[2:] for own in found], ctx.parts))


def _stride(frequencies: int, depth, h, c, origins, directions, gates, to_stride, head, *matrices: Tensor):
    """The value at a depth and the next depth and state; then what the way back needs."""
    encoded = encode_point(points_at(Rays(origins, directions), depth), frequencies)
    layers = ascend(encoded, matrices)
    feature = layers[-1][0].relu()
    asked = _seen(feature, h) @ gates.mT
    i, f, g, o = _activated(asked)
    c = f * c + i * g
    h = o * _tanh(c)
    stride = (h * to_stride[:, :-1]).sum(dim=-1) + to_stride[:, -1]
    after = depth + stride.abs().reshape(depth.shape)
    kept = (encoded, asked, stride, *(part for layer in layers for part in layer))
    return read(feature, head)[..., 0], after, h, c, *kept


def _stride_back(to_after, to_h, to_c, to_value, to_depth, directions, gates, to_stride, head, *given: Tensor):
    """Gradients of depth and state before the stride, of the marcher's matrices, of the head and of the layers."""
    count = (len(given) - 7) // 3
    matrices, (h_before, c_before, h, c, encoded, asked, stride, *parts) = given[:count], given[count:]
    layers = paired(parts)
    feature = layers[-1][0].relu()
    to_length = (to_after.reshape(-1) * stride.sign())[:, None]
    to_h = to_h + to_length * to_stride[:, :-1]
    of_stride = torch.cat([(to_length * h).sum(dim=0), to_length.sum(dim=0)])[None]
    i, f, g, o = _activated(asked)
    bent = _tanh(c)
    to_c = to_c + to_h * o * (1 - bent.square())
    to_asked = (to_c * g * i * (1 - i), to_c * c_before * f * (1 - f), to_c * i * (1 - g.square()))
    to_asked = torch.cat([*to_asked, to_h * bent * o * (1 - o)], dim=-1)
    to_seen = to_asked @ gates
    width = feature.shape[-1]
    of_value, of_head = read_back(to_value[..., None], feature, head)
    upstream = of_value + to_seen[:, :width].reshape(feature.shape)
    to_point, of_layers = retrace(upstream, encoded, layers, matrices)
    before = to_depth + to_after + (to_point * directions).sum(dim=-1)
    of_gates = to_asked.mT @ _seen(feature, h_before)
    return before, to_seen[:, width:-1].contiguous(), to_c * f, of_gates, of_stride, of_head, *of_layers


def _seen(feature: Tensor, h: Tensor) -> Tensor:
    """What the gates see: (feature, h, 1)."""
    return torch.cat([feature.flatten(0, 1), h, torch.ones_like(h[:, :1])], dim=-1)


def _activated(asked: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    i, f, g, o = asked.chunk(4, dim=-1)
    return i.sigmoid(), f.sigmoid(), _tanh(g), o.sigmoid()


def _tanh(x: Tensor) -> Tensor:
    """To 1e-7 in float32; the compiler's own, with all digits of small numbers, takes a tenth of a stride."""
    return 2 * (2 * x).sigmoid() - 1


@torch.no_grad()
def bisect_compiled(
    field: CompiledField,
    rays: Rays,
    near: Float[Tensor, "batch rays"],
    far: Float[Tensor, "batch rays"],
    hit: Bool[Tensor, "batch rays"],
    iterations: int = 10,
) -> Float[Tensor, "batch rays"]:
    """`lib.rendering.ray_marching.bisect`: each image's rays that hit, in parts, the last one filled up with others."""
    order = hit.int().argsort(dim=1, descending=True, stable=True)
    hits, depth = hit.sum(dim=1).tolist(), far.clone()

    def work(part: Part) -> None:
        image, rank = part
        index = order[image, rank]
        low, high, origins, directions = (
            of_rays[image, index][None] for of_rays in (near, far, rays.origins, rays.directions)
        )
        own = (origins, directions, *(m[image, None] for m in (field.to_distance.matrix, *field.matrices)))
        for _ in range(iterations):
            low, high = run_compiled(_halve, (field.frequencies,), low, high, *own)
        depth[image, index] = (low[0] + high[0]) / 2  # no two parts have a ray in common

    parts = parts_of(*hit.shape, even(hit.shape[1], HALVED))
    in_parallel(work, [part for part in parts if part[1].start < hits[part[0]]])
    return torch.where(hit, depth, far)


def _halve(frequencies: int, low, high, origins, directions, head, *matrices: Tensor) -> tuple[Tensor, Tensor]:
    def distance(points: Tensor) -> Tensor:
        return read(ascend(encode_point(points, frequencies), matrices)[-1][0].relu(), head)[..., 0]

    return halved(distance, Rays(origins, directions), low, high)
