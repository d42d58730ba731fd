"""Checks of the exercises: each holds an answer against a truth of its own and names the first thing that is wrong.

A check is called with the reader's function, prints one line if all is right, and raises `WrongAnswerError` otherwise.
None of them calls the function of this package that the exercise is about.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class WrongAnswerError(AssertionError):
    """An answer does not have a property that the right one has."""


def expect(holds: bool | Tensor, sentence: str) -> None:
    """Raise `WrongAnswerError` with the sentence unless it holds."""
    if not bool(torch.as_tensor(holds).all()):
        raise WrongAnswerError(sentence)


def near(value: Tensor | float, truth: Tensor | float, tolerance: float = 1e-4) -> bool:
    """Whether an answer is a number, and is the truth but for rounding."""
    value, truth = torch.as_tensor(value, dtype=torch.float64), torch.as_tensor(truth, dtype=torch.float64)
    return value.shape == truth.shape and bool(((value - truth).abs() <= tolerance * (1 + truth.abs())).all())


def generator(seed: int = 0) -> torch.Generator:
    """What a check draws from: the same numbers each time."""
    return torch.Generator().manual_seed(seed)


def right(name: str) -> None:
    """Say so."""
    print(f"{name}: right")


# --- 01: neighbours --------------------------------------------------------------------------------------------------


def knn(answer: Callable[[Tensor, list, int], Tensor]) -> None:
    """(features (N, D), model of each, K) -> rows (N, K) of the most similar images of other models, best first."""
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.7, 0.7], [5.0, 9.0], [0.95, 0.05]])
    models = ["a", "b", "c", "d", "a"]
    found = torch.as_tensor(answer(features, models, 2)).tolist()
    expect(0 not in found[0], "an image is among its own neighbours: leave the image itself out")
    expect(4 not in found[0], "the neighbours of image 0 hold image 4, which shows the same model: leave its model out")
    # cosines with image 0: 0.994, 0.707, 0.486, 0.999; raw products: 0.9, 0.7, 5, 0.95
    expect(3 not in found[0], "a long vector wins without pointing the same way: divide by the lengths (cosine)")
    expect(found[0] == [1, 2], f"the neighbours of image 0 are 1 and 2 in this order, best first, not {found[0]}")
    expect(found[3] == [2, 1], f"the neighbours of image 3 are 2 and 1, not {found[3]}")
    right("knn")


# --- 02: bounds ------------------------------------------------------------------------------------------------------


def sdf_lower_bound(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """(pixels (N, 2) on the plane at focal length 1, distances D (N,), depths z (N,)) -> b (N,)."""
    middle = answer(torch.zeros(1, 2), torch.tensor([0.75]), torch.tensor([2.0]))
    expect(
        not torch.as_tensor(middle).isnan().any(),
        "at the principal point, u = 0, the answer is NaN: no division by |u|",
    )
    drawn = torch.rand(40, 4, generator=generator(), dtype=torch.float64)
    pixels, distance, depth = drawn[:, :2] - 0.5, 0.05 + 0.3 * drawn[:, 2], 1 + drawn[:, 3]
    turn = torch.linspace(0, 2 * math.pi, 3601, dtype=torch.float64)
    circle = pixels[:, None] + distance[:, None, None] * torch.stack([turn.cos(), turn.sin()], dim=-1)
    rays = torch.cat([circle, torch.ones_like(circle[..., :1])], dim=-1)  # (40, 3601, 3)
    points = depth[:, None] * torch.cat([pixels, torch.ones(40, 1, dtype=torch.float64)], dim=-1)
    truth = torch.linalg.cross(points[:, None].expand_as(rays), rays).norm(dim=-1) / rays.norm(dim=-1)  # to each ray
    truth = truth.amin(dim=1)
    found = torch.as_tensor(answer(pixels, distance, depth)).double()
    expect(found.shape == truth.shape, f"40 pixels need 40 bounds, not an answer of shape {tuple(found.shape)}")
    expect(
        not near(found, depth * distance),
        "z D is how far the circle is in the image; the nearest point of its ray is nearer",
    )
    inward = pixels * (1 - distance / pixels.norm(dim=-1)).unsqueeze(-1)
    inward = depth * distance / (1 + inward.square().sum(-1)).sqrt()
    expect(
        not near(found, inward, 1e-3), "this is the circle's point nearest to the principal point; take the farthest"
    )
    expect(
        (found <= truth + 1e-4).all(),
        "some bounds are larger than the distance to the cone: are D and u in the same unit?",
    )
    expect(
        near(found, truth, 1e-3), "some bounds are smaller than they could be: compare with the minimum over the circle"
    )
    right("sdf_lower_bound")


def bound_loss(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """(f (pixels, depths), b (pixels, depths), D (pixels,), 0 inside the silhouette) -> Eq. 4."""
    f, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.5, 1.0]])
    found = torch.as_tensor(answer(f, b, torch.tensor([0.5, 1.0])))
    # violations 1 + 2 and 0 + 1, weights 2 and 1
    expect(not near(found, (2 * 0 + 1 * 0.5) / 3), "the hinge is reversed: f may be above the bound, not below it")
    expect(not near(found, (2 * 1.5 + 1 * 0.5) / 3), "this is the mean over depths; Eq. 4 has their sum")
    expect(
        not near(found, (3 + 1) / 2), "every pixel counts the same: weigh it by 1 / D, and divide by the sum of weights"
    )
    expect(near(found, (2 * 3 + 1 * 1) / 3), f"two pixels by hand give 7/3, yours is {float(found):.4f}")
    inside = torch.as_tensor(answer(torch.cat([f, f]), torch.cat([b, b]), torch.tensor([0.5, 1.0, 0.0, 0.0])))
    expect(inside.isfinite(), "a pixel inside the silhouette (D = 0) makes the loss infinite or NaN: 1 / 0")
    expect(near(inside, 7 / 3), "pixels inside the silhouette (D = 0) are not Eq. 4's business: give them weight 0")
    right("bound_loss")


# --- 03: volume rendering --------------------------------------------------------------------------------------------


def laplace_density(answer: Callable[[Tensor, float], Tensor]) -> None:
    """(signed distances, beta) -> densities (VolSDF Eq. 2-3)."""
    surface = torch.as_tensor(answer(torch.zeros(1, dtype=torch.float64), 0.1))
    expect(
        not near(surface, torch.tensor([0.5])),
        "on the surface the density is 1/(2 beta) = 5, yours is 0.5: divide by beta",
    )
    expect(
        near(surface, torch.tensor([5.0])),
        f"on the surface, at beta = 0.1, the density is 5, yours is {float(surface[0]):.3f}",
    )
    deep = torch.as_tensor(answer(torch.tensor([-2.0, 2.0], dtype=torch.float64), 0.1))
    expect(deep[0] > deep[1], "outside is denser than inside: sdf is negative inside, so the sign is flipped")
    expect(near(deep, torch.tensor([10.0, 0.0])), "deep inside the density is 1/beta = 10, far outside 0")
    across = torch.linspace(-2, 2, 40_001, dtype=torch.float64).abs()  # a sheet without thickness
    depth = float(torch.as_tensor(answer(across, 0.1)).mean() * 4)
    expect(
        near(depth, 1.0, 1e-3),
        f"a ray through a sheet has optical depth 1, yours {depth:.3f}: the tails are not Laplace's",
    )
    far = torch.tensor([-50.0, 50.0], requires_grad=True)
    torch.as_tensor(answer(far, 0.01)).sum().backward()
    message = (
        "far from the surface the gradient is NaN: torch.where also differentiates the branch that it does not take"
    )
    expect(far.grad.isfinite(), message)
    right("laplace_density")


def weights(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(densities (rays, samples), depths (rays, samples)) -> w_i; the last sample's interval has length 0."""
    density = torch.tensor([[50.0, 0.0, 0.0, 9.0]])
    found = torch.as_tensor(answer(density, torch.tensor([[1.0, 1.1, 1.2, 1.3]])))
    expect(found.shape == density.shape, f"one weight for each sample: shape (1, 4), not {tuple(found.shape)}")
    opacity = 1 - math.exp(-5.0)
    message = (
        "nothing stands before the first sample, so T_1 = 1: sum the optical depths of the samples *before* each one"
    )
    expect(near(found[0, 0], opacity), message)
    expect(near(found[0, 3], 0.0), "the last sample has an interval of length 0, so its weight is 0")
    density = 5 * torch.rand(7, 9, generator=generator(), dtype=torch.float64)
    depths = torch.rand(7, 9, generator=generator(1), dtype=torch.float64).sort(dim=-1).values
    found = torch.as_tensor(answer(density, depths))
    lengths = depths.diff(dim=-1)
    total = 1 - (-(density[:, :-1] * lengths).sum(dim=-1)).exp()
    expect(
        near(found.sum(dim=-1), total),
        "the weights of a ray must sum to 1 - exp(-sum of sigma d): alpha is 1 - exp(-sigma d)",
    )
    for ray in range(7):  # in 64 bits, by a loop
        left = 1.0
        for i in range(8):
            alpha = 1 - math.exp(-float(density[ray, i] * lengths[ray, i]))
            expect(
                near(found[ray, i], left * alpha),
                f"w_{i + 1} of a ray differs from a loop's: T is a product over j < i",
            )
            left *= 1 - alpha
    right("weights")


