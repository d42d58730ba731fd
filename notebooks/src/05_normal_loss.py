# %% [markdown]
# # 05 · The normal loss: geometry that somebody else already learned
#
# A silhouette says nothing about what happens inside it: a chair's seat may be a hollow or a hump. Networks that guess
# the *surface normal* at every pixel of a photo are trained on millions of images and can be had off the shelf.
# ShapeClipper uses their guesses, wrong ones included.
#
# **Before**: the cameras of notebook 03, and how it renders normals.
#
# **Afterwards** you can
#
# - turn a normal from a camera's frame into the canonical one, and test that no axis is flipped;
# - write Eq. 4 of the paper, and compute it for one pixel by hand;
# - drop the worst pixels of a minibatch, and say how many of them were really wrong;
# - explain why comparing in the *canonical* frame lets the viewpoint learn from normals, and how far that carries.
#
# **Time**: about twenty minutes to read and 45 for three exercises; the cells take well under a minute on two CPU
# cores.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: number of images in the measurements
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # which objects to look at
checkpoint: str = ""  # a folder with config.json and weights.safetensors; empty: the shipped one
wrong_share: float = 0.25  # share of each object's normals that we spoil
run_dir: str = ""  # where results go; empty: runs/<profile>/05_normal_loss
seed: int = 0  # of what is spoiled
device: str = "cpu"  # cpu: nothing is trained here

# %% tags=["imports"] slug="imports"
import time
from pathlib import Path

import numpy as np
import torch

from lib.course.grids import grid_results
from lib.data.loading import PreparedDataset
from lib.evaluation.comparison import comparison_table
from lib.figures.source import show_source
from lib.figures.viewer import controlled, slider
from lib.files import write_json
from lib.geometry.cameras import Viewpoint
from lib.losses.normal import inliers, normal_errors, normal_loss, to_canonical
from lib.paths import WEIGHTS, prepared_folder, run_folder
from lib.systems.checkpoints import load_system
from support import nb05

# %%
begin = time.perf_counter()
run = run_folder("05_normal_loss", profile, run_dir)
system = load_system(Path(checkpoint) if checkpoint else WEIGHTS / "shapeclipper-furniture-chair-given", device)
data = PreparedDataset(prepared_folder(dataset, data_root), "train", [category])
rows = torch.linspace(0, len(data) - 1, 12 if profile == "quick" else 48).round().long()
batch = data.batch(rows)
shape = system.reconstruct(batch.rgb, batch.viewpoint)
maps = shape.render(image_size=batch.mask.shape[1], samples=32, progress=True)

# %% [markdown]
# ## The picture first
#
# Four training images. The second column holds what an off-the-shelf estimator would give: one normal per pixel, in the
# frame of that image's camera. (Here they are the true normals of the rendered furniture; a later cell spoils them.)
# The third column holds the same normals turned into the one frame that all chairs share, and the fourth what the
# network's shape looks like in it. Colours are directions: red, green and blue for x, y and z. In the camera's frame a
# seat's colour depends on where the camera stands; in the canonical frame seats have *one* colour, whatever the view.

# %% tags=["key-figure"] alt="Images, normals in the camera and in the canonical frame, and rendered normals"
pick = torch.tensor([0, 3, 6, 9])
figure = nb05.frames_figure(data.batch(rows[pick]), maps.normal[pick] * (maps.mask[pick, ..., None] > 0.5))

# %% [markdown]
# ## Which frame, and is an axis flipped?
#
# Cameras here follow OpenCV: x to the right, y down, z forward; a surface that faces the camera has the normal (0, 0,
# -1). The world has z up. The rows of a world-to-camera rotation $R$ are the camera's axes as the world sees them. So
# $R$ takes a direction of the world into the camera, and its transpose takes a normal $n$ back:
#
# $$n_{world} = R^\top n_{camera}$$
#
# Estimators differ in their conventions, and a flipped axis does not crash: it teaches wrong shapes. So test with a
# plane whose normal you know. The floor's normal is (0, 0, 1). The camera below stands in front of the object at an
# elevation of 30°.
#
# **Predict.** Which normal of the floor does it see? Which of the three numbers is 0, and which are negative?

# %%
c, s = 3**0.5 / 2, 1 / 2  # cos 30°, sin 30°
R = torch.tensor([[-1, 0, 0], [0, s, -c], [0, -c, -s]])  # rows: the camera's x, y and z axes in the world
floor_seen = R @ torch.tensor([0.0, 0.0, 1.0])
print("floor in the camera frame:   ", [round(v, 3) + 0.0 for v in floor_seen.tolist()])
print("and back in the canonical:   ", [round(v, 3) + 0.0 for v in (R.T @ floor_seen).tolist()])

