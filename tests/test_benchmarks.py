"""The benchmarks: what a row says, that nothing wrong is timed, whose memory is measured, what is refused."""

import json
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import batches, neighbors, workloads
from benchmarks.figure import draw
from benchmarks.measure import Workload, count_flop, gemm_ceiling, interleave, peak_memory_mb, replace_rows, rows_of
from benchmarks.released_field import by_the_released_route
from benchmarks.report import write_report
from lib.data.neighbor_exact import Neighbors
from lib.paths import REPOSITORY
from lib.systems.sdf_srn import SDFSRN
from lib.systems.sdf_srn import SDFSRNConfig

ROW = {"name", "variant", "device", "seconds", "ratio", "memory_mb", "shape"}  # what every row has


def sums(device: str, size: int) -> Workload:
    """A benchmark of its own: two ways to add up numbers."""
    numbers = torch.arange(float(size), device=device)
    variants = {
        "plain": lambda: (torch.stack(list(numbers)).sum(),),
        "fast": lambda: (torch.tensor(size * (size - 1) / 2),),
    }
    return Workload("sums", (size,), variants, lambda: workloads.same(variants, 1e-6))


@pytest.fixture
def only_sums(monkeypatch, tmp_path):
    """The command with `sums` alone, and the memory of the process measured in this one; gives its arguments."""
    monkeypatch.setattr(command, "WORKLOADS", {"sums": sums})
    monkeypatch.setattr(command, "SIZES", {"sums": (50, 30)})
    monkeypatch.setattr(command, "gemm_ceiling", lambda _: 1e11)  # seconds, and measured below
    monkeypatch.setattr(command, "memory_in_fresh_process", lambda *_: peak_memory_mb("cpu"))
    output, report = tmp_path / "bench" / "results.json", tmp_path / "bench" / "README.md"
    return ["--rounds", "3", "--threads", "1", "--output", str(output), "--report", str(report)], output, report


# --- the command ---------------------------------------------------------------------------------------------------


def test_a_run_writes_rows_report_and_figure(only_sums):
    arguments, output, report = only_sums
    assert command.main([*arguments, "--machine", "a bench in the woods"]) == 0
    rows = json.loads(output.read_text())
    assert [(row["variant"], row["shape"]) for row in rows] == [
        (way, [size]) for size in (50, 30) for way in ("plain", "fast")
    ]
    for row in rows:
        assert set(row) >= ROW
        assert (row["name"], row["rounds"], row["device"]) == ("sums", 3, "cpu")
        assert 0 < row["low"] <= row["seconds"] <= row["high"]
    assert rows[0]["ratio"] == 1
    assert "1 thread on a bench in the woods" in report.read_text()
    assert "| sums, fast | 50 |" in report.read_text() and "| sums, fast | 30 |" in report.read_text()
    assert output.with_name("speed.png").read_bytes().startswith(b"\x89PNG")


def test_variants_that_disagree_are_not_timed(only_sums, monkeypatch):
    arguments, output, _ = only_sums
    asked = []

    def wrong(device: str, size: int) -> Workload:
        variants = {
            name: lambda v=value: asked.append(v) or (torch.tensor(v),) for name, value in [("a", 1.0), ("b", 1.1)]
        }
        return Workload("sums", (size,), variants, lambda: workloads.same(variants, 1e-3))

    monkeypatch.setattr(command, "WORKLOADS", {"sums": wrong})
    with pytest.raises(AssertionError, match=r"variant 'b': result 0 differs by 1\.0e-01"):
        command.main(arguments)
    assert asked == [1.0, 1.1]  # once each, by the check of the first size
    assert not output.exists()


def test_a_size_that_is_named_is_the_only_one(only_sums):
    arguments, output, _ = only_sums
    assert command.main([*arguments, "--size", "7"]) == 0
    assert {tuple(row["shape"]) for row in json.loads(output.read_text())} == {(7,)}


def test_everything_is_the_steps_of_the_papers_sizes_and_the_neighbours():
    assert set(command.SIZES) == {*workloads.WORKLOADS, "neighbors"}
    assert command.SIZES["shapeclipper_step"] == (2, 12) and 2 in command.SIZES["sdf_srn_step"]


