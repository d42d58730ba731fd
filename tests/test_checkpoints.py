"""Weights and training states on disk: what is read is what was written, and a failure leaves the old file whole."""

import errno
import json
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY, make_batch, make_system

from lib.errors import InputError
from lib.files import read_json, write_atomically, write_json
from lib.networks.weights import read_tensors
from lib.paths import WEIGHTS
from lib.systems.checkpoints import load_system, save_weights, translated
from lib.systems.shapeclipper import PAPER
from lib.training.state import load_training, read_about, save_training


@pytest.fixture(scope="module")
def system():
    """One that has been trained for a step, so that its buffers are not the first ones."""
    system = make_system(TINY, seed=3, shake=0.05)
    system.losses(make_batch(4), torch.Generator().manual_seed(0))
    return system


@pytest.fixture
def saved(system, tmp_path) -> Path:
    save_weights(tmp_path / "saved", system, {"step": 7, "dataset": "discs"})
    return tmp_path / "saved"


def edit(folder: Path, **changes) -> None:
    """Change settings in ``config.json``."""
    about = json.loads((folder / "config.json").read_text())
    about["config"] |= changes
    (folder / "config.json").write_text(json.dumps(about))


# --- round trips ---------------------------------------------------------------------------------------------------


def test_a_system_comes_back_bit_for_bit_in_evaluation_mode(system, saved):
    loaded = load_system(saved)
    assert not loaded.training
    assert asdict(loaded.config) == {**asdict(system.config), "backbone_weights": "random"}
    ours, theirs = system.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_config_says_what_was_trained(system, saved):
    about = json.loads((saved / "config.json").read_text())
    assert about["system"] == "shapeclipper" and about["step"] == 7 and about["dataset"] == "discs"
    assert about["config"]["latent_size"] == TINY.latent_size


def test_half_precision_halves_the_file_and_keeps_the_shape(system, saved, tmp_path):
    save_weights(tmp_path / "half", system, {}, half=True)
    sizes = [(folder / "weights.safetensors").stat().st_size for folder in (tmp_path / "half", saved)]
    assert sizes[0] < 0.6 * sizes[1]
    stored = load_file(tmp_path / "half" / "weights.safetensors")
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    loaded = load_system(tmp_path / "half")
    for name, tensor in system.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=2**-10, atol=1e-6)
    images, points = make_batch(1).rgb, torch.rand(1, 200, 3) - 0.5
    exact = load_system(saved).reconstruct(images).sdf(points)
    torch.testing.assert_close(loaded.reconstruct(images).sdf(points), exact, rtol=0, atol=0.02)


def test_weights_do_not_depend_on_the_order_of_memory(tmp_path):
    system = make_system(TINY, seed=1).to(memory_format=torch.channels_last)
    assert any(p.ndim == 4 and not p.is_contiguous() for p in system.parameters())
    save_weights(tmp_path, system, {})
    for name, tensor in load_system(tmp_path).state_dict().items():
        assert torch.equal(tensor, system.state_dict()[name]), name


def trained_optimizer(system) -> torch.optim.Adam:
    optimizer = torch.optim.Adam(system.parameters(), 1e-3)
    for step in range(2):
        optimizer.zero_grad()
        sum(system.losses(make_batch(3), torch.Generator().manual_seed(step)).values()).backward()
        optimizer.step()
    return optimizer


def test_training_state_brings_back_weights_moments_and_notes(tmp_path):
    system = make_system(TINY)
    optimizer = trained_optimizer(system)
    save_training(tmp_path / "state.safetensors", system, optimizer, {"step": 2, "best": None})
    other = make_system(TINY, seed=9)
    fresh = torch.optim.Adam(other.parameters(), 1e-3)
    assert load_training(tmp_path / "state.safetensors", other, fresh) == {"step": 2, "best": None}
    assert read_about(tmp_path / "state.safetensors") == {"step": 2, "best": None}
    assert all(
        torch.equal(a, b) for a, b in zip(system.state_dict().values(), other.state_dict().values(), strict=True)
    )
    for ours, theirs in zip(system.parameters(), other.parameters(), strict=True):
        assert optimizer.state[ours].keys() == fresh.state[theirs].keys()
        for key, value in optimizer.state[ours].items():
            assert torch.equal(value, fresh.state[theirs][key]), key


@pytest.mark.parametrize(
    ("folder", "name", "settings"),
    [
        ("shapeclipper-furniture-chair", "shapeclipper_small", {"guess_weight": 0.0, "mean_color": True}),
        ("shapeclipper-furniture-chair-given", "shapeclipper_small", {"viewpoint": "given", "beta_final": 0.015}),
        ("sdf-srn-furniture-chair", "sdf_srn_small", {"hit_gradient": "implicit", "cube_weight": 1.0}),
    ],
)
def test_shipped_checkpoints_load_under_todays_names(folder, name, settings):
    system = load_system(WEIGHTS / folder, expected=name.removesuffix("_small"))
    assert system.name == name and {key: getattr(system.config, key) for key in settings} == settings


