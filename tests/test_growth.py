"""Growth of a step: what is counted, what is predicted from it, and what is refused."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import growth
from lib.errors import InputError
from lib.plots.growth import AXES, BYTES, dataset_curve, growth_figure, growth_sentences, paces_of, step_curves

RENDER, NETWORK = 1 / 40, 1 / 90  # seconds a GFLOP, of the world below


def world_row(batch=2, rays=512, samples=64, image=224, variant="plain") -> dict:
    """A row of a machine that is exactly as simple as the prediction says."""
    rendering, networks = batch * rays * samples / 1000, batch * image**2 / 1000
    kept = rendering * 20 + networks * 3
    row = {"name": "growth", "variant": variant, "device": "cpu", "threads": 2, "base": [2, 512, 64, 224]}
    row |= {"shape": [batch, rays, samples, image], "gflop": rendering + networks, "ceiling_gflops": 100.0}
    row |= {"cpu_seconds": 2 * (RENDER * rendering + NETWORK * networks), "seconds": 99.0}
    return row | {"memory_mb": 900 + kept, "kept_mb": kept}


def world() -> list[dict]:
    points = growth.points_of(list(growth.STEP_AXES), ["plain"])
    rows = [world_row(**{name: value for name, value in point.items() if name != "path"}) for point in points]
    sets = [
        {"name": "growth_dataset", "variant": "memory", "device": "cpu", "threads": 1, "shape": [n, 64]} for n in (9, 5)
    ]
    return rows + [row | {"cpu_seconds": 0.001, "kept_mb": row["shape"][0] * 64**2 * BYTES / 1e6} for row in sets]


def test_the_prediction_is_exact_where_its_assumptions_hold():
    rows = world()
    paces = paces_of([row for row in rows if row["name"] == "growth"])
    assert (paces.rendering, paces.networks) == pytest.approx((RENDER, NETWORK))
    for axis, curves in step_curves(rows).items():
        curve = curves["plain"]
        assert curve.sizes == growth.STEP_AXES[axis]
        assert curve.predicted_seconds == pytest.approx(curve.seconds)
        assert curve.predicted_memory == pytest.approx(curve.memory)


def test_a_point_that_was_slower_than_its_count_lies_off_the_line():
    rows = [
        row | {"cpu_seconds": row["cpu_seconds"] * (2 if row["shape"][2] == 128 else 1)}
        for row in world()
        if "base" in row
    ]
    curve = step_curves(rows)["samples"]["plain"]
    assert curve.seconds[-1] == pytest.approx(2 * curve.predicted_seconds[-1])


def test_a_dataset_is_predicted_from_bytes_alone():
    curve = dataset_curve(world())
    assert curve.sizes == (5, 9)
    assert curve.predicted_memory == pytest.approx([n * 64 * 64 * 14 / 1e6 for n in (5, 9)])
    assert curve.memory == pytest.approx(curve.predicted_memory)


def test_ways_are_predicted_from_their_own_points_and_may_lack_axes():
    rows = world() + [world_row(rays=rays, variant="fast") for rays in (128, 512)]
    curves = step_curves(rows)
    assert curves["rays"]["fast"].sizes == (128, 512) and curves["batch"]["fast"].sizes == (2,)
    assert len(growth_figure(rows).axes) == 10


@pytest.mark.parametrize("lacking", [[2, 512, 64, 224], [2, 128, 64, 224]])
def test_rows_that_set_no_pace_are_refused(lacking):
    rows = [row for row in world() if row["shape"] != lacking and row["shape"] != [2, 256, 64, 224]]
    with pytest.raises(InputError, match=r"run python -m benchmarks\.growth again"):
        growth_sentences(rows)


def test_the_sentences_read_the_rows():
    text = " ".join(growth_sentences(world()))
    share = 65.536 / (65.536 + 100.352)
    assert f"counts 166 GFLOP, {share:.0%} of them for rendering; it takes 2.8 s" in text
    assert "Rendering runs at 40 GFLOP/s and the image networks at 90; " in text
    assert "4 times as many images (1 to 4) take 4.0 times as long" in text
    assert "Worst predictions, plain: they miss time by 0%" in text and "from 9 images" in text


@settings(max_examples=30, deadline=None)
@given(
    rendering=st.floats(0.005, 0.1),
    networks=st.floats(0.002, 0.02),
    noise=st.lists(st.integers(-50, 50), min_size=20, max_size=20),
)
def test_noise_in_the_times_bounds_what_a_prediction_misses(rendering, networks, noise):
    """The law holds but for at most 5 % a row: the line, which two rows set, lies within what these two can do."""
    rows, truth = [row for row in world() if "base" in row], {}
    for row, error in zip(rows, noise, strict=False):
        batch, rays, samples, image = row["shape"]
        parts = rendering * batch * rays * samples / 1000, networks * batch * image**2 / 1000
        truth[tuple(row["shape"])] = sum(parts)
        row["cpu_seconds"] = row["threads"] * sum(parts) * (1 + error / 1000)
    base, fewest = truth[2, 512, 64, 224], truth[2, 128, 64, 224]
    of_rays = (base + fewest) / (1 - 128 / 512)  # seconds of rendering in the base come from a difference
    spread = {"batch": base, "rays": of_rays, "samples": of_rays, "image": base + of_rays}
    share = {"batch": 165.888, "rays": 65.536, "samples": 65.536, "image": 100.352}  # GFLOP of the base
    for axis, curves in step_curves(rows).items():
        for size, line in zip(curves["plain"].sizes, curves["plain"].predicted_seconds, strict=True):
            shape = tuple((growth.BASE | {axis: size}).values())
            counted = world_row(*shape)["gflop"] - world_row()["gflop"]
            assert abs(line - truth[shape]) <= 0.05 * (base + spread[axis] * abs(counted) / share[axis]) * (1 + 1e-9)


def test_the_worst_miss_is_said_of_every_way():
    """A way twice as slow as its count says in one place is missed by half there, and the others not at all."""
    others = [row | {"variant": way} for way in ("fast", "compiled") for row in world() if "base" in row]
    for row in others:
        if (row["variant"], row["shape"][2]) == ("fast", 128):
            row["cpu_seconds"] *= 2
        if (row["variant"], row["shape"][0]) == ("compiled", 4):
            row["memory_mb"] *= 4
    plain, fast, compiled = (text for text in growth_sentences(world() + others) if text.startswith("Worst"))
    assert plain.startswith("Worst predictions, plain: they miss time by 0%") and "memory by 0%" in plain
    assert "in chunks: they miss time by 50% (128 samples a ray) and memory by 0%" in fast
    assert "in chunks, compiled: they miss time by 0%" in compiled and "memory by 75% (4 images)" in compiled
    assert [line.get_label() for line in growth_figure(world() + others).axes[0].lines[1::2]] == [
        "plain",
        "in chunks",
        "in chunks, compiled",
    ]


def test_the_shipped_rows_make_the_figure():
    from lib.paths import RESULTS

    rows = json.loads((RESULTS / "growth.json").read_text())
    assert {"plain", "fast"} <= {row["variant"] for row in rows} and all(row["machine"] for row in rows)
    assert set(step_curves(rows)) == set(AXES)
    assert len(growth_figure(rows).axes) == 10
    assert len(growth_sentences(rows)) == 5 + len({row["variant"] for row in rows if row["name"] == "growth"})


# --- measuring -----------------------------------------------------------------------------------------------------


def test_every_axis_passes_through_the_base_which_is_measured_once():
    points = growth.points_of(growth.AXES, ["plain", "fast"])
    base = [point for point in points if {k: v for k, v in point.items() if k != "path"} == growth.BASE]
    assert len(base) == 2
    steps = sum(len(values) - 1 for values in growth.STEP_AXES.values())
    assert len(points) == 2 * (steps + 1) + len(growth.VIEWS)


def test_kept_bytes_are_those_of_the_saved_tensors_shared_ones_once():
    x = torch.ones(1000, requires_grad=True)
    assert growth.kept_bytes(lambda: x.exp().sum()) == 4000  # the result
    assert growth.kept_bytes(lambda: (x.exp() * 2).sum()) == 4000
    assert growth.kept_bytes(lambda: (x * x).view(10, 100).sum()) == 4000  # x, twice
    assert growth.kept_bytes(lambda: x.exp().sin().exp().sum()) == 8000  # both results


def test_a_dataset_row_holds_the_bytes_of_its_tensors():
    options = growth.parse(["--rounds", "1", "--threads", "1"])
    row = growth.measure({"views": 1}, options)
    samples, side = row["shape"]
    assert row["kept_mb"] == pytest.approx(samples * side**2 * BYTES / 1e6, abs=1e-3)
    assert row["memory_mb"] > row["kept_mb"] and row["seconds"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--axes", "rays", "sofas"], "--axes 'sofas' is unknown"),
        (["--paths", "quick"], "--paths 'quick' is unknown"),
        (["--rounds", "0"], "--rounds must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(tmp_path, capsys, arguments, sentence):
    assert growth.main([*arguments, "--output", str(tmp_path / "growth.json")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
