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


def distance_transform(answer: Callable[[Tensor], Tensor]) -> None:
    """(silhouette (H, W), True on the object) -> pixels from each centre to the nearest of the silhouette (H, W)."""
    one = torch.zeros(4, 6, dtype=torch.bool)
    one[1, 2] = True
    found = torch.as_tensor(answer(one)).double()
    expect(found.shape == one.shape, f"one distance for each pixel: shape (4, 6), not {tuple(found.shape)}")
    expect(
        near(found[1, 2], 0.0), "a pixel of the silhouette is 0 away from it: measure to the object, not to its outside"
    )
    corner = found[3, 5]  # 2 rows and 3 columns away
    expect(not near(corner, 5.0), "these are steps along rows and columns; the straight way is shorter")
    expect(not near(corner, 3.0), "this is the larger of the two offsets; take the straight way, by Pythagoras")
    expect(not near(corner, 13.0), "this is the squared distance: take its root")
    expect(
        near(corner, math.sqrt(13)), f"2 rows and 3 columns are {math.sqrt(13):.3f} pixels, yours {float(corner):.3f}"
    )
    two = one.clone()
    two[1, 5] = True
    found = torch.as_tensor(answer(two)).double()
    expect(not near(found[1, 4], 1.5), "this is the mean over the silhouette's pixels; the nearest one alone counts")
    expect(
        near(found[1, 4], 1.0), f"the nearer of two pixels is 1 away, yours {float(found[1, 4]):.3f}: take the minimum"
    )
    drawn = torch.rand(7, 5, generator=generator()) < 0.15
    pixels = [tuple(pixel) for pixel in drawn.nonzero().tolist()]
    truth = [[min(math.dist((row, column), pixel) for pixel in pixels) for column in range(5)] for row in range(7)]
    found = torch.as_tensor(answer(drawn)).double()
    expect(near(found, torch.tensor(truth)), "some distances of a random silhouette differ from a loop over its pixels")
    right("distance_transform")


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


