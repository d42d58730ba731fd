"""The benchmarks: what a row says, that nothing wrong is timed, whose memory is measured, what is refused."""

import json
import statistics
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import measure, report, workloads
from benchmarks.released import render_rays_released
from benchmarks.released_field import compute_as_released
from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField, colored_field
from lib.geometry.cameras import Viewpoint, camera_rays
from lib.paths import REPOSITORY
from lib.rendering.volume import render_rays, sample_depths
from lib.systems.sdf_srn import SDFSRN, SDFSRNConfig

PAGE = f"above\n{report.BEGIN}\nold\n{report.END}\nbelow\n"


def sums(name: str, size: int, device: str, found: float | None = None) -> measure.Workload:
    """Two ways to add up numbers."""
    numbers = torch.arange(float(size), device=device)
    total = torch.tensor(size * (size - 1) / 2 if found is None else found)
    ways = {"one by one": lambda: lambda: (torch.stack(list(numbers)).sum(),), "formula": lambda: lambda: (total,)}
    return measure.Workload(name, size, ways, 1e-3)


@pytest.fixture
def only_sums(monkeypatch, tmp_path):
    """The command with `sums` alone, and the memory of the process measured in this one; gives its arguments."""
    monkeypatch.setattr(command, "workload", sums)
    monkeypatch.setattr(command, "SIZES", {"sums": (50, 30)})
    monkeypatch.setattr(command, "memory_in_fresh_process", lambda *_: measure.peak_memory_mb("cpu"))
    monkeypatch.setattr(command, "commit", lambda: "0123456789ab")
    return ["--rounds", "3", "--threads", "1", "--output", str(tmp_path / "bench" / "results.json")]


