"""Fields against naive formulations: explicit concatenations, loops, autograd and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lib.fields.encoding import encode, encoded_size, encoding_gradient
from lib.fields.sdf import SDFField, mirror
from lib.fields.texture import TextureField

SMALL = {"code_size": 5, "width": 12, "hidden_layers": 4, "feature_size": 3, "frequencies": 3}
seeds = st.integers(0, 2**31)
fast = settings(max_examples=25, deadline=None)


def random_field(seed: int, symmetric: bool = True, **sizes) -> SDFField:
    """A field in float64 whose weights are far from the initial ones."""
    torch.manual_seed(seed)
    field = SDFField(**(SMALL | sizes), symmetric=symmetric).double()
    for parameter in field.parameters():
        nn.init.normal_(parameter, 0.0, 0.3)
    return field


def inputs(seed: int, batch: int = 2, points: int = 7, code_size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    where = 2 * torch.rand(batch, points, 3, generator=generator, dtype=torch.float64) - 1
    return where, torch.randn(batch, code_size, generator=generator, dtype=torch.float64)


def naive_sdf(field: SDFField, points: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """ShapeClipper's network as the paper draws it: inputs concatenated to the layers, one point at a time."""
    rows = []
    for image, latent in zip(points, code, strict=True):
        for x, y, z in image:
            x = x.abs() if field.symmetric else x
            point = torch.stack([x, y, z])
            entry = torch.cat([naive_encoding(point, field.frequencies), latent])
            value = entry
            for index, layer in enumerate(field.hidden):
                if index in field.skips:
                    value = torch.cat([value, entry]) / math.sqrt(2)
                value = layer(value)
                value = torch.logaddexp(100 * value, torch.zeros_like(value)) / 100
            rows.append(field.head(value))
    return torch.stack(rows).unflatten(0, points.shape[:2])


def naive_encoding(point: torch.Tensor, frequencies: int) -> torch.Tensor:
    values = list(point)
    values += [math.sin(2**k * float(c)) for k in range(frequencies) for c in point]
    values += [math.cos(2**k * float(c)) for k in range(frequencies) for c in point]
    return torch.tensor(values, dtype=point.dtype)


def finite_difference(function, values: torch.Tensor, step: float = 1e-6) -> torch.Tensor:
    """Central differences of a scalar function with respect to every entry of `values` (changed and put back)."""
    result, flat = torch.zeros(values.numel(), dtype=torch.float64), values.data.view(-1)
    for i in range(values.numel()):
        kept = flat[i].item()
        flat[i] = kept + step
        above = float(function())
        flat[i] = kept - step
        result[i] = (above - float(function())) / (2 * step)
        flat[i] = kept
    return result.view_as(values)


@fast
@given(st.integers(0, 8), seeds)
def test_encoding_is_the_loop_over_octaves_and_axes(frequencies, seed):
    points = inputs(seed)[0]
    encoded = encode(points, frequencies)
    assert encoded.shape[-1] == encoded_size(frequencies)
    expected = torch.stack([naive_encoding(p, frequencies) for p in points.flatten(0, 1)])
    torch.testing.assert_close(encoded.flatten(0, 1), expected, rtol=0, atol=1e-12)


@fast
@given(st.integers(0, 6), seeds, st.sampled_from([1.0, math.pi]))
def test_encoding_gradient_is_the_slope_of_the_encoding(frequencies, seed, factor):
    points = inputs(seed, batch=1, points=2)[0]
    weights = torch.randn(1, 2, encoded_size(frequencies), generator=torch.Generator().manual_seed(seed)).double()
    expected = finite_difference(lambda: (encode(points, frequencies, factor) * weights).sum(), points)
    encoded = encode(points, frequencies, factor)
    found = encoding_gradient(encoded, weights, frequencies, factor)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("skips", [(), (1, 2), (3,)])
