"""Embedders and the files they write: same result for any number of processes, after kills, and one sentence else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_dataset import write_tiny_dataset

from lib.data import embeddings
from lib.data.embeddings import Embedder, embed_dataset, embed_images, main, make_embedder, read_embeddings
from lib.data.images import read_sample_images
from lib.data.prepared import read_prepared, write_metadata
from lib.errors import InputError
from lib.files import sha256
from lib.networks.compat import import_torchvision
from lib.paths import REPOSITORY

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def dataset(tmp_path):
    """Three parts, the last one shorter."""
    return _many_samples(tmp_path, 700)


def _many_samples(folder, count):
    """A dataset whose samples share a few pictures."""
    folder = write_tiny_dataset(folder / "tiny", meshes=False)
    prepared = read_prepared(folder)
    table = prepared.metadata.sample(count, replace=True, random_state=0)
    rows = table.assign(id=[f"sample-{number}" for number in range(count)]).to_dict("records")
    write_metadata(folder, rows, {"name": "tiny", "image_size": prepared.info["image_size"]})
    return folder


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """A tiny open_clip architecture and a checkpoint of it with random weights."""
    import_torchvision()
    import open_clip

    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    (folder / "wider-clip.json").write_text(json.dumps(TINY | {"embed_dim": 24}))
    open_clip.add_model_config(folder)
    torch.manual_seed(3)
    network = open_clip.create_model("tiny-clip").eval()
    torch.save(network.state_dict(), folder / "tiny.pth")
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, folder / "tiny.safetensors")
    return folder, network


def pictures(count=3, size=40):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("name", ["efficientnet_lite0", "random-resnet18", "pixels", "timm-tf_efficientnet_lite0"])
def test_vectors_are_unit_and_a_picture_of_them_alone(name):
    embedder = make_embedder(name)
    together, alone = embedder.encode(pictures()), embedder.encode(pictures()[1:2])
    assert together.shape == (3, embedder.size) and together.dtype == torch.float32
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert bool(embedder.checksum) == (name != "pixels")


def test_lite0_sees_what_the_neighbours_of_the_course_were_found_with():
    from lib.data.neighbors import image_features

    images = np.stack([np.asarray(picture) for picture in pictures()])
    found = embed_images(make_embedder("efficientnet_lite0"), images, batch_size=2, progress=False)
    assert torch.allclose(found, image_features(images), atol=1e-5)


def test_random_control_has_its_seed_in_its_name_and_leaves_the_global_one_alone():
    state = torch.random.get_rng_state()
    first, again, other = (make_embedder(f"random-resnet18{end}") for end in ("", "-seed0", "-seed1"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.checksum == again.checksum != other.checksum
    one = pictures(1)
    assert torch.equal(first.encode(one), again.encode(one)) and not torch.allclose(
        first.encode(one), other.encode(one)
    )


def test_timm_backbone_from_a_local_file_with_its_own_preprocessing(tmp_path):
    import_torchvision()
    import timm

    torch.manual_seed(5)
    network = timm.create_model("resnet18", num_classes=0).eval()
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    embedder = make_embedder("timm-resnet18", path)
    assert embedder.checksum == sha256(path)
    # resnet18: shorter side to 224 / 0.95 = 236 (bicubic), centre 224, ImageNet's mean and deviation
    picture = pictures(1)[0]
    sized = np.asarray(picture.resize((235, 235), Image.Resampling.BICUBIC), dtype=np.float32)[5:229, 5:229] / 255
    pixels = (sized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.no_grad():
        expected = network(torch.from_numpy(pixels).float().permute(2, 0, 1)[None])
    similarity = (embedder.encode([picture]) * torch.nn.functional.normalize(expected, dim=-1)).sum()
    assert similarity > 0.999
    with pytest.raises(InputError, match="does not fit"):
        make_embedder("timm-resnet34", path)


@pytest.mark.parametrize("file", ["tiny.pth", "tiny.safetensors"])
def test_open_clip_checkpoint_from_a_local_file(tiny_clip, file):
    import open_clip

    folder, network = tiny_clip
    embedder = make_embedder("open_clip-tiny-clip", folder / file)
    prepare = open_clip.image_transform(32, is_train=False)
    with torch.no_grad():
        expected = network.encode_image(torch.stack([prepare(p) for p in pictures()]), normalize=True)
        said = network.encode_text(open_clip.tokenize(["a chair"], context_length=8), normalize=True)
    assert torch.allclose(embedder.encode(pictures()), expected, atol=1e-5)
    assert torch.allclose(embedder.encode_text(["a chair"]), said, atol=1e-5)
    assert (embedder.size, embedder.checksum) == (16, sha256(folder / file))


def test_open_clip_checkpoint_as_a_torchscript_archive(tiny_clip, tmp_path):
    """OpenAI publishes its weights so, with three numbers among the tensors."""

    class Archive(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            for name, value in network.state_dict().items():
                *path, leaf = name.split(".")
                module = self
                for part in path:
                    if not hasattr(module, part):
                        module.add_module(part, torch.nn.Module())
                    module = getattr(module, part)
                module.register_buffer(leaf, value.clone())
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x):
            return x

    folder, _ = tiny_clip
    path = tmp_path / "archive.pt"
    torch.jit.script(Archive(tiny_clip[1])).save(str(path))
    expected = make_embedder("open_clip-tiny-clip", folder / "tiny.pth").encode(pictures())
    assert torch.equal(make_embedder("open_clip-tiny-clip", path).encode(pictures()), expected)


def test_openai_weights_get_the_activation_they_were_trained_with(monkeypatch):
    import_torchvision()
    import open_clip

    asked = {}

    def note(architecture, pretrained, **options):
        asked[architecture, pretrained] = options["force_quick_gelu"]
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", note)
    for name in ("open_clip-ViT-B-32", "open_clip-ViT-L-14", "open_clip-ViT-B-32@laion2b_s34b_b79k"):
        with pytest.raises(InputError, match="cannot be fetched"):
            make_embedder(name, allow_download=True)
    assert asked == {
        ("ViT-B-32", "openai"): True,
        ("ViT-L-14", "openai"): True,
        ("ViT-B-32", "laion2b_s34b_b79k"): False,
    }


def test_weights_with_another_checksum_than_known_are_refused(tiny_clip, tmp_path):
    path = tmp_path / "tiny-0123456789ab.pth"
    shutil.copyfile(tiny_clip[0] / "tiny.pth", path)
    with pytest.raises(InputError, match="checksum"):
        make_embedder("open_clip-tiny-clip", path)
    right = path.with_name(f"tiny-{sha256(path)[:12]}.pth")
    path.rename(right)
    assert make_embedder("open_clip-tiny-clip", right).checksum == sha256(right)
    for beside in (f"{'0' * 64}  {right.name}\n", ""):
        Path(f"{right}.sha256").write_text(beside)
        with pytest.raises(InputError, match="checksum"):
            make_embedder("open_clip-tiny-clip", right)


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("clip", None, "'clip' is unknown"),
        ("../pixels", None, "cannot name a file"),
        ("open_clip-ViT-B-32", None, "not at hand"),
        ("open_clip-ViT-L-14", None, "not at hand"),
        ("open_clip-ViT-X", None, "no architecture 'ViT-X'"),
        ("open_clip-ViT-B-32@nonsense", None, "no weights 'nonsense'"),
        ("open_clip-tiny-clip", "missing.pth", "is not a file"),
        ("open_clip-wider-clip", "tiny.pth", "no checkpoint of wider-clip"),
        ("open_clip-tiny-clip", "tiny-clip.json", "no checkpoint of tiny-clip"),
        ("timm-resnet18", None, "not at hand"),
        ("timm-resnet18", "tiny.pth", "does not fit"),
        ("timm-nonsense", None, "no model 'nonsense'"),
        ("random-nonsense", None, "no model 'nonsense'"),
        ("random-resnet18-seedy", None, "whole number"),
        ("pixels", "tiny.pth", "takes none"),
    ],
)
def test_bad_names_and_weights_are_one_sentence(tiny_clip, name, weights, words):
    with pytest.raises(InputError, match=words) as error:
        make_embedder(name, weights and tiny_clip[0] / weights)
    assert "\n" not in str(error.value)


def test_file_holds_the_vectors_in_the_order_of_the_metadata(dataset):
    path = embed_dataset(dataset, make_embedder("pixels"), batch_size=50)
    found, prepared = read_embeddings(dataset, "pixels"), read_prepared(dataset)
    images = np.stack([read_sample_images(prepared.path(name))[0] for name in prepared.metadata["image"]])
    assert torch.allclose(found.vectors, embed_images(make_embedder("pixels"), images, 7), atol=1e-6)
    assert found.ids == prepared.metadata["id"].tolist()
    metadata = sha256(dataset / "metadata.parquet")
    assert _header(path) == {"model": "pixels", "weights_sha256": "", "metadata_sha256": metadata}
    assert [file.name for file in path.parent.iterdir()] == ["pixels.safetensors"]


def test_a_killed_run_goes_on_and_what_is_done_is_not_done_again(dataset):
    pixels, calls = make_embedder("pixels"), []

    def encode(batch):
        calls.append(len(batch))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return pixels.encode(batch)

    failing = Embedder("pixels", pixels.size, "", encode)
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, failing, batch_size=50)
    assert not (dataset / "embeddings" / "pixels.safetensors").exists()
    first = dataset / "embeddings" / "pixels.partial" / "000000000.safetensors"
    assert len(load_file(first)["embeddings"]) == embeddings.PART
    assert embed_dataset(dataset, failing, batch_size=50).is_file()
    assert sum(calls[8:]) == 700 - embeddings.PART  # the first part is not computed again
    assert not first.parent.exists()
    total = len(calls)
    embed_dataset(dataset, failing, batch_size=50)
    assert len(calls) == total  # finished: nothing is computed again
    again = read_embeddings(dataset, "pixels").vectors
    shutil.rmtree(dataset / "embeddings")
    embed_dataset(dataset, pixels, batch_size=50)
    assert torch.equal(again, read_embeddings(dataset, "pixels").vectors)


def test_parts_of_other_weights_and_damaged_parts_are_computed_again(dataset):
    pixels = make_embedder("pixels")
    partial = dataset / "embeddings" / "pixels.partial"
    plan = {"model": "pixels", "weights_sha256": "", "metadata_sha256": sha256(dataset / "metadata.parquet")}
    for other, damage in (({"weights_sha256": "other"}, 0), ({}, 100)):
        partial.mkdir(parents=True)
        part = partial / "000000000.safetensors"
        save_file({"embeddings": torch.zeros(256, pixels.size)}, part, metadata=plan | {"batch_size": "64"} | other)
        part.write_bytes(part.read_bytes()[: part.stat().st_size - damage])
        embed_dataset(dataset, pixels)
        assert (read_embeddings(dataset, "pixels").vectors.norm(dim=1) > 0.9).all()
        shutil.rmtree(dataset / "embeddings")


def test_two_processes_write_the_same_as_one(tmp_path):
    """The network's batches, and so its last bits, must not depend on who computes them."""
    name = "random-test_resnet"
    folder = _many_samples(tmp_path, 300)
    path = embed_dataset(folder, make_embedder(name), batch_size=100)
    alone, header = load_file(path)["embeddings"], _header(path)
    shutil.rmtree(path.parent)
    launch = "-m accelerate.commands.launch --cpu --num_processes 2 --num_machines 1 --mixed_precision no"
    launch = [*launch.split(), "--dynamo_backend", "no", "--main_process_port", "0"]
    work = f"-m lib.data.embeddings {folder} --model {name} --batch-size 100 --device cpu"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *launch, *work.split()],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == str(path)  # the first process alone reports
    assert torch.equal(load_file(path)["embeddings"], alone) and _header(path) == header


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "does not exist; write it with"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "damaged"),
        (lambda path: _rewrite(path, torch.zeros(3, 3)), "no float32 matrix of 21"),
        (lambda path: _rewrite(path, torch.zeros(21, 3, dtype=torch.float16)), "no float32 matrix of 21"),
        (lambda path: _rewrite(path, torch.zeros(21, 3), model="other"), "embeddings of 'other'"),
        (lambda path: _rewrite(path, torch.zeros(21, 3), metadata_sha256="0"), "another metadata.parquet"),
    ],
)
def test_unfit_embeddings_are_refused(tmp_path, spoil, words):
    folder = write_tiny_dataset(tmp_path / "tiny", meshes=False)
    spoil(embed_dataset(folder, make_embedder("pixels")))
    with pytest.raises(InputError, match=words):
        read_embeddings(folder, "pixels")


def _rewrite(path, vectors, **header):
    save_file({"embeddings": vectors}, path, metadata=_header(path) | header)


def _header(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_damaged_image_is_named_and_finished_parts_are_kept(dataset, capsys):
    prepared = read_prepared(dataset)
    bad = dataset / "images" / "bad.png"
    bad.write_bytes(b"no image")
    prepared.metadata.loc[650, "image"] = "images/bad.png"
    write_metadata(dataset, prepared.metadata.to_dict("records"), {"name": "tiny"})
    assert main([str(dataset), "--model", "pixels", "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(bad) in error and error.count("\n") == 1
    assert len(list((dataset / "embeddings" / "pixels.partial").glob("*.safetensors"))) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no prepared folder"),
        (["nowhere", "--model", "open_clip-ViT-L-14"], "not at hand"),
        (["nowhere", "--batch-size", "0"], "--batch-size"),
    ],
)
def test_command_line_says_one_sentence(arguments, words, capsys):
    assert main([*arguments, "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1
