"""Written fields: their layers against a plain loop, their gradient against finite differences, one field an image."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.fields.compiled_field import CompiledField
from lib.fields.hypernetwork import Hypernetwork, Linear, WrittenField
from lib.fields.parts import PART
from lib.fields.written_layers import CHUNKS, encode_point
from lib.losses.field import eikonal_loss
from lib.rendering import compiling

NEEDS_COMPILER = pytest.mark.skipif(not compiling.can_compile(), reason="no C++ compiler")


def make_field(frequencies: int = 3, batch: int = 2, layers: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    network = Hypernetwork(6, 2, 12, 10, layers, frequencies).double()
    code = torch.randn(batch, 6, dtype=torch.float64)
    return network, code, network(code)


def make_points(batch: int = 2, count: int = 40) -> torch.Tensor:
    return 2 * torch.rand(batch, count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 1


def by_autograd(field: WrittenField, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signed distance and feature as a plain chain of torch's functions: what the derivatives by hand replace."""
    encoded = value = encode_point(points, field.frequencies)
    for index, layer in enumerate(field.layers):
        total = layer(torch.cat([value, encoded], dim=-1) if index else value)
        value = F.relu(F.layer_norm(total, total.shape[-1:]))
    return field.to_distance(value)[..., 0], value


def plain(network, code, image: int, point: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Sec. 3.3 for one point, written again with F.linear and F.layer_norm."""
    octaves = [2**k * math.pi for k in range(network.frequencies)]
    waves = [torch.cat([f(octave * point) for octave in octaves]) for f in (torch.sin, torch.cos)] if octaves else []
    encoded = torch.cat([point, *waves])
    value = torch.zeros(0, dtype=point.dtype)
    written = [
        writer(code)[image].view(-1, size[1]) for writer, size in zip(network.writers, network.shapes, strict=True)
    ]
    for matrix in written[:-2]:
        total = F.linear(torch.cat([value, encoded]), matrix[1:].T, matrix[0])
        value = F.relu(F.layer_norm(total, total.shape))
    sdf, color = (F.linear(value, matrix[1:].T, matrix[0]) for matrix in written[-2:])
    return sdf[0], (torch.tanh(color) + 1) / 2


@pytest.mark.parametrize("frequencies", [0, 1, 3])
def test_field_is_the_mlp_of_the_paper(frequencies):
    network, code, field = make_field(frequencies)
    points = make_points()
    sdf, feature = field.distance_and_feature(points)
    color = field.color(feature)
    for image, index in ((0, 0), (0, 7), (1, 0), (1, 39)):
        expected = plain(network, code, image, points[image, index])
        torch.testing.assert_close(sdf[image, index], expected[0])
        torch.testing.assert_close(color[image, index], expected[1])
    torch.testing.assert_close(field.distance(points), sdf)


@pytest.mark.parametrize("frequencies", [0, 3])
@pytest.mark.parametrize("layers", [1, 3])
def test_gradient_is_that_of_finite_differences(frequencies, layers):
    _, _, field = make_field(frequencies, layers=layers)
    points = make_points()
    sdf, feature, gradient = field.with_gradient(points)
    for axis, unit in enumerate(torch.eye(3, dtype=torch.float64) * 1e-6):
        numeric = (field.distance(points + unit) - field.distance(points - unit)) / 2e-6
        torch.testing.assert_close(gradient[..., axis], numeric, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(sdf, field.distance(points))
    torch.testing.assert_close(feature, field.feature(points))


def test_loss_on_the_gradient_has_the_slope_of_finite_differences():
    """What the eikonal loss hands to the hypernetwork: along a random direction of the code."""
    network, code, _ = make_field()
    points, way = make_points(), torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def eikonal(step) -> torch.Tensor:
        return network(code + step * way).eikonal(points)

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(eikonal(step), step)
    assert slope.item() == pytest.approx((eikonal(1e-6) - eikonal(-1e-6)).item() / 2e-6, rel=1e-4)


def test_gradient_has_no_graph():
    _, _, field = make_field()
    assert not any(part.requires_grad for part in field.with_gradient(make_points()))


@pytest.mark.parametrize("frequencies", [0, 3])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("count", [40, CHUNKS["cpu"] // 2 + 3])  # one chunk, and a second one of a few points
def test_derivatives_by_hand_are_autograds(frequencies, layers, count):
    """Of values and features with respect to points and network, and of the eikonal loss: to rounding in float64."""
    network, _, field = make_field(frequencies, layers=layers)
    points = make_points(count=count).requires_grad_()
    upstream = torch.randn(2, count, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    outputs = []
    for sdf, feature in (by_autograd(field, points), (field.distance(points), field.feature(points))):
        inputs = [points, *network.parameters()]
        outputs.append([sdf, feature, *gradients((feature * upstream).sum() + sdf.square().sum(), inputs)])
    (slope,) = torch.autograd.grad(by_autograd(field, points)[0].sum(), points, create_graph=True)
    for index, loss in enumerate((eikonal_loss(slope), field.eikonal(points))):
        outputs[index] += [slope, loss, *gradients(loss, list(network.parameters()))]
    outputs[1][-2 - len(list(network.parameters()))] = field.with_gradient(points)[2]
    assert len(outputs[0]) == len(outputs[1])
    for expected, ours in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())


def gradients(loss: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


@pytest.mark.parametrize("by_machine", [False, pytest.param(True, marks=[pytest.mark.slow, NEEDS_COMPILER])])
@pytest.mark.parametrize("count", [40, PART + 3])  # one part an image, and two that are not quite alike
def test_compiled_eikonal_term_is_the_same(monkeypatch, capsys, by_machine, count):
    """Image by image, in pieces side by side: to rounding in float64, traced or by the machine's compiler."""
    monkeypatch.setattr(compiling, "_programs", {})
    monkeypatch.setattr(compiling, "_broken", False)
    if not by_machine:
        monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    points = make_points(3, count)
    parts = 1 if count == 40 else 2
    for layers, made in ((3, 1), (2, 2), (3, 2)):  # a program for each field's form and size of parts
        network, _, field = make_field(batch=3, layers=layers)
        losses = [form.eikonal(points) for form in (field, CompiledField.of(field))]
        assert len(compiling._programs) == made * parts
        assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-12)
        for expected, ours in zip(*(gradients(loss, list(network.parameters())) for loss in losses), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item())
    assert capsys.readouterr().err.count("compiling") == 2 * parts