# --- 04: semantic consistency ----------------------------------------------------------------------------------------


def soft_iou(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(masks (B, pixels), masks (B, pixels)), in [0, 1] -> intersection over union (B,)."""
    a, b = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.5, 0.5], [1.0, 1.0]])
    found = torch.as_tensor(answer(a, b))
    expect(
        found.shape == (2,), f"one number for each image: shape (2,), not {tuple(found.shape)}: do not pool the batch"
    )
    expect(not near(found[0], 0.25), "the union is not a + b, which counts the intersection twice: take a + b - a b")
    expect(not near(found[0], 1.0), "masks are shares of a pixel: the intersection is a b, not the smaller of the two")
    expect(near(found, torch.tensor([1 / 3, 0.5])), f"the two overlaps are 1/3 and 1/2, not {found.tolist()}")
    empty = torch.as_tensor(answer(torch.zeros(1, 3), torch.zeros(1, 3)))
    expect(near(empty, torch.ones(1), 1e-3), "two empty masks agree: 1, not 0 / 0")
    right("soft_iou")


def ssc(answer: Callable[[Callable, Callable, str, str], object]) -> None:
    """(encode, render, query image, neighbour's image) -> what is compared with the neighbour's image (Eq. 3)."""
    seen = []

    def encode(image):
        return tuple(f"{part} of the {image}" for part in ("shape", "texture", "viewpoint"))

    def render(*inputs):
        seen.append(inputs)
        return "rendering"

    result = answer(encode, render, "query", "neighbour")
    expect(len(seen) == 1, f"render must be called once, not {len(seen)} times")
    (inputs,) = seen
    expect(len(inputs) == 3, "render takes a shape, a texture and a viewpoint")
    expect(
        "shape of the neighbour" not in inputs,
        "the neighbour's own shape explains it: nothing is learned about the query",
    )
    expect(
        "texture of the query" not in inputs, "the query's colours are not the neighbour's: its texture must be used"
    )
    expect("viewpoint of the query" not in inputs, "the neighbour was seen from elsewhere: render from its viewpoint")
    order = "render takes shape, texture and viewpoint in this order"
    expect(inputs == ("shape of the query", "texture of the neighbour", "viewpoint of the neighbour"), order)
    expect(result == "rendering", "return what render gives")
    right("ssc")


def neighbor_weights(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(mask (pixels,), neighbours' masks (K, pixels), of 0 and 1) -> p_k ~ (1 - IoU)^4, (K,)."""
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    pair = torch.tensor([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0]])  # IoU 1/3 and 0: preferences 16/81 and 1
    found = torch.as_tensor(answer(mask, pair))
    expect(found.shape == (2,), f"one probability for each neighbour: shape (2,), not {tuple(found.shape)}")
    expect(found[0] < found[1], "the neighbour that overlaps more is preferred: take 1 - IoU, not the IoU")
    expect(
        near(found.sum(), 1.0), f"probabilities sum to 1, yours to {float(found.sum()):.3f}: divide by the sum over k"
    )
    expect(not near(found[0], 0.4), "1 - IoU itself is not preference enough: raise it to the fourth power")
    softmax = 1 / (1 + math.exp(1 - 16 / 81))
    expect(not near(found[0], softmax), "this is a softmax; the formula divides by the sum, without an exponential")
    expect(not near(found[0], 1 / 17), "1 of 2 pixels shared is not 1/2: the union, 3 pixels, goes below")
    expect(near(found, torch.tensor([16 / 97, 81 / 97])), f"IoU 1/3 and 0 give 16/97 and 81/97, not {found.tolist()}")
    drawn = (torch.rand(6, 50, generator=generator(4)) < 0.4).float()
    sets = [set(row.nonzero().flatten().tolist()) for row in drawn]  # counted, not multiplied
    preference = [(1 - len(sets[0] & other) / len(sets[0] | other)) ** 4 for other in sets[1:]]
    truth = torch.tensor(preference) / sum(preference)
    expect(near(answer(drawn[0], drawn[1:]), truth), "five random masks give other probabilities than counting pixels")
    same = torch.as_tensor(answer(mask, mask.expand(3, 4)))
    expect(same.isfinite(), "neighbours with the query's own silhouette give 0 / 0: keep 1 - IoU above a thousandth")
    expect(near(same, torch.full((3,), 1 / 3)), "three neighbours with the same silhouette must be equally likely")
    right("neighbor_weights")


# --- 05: normals -----------------------------------------------------------------------------------------------------


def normal_loss(answer: Callable[[Tensor, Tensor, Tensor, float], Tensor]) -> None:
    """(rendered (B, P, 3), world; estimated (B, P, 3), camera; rotations world to camera (B, 3, 3); keep) -> Eq. 4 + 1.

    The mean over the share `keep` of all pixels of the batch with the smallest 1 - cos.
    """
    up, eye = torch.tensor([[[0.0, 0.0, 1.0]]]), torch.eye(3)[None]
    tilted = torch.tensor([[[0.0, math.sqrt(0.75), 0.5]]])
    found = torch.as_tensor(answer(up, tilted, eye, 1.0))
    expect(not near(found, 5 * 1.366025 / 3 + 0.5), "the L1 norm is the sum over x, y and z, not their mean")
    expect(near(found, 7.330127), f"a normal that is tilted by 60 degrees costs 7.33, yours {float(found):.3f}")
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]]])
    message = (
        "right normals, seen from another side, cost something: R turns world into camera, so the estimate needs R^T n"
    )
    expect(near(answer(tilted, (turn @ tilted.mT).mT, turn, 1.0), 0.0), message)
    pair = torch.cat([up.expand(1, 2, 3), tilted.expand(1, 2, 3)])  # the first image right, the second wrong
    found = torch.as_tensor(answer(up.expand(2, 2, 3), pair, eye.expand(2, 3, 3), 0.5))
    expect(near(found, 0.0), "with keep = 0.5 both wrong pixels must go: rank over the whole batch, not image by image")
    pair = torch.cat([up.expand(1, 2, 3), torch.cat([tilted, up], dim=1)])
    found = torch.as_tensor(answer(up.expand(2, 2, 3), pair, eye.expand(2, 3, 3), 1.0))
    expect(near(found, 7.330127 / 4), "with keep = 1 all four pixels count equally in the mean")
    right("normal_loss")