above = Viewpoint.from_angles(torch.tensor([0.0, 0.7]), torch.tensor([30.0, 30.0]).deg2rad()).rotation()
assert torch.allclose(above[0], R, atol=1e-6)
assert torch.allclose(above[1] @ torch.tensor([0.0, 0.0, 1.0]), floor_seen, atol=1e-6)  # from every azimuth
assert torch.allclose(to_canonical(floor_seen[None, None], R[None])[0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)
canonical = to_canonical(batch.normal.flatten(1, 2), batch.viewpoint.rotation())[batch.mask.flatten(1) > 0.8]
print(f"pixels that look straight up: {(canonical[:, 2] > 0.95).float().mean():.1%}, ", end="")
print(f"straight down: {(canonical[:, 2] < -0.95).float().mean():.1%}")

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# $(0, -\cos 30°, -\sin 30°)$. The camera is level from left to right, so x is 0. The floor's normal points up, which is
# against the camera's y axis, and half towards the camera, which is against its z axis. The azimuth does not matter.
#
# The last line is the same test on real data: seats look up, and nothing that a camera sees looks down, because no
# camera stood below the floor. With a flipped axis it would be the other way round.
#
# </details>

# %% [markdown]
# ## The formula, and the code that is the formula
#
# $$\mathcal{L}_N = 5\,\lVert R^\top n - \hat n\rVert_1 - \cos(R^\top n, \hat n) \qquad\text{(Eq. 4)}$$
#
# for the estimated normal $n$ and the rendered one $\hat n$. (The paper writes $R n$: its $R$ turns the camera's frame
# into the canonical one. Ours turns the world into the camera, so it is the transpose.) The released code writes
# $1 - \cos$, so that a perfect normal costs nothing; constants do not change a gradient. It counts a pixel only if
# image and rendering both show the object there (mask above one half), and weighs the whole by $\lambda_2 = 0.01$.
#
# Compute it for one pixel: the image shows a surface that looks up, the rendering one that is tilted by 60°.

# %%
target, rendered = (0.0, 0.0, 1.0), (0.0, 0.866025, 0.5)
l1 = abs(0 - 0) + abs(0.866025 - 0) + abs(0.5 - 1)  # 1.366
cosine = 0 * 0 + 0.866025 * 0 + 0.5 * 1  # 0.5
by_hand = 5 * l1 + 1 - cosine
print(f"5 x {l1:.3f} + 1 - {cosine} = {by_hand:.2f}")
error, _ = normal_errors(torch.tensor([rendered]), torch.tensor([target]))
assert abs(float(error) - by_hand) < 1e-4

# %%
show_source(to_canonical, normal_errors)

# %% [markdown]
# **Predict.** Now the loss of every pixel, for the shipped network. Where is it largest: on flat faces, along edges, or
# on thin parts?

# %%
target = to_canonical(batch.normal.flatten(1, 2), batch.viewpoint.rotation()).view_as(batch.normal)
loss, angular = normal_errors(maps.normal, target)
both = (batch.mask > 0.5) & (maps.mask > 0.5)
degrees = torch.rad2deg(torch.acos((1 - angular[both]).clamp(-1, 1)))
figure = nb05.error_figure(data.batch(rows[pick]), (maps.normal * both[..., None])[pick], (loss * both)[pick])
print(f"the shipped network's normals are off by {degrees.median():.0f}° (median over these training images)")

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Along edges and on thin parts, where one pixel decides between two faces; and on most of the first chair's seat, where
# the network puts a vertical front. Flat faces that both show cost little. The edges are nobody's mistake and the seat
# is the network's, but the loss cannot know: from its side, a network that is wrong and a normal that is wrong look the
# same.
#
# </details>

# %% [markdown]
# ## Outliers, and who drops them
#
# Real estimators misread parts: a dark seat becomes a wall. So the paper sorts *all* pixels of a minibatch by the loss
# of Eq. 4 and leaves a fixed share of the worst out ("w/o noise-tol" in its Table 2 is the run without). With $n$
# pixels and the share $\rho$ that is kept, and $K$ the $\lfloor \rho n \rfloor$ pixels with the smallest errors,
#
# $$\mathcal{L} = \frac{1}{|K|} \sum_{i \in K} \ell_i .$$
#
# The paper does not say how large $\rho$ is. The released code has $\rho = 0.8$, and sorts by $1 - \cos$ alone; so do
# we (`normal_rank` chooses). Five pixels by hand:

# %%
errors = [0.1, 0.2, 6.0, 0.3, 0.4]
best = sorted(errors)[: int(0.8 * 5)]  # 0.1, 0.2, 0.3, 0.4: the outlier is gone
print(f"mean of all {sum(errors) / 5:.2f}, of the best four {sum(best) / 4:.2f}")
kept = inliers(torch.tensor(errors), 0.8)
assert kept.tolist() == [True, True, False, True, True]
assert abs(float(torch.tensor(errors)[kept].mean()) - sum(best) / 4) < 1e-6
show_source(inliers, normal_loss)

# %% [markdown]
# Our normals have no outliers, so we make some: a smooth blob in each image is turned by 70° about some axis. A quarter
# of the pixels is then wrong, and a fifth is dropped.
#
# **Predict.** Which share of the dropped pixels was really wrong: a quarter (chance), a half, or nearly all?
#
# Then move the two controls. Grey pixels count. Green ones were wrong and are dropped.

# %%
show = controlled(
    lambda keep, share: nb05.draw_dropout(batch, maps, keep, share, seed),
    keep=slider("keep", 0.8, 0.4, 1.0, 0.05),
    share=slider("wrong", wrong_share, 0.0, 0.6, 0.05),
)

# %% [markdown]
# How good is "large error" as a sign of "wrong normal"? Precision and recall over the minibatch, for every share that
# could be kept:

# %%
spoiled = nb05.corrupted(batch, wrong_share, torch.Generator().manual_seed(seed))
ranked = nb05.ranking(batch, maps, spoiled)
keeps = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
figure = nb05.quality_figure(ranked, keeps)
precision, recall = ranked.quality(0.8)
print(f"of the dropped pixels {precision:.0%} were wrong; {recall:.0%} of the wrong ones were dropped;")
print(f"wrong among the kept: {ranked.wrong_share(0.8):.1%} instead of {ranked.wrong_share(1.0):.1%}")

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# About a half: twice as good as chance. The other half are good normals at which the *network* is wrong, above all edges
# and thin parts (blue in the pictures above). A blob that turns normals by less than the cut, here about 60°, is kept
# (red). With a perfect network the dropped pixels would be the wrong ones.
#
# </details>
#
# Dropping is not free. Early in training the network is wrong everywhere, so the largest errors mark the parts that it
# still has to learn, and these are dropped with the outliers. And the share is fixed: a clean minibatch loses 20 % of
# good pixels, a very bad one keeps many wrong ones.

# %% [markdown]
# ## The viewpoint receives gradient
#
# MonoSDF turns the *rendered* normals into the camera's frame and knows the cameras. ShapeClipper turns the
# *estimated* normals into the canonical frame with the rotation that it predicts, so $R$ stands inside the loss, twice:
# in $R^\top n$ and in the rays that are rendered. Here is the loss of one image if its azimuth were wrong by some
# angle, with arrows for the step that gradient descent would take (automatic differentiation through both places).
#
# **Predict.** Besides 0°, at which wrong azimuths do you expect valleys of the loss? Think of a chair's faces.

# %%
inside = (batch.mask[0].flatten() > 0.5).nonzero()[:, 0]
rays = inside[:: max(1, len(inside) // 300)]
turns = np.arange(-180, 181, 15)
values, slopes = nb05.azimuth_slopes(shape, batch, turns, rays)
figure = nb05.slope_figure(turns, values, slopes)
near = np.abs(turns) == 15
print("15° away on either side, the step goes home:", bool((slopes[near] * turns[near] > 0).all()))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Near the truth the arrows point home. Farther away there are other, shallow valleys: for this chair at a quarter turn
# to one side (-90°), a little beyond one to the other side (120°), and at the half turn (180°). A chair has faces in
# three directions, and a seat looks like a seat from every side.
#
# </details>
#
# How far does the pull reach? For each of several images we walk downhill from every start, on the loss of the normals
# and on that of the mask.
#
# **Predict.** Which of the two brings more starts home?

# %%
many = data.batch(rows[: 6 if profile == "quick" else 48])
steps = np.arange(-180, 180, 10)
losses = nb05.landscape(system.reconstruct(many.rgb, many.viewpoint), many, steps)
homes = {name: nb05.basin_share(loss, steps, tolerance=10) for name, loss in losses.items()}
figure = nb05.basin_figure(steps, losses, homes)
reach = {name: float(share.mean()) for name, share in homes.items()}

# %% tags=["results"]
print(f"starts anywhere on the circle that end within 10° of the truth ({len(many.rgb)} images):")
for name, share in reach.items():
    around = homes[name][np.abs(steps) <= 40].mean()
    print(f"  {name:8} {share:.0%} of all starts, {around:.0%} of those at most 40° away")
print(f"dropout at 0.8: precision {precision:.2f}, recall {recall:.2f}; {time.perf_counter() - begin:.0f} s in all")
measured = {"precision": precision, "recall": recall, **{f"home_{name}": share for name, share in reach.items()}}
write_json(run / "normals.json", {"seed": seed, "images": len(rows), **measured})

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The mask, by a little, on these few images. Yet the starts differ: from +50° to +100° the normals bring more of them
# home, from -60° to -110° the mask does. The two losses have different valleys.
#
# </details>
#
# Two lessons. Where the shape is already right, both losses pull a viewpoint home from tens of degrees away. And no
# local pull, of either loss, turns a chair around: no start beyond 120° comes home in the figure. That is why the
# viewpoint needs more than a gradient: a prior that spreads azimuths, the mirrored image, and in our recipe `small`
# quarter turns that are tried out in full (notebook 06). That recipe begins with normals alone, because faces in three
# directions tell the azimuth up to quarter turns before there is any shape.

# %% [markdown]
# ## Do normals help a whole training?
#
# In the paper, without normals 10 x CD rises from 0.618 to 0.766, and without dropout to 0.640 (Table 2). Our own small
# experiment, with *given* viewpoints, exact normals and short trainings, does not confirm either. A star would mark a
# difference that all seeds agree on:

# %% tags=["experiment"]
display(comparison_table(grid_results("tables-2-3"), "view"))

# %% [markdown]
# After 40 + 160 steps with five seeds there is no star: we *cannot tell*. Our normals are exact, so keeping all of them
# should do no harm. The interval of *w/o noise-tol* leaves out 0, but one seed of five disagrees. What can be seen in
# `lib/results/tables-2-3.png` (seed 0) is that without normals seats slope and lumps grow below them, which the Chamfer
# distance hardly notices.
#
# Those viewpoints were given. Where they have to be found, in 80 + 200 steps of the recipe `small` with three seeds, it
# is another matter:

# %% tags=["unknown-viewpoints"]
display(comparison_table(grid_results("unknown-viewpoints"), "view").T)

# %% [markdown]
# Here every difference of *w/o normal* in the table has a star, in the distance as well as in the azimuth: in this
# training the normal loss helps. The recipe's first guesses of the viewpoints come from normals in every row, so this is
# what the loss adds to them. (The other row is notebook 04's.)

# %% [markdown]
# ## Exercises
#
# Write the formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### Into the canonical frame (easy, 10 minutes)
#
# Turn normals of the camera's frame into the canonical one. Each image has a rotation $R$ of its own, from world to
# camera.
#
# <details><summary>Hint: the check speaks of R n</summary>
#
# PyTorch keeps normals as rows. For a row vector, `n @ M` is $M^\top n$.
#
# </details>
#
# <details><summary>Hint: all images are turned in the same way</summary>
#
# `@` multiplies the last two axes, and goes through the first one, the images, in step.
#
# </details>

# %% tags=["exercise"] slug="exercise-canonical-normals"
import torch


def my_canonical_normals(normal, rotation):
    """World-frame normals (B, P, 3) of camera-frame normals (B, P, 3) and rotations (B, 3, 3)."""
    # BEGIN SOLUTION
    return torch.einsum("bpk,bkj->bpj", normal, rotation)
    # END SOLUTION


# %% tags=["check"] slug="check-canonical-normals"
from support import check

check.canonical_normals(my_canonical_normals)

# %% [markdown]
# ### The mean of the best (medium, 15 minutes)
#
# Write $\mathcal{L} = \frac{1}{|K|} \sum_{i \in K} \ell_i$ for the errors of a batch. Only visible pixels count. Of $n$
# visible pixels in the whole batch, $K$ holds those with the smallest errors: $\lfloor \rho n \rfloor$ of them, but at
# least one. If none is visible, the loss is 0.
#
# <details><summary>Hint: a bad image still counts</summary>
#
# Select the visible pixels of all images first, `error[visible]`. That is one list, without images. Then sort.
#
# </details>
#
# <details><summary>Hint: NaN, or nothing is kept</summary>
#
# `int(0.5 * 1)` is 0, and the mean of an empty list is NaN.
#
# </details>

# %% tags=["exercise"] slug="exercise-robust-mean"
import torch


def my_robust_mean(error, visible, keep):
    """Mean of the smallest share `keep` of errors (B, P) where visible (B, P)."""
    # BEGIN SOLUTION
    ranked = error[visible].sort().values
    if len(ranked) == 0:
        return error.new_zeros(())
    return ranked[: max(1, int(keep * len(ranked)))].mean()
    # END SOLUTION


# %% tags=["check"] slug="check-robust-mean"
from support import check

check.robust_mean(my_robust_mean)

# %% [markdown]
# ### The normal loss (hard, 20 minutes)
#
# Write $5\,\lVert R^\top n - \hat n\rVert_1 + 1 - \cos$ as a mean over the share `keep` of *all* pixels of the batch
# that have the smallest $1 - \cos$. Rotations $R$ turn the world into the camera.
#
# <details><summary>Hint: right normals cost something</summary>
#
# For row vectors $R^\top n$ is `n @ R`. A joint rotation of everything must cost nothing.
#
# </details>
#
# <details><summary>Hint: an image full of wrong normals still counts</summary>
#
# Flatten images and pixels before you sort: a bad image may lose all its pixels.
#
# </details>

# %% tags=["exercise"] slug="exercise-normal-loss"
import torch


def my_normal_loss(rendered, estimated, rotation, keep):
    """For rendered (B, P, 3, world) and estimated normals (B, P, 3, camera), rotations (B, 3, 3)."""
    # BEGIN SOLUTION
    target = estimated @ rotation
    angular = 1 - (rendered * target).sum(dim=-1)
    error = 5 * (rendered - target).abs().sum(dim=-1) + angular
    best = angular.flatten().argsort()[: int(keep * angular.numel())]
    return error.flatten()[best].mean()
    # END SOLUTION


# %% tags=["check"] slug="check-normal-loss"
from support import check

check.normal_loss(my_normal_loss)

# %% [markdown]
# ## Questions
#
# 1. Drop by *image* instead of by pixel: leave out the images with the largest mean error. When is that better?
# 2. The L1 part is not invariant under rotation: the same angular error costs more in some directions. By how much?
# 3. Set `wrong_share` to 0 with papermill. What does dropout remove now, and what would you keep?
# 4. Why must the gradient through $R$ be taken in the canonical frame *and* through the rendering? Detach one and plot.

# %% tags=["nbval-check-output"]
flat = torch.tensor([[[0.0, 0.0, 1.0]]])
tilted = torch.tensor([[[0.0, float(np.sin(np.pi / 3)), 0.5]]])
error, cosine = normal_errors(tilted, flat)
print(f"60° off: 1 - cos = {float(cosine):.2f}, loss = {float(error):.2f}")
everything = torch.ones(1, 1, dtype=torch.bool)
print(f"perfect: loss = {float(normal_loss(flat, flat, torch.eye(3)[None], everything)):.2f}")
print(f"of 10 pixels at keep 0.8, {int(inliers(torch.arange(10.0), 0.8).sum())} count")
print("floor seen from 30° above:", [round(v, 2) + 0.0 for v in floor_seen.tolist()])
print("dropping finds wrong normals better than chance:", precision > ranked.wrong_share(1.0))
print("and leaves fewer wrong ones:", ranked.wrong_share(0.8) < ranked.wrong_share(1.0))

# %% [markdown]
# ## Where to read on
#
# - Huang et al., *ShapeClipper*, 2023, Sec. 3.3 and Table 2: without normals 10 x CD rises from 0.618 to 0.766, without
#   outlier dropout to 0.640 (Pix3D; means of five seeds).
# - Yu et al., *MonoSDF*, 2022: the same two terms with known cameras, in the camera's frame.
# - Eftekhar et al., *Omnidata*, 2021: the estimator that the paper used, and what it was trained on.

# %% [markdown] tags=["instructor"]
# ## For instructors: ninety minutes
#
# - 0-20 frames, with three pens as axes; 20-30 exercise *Into the canonical frame*;
# - 30-40 Eq. 4 for one pixel; 40-55 dropout and exercise *The mean of the best*; 55-70 viewpoints;
# - 70-90 exercise *The normal loss*, which needs both others.
#
# **Common mistakes**
#
# - R and its transpose: test with a joint rotation, which must cost nothing.
# - Ranking inside each image keeps half of a bad one, however bad it is.
# - The share of *all* pixels instead of the visible ones: then much of the background's zero error is "kept".
#
# Timings of the cells are in the gallery that `make run` writes.