def pixel(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """(weights (rays, samples), colours (rays, samples, 3), depths (rays, samples)) -> rgb, mask, depth of each ray.

    The background is white; where nothing was hit the depth is that of the last sample.
    """
    weights, colors = torch.tensor([[0.5, 0.25, 0.0]]), torch.eye(3)[None]  # red, green, blue
    depths = torch.tensor([[1.0, 2.0, 3.0]])
    found = answer(weights, colors, depths)
    expect(len(found) == 3, "return three things: rgb, mask and depth")
    rgb, mask, depth = (torch.as_tensor(part) for part in found)
    shapes = tuple(rgb.shape) == (1, 3) and tuple(mask.shape) == tuple(depth.shape) == (1,)
    expect(shapes, "for one ray rgb has shape (1, 3), mask and depth have shape (1,)")
    expect(
        near(mask[0], 0.75), f"weights of 1/2 and 1/4 make a mask of 3/4, yours {float(mask[0]):.3f}: it is their sum"
    )
    expect(
        not near(rgb[0], torch.tensor([0.5, 0.25, 0.0])),
        "the background is black: the rest of the light, 1 - mask, comes from a white one",
    )
    expect(
        not near(rgb[0], torch.tensor([2 / 3, 1 / 3, 0.0])),
        "the colour is divided by the mask: leave it, and add the background's share 1 - mask",
    )
    expect(near(rgb[0], torch.tensor([0.75, 0.5, 0.25])), "half red and a quarter green on white are (0.75, 0.5, 0.25)")
    expect(not near(depth[0], 1.0), "the depth is not a mean yet: divide it by the sum of the weights")
    expect(not near(depth[0], 1.75), "the background has no depth: only samples count, divided by their weights' sum")
    expect(near(depth[0], 4 / 3), f"the mean depth is 4/3, yours {float(depth[0]):.3f}")
    rgb, mask, depth = (torch.as_tensor(part) for part in answer(0 * weights, colors, depths))
    expect(depth.isfinite(), "a ray that hits nothing has weights 0: its depth is 0 / 0")
    expect(near(rgb[0], torch.ones(3)) and near(mask[0], 0.0), "a ray that hits nothing is white, and its mask is 0")
    expect(near(depth[0], 3.0), "a ray that hits nothing has the last sample's depth")
    weights = torch.rand(5, 4, generator=generator(), dtype=torch.float64) / 4
    colors = torch.rand(5, 4, 3, generator=generator(1), dtype=torch.float64)
    depths = torch.rand(5, 4, generator=generator(2), dtype=torch.float64).cumsum(dim=-1)
    rgb, _, depth = (torch.as_tensor(part) for part in answer(weights, colors, depths))
    for ray in range(5):  # in 64 bits, by a loop
        shares = weights[ray].tolist()
        blue = sum(w * float(c[2]) for w, c in zip(shares, colors[ray], strict=True)) + 1 - sum(shares)
        mean = sum(w * float(z) for w, z in zip(shares, depths[ray], strict=True)) / sum(shares)
        expect(near(rgb[ray, 2], blue), "several rays are mixed, or some colours are: one ray differs from a loop's")
        expect(near(depth[ray], mean), "several rays are mixed, or some depths are: one ray differs from a loop's")
    right("pixel")


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


def written_layer(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """(codes (B, C), writer ((1 + inputs) * outputs, C), points (B, P, inputs)) -> values (B, P, outputs).

    What is written is read row by row: first the bias of all outputs, then a row of weights for each input.
    """
    drawn = generator()
    codes, writer = (torch.randn(size, generator=drawn, dtype=torch.float64) for size in ((2, 3), (15, 3)))
    points = torch.randn(2, 4, 2, generator=drawn, dtype=torch.float64)
    written = [[sum(float(w * c) for w, c in zip(row, code, strict=True)) for row in writer] for code in codes]

    def looped(image: int) -> Tensor:
        rows = [written[image][5 * row : 5 * row + 5] for row in range(3)]
        values = [[b + x * v + y * w for b, v, w in zip(*rows, strict=True)] for x, y in points[image].tolist()]
        return torch.tensor(values, dtype=torch.float64)

    origin = torch.as_tensor(answer(codes, writer, torch.zeros_like(points)))
    expect(origin.shape == (2, 4, 5), f"2 images, 4 points, 5 outputs: shape (2, 4, 5), not {tuple(origin.shape)}")
    expect(origin.abs().sum() > 0, "at the point 0 nothing is left: the layer has no bias")
    bias = torch.tensor(written, dtype=torch.float64)
    last = bias[0, -5:].expand(4, -1)
    expect(not near(origin[0], last), "the bias is the first of the written rows, not the last")
    mixed = bias[0, ::3].expand(4, -1)
    expect(not near(origin[0], mixed), "what is written is read row by row: (1 + inputs, outputs), not the other way")
    expect(
        near(origin[0], bias[0, :5].expand(4, -1)), "at the point 0 only the bias is left: the first 5 written numbers"
    )
    found = torch.as_tensor(answer(codes, writer, points))
    expect(
        near(found[0], looped(0)), "the first image differs from a loop over its points: bias + sum of x times weight"
    )
    expect(near(found[1], looped(1)), "the second image differs: every image has a layer of its own, from its own code")
    right("written_layer")


def ray_loss(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """(f at the marched points (rays, N + 1), in the silhouette (rays,), epsilon) -> Eq. 7, summed."""
    inside, outside = torch.tensor([True]), torch.tensor([False])
    found = torch.as_tensor(answer(torch.tensor([[1.0, 1.0, -1.0]]), inside, 0.1))
    expect(found.shape == (), f"the loss is one number, not an answer of shape {tuple(found.shape)}")
    expect(not near(found, 3.3), "f > 0 before the surface costs something: alpha has the wrong sign")
    expect(not near(found, 2.2), "only the last point of a ray must be inside; the others are in front of the object")
    expect(near(found, 0.0), f"two points well outside and the last well inside cost nothing, yours {float(found):.2f}")
    found = torch.as_tensor(answer(torch.tensor([[1.0, 1.0, 1.0]]), outside, 0.1))
    expect(near(found, 0.0), "a ray beside the silhouette may never be inside, at its last point neither: alpha is -1")
    close = torch.tensor([[1.0, 0.05, 0.3]])
    found = torch.as_tensor(answer(close, inside, 0.1))  # 0 + 0.05 + 0.4
    expect(not near(found, 0.3), "being barely on the right side is not enough: epsilon is missing")
    expect(not near(found, 0.45 / 3), "this is the mean over the points; Eq. 7 has their sum")
    expect(near(found, 0.45), f"f of 1, 0.05 and 0.3 costs 0 + 0.05 + 0.4, yours {float(found):.3f}")
    values = torch.randn(6, 5, generator=generator(), dtype=torch.float64) / 5
    kinds, truth = [True, False, True, True, False, False], 0.0
    for ray, kind in zip(values.tolist(), kinds, strict=True):  # in 64 bits, by a loop
        for j, f in enumerate(ray):
            truth += max(0.0, (f if kind and j == 4 else -f) + 0.02)
    found = torch.as_tensor(answer(values, torch.tensor(kinds), 0.02))
    expect(near(found, truth), f"six random rays cost {truth:.3f} by a loop, yours {float(found):.3f}")
    right("ray_loss")
