"""Evaluation: known predictors get the numbers they must get; files and the command line say what is wrong."""

import platform
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from tiny_dataset import write_tiny_dataset

from lib import evaluation
from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import Prediction, Run, evaluate, evaluate_instances, summarize, summary
from lib.evaluation.__main__ import main
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import marching_cubes
from lib.systems import make_system
from lib.systems.base import System
from lib.systems.checkpoints import load_system, save_weights
from lib.systems.sdf_srn import SDFSRN, SDFSRNConfig
from lib.training.recipes import RECIPES

QUICK = {"points": 2000, "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def test_split(folder):
    return PreparedDataset(folder, "test")


def about_z(degrees):
    return Rotation.from_euler("z", degrees, degrees=True).as_matrix()


def oracle(dataset, turn=0.0, azimuth_shift=0.0, scale=1.0):
    """The true mesh, its frame turned about z, seen from an azimuth that is wrong by a shift."""

    def predict(batch):
        rotations = batch.viewpoint.rotation().double().numpy()
        result = []
        for row, rotation in zip(batch.index, rotations, strict=True):
            mesh = dataset.mesh(int(row))
            mesh.vertices = mesh.vertices @ about_z(turn).T * scale
            result.append(Prediction(mesh, rotation @ about_z(azimuth_shift) @ about_z(turn).T))
        return result

    return predict


def value_of(rows, metric, protocol="none", category="all"):
    found = [r for r in rows if (r["metric"], r["protocol"], r["category"]) == (metric, protocol, category)]
    assert len(found) == 1
    return found[0]["value"]


def test_the_true_shape_has_only_the_sampling_error(test_split):
    rows = evaluate(oracle(test_split), test_split, protocols=("raw", "view", "icp"), **QUICK)
    searched = evaluate(oracle(test_split), test_split, protocols=("rotation",), rows=[0], **QUICK)
    assert value_of(searched, "chamfer_distance", "rotation") < 0.03
    for protocol in ("raw", "view", "icp"):
        # spacing of 2,000 points on an area of about 3: sqrt(3 / 2000) / 2 = 0.02
        assert value_of(rows, "chamfer_distance", protocol) < 0.025
        assert value_of(rows, "f_score@0.1", protocol) == pytest.approx(1, abs=0.01)
    assert value_of(rows, "azimuth_error") == pytest.approx(0, abs=1e-3)
    assert value_of(rows, "rotation_error") == pytest.approx(0, abs=1e-2)
    assert value_of(rows, "azimuth_within_30") == 1
    assert value_of(rows, "empty_meshes") == 0
    assert {row["n"] for row in rows if row["category"] == "all"} == {6}
    assert {row["n"] for row in rows if row["category"] == "box"} == {3}


def test_each_protocol_notices_what_it_should(test_split):
    settings = {"protocols": ("raw", "view"), **QUICK}
    changes = {"exact": {}, "turned": {"turn": 90}, "small": {"scale": 0.5}, "wrong": {"azimuth_shift": 50}}
    rows = {name: evaluate(oracle(test_split, **change), test_split, **settings) for name, change in changes.items()}
    view = {name: value_of(results, "chamfer_distance", "view") for name, results in rows.items()}
    raw = {name: value_of(results, "chamfer_distance", "raw") for name, results in rows.items()}
    assert view["turned"] == pytest.approx(view["exact"], rel=0.05)
    assert view["small"] == pytest.approx(view["exact"], rel=0.05)
    assert view["wrong"] > 1.2 * view["exact"]
    assert raw["turned"] > 1.2 * raw["exact"]
    assert raw["small"] > 3 * raw["exact"]
    assert raw["wrong"] == pytest.approx(raw["exact"])


@pytest.mark.parametrize(("shift", "error"), [(0, 0), (25, 25), (180, 0), (160, 20), (90, 90)])
def test_azimuth_error_allows_a_half_turn_of_the_whole_set(test_split, shift, error):
    rows = evaluate(oracle(test_split, azimuth_shift=shift), test_split, protocols=(), **QUICK)
    assert value_of(rows, "azimuth_error") == pytest.approx(error, abs=1e-2)
    assert value_of(rows, "azimuth_error_iqr") == pytest.approx(0, abs=1e-2)
    assert value_of(rows, "azimuth_within_30") == (error <= 30)
    if error != 90:  # there both offsets are as good
        assert value_of(rows, "rotation_error") <= error + 1e-2


def test_empty_meshes_are_counted_and_measured_as_a_point(test_split):
    def predict(batch):
        rotations = batch.viewpoint.rotation().double().numpy()
        meshes = [trimesh.Trimesh() if row % 2 else test_split.mesh(int(row)) for row in batch.index]
        return [Prediction(mesh, rotation) for mesh, rotation in zip(meshes, rotations, strict=True)]

    instances = evaluate_instances(predict, test_split, protocols=("raw", "view"), **QUICK)
    wide = instances[instances["protocol"] != "view"].pivot(index="id", columns="metric", values="value")
    assert wide["empty"].sum() == 3
    assert (wide.loc[wide["empty"] == 1, "accuracy"] > 0.2).all()  # a point in the middle is far from any side
    assert np.isfinite(instances["value"]).all()
    rows = summarize(instances, test_split, Run("half"))
    assert value_of(rows, "empty_meshes") == 3


def test_two_runs_are_identical_and_a_part_measures_as_the_whole(test_split):
    first = evaluate_instances(oracle(test_split), test_split, seed=5, **QUICK)
    second = evaluate_instances(oracle(test_split), test_split, seed=5, batch_size=2, **QUICK)
    pd.testing.assert_frame_equal(first, second)
    part = evaluate_instances(oracle(test_split), test_split, seed=5, rows=[4], **QUICK)
    pd.testing.assert_frame_equal(part, first[first["id"] == part["id"].iloc[0]].reset_index(drop=True))
    other = evaluate_instances(oracle(test_split), test_split, seed=6, **QUICK)
    assert not np.array_equal(first["value"], other["value"])


class BallSystem(System):
    """The face of a system: a ball of radius 0.3 seen from azimuth 40, or from where it is told."""

    def __init__(self, viewpoint):
        super().__init__()
        self.needs_viewpoint = viewpoint == "given"
        self.config = SimpleNamespace(viewpoint=viewpoint)
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def reconstruct(self, images, viewpoint=None):
        assert (viewpoint is None) == (not self.needs_viewpoint)
        count = len(images)
        guess = Viewpoint.from_angles(torch.full((count,), 40.0).deg2rad(), torch.zeros(count))

        def mesh(resolution, index, colored):
            assert not colored  # nobody looks at what is only measured
            return marching_cubes(lambda p: np.linalg.norm(p, axis=1) - 0.3, resolution=resolution)

        return SimpleNamespace(viewpoint=viewpoint or guess, mesh=mesh)


@pytest.mark.parametrize("viewpoint", ["predicted", "given"])
def test_a_system_is_measured_with_its_own_or_the_given_viewpoint(test_split, viewpoint):
    rows = evaluate(evaluation.system_predictor(BallSystem(viewpoint), 30, colored=False), test_split, **QUICK)
    assert value_of(rows, "f_score@0.01", "raw") < 0.05
    measured = [row["metric"] for row in rows if row["protocol"] == "none" and row["category"] == "all"]
    if viewpoint == "given":  # nothing was predicted
        assert measured == ["empty_meshes"]
    else:
        assert value_of(rows, "azimuth_entropy") == 0


def test_bootstrap_of_means_has_the_width_that_theory_gives():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    value, low, high = evaluation.bootstrap_interval(values, range(400), summary.weighted_mean)
    assert value == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    # 40 models of 10 equal views carry no more than 40 values
    repeated, models = np.repeat(values[:40], 10), np.repeat(np.arange(40), 10)
    _, low, high = evaluation.bootstrap_interval(repeated, models, summary.weighted_mean)
    assert high - low == pytest.approx(2 * 1.96 * values[:40].std() / np.sqrt(40), rel=0.15)


@pytest.mark.parametrize("size", [1, 2, 7, 10])
def test_weighted_statistics_equal_numpy_on_repeated_values(size):
    generator = np.random.default_rng(size)
    values, weights = generator.normal(size=size), generator.integers(0, 4, (20, size)).astype(float)
    weights[:, 0] += 1
    repeated = [np.repeat(values, row.astype(int)) for row in weights]
    assert summary.weighted_quantile(values, weights) == pytest.approx([np.median(r) for r in repeated])
    quarter = [np.quantile(r, 0.25, method="averaged_inverted_cdf") for r in repeated]
    assert summary.weighted_quantile(values, weights, 0.25) == pytest.approx(quarter)
    assert summary.weighted_mean(values, weights) == pytest.approx([r.mean() for r in repeated])
    assert summary.weighted_sum(values, weights) == pytest.approx([r.sum() for r in repeated])


def test_results_survive_a_file_and_make_a_table(test_split, tmp_path):
    rows = evaluate(oracle(test_split), test_split, run=Run("one", "quick", 10, 3), **QUICK)
    rows += evaluate(oracle(test_split, scale=0.5), test_split, run=Run("two", "quick", 10, 3), **QUICK)
    evaluation.write_results(tmp_path / "results.json", rows)
    again = evaluation.read_results(tmp_path / "results.json")
    assert again == rows
    instances = evaluate_instances(oracle(test_split), test_split, protocols=("raw",), **QUICK)
    evaluation.write_instances(tmp_path / "instances.parquet", instances)
    pd.testing.assert_frame_equal(evaluation.read_instances(tmp_path / "instances.parquet"), instances)
    assert not list(tmp_path.glob("*.tmp"))
    odd = rows[0] | {"value": float("nan"), "high": float("inf")}
    evaluation.write_results(tmp_path / "odd.json", [odd])
    assert evaluation.read_results(tmp_path / "odd.json") == [odd | {"value": None, "high": None}]
    assert platform.node() not in evaluation.machine() and "cores" in evaluation.machine()
    assert set(rows[0]) == set(evaluation.RESULT_COLUMNS)
    assert (rows[0]["profile"], rows[0]["steps"], rows[0]["seed"], rows[0]["split"]) == ("quick", 10, 3, "test")
    table = evaluation.results_table(again, protocol="raw")
    assert list(table.index) == ["one", "two"]
    assert table.loc["two", "10 x CD"] == pytest.approx(
        10 * value_of(rows[len(rows) // 2 :], "chamfer_distance", "raw")
    )
    assert {"FS@1", "FS@5", "FS@10", "azimuth error", "azimuth entropy", "empty meshes"} <= set(table)
    every = evaluation.results_table(again, protocol=None, category=None, intervals=True)
    assert set(every.index.get_level_values("category")) == {"all", "ball", "box"}
    assert every.notna().all(axis=None)
    assert every["10 x CD"].iloc[0].count("[") == 1
    with pytest.raises(InputError, match="no results"):
        evaluation.results_table(again, protocol="rotation")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(("results.json", text, r"results\.json") for text in ("{}", "[1]", '[{"system": "x"}]', "[", "")),
        ("broken.parquet", "nothing", "not a parquet file"),
        ("absent.parquet", None, "does not exist"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    read = evaluation.read_results if name.endswith("json") else evaluation.read_instances
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("lacks", "settings", "message"),
    [
        ("viewpoints", {}, "only protocol 'raw'"),
        ("meshes", {}, "no true mesh"),
        (None, {"protocols": ("sideways",)}, "sideways"),
        (None, {"thresholds": (0.0,)}, "positive"),
        (None, {"points": 0}, "positive"),
    ],
)
def test_what_cannot_be_measured_is_refused(test_split, tmp_path, lacks, settings, message):
    data = test_split
    if lacks:
        data = PreparedDataset(write_tiny_dataset(tmp_path / "lacking", **{lacks: False}), "test")
    with pytest.raises(InputError, match=message):
        evaluate(lambda batch: [], data, progress=False, **settings)


def test_shapes_without_viewpoints_are_measured_as_they_are(tmp_path):
    blind = PreparedDataset(write_tiny_dataset(tmp_path / "blind", viewpoints=False), "test")

    def predict(batch):
        return [Prediction(blind.mesh(int(row)), np.eye(3)) for row in batch.index]

    rows = evaluate(predict, blind, protocols=("raw",), **QUICK)
    assert value_of(rows, "chamfer_distance", "raw") < 0.025


def run_main(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr()


def test_command_line_measures_baselines(folder, tmp_path, capsys):
    output, instances = tmp_path / "results.json", tmp_path / "instances.parquet"
    arguments = ["--dataset", folder, "--output", output, "--instances", instances, "--points", 500, "--limit", 2]
    code, printed = run_main(capsys, *arguments, "--baselines", "sphere", "box", "--categories", "box")
    assert code == 0, printed.err
    rows = evaluation.read_results(output)
    assert {row["system"] for row in rows} == {"sphere", "box (true view)", "box (fixed view)"}
    assert {row["n"] for row in rows} == {2}
    assert set(evaluation.read_instances(instances)["system"]) == {row["system"] for row in rows}
    assert "10 x CD" in printed.out


def test_command_line_measures_checkpoints_of_two_seeds(folder, tmp_path, capsys):
    config = replace(RECIPES["small-given"].system, backbone_weights="random")
    for seed in (1, 2):
        torch.manual_seed(seed)
        about = {"training": {"seed": seed}, "step": 10 * seed}
        save_weights(tmp_path / str(seed), make_system(config), about)
    arguments = ["--dataset", folder, "--output", tmp_path / "r.json", "--points", 200, "--resolution", 16]
    arguments += ["--limit", 2, "--protocols", "view", "--profile", "quick"]
    arguments += ["--checkpoint", tmp_path / "1", tmp_path / "2"]
    code, printed = run_main(capsys, *arguments)
    assert code == 0, printed.err
    rows = evaluation.read_results(tmp_path / "r.json")
    about = {(row["system"], row["profile"], row["seed"], row["steps"]) for row in rows}
    assert about == {("shapeclipper (true view)", "quick", seed, 10 * seed) for seed in (1, 2)}
    assert list(evaluation.results_table(rows).index.get_level_values("seed")) == [1, 2]


SDF_SRN = SDFSRNConfig(
    backbone="test_resnet",
    backbone_weights="random",
    image_size=32,
    latent_size=8,
    hyper_layers=1,
    hyper_width=8,
    width=8,
    frequencies=2,
    rays=40,
    eikonal_points=30,
    distance=5.0,
    focal=4.0,
)


@pytest.fixture(scope="module")
def sdf_srn(tmp_path_factory):
    """A checkpoint of a tiny system."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sdf-srn")
    save_weights(folder, SDFSRN(SDF_SRN), {"training": {"seed": 3}, "step": 7, "profile": "quick"})
    return folder


def test_command_line_measures_a_checkpoint_by_rotation_search_and_with_refined_codes(
    folder, test_split, sdf_srn, tmp_path, capsys
):
    """One file with both, as the ledger reads it; every number is that of the function behind it."""
    output = tmp_path / "r.json"
    arguments = ["--dataset", folder, "--output", output, "--points", 200, "--resolution", 16, "--limit", 1]
    arguments += ["--protocols", "raw", "rotation", "--checkpoint", sdf_srn, "--refine", 2]
    code, printed = run_main(capsys, *arguments)
    assert code == 0, printed.err
    rows, system = evaluation.read_results(output), load_system(sdf_srn)
    refined = evaluation.refined_predictor(system, 16, 2, colored=False)
    measured = evaluation.system_predictor(system, 16, colored=False)
    names = {"sdf_srn (true view)": measured, "sdf_srn (true view), 2 steps of test-time optimization": refined}
    assert [row["system"] for row in rows if row["metric"] == "empty_meshes" and row["category"] == "all"] == [*names]
    for name, predictor in names.items():
        options = {"protocols": ("raw", "rotation"), "points": 200, "rows": [0], "progress": False}
        expected = evaluate(predictor, test_split, **options)
        ours = [row for row in rows if row["system"] == name]
        for protocol in ("raw", "rotation"):
            value = value_of(ours, "chamfer_distance", protocol)
            assert value == pytest.approx(value_of(expected, "chamfer_distance", protocol))
    assert {(row["profile"], row["seed"], row["steps"]) for row in rows} == {("quick", 3, 7)}


def test_refined_codes_do_not_depend_on_the_other_images(test_split, sdf_srn):
    predict = evaluation.refined_predictor(load_system(sdf_srn), 16, 2, colored=False)
    plain = evaluation.system_predictor(load_system(sdf_srn), 16, colored=False)
    with torch.no_grad():
        both, alone = predict(test_split.batch(torch.tensor([0, 4]))), predict(test_split.batch(torch.tensor([4])))
        before = plain(test_split.batch(torch.tensor([4])))
    assert np.array_equal(both[1].mesh.vertices, alone[0].mesh.vertices) and len(alone[0].mesh.vertices)
    assert both[1].mesh.vertices.shape != before[0].mesh.vertices.shape or not np.allclose(
        both[1].mesh.vertices, before[0].mesh.vertices, atol=1e-5
    )
    assert np.allclose(both[1].rotation, test_split.viewpoint[4].rotation()[0].numpy()) and both[1].true_view


def test_systems_without_test_time_optimisation_are_refused():
    config = replace(RECIPES["small-given"].system, backbone_weights="random")
    with pytest.raises(InputError, match="has no test-time optimisation; measure a checkpoint of sdf_srn"):
        evaluation.refined_predictor(make_system(config))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Nothing to measure"),
        (["--checkpoint", "nowhere"], "does not exist"),
        (["--baselines", "cylinder"], "cylinder"),
        (["--baselines", "sphere", "--categories", "boat"], "boat"),
        (["--baselines", "sphere", "--limit", "0"], "--limit"),
        (["--checkpoint", "nowhere", "--refine", "0"], "--refine must be at least 1 step, not 0."),
        (["--checkpoint", "nowhere", "--device", "cuda:77"], "cuda:77"),
        (["--baselines", "sphere", "--output", "absent/results.json"], "absent"),
        (["--baselines", "sphere", "--dataset", "no"], "no"),
    ],
)
def test_command_line_says_what_is_wrong_in_a_sentence(folder, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, printed = run_main(capsys, "--dataset", folder, "--output", "results.json", *arguments)
    assert code == 2
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