# --- 06: training ----------------------------------------------------------------------------------------------------


def azimuth_prior(answer: Callable[[Tensor], Tensor]) -> None:
    """(azimuths (B, 2) as unit pairs) -> the released code's Wasserstein distance from an even spread."""
    angle = (2 * torch.arange(1, 7) - 1) * math.pi / 6
    even = torch.stack([angle.cos(), angle.sin()], dim=-1)
    expect(near(answer(even), 0.0), "an even spread over the circle costs nothing; the grid is (2 k - 1) pi / B")
    mixed = even[torch.tensor([3, 0, 5, 1, 4, 2])]
    expect(near(answer(mixed), 0.0), "the order of the images must not matter: sort both sides before comparing")
    drawn = 2 * math.pi * torch.rand(6, generator=generator(2))
    pairs = torch.stack([drawn.cos(), drawn.sin()], dim=-1)
    distances = []
    for project in (lambda c, s: c, lambda c, s: s, lambda c, s: c * s):
        ours, grid = (np.sort(project(*np.asarray(p).T)) for p in (pairs, even))
        distances.append(float(np.linalg.norm(ours - grid)))
    truth, found = sum(distances) / 18, torch.as_tensor(answer(pairs))
    expect(
        not near(found, sum(distances[:2]) / 18),
        "cos * sin is missing: cos and sin alone cannot tell all spreads apart",
    )
    expect(not near(found, sum(distances)), "the three norms are summed and divided by 3 B")
    expect(near(found, truth), f"six azimuths cost {truth:.4f}, yours {float(found):.4f}: three L2 norms over 3 B")
    right("azimuth_prior")