def test_neighbours_are_searched_by_the_command_too_and_rows_of_another_size_stay(tmp_path, monkeypatch):
    output, report = tmp_path / "results.json", tmp_path / "README.md"
    larger = neighbor_row(variant="exact, real")
    output.write_text(json.dumps([larger]))
    embedded = []

    def embed(_paths, count, size, _cache):
        embedded.append(count)
        return neighbors.clustered_vectors(count, size)

    def process(options, *way):
        assert embedded  # before any process whose memory is measured
        return neighbors.measure(options, *way)

    monkeypatch.setattr(neighbors, "real_vectors", embed)
    monkeypatch.setattr(neighbors, "fresh_process", process)
    flags = ["--threads", "1", "--machine", "a barn", "--output", str(output), "--report", str(report)]
    assert command.main(["neighbors", "--size", "600", *flags]) == 0
    rows = json.loads(output.read_text())
    assert rows[0] == larger | {"ratio": 1.0}
    assert [row["variant"] for row in rows[1:]] == [f"{way}, real" for way in neighbors.METHODS]
    assert all(row["shape"] == [600, 512] and row["machine"] == "a barn" and row["threads"] == 1 for row in rows[1:])
    assert "| exact, real | 136,000 x 512 |" in report.read_text() and "| 600 x 512 |" in report.read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sofa"], "No benchmark 'sofa': choose from sums."),
        (["--device", "cuda"], "not available here"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--size", "0"], "--size must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(only_sums, monkeypatch, capsys, arguments, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given, output, _ = only_sums
    assert command.main([*given, *arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and sentence in said.err and said.err.count("\n") == 1
    assert said.out == "" and not output.exists()


@pytest.mark.parametrize("arguments", [["--only", "exact-sofa"], ["--only", "exact-real", "ivf"], ["--count", "3"]])
def test_the_neighbor_command_refuses_too(tmp_path, capsys, arguments):
    assert neighbors.main([*arguments, "--output", str(tmp_path / "r.json"), "--report", str(tmp_path / "R.md")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


def test_memory_comes_from_a_process_of_its_own():
    """The real command, by its smallest benchmark: the number is that of another process than this one."""
    options = command.parse(["data", "--size", "2", "--threads", "1"])
    torch.set_num_threads(1)
    held = np.ones(2**27)  # 1 GiB here
    memory = command.memory_in_fresh_process("data", "fast", 2, options)
    assert 100 < memory < held.nbytes / 1e6 < peak_memory_mb("cpu")


# --- measuring -----------------------------------------------------------------------------------------------------


def child_peak_mb(work: str) -> int:
    """What a fresh process says about its own peak memory after some work."""
    program = f"from benchmarks.measure import peak_memory_mb\nimport numpy\n{work}\nprint(peak_memory_mb('cpu'))"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPOSITORY, check=True)
    return int(done.stdout)


def test_peak_memory_is_neither_the_parents_nor_only_the_present():
    held = np.ones(2**27)
    idle = child_peak_mb("")
    assert idle < held.nbytes / 1e6
    assert child_peak_mb("a = numpy.ones(2**26); del a") - idle == pytest.approx(
        2**29 / 1e6, abs=64
    )  # given back: counts still


def test_variants_take_turns_and_the_first_round_does_not_count():
    calls = []
    variants = {name: lambda n=name: calls.append(n) for name in "ab"}
    times = interleave(Workload("w", (1,), variants, lambda: None), 3, "cpu")
    assert "".join(calls) == "abababab"
    assert {name: len(pairs) for name, pairs in times.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_the_median_of_each_rounds():
    times = {"a": [(2.0, 4.0), (8.0, 4.0), (3.0, 5.0)], "b": [(1.0, 1.0), (2.0, 2.0), (6.0, 3.0)]}
    row = rows_of(Workload("w", (4, 5), {"a": int, "b": int}, lambda: None), times, 1e9, {"device": "cpu"})[1]
    assert row["ratio"] == statistics.median([2 / 1, 8 / 2, 3 / 6])
    assert (row["seconds"], row["low"], row["high"], row["cpu_seconds"]) == (2.0, 1.0, 6.0, 2.0)
    assert "gflop" not in row  # nothing is said about operations that could not be counted


def test_operations_are_counted_and_set_against_the_ceiling():
    a, b = torch.ones(30, 40), torch.ones(40, 50)
    assert count_flop(lambda: a @ b) == 2 * 30 * 40 * 50
    total, left, right = torch.zeros(6, 30, 50), a.expand(6, -1, -1), b.expand(6, -1, -1)
    assert count_flop(lambda: total.baddbmm_(left, right)) == 6 * 2 * 30 * 40 * 50
    large = torch.ones(500, 500)
    work = Workload("w", (1,), {"a": lambda: large @ large}, lambda: None)
    row = rows_of(work, {"a": [(0.5, 0.5)]}, 1e9, {})[0]
    assert row["gflop"] == 0.25
    assert row["gemm_share"] == pytest.approx(0.25 / 0.5)


def test_modules_and_gradients_by_leaves_are_counted_without_a_word(recwarn):
    """What the renderers do: a leaf's gradient inside, differentiated again outside."""
    layer, points = torch.nn.Linear(30, 40), torch.ones(50, 30, requires_grad=True)

    def twice():
        (slope,) = torch.autograd.grad(layer(points).square().sum(), points, create_graph=True)
        slope.square().sum().backward()

    # forward; its gradient by the points; that by its two factors; and the layer's by its own two
    assert count_flop(twice) == 6 * 2 * 50 * 30 * 40
    assert not recwarn.list


def test_compiled_code_is_counted_by_its_twin():
    a = torch.ones(30, 40)
    work = Workload("w", (1,), {"fast": lambda: None, "twin": lambda: a @ a.T}, lambda: None)
    times = {"fast": [(0.5, 0.5)], "twin": [(1.0, 1.0)]}
    assert "gflop" not in rows_of(work, times, 1e9, {})[0]
    row = rows_of(replace(work, counted={"fast": work.variants["twin"]}), times, 1e9, {})[0]
    assert row["gflop"] == 2 * 30 * 40 * 30 / 1e9 and row["gemm_share"] == pytest.approx(row["gflop"] / 0.5)


def test_memory_is_in_millions_of_bytes():
    held = np.ones(2**27)
    high = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # in KiB, of Linux
    assert peak_memory_mb("cpu") == pytest.approx(high * 1.024e-3, abs=1) and high > held.nbytes / 1024


def test_the_ceiling_is_a_rate_of_this_machine():
    assert 1e8 < gemm_ceiling("cpu", tries=1) < 1e13


def test_new_rows_replace_those_of_the_same_thing_only(tmp_path):
    path = tmp_path / "new" / "results.json"
    old = {"name": "a", "variant": "v", "device": "cpu", "shape": [1], "seconds": 1.0}
    kept = [old | {"shape": [2]}, old | {"device": "cuda"}, old | {"name": "b"}, old | {"variant": "w"}]
    replace_rows(path, [old, *kept])
    rows = replace_rows(path, [old | {"seconds": 2.0}])
    assert rows == [*kept, old | {"seconds": 2.0}] == json.loads(path.read_text())
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


# --- report and figure ---------------------------------------------------------------------------------------------


def neighbor_row(**changes) -> dict:
    row = {"name": "neighbors", "variant": "ivf, clustered", "device": "cpu", "shape": [136_000, 512], "queries": 1000}
    row |= {"seconds": 10.46, "search_cpu_seconds": 20.4, "build_seconds": 10.7, "tune_seconds": 2.9, "ratio": 0.0}
    row |= {"cpu_seconds": 46.9, "memory_mb": 1781, "recall": 0.9996, "load": 1.9, "threads": 2, "machine": "here"}
    return row | changes


def test_the_report_says_what_the_rows_say(tmp_path):
    path = tmp_path / "README.md"
    speed = {"name": "render", "variant": "fast", "device": "cpu", "shape": [2, 512, 64], "seconds": 0.1234, "low": 0.1}
    speed |= {"high": 0.2, "cpu_seconds": 0.5, "ratio": 1.987, "memory_mb": 54321, "load": 0.25, "threads": 2}
    write_report([speed | {"machine": "there"}, neighbor_row()], path)
    text = path.read_text()
    assert "| render, fast | 2 x 512 x 64 | 0.123 [0.1, 0.2] | 0.5 | 1.99 |  |  | 54,321 | 0.2 |" in text
    assert (
        "| ivf, clustered | 136,000 x 512 | 1,000 | 10.5 | 20.4 | 10.7 | 2.9 | 46.9 | 1,781 | 1.000 |  | 1.9 |" in text
    )
    assert "2 threads on there" in text and "2 threads on here" in text
    assert (Path(command.__file__).with_name("changes.md")).read_text() in text
    assert "Ten million" not in text  # nobody measured a million


def test_the_report_sets_the_data_against_the_step_of_its_size(tmp_path):
    path, row = tmp_path / "README.md", {"low": 0.0, "high": 9.0, "cpu_seconds": 1.0, "ratio": 1.0, "memory_mb": 1}
    row |= {"load": 0.0, "threads": 2, "machine": "here", "device": "cpu", "variant": "fast"}
    step = row | {"name": "shapeclipper_step", "shape": [12, 512, 64, 224], "seconds": 8.0}
    drawn = [row | {"name": "data", "shape": [12, pixels], "seconds": 0.02} for pixels in (64, 224)]
    write_report([step | {"variant": "plain"}, step, *drawn], path)
    assert "Data, fast, cpu: 12 images of 224 pixels take 0.02 s, 0.25% of the step's 8 s.\n" in path.read_text()
    assert "of 64 pixels" not in path.read_text() and "Data, plain" not in path.read_text()


def test_the_plan_for_ten_million_is_arithmetic_on_the_measured_million(tmp_path):
    path = tmp_path / "README.md"
    million = {
        "shape": [1_000_000, 512],
        "queries": 100_000,
        "seconds": 18.0,
        "build_seconds": 72.0,
        "memory_mb": 10_000,
    }
    write_report([neighbor_row(**million)], path)
    text = path.read_text()
    assert "| one index | 1 | 100,000 MB |" in text
    assert f"= {72 * 10**1.5 / 3600:.1f} h | 0.18 ms x sqrt(10) x 10^7 = {0.00018 * 10**7.5 / 3600:.1f} h |" in text


def test_the_committed_report_is_the_one_its_notes_would_give():
    """`changes.md` is part of the report: who adds a line there writes the report again."""
    folder = Path(command.__file__).parent
    assert (folder / "changes.md").read_text() in (folder / "README.md").read_text()


def test_neighbor_rows_alone_give_no_picture_of_speed(tmp_path):
    draw([neighbor_row()], tmp_path / "speed.png")
    assert list(tmp_path.iterdir()) == []


# --- what is measured ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [1.0 + 2e-3, float("nan"), float("inf")])
def test_a_different_number_and_none_at_all_are_both_wrong(found):
    variants = {"a": lambda: (torch.ones(3), torch.ones(1)), "b": lambda: (torch.ones(3), torch.tensor([found]))}
    with pytest.raises(AssertionError, match="result 1"):
        workloads.same(variants, 1e-3)


def test_fewer_results_are_wrong():
    with pytest.raises(ValueError, match="zip"):
        workloads.same({"a": lambda: (torch.ones(3), torch.ones(1)), "b": lambda: (torch.ones(3),)}, 1e-3)


def test_photographs_enlarged_to_the_papers_size_are_the_same_batch_from_files_and_from_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "RUNS", tmp_path)
    monkeypatch.setattr(batches, "ENLARGED", 3)
    workload = batches.data_224("cpu", 1)
    workload.check()
    assert (workload.name, workload.shape) == ("data", (1, 224))
    (folder,) = (tmp_path / "bench").iterdir()
    small, large = batches.PreparedDataset(batches.FURNITURE, "train"), batches.PreparedDataset(folder)
    first, same = small.batch(torch.tensor([0])), large.batch(torch.tensor([0]))
    assert len(large) == 6 and large.rgb.shape[1:] == (224, 224, 3)  # a batch of one with five neighbours
    assert (first.mask.mean() - same.mask.mean()).abs() < 0.01 and (first.rgb.mean() - same.rgb.mean()).abs() < 0.02


@pytest.mark.parametrize("name", ["data", "encoder", "sdf_srn_step"])
def test_small_workloads_pass_their_own_check(name):
    workload = workloads.WORKLOADS[name]("cpu", 1)
    workload.check()
    assert workload.name == name and workload.shape[0] == 1


def test_the_released_structure_renders_the_same_with_the_same_gradients():
    variants = workloads.render("cpu", 1).variants
    workloads.same({name: variants[name] for name in ("released", "plain")}, 1e-4)


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_the_released_structure_of_sdf_srn_has_the_same_losses_and_gradients():
    config = replace(SDFSRNConfig(), backbone_weights="random", rays=64, eikonal_points=300)
    batch, found = workloads.random_batch(2, 64, "cpu", neighbor=False), []
    for released in (False, True):
        torch.manual_seed(0)
        system = SDFSRN(config).train()
        if released:
            system.hypernetwork.register_forward_hook(by_the_released_route)
        losses = system.losses(batch, torch.Generator().manual_seed(0))
        found.append(
            [*losses.values(), *torch.autograd.grad(sum(losses.values()), [*system.hypernetwork.parameters()])]
        )
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def test_the_random_batch_is_one_that_training_could_meet():
    batch = workloads.random_batch(3, 16, "cpu")
    inside = batch.mask > 0
    assert batch.rgb.shape == (3, 16, 16, 3) and batch.rgb.min() >= 0 and batch.rgb.max() <= 1
    assert 0.2 < inside.float().mean() < 0.6 and (batch.rgb[~inside] == 1).all()
    assert torch.allclose(batch.normal.norm(dim=-1), batch.mask)
    assert torch.allclose(batch.ray_weights.sum(dim=(1, 2)), torch.ones(3))
    assert not torch.equal(batch.neighbor.rgb, batch.rgb) and batch.neighbor.neighbor is None


# --- neighbours ----------------------------------------------------------------------------------------------------


def neighbor_options(tmp_path, *more: str):
    given = ["--count", "900", "--size", "16", "--threads", "1", "--output", str(tmp_path / "results.json"), *more]
    return neighbors.parse(given)


@pytest.mark.parametrize(("method", "queries"), [("exact", 900), ("flat", 900), ("hnsw", 900)])
def test_a_search_is_measured_with_its_recall(tmp_path, method, queries):
    row = neighbors.measure(neighbor_options(tmp_path), method, "clustered")
    assert set(row) >= ROW - {"ratio"} and row["shape"] == [900, 16] and row["queries"] == queries
    assert row["recall"] > 0.9
    assert row["recall"] == 1 or method == "hnsw"


def test_recall_is_that_of_brute_force():
    vectors = neighbors.clustered_vectors(300, 8)
    similarity = (vectors @ vectors.T).fill_diagonal_(-2)
    score, index = similarity.topk(neighbors.COUNT, dim=1)
    assert neighbors.held_out_recall(vectors, Neighbors(index, score)) == 1
    far = (-similarity).topk(neighbors.COUNT, dim=1).indices
    half = torch.cat([index[:, :3], far[:, :2]], dim=1)
    assert neighbors.held_out_recall(vectors, Neighbors(half, similarity.gather(1, half))) == pytest.approx(3 / 5)


def test_a_wrong_exact_search_is_not_timed(tmp_path, monkeypatch):
    def shifted(vectors, count):
        index = (torch.arange(len(vectors))[:, None] + torch.arange(1, count + 1)) % len(vectors)
        return Neighbors(index, torch.zeros(index.shape))

    neighbors.check_exact()
    monkeypatch.setattr(neighbors, "find_neighbors", shifted)
    monkeypatch.setattr(neighbors, "fresh_process", lambda *_: pytest.fail("timed"))
    with pytest.raises(AssertionError):
        neighbors.run_all(neighbor_options(tmp_path, "--only", "exact-clustered"))


def test_ratios_compare_a_query_with_the_exact_search_of_the_same_vectors():
    exact = neighbor_row(variant="exact, real", seconds=100.0, queries=1000)
    rows = [exact, neighbor_row(variant="ivf, real", seconds=1.0, queries=100), neighbor_row(variant="ivf, uniform")]
    neighbors.add_ratios(rows)
    assert [row["ratio"] for row in rows] == [1, 10, 0]
