"""The image-text model and its training: an exact resume, words, captions, and what the shipped weights can do."""

import itertools
import json
import shutil
from math import comb

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_dataset import write_tiny_dataset

from data_scripts import train_image_text as training
from data_scripts.image_text_results import chance_of_hit, hit_in_first
from data_scripts.phrases import OPPOSITES, contradict, put_together, take_apart, vary, without_colour
from lib.data.images import read_sample_images
from lib.data.prepared import read_prepared, write_metadata
from lib.errors import InputError
from lib.networks.image_text import (
    FOLDER,
    ImageTextConfig,
    build_network,
    load_image_text,
    prepare_image,
    save_image_text,
    split_words,
    tokenize,
)
from lib.paths import FURNITURE

CONFIG = ImageTextConfig(("a", "chair", "red", "table"), image_size=32, embed_dim=8, context_length=6, text_width=16)


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny", meshes=False)
    prepared = read_prepared(folder)
    captions = "a " + prepared.metadata["model"] + " grey " + prepared.metadata["category"]
    rows = prepared.metadata.assign(caption=captions).to_dict("records")
    info = {key: prepared.info[key] for key in ("name", "source", "licence", "version", "image_size")}
    write_metadata(folder, rows, info)
    return folder


def command(folder, captioned, steps=3):
    options = ["--steps", steps, "--batch-size", 3, "--image-size", 32, "--backbone", "random"]
    places = ["--evaluate", captioned, "--run", folder / "run", "--output", folder / "out"]
    return [str(word) for word in (captioned, *places, *options)]


def test_network_is_made_of_open_clips_classes_and_reads_the_end_of_a_phrase():
    network = build_network(CONFIG).eval()
    import open_clip  # after lib has made its torchvision importable

    assert isinstance(network, open_clip.CLIP)
    short, longer = tokenize(["red chair"], CONFIG), tokenize(["red chair"], CONFIG)
    longer[0, 4:] = 2  # behind the end token nothing is read
    assert longer.argmax() == short.argmax() == 3
    with torch.no_grad():
        assert torch.allclose(network.encode_text(short), network.encode_text(longer), atol=1e-6)


def test_unknown_words_share_a_token_and_long_phrases_are_cut():
    tokens = tokenize(["A Red throne", "a a a a a a a", ""], CONFIG)
    assert tokens.tolist() == [[2, 3, 5, 1, 7, 0], [2, 3, 3, 3, 3, 7], [2, 7, 0, 0, 0, 0]]


def test_picture_is_padded_with_white_not_squeezed():
    wide = Image.new("RGB", (40, 20), (0, 0, 0))
    pixels = prepare_image(wide, 20) * 128 / 255 + 127 / 255
    dark = pixels[0] < 0.5
    assert dark[6:14].all() and not dark[:4].any() and not dark[-4:].any()


def test_saved_model_gives_the_same_vectors(tmp_path):
    network = build_network(CONFIG).eval()
    save_image_text(tmp_path, network, CONFIG, {})
    model = load_image_text(tmp_path)
    picture = Image.new("RGB", (32, 32), (200, 30, 30))
    with torch.no_grad():
        expected = network.encode_image(prepare_image(picture, 32)[None], normalize=True)
    assert torch.allclose(model.encode_images([picture]), expected, atol=5e-3)  # weights are stored as float16
    assert torch.allclose(model.encode_text(["a chair", "red"]).norm(dim=1), torch.ones(2), atol=1e-5)


def changed(folder, **settings) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["config"] |= settings
    (folder / "config.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "does not exist"),
        (lambda folder: (folder / "config.json").write_text("{}"), "does not describe an image-text model"),
        (lambda folder: save_file({"extra": torch.zeros(1)}, folder / "weights.safetensors"), "checksum"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"no weights"), "damaged"),
        (lambda folder: changed(folder, embed_dim=16), "another configuration"),
        (lambda folder: changed(folder, depth=3), "does not describe"),
    ],
)
def test_bad_models_are_one_sentence(tmp_path, damage, words):
    save_image_text(tmp_path, build_network(CONFIG), CONFIG, {})
    damage(tmp_path)
    with pytest.raises(InputError, match=words):
        load_image_text(tmp_path)


def test_every_shipped_caption_survives_being_taken_apart():
    table = pd.read_parquet(FURNITURE / "metadata.parquet", columns=["caption", "category"])
    for caption in sorted(set(table["caption"])):
        assert sorted(put_together(take_apart(caption)).split()) == sorted(caption.split())
    parts = take_apart("a low wide rectangular dark blue coffee table on four legs")
    assert (parts.sizes, parts.plan, parts.colour) == (("low", "wide"), "rectangular", "dark blue")
    assert (parts.noun, parts.tail) == ("coffee table", "on four legs")
    assert without_colour("an orange bed") == "a bed"


def test_contradicted_captions_differ_in_words_of_one_kind_only():
    caption = "a low wide round table on four legs"
    assert contradict(caption, "size") == "a tall narrow round table on four legs"
    assert contradict(caption, "outline") == "a low wide rectangular table on four legs"
    assert contradict(caption, "legs") == "a low wide round table on one leg"
    assert contradict(caption, "boards") == caption
    assert all(word != wrong for words in OPPOSITES.values() for word, wrong in words.items())


