"""Recipes: the papers' settings by name, those of one category, and units that leave SDF-SRN's objective as it is."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import make_batch, write_prepared
from torch import Tensor

from lib.data.prepared import INFO, METADATA, write_metadata
from lib.fields.hypernetwork import WrittenField
from lib.systems import make_system
from lib.systems.sdf_srn import CONFIGS, PASCAL3D, SDFSRNConfig
from lib.training.__main__ import main, only_category
from lib.training.recipes import ALL_RECIPES, RECIPES, SDF_SRN_RECIPES

SMALLEST = {
    "backbone": "test_resnet",
    "backbone_weights": "random",
    "image_size": 16,
    "latent_size": 8,
    "hyper_layers": 1,
    "hyper_width": 8,
    "width": 8,
    "frequencies": 1,
    "rays": 8,
    "eikonal_points": 8,
    "pretrain_points": 8,
}


def trained(recipe: str, data: Path, run: Path, *arguments: str) -> dict:
    """What the run folder of one step says about it."""
    settings = [f"{name}={value}" for name, value in {**SMALLEST, "steps": 1, "pretrain_steps": 1}.items()]
    command = [recipe, "--dataset", str(data), "--run", str(run), "--device", "cpu", "--set", *settings]
    assert main([*command, *arguments]) == 0
    return json.loads((run / "config.json").read_text())


def write_categories(folder: Path, categories: list[str], **settings) -> Path:
    """A prepared folder whose models belong to these categories in turn."""
    write_prepared(folder, **settings)
    table, info = pd.read_parquet(folder / METADATA), json.loads((folder / INFO).read_text())
    models = sorted(set(table["model"]))
    table["category"] = [categories[models.index(model) % len(categories)] for model in table["model"]]
    rows = [{key: value for key, value in row.items() if value is not None} for row in table.to_dict("records")]
    write_metadata(folder, rows, {name: info[name] for name in ("name", "source", "licence", "version", "image_size")})
    return folder


# --- the papers' settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "steps", "views"),
    [
        ("sdf-srn", "shapenet", 200_000, None),
        ("sdf-srn-single-view", "shapenet-single-view", 50_000, 1),
        ("sdf-srn-pascal3d", "pascal3d", 30_000, None),
    ],
)
def test_settings_of_sdf_srn_s_paper_are_trained_by_name(name, config, steps, views):
    recipe = ALL_RECIPES[name]
    assert recipe.system == CONFIGS[config] and recipe.views == views
    training = recipe.training
    assert (training.steps, training.pretrain_steps, training.batch_size) == (steps, 1000, 16)
    assert (training.learning_rate, training.schedule, training.select) == (1e-4, "constant", "last")


def test_changes_keep_the_number_of_views():
    recipe = SDF_SRN_RECIPES["sdf-srn-single-view"]
    assert recipe.changed(seed=3).views == 1 and recipe.changed(seed=3).training.seed == 3


def test_one_view_of_each_model_is_trained(tmp_path):
    folder = write_prepared(tmp_path / "discs", train=3, val=0, views=2)
    assert trained("sdf-srn-single-view", folder, tmp_path / "one", "--set", "batch_size=2")["samples"] == 3
    assert trained("sdf-srn", folder, tmp_path / "all", "--set", "batch_size=2")["samples"] == 6
    asked = trained("sdf-srn-single-view", folder, tmp_path / "two", "--set", "batch_size=2", "--views", "2")
    assert asked["samples"] == 6


# --- one category --------------------------------------------------------------------------------------------------


def test_recipes_know_their_categories():
    assert SDF_SRN_RECIPES["sdf-srn"].for_category("airplane").system.sdf_weight == 1
    for name, category in [("sdf-srn", "chair"), ("sdf-srn", None), ("sdf-srn-pascal3d", "airplane")]:
        assert SDF_SRN_RECIPES[name].for_category(category) == SDF_SRN_RECIPES[name]
    assert all(recipe.for_category("airplane") == recipe for recipe in RECIPES.values())


def test_a_training_of_airplanes_alone_has_their_weight_and_its_folder_says_so(tmp_path):
    both = write_categories(tmp_path / "both", ["airplane", "chair"], train=4, val=0)
    only = write_categories(tmp_path / "only", ["airplane"], train=3, val=0)
    weights = [
        trained("sdf-srn", folder, tmp_path / str(number), *more, "--set", "batch_size=2")["config"]["sdf_weight"]
        for number, (folder, *more) in enumerate(
            [
                (both,),
                (both, "--categories", "chair"),
                (both, "--categories", "airplane", "chair"),
                (both, "--categories", "airplane"),
                (only,),
                (only, "--set", "sdf_weight=2.5"),  # what is asked for comes last
            ]
        )
    ]
    assert weights == [3, 3, 3, 1, 1, 2.5]


def test_category_of_a_folder_that_cannot_be_read_is_none(tmp_path):
    assert only_category(tmp_path, None) is None and only_category(tmp_path, ["chair"]) == "chair"
    (tmp_path / METADATA).write_bytes(b"no table")
    assert only_category(tmp_path, None) is None


# --- units ---------------------------------------------------------------------------------------------------------


class Halved(WrittenField):
    """The field of the same scene in a unit twice as long: half the coordinates, half the distances."""

    @property
    def field(self) -> WrittenField:
        return WrittenField(self.layers, self.to_distance, self.to_color, self.frequencies)

    def distance(self, points: Tensor) -> Tensor:
        return self.field.distance(2 * points) / 2

    def feature(self, points: Tensor) -> Tensor:
        return self.field.feature(2 * points)

    def distance_and_feature(self, points: Tensor) -> tuple[Tensor, Tensor]:
        distance, feature = self.field.distance_and_feature(2 * points)
        return distance / 2, feature

    def with_gradient(self, points: Tensor, create_graph: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        distance, feature, gradient = self.field.with_gradient(2 * points, create_graph)
        return distance / 2, feature, gradient


def terms_in(config: SDFSRNConfig, scale: float) -> dict[str, float]:
    """Every term of one scene, whose numbers are `scale` times those that the paper gives them."""
    torch.manual_seed(0)
    system = make_system(config)
    batch = make_batch(3, neighbor=False)
    view = replace(batch.viewpoint, distance=torch.full((3,), 2.5 * scale), focal=torch.full((3,), 1.25))
    batch = system.with_projection(replace(batch, viewpoint=view))
    code = torch.randn(3, config.latent_size)
    field = system.hypernetwork(code)
    if scale == 0.5:
        field = Halved(field.layers, field.to_distance, field.to_color, field.frequencies)
        with torch.no_grad():
            system.marcher.to_stride.weight *= scale
            system.marcher.to_stride.bias *= scale
    system.hypernetwork.forward = lambda _: field
    losses = system.losses_of(code, batch, system.config.rays, torch.Generator().manual_seed(0))
    return {name: float(value.detach()) for name, value in losses.items()}


def test_pascal3d_s_settings_are_the_paper_s_in_our_unit():
    """A scene and the setting, both scaled by 2: every term is what it is in the paper's own numbers."""
    ours = replace(PASCAL3D, **SMALLEST | {"rays": 64, "eikonal_points": 50})
    paper = {"near": 2.5 - 1.2, "far": 3.8 - 2.5, "margin": 0.01}
    paper |= {"sdf_weight": 3.0, "last_weight": 1.0, "free_weight": 0.1, "rgb_weight": 10.0, "eikonal_weight": 1.0}
    expected, found = terms_in(replace(ours, **paper), 1.0), terms_in(ours, 0.5)
    assert set(expected) == {"ray_last", "ray_free", "rgb", "sdf", "eikonal"} and min(expected.values()) > 0
    del expected["eikonal"], found["eikonal"]  # a slope has no unit, but its points are drawn in the cube of each unit
    assert found == pytest.approx(expected, rel=1e-5)
