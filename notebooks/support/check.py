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


def rounded(point) -> str:
    """A point as a reader would write it."""
    return "(" + ", ".join(f"{float(number):.3g}" for number in point) + ")"


def rotation_matrix(azimuth: Tensor, elevation: Tensor, roll: Tensor) -> Tensor:
    """R_z(roll) R_x(elevation) R_y(azimuth) P (notebook 03) from unit pairs, in 64 bits."""
    (ca, sa), (ce, se), (cr, sr) = (pair.tolist() for pair in (azimuth, elevation, roll))
    turn = torch.tensor([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]], dtype=torch.float64)
    tip = torch.tensor([[1, 0, 0], [0, ce, -se], [0, se, ce]], dtype=torch.float64)
    lean = torch.tensor([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]], dtype=torch.float64)
    return lean @ tip @ turn @ torch.tensor([[-1, 0, 0], [0, 0, -1], [0, -1, 0]], dtype=torch.float64)


# --- 00: start here --------------------------------------------------------------------------------------------------


def on_white(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(colours (H, W, 3), opacities (H, W)), in [0, 1] -> the colours on a white background (H, W, 3)."""
    colours = torch.rand(3, 3, 3, generator=generator(), dtype=torch.float64)
    opacity = torch.tensor([[1.0, 0.0, 0.5], [0.2, 0.7, 1.0], [0.0, 0.9, 0.4]], dtype=torch.float64)
    found = torch.as_tensor(answer(colours, opacity))
    expect(
        found.shape == (3, 3, 3), f"three colours for each of 3 x 3 pixels, not an answer of shape {tuple(found.shape)}"
    )
    mixed = torch.empty_like(colours)
    for row, column, k in np.ndindex(3, 3, 3):
        a = float(opacity[row, column])
        mixed[row, column, k] = a * float(colours[row, column, k]) + (1 - a)
    hard = torch.where(opacity[..., None] >= 0.5, colours, 1.0)
    reversed_mask = colours + opacity[..., None] * (1 - colours)
    channels = colours * opacity + 1 - opacity
    expect(not near(found, channels), "the opacity of a column was used for a colour: give the mask a third axis")
    expect(not near(found, colours * opacity[..., None]), "the background is black: add 1 - a, the share of white")
    expect(not near(found, reversed_mask), "the object is white and the background is not: a is the object's share")
    expect(not near(found, hard), "half-covered pixels are all object or all white: mix, do not choose")
    expect((found <= 1 + 1e-6).all(), "some colours are brighter than white: the two shares must sum to 1")
    expect(near(found, mixed), "some pixels differ from a c + (1 - a), computed in a loop")
    right("on_white")


def crop_square(answer: Callable[[Tensor, float], tuple]) -> None:
    """(mask (H, W) in [0, 1], margin) -> left, top and side of the square crop, in whole pixels."""

    def numbers(mask: Tensor, margin: float) -> tuple[float, ...]:
        return tuple(float(number) for number in answer(mask, margin))

    mask = torch.zeros(40, 60)
    mask[10:28, 5:13] = 1.0  # 18 rows, 8 columns
    found = numbers(mask, 1.2)
    expect(len(found) == 3, f"three numbers are needed, left, top and side, not {len(found)}")
    left, top, side = found
    expect(side != 10, "this side fits the smaller side of the box: the larger one counts")
    expect(side != 21, "rows 10 to 27 are 18 rows, not 17, and 1.2 x 18 = 21.6 must be rounded up")
    expect(side == 22, f"1.2 times the larger side, 18, rounded up, is 22, not {side:g}")
    expect((left, top) != (8, -2), "left and top are exchanged: a mask's first axis runs down")
    expect((left, top) != (5, 10), "the crop begins where the box does: both must have the same centre")
    expect((left, top) != (0, 8), "the crop stops at the photo's border: beyond it is white, so left may be negative")
    expect((left, top) == (-2, 8), f"the crop around this box begins at (-2, 8), not at ({left:g}, {top:g})")
    faint = mask.clone()
    faint[0, 0] = 0.2
    expect(numbers(faint, 1.2) == found, "a faint pixel (0.2) moves the crop: only 0.5 and more counts as object")
    faint[30:34, 20:59] = 0.5
    expect(numbers(faint, 1.0) == (5, -5, 54), "with pixels of exactly 0.5 and margin 1 the crop is (5, -5, 54)")
    right("crop_square")


def camera_position(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """(azimuths (N,), elevations (N,), radians; distance) -> where the cameras stand (N, 3)."""
    quarter = math.pi / 2
    azimuth, elevation = torch.tensor([0.0, quarter, 0.0, 0.0]), torch.tensor([0.0, 0.0, quarter, -quarter / 3])
    found = torch.as_tensor(answer(azimuth, elevation, 2.0))
    expect(found.shape == (4, 3), f"four cameras need four points: shape (4, 3), not {tuple(found.shape)}")
    front, side, above, below = found
    expect(not near(front, torch.tensor([2.0, 0.0, 0.0])), "azimuth 0 is in front of the object, at +y, not at +x")
    expect(not near(front, torch.tensor([0.0, 1.0, 0.0])), "the camera is at distance 1: multiply by the distance")
    expect(near(front, torch.tensor([0.0, 2.0, 0.0])), f"azimuth 0 is (0, 2, 0), not {rounded(front)}")
    expect(not near(side, torch.tensor([2.0, 0.0, 0.0])), "azimuth 90 degrees is at -x, not at +x: a minus is missing")
    message = f"azimuth pi / 2 is (-2, 0, 0), not {rounded(side)}: are angles in radians?"
    expect(near(side, torch.tensor([-2.0, 0.0, 0.0])), message)
    expect(near(above[2], 2.0), "at elevation 90 degrees the camera is straight above, at z = 2")
    expect(
        near(found.norm(dim=-1), torch.full((4,), 2.0)),
        "the camera leaves its sphere when it rises: x and y shrink by cos",
    )
    expect(near(below[2], -1.0), "a negative elevation is below the object: z keeps the sign of the sine")
    drawn = 6 * torch.rand(2, 20, generator=generator(3), dtype=torch.float64) - 3
    found = torch.as_tensor(answer(*drawn, 3.0))
    level = torch.tensor([1.0, 0.0])
    for row, (a, e) in enumerate(drawn.T):  # the rotation from world to camera, backwards
        pairs = (torch.stack([angle.cos(), angle.sin()]) for angle in (a, e))
        truth = -rotation_matrix(*pairs, level).T @ torch.tensor([0, 0, 3.0], dtype=torch.float64)
        expect(near(found[row], truth), f"azimuth {a:.2f}, elevation {e:.2f} is {rounded(truth)}")
    right("camera_position")


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


def match_share(answer: Callable[[Tensor, list], float]) -> None:
    """(rows of neighbours (N, K), -1: none; model of each image) -> share that shows the query's model."""
    models = ["a", "a", "b", "b", "a"]
    index = torch.tensor([[1, 2], [0, 4], [3, -1], [-1, -1], [2, 3]])  # shares 1/2, 1, 1, none, 0
    found = torch.as_tensor(answer(index, models), dtype=torch.float64)
    expect(found.shape == (), f"one number is asked for, not an answer of shape {tuple(found.shape)}")
    expect(not found.isnan(), "the share is NaN: leave out an image without neighbours before you take the mean")
    expect(not near(found, 62.5), "a share is a number between 0 and 1, not per cent")
    expect(not near(found, 0.75), "one neighbour of the right model is not enough: count how many of them show it")
    expect(not near(found, 4 / 7), "all pairs were pooled: first the mean of each image, then the mean over images")
    expect(not near(found, 0.4), "-1 says that there is no neighbour, but it was counted as one")
    expect(not near(found, 0.5), "image 3 has no neighbours and was counted as 0: leave it out of the mean")
    expect(near(found, 0.625), f"the images' shares are 1/2, 1, 1 and 0, so the mean is 0.625, not {float(found):.3f}")
    right("match_share")


def model_interval(answer: Callable[[np.ndarray, list, int], tuple]) -> None:
    """(value of each image (N,), model of each, resamples) -> ends of the middle 95 % of means over drawn models."""

    def ends(values, models: list, resamples: int = 4000) -> tuple[float, ...]:
        return tuple(float(number) for number in answer(np.asarray(values, dtype=float), models, resamples))

    found = ends([0.0, 1.0], ["a", "b"])  # (a, a), (a, b), (b, a) or (b, b): means 0, 1/2, 1/2 or 1
    expect(len(found) == 2, f"two numbers are asked for, the lower and the upper end, not {len(found)}")
    expect(found[0] <= found[1], "the lower end comes first")
    expect(found[0] < found[1], "all resamples have the same mean: draw *with* replacement")
    expect(near(found[0], 0.0) and near(found[1], 1.0), "two models with values 0 and 1 have the interval 0 to 1")
    values = np.linspace(0, 1, 40)  # of 40 models, each with five equal images, in mixed order
    order = np.random.default_rng(1).permutation(200)
    low, high = ends(np.repeat(values, 5)[order], [f"model {m}" for m in np.repeat(range(40), 5)[order]])
    width = float(2 * 1.96 * values.std() / math.sqrt(40))  # the central limit theorem, for models
    message = "the interval is less than half as wide as it should be: images were drawn, but models must be"
    expect(not near(high - low, width / math.sqrt(5), 0.02), message)
    width_message = f"the middle 95 % of the means is {width:.3f} wide here, yours {high - low:.3f}"
    expect(abs(high - low - width) < 0.08 * width, f"{width_message}: from 2.5 to 97.5 per cent")
    expect(abs((low + high) / 2 - 0.5) < 0.03, f"the values are even about 0.5, yours about {(low + high) / 2:.3f}")
    large = np.repeat([1.0, 0.0], [450, 50])  # 50 models with nine images of value 1, 50 with one image of value 0
    low, high = ends(large, [f"{m // 9}" for m in range(450)] + [f"{m}" for m in range(50, 100)])
    expect((low + high) / 2 > 0.8, "a model with nine images counts like one with one: take the mean over images")
    expect(low < 0.9 < high, f"the mean over images, 0.9, must be inside, but yours is {low:.3f} to {high:.3f}")
    right("model_interval")


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


def canonical_normals(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """(normals (B, P, 3), camera frame; rotations world to camera (B, 3, 3)) -> normals (B, P, 3), world frame."""
    x, y, z = torch.eye(3)[:, None, None]
    axes = torch.cat([y, z, x], dim=1)  # this camera's x, y and z axes are the world's y, z and x axes
    found = torch.as_tensor(answer(x, axes))
    expect(found.shape == (1, 1, 3), f"one normal for each pixel: shape (1, 1, 3), not {tuple(found.shape)}")
    expect(not near(found, x), "nothing was turned: these normals are still in the camera's frame")
    expect(not near(found, z), "this is R n, which turns world into camera; the way back is the transpose, R^T n")
    expect(not near(found, -y), "the normals point into the surface: a minus too many")
    message = "a camera whose x axis is the world's y axis: its normal (1, 0, 0) is (0, 1, 0) in the world"
    expect(near(found, y), message)
    turns = torch.linalg.qr(torch.randn(2, 3, 3, generator=generator(), dtype=torch.float64))[0]
    turns = turns * torch.linalg.det(turns)[:, None, None].sign()
    normals = torch.randn(2, 5, 3, generator=generator(1), dtype=torch.float64)
    normals = normals / normals.norm(dim=-1, keepdim=True)
    found, truth, first = torch.as_tensor(answer(normals, turns)), torch.zeros(2, 5, 3), torch.zeros(2, 5, 3)
    for image in range(2):  # by a loop over pixels and the camera's axes: each axis, as the world sees it, times n_k
        for pixel in range(5):
            truth[image, pixel] = sum(turns[image, k] * normals[image, pixel, k] for k in range(3))
            first[image, pixel] = sum(turns[0, k] * normals[image, pixel, k] for k in range(3))
    expect(not near(found, first), "each image has a rotation of its own: yours turns all images by the first one")
    expect(near(found, truth), "random normals, turned by random rotations, differ from a loop's")
    right("canonical_normals")


def robust_mean(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """(errors (B, P), visible pixels (B, P), keep) -> mean of the smallest share `keep` of the visible errors."""
    error = torch.tensor([[0.1, 0.2, 0.3, 0.4], [9.0, 8.0, 7.0, 0.5]])
    everything = torch.ones(2, 4, dtype=torch.bool)
    found = torch.as_tensor(answer(error, everything, 0.5))
    expect(found.shape == (), f"one number for the whole batch, not an answer of shape {tuple(found.shape)}")
    expect(not near(found, 7.8 / 4), "half of each image was kept: rank over the whole batch, not image by image")
    expect(not near(found, 24.5 / 4), "the worst pixels were kept: sort so that the smallest errors come first")
    expect(not near(found, 1.0 / 8), "divide by the number of pixels that were kept, not by that of all pixels")
    expect(near(found, 0.25), f"of these eight errors the smaller half has the mean 0.25, yours is {float(found):.3f}")
    seen = torch.tensor([[False, True, True, True], [False, True, True, True]])
    found = torch.as_tensor(answer(error, seen, 0.5))
    expect(not near(found, 0.25), "a pixel that is not visible was counted: select the visible ones first")
    expect(not near(found, 0.35), "the share is one of the visible pixels: of 6 visible ones, 0.5 keeps 3")
    expect(
        near(found, 0.3), f"of the six visible errors the smaller half has the mean 0.3, yours is {float(found):.3f}"
    )
    expect(near(answer(error, everything, 1.0), 25.5 / 8), "keep = 1 is the plain mean of all visible pixels")
    single = torch.tensor([[0.2]])
    message = "one visible pixel at keep = 0.5: int(0.5) keeps none, but at least one pixel must count"
    expect(near(answer(single, single > 0, 0.5), 0.2), message)
    expect(near(answer(single, single > 1, 0.5), 0.0), "no pixel is visible: the loss must be 0, not 0 / 0")
    right("robust_mean")


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


def eikonal(answer: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]) -> None:
    """(a field: points (N, 3) -> values (N,), points (N, 3)) -> mean of (|grad f| - 1)^2."""
    points = torch.rand(64, 3, generator=generator(), dtype=torch.float64) + 0.1

    def ball(slope):
        return lambda x: slope * (x.norm(dim=-1) - 0.5)

    def loss(field):
        return torch.as_tensor(answer(field, points.clone()))

    found = loss(ball(4.0)).detach()  # every gradient is 4 long
    expect(found.shape == (), f"one number, the mean over points, not an answer of shape {tuple(found.shape)}")
    expect(not near(found, 64 * 9), "this is the sum over points: more points must not make it larger. Take the mean")
    expect(not near(found, 4.5), "a factor 1/2 too many: Sec. 3.4 has the square itself")
    expect(not near(found, 3), "this is the distance of the length from 1; square it")
    expect(not near(found, 225), "|grad f| is the length, with the root; yours compares the squared length with 1")
    expect(not near(found, (4 / 64 - 1) ** 2), "the gradient of the *mean* of f is N times too small: use the sum of f")
    expect(near(loss(ball(1.0)), 0.0), "the signed distance of a sphere has a gradient of length 1: it costs nothing")
    expect(near(found, 9.0), f"4 (|x| - 0.5) has gradients of length 4 and costs 9, yours {float(found):.3f}")
    found = loss(lambda x: x[:, 0].square())  # gradients (2 x, 0, 0)
    lengths = 2 * points[:, 0]
    expect(
        not near(found, (lengths.mean() - 1) ** 2), "square at every point, then take the mean: not the other way round"
    )
    expect(
        near(found, (lengths - 1).square().mean()),
        "for f = x^2 the lengths are 2 |x|: yours differs from the mean over them",
    )
    slope = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    trained = loss(ball(slope))
    expect(trained.requires_grad, "the loss cannot train the field: torch.autograd.grad needs create_graph=True")
    trained.backward()
    expect(
        near(slope.grad, 6.0), "the loss (c - 1)^2 of c (|x| - 0.5) has the derivative 2 (c - 1) in c; yours differs"
    )
    right("eikonal")


def mirrored_viewpoint(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> None:
    """(azimuths, elevations, rolls as unit pairs, each (B, 2)) -> those from which the mirrored image is seen."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))  # x to -x, in the world and in the camera
    angles = torch.tensor([[0.6, -1.9], [0.3, 0.5], [0.2, -0.4]], dtype=torch.float64)
    pairs = torch.stack([angles.cos(), angles.sin()], dim=-1)
    found = [torch.as_tensor(part) for part in answer(*(pair.clone() for pair in pairs))]
    shapes = [tuple(part.shape) for part in found]
    expect(
        shapes == [(2, 2)] * 3, "three sets of unit pairs are needed: azimuth, elevation, roll, each of shape (B, 2)"
    )
    azimuth, elevation, roll = found
    expect(
        all(near(part.norm(dim=-1), torch.ones(2)) for part in found), "a pair is no longer 1 long: change only signs"
    )
    expect(
        not near(azimuth, pairs[0]), "the azimuth did not change: what shows its left side shows its right in a mirror"
    )
    expect(
        not near(azimuth, -pairs[0]), "both signs of the azimuth changed: that is the view from behind, not a mirror"
    )
    expect(
        not near(azimuth, pairs[0] * torch.tensor([-1, 1])),
        "(-cos, sin) is the angle 180° - γ; the angle -γ is (cos, -sin)",
    )
    expect(near(elevation, pairs[1]), "a left-right mirror does not move the camera up or down: keep the elevation")
    expect(
        not near(roll, pairs[2]),
        "the roll did not change: a picture that leans to the left leans to the right in a mirror",
    )
    # the mirrored camera sees the mirrored point where the first one sees the point, with x reversed
    for b in range(2):
        seen = flip @ rotation_matrix(*(pair[b] for pair in pairs)) @ flip
        other = rotation_matrix(*(part[b].double() for part in found))
        expect(near(other, seen), "from there a mirrored point is not seen at the mirrored place")
    right("mirrored_viewpoint")


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
