"""Companion of notebook 05: its measurements and figures, in the order of the lesson."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm.auto import tqdm

from lib.data.loading import Batch
from lib.figures.style import BLUE, GREEN, GREY, ORANGE, RED, image_grid, styled
from lib.geometry.cameras import camera_rays, index_to_pixel
from lib.losses.normal import inliers, normal_errors, normal_loss, to_canonical
from lib.losses.reprojection import soft_iou
from lib.rendering.volume import RenderedMaps, render_rays, sample_depths
from lib.systems.base import Reconstruction

Turns = Float[np.ndarray, " turns"] | Int[np.ndarray, " turns"]  # of an azimuth, degrees

# --- Normals in two frames, and the loss at every pixel --------------------------------------------------------------


def direction_colors(normal: Float[Tensor, "height width 3"]) -> Float[np.ndarray, "height width 3"]:
    """Red, green and blue for x, y and z of whichever frame; white where there is no normal."""
    seen = normal.norm(dim=-1, keepdim=True).numpy() > 0.1
    return np.where(seen, (normal.numpy() + 1) / 2, 1.0).clip(0, 1)


def frames_figure(batch: Batch, rendered: Float[Tensor, "batch height width 3"]):
    """For each image: the image, its normals as estimated (camera frame), turned (canonical), and rendered."""
    canonical = to_canonical(batch.normal.flatten(1, 2), batch.viewpoint.rotation()).view_as(batch.normal)
    columns = (batch.normal, canonical, rendered)
    rows = [[batch.rgb[i].numpy(), *(direction_colors(c[i]) for c in columns)] for i in range(len(batch.rgb))]
    return image_grid(rows, ["image", "camera frame", "canonical frame", "rendered, canonical"])


def error_figure(
    batch: Batch, rendered: Float[Tensor, "batch height width 3"], loss: Float[Tensor, "batch height width"]
):
    """For each image: the image, the rendered normals, and the loss of Eq. 4 at every pixel that both show."""
    rows = [[batch.rgb[i].numpy(), direction_colors(rendered[i]), loss[i].numpy()] for i in range(len(loss))]
    return image_grid(rows, ["image", "rendered normals", "normal loss"], limits=[None, None, (0.0, 6.0, "cividis")])


# --- Outliers, and who drops them ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corruption:
    """Normals in the camera frame, of which some are wrong, and which."""

    normal: Float[Tensor, "batch height width 3"]
    wrong: Bool[Tensor, "batch height width"]


def corrupted(batch: Batch, share: float, generator: torch.Generator, turn: float = 70.0) -> Corruption:
    """Turn the normals inside a blob of each image, like an estimator that misreads a part of an object.

    Parameters
    ----------
    share : float
        About this share of each object's pixels is wrong: those nearest to a random pixel of the object.
    turn : float
        By how many degrees, about one random axis for each image, so that the wrong part looks smooth and plausible.
    """
    pixels = torch.arange(batch.mask.shape[1])
    grid = torch.stack(torch.meshgrid(pixels, pixels, indexing="ij"), dim=-1).float()
    normal, wrong = batch.normal.clone(), torch.zeros_like(batch.mask, dtype=torch.bool)
    for i, inside in enumerate(batch.mask > 0.5):
        places = inside.nonzero()
        count = int(share * len(places))
        if count == 0:
            continue
        middle = places[int(torch.randint(len(places), (1,), generator=generator))]
        distance = (grid - middle).norm(dim=-1)
        wrong[i] = inside & (distance <= distance[inside].sort().values[count - 1])
        axis = F.normalize(torch.randn(3, generator=generator), dim=0)
        rotation = Rotation.from_rotvec(np.deg2rad(turn) * axis.numpy()).as_matrix()
        normal[i][wrong[i]] = normal[i][wrong[i]] @ torch.from_numpy(rotation).to(normal).mT
    return Corruption(normal, wrong)


@dataclass(frozen=True)
class Ranking:
    """Pixels of one minibatch: their angular error 1 - cos, which are wrong, and where they are in the images."""

    angular: Float[Tensor, " pixels"]
    wrong: Bool[Tensor, " pixels"]
    place: Bool[Tensor, "batch height width"]

    def dropped(self, keep: float) -> Bool[Tensor, " pixels"]:
        """What outlier dropout leaves out."""
        return ~inliers(self.angular, keep)

    def quality(self, keep: float) -> tuple[float, float]:
        """Precision and recall of the dropped pixels as a finder of wrong ones."""
        dropped = self.dropped(keep)
        hits = float((dropped & self.wrong).sum())
        return hits / max(1.0, float(dropped.sum())), hits / max(1.0, float(self.wrong.sum()))

    def wrong_share(self, keep: float) -> float:
        """Share of wrong pixels among those that are kept."""
        return float(self.wrong[~self.dropped(keep)].float().mean())


def ranking(batch: Batch, maps: RenderedMaps, corruption: Corruption) -> Ranking:
    """Errors of all pixels where both the image and the rendering show the object."""
    place = (batch.mask > 0.5) & (maps.mask > 0.5)
    target = to_canonical(corruption.normal.flatten(1, 2), batch.viewpoint.rotation()).unflatten(1, place.shape[1:])
    _, angular = normal_errors(maps.normal[place], target[place])
    return Ranking(angular, corruption.wrong[place], place)


@styled()
def dropout_figure(batch: Batch, corruption: Corruption, ranked: Ranking, keep: float, shown: Sequence[int]):
    """Histogram of 1 - cos over the minibatch with the cut, and for some images what was wrong and what was dropped."""
    figure, axes = plt.subplots(2, len(shown) + 2, figsize=(8.4, 3.4), layout="constrained")
    grid = axes[0, 0].get_gridspec()
    for axis in axes[:, :2].flat:
        axis.remove()
    axis = figure.add_subplot(grid[:, :2])
    right, wrong = ranked.angular[~ranked.wrong].numpy(), ranked.angular[ranked.wrong].numpy()
    labels = ["good normals", "wrong normals"]
    axis.hist([right, wrong], np.linspace(0, 2, 41), stacked=True, color=[GREY, RED], label=labels)
    cut = float(ranked.angular[~ranked.dropped(keep)].max())
    axis.axvline(cut, color=ORANGE, label=f"cut: keep {keep:.0%}")
    axis.set(xlabel="1 - cos between rendered and given normal", ylabel="pixels of the minibatch", yscale="log")
    axis.legend()

    dropped = torch.zeros_like(ranked.place)
    dropped[ranked.place] = ranked.dropped(keep)
    for column, i in zip(axes[:, 2:].T, shown, strict=True):
        column[0].imshow(direction_colors(corruption.normal[i]))
        column[1].imshow(verdict_colors(batch.mask[i] > 0.5, corruption.wrong[i], dropped[i], ranked.place[i]))
        for axis in column:
            axis.set_axis_off()
    axes[0, 2].set_title("normals, some wrong", fontsize=8.5, loc="left")
    axes[1, 2].set_title("what was dropped", fontsize=8.5, loc="left")
    meanings = ((GREEN, "dropped: wrong"), (BLUE, "dropped: good"), (RED, "kept: wrong"), ("#D9D9D9", "kept: good"))
    patches = [Patch(color=color, label=meaning) for color, meaning in meanings]
    figure.legend(handles=patches, loc="outside lower right", ncols=4, fontsize=8)
    return figure


def verdict_colors(
    inside: Bool[Tensor, "height width"],
    wrong: Bool[Tensor, "height width"],
    dropped: Bool[Tensor, "height width"],
    place: Bool[Tensor, "height width"],
) -> Float[np.ndarray, "height width 3"]:
    """Grey on the object; green where a wrong pixel is dropped, blue where a good one is; red: wrong, but kept."""
    picture = np.ones((*inside.shape, 3))
    colors = [(inside, "#D9D9D9"), (dropped & ~wrong, BLUE), (wrong & place & ~dropped, RED), (dropped & wrong, GREEN)]
    for where, color in colors:
        picture[where.numpy()] = to_rgb(color)
    return picture


def draw_dropout(batch: Batch, maps: RenderedMaps, keep: float, share: float, seed: int):
    """`dropout_figure` of the first three images, for the values of the controls."""
    spoiled = corrupted(batch, share, torch.Generator().manual_seed(seed))
    return dropout_figure(batch, spoiled, ranking(batch, maps, spoiled), keep, range(3))


@styled()
def quality_figure(ranked: Ranking, keeps: Sequence[float]):
    """Precision and recall of the dropped pixels, and what is still wrong among the kept, against the kept share."""
    figure, axis = plt.subplots(figsize=(6.6, 3.4), layout="constrained")
    precision, recall = zip(*(ranked.quality(keep) for keep in keeps), strict=True)
    axis.plot(keeps, precision, "o-", label="dropped pixels that are wrong (precision)")
    axis.plot(keeps, recall, "s-", label="wrong pixels that are dropped (recall)")
    axis.plot(keeps, [ranked.wrong_share(keep) for keep in keeps], "^-", color=RED, label="kept pixels that are wrong")
    axis.axvline(0.8, color=GREY, linestyle=":", label="released code: keep 0.8")
    axis.set(xlabel="share of pixels kept", ylabel="share", ylim=(0, 1.02))
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


# --- The viewpoint receives gradient ---------------------------------------------------------------------------------


def azimuth_slopes(
    shape: Reconstruction, batch: Batch, turns: Turns, rays: Int[Tensor, " rays"], samples: int = 48
) -> tuple[Float[np.ndarray, " turns"], Float[np.ndarray, " turns"]]:
    """Normal loss of the first image against a turn of its azimuth, and the gradient that the azimuth receives.

    The gradient comes from automatic differentiation through R^T n and through the rendering (per degree).
    """
    one, size = batch.viewpoint[0], batch.mask.shape[1]
    target, inside = batch.normal[:1].flatten(1, 2)[:, rays], batch.mask[:1].flatten(1)[:, rays] > 0.5
    values, slopes = [], []
    for turn in tqdm(turns, desc="azimuths"):
        angle = torch.tensor([float(np.deg2rad(turn))], requires_grad=True)
        view = one.turned(angle)
        depths = sample_depths(view.distance - 0.7, view.distance + 0.7, len(rays), samples)
        pixels = camera_rays(view, index_to_pixel(rays[None], size))
        maps = render_rays(lambda points: shape.field(0, points), pixels, depths, shape.beta)
        loss = normal_loss(maps.normal, target, view.rotation(), inside & (maps.mask > 0.5), keep=1.0)
        values.append(float(loss.detach()))
        slopes.append(float(torch.autograd.grad(loss, angle)[0]) * np.pi / 180)
    return np.array(values), np.array(slopes)


@styled()
def slope_figure(turns: Turns, values: Float[np.ndarray, " turns"], slopes: Float[np.ndarray, " turns"]):
    """A loss against a wrong azimuth; arrows show where gradient descent would move it."""
    figure, axis = plt.subplots(figsize=(6.6, 3), layout="constrained")
    axis.plot(turns, values, color=BLUE)
    largest = np.abs(slopes).max()
    for turn, value, slope in zip(turns[::2], values[::2], slopes[::2], strict=True):
        step = -slope / largest * 40
        arrow = {"arrowstyle": "->", "color": ORANGE, "linewidth": 1.4}
        axis.annotate("", xy=(turn + step, value), xytext=(turn, value), arrowprops=arrow)
    axis.axvline(0, color=GREY, linestyle=":")
    axis.set(xlabel="azimuth minus the true one (degrees)", ylabel="normal loss (Eq. 4)", xticks=range(-180, 181, 45))
    return figure


@torch.no_grad()
def landscape(
    shape: Reconstruction, batch: Batch, turns: Turns, image_size: int = 24, samples: int = 24
) -> dict[str, Float[np.ndarray, "batch turns"]]:
    """Losses of each image with its azimuth turned by each angle: of the normals alone and of the mask alone."""
    mask = F.interpolate(batch.mask[:, None], size=image_size, mode="area")[:, 0]
    normal = F.interpolate(batch.normal.permute(0, 3, 1, 2), size=image_size, mode="area").permute(0, 2, 3, 1)
    normal = F.normalize(normal, dim=-1)
    columns = {"normals": [], "mask": []}
    for turn in tqdm(turns, desc="azimuths"):
        view = batch.viewpoint.turned(torch.full((len(mask),), float(np.deg2rad(turn))))
        maps = shape.render(view, image_size, samples)
        both = ((mask > 0.5) & (maps.mask > 0.5)).flatten(1)
        error, _ = normal_errors(maps.normal.flatten(1, 2), to_canonical(normal.flatten(1, 2), view.rotation()))
        columns["normals"].append((error * both).sum(1) / both.sum(1).clamp(min=1))
        columns["mask"].append(1 - soft_iou(maps.mask.flatten(1), mask.flatten(1)))
    return {name: torch.stack(column, dim=1).numpy() for name, column in columns.items()}


def basin_share(
    losses: Float[np.ndarray, "batch turns"], turns: Turns, tolerance: float
) -> Float[np.ndarray, " turns"]:
    """For each start, the share of images whose downhill walk over the turns ends within `tolerance` degrees of 0.

    The turns are evenly spaced over the circle; a step goes to the lower neighbour until none is lower.
    """
    around = np.stack([losses, np.roll(losses, 1, axis=1), np.roll(losses, -1, axis=1)])
    step = np.array([0, -1, 1])[around.argmin(axis=0)]  # stay, or to the left, or to the right
    place = np.tile(np.arange(len(turns)), (len(losses), 1))
    for _ in turns:
        place = (place + np.take_along_axis(step, place, axis=1)) % len(turns)
    return (np.abs(turns[place]) <= tolerance).mean(axis=0)


@styled()
def basin_figure(turns: Turns, losses: dict[str, np.ndarray], shares: dict[str, np.ndarray]):
    """Mean loss over images, and the share of images that come home, against the error the azimuth starts with."""
    figure, axes = plt.subplots(1, 2, figsize=(8.2, 2.9), layout="constrained")
    for (name, loss), color in zip(losses.items(), (BLUE, ORANGE), strict=True):
        relative = loss / loss.max(axis=1, keepdims=True)
        axes[0].plot(turns, relative.mean(axis=0), color=color, label=name)
        axes[1].plot(turns, shares[name], color=color, label=name)
    for axis in axes:
        axis.axvline(0, color=GREY, linestyle=":")
        axis.set(xlabel="azimuth minus the true one (degrees)", xticks=range(-180, 181, 90))
    axes[0].set(ylabel="mean loss (largest = 1)")
    axes[1].set(ylabel="share of images that come home", ylim=(-0.02, 1.02))
    axes[0].legend()
    return figure