def test_an_older_checkpoint_of_the_papers_system_is_the_papers(tmp_path):
    """It named every setting of ours, turned off, and held how far the training was."""
    system = make_system(TINY)
    save_weights(tmp_path, system, {})
    edit(tmp_path, width=64, guess_weight=0.0, mean_color=False, beta_final=None, render_path="auto")
    path = tmp_path / "weights.safetensors"
    save_file({**load_file(path), "progress": torch.tensor(1.0)}, path)
    loaded = load_system(tmp_path)
    assert loaded.name == "shapeclipper" and loaded.config == replace(TINY, backbone_weights="random")
    assert translated("shapeclipper", asdict(PAPER)) == ("shapeclipper", asdict(PAPER))


# --- what does not fit ---------------------------------------------------------------------------------------------


def test_another_system_is_refused(saved):
    about = json.loads((saved / "config.json").read_text())
    with pytest.raises(InputError, match="'shapeclipper', not of 'sdf_srn'"):
        load_system(saved, expected="sdf_srn")
    (saved / "config.json").write_text(json.dumps({**about, "system": "sdf_srn"}))
    with pytest.raises(InputError, match="sdf_srn"):
        load_system(saved)
    assert load_system_error(saved, expected="shapeclipper").count("\n") == 0


def load_system_error(folder: Path, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        load_system(folder, **kwargs)
    return str(caught.value)


@pytest.mark.parametrize("changes", [{"latent_size": 8}, {"viewpoint": "given"}])
def test_weights_of_another_configuration_are_refused(saved, changes):
    edit(saved, **changes)
    assert "another configuration" in load_system_error(saved)


@pytest.mark.parametrize("changes", [{"wings": 2}, {"normal_keep": 7}, {"backbone": "no_such_network"}])
def test_settings_that_make_no_system_are_refused(saved, changes):
    edit(saved, **changes)
    assert next(iter(changes)) in load_system_error(saved)


@pytest.mark.parametrize("text", ["[]", "{}", '{"system": "shapeclipper"}', '{"config": 3}', "{", "\x00"])
def test_config_that_is_none_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    assert "config.json" in load_system_error(saved)


def test_config_that_is_no_text_is_refused(saved):
    (saved / "config.json").write_bytes(b"\xff\xfe\x00")
    assert "config.json" in load_system_error(saved)


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_missing_files_are_named(saved, name):
    (saved / name).unlink()
    message = load_system_error(saved)
    assert name in message and "does not exist" in message


@pytest.mark.parametrize("keep", [0, 5, 100, -10])
def test_truncated_weights_are_refused(saved, keep):
    path = saved / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "damaged" in load_system_error(saved)


def test_missing_and_surplus_tensors_are_named(saved):
    path = saved / "weights.safetensors"
    state = load_file(path)
    save_file({name: t for name, t in state.items() if name != "raw_beta"}, path)
    assert "'raw_beta'" in load_system_error(saved)
    save_file({**state, "wings": torch.zeros(2)}, path)
    assert "'wings'" in load_system_error(saved)


def test_refused_state_leaves_the_system_as_it_was(saved, tmp_path):
    other = make_system(replace(TINY, latent_size=24))
    optimizer = torch.optim.Adam(other.parameters())
    state = tmp_path / "state.safetensors"
    save_training(state, make_system(TINY), torch.optim.Adam(make_system(TINY).parameters()), {})
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(InputError, match="another configuration"):
        load_training(state, other, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path)):
        read_json(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        read_tensors(tmp_path)


# --- writing whole or not at all -----------------------------------------------------------------------------------


def test_no_space_left_keeps_the_old_file_and_leaves_nothing_behind(system, saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr("os.replace", lambda *args: full(*args))
    with pytest.raises(InputError, match="No space left on device.*free some space"):
        save_weights(saved, system, {"step": 8})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


@pytest.fixture
def little_space():
    """Files cannot grow beyond 4 kB while this holds: the nearest to a full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_while_writing_keeps_the_old_file(system, saved, little_space):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(InputError, match="could not write .*weights.safetensors"):
        save_weights(saved, system, {"step": 8})
    with pytest.raises(InputError, match="could not write .*config.json"):
        write_json(saved / "config.json", ["long"] * 10_000)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, lambda p: p.write_text("old"))

    def fail(temporary: Path):
        temporary.write_text("half of the n")
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(InputError, match=r"file\.txt \(Input/output error\)"):
        write_atomically(path, fail)
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not write"):
        write_json(tmp_path / "file" / "config.json", {})
