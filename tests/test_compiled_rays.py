"""SDF-SRN's compiled strides, bisection and heads against the plain ones, whose derivatives are autograd's."""

import pytest
import torch

from lib.fields import compiled_field, parts
from lib.fields.compiled_field import CompiledField
from lib.fields.hypernetwork import Hypernetwork
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers
from lib.rendering import compiled_rays, compiling
from lib.rendering.compiled_rays import bisect_compiled, march_compiled
from lib.rendering.ray_marching import Marcher, bisect, find_surface, march, points_at

NEEDS_COMPILER = pytest.mark.skipif(not compiling.can_compile(), reason="no C++ compiler")
BY_MACHINE = pytest.param(True, marks=[pytest.mark.slow, NEEDS_COMPILER])


@pytest.fixture
def by_machine(request, monkeypatch) -> bool:
    """No program is at hand; without the machine's compiler a traced function is called as it was written down."""
    monkeypatch.setattr(compiling, "_programs", {})
    monkeypatch.setattr(compiling, "_broken", False)
    if not request.param:
        monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    return request.param


class Scene:
    """Fields of three images, a marcher, and rays of 9 x 9 pixels, in float64."""

    def __init__(self, seed: int = 0):
        torch.manual_seed(seed)
        self.network = Hypernetwork(6, 1, 12, 10, 3, 2).double()
        self.marcher = Marcher(10, 8).double()
        self.field = self.network(torch.randn(3, 6, dtype=torch.float64))
        angles = torch.rand(2, 3, dtype=torch.float64)
        pixels = pixel_centers(9, dtype=torch.float64).expand(3, -1, -1)
        self.rays = camera_rays(Viewpoint.from_angles(*angles, distance=2.5), pixels)
        self.start = torch.tensor([1.5, 2.0, 1.8], dtype=torch.float64)

    def marched(self, compiled: bool) -> list[torch.Tensor]:
        """Depths and values, and what a loss on both says to the hypernetwork and the marcher."""
        if compiled:
            depths, values = march_compiled(CompiledField.of(self.field), self.marcher, self.rays, self.start, 5)
        else:
            depths, values = march(self.field.distance_and_feature, self.marcher, self.rays, self.start, 5)
        weights = torch.linspace(-1, 1, values.numel(), dtype=torch.float64).view_as(values)
        heads = [*self.network.writers[:-1].parameters(), *self.marcher.parameters()]  # the last writer's is of colours
        loss = (weights * (values + depths.square())).sum()
        return [depths, values, *torch.autograd.grad(loss, heads, retain_graph=True)]


def assert_alike(ours: list[torch.Tensor], expected: list[torch.Tensor], tolerance: float = 1e-9) -> None:
    for a, b in zip(ours, expected, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * b.abs().max().item())


@pytest.mark.parametrize("by_machine", [False, BY_MACHINE], indirect=True)
@pytest.mark.parametrize("size", [parts.PART, 40])  # rays of a part: all 81; 40, 40 and 1
def test_compiled_strides_and_their_derivatives_are_the_same(monkeypatch, capsys, by_machine, size):
    monkeypatch.setattr(compiled_rays, "even", lambda points: min(points, size))
    for seed in (0, 1):
        scene = Scene(seed)
        assert_alike(scene.marched(compiled=True), scene.marched(compiled=False))
    sizes = 2 if size == 40 else 1
    assert len(compiling._programs) == 2 * sizes + 2  # a stride, and back; the last value, which fills a part, and back
    assert "could not be compiled" not in capsys.readouterr().err


def test_strides_that_cannot_be_compiled_go_on_without(monkeypatch, capsys):
    def broken(*_):
        raise OSError("no compiler")

    monkeypatch.setattr(compiling, "_programs", {})
    monkeypatch.setattr(compiling, "_broken", False)
    monkeypatch.setattr(torch._inductor, "compile", broken)
    scene = Scene()
    assert_alike(scene.marched(compiled=True), scene.marched(compiled=False))
    assert capsys.readouterr().err.count("The step could not be compiled (OSError); it goes on without.") == 1