def test_flat_field_has_a_finite_eikonal_gradient():
    """|grad f| = 0 everywhere, where a norm has no derivative: the loss is 1 and its gradient 0."""
    network, code, _ = make_field()
    with torch.no_grad():
        for parameter in network.writers[-2].parameters():
            parameter.zero_()
    loss = network(code).eikonal(make_points())
    assert loss.item() == pytest.approx(1)
    assert all(torch.isfinite(g).all() and not g.any() for g in gradients(loss, list(network.parameters())))


def test_images_do_not_see_each_others_codes():
    network, code, field = make_field()
    points = make_points()
    alone = network(code[1:])
    torch.testing.assert_close(field.distance(points)[1], alone.distance(points[1:])[0])
    torch.testing.assert_close(field[1:2].distance(points[1:]), alone.distance(points[1:]))
    assert not torch.allclose(
        field.distance(points[:1].expand(2, -1, -1))[0], field.distance(points[:1].expand(2, -1, -1))[1]
    )


def test_encoding_without_frequencies_is_the_point():
    points = make_points()
    assert torch.equal(encode_point(points, 0), points)
    assert encode_point(points, 5).shape[-1] == 33
    torch.testing.assert_close(encode_point(points, 2)[..., 3:6], torch.sin(math.pi * points))
    torch.testing.assert_close(encode_point(points, 2)[..., 12:], torch.cos(2 * math.pi * points))


def test_papers_sizes_are_those_of_the_released_code():
    network = Hypernetwork()
    assert network.shapes == [(33, 128), (161, 128), (161, 128), (161, 128), (128, 1), (128, 3)]
    assert [len(writer) for writer in network.writers] == [11] * 6  # six linear layers and five rectifiers
    assert network.writers[1][-1].weight.shape == (162 * 128, 512)


def test_linear_is_one_matrix_an_image():
    layer = Linear(torch.randn(2, 4, 4))
    x = torch.randn(2, 5, 3)
    for image in range(2):
        torch.testing.assert_close(layer(x)[image], x[image] @ layer.weight[image] + layer.bias[image])
