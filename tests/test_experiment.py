"""Experiments: two real cells through papermill (one resumed, one that fails), skipping, refusals, and the table."""

import json
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import yaml
from papermill.cli import NoDatesSafeLoader
from safetensors.torch import load_file
from tiny_dataset import write_tiny_dataset

from lib.course import experiment, experiment_cells, experiment_report
from lib.course.experiment import _parser, _settings, main, run_cells, run_experiment
from lib.course.experiment_cells import ABOUT, Settings, plan_cells
from lib.course.experiment_report import keep_report
from lib.course.grids import FULL, GRIDS, REFINED, Grid, find_grid, find_recipe, grid_results, size_of
from lib.course.run import Job, Result, papermill_command
from lib.data.loading import PreparedDataset
from lib.data.prepared import write_metadata
from lib.errors import InputError
from lib.evaluation import (
    evaluate_instances,
    read_instances,
    read_results,
    refined_predictor,
    system_predictor,
    write_results,
)
from lib.evaluation.comparison import compare_rows, comparison_table
from lib.evaluation.results import check_one_commit, commit
from lib.evaluation.studies import study_row
from lib.files import write_json
from lib.systems import make_system
from lib.systems.checkpoints import load_system, save_weights
from lib.systems.sdf_srn import SDFSRNConfig
from lib.training.__main__ import choose_device
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

