"""A furniture set of Pix3D's size, and the paper's recipe trained on it from the command line: both, tiny."""

import json
from collections import Counter
from pathlib import Path

import pytest
from tiny_library import write_library

from data_scripts import prepare_furniture
from data_scripts.sweethome import Entry
from lib.data.prepared import read_prepared
from lib.paths import FURNITURE
from lib.training.__main__ import main as train_main
from lib.training.log import read_log
from lib.training.recipes import RECIPES

IMAGES, VIEWS = 17, 3  # three training models: two get one image more than the third
TINY = ["image_size=32", "latent_size=8", "rays=8", "neighbor_rays=8", "samples=4"]
STEPS = ["backbone_weights=random", "pretrain_points=8", "pretrain_steps=1", "steps=2", "batch_size=4", "log_every=1"]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return write_library(tmp_path_factory.mktemp("library") / "tiny")


@pytest.fixture(scope="module")
def folder(library, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "chairs"
    sizes = ["--image-size", "32", "--train-images", str(IMAGES), "--views", str(VIEWS), "--workers", "1"]
    command = ["--source", str(library.parent), "--models", str(library), "--output", str(output), *sizes]
    assert prepare_furniture.main([*command, "--categories", "chair"]) == 0
    return output


def counts_of(category_sizes: dict[str, int], splits: dict[str, str], *arguments: str) -> dict[str, int]:
    """Variants by model of made-up entries, whose models are named after their category."""
    entries = [
        Entry(category, "pack", f"{category}{number}", "", "", "", (1.0, 1.0, 1.0), ())
        for category, size in category_sizes.items()
        for number in range(size)
    ]
    splits = {entry.model: splits.get(entry.key, "train") for entry in entries}
    return prepare_furniture.count_variants(entries, splits, prepare_furniture.parse([*arguments]))


def test_without_the_option_the_numbers_are_as_ever():
    held_out = {"chair0": "val", "table0": "test"}
    found = counts_of({"chair": 3, "table": 3}, held_out)
    assert found == {"pack-chair0": 2, "pack-chair1": 14, "pack-chair2": 14,
                     "pack-table0": 2, "pack-table1": 7, "pack-table2": 7}  # fmt: skip
    assert set(counts_of({"chair": 3}, held_out, "--variants", "5").values()) == {2, 5}


@pytest.mark.parametrize(("models", "wanted"), [(37, 2007), (37, 37), (37, 74), (5, 13), (1, 1)])
def test_exactly_so_many_images_from_as_few_variants_as_suffice(models, wanted):
    found = counts_of({"chair": models}, {}, "--train-images", str(wanted))
    assert sum(found.values()) == wanted
    fewest = next(variants for variants in range(1, wanted + 1) if variants * models >= wanted)
    assert max(found.values()) == fewest
    assert max(found.values()) - min(found.values()) <= 1
    assert found == counts_of({"chair": models}, {}, "--train-images", str(wanted))


def test_images_of_val_and_test_are_in_proportion_to_their_models():
    splits = {f"chair{number}": "val" if number < 5 else "test" for number in range(15)}
    found = counts_of({"chair": 52}, splits, "--train-images", "2007", "--views", "3")
    held_out = [found[f"pack-chair{number}"] for number in range(15)]
    assert held_out == [18] * 15  # in three views each: 54 images, as a training model has 54 or 55


@pytest.mark.skipif(not (FURNITURE / "dataset.json").is_file(), reason="the built-in data is not there")
@pytest.mark.skipif(not prepare_furniture.SOURCE.is_dir(), reason="the furniture libraries are not installed")
def test_chairs_of_the_libraries_make_a_set_of_the_papers_size():
    def planned(*arguments: str) -> dict[str, int]:
        images = Counter()
        for task in prepare_furniture.plan(prepare_furniture.parse(["--categories", "chair", *arguments])):
            images[task.split] += task.samples
        return dict(images)

    assert planned("--train-images", "2007") == {"train": 2007, "val": 270, "test": 540}
    assert planned() == read_prepared(FURNITURE).info["counts"]["chair"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--train-images", "2"], "there are 3 training models, each of which is shown at least once"),
        (["--train-images", "9", "--variants", "3"], "not allowed with argument"),
        (["--train-images", "0"], "0"),
    ],
)
def test_numbers_that_cannot_be_met_are_one_sentence(library, tmp_path, capsys, arguments, words):
    command = ["--source", str(library.parent), "--models", str(library), "--output", str(tmp_path / "out")]
    try:
        code = prepare_furniture.main([*command, *arguments])
    except SystemExit as stop:  # argparse's own way to refuse
        code = stop.code
    assert code == 2
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_exactly_the_images_asked_for(folder):
    prepared = read_prepared(folder)
    assert prepared.info["counts"]["chair"] == {"train": IMAGES, "val": 2 * 2 * VIEWS, "test": 2 * 2 * VIEWS}
    train = prepared.metadata[prepared.metadata["split"] == "train"]
    assert sorted(train["model"].value_counts()) == [5, 6, 6]
    assert train["id"].is_unique


def test_the_papers_recipe_trains_on_it_from_the_command_line(folder, tmp_path):
    run = tmp_path / "run"
    command = ["paper", "--dataset", str(folder), "--run", str(run), "--device", "cpu"]
    assert train_main([*command, "--set", *TINY, "--set", *STEPS]) == 0
    about = json.loads((run / "config.json").read_text())
    paper = RECIPES["paper"].system
    assert about["config"]["backbone"] == paper.backbone == "resnet34.tv_in1k"
    assert about["config"]["semantic_weight"] == paper.semantic_weight > 0  # the neighbours are used
    assert about["step"] == 3
    losses = [row for row in read_log(run / "log.jsonl") if row["phase"] == "training"]
    assert len(losses) == 2
    assert all(0 < row["loss"] < 1e3 for row in losses)
    assert (run / "weights.safetensors").is_file()
