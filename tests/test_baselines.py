"""Baselines against shapes whose mean, medoid and nearest neighbour are known."""

import numpy as np
import pytest
import torch
import trimesh
from tiny_dataset import write_tiny_dataset

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import baselines
from lib.evaluation.baselines import BASELINES, make_baselines
from lib.geometry.cameras import Viewpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def train(folder):
    return PreparedDataset(folder, "train")


@pytest.fixture(scope="module")
def held_out(folder):
    return PreparedDataset(folder, "test")


def corners(rgb):
    """A describing function that needs no network: the image on a coarse grid."""
    return torch.nn.functional.adaptive_avg_pool2d(1 - rgb.permute(0, 3, 1, 2), 6).flatten(1)


def boxes(*heights):
    return [trimesh.creation.box((0.6, 0.6, height)) for height in heights]


def front(count):
    angles = torch.zeros(2, count)
    return Viewpoint.from_angles(*angles).rotation().double().numpy()


def test_mean_box_has_the_mean_sides():
    assert baselines.mean_box(boxes(0.2, 0.4, 0.9)).extents == pytest.approx([0.6, 0.6, 0.5])


def test_medoid_is_the_shape_in_the_middle():
    assert baselines.medoid(boxes(0.1, 0.45, 0.5, 0.6, 1.0)) == 2


def test_mean_shape_of_equal_shapes_is_that_shape():
    mesh, threshold = baselines.mean_shape(boxes(0.5, 0.5), front(2), resolution=48)
    voxel = 1.2 / 47
    assert mesh.extents == pytest.approx([0.6, 0.6, 0.5], abs=2 * voxel)
    assert mesh.volume == pytest.approx(0.6 * 0.6 * 0.5, rel=0.15)
    assert 0 < threshold < 1


def test_baselines_come_under_full_names_with_their_views(train, held_out):
    predictors = make_baselines(train, held_out, shapes=2, describe=corners)
    assert list(predictors)[:3] == ["sphere", "box (true view)", "box (fixed view)"]
    assert list(predictors)[-2:] == ["retrieval_mask (true view)", "retrieval_mask (own view)"]
    assert len(predictors) == 2 * len(BASELINES) - 1
    batch = held_out.batch(torch.tensor([0, 4]))
    true = batch.viewpoint.rotation().double().numpy()
    for name, predict in predictors.items():
        predictions = predict(batch)
        assert [len(p.mesh.faces) > 0 for p in predictions] == [True, True]
        given = not name.endswith(("own view)", "fixed view)"))
        assert [p.true_view for p in predictions] == [given, given]
        if given:
            assert np.stack([p.rotation for p in predictions]) == pytest.approx(true)


def test_shapes_of_a_category_are_made_of_that_category(train, held_out):
    predict = make_baselines(train, held_out, ["medoid"])["medoid (true view)"]
    crate, lens = predict(held_out.batch(torch.tensor([0, 4])))
    assert len(crate.mesh.faces) == 12  # a box
    assert len(lens.mesh.faces) > 100


@pytest.mark.parametrize("name", ["retrieval_mask", "retrieval_feature"])
def test_retrieval_finds_a_training_image_itself_with_its_view(train, name):
    predict = make_baselines(train, train, [name], describe=corners)[f"{name} (own view)"]
    rows = torch.tensor([1, 5, 10])  # of shapes that look different from every side
    predictions = predict(train.batch(rows))
    rotations = train.viewpoint[rows].rotation().double().numpy()
    for row, rotation, prediction in zip(rows, rotations, predictions, strict=True):
        assert prediction.mesh.extents == pytest.approx(train.mesh(int(row)).extents)
        assert prediction.rotation == pytest.approx(rotation)


def test_mask_retrieval_takes_the_largest_intersection_over_union(train, held_out):
    batch = held_out.batch(torch.arange(len(held_out)))
    found = baselines.mask_retrieval(train)(batch)
    known = train.mask.numpy() > 127
    for row, mask in zip(found, batch.mask.numpy() > 0.5, strict=True):
        overlap = [(mask & other).sum() / (mask | other).sum() for other in known]
        assert overlap[row] == max(overlap)


def test_bad_requests_are_refused(train, held_out, tmp_path):
    with pytest.raises(InputError, match="pyramid"):
        make_baselines(train, held_out, ["pyramid"])
    balls = PreparedDataset(train.prepared.folder, "train", ["ball"])
    with pytest.raises(InputError, match="'box'"):
        make_baselines(balls, held_out)
    blind = write_tiny_dataset(tmp_path / "blind", viewpoints=False)
    with pytest.raises(InputError, match="viewpoints"):
        make_baselines(PreparedDataset(blind, "train"), PreparedDataset(blind, "test"))