def test_a_run_writes_rows_and_the_table_of_a_page(only_sums, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert command.main([*only_sums, "--readme", str(page)]) == 0
    rows = json.loads((tmp_path / "bench" / "results.json").read_text())
    assert [(row["way"], row["size"]) for row in rows] == [
        (way, size) for size in (50, 30) for way in ("one by one", "formula")
    ]
    for row in rows:
        assert (row["name"], row["rounds"], row["device"], row["threads"]) == ("sums", 3, "cpu", 1)
        assert 0 < row["low"] <= row["seconds"] <= row["high"] and row["memory_mb"] > 10
    assert rows[0]["ratio"] == 1
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("\nbelow\n") and "old" not in text
    assert "| sums | 50 | formula | " in text and f"{rows[0]['machine']}; {rows[0]['commit']}." in text
    assert command.main([*only_sums, "--size", "7"]) == 0  # only that one; the others stay
    sizes = [row["size"] for row in json.loads((tmp_path / "bench" / "results.json").read_text())]
    assert sizes == [50, 50, 30, 30, 7, 7]


@pytest.mark.parametrize("found", [1.1, float("nan"), float("inf")])
def test_ways_that_disagree_are_not_timed(only_sums, monkeypatch, tmp_path, found):
    monkeypatch.setattr(command, "workload", lambda *given: sums(*given, found))
    with pytest.raises(AssertionError, match="'formula': result 0 differs by"):
        command.main(only_sums)
    assert not (tmp_path / "bench").exists()


def test_ways_with_fewer_results_are_wrong():
    with pytest.raises(ValueError, match="zip"):
        measure.assert_same({"a": (torch.ones(3), torch.ones(1)), "b": (torch.ones(3),)}, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sofa"], "No benchmark 'sofa': choose from sums."),
        (["--device", "cuda"], "not available here"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--size", "0"], "--size must be at least 1"),
        (["--readme", "nowhere.md"], "nowhere.md is no file"),
        (["--readme", __file__], "commit them first"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(only_sums, monkeypatch, capsys, tmp_path, arguments, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command, "commit", lambda: "0123456789ab+changes")
    assert command.main([*only_sums, *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and sentence in said.err and said.err.count("\n") == 1
    assert said.out == "" and list(tmp_path.iterdir()) == []


def test_ways_take_turns_and_the_first_time_does_not_count(monkeypatch):
    calls, clock = [], iter(float(number) for number in range(100))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(clock))
    ways = {name: lambda n=name: lambda: calls.append(n) or (torch.ones(1),) for name in "ab"}
    rows = measure.measure(measure.Workload("w", 1, ways, 1e-3), 3, "cpu")
    assert "".join(calls) == "abababab"
    assert [(row["way"], row["seconds"], row["ratio"]) for row in rows] == [("a", 1, 1), ("b", 1, 1)]


def test_the_ratio_is_the_median_of_each_rounds(monkeypatch):
    times = [[2.0, 1.0], [8.0, 2.0], [3.0, 6.0]]
    ends = iter([moment for one in times for seconds in one for moment in (0.0, seconds)])
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ends))
    ways = {name: lambda: lambda: (torch.ones(1),) for name in "ab"}
    row = measure.measure(measure.Workload("w", 1, ways, 1e-3), 3, "cpu")[1]
    assert row["ratio"] == statistics.median([2 / 1, 8 / 2, 3 / 6])
    assert (row["seconds"], row["low"], row["high"]) == (2.0, 1.0, 6.0)


def test_new_rows_replace_those_of_the_same_thing_and_drop_those_of_another_commit(tmp_path):
    path = tmp_path / "new" / "results.json"
    old = {"name": "a", "way": "v", "size": 1, "commit": "c", "machine": "m", "device": "cpu", "threads": 2, "s": 1}
    kept = [old | {"size": 2}, old | {"name": "b"}, old | {"way": "w"}]
    measure.keep_rows(path, [old, *kept])
    assert measure.keep_rows(path, [old | {"s": 2}]) == [*kept, old | {"s": 2}] == json.loads(path.read_text())
    for other in ({"commit": "d"}, {"machine": "n"}, {"device": "cuda"}, {"threads": 1}):
        measure.keep_rows(path, [old, *kept])
        assert measure.keep_rows(path, [old | other]) == [old | other]


def test_a_page_without_marks_is_refused():
    with pytest.raises(ValueError, match="needs one line"):
        report.with_table("nothing", [])


def test_the_committed_page_has_its_marks():
    text = (REPOSITORY / "benchmarks" / "README.md").read_text()
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_peak_memory_is_neither_the_parents_nor_only_the_present():
    work = "import numpy; a = numpy.ones(2**26); del a"  # 512 MiB, given back: they count still
    program = f"from benchmarks.measure import peak_memory_mb\n{work}\nprint(peak_memory_mb('cpu'))"
    held = np.ones(2**27)  # 1 GiB here
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPOSITORY, check=True)
    assert 2**29 / 1e6 < int(done.stdout) < held.nbytes / 1e6 < measure.peak_memory_mb("cpu")


@pytest.mark.parametrize("name", ["quick", "sdf-srn-quick", workloads.SEARCH])
def test_small_workloads_give_the_same_either_way(name):
    work = workloads.workload(name, 400 if name == workloads.SEARCH else 1, "cpu")
    measure.assert_same({way: make()() for way, make in work.ways.items()}, work.tolerance)
    assert len(work.ways) >= 2


def test_the_released_structure_of_shapeclipper_renders_the_same_maps_with_the_same_gradients():
    fields = (SDFField().double(), TextureField().double())
    codes = [torch.randn(2, 64, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    angles = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)
    pixels, beta = torch.rand(2, 40, 2, dtype=torch.float64), torch.tensor(0.1).double().requires_grad_()
    leaves, found = [*fields[0].parameters(), *fields[1].parameters(), *codes, angles, beta], []
    for released in (False, True):
        view = Viewpoint.from_angles(*angles)
        depths = sample_depths(view.distance - 0.7, view.distance + 0.7, 40, 16)
        rays = camera_rays(view, pixels)
        if released:
            maps = render_rays_released(*fields, *codes, rays, depths, beta)
        else:
            maps = render_rays(colored_field(*fields, *codes), rays, depths, beta)
        seen = maps.mask.detach() > 0.5
        loss = maps.rgb.square().mean() + maps.mask.square().mean() + (maps.normal[..., 0] * seen).mean()
        found.append([maps.rgb, maps.mask, maps.depth, *torch.autograd.grad(loss, leaves, retain_graph=True)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_the_released_structure_of_sdf_srn_has_the_same_losses_and_gradients():
    config = replace(SDFSRNConfig(), backbone_weights="random", rays=64, eikonal_points=300)
    batch, found = workloads.random_batch(2, 64, neighbor=False), []
    for released in (False, True):
        torch.manual_seed(0)
        system = SDFSRN(config).train()
        if released:
            compute_as_released(system)
        losses = system.losses(batch, torch.Generator().manual_seed(0))
        gradients = torch.autograd.grad(sum(losses.values()), [*system.hypernetwork.parameters()])
        found.append([*losses.values(), *gradients])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_random_batch_is_one_that_training_could_meet():
    batch = workloads.random_batch(3, 16)
    inside = batch.mask > 0
    assert batch.rgb.shape == (3, 16, 16, 3) and batch.rgb.min() >= 0 and batch.rgb.max() <= 1
    assert 0.2 < inside.float().mean() < 0.6 and (batch.rgb[~inside] == 1).all()
    assert torch.allclose(batch.normal.norm(dim=-1), batch.mask)
    assert torch.allclose(batch.ray_weights.sum(dim=(1, 2)), torch.ones(3))
    assert not torch.equal(batch.neighbor.rgb, batch.rgb) and batch.neighbor.neighbor is None