def test_sdf_is_the_network_with_explicit_concatenations(symmetric, skips):
    field, (points, code) = random_field(1, symmetric, skips=skips), inputs(1)
    expected = naive_sdf(field, points, code)
    sdf, feature = field(points, code)
    torch.testing.assert_close(sdf, expected[..., 0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(feature, expected[..., 1:], rtol=1e-10, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(seeds, st.booleans(), st.sampled_from([(), (1, 2), (2,), (1, 3)]))
def test_gradient_of_the_sdf_is_autograds(seed, symmetric, skips):
    field, (points, code) = random_field(seed, symmetric, skips=skips), inputs(seed)
    points.requires_grad_(True)
    sdf, feature, gradient = field.with_gradient(points, code)
    (expected,) = torch.autograd.grad(field(points, code)[0].sum(), points)
    # torch's Softplus has slope 1 from 20 on, where the true slope, which we use, lacks 2e-9
    assert float((gradient - expected).detach().norm() / expected.norm()) < 1e-8
    torch.testing.assert_close(sdf, field(points, code)[0], rtol=0, atol=0)
    torch.testing.assert_close(feature, field(points, code)[1], rtol=0, atol=0)


def test_gradient_of_the_released_size_is_autograds():
    field, (points, code) = random_field(2, width=64, code_size=64, hidden_layers=5, frequencies=6), inputs(2)
    code = torch.cat([code, torch.zeros(2, 59, dtype=torch.float64)], dim=1)
    points.requires_grad_(True)
    (expected,) = torch.autograd.grad(field(points, code)[0].sum(), points)
    gradient = field.with_gradient(points, code)[2]
    assert float((gradient - expected).detach().norm() / expected.norm()) < 1e-8


def test_gradient_of_a_gentle_field_is_autograds_to_ten_digits():
    field, (points, code) = random_field(5), inputs(5)
    with torch.no_grad():
        for layer in field.hidden:  # pre-activations below 0.2: the Softplus never reaches torch's threshold
            layer.weight.mul_(0.02)
            layer.bias.mul_(0.02)
    points.requires_grad_(True)
    (expected,) = torch.autograd.grad(field(points, code)[0].sum(), points)
    gradient = field.with_gradient(points, code)[2]
    assert float((gradient - expected).detach().norm() / expected.norm()) < 1e-10


def test_gradient_at_chosen_points_is_the_same_there_and_zero_elsewhere():
    """And so are the gradients of a loss on it, in float64."""
    field = SDFField(4, 16, 3, 5, 2).double()
    points, code = 2 * torch.rand(2, 9, 3, dtype=torch.float64) - 1, torch.randn(2, 4, dtype=torch.float64)
    where = torch.rand(2, 9) < 0.4
    found = []
    for chosen in (None, where):
        sdf, feature, gradient = field.with_gradient(points, code, chosen)
        loss = (gradient * where[..., None]).square().sum() + sdf.sum() + feature.square().sum()
        found.append([sdf, gradient * where[..., None], *torch.autograd.grad(loss, list(field.parameters()))])
        assert chosen is None or not gradient[~where].any()
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_loss_on_the_gradient_moves_the_weights_as_finite_differences_say(symmetric):
    field, (points, code) = random_field(3, symmetric, width=6, hidden_layers=3, frequencies=1), inputs(3, points=3)

    def loss():
        return (field.with_gradient(points, code)[2].norm(dim=-1) - 1).square().mean()

    loss().backward()
    with torch.no_grad():
        for layer in [*field.hidden, field.head]:
            expected = finite_difference(loss, layer.weight)
            torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-4, atol=1e-6)
            expected = finite_difference(loss, layer.bias)
            bias_gradient = torch.zeros_like(expected) if layer.bias.grad is None else layer.bias.grad
            torch.testing.assert_close(bias_gradient, expected, rtol=1e-4, atol=1e-6)
    assert float(field.hidden[0].weight.grad.abs().max()) > 1e-3


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_hard_symmetry_is_exact_and_off_when_switched_off(seed):
    points, code = inputs(seed)
    other_side = points * torch.tensor([-1.0, 1.0, 1.0])
    field, free = random_field(seed), random_field(seed, symmetric=False)
    for ours, theirs in zip(field(points, code), field(other_side, code), strict=True):
        assert torch.equal(ours, theirs)
    gradient, mirrored = field.with_gradient(points, code)[2], field.with_gradient(other_side, code)[2]
    assert torch.equal(gradient * torch.tensor([-1.0, 1.0, 1.0]), mirrored)
    assert not torch.allclose(free(points, code)[0], free(other_side, code)[0])
    assert torch.equal(mirror(other_side), mirror(points))


def test_one_code_an_image_and_codes_do_not_leak_between_images():
    field, (points, code) = random_field(4), inputs(4)
    sdf = field(points, code)[0]
    for i in range(2):
        torch.testing.assert_close(field(points[i : i + 1], code[i : i + 1])[0], sdf[i : i + 1])
    assert not torch.allclose(field(points, code.flip(0))[0], sdf)


def sphere_errors(width: int, networks: int = 12) -> torch.Tensor:
    """Untrained fields less the sphere's signed distance at points of [-1, 1]^3: (networks, points)."""
    errors = []
    for seed in range(networks):
        torch.manual_seed(seed)
        field, points = SDFField(width=width), 2 * torch.rand(1, 1000, 3) - 1
        errors.append(field(points, torch.randn(1, 64))[0][0] - (points[0].norm(dim=-1) - 0.5))
    return torch.stack(errors).detach()


def test_untrained_field_is_about_a_sphere():
    # |W x|^2 of 64 random rows strays by sqrt(5 / 64) a layer: half of that in the norm, sqrt(6) of it after six
    # layers, times the mean |x| of 0.96 and the mean of a half normal, 0.8: about 0.25, and less when wider.
    narrow, wide = sphere_errors(64), sphere_errors(256)
    assert float(narrow.mean().abs()) < 0.08
    assert float(narrow.abs().mean()) < 0.25
    assert float(wide.abs().mean()) < 0.7 * float(narrow.abs().mean())


def test_radius_of_the_initial_sphere_shifts_the_field():
    points, code, values = torch.rand(1, 50, 3), torch.zeros(1, 64), {}
    for radius in (0.3, 0.5):
        torch.manual_seed(0)
        values[radius] = SDFField(radius=radius)(points, code)[0]
    torch.testing.assert_close(values[0.3] - values[0.5], torch.full((1, 50), 0.2))
    torch.manual_seed(0)
    assert float(SDFField(radius=0.5)(torch.zeros(1, 1, 3), code)[0].detach()) < -0.3  # the centre is well inside


def test_untrained_field_does_not_know_the_code_nor_the_octaves():
    torch.manual_seed(0)
    field, points = SDFField(), torch.rand(1, 50, 3)
    assert torch.equal(field(points, torch.randn(1, 64))[0], field(points, torch.randn(1, 64))[0])
    silent = field.hidden[0].weight[:, 3:], field.hidden[1].weight[:, 64 + 3 :], field.hidden[2].weight[:, 64 + 3 :]
    assert not any(part.any() for part in silent)
    assert field.hidden[1].weight[:, : 64 + 3].all() and field.hidden[3].weight.all()


def test_layers_have_the_released_sizes():
    field = SDFField()
    shapes = [(layer.in_features, layer.out_features) for layer in [*field.hidden, field.head]]
    assert shapes == [(103, 64), (167, 64), (167, 64), (64, 64), (64, 64), (64, 65)]
    texture = [layer for layer in TextureField().modules() if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in texture] == [(167, 64), (64, 64), (64, 64), (64, 3)]


def random_texture(seed: int, symmetric: bool) -> TextureField:
    torch.manual_seed(seed)
    return TextureField(5, 12, 3, 3, frequencies=3, symmetric=symmetric).double()


@pytest.mark.parametrize("symmetric", [True, False])
def test_texture_is_the_network_on_concatenated_inputs(symmetric):
    texture, (points, code) = random_texture(0, symmetric), inputs(5)
    feature = torch.randn(2, 7, 3, dtype=torch.float64)
    linear = [layer for layer in texture.modules() if isinstance(layer, nn.Linear)]
    for i in range(2):
        for j in range(7):
            x, y, z = points[i, j]
            folded = torch.stack([x.abs() if symmetric else x, y, z])
            value = torch.cat([naive_encoding(folded, 3), code[i], feature[i, j]])
            for layer in linear[:-1]:
                value = layer(value).clamp(min=0)
            expected = 1 / (1 + torch.exp(-linear[-1](value)))
            torch.testing.assert_close(texture(points, code, feature)[i, j], expected, rtol=1e-10, atol=1e-10)


@fast
@given(seeds, st.floats(0.1, 1000))
def test_texture_stays_between_black_and_white(seed, scale):
    points, code = inputs(seed)
    feature = scale * torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(seed)).double()
    rgb = random_texture(seed, True)(points, scale * code, feature).detach()
    assert float(rgb.min()) >= 0 and float(rgb.max()) <= 1
    assert float(rgb.std()) > 0
