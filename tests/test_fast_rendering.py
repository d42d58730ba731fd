"""The fast renderer against the plain one: maps, all gradients, and what it refuses."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.errors import InputError
from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField
from lib.geometry.cameras import Rays, Viewpoint, camera_rays
from lib.rendering import compiling, paths
from lib.rendering.fast import render_fields, render_rays_fast
from lib.rendering.paths import choose_render_path
from lib.rendering.volume import sample_depths

MAPS = ("rgb", "mask", "normal", "depth")
UNSEEN = 1e-3  # gradients below are those of scenes that no ray sees; otherwise the longest is above 1


@dataclass(frozen=True)
class Scene:
    """Fields with every weight alive, and leaves to differentiate by."""

    sdf: SDFField
    texture: TextureField
    leaves: dict[str, torch.Tensor]
    pixels: torch.Tensor
    samples: int

    def view(self) -> tuple[Rays, torch.Tensor]:
        azimuth, elevation = self.leaves["angles"]
        view = Viewpoint.from_angles(azimuth, elevation, distance=self.leaves["distance"])
        generator = torch.Generator().manual_seed(1)
        near, far = view.distance - 0.7, view.distance + 0.7
        return camera_rays(view, self.pixels), sample_depths(near, far, self.pixels.shape[1], self.samples, generator)

    def all_leaves(self) -> list[torch.Tensor]:
        return [*self.sdf.parameters(), *self.texture.parameters(), *self.leaves.values()]


def make_scene(
    dtype=torch.float32,
    beta=0.1,
    batch=2,
    rays=40,
    samples=16,
    seed=0,
    radius=0.4,
    texture_layers=3,
    away=0.0,
    **changes,
) -> Scene:
    torch.manual_seed(seed)
    sizes = {"code_size": 8, "width": 24, "frequencies": 4, "feature_size": 24} | changes
    sdf = SDFField(**sizes, radius=radius)
    same = {k: v for k, v in sizes.items() if k not in ("hidden_layers", "skips")}
    texture = TextureField(**same, hidden_layers=texture_layers)
    with torch.no_grad():
        for parameter in [*sdf.parameters(), *texture.parameters()]:
            parameter.add_(0.01 * torch.randn_like(parameter))
    leaves = {
        "shape": torch.randn(batch, 8),
        "texture": torch.randn(batch, 8),
        "angles": torch.rand(2, batch),
        "distance": 5 + 0.2 * torch.rand(batch),
        "beta": torch.tensor(beta),
    }
    leaves = {name: value.to(dtype).requires_grad_() for name, value in leaves.items()}
    pixels = (0.5 + away + 0.3 * torch.randn(batch, rays, 2)).to(dtype)
    return Scene(sdf.to(dtype), texture.to(dtype), leaves, pixels, samples)


def plain(scene: Scene, textured=True, last_interval="zero"):
    return by_path("plain", scene, textured, last_interval)


def by_path(path: str, scene: Scene, textured=True, last_interval="zero"):
    leaves = scene.leaves
    texture = leaves["texture"] if textured else None
    fields = (scene.sdf, scene.texture, leaves["shape"], texture)
    return render_fields(path, *fields, *scene.view(), leaves["beta"], last_interval)


def fast(scene: Scene, textured=True, last_interval="zero", **options):
    leaves = scene.leaves
    texture = leaves["texture"] if textured else None
    fields = (scene.sdf, scene.texture, leaves["shape"], texture)
    return render_rays_fast(*fields, *scene.view(), leaves["beta"], last_interval, **options)


def gradients(scene: Scene, maps) -> list[torch.Tensor]:
    """Of a loss as training has it: normals count where the object is seen, some rays have no part in it at all."""
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(maps.rgb.shape, generator=generator).to(maps.rgb)
    seen = (maps.mask.detach() > 0.5).to(maps.rgb)
    error = (maps.normal - target).square().sum(-1)
    loss = (maps.rgb - target).square().mean() + maps.mask.square().mean()
    loss = loss + 0.3 * (error * seen).mean() + 0.1 * (maps.depth * seen).mean()
    leaves = scene.all_leaves()
    found = torch.autograd.grad(loss, leaves, allow_unused=True, retain_graph=False)
    return [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, found, strict=True)]


def relative_error(found: torch.Tensor, expected: torch.Tensor, least: float = 1e-12) -> float:
    """Length of the difference over that of what is expected, or over `least` where that is shorter."""
    return float((found - expected).norm() / expected.norm().clamp(min=max(least, 1e-12)))


def assert_same(
    scene: Scene, tolerance: float, normal_tolerance: float, gradient_tolerance: float, floor: float = 0.0, **options
):
    """Maps within absolute tolerances, gradients within a relative one.

    `floor`: a gradient shorter than this part of the longest one is measured against that part. Some are what is left
    of a sum over all points (by beta, by the distance of the camera), and single precision keeps the digits of the
    sum's terms: at beta 0.01 the plain renderer's own are up to 2e-4 of their length away from those in float64.
    Where no ray sees anything, what should be 0 is a rounding of the loss, which is about 1: hence `UNSEEN`.
    """
    render = {key: value for key, value in options.items() if key in ("textured", "last_interval")}
    expected, found = plain(scene, **render), fast(scene, **options)
    for name in MAPS:
        limit = normal_tolerance if name == "normal" else tolerance
        assert getattr(found, name).shape == getattr(expected, name).shape
        assert (getattr(found, name) - getattr(expected, name)).abs().amax() < limit, name
    true = gradients(scene, expected)
    longest = max(UNSEEN, *(float(gradient.norm()) for gradient in true))
    for mine, gradient in zip(gradients(scene, found), true, strict=True):
        assert relative_error(mine, gradient, floor * longest) < gradient_tolerance


@pytest.mark.parametrize(("beta", "normal_tolerance"), [(0.1, 3e-5), (0.01, 1e-3)])
@pytest.mark.parametrize("textured", [True, False])
def test_maps_and_every_gradient_are_those_of_the_plain_renderer(beta, normal_tolerance, textured):
    scene = make_scene(beta=beta)
    assert 0.1 < plain(scene).mask.mean() < 0.9  # the rays see an object and its surroundings
    assert_same(scene, 3e-5, normal_tolerance, 1e-4, textured=textured, chunk=200)


@pytest.mark.parametrize("beta", [0.1, 0.01])
@pytest.mark.parametrize("last_interval", ["zero", "infinite"])
def test_in_double_precision_only_rounding_is_left(beta, last_interval):
    assert_same(make_scene(torch.float64, beta), 1e-11, 1e-10, 1e-9, last_interval=last_interval, chunk=150)


@st.composite
def scenes(draw) -> tuple[dict, dict]:
    """Arguments of `make_scene` but for type and beta, and of `assert_same`; some scenes are seen by no ray."""
    layers = draw(st.integers(1, 5))
    skips = tuple(sorted(skip for skip in draw(st.sets(st.integers(1, 4))) if skip < layers))
    shape = {name: draw(st.integers(1, most)) for name, most in (("batch", 3), ("rays", 30), ("samples", 20))}
    fields = {"hidden_layers": layers, "skips": skips, "symmetric": draw(st.booleans())}
    fields |= {"texture_layers": draw(st.integers(1, 3)), "seed": draw(st.integers(0, 1000))}
    fields["away"] = draw(st.sampled_from([0.0, 0.0, 0.0, 1.5]))
    way = {"textured": draw(st.booleans()), "chunk": draw(st.integers(1, 1000))}
    return shape | fields, way | {"last_interval": draw(st.sampled_from(["zero", "infinite"]))}


@settings(max_examples=25, deadline=None)
@given(beta=st.floats(0.005, 0.3), drawn=scenes())
def test_any_shape_beta_and_chunk_in_double_precision(beta, drawn):
    scene, way = drawn
    assert_same(make_scene(torch.float64, beta, **scene), 1e-9, 1e-9, 1e-9, floor=1e-3, **way)


@pytest.mark.parametrize(("beta", "normal_tolerance"), [(0.1, 3e-5), (0.01, 1e-3)])
@settings(max_examples=25, deadline=None)
@given(drawn=scenes())
def test_any_shape_and_chunk_in_single_precision(beta, normal_tolerance, drawn):
    scene, way = drawn
    assert_same(make_scene(torch.float32, beta, **scene), 3e-5, normal_tolerance, 1e-4, floor=1.0, **way)


@pytest.mark.parametrize("shape", [{"rays": 0}, {"batch": 0}])
def test_no_rays_give_empty_maps_and_no_gradient(shape):
    scene = make_scene(**shape)
    maps = fast(scene)
    assert maps.rgb.shape == (*scene.pixels.shape[:2], 3)
    total = sum(getattr(maps, name).sum() for name in MAPS)
    assert all(g is None or not g.any() for g in torch.autograd.grad(total, scene.all_leaves(), allow_unused=True))


def test_a_shape_without_texture_is_white():
    maps = fast(make_scene(), textured=False)
    assert torch.equal(maps.rgb, torch.ones_like(maps.rgb))


def test_the_gradient_is_that_of_finite_differences():
    scene = make_scene(torch.float64, rays=3, samples=6, batch=1)
    leaves = tuple(scene.leaves[name] for name in ("shape", "texture", "angles", "distance", "beta"))

    def render(*values):
        moved = Scene(scene.sdf, scene.texture, dict(zip(scene.leaves, values, strict=True)), scene.pixels, 6)
        maps = fast(moved, chunk=12)
        return maps.rgb, maps.mask, maps.normal, maps.depth

    assert torch.autograd.gradcheck(render, leaves, atol=1e-6)


@pytest.mark.parametrize("path", ["plain", "fast"])
@pytest.mark.parametrize("beta", [0, -0.1, float("nan")])
def test_a_surface_without_width_is_refused(path, beta):
    scene = make_scene(rays=2, samples=2)
    fields = (scene.sdf, scene.texture, scene.leaves["shape"], None)
    with pytest.raises(InputError, match="beta"):
        render_fields(path, *fields, *scene.view(), beta)


def test_second_derivatives_are_refused():
    scene = make_scene()
    with pytest.raises(RuntimeError, match="render_path to 'plain'"):
        torch.autograd.grad(fast(scene).mask.sum(), scene.leaves["shape"], create_graph=True)


def test_rendering_twice_gives_the_same_bits():
    scene = make_scene()
    first, second = (gradients(scene, fast(scene, chunk=100)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_rays_without_a_part_in_the_normal_loss_change_nothing():
    """The gradient of normals is left out for them; here the order of rays puts them anywhere in a chunk."""
    scene = make_scene(torch.float64, rays=33)
    leaves = scene.all_leaves()
    chosen = torch.arange(33) % 3 == 1
    found, expected = (
        torch.autograd.grad(maps.normal[:, chosen].square().sum(-1).sum() + maps.normal[:, chosen, 0].sum(), leaves[:3])
        for maps in (fast(scene, chunk=64), plain(scene))
    )
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True))


def test_half_precision_networks_do_not_blur_the_normals():
    scene = make_scene()
    fields = (scene.sdf, scene.texture, scene.leaves["shape"], scene.leaves["texture"])
    given = (*fields, *scene.view(), scene.leaves["beta"])
    exact = render_rays_fast(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(render_rays_fast(*given).normal, exact.normal)


@pytest.mark.parametrize("compiled", [False, True])
def test_normals_that_nobody_wants_are_left_out_and_nothing_else_changes(monkeypatch, compiled):
    monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    scene = make_scene(torch.float64, rays=33)
    wanted = torch.rand(2, 33, generator=torch.Generator().manual_seed(0)) > 0.6
    maps, whole = fast(scene, chunk=64, wanted=wanted, compiled=compiled), fast(scene, chunk=64)
    for name in ("rgb", "mask", "depth"):
        assert relative_error(getattr(maps, name), getattr(whole, name)) < 1e-12
    assert relative_error(maps.normal[wanted], whole.normal[wanted]) < 1e-12
    last_chunk = 5  # a chunk of rays has normals if its first one is wanted, and these come first
    assert (maps.normal[~wanted] == 0).all(dim=-1).sum() >= (~wanted).sum() - 2 * last_chunk
    leaves = scene.all_leaves()
    found, expected = (
        torch.autograd.grad(m.rgb.sum() + m.normal[wanted].square().sum() + m.normal[wanted][:, 0].sum(), leaves)
        for m in (maps, whole)
    )
    assert all(relative_error(a, b) < 1e-9 for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_side_by_side_gives_the_same_numbers_on_any_number_of_threads(no_programs, monkeypatch, threads):
    monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    scene, before = make_scene(rays=48), torch.get_num_threads()
    results = []
    try:
        for count in (1, threads):
            torch.set_num_threads(count)
            maps = fast(scene, chunk=16 * 12, compiled=True)
            results.append([maps.rgb.detach(), maps.normal.detach(), *gradients(scene, maps)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_fields_that_encode_differently_are_refused():
    scene = make_scene()
    other = TextureField(code_size=8, width=24, feature_size=24, frequencies=3)
    with pytest.raises(InputError, match="'plain'"):
        render_rays_fast(scene.sdf, other, scene.leaves["shape"], scene.leaves["texture"], *scene.view(), 0.1)


# --- compiled ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_programs(monkeypatch):
    monkeypatch.setattr(compiling, "_programs", {})
    monkeypatch.setattr(compiling, "_broken", False)


def test_traced_programs_render_the_same_and_are_made_once_a_shape(no_programs, monkeypatch, capsys):
    monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    scene = make_scene(rays=40)
    assert_same(scene, 3e-5, 3e-5, 1e-4, chunk=16 * 12, compiled=True)  # 3 of 12 rays and one of 4
    made = len(compiling._programs)
    assert made == 3  # maps, gradients with and without normals
    assert capsys.readouterr().err.count("compiling") == made
    gradients(scene, fast(scene, chunk=16 * 12, compiled=True))
    assert len(compiling._programs) == made
    assert_same(make_scene(rays=40, texture_layers=2), 3e-5, 3e-5, 1e-4, chunk=16 * 12, compiled=True)
    assert len(compiling._programs) > made  # another texture field has programs of its own


@pytest.mark.slow
@pytest.mark.skipif(not compiling.can_compile(), reason="no C++ compiler")
@pytest.mark.parametrize(("beta", "normal_tolerance"), [(0.1, 3e-5), (0.01, 1e-3)])
def test_compiled_programs_render_the_same(no_programs, beta, normal_tolerance):
    assert_same(make_scene(beta=beta), 3e-5, normal_tolerance, 1e-4, compiled=True)
    assert compiling._programs and not compiling._broken


def test_without_a_compiler_one_sentence_is_said_and_rendering_goes_on(no_programs, monkeypatch, capsys):
    def broken(*_, **__):
        raise OSError("no compiler")

    monkeypatch.setattr(torch._inductor, "compile", broken)
    assert_same(make_scene(), 3e-5, 3e-5, 1e-4, compiled=True)
    assert capsys.readouterr().err.count("could not be compiled") == 1


@pytest.mark.parametrize("path", ["fast", "compiled"])
def test_each_path_is_the_renderer_that_it_names(no_programs, monkeypatch, path):
    monkeypatch.setattr(torch._inductor, "compile", lambda program, *_: program)
    scene = make_scene(rays=10)
    maps, expected = by_path(path, scene), fast(scene)
    assert torch.equal(maps.mask, expected.mask)
    assert bool(compiling._programs) == (path == "compiled")


def test_auto_compiles_long_runs_and_saves_memory_in_large_steps(monkeypatch):
    monkeypatch.setattr(paths, "can_compile", lambda device="cpu": True)
    assert choose_render_path("auto", 800_000, 50_100) == "compiled"
    assert choose_render_path("auto", 800_000, 10) == "fast"
    assert choose_render_path("auto", 5000, 300) == "plain"
    assert choose_render_path("plain", 800_000, 50_100) == "plain"
    monkeypatch.setattr(paths, "can_compile", lambda device="cpu": False)
    assert choose_render_path("auto", 800_000, 50_100) == "fast"
    with pytest.raises(InputError, match="'quick'"):
        choose_render_path("quick")
