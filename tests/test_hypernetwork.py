"""Written fields: their layers against a plain loop, their gradient against finite differences, one field an image."""

import math

import pytest
import torch
import torch.nn.functional as F

from lib.fields.hypernetwork import Hypernetwork
from lib.losses.field import eikonal_loss


def make_field(frequencies: int = 3, batch: int = 2, layers: int = 3, seed: int = 0):
    torch.manual_seed(seed)
    network = Hypernetwork(6, 2, 12, 10, layers, frequencies).double()
    code = torch.randn(batch, 6, dtype=torch.float64)
    return network, code, network(code)


def make_points(batch: int = 2, count: int = 40) -> torch.Tensor:
    return 2 * torch.rand(batch, count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) - 1


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
        return eikonal_loss(network(code + step * way).with_gradient(points, create_graph=True)[2])

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(eikonal(step), step)
    assert slope.item() == pytest.approx((eikonal(1e-6) - eikonal(-1e-6)).item() / 2e-6, rel=1e-4)


def test_gradient_has_no_graph():
    _, _, field = make_field()
    assert not any(part.requires_grad for part in field.with_gradient(make_points()))


def gradients(loss: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    found = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def test_flat_field_has_a_finite_eikonal_gradient():
    """|grad f| = 0 everywhere, where a norm has no derivative: the loss is 1 and its gradient 0."""
    network, code, _ = make_field()
    with torch.no_grad():
        for parameter in network.writers[-2].parameters():
            parameter.zero_()
    loss = eikonal_loss(network(code).with_gradient(make_points(), create_graph=True)[2])
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


def test_papers_sizes_are_those_of_the_released_code():
    network = Hypernetwork()
    assert network.shapes == [(33, 128), (161, 128), (161, 128), (161, 128), (128, 1), (128, 3)]
    assert [len(writer) for writer in network.writers] == [11] * 6  # six linear layers and five rectifiers
    assert network.writers[1][-1].weight.shape == (162 * 128, 512)