TINY = {
    "backbone": "test_resnet",
    "backbone_weights": "random",
    "image_size": 32,
    "freeze_batchnorm": False,
    "latent_size": 16,
    "rays": 16,
    "samples": 8,
    "pretrain_points": 50,
    "semantic_weight": 0.0,
    "normal_weight": 0.0,
    "steps": 5,
    "pretrain_steps": 1,
    "batch_size": 3,
    "log_every": 1,
    "save_every": 2,
}
GRID = Grid("A tiny table", "quick", "view", {FULL: {}, "broken": {"learning_rate": 1e15}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny dataset with one training model for validation."""
    folder = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")
    table = pd.read_parquet(folder / "metadata.parquet")
    table.loc[table["model"] == "cube", "split"] = "val"
    rows = [{k: v for k, v in row.items() if pd.notna(v)} for row in table.to_dict("records")]
    write_metadata(folder, rows, {"name": "tiny", "source": "tests", "licence": "MIT", "version": "1"})
    return folder


@pytest.fixture(scope="module")
def settings(folder, tmp_path_factory) -> Settings:
    output = tmp_path_factory.mktemp("experiment")
    return Settings(output, 1, "", tuple(TINY.items()), folder, "box", "quick", "cpu")


def train_cell(cell, run: Path, stop: int | None = None) -> None:
    """What notebook 08 does, without it."""
    recipe = find_recipe(cell.parameters["recipe"]).changed(**cell.parameters["changes"], seed=cell.seed)
    data, validation = (PreparedDataset(cell.parameters["data_root"], part, ["box"]) for part in ("train", "val"))
    torch.manual_seed(cell.seed)
    system, options = make_system(recipe.system), {"validation": validation, "accelerator": choose_device("cpu")}
    train(system, recipe.training, data, run, stop_after=stop, **options)


@pytest.fixture(scope="module")
def done(settings):
    """The grid, run once, its first cell interrupted before at step 3; the failures and all that was said."""
    cell, said = plan_cells(GRID, settings)[0], []
    train_cell(cell, cell.folder, stop=3)
    log = cell.folder / "log.jsonl"
    log.write_text(log.read_text().replace('"seconds": ', '"seconds": 1000'))  # a mark: these rows are of before
    return run_experiment(GRID, settings, jobs=2, say=said.append), said


def test_failed_cell_is_one_sentence_and_the_other_is_finished(done, settings):
    failures, said = done
    assert len(failures) == 1 and "\n" not in failures[0]
    assert failures[0].startswith("broken, seed 0: ") and "is not finite" in failures[0]
    full, broken = plan_cells(GRID, settings)
    assert full.finished and not broken.finished
    assert "FloatingPointError" in (broken.folder / "cell.log").read_text()
    assert any("full, seed 0" in line and " ok " in line for line in said)
    assert "1 of 2 cells" in said[-1]


def test_interrupted_cell_went_on_and_ended_as_if_it_had_not_been(done, settings, tmp_path):
    cell = plan_cells(GRID, settings)[0]
    rows = read_log(cell.folder / "log.jsonl")
    steps = [row["step"] for row in rows if row["phase"] != "validation"]
    assert steps == [1, 2, 3, 4, 5, 6] and rows[0]["seconds"] >= 1000
    train_cell(cell, tmp_path / "whole")
    ours, whole = (load_file(run / "weights.safetensors") for run in (cell.folder, tmp_path / "whole"))
    assert [name for name in whole if not torch.equal(ours[name], whole[name])] == []


def test_results_table_and_figure_are_those_of_the_finished_cell(done, settings):
    rows = read_results(settings.output / "results.json")
    assert {row["system"] for row in rows} == {"quick: full"} and {row["profile"] for row in rows} == {"quick"}
    key = {"protocol": "view", "metric": "chamfer_distance", "category": "all"}
    one, mean = [next(r for r in rows if key.items() <= r.items() and r["seed"] == seed) for seed in (0, None)]
    assert (
        one["value"] == pytest.approx(mean["value"])
        and one["steps"] == mean["steps"] == TINY["pretrain_steps"] + TINY["steps"]
    )
    table = pd.read_csv(settings.output / "table.csv", index_col="row")
    assert float(table.loc[FULL, "10 x CD"]) == pytest.approx(10 * one["value"], abs=6e-4)
    assert f"| {FULL} | {10 * one['value']:.3f} |" in (settings.output / "table.md").read_text()
    assert (settings.output / "instances.png").read_bytes().startswith(b"\x89PNG")


def test_finished_cell_is_skipped(done, settings):
    cell, said = plan_cells(GRID, settings)[0], []
    before = {path: path.stat().st_mtime_ns for path in cell.folder.rglob("*")}
    assert run_experiment(replace(GRID, rows={FULL: {}}), settings, say=said.append) == []
    assert "1 of 1 cells were finished before" in said
    assert {path: path.stat().st_mtime_ns for path in cell.folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"seeds": 0}, "SEEDS: must be at least 1, not 0"),
        ({"category": "spoon"}, "'spoon'"),
        ({"recipe": "soup"}, "no 'soup'"),
        ({"changes": (("wings", 2),)}, "wings"),
        ({"changes": tuple({**TINY, "rays": 17}.items())}, r"holds a cell with changes\.rays"),
        ({"profile": "full"}, "holds a cell with profile 'quick' instead of 'full'"),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_runs(done, settings, change, complaint):
    with pytest.raises(InputError, match="^[^\n]*" + complaint):
        plan_cells(GRID, replace(settings, **change))


def test_a_setting_that_is_newer_than_a_cell_does_not_undo_it(done, settings):
    cell = plan_cells(GRID, settings)[0]
    about = json.loads((cell.folder / ABOUT).read_text())
    older = about | {"system": {key: value for key, value in about["system"].items() if key != "learn"}}
    write_json(cell.folder / ABOUT, older)
    assert plan_cells(GRID, settings)[0].finished
    write_json(cell.folder / ABOUT, older | {"training": about["training"] | {"warmup": 5}})
    with pytest.raises(InputError, match=r"holds a cell with training\.warmup 5 instead of 0: choose"):
        plan_cells(GRID, settings)
    write_json(cell.folder / ABOUT, about)


def test_results_without_their_cell_are_refused(settings, tmp_path):
    cell = plan_cells(GRID, replace(settings, output=tmp_path))[0]
    write_json(cell.folder / "results.json", [])
    with pytest.raises(InputError, match=f"no {ABOUT}"):
        plan_cells(GRID, replace(settings, output=tmp_path))


def test_ctrl_c_stops_the_cell_and_leaves_no_process(settings, tmp_path):
    def press(line):
        raise KeyboardInterrupt

    cells = plan_cells(GRID, replace(settings, output=tmp_path))
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    with pytest.raises(KeyboardInterrupt):
        run_cells(cells, say=lambda line: None, status=press)
    assert {process.pid for process in psutil.Process().children(recursive=True)} <= before
    assert not cells[0].finished and not cells[1].folder.exists()


# --- a row that trains nothing --------------------------------------------------------------------------------------

SDF_SRN = {name: TINY[name] for name in TINY if name in {f.name for f in fields(SDFSRNConfig) + fields(TrainingConfig)}}
SDF_SRN |= {"width": 8, "hyper_width": 8, "frequencies": 2, "hyper_layers": 1, "refine_steps": 2}
REFINES = Grid("Another", "sdf-srn-quick", "raw", {FULL: {}, REFINED: {}}, REFINED)


@pytest.fixture
def refining(settings, tmp_path) -> Settings:
    return replace(settings, output=tmp_path, changes=tuple(SDF_SRN.items()))


def test_refined_row_measures_the_full_methods_networks(refining):
    """Through papermill, but for the full cell's training."""
    full, refined = plan_cells(REFINES, refining)
    train_cell(full, full.folder)
    write_results(full.folder / "results.json", [])
    assert run_cells([full, refined], say=lambda line: None) == []
    assert not (refined.folder / "weights.safetensors").exists()
    test, about = PreparedDataset(refining.dataset, "test", ["box"]), {"protocols": ("raw",), "progress": False}
    about |= {"points": 5_000}
    system, values = load_system(full.folder), {}
    for steps in (None, 1, 2):
        predictor = system_predictor(system, 48, colored=False)
        if steps is not None:
            predictor = refined_predictor(system, 48, steps, refined.seed, colored=False)
        values[steps] = evaluate_instances(predictor, test, **about)["value"].tolist()
    measured = read_instances(refined.folder / "instances.parquet")
    assert set(measured["row"]) == {REFINED}
    measured = measured[(measured["protocol"] == "raw") | (measured["metric"] == "empty")]["value"].tolist()
    assert measured == pytest.approx(values[2], rel=1e-6)
    assert values[2] != pytest.approx(values[None], rel=1e-6) and values[2] != pytest.approx(values[1], rel=1e-6)


def test_refined_row_waits_for_its_networks(refining, monkeypatch):
    """Also where several cells run at a time and it stands first; without them it fails in a sentence."""
    ran = []

    def run_jobs(jobs, **_):
        for job in jobs:
            ran.append(job.parameters["row"])
            write_results(job.log.with_name("results.json"), [])
        return [Result(job.name, "ok", 0.0, 0.0, "", {}, "", "") for job in jobs]

    monkeypatch.setattr(experiment, "run_jobs", run_jobs)
    full, refined = plan_cells(REFINES, refining)
    (failure,) = run_cells([refined], say=lambda line: None)
    assert "the cell 'full' of this seed" in failure and ran == []
    assert run_cells([refined, full], jobs=2, say=lambda line: None) == []
    assert ran == [FULL, REFINED]


def test_steps_of_refinement_are_its_rows_alone(refining):
    """So that networks that were trained before can be refined for longer or shorter."""
    full, refined = plan_cells(REFINES, refining)
    assert (refined.parameters["changes"]["refine_steps"], refined.about["system"]["refine_steps"]) == (2, 2)
    changed = replace(refining, changes=(*refining.changes, ("refine_steps", 7)))
    other, longer = plan_cells(REFINES, changed)
    assert other.about == full.about and longer.parameters["changes"]["refine_steps"] == 7


# --- settings of all cells, and what is kept ------------------------------------------------------------------------


@pytest.fixture
def checkpoint(settings, tmp_path) -> Path:
    recipe = find_recipe("quick").changed(**dict(settings.changes))
    save_weights(tmp_path / "start", make_system(recipe.system), {})
    return tmp_path / "start"


def options(settings: Settings, *more: str) -> list[str]:
    pairs = [f"{name}={json.dumps(value)}" for name, value in settings.changes]
    place = ["--dataset", str(settings.dataset), "--category", settings.category, "--output", str(settings.output)]
    how = ["--profile", "quick", "--device", "cpu", "--recipe", "quick", "--seeds", "1"]
    return ["tables-2-3", *how, *place, "--set", *pairs, *more]


def test_settings_and_start_reach_every_cell_and_make_it(settings, tmp_path, checkpoint):
    given = replace(settings, output=tmp_path / "out")
    parsed = _settings(_parser().parse_args(options(given, "--set", "rays=17", "--start", str(checkpoint))))
    cells = plan_cells(GRIDS["tables-2-3"], parsed)
    for cell in cells:
        assert cell.parameters["changes"]["rays"] == cell.about["system"]["rays"] == 17
        assert cell.about["training"]["start"] == str(checkpoint)
    write_json(cells[1].folder / ABOUT, cells[1].about)
    plan_cells(GRIDS["tables-2-3"], parsed)
    for name, value in {"start": "", "rays": 16, "learning_rate": 0.5}.items():
        with pytest.raises(InputError, match=rf"holds a cell with changes\.{name} .* instead of .*choose"):
            plan_cells(GRIDS["tables-2-3"], replace(parsed, changes=(*parsed.changes, (name, value))))


@pytest.mark.parametrize("wrong", ["nowhere", "another"])
def test_start_is_checked_before_anything_runs(settings, tmp_path, checkpoint, capsys, wrong):
    start = tmp_path / "start" if wrong == "another" else tmp_path / wrong
    more = ["--set", "latent_size=24"] if wrong == "another" else []
    given = replace(settings, output=tmp_path / "out")
    assert main(options(given, "--start", str(start), *more)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and str(start) in said
    assert not given.output.exists()


@pytest.mark.parametrize(
    ("commits", "complaint"),
    [
        (["a1", "a1"], ""),
        (["a1", "b2"], "mixes numbers of the commits a1, b2"),
        (["a1", "a1, b2"], "mixes numbers of the commits a1, b2"),  # a cell that went on at another commit
        (["a1+changes"], "commit 'a1\\+changes'"),
        (["a1", "a1+changes"], "mixes"),
        (["unknown"], "commit 'unknown'"),
    ],
)
def test_a_table_is_of_one_clean_commit(commits, complaint):
    refused = pytest.raises(InputError, match=f"^table [^\n]*{complaint}") if complaint else nullcontext()
    with refused:
        check_one_commit(commits, "table")


def test_a_kept_table_of_several_commits_is_not_shown(tmp_path):
    assert grid_results("tables-2-3", tmp_path) is None
    path = tmp_path / "tables-2-3.json"
    rows = [study_row("full", "view", "chamfer_distance", 1, "unit", n=1) | {"commit": "a1"} for _ in range(2)]
    write_json(path, rows)
    assert grid_results("tables-2-3", tmp_path) == rows
    write_json(path, [rows[0], rows[1] | {"commit": "b2"}])
    with pytest.raises(InputError, match="tables-2-3.json mixes numbers of the commits a1, b2"):
        grid_results("tables-2-3", tmp_path)


def test_a_cell_that_went_on_at_another_commit_is_not_kept(done, settings, tmp_path, monkeypatch):
    grid = replace(GRID, rows={FULL: {}})
    run_experiment(grid, settings, say=lambda line: None)
    cells = plan_cells(grid, settings)
    results = settings.output / "results.json"
    monkeypatch.setattr(experiment_report, "read_results", lambda path: [{"commit": "a1"}])
    about = json.loads((cells[0].folder / ABOUT).read_text())
    assert about["commits"] == [commit()]
    write_json(cells[0].folder / ABOUT, about | {"commits": ["a1"]})
    keep_report("tables-2-3", settings, cells, tmp_path)
    monkeypatch.setattr(experiment_cells, "commit", lambda: "b2")
    cells[0].begin()
    with pytest.raises(InputError, match=f"{results.parent} mixes numbers of the commits a1, b2"):
        keep_report("tables-2-3", settings, cells, tmp_path)
    write_json(cells[0].folder / ABOUT, about)


def test_whole_experiment_is_kept_where_the_ledger_looks(done, settings, tmp_path, monkeypatch):
    grid, said = replace(GRID, rows={FULL: {}}), []
    run_experiment(grid, settings, say=said.append)
    cells = plan_cells(grid, settings)
    monkeypatch.setattr(
        experiment_report, "check_one_commit", lambda commits, what: None
    )  # this checkout may have changes
    path = keep_report("tables-2-3", settings, cells, tmp_path)
    assert path == tmp_path / "tables-2-3-tiny-box-quick.json"
    assert read_results(path) == read_results(settings.output / "results.json")
    assert path.with_suffix(".png").read_bytes() == (settings.output / "instances.png").read_bytes()
    assert "rays=16" in said[-1]  # what was changed stands above the table
    with pytest.raises(InputError, match="--keep: 1 of 2 cells are not finished"):
        keep_report("tables-2-3", settings, plan_cells(GRID, settings), tmp_path / "more")
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("tables-9", "there is no experiment 'tables-9'"),
        ("tables-2-3 --seeds 0", "at least 1"),
        ("tables-2-3 --jobs 0", "at least 1"),
        ("tables-2-3 --recipe soup", "no 'soup'"),
        ("tables-2-3 --set rays", "--set rays: write name=value"),
        ("tables-2-3 --set wings=2", "wings"),
    ],
)
def test_command_line_prints_one_sentence_and_returns_2(arguments, complaint, tmp_path, capsys):
    assert main([*arguments.split(), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and complaint in said
    assert not (tmp_path / "out").exists()


def test_every_row_of_every_grid_changes_its_recipe_and_only_there():
    for name, grid in GRIDS.items():
        assert find_grid(name) is grid and next(iter(grid.rows)) == FULL and grid.rows[FULL] == {}
        full = find_recipe(grid.recipe)
        assert grid.refined in ("", list(grid.rows)[-1])
        for row, changes in list(grid.rows.items())[1:]:
            if row == grid.refined:
                assert changes == {}
                continue
            changed = full.changed(**changes)
            assert changed != full, (name, row)
            have = [{**asdict(changed.system), **asdict(changed.training)}[name] for name in changes]
            assert have == list(changes.values()) and full.changed(**changes) == changed


def test_parameters_reach_papermill_as_they_are():
    given = {"changes": {"learning_rate": 1e-05, "neighbors": "größe", "steps": 3, "flag": True}, "row": "w/o normal"}
    command = papermill_command(Job("a", Path("a.ipynb"), Path("b.ipynb"), Path("c.log"), given))
    assert yaml.load(command[command.index("--parameters_yaml") + 1], Loader=NoDatesSafeLoader) == given


def test_sizes():
    sizes = {
        "small-given": "small",
        "quick": "quick",
        "sdf-srn-quick": "quick",
        "sdf-srn": "paper",
        "released": "paper",
    }
    assert {recipe: size_of(recipe, "full") for recipe in sizes} == sizes
    assert size_of("paper", "quick") == "quick"


# --- the comparison, with numbers that can be worked out by hand ----------------------------------------------------

# image of model -> value of the reference; model m's images differ between each other by far more than rows do
REFERENCE = {("a", 0): 0.1, ("a", 1): 0.9, ("b", 0): 0.4}


def cells_of(difference: dict[int, dict[str, float]]) -> pd.DataFrame:
    """Cells of a reference row and another, which differs by so much in a seed and a model."""
    records = []
    for seed, by_model in difference.items():
        for (model, image), value in REFERENCE.items():
            about = {"seed": seed, "id": f"{model}{image}", "category": "c", "model": model, "protocol": "view"}
            one = about | {"metric": "chamfer_distance", "value": value + 0.01 * seed}
            records += [one | {"row": FULL}, one | {"row": "other", "value": one["value"] + by_model[model]}]
    return pd.DataFrame(records)


def compared(cells: pd.DataFrame) -> dict[str, dict]:
    about = {row: {"system": f"r: {row}", "dataset": "d"} for row in (FULL, "other")}
    rows = compare_rows(cells, about, FULL)
    return {f"{row['system'][3:]} {row['metric']}": row for row in rows}


def test_means_and_spread_over_seeds():
    found = compared(cells_of({0: {"a": 0.0, "b": 0.0}, 1: {"a": 0.0, "b": 0.0}, 4: {"a": 0.0, "b": 0.0}}))
    means = [1.4 / 3 + 0.01 * seed for seed in (0, 1, 4)]
    assert found["full chamfer_distance"]["value"] == pytest.approx(np.mean(means))
    assert found["full chamfer_distance_spread"]["value"] == pytest.approx(np.std(means, ddof=1))
    assert (found["full chamfer_distance"]["n"], found["full chamfer_distance_spread"]["n"]) == (3, 3)
    assert {row["seed"] for row in found.values()} == {None}
    assert "full chamfer_distance_difference" not in found


def test_azimuth_errors_of_predicted_viewpoints_are_compared_too():
    """By hand: full is off by 10, 20 and 30 degrees, the other by twice that in a frame that is turned around."""
    cells = cells_of({0: {"a": 0.0, "b": 0.0}, 1: {"a": 0.0, "b": 0.0}})
    signed = {(FULL, "a0"): 10, (FULL, "a1"): -20, (FULL, "b0"): 30}
    signed |= {("other", "a0"): -160, ("other", "a1"): 140, ("other", "b0"): 120}
    values = [signed[key] for key in zip(cells["row"], cells["id"], strict=True)]
    azimuths = cells.assign(protocol="none", metric="azimuth_difference", value=np.array(values, dtype=float))
    both = [cells, cells.assign(metric="accuracy"), cells.assign(metric="completeness"), azimuths]
    rows = compared(pd.concat([*both, cells.assign(metric="f_score@0.05")]))
    assert rows["other azimuth_error_mean_difference"]["unit"] == "degree"
    table = comparison_table(list(rows.values()), "view")
    assert table.loc[FULL, "azimuth off by (°)"] == "20.0 ± 0.0"
    assert table.loc["other", "azimuth off by (°)"] == "40.0 ± 0.0"
    assert table.loc["other", "azimuth off by (°), difference"] == "+20.0 [+15.0, +30.0] *"


def test_pairing_sees_a_small_constant_difference_that_the_means_hide():
    found = compared(cells_of({0: {"a": 0.02, "b": 0.02}, 1: {"a": 0.02, "b": 0.02}}))
    difference = found["other chamfer_distance_difference"]
    assert [difference[key] for key in ("value", "low", "high")] == pytest.approx([0.02] * 3)
    own, reference = found["other chamfer_distance"], found["full chamfer_distance"]
    assert own["low"] < reference["high"]  # unpaired, the intervals overlap
    assert found["other chamfer_distance_agreeing"]["value"] == 2


def test_models_are_drawn_with_all_their_images():
    """Two models: a draw has only a's, only b's, or both, so the interval ends at the models' own means."""
    difference = compared(cells_of({0: {"a": -0.03, "b": 0.05}}))["other chamfer_distance_difference"]
    assert difference["value"] == pytest.approx((2 * -0.03 + 0.05) / 3)
    assert (difference["low"], difference["high"]) == pytest.approx((-0.03, 0.05))


def test_only_seeds_that_both_rows_have_are_paired():
    cells = cells_of({0: {"a": 0.01, "b": 0.01}, 1: {"a": 0.5, "b": 0.5}})
    cells = cells[(cells["row"] != FULL) | (cells["seed"] == 0)]
    found = compared(cells)
    assert found["other chamfer_distance_difference"]["value"] == pytest.approx(0.01)
    assert found["other chamfer_distance_agreeing"]["n"] == 1


@pytest.mark.parametrize(
    ("by_seed", "star"),
    [
        ({0: 0.02, 1: 0.03}, True),
        ({0: 0.02}, False),  # one seed says nothing about training
        ({0: 0.08, 1: -0.01}, False),  # the seeds disagree
    ],
)
def test_star_needs_an_interval_beyond_0_and_seeds_that_agree(by_seed, star):
    cells = cells_of({seed: {"a": d, "b": d} for seed, d in by_seed.items()})
    both = [cells, cells.assign(metric="accuracy"), cells.assign(metric="completeness")]
    rows = compared(pd.concat([*both, cells.assign(metric="f_score@0.05")]))
    table = comparison_table(list(rows.values()), "view")
    cell = table.loc["other", "10 x CD, difference"]
    assert cell.endswith("*") == star
    assert cell.startswith(f"{10 * np.mean(list(by_seed.values())):+.3f} [")
    assert table.loc[FULL, "10 x CD, difference"] == ""