@pytest.mark.parametrize("by_machine", [False, BY_MACHINE], indirect=True)
def test_compiled_bisection_halves_where_a_ray_hits(monkeypatch, by_machine):
    """Parts of 27 of 81 rays; those without a ray that hits are left out, and so is the third image."""
    monkeypatch.setattr(compiled_rays, "HALVED", 30)
    scene = Scene(3)
    near = scene.start[:, None].expand(3, 81)
    hit = torch.rand(3, 81, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.5, 0.1, 0.0])[:, None]
    given = (scene.rays, near, near + 2, hit, 7)
    ours = bisect_compiled(CompiledField.of(scene.field), *given)
    torch.testing.assert_close(ours, bisect(scene.field.distance, *given), rtol=1e-12, atol=0)
    assert torch.equal(ours[~hit], (near + 2)[~hit]) and (ours[hit] < (near + 2)[hit]).any()


def test_compiled_bisection_without_a_hit_asks_nothing(monkeypatch):
    monkeypatch.setattr(compiled_rays, "run_compiled", None)
    scene = Scene()
    near = scene.start[:, None].expand(3, 81)
    field, never = CompiledField.of(scene.field), torch.zeros(3, 81, dtype=torch.bool)
    assert torch.equal(bisect_compiled(field, scene.rays, near, near + 1, never), near + 1)


@pytest.mark.parametrize("by_machine", [False], indirect=True)
def test_surface_by_another_bisection_is_the_same(by_machine):
    scene = Scene(4)
    field = CompiledField.of(scene.field)
    depths, values = (part.detach() for part in scene.marched(compiled=False)[:2])

    def halve(*given):
        return bisect_compiled(field, *given)

    ours, expected = (find_surface(scene.field.distance, scene.rays, depths, values, 9, halve=h) for h in (halve, None))
    torch.testing.assert_close(ours.depth, expected.depth, rtol=1e-12, atol=0)
    assert ours.counts == expected.counts and ours.counts["none"] < ours.hit.numel()


@pytest.mark.parametrize(
    ("by_machine", "count"),
    [(False, 1), (False, 7), (False, 8), pytest.param(True, 23, marks=BY_MACHINE.marks)],
    indirect=["by_machine"],
)
@pytest.mark.parametrize("to_points", [False, True])
def test_compiled_heads_are_the_same(monkeypatch, by_machine, count, to_points):
    """f and g at any number of points, in parts of 4 or 8 that are filled up, with gradients of points and network."""
    monkeypatch.setattr(compiled_field, "FULL", 4)
    monkeypatch.setattr(compiled_field, "PART", 8)
    scene = Scene(5)
    points = points_at(scene.rays, scene.start[:, None].expand(3, 81))[:, :count].contiguous().requires_grad_(to_points)
    inputs = [*scene.network.parameters(), *([points] if to_points else [])]
    found = []
    for field in (CompiledField.of(scene.field), scene.field):
        distance, color = field.distance(points), field.color_at(points)
        loss = distance.square().sum() + (color * torch.arange(1, 4)).square().sum()
        found.append([distance, color, *torch.autograd.grad(loss, inputs, retain_graph=True)])
    assert_alike(*found)
    assert len(compiling._programs) == 4  # two heads, and back


def test_parts_cover_all_points_once():
    for points, size in ((10, 4), (8, 4), (3, 7), (1, 1)):
        tensor = torch.rand(2, points, 3)
        cut = parts.parts_of(2, points, size)
        found = [parts.taken(tensor, part, size) for part in cut]
        assert all(part.shape == (1, size, 3) for part in found)
        assert torch.equal(parts.together(found, cut), tensor)
        sums = parts.summed([(part.sum(dim=1),) for part in found], cut)
        torch.testing.assert_close(sums[0], tensor.sum(dim=1))
    assert [parts.even(points, 4) for points in (0, 1, 4, 5, 9, 12)] == [0, 1, 4, 3, 3, 4]
