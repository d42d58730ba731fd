"""Notebook 07: its figures and the effects it measures, against closed forms, brute force and counting by hand."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import trimesh
from scipy.stats import entropy
from tiny import TINY, make_system
from tiny_dataset import write_tiny_dataset

from lib.data.loading import PreparedDataset
from lib.evaluation import Prediction
from lib.figures.shapes import viewpoint_at
from lib.geometry.alignment import PROTOCOLS, Clouds
from lib.geometry.meshes import marching_cubes, sample_surface
from lib.losses.semantic import neighbor_probabilities, unaligned_overlap
from lib.networks.backbones import Backbone
from support import nb07


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> PreparedDataset:
    return PreparedDataset(write_tiny_dataset(tmp_path_factory.mktemp("data") / "tiny"))


@pytest.fixture(scope="module")
def given():
    return make_system(replace(TINY, viewpoint="given")).eval()


@pytest.fixture
def clouds():
    box, ball = trimesh.creation.box((1.0, 0.7, 0.4)), trimesh.creation.icosphere(3, radius=0.4)
    views = [viewpoint_at(azimuth).rotation()[0].double().numpy() for azimuth in (30.0, 50.0)]
    return Clouds(sample_surface(box, 400, 0), sample_surface(ball, 400, 1), *views)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def titles(figure):
    return [axis.get_title() for axis in figure.axes]


# figures


@pytest.mark.parametrize("threshold", [0.02, 0.1])
def test_threshold_figure_counts_like_brute_force(clouds, threshold):
    predicted, target = PROTOCOLS["view"](clouds)
    distance = np.linalg.norm(predicted[:, None].astype(float) - target[None], axis=2)
    p, r = (distance.min(1) <= threshold).mean(), (distance.min(0) <= threshold).mean()
    found = titles(nb07.threshold_figure(clouds, threshold))
    assert found[0].endswith(f"{p:.0%}")
    assert found[1].endswith(f"{r:.0%}")
    assert found[2].endswith(f"= {2 * p * r / (p + r):.3f}")


def test_bars_are_ordered_scaled_and_coloured():
    common = {"metric": "chamfer_distance", "protocol": "view", "category": "all"}
    rows = [
        {"system": name, "value": value, "low": value - 0.01, "high": value + 0.02, "profile": profile} | common
        for name, value, profile in (("ours", 0.05, "quick"), ("sphere", 0.2, "none"), ("box", 0.1, "none"))
    ]
    rows.append(rows[0] | {"system": "other category", "category": "chair"})
    axis = nb07.comparison_bars(rows, "chamfer_distance", scale=10).axes[0]
    bars = [bar for bar in axis.patches if bar.get_height() == 0.7]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sphere", "box", "ours"]  # best at the top
    assert [bar.get_width() for bar in bars] == pytest.approx([2.0, 1.0, 0.5])
    assert bars[2].get_facecolor() != bars[0].get_facecolor() == bars[1].get_facecolor()


def test_azimuths_are_drawn_where_they_are():
    figure = nb07.azimuth_figure(np.array([10.0, -10.0, 370.0]), np.array([0.0, 90.0, -90.0]))
    dots = figure.axes[0].lines[-1].get_xydata()
    assert dots == pytest.approx(np.array([[0.0, 10.0], [90.0, 350.0], [270.0, 10.0]]))
    assert "entropy 0.26" in titles(figure)[1]  # 2 and 1 of 12 bins: 0.637 / log 12


# where paper and code differ


def ball(x):
    return np.linalg.norm(x - [0.05, 0.0, -0.1], axis=1) - 0.4


@pytest.mark.parametrize("samples", [40, 100])
def test_moved_mesh_is_what_the_released_marching_cubes_makes(samples):
    right, wrong = (marching_cubes(ball, 0.6, resolution=samples, released_shrink=s) for s in (False, True))
    moved = nb07.released_mesh(right, samples, 0.6)
    np.testing.assert_allclose(moved.vertices, wrong.vertices, atol=1e-12)
    assert np.abs(right.vertices - moved.vertices).max() > 0.5 / samples


def test_sphere_is_missed_by_what_the_formula_says():
    samples = 64
    found = nb07.shrink_on_sphere(samples, points=20_000)
    assert found["right"]["f_score@0.05"] == pytest.approx(1)
    # released points lie on a sphere of radius r (N-1)/N about a centre moved by -0.6/N on each axis
    sphere = trimesh.creation.icosphere(6, radius=0.5 * (samples - 1) / samples)
    expected = np.abs(np.linalg.norm(sphere.vertices - 0.6 / samples, axis=1) - 0.5).mean()
    extra = found["released"]["accuracy"] ** 2 - found["right"]["accuracy"] ** 2  # across, and within, the surface
    assert np.sqrt(extra) == pytest.approx(expected, rel=0.15)


def test_predictions_that_are_exact_suffer_in_raw_and_not_in_view(data):
    rotations = data.viewpoint.rotation().double().numpy()
    made = {row: Prediction(data.mesh(row), rotations[row], True) for row in (0, 4, 16)}
    rows = {(r["system"], r["protocol"], r["metric"]): r for r in nb07.shrink_on_predictions(made, data, 4_000)}
    changed = rows["marching cubes: released", "raw", "chamfer_distance_difference"]
    assert changed["low"] > 0 and changed["n"] == 3
    view = rows["marching cubes: released", "view", "chamfer_distance_difference"]
    assert abs(view["value"]) < 1e-6


def test_neighbour_effect_is_the_expectation_over_drawn_neighbours(data):
    neighbors = (torch.arange(len(data))[:, None] + torch.tensor([3, 7, 10])) % len(data)
    rows = torch.tensor([0, 5, 12])
    masks, azimuth = data.mask.double().numpy() / 255, data.metadata["azimuth"].to_numpy()
    for weighting in ("uniform", "silhouette"):
        found, expected = nb07.neighbor_effect(data, neighbors, weighting, rows), []
        for row in rows.tolist():
            others = neighbors[row].tolist()
            iou = [
                (masks[row] * masks[o]).sum() / (masks[row] + masks[o] - masks[row] * masks[o]).sum() for o in others
            ]
            chance = np.ones(3) if weighting == "uniform" else np.maximum(1 - np.array(iou), 1e-3) ** 4
            chance /= chance.sum()
            turned = [abs((azimuth[o] - azimuth[row] + 180) % 360 - 180) for o in others]
            expected.append([chance @ turned, chance @ iou, np.exp(entropy(chance))])
        wanted = dict(zip(("azimuth_difference", "overlap", "effective"), np.mean(expected, axis=0), strict=True))
        assert found == pytest.approx(wanted, rel=1e-4)


def test_released_weighting_hardly_prefers_any_neighbour(data):
    """One neighbour has the same silhouette, one another: the intended weighting draws only the second."""
    mask = data.mask[:1].float() / 255
    others = torch.stack([mask[0], mask[0].roll(12, dims=1)])[None]
    intended, released = (neighbor_probabilities(mask, others, w)[0] for w in ("silhouette", "released"))
    assert intended[1] > 0.99
    assert released.sum().item() == pytest.approx(1) and (released - 0.5).abs().max() < 0.15
    assert torch.equal(released, neighbor_probabilities(mask, others, "released")[0])


def test_unaligned_overlap_is_that_of_independent_draws():
    """Half of the pixels are foreground, all drawn (as many rays as pixels): chance alone gives IoU = 1/4 / 3/4."""
    mask = torch.zeros(1, 20, 20)
    mask[:, :, :10] = 1
    assert float(unaligned_overlap(mask, mask[:, None]).mean()) == pytest.approx(1 / 3, abs=0.03)


def test_infinite_last_interval_fills_the_background_where_the_surface_is_thick(data, given):
    wide, thin = (nb07.last_interval_effect(given, data, [0, 4], beta) for beta in (0.1, 0.001))
    assert wide["difference"] > 0.05 and thin["difference"] < 0.001
    share = (data.batch(torch.tensor([0, 4])).mask.mean(dim=(1, 2))).mean()
    assert wide["infinite_iou"] == pytest.approx(float(share), abs=0.05)  # everything is opaque


def test_retrieval_finds_no_image_of_the_same_model(data):
    class Average(torch.nn.Module):
        def forward(self, images):
            return torch.stack([images.mean(dim=(1, 2, 3)), torch.ones(len(images))], dim=1)

    brightness = data.rgb.double().mean(dim=(1, 2, 3)) / 255
    angle, hits = np.arctan(brightness.numpy()), 0
    for row in range(len(data)):
        others = [o for o in range(len(data)) if data.metadata["model"][o] != data.metadata["model"][row]]
        nearest = min(others, key=lambda o: abs(angle[o] - angle[row]))
        hits += data.metadata["category"][nearest] == data.metadata["category"][row]
    assert nb07.retrieval_accuracy(Average(), data, chunk=5) == pytest.approx(hits / len(data))


def test_all_effects_make_a_table(data, given, monkeypatch):
    monkeypatch.setattr(nb07, "Backbone", lambda name, weights, *rest: Backbone(name, "random", *rest))
    rotations = data.viewpoint.rotation().double().numpy()
    made = {row: Prediction(data.mesh(row), rotations[row], True) for row in (0, 4)}
    neighbors = (torch.arange(len(data))[:, None] + torch.tensor([3, 6])) % len(data)
    rows = nb07.measure_differences(given, made, data, data, data, neighbors, points=500, images=4)
    table = nb07.differences_table(rows)
    assert set(table.columns) == {"right", "released", "paper", "VolSDF"}
    assert {row["profile"] for row in rows} == {"quick"} and np.isfinite([row["value"] for row in rows]).all()
    sphere = table.loc["marching cubes, a sphere, N = 101"]
    assert sphere["released"].iloc[0] > 2 * sphere["right"].iloc[0]