def test_varied_captions_say_nothing_new_and_no_colour_of_grey_pictures():
    rng = np.random.default_rng(0)
    caption = "a tall dark green bar chair on one leg"
    known = {*split_words(caption), "chair", "thing", "a", "picture", "photo", "of"}
    heard = [vary(caption, "chair", rng, grey=False) for _ in range(200)]
    assert all(set(split_words(phrase)) <= known for phrase in heard)
    shares = [np.mean([word in phrase for phrase in heard]) for word in ("tall", "green", "bar", "one leg")]
    assert np.allclose(shares, [0.7, 0.5, 0.5, 0.7], atol=0.11)
    assert not any("green" in vary(caption, "chair", rng, grey=True) for _ in range(50))


def test_augmentation_keeps_what_captions_speak_of():
    rgb = torch.full((64, 3, 32, 32), 255, dtype=torch.uint8)
    rgb[:, :, 8:24, 12:20] = torch.tensor([200, 40, 40], dtype=torch.uint8)[None, :, None, None]
    grey = torch.arange(64) < 32
    moved = training.augment(rgb, grey, 24, torch.Generator().manual_seed(0))
    assert moved.shape == (64, 3, 24, 24) and moved.min() >= 0 and moved.max() <= 1
    assert (moved[:, :, 0, 0] > 0.99).all()  # white outside
    spread = (moved.amax(1) - moved.amin(1)).amax((1, 2))
    assert (spread[grey] < 1e-6).all() and (spread[~grey] > 0.3).all()
    inside = moved.amin(1) < 0.6
    tall = inside.any(2).sum(1).float() / inside.any(1).sum(1)
    assert ((tall > 1.5) & (tall < 2.7)).all()  # 2:1 in the source


def test_a_batch_has_one_image_of_each_model(captioned):
    table = read_prepared(captioned).metadata.query("split == 'train'").reset_index(drop=True)
    renders = training.Renders(torch.zeros(len(table), 3, 4, 4, dtype=torch.uint8), table)
    batches = [training.draw(renders, 4, seed=0, step=step) for step in range(20)]
    assert all(table["model"].iloc[rows].nunique() == 4 for rows in batches)
    assert {row for rows in batches for row in rows.tolist()} == set(range(len(table)))


def test_training_resumes_exactly_and_writes_all_files(captioned, tmp_path, monkeypatch):
    assert training.main(command(tmp_path / "whole", captioned)) == 0
    monkeypatch.setattr(training, "SAVE_EVERY", 1)
    step, calls = training._step, itertools.count()

    def stop_at_the_third(*arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "_step", stop_at_the_third)
    assert training.main(command(tmp_path / "broken", captioned)) == 130
    assert not (tmp_path / "broken" / "out").exists()
    assert training.main(command(tmp_path / "broken", captioned)) == 0
    whole, broken = (load_file(tmp_path / name / "out" / "weights.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert sorted(p.name for p in (tmp_path / "whole" / "out").iterdir()) == [
        "config.json", "results.json", "train.jsonl", "weights.safetensors",
    ]  # fmt: skip
    log = (tmp_path / "broken" / "out" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--steps", "0"], "--steps must be at least 1"),
        (["--batch-size", "9"], "only 5 training models"),
        (["--seed", "7"], "other settings"),
        (["--evaluate", "nowhere"], "no prepared folder"),
    ],
)
def test_bad_input_is_one_sentence(captioned, tmp_path, capsys, change, words):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{}")
    (tmp_path / "run" / "state.safetensors").write_bytes(b"x")
    assert training.main(command(tmp_path, captioned) + change) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and words in error and error.count("\n") == 1


def test_a_model_that_is_measured_on_is_not_learnt_from(captioned, tmp_path):
    leaky = tmp_path / "leaky"
    shutil.copytree(captioned, leaky)
    prepared = read_prepared(leaky)
    rows = prepared.metadata.assign(split=prepared.metadata["split"].where(prepared.metadata["model"] != "egg", "val"))
    write_metadata(leaky, rows.to_dict("records"), {"name": "leaky"})
    with pytest.raises(InputError, match="'egg' is for training"):
        training.training_table(prepared, read_prepared(leaky), 3)


def test_hits_and_their_chance():
    similarity = torch.tensor([[0.9, 0.8, 0.1], [0.1, 0.2, 0.3]])
    fits = torch.tensor([[False, True, False], [False, False, True]])
    assert hit_in_first(similarity, fits, 1).tolist() == [0, 1]
    assert hit_in_first(similarity, fits, 2).tolist() == [1, 1]
    draws = [any(item < 2 for item in drawn) for drawn in itertools.combinations(range(7), 3)]
    assert chance_of_hit(7, 2, 3) == pytest.approx(np.mean(draws)) and len(draws) == comb(7, 3)


def test_shipped_model_names_held_out_furniture_better_than_chance():
    model = load_image_text()
    assert sum(p.stat().st_size for p in FOLDER.glob("weights*")) <= 12e6
    prepared = read_prepared(FURNITURE)
    table = prepared.metadata.query("split == 'test' and category in ('bed', 'car', 'lamp', 'sofa')")
    pictures = [Image.fromarray(read_sample_images(prepared.path(name))[0]) for name in table["image"]]
    names = ["bed", "car", "lamp", "sofa"]
    said = model.encode_images(pictures) @ model.encode_text([f"a {name}" for name in names]).T
    right = np.array(names)[said.argmax(1)] == table["category"].to_numpy()
    assert right.mean() > 0.6  # chance: 0.25
