"""Sets in shards: the same images and losses as in memory, in bounded memory, and one sentence for what is damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from tiny import TINY, make_system, write_prepared

import data_scripts.shard_dataset as script
from lib.data.loading import PreparedDataset
from lib.data.shards import ShardedDataset, open_dataset, shard_path
from lib.errors import InputError
from lib.training.__main__ import main
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

SAMPLE = 16 * 16 * (3 + 1 + 6)  # bytes
TRAINING = TrainingConfig(steps=3, pretrain_steps=1, batch_size=3, log_every=1, validate_every=2)
ROWS = 5  # a shard


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=2, views=2)


@pytest.fixture(scope="module")
def sharded(prepared, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "shards"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "GROUP_BYTES", 2 * SAMPLE)
        assert script.main([str(prepared), str(output), "--rows-per-shard", str(ROWS)]) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(ours, theirs):
    for name in ("index", "rgb", "mask", "normal", "ray_weights"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert a.dtype == b.dtype and torch.equal(a, b), name
    assert torch.equal(ours.viewpoint.azimuth, theirs.viewpoint.azimuth)


@pytest.mark.parametrize("chosen", [{}, {"split": "val"}, {"split": "train", "categories": ["disc"], "views": 1}])
def test_batches_are_those_of_the_set_in_memory(prepared, sharded, chosen):
    whole, data = PreparedDataset(prepared, **chosen), open_dataset(sharded, **chosen)
    assert type(data) is ShardedDataset and type(open_dataset(prepared)) is PreparedDataset
    assert (data.name, len(data)) == (whole.name, len(whole))
    assert data.metadata["id"].tolist() == whole.metadata["id"].tolist()
    index = torch.randperm(len(whole))
    ours, theirs = (some.batch(index, index.flip(0)) for some in (data, whole))
    same(ours, theirs)
    same(ours.neighbor, theirs.neighbor)
    assert torch.equal(data.masks(index), theirs.mask)


@pytest.mark.parametrize("weighting", ["uniform", "silhouette"])
def test_training_gives_the_same_losses(prepared, sharded, tmp_path, weighting):
    config, logs = replace(TINY, viewpoint="given", neighbor_weighting=weighting), []
    for folder in (prepared, sharded):
        data, held_out = open_dataset(folder, "train"), open_dataset(folder, "val")
        run = tmp_path / folder.name
        settings = {"validation": held_out, "accelerator": Accelerator(cpu=True)}
        train(make_system(config), TRAINING, data, run, **settings)
        logs.append([{k: v for k, v in row.items() if k != "seconds"} for row in read_log(run / "log.jsonl")])
    assert logs[0] == logs[1] and len(logs[0]) == 6


def test_memory_is_bounded_and_groups_are_read_once_a_batch(sharded):
    limit = 2 * 2 * SAMPLE
    data = ShardedDataset(sharded, cache=limit)
    for _ in range(10):
        before = data.groups_read
        data.batch(torch.randperm(12))
        assert 0 < data.cached <= limit
        assert data.groups_read - before <= 7  # of 2 + 2 + 1, 2 + 2 + 1, and 2 images
    before = data.groups_read
    data.batch(torch.tensor([11, 10]))
    data.batch(torch.tensor([10, 11, 11]))
    assert data.groups_read - before <= 1  # the group was kept
    roomy, none = ShardedDataset(sharded), ShardedDataset(sharded, cache=0)
    for _ in range(2):
        roomy.batch(torch.arange(12))
        none.batch(torch.arange(12))
    assert (roomy.groups_read, roomy.cached) == (7, 12 * SAMPLE)
    assert none.groups_read > 7 and none.cached == 0


def test_command_line_trains_on_shards(sharded, tmp_path):
    sizes = ["width=8", "latent_size=8", "code_size=4", "rays=8", "neighbor_rays=8", "samples=4", "pretrain_points=8"]
    steps = ["pretrain_steps=1", "steps=1", "batch_size=2", "semantic_weight=0.0"]
    command = ["small-given", "--dataset", str(sharded), "--run", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--set", *sizes, *steps]) == 0
    assert (tmp_path / "weights.safetensors").exists()


def test_stopped_writing_goes_on_and_gives_the_same_bytes(prepared, sharded, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "GROUP_BYTES", 2 * SAMPLE)
    command, write, written = [str(prepared), str(tmp_path / "out"), "--rows-per-shard", str(ROWS)], script._write, []

    def stop_at_the_second(prepared, layout, partial, number):
        written.append(number)
        if len(written) == 2:
            raise KeyboardInterrupt
        write(prepared, layout, partial, number)

    with monkeypatch.context() as patch:
        patch.setattr(script, "_write", stop_at_the_second)
        assert script.main(command) == 130
        assert not (tmp_path / "out").exists()
        assert script.main(command) == 0
    assert written == [0, 1, 1, 2]
    assert contents(tmp_path / "out") == contents(sharded)
    assert not (tmp_path / "out.partial").exists()


# --- what is wrong -------------------------------------------------------------------------------------------------


def copied(sharded: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sharded, tmp_path / "copy"))


def missing(folder: Path):
    shard_path(folder, 1).unlink()


def cut_off(folder: Path):
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[:-20])


def changed(folder: Path):
    path = shard_path(folder, 1)
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)


def swapped(folder: Path):
    shutil.copyfile(shard_path(folder, 0), shard_path(folder, 1))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [(missing, "is missing"), (cut_off, "is damaged"), (changed, "is damaged"), (swapped, "another dataset or place")],
)
def test_damaged_shards_are_one_sentence(sharded, tmp_path, damage, complaint):
    folder = copied(sharded, tmp_path)
    damage(folder)
    data = ShardedDataset(folder)
    data.batch(torch.arange(ROWS))
    with pytest.raises(InputError, match=f"00001.parquet {complaint}|00001.parquet belongs to {complaint}"):
        data.batch(torch.arange(12))


def test_shards_of_another_dataset_are_refused(sharded, tmp_path):
    folder = copied(sharded, tmp_path)
    other = write_prepared(tmp_path / "other", train=5, val=2, views=2)
    shutil.copyfile(other / "metadata.parquet", folder / "metadata.parquet")
    with pytest.raises(InputError, match="does not belong to metadata.parquet"):
        ShardedDataset(folder)
    (folder / "shards.json").write_text(json.dumps({"samples": 3}))
    with pytest.raises(InputError, match="does not describe shards"):
        ShardedDataset(folder)


def test_what_needs_all_images_is_refused(sharded, tmp_path):
    data = ShardedDataset(sharded, "train")
    with pytest.raises(InputError, match="choose 'uniform' or 'silhouette'"):
        system = make_system(replace(TINY, neighbor_weighting="released"))
        train(system, TRAINING, data, tmp_path / "run", accelerator=Accelerator(cpu=True))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="'normal' of all its images is not in memory"):
        data.normal  # noqa: B018  what is refused


def test_guesses_are_those_of_the_set_in_memory(prepared, sharded):
    guesses = []
    for data in (PreparedDataset(prepared, "train"), ShardedDataset(sharded, "train", cache=0)):
        system = make_system(replace(TINY, guess_weight=0.1))
        system.prepare(data)
        guesses.append(system.guesses)
    assert guesses[0].shape == (len(data), 2) and torch.equal(*guesses)


def test_command_refuses_what_it_cannot_shard(prepared, tmp_path, capsys):
    mine = Path(shutil.copytree(prepared, tmp_path / "mine"))
    assert script.main([str(prepared), str(mine)]) == 2
    assert "but no shards.json, so it is not replaced" in capsys.readouterr().err
    assert contents(mine) == contents(prepared)
    assert script.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "There is no prepared folder" in capsys.readouterr().err
