"""Runs that begin with a checkpoint: what they take from it, what they leave, and colours for finished shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny import EVERYTHING, make_batch, make_system, write_prepared

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.systems import make_system as make_any
from lib.systems.checkpoints import begin_with, load_system, save_weights
from lib.systems.sdf_srn_small import SMALL as SDF_SRN
from lib.training.__main__ import export, main
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train
from lib.training.recipes import COLOR_RECIPES, RECIPES

GIVEN = replace(EVERYTHING, viewpoint="given", guess_weight=0.0, mirror_weight=0.0)
TEXTURE = replace(EVERYTHING, learn="texture", mean_color=True, guess_weight=0.0)
STEPS = TrainingConfig(
    steps=4, pretrain_steps=0, batch_size=2, learning_rate=3e-4, log_every=1, save_every=2, validate_every=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset(write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=0, views=2), "train")


@pytest.fixture(scope="module")
def shapes(data, tmp_path_factory) -> Path:
    """The run folder of a trained system."""
    run = tmp_path_factory.mktemp("runs") / "shapes"
    go(EVERYTHING, data, run, pretrain_steps=1)
    return run


def go(config, data, run: Path, weights: int = 5, stop: int | None = None, **changes):
    system = make_system(config, weights)
    return train(system, replace(STEPS, **changes), data, run, accelerator=Accelerator(cpu=True), stop_after=stop)


# --- taking weights ------------------------------------------------------------------------------------------------


def test_a_system_of_the_same_configuration_takes_everything(shapes):
    system = make_system(EVERYTHING, seed=9)
    begin_with(system, shapes)
    saved = load_file(shapes / "weights.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in system.state_dict().items())


@pytest.mark.parametrize("config", [GIVEN, replace(GIVEN, mean_color=True)])
def test_parts_that_only_one_has_are_left_as_they_are(shapes, config):
    system, before = make_system(config, seed=9), make_system(config, seed=9).state_dict()
    begin_with(system, shapes)
    saved = load_file(shapes / "weights.safetensors")
    assert any(name.startswith("viewpoint_head") for name in saved.keys() - before.keys())
    for name, tensor in system.state_dict().items():
        assert torch.equal(tensor, saved.get(name, before[name]))


def test_what_does_not_fit_is_one_sentence_and_changes_nothing(shapes, tmp_path):
    wide = make_system(replace(EVERYTHING, latent_size=20), seed=9)
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(InputError, match="another configuration"):
        begin_with(wide, shapes)
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())
    other = make_any(replace(SDF_SRN, backbone="test_resnet", backbone_weights="random"))
    with pytest.raises(InputError, match="start: .* of system 'shapeclipper_small', not of 'sdf_srn_small'"):
        begin_with(other, shapes)
    with pytest.raises(InputError, match="nowhere"):
        begin_with(wide, tmp_path / "nowhere")


def test_a_paused_run_that_began_with_a_checkpoint_equals_the_whole_one(data, shapes, tmp_path):
    begun = {"start": str(shapes), "seed": 3}
    whole = go(EVERYTHING, data, tmp_path / "whole", **begun)
    go(EVERYTHING, data, tmp_path / "paused", stop=3, **begun)
    paused = go(EVERYTHING, data, tmp_path / "paused", weights=8, **begun)  # other new weights do not matter
    fresh = go(EVERYTHING, data, tmp_path / "fresh", **(begun | {"start": ""}))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, paused.state_dict()[name])
    assert not torch.equal(whole.sdf_field.head.weight, fresh.sdf_field.head.weight)
    with pytest.raises(InputError, match="another training setting"):
        go(EVERYTHING, data, tmp_path / "whole", **(begun | {"start": ""}))


# --- colours -------------------------------------------------------------------------------------------------------


def test_colours_are_learned_and_shapes_and_viewpoints_stay(data, shapes, tmp_path):
    before = make_system(TEXTURE, seed=5).eval()
    begin_with(before, shapes)
    assert torch.equal(before.texture_field.first.weight, make_system(TEXTURE, seed=5).texture_field.first.weight)
    after = go(TEXTURE, data, tmp_path / "run", start=str(shapes))
    images = make_batch(4).rgb
    with torch.no_grad():
        for old, new in zip(before.encode(images)[::2], after.encode(images)[::2], strict=True):
            for field in ("azimuth", "elevation", "distance") if hasattr(old, "azimuth") else ():
                assert torch.equal(getattr(old, field), getattr(new, field))
            assert hasattr(old, "azimuth") or torch.equal(old, new)
    moved = {name for name, tensor in after.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])}
    assert {name.partition(".")[0] for name in moved} - {"progress"} == {"texture_field", "codes", "color_code"}
    assert all(name.startswith("codes.texture_projection") for name in moved if name.startswith("codes"))


def test_shapes_that_would_move_with_batch_normalisation_are_refused():
    for change in ({"head_batchnorm": True}, {"freeze_batchnorm": False}):
        with pytest.raises(InputError, match="learn: 'texture' needs freeze_batchnorm"):
            replace(TEXTURE, **change)


def test_color_recipes_differ_from_those_of_the_shapes_in_what_they_learn():
    for name, recipe in COLOR_RECIPES.items():
        shapes = RECIPES[name.removesuffix("-colors")].system
        weights = [key for key in vars(shapes) if key.endswith("_weight") and key != "rgb_weight"]
        kept = {key: value for key, value in vars(recipe.system).items() if key not in weights}
        assert kept == {k: v for k, v in vars(shapes).items() if k not in weights} | {
            "learn": "texture", "mean_color": True, "beta": shapes.beta_final
        }  # fmt: skip
        assert not any(getattr(recipe.system, key) for key in weights)


def test_the_command_asks_whose_colours(data, tmp_path, capsys):
    assert main(["small-colors", "--dataset", str(data.prepared.folder), "--run", str(tmp_path / "run")]) == 2
    assert "say whose, --set start=FOLDER" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_exported_log_begins_with_that_of_the_shapes(data, shapes, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    export(load_system(shapes), shapes, first)
    export(go(TEXTURE, data, tmp_path / "run", start=str(first)), tmp_path / "run", second)
    rows = read_log(second / "train.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [row["phase"] for row in rows] == ["pretraining"] + 4 * ["training"] + 4 * ["colors"]
    about = json.loads((second / "config.json").read_text())
    assert about["step"] == 9 and about["training"]["start"] == str(first)
    assert json.loads((first / "config.json").read_text())["step"] == 5
    shipped = load_system(second)
    expected = {name: tensor.half() for name, tensor in load_file(tmp_path / "run" / "weights.safetensors").items()}
    assert all(torch.equal(tensor.half(), expected[name]) for name, tensor in shipped.state_dict().items())
    (first / "train.jsonl").unlink()  # weights without a log are a start, too
    export(shipped, tmp_path / "run", tmp_path / "third")
    assert [row["step"] for row in read_log(tmp_path / "third" / "train.jsonl")] == [1, 2, 3, 4]
    save_weights(tmp_path / "again", shipped, {})  # and it can be saved and read again
    assert load_system(tmp_path / "again").config.learn == "texture"