# --- 07: evaluation --------------------------------------------------------------------------------------------------


def grids(height: float) -> tuple[Tensor, Tensor]:
    """Two parallel grids of points: each point's nearest of the other is at this distance."""
    axis = torch.linspace(0, 1, 11)
    flat = torch.cartesian_prod(axis, axis, torch.zeros(1))
    return flat, flat + torch.tensor([0.0, 0.0, height])


def chamfer(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(points (N, 3), points (M, 3)) -> Chamfer distance (Eq. 8), not squared."""
    found = torch.as_tensor(answer(*grids(0.03)))
    expect(not near(found, 0.0009, 1e-6), "this is the squared distance; Eq. 8 has the distance itself")
    expect(not near(found, 0.06, 1e-6), "this is the sum of both directions; Eq. 8 has half of it")
    expect(
        near(found, 0.03, 1e-6), f"two parallel grids that are 0.03 apart have distance 0.03, not {float(found):.4f}"
    )
    p, q = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    expect(
        near(answer(p, q), 0.25) and near(answer(q, p), 0.25),
        "one direction only: a point at 1 that nobody predicted costs 1/4",
    )
    right("chamfer")


def f_score(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """(predicted (N, 3), true (M, 3), threshold) -> F-score."""
    p, q = torch.zeros(1, 3), torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    found = torch.as_tensor(answer(p, q, 0.1))  # precision 1, recall 1/2
    expect(not near(found, 0.75), "this is the arithmetic mean; the F-score is the harmonic one, 2 P R / (P + R)")
    expect(
        not near(found, 1.0), "only what is predicted counts here: the true points that nobody predicted must count too"
    )
    expect(near(found, 2 / 3), f"with P = 1 and R = 1/2 the F-score is 2/3, yours {float(found):.3f}")
    expect(near(answer(*grids(0.03), 0.05), 1.0), "grids that are 0.03 apart agree fully at a threshold of 0.05")
    nothing = torch.as_tensor(answer(*grids(0.03), 0.01))
    expect(nothing.isfinite(), "if nothing is near, P + R = 0: the answer must be 0, not 0 / 0")
    expect(
        near(nothing, 0.0),
        "grids that are 0.03 apart have nothing in common at a threshold of 0.01: distances, not their squares",
    )
    right("f_score")


def index_to_world(answer: Callable[[float, int, float], float]) -> None:
    """(index of a vertex, samples N along an axis, half side b of the grid) -> coordinate."""
    first, last = float(answer(0, 101, 0.6)), float(answer(100, 101, 0.6))
    expect(not near(first, 0.0), "index 0 is the grid's lower end, -b: the grid is centred on 0")
    expect(near(first, -0.6), f"index 0 is at -0.6, yours at {first:.4f}")
    expect(not near(last, 0.6 - 1.2 / 101), "the last index is N - 1, and must be at +b: divide by N - 1, not by N")
    expect(near(last, 0.6), f"the last index, 100, is at +0.6, yours at {last:.4f}")
    expect(
        near(answer(25.5, 101, 0.6), -0.294), "a vertex may be between samples: index 25.5 is at -0.294; do not round"
    )
    right("index_to_world")


# --- 10: SDF-SRN -----------------------------------------------------------------------------------------------------


def dz_dtheta(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """(df/dtheta (N,), gradient of f (N, 3), unit directions of rays (N, 3)) -> dz*/dtheta (N,)."""
    ball = torch.tensor([-1.0]), torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.0, -1.0, 0.0]])
    found = torch.as_tensor(answer(*ball))
    expect(found.shape == (1,), f"one number for each ray: shape (1,), not {tuple(found.shape)}")
    expect(
        not near(found, torch.tensor([1.0])), "a ball that grows comes nearer: dz/dr is -1 head on. A minus is missing"
    )
    expect(near(found, torch.tensor([-1.0])), f"head on a ball gives dz/dr = -1, yours {float(found[0]):.3f}")
    # a ray that passes a ball of radius 0.5 at 0.3 hits it at depth 2 - 0.4; by finite differences
    offset, radius, step = 0.3, 0.5, 1e-6
    hit = 2 - math.sqrt(radius**2 - offset**2)
    slope = (math.sqrt(radius**2 - offset**2) - math.sqrt((radius + step) ** 2 - offset**2)) / step
    normal = torch.tensor([[offset, 2 - hit, 0.0]]) / radius
    slanted = torch.tensor([-1.0]), normal, torch.tensor([[0.0, -1.0, 0.0]])
    found = torch.as_tensor(answer(*slanted))
    expect(
        not near(found, torch.tensor([-1.0])),
        "a slanting surface moves faster along the ray: divide by grad f . d, not by |grad f|",
    )
    expect(
        near(found, torch.tensor([slope]), 1e-3),
        f"a ray beside the middle gives {slope:.3f}, yours {float(found[0]):.3f}",
    )
    steep = torch.tensor([-1.0]), 4 * normal, torch.tensor([[0.0, -1.0, 0.0]])
    expect(
        near(answer(*steep), torch.tensor([slope / 4]), 1e-3), "f need not be a distance: its slope must be divided out"
    )
    right("dz_dtheta")
