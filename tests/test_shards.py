"""Sets on disk: the same images and losses as in memory, and one sentence for what is damaged."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from tiny import EVERYTHING, TINY, make_system, write_prepared

import data_scripts.shard_dataset as script
from lib.data.loading import PreparedDataset
from lib.data.prepared import read_prepared, write_metadata
from lib.data.shards import ShardedDataset, open_dataset
from lib.errors import InputError
from lib.paths import REPOSITORY
from lib.training.__main__ import main
from lib.training.log import read_log
from lib.training.loop import TrainingConfig, train

TRAINING = TrainingConfig(steps=3, pretrain_steps=1, batch_size=3, log_every=1, validate_every=2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=2, views=2)


@pytest.fixture(scope="module")
def sharded(prepared, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("data") / "shards"
    assert script.main([str(prepared), str(output)]) == 0
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


def test_command_line_trains_on_shards(sharded, tmp_path):
    sizes = ["latent_size=8", "rays=8", "neighbor_rays=8", "samples=4", "pretrain_points=8"]
    steps = ["pretrain_steps=1", "steps=1", "batch_size=2", "semantic_weight=0.0"]
    command = ["small-given", "--dataset", str(sharded), "--run", str(tmp_path), "--device", "cpu"]
    assert main([*command, "--set", *sizes, *steps]) == 0
    assert (tmp_path / "weights.safetensors").exists()


def test_masks_in_files_and_samples_without_normals(prepared, tmp_path):
    mixed = Path(shutil.copytree(prepared, tmp_path / "mixed"))
    found = read_prepared(mixed)
    rows = found.metadata.to_dict("records")
    image = Image.open(mixed / rows[0]["image"])
    image.getchannel("A").save(mixed / "images" / "mask.png")
    image.convert("RGB").save(mixed / rows[0]["image"])
    rows[0]["mask"], rows[-1]["normal"] = "images/mask.png", None
    write_metadata(mixed, rows, found.info)
    assert script.main([str(mixed), str(tmp_path / "out")]) == 0
    for split in ("train", "val"):
        whole, data = PreparedDataset(mixed, split), ShardedDataset(tmp_path / "out", split)
        index = torch.arange(len(whole))
        ours, theirs = data.batch(index), whole.batch(index)
        assert torch.equal(ours.rgb, theirs.rgb) and torch.equal(ours.mask, theirs.mask)
        assert (ours.normal is None) == (theirs.normal is None) == (split == "val")


def test_nothing_is_written_at_home_and_the_network_is_not_asked(prepared, tmp_path):
    """In a process of its own, whose sockets fail."""
    code = f"""
import socket
def refuse(*_, **__): raise OSError("no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import torch
import data_scripts.shard_dataset as script
from lib.data.shards import open_dataset
assert script.main([{str(prepared)!r}, {str(tmp_path / "out")!r}]) == 0
print(open_dataset({str(tmp_path / "out")!r}).batch(torch.tensor([3, 0])).rgb.shape)
"""
    home = tmp_path / "home"
    home.mkdir()
    places = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    environment = {**places, "HOME": str(home), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.endswith("torch.Size([2, 16, 16, 3])\n"), done.stderr
    assert not list(home.rglob("*"))


def test_a_stopped_run_begins_anew(prepared, sharded, tmp_path, monkeypatch):
    command = [str(prepared), str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(script, "publish", stop)
        assert script.main(command) == 130
    assert not (tmp_path / "out").exists()
    assert script.main(command) == 0
    assert contents(tmp_path / "out").keys() == contents(sharded).keys()
    assert not (tmp_path / "out.partial").exists()


def stop(*_):
    raise KeyboardInterrupt


# --- what is wrong -------------------------------------------------------------------------------------------------


def cut_off(folder: Path):
    (path,) = folder.glob("arrow/*.arrow")
    path.write_bytes(path.read_bytes()[:2000])


def another_table(folder: Path):
    path = folder / "metadata.parquet"
    pd.read_parquet(path).assign(category="another").to_parquet(path)


def fewer_rows(folder: Path):
    other = write_prepared(folder.parent / "other", train=3, val=2, views=2)
    for name in ("metadata.parquet", "dataset.json"):
        shutil.copyfile(other / name, folder / name)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut_off, "is not whole"),
        (lambda folder: (folder / "arrow" / "state.json").unlink(), "is not whole"),
        (lambda folder: (folder / "metadata.parquet").unlink(), "is not whole"),
        (lambda folder: (folder / "dataset.json").write_text("{}"), "is not whole"),
        (another_table, "metadata.parquet of .* does not fit arrow"),
        (fewer_rows, "metadata.parquet of .* does not fit arrow"),
        (lambda folder: (folder / "shards.json").write_text("{}"), "holds shards of an earlier version"),
    ],
)
def test_damaged_folders_are_one_sentence(sharded, tmp_path, damage, complaint):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(InputError, match=f"{complaint}.*; write the folder again: python data_scripts/shard_dataset"):
        open_dataset(folder)


def test_a_damaged_image_is_named(sharded, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "copy"))
    (path,) = folder.glob("arrow/*.arrow")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"IDAT", b"IBAT", 1))
    with pytest.raises(InputError, match="00-0.png is truncated or damaged"):
        open_dataset(folder).batch(torch.arange(12))


def test_what_needs_all_images_is_refused(sharded, tmp_path):
    data = ShardedDataset(sharded, "train")
    with pytest.raises(InputError, match="choose 'uniform' or 'silhouette'"):
        system = make_system(replace(TINY, neighbor_weighting="released"))
        train(system, TRAINING, data, tmp_path / "run", accelerator=Accelerator(cpu=True))
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="'normal' of all its images is not in memory"):
        data.normal  # noqa: B018  what is refused
    with pytest.raises(InputError, match="has no meshes"):
        data.mesh(0)


def test_guesses_are_those_of_the_set_in_memory(prepared, sharded):
    guesses = []
    for data in (PreparedDataset(prepared, "train"), ShardedDataset(sharded, "train")):
        system = make_system(EVERYTHING)
        system.prepare(data)
        guesses.append(system.guesses)
    assert guesses[0].shape == (len(data), 2) and torch.equal(*guesses)


def test_command_refuses_what_it_cannot_write(prepared, sharded, tmp_path, capsys):
    mine = Path(shutil.copytree(prepared, tmp_path / "mine"))
    assert script.main([str(prepared), str(mine)]) == 2
    assert "but no arrow/state.json, so it is not replaced" in capsys.readouterr().err
    assert contents(mine) == contents(prepared)
    assert script.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "There is no prepared folder" in capsys.readouterr().err
    path = mine / read_prepared(mine).metadata["image"].iloc[-1]
    Image.open(path).resize((20, 20)).save(path)
    shutil.rmtree(mine / "neighbors")
    table = pd.read_parquet(mine / "metadata.parquet").assign(normal=None)
    write_metadata(mine, table.to_dict("records"), read_prepared(mine).info)
    assert script.main([str(mine), str(tmp_path / "out")]) == 2
    assert "is not 16 x 16 as the first image" in capsys.readouterr().err
    earlier = tmp_path / "earlier"  # shards of an earlier version are written anew in their place
    for name in ("metadata.parquet", "dataset.json"):
        earlier.mkdir(exist_ok=True)
        shutil.copyfile(prepared / name, earlier / name)
    (earlier / "shards.json").write_text("{}")
    assert script.main([str(prepared), str(earlier)]) == 0
    assert len(open_dataset(earlier)) == 12
