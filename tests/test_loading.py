"""Where a training's images are: as bytes on the accelerator or on their way to it, never as floats of the host."""

from dataclasses import fields
from unittest.mock import Mock

import pytest
import torch
from accelerate import Accelerator
from tiny import EVERYTHING, make_system, write_prepared
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import data_scripts.shard_dataset as script
from lib.data import loading
from lib.data.loading import Batch, PreparedDataset, fractions, free_memory
from lib.data.shards import ShardedDataset
from lib.training.batches import Batches
from lib.training.loop import TrainingConfig

META = torch.device("meta")  # an accelerator that is always at hand: it knows shapes and places, and no values
CONFIG = TrainingConfig(steps=6, batch_size=4)


class Watch(TorchDispatchMode):
    """Keeps what is computed on the CPU: (dtype, shape) of each result."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        here = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and t.device.type == "cpu"]
        self.seen += [(t.dtype, tuple(t.shape)) for t in here]
        return result

    def images(self) -> set:
        """Kinds of numbers in colour images or maps that were made here."""
        return {dtype for dtype, shape in self.seen if len(shape) == 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_prepared(tmp_path_factory.mktemp("data") / "discs", train=4, val=2, views=2)


@pytest.fixture
def data(folder) -> PreparedDataset:
    return PreparedDataset(folder, "train")


def on(device: torch.device) -> Accelerator:
    accelerator = Mock(spec=Accelerator)
    accelerator.num_processes, accelerator.process_index, accelerator.device = 1, 0, device
    return accelerator


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    whole = {f.name: getattr(batch, f.name) for f in fields(batch)}
    view = {"azimuth": batch.viewpoint.azimuth, "distance": batch.viewpoint.distance}
    return {name: value for name, value in whole.items() if isinstance(value, torch.Tensor)} | view


@pytest.mark.parametrize(("free", "fits"), [(10**9, True), (1000, False)])
def test_images_become_floats_on_the_accelerator(data, monkeypatch, free, fits):
    monkeypatch.setattr(loading, "free_memory", lambda device: free)
    ((expected, generator),) = Batches(make_system(EVERYTHING), CONFIG, data, on(torch.device("cpu"))).draw(2, True)
    batches = Batches(make_system(EVERYTHING), CONFIG, data, on(META))
    with Watch() as watch:
        ((batch, there),) = batches.draw(2, True)
    assert torch.equal(there.get_state(), generator.get_state())
    for ours, theirs in ((batch, expected), (batch.neighbor, expected.neighbor)):
        assert tensors(ours).keys() == tensors(theirs).keys() >= {"rgb", "mask", "normal", "ray_weights"}
        for name, value in tensors(ours).items():
            there = tensors(theirs)[name]
            assert (value.device, value.dtype, value.shape) == (META, there.dtype, there.shape), name
    # images that lie there are cut there; those that do not travel as they are stored
    assert watch.images() == (set() if fits else {torch.uint8, torch.float16})
    assert (batches.near.rgb.device == META) == fits and batches.near.rgb.dtype == torch.uint8
    assert data.rgb.device.type == "cpu"  # others go on with it: validation, guesses, figures


def test_watching_sees_floats_that_are_made_here(data):
    with Watch() as watch:
        data.batch(torch.tensor([0, 1])).to(META)
    assert torch.float32 in watch.images()


def test_same_images_and_neighbours_are_drawn_for_every_device(data, monkeypatch):
    """On a device without values the rows cannot be read, so they are caught on their way to it."""

    def catch(index, neighbor, device):
        drawn[device.type].append(torch.stack([index, neighbor]))
        return data.batch(index)

    monkeypatch.setattr(loading, "free_memory", lambda device: 10**9)
    drawn = {"cpu": [], "meta": []}
    for device in (torch.device("cpu"), META):
        batches = Batches(make_system(EVERYTHING), CONFIG, data, on(device))
        batches.near = Mock(batch=catch)
        for step in range(4):
            list(batches.draw(step, True))
    ours, theirs = (torch.stack(rows) for rows in drawn.values())
    assert torch.equal(ours, theirs) and len(ours) == 4 and ours.device.type == "cpu"


def test_on_the_cpu_nothing_moves_and_numbers_are_the_same(data):
    cpu = torch.device("cpu")
    assert free_memory(cpu) == 0 and data.near(cpu) is data
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(fractions(values), values.float() / 255)
    batch = data.batch(torch.tensor([3, 1]))
    assert torch.equal(batch.rgb, data.rgb[[3, 1]].float() / 255)
    assert torch.equal(batch.normal, data.normal[[3, 1]].float())


def test_room_is_a_share_of_free_memory(data, monkeypatch):
    size = sum(values.nbytes for values in (data.rgb, data.mask, data.normal, data.ray_weights))
    for free, place in ((size / loading.FREE_SHARE, "meta"), (size / loading.FREE_SHARE - 1, "cpu")):
        monkeypatch.setattr(loading, "free_memory", lambda device, free=free: free)
        assert data.near(META).rgb.device.type == place


def test_sets_on_disk_travel_as_bytes_too(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "free_memory", lambda device: 10**9)
    assert script.main([str(folder), str(tmp_path / "shards")]) == 0
    data = ShardedDataset(tmp_path / "shards", "train")
    assert data.near(META) is data
    with Watch() as watch:
        batch = data.batch(torch.tensor([0, 3]), torch.tensor([1, 2]), META)
    assert batch.rgb.device == batch.neighbor.normal.device == META
    assert torch.float32 not in watch.images()
