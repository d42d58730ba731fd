# %% [markdown]
# # 06 · Train ShapeClipper from scratch
#
# Photographs of chairs go in, one view of each. Out comes a network that turns any photo of a chair into a 3D shape.
# Here you watch that happen: a grey ball grows a seat and a back in about a minute.
#
# **Before**: notebooks 03 (renderer), 04 (neighbour) and 05 (normals).
#
# **Afterwards** you can
#
# - say what one training step does, and compute each term of the objective for a toy example by hand;
# - write the eikonal loss and two priors on viewpoints;
# - stop a training and go on, bit for bit as if nothing had happened;
# - choose a checkpoint without looking at 3D shapes, and say why that matters;
# - run the real thing, on one machine or on many GPUs.
#
# **Time**: twenty-five minutes to read and 45 for three exercises. The cells take about a minute and a half on two CPU
# cores. The quick profile trains with *given* viewpoints, because that shows chairs soonest. The full profile is the
# real training, viewpoints unknown; see the table of profiles below.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: a minute with given viewpoints, or the real training
recipe: str = "small"  # small | small-given | released | paper: what the full profile trains (lib/training/recipes.py)
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # which objects to learn
run_dir: str = ""  # where to write; empty: runs/<profile>/06_train
seed: int = 0  # of the first weights and of everything drawn
device: str = "auto"  # auto | cpu | cuda
processes: int = 1  # how many train together, each on its own GPU

# %% tags=["imports"] slug="imports"
import hashlib
import shutil
from math import cos, radians, sin, sqrt

import pandas as pd
import torch
from accelerate import notebook_launcher

from lib.data.loading import PreparedDataset
from lib.data.neighbors import read_neighbors
from lib.evaluation import Run, evaluate, read_results, results_table, system_predictor, write_results
from lib.figures.maps import reconstruction_sheet
from lib.figures.source import show_source
from lib.figures.training import loss_figure
from lib.figures.viewer import controlled, dropdown, slider, turned_views
from lib.geometry.cameras import Viewpoint
from lib.losses.camera import azimuth_prior_loss, mirror_loss
from lib.losses.field import eikonal_loss
from lib.losses.normal import normal_loss
from lib.losses.reprojection import mask_loss, rgb_loss
from lib.paths import WEIGHTS, prepared_folder, run_folder
from lib.systems import make_system
from lib.systems.shapeclipper import PAPER, ShapeClipper
from lib.training.__main__ import choose_device, train_recipe, validation_images
from lib.training.log import read_log
from lib.training.loop import train
from lib.training.recipes import RECIPES
from lib.training.validation import validate
from support.nb06 import ablation_table, objective_table, recipe_table, step_figure, watch

# %%
torch.set_flush_denormal(True)  # see "What goes wrong"
name = "quick" if profile == "quick" else recipe
chosen = RECIPES[name].changed(seed=seed)
run = run_folder("06_train", profile, run_dir) / name
if profile == "quick":
    shutil.rmtree(run, ignore_errors=True)  # start again; the full profile goes on where it stopped
folder = prepared_folder(dataset, data_root)
if processes > 1:  # each needs a GPU that nothing has touched before, so this comes first
    notebook_launcher(train_recipe, (chosen, folder, run, [category], None, device), num_processes=processes)
data, test = (PreparedDataset(folder, split, [category]) for split in ("train", "test"))
validation = validation_images(folder, [category])  # None where a dataset has no such split
accelerator = choose_device(device, chosen.training.mixed_precision)
print(f"{len(data)} training images of {data.metadata['model'].nunique()} models, one view each;", end=" ")
print(f"{len(test)} held-out images of {test.metadata['model'].nunique()} other models; the run folder is {run}")

# %% [markdown]
# ## One step in a picture
#
# A step takes 12 images. Each comes with one *neighbour*: another object that looks similar (notebook 04 says why).
# The network reads a shape code, a texture code and, in the full training, a viewpoint from each image. Then the
# shape is rendered twice: from the image's own viewpoint with its own texture, and from the neighbour's viewpoint
# with the neighbour's texture. Only some rays are rendered, most of them near the silhouette's edge.
#
# Before training every code means the same ball, so that is what both renderings show.

# %% tags=["step"] alt="One image and its neighbour with mask, normals, where rays are drawn, and the rendering: a ball"
torch.manual_seed(seed)
system = make_system(chosen.system).to(accelerator.device).eval()
neighbors = read_neighbors(folder, data.metadata)
query = torch.tensor([len(data) // 3])
step = data.batch(query, neighbors[query, 0]).to(accelerator.device)
ball = system.reconstruct(step.rgb, step.viewpoint)
figure = step_figure(step, ball.render(samples=32), ball.render(step.neighbor.viewpoint, samples=32))

# %% [markdown]
# ## The objective, term by term
#
# $$\mathcal{L} = \mathcal{L}_{recon} + \mathcal{L}_{SSC} + \text{priors} \qquad \text{(Eq. 7; priors: Sec. 3.4)}$$
#
# $$\mathcal{L}_{recon} = \mathcal{L}_I + \lambda_1 \mathcal{L}_M + \lambda_2 \mathcal{L}_N
# \qquad \text{(own image, Eq. 5)}$$
#
# $$\mathcal{L}_{SSC} = \mathcal{L}_{SSC_I} + \lambda_1 \mathcal{L}_{SSC_M} + \lambda_2 \mathcal{L}_{SSC_N}
# \qquad \text{(neighbour, Eq. 6)}$$
#
# with $\lambda_1 = 0.5$ and $\lambda_2 = 0.01$. The table is made from configurations: the column *weight* is what this
# notebook trains, *small* what the full profile does, *paper* the publication; 0 means that the term is off. The paper
# names the eikonal term and the azimuth prior but not their weights, which are the released code's. It cites a symmetry
# constraint without a formula: *mirror* is the released code's. *camera_margin* is in that code alone, and *guess* is
# ours.
#
# A paper shows that a term is needed by taking it away. The second table lists these switches: each is one change
# of the configuration, `RECIPES["small"].changed(semantic_weight=0.0)` in code or `--set semantic_weight=0.0` on the
# command line.
#
# Three notebooks explain the parts: 03 the renderer, 04 the neighbour, 05 the normals.

# %%
pd.set_option("display.max_colwidth", 80)
others = {key: RECIPES[key].system for key in ("small", "paper")}
wide = {"min-width": "18em", "text-align": "left"}  # else a browser squeezes the words into a column of one each
terms = objective_table(chosen.system, **others).style.format(precision=2).set_properties(["what it compares"], **wide)
display(terms, ablation_table())

# %% [markdown]
# Eq. 5 on two rays. One of their six colour values is 0.6 off. The masks are 1 and 0, but 1 and 0.5 are rendered. The
# first ray's normal is tilted by 60°, which costs 7.33 (notebook 05).

# %%
L_I = 0.6**2 / 6  # mean squared difference of six values: 0.06
L_M = 1 - 1 / (1 + 1.5 - 1)  # intersection 1, union 1.5: 0.333
L_N = 5 * (0.866 + 0.5) + 1 - 0.5  # 7.33
L_recon = L_I + 0.5 * L_M + 0.01 * L_N
print(f"{L_I:.3f} + 0.5 x {L_M:.3f} + 0.01 x {L_N:.2f} = {L_recon:.3f}")

white = torch.ones(1, 2, 3)  # (1 image, 2 rays, 3)
colors = rgb_loss(white - torch.tensor([[[0.6, 0, 0], [0, 0, 0]]]), white)
masks = mask_loss(torch.tensor([[1.0, 0.5]]), torch.tensor([[1.0, 0.0]]))
tilted, up = torch.tensor([[[0, 0.866, 0.5], [0, 0, 1]]]), torch.tensor([[[0, 0, 1.0], [0, 0, 1]]])
normals = normal_loss(tilted, up, torch.eye(3)[None], visible=torch.tensor([[True, False]]))
of_lib = PAPER.rgb_weight * colors + PAPER.mask_weight * masks + PAPER.normal_weight * normals
assert abs(float(of_lib) - L_recon) < 1e-4

# %% [markdown]
# ## The priors, by hand
#
# **Eikonal.** A distance grows by one unit a unit, so its gradient has length 1 everywhere:
#
# $$\mathcal{L}_{eik} = \frac{1}{N} \sum_{i=1}^{N} \big(\lVert \nabla f_S(x_i) \rVert - 1\big)^2$$
#
# **Predict.** $f(x) = 2\,(\lVert x \rVert - 0.5)$ is zero on exactly the sphere of the ball that training starts from.
# Does it cost anything? How much?

# %%
x = torch.tensor([[0.3, 0.0, 0.4]])  # 0.5 long
gradient = 2 * x / 0.5  # (1.2, 0, 1.6)
by_hand = ((1.2**2 + 1.6**2) ** 0.5 - 1) ** 2
print(f"a point of 2 (|x| - 0.5) costs {by_hand:.2f}")
assert abs(float(eikonal_loss(gradient)) - by_hand) < 1e-6

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# 1 at every point: the gradient is 2 long, and $(2 - 1)^2 = 1$. The surface is right, but the values are twice the
# distance. The renderer would make such a fog half as wide, so $\beta$ would no longer mean a width.
#
# </details>
#
# **Azimuths.** Nobody gives the viewpoints, so a prior says how they are spread: evenly. The azimuths of $B$ images,
# as $c_i = \cos \gamma_i$ and $s_i = \sin \gamma_i$, are compared with the grid $(2k - 1)\pi / B$, in sorted order:
#
# $$\mathcal{L}_{azi} = \frac{1}{3B} \sum_{q \in \{c,\; s,\; cs\}} \big\lVert \mathrm{sort}(q) -
# \mathrm{sort}(q_{grid}) \big\rVert_2$$
#
# **The mirror.** The mirrored image of a symmetric object is seen from $(-\gamma, \theta, -\rho)$. With the unit pairs
# $p(\gamma) = (\cos\gamma, \sin\gamma)$ and $\gamma', \theta', \rho'$ estimated from the mirrored image,
#
# $$\mathcal{L}_{mirror} = \lVert p(\gamma') - p(-\gamma) \rVert^2 + \lVert p(\theta') - p(\theta) \rVert^2
# + \lVert p(\rho') - p(-\rho) \rVert^2 .$$
#
# **Predict.** A lazy estimator ignores the picture: it gives every image one and the same azimuth, and no roll. For
# which azimuths does the mirror term cost it nothing? Does the azimuth prior object?

# %%
for degrees in (0, 30, 90, 180):
    angle = radians(degrees)
    by_hand = (cos(angle) - cos(-angle)) ** 2 + (sin(angle) - sin(-angle)) ** 2  # 4 sin^2
    print(f"azimuth {degrees:3}° for every image: the mirror costs {by_hand:.2f}")
    lazy = Viewpoint.from_angles(torch.tensor([angle]), torch.tensor([0.3]))
    assert abs(float(mirror_loss(lazy, lazy)) - by_hand) < 1e-6
# two images at azimuth 0: cos 1, 1 and sin 0, 0. The grid, 90° and 270°: cos 0, 0 and sin -1, 1. Their products are 0
by_hand = (sqrt(1 + 1) + sqrt(1 + 1) + 0) / (3 * 2)
print(f"two images at azimuth 0: the prior costs {by_hand:.3f}")
assert abs(float(azimuth_prior_loss(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))) - by_hand) < 1e-6

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# 0° and 180°, the two views that are their own mirror image. The prior objects: it wants the azimuths of a batch
# spread out. Which of the two wins is a matter of weights, and "What goes wrong" below shows what happens if the mirror
# does.
#
# </details>

# %% [markdown]
# ## The code that is the formula
#
# This method of the paper's system puts the terms together. It returns a dictionary of weighted terms, and training
# minimises their sum.

# %%
show_source(ShapeClipper.losses)

# %% [markdown]
# ## One field for many objects, and angles without a seam
#
# Two things are in the step above that nobody has explained yet.
#
# **A code.** The field is one network for all chairs. It gets the point $x$ *and* the code $s$, which the encoder read
# from the image. The first layer is $W_x x + W_s s + b$: for one object $W_s s + b$ is the same at every point, a bias
# that the image chooses. (SDF-SRN goes further: there the image chooses all weights, notebook 10.)
#
# **A viewpoint.** An angle as a number has a seam: 350° and 10° are neighbours, and their mean is 180°, the opposite
# side. As unit pairs $(\cos\gamma, \sin\gamma)$ their mean points to 0°. So the estimator predicts pairs, and losses
# compare pairs.

# %%
layer = system.sdf_field.hidden[0]  # the first layer of f_S; its inputs are the encoded point (39) and the code (64)
x, s = torch.rand(5, 39, device=layer.weight.device), torch.rand(64, device=layer.weight.device)
joined = torch.cat([x, s.expand(5, 64)], dim=-1) @ layer.weight.T + layer.bias
W_x, W_s = layer.weight[:, :39], layer.weight[:, 39:]
assert torch.allclose(joined, x @ W_x.T + (W_s @ s + layer.bias), atol=1e-5)

angles = torch.deg2rad(torch.tensor([350.0, 10.0]))
pair = torch.stack([angles.cos(), angles.sin()], dim=-1).mean(dim=0)
middle = torch.atan2(pair[1], pair[0]).rad2deg().abs()  # of -0 or 0
print(f"mean of the numbers: {angles.mean().rad2deg():.0f}°, of the pairs: {middle:.0f}°")

# %% [markdown]
# ## The profiles
#
# The quick profile is small in every way, and it is *told* the viewpoints. The real problem, `small` and `paper`,
# has to find them. `paper` is the publication's setting. It needs a GPU for a day or more, and we did not run it here.

# %%
recipe_table()

# %% [markdown]
# ## Train
#
# One step of training is four lines:
#
# ```python
# losses = system.losses(batch, generator)  # the dictionary above
# optimizer.zero_grad()
# sum(losses.values()).backward()
# optimizer.step()
# ```
#
# `train` repeats them, writes a log, and calls its listeners with every row of it. Ours draws the picture below: above
# are the terms, solid for the image, dashed for its neighbour. Below them, on the left, is the goal: a held-out image
# that is never trained on. Beside it is the same image as the system renders it at several steps. The first steps are
# pretraining, which only makes a ball; the curves start after it.
#
# **Predict.** What appears first: the seat, the back, or the legs? And will the dashed curves end above the solid ones?

# %% tags=["train"] alt="Loss curves, and a held-out chair rendered at several steps"
total = chosen.training.total
watched = test.batch(torch.tensor([len(test) // 2]))
board = watch(run, total, watched)

torch.manual_seed(seed)
system = make_system(chosen.system)
settings = {"validation": validation, "accelerator": accelerator}
system = train(system, chosen.training, data, run, listeners=(board,), **settings)

log = run / "log.jsonl"
print(f"{total} steps in {read_log(log)[-1]['seconds']:.0f} s of training")

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The quick profile makes the seat and the back at about the same time, within the first fifty steps, and no legs at
# all. Seat and back are large faces with a normal of their own; a leg is a few pixels wide. The dashed mask curve ends
# above the solid one, because the shape was read from the other image. The dashed curves of colour and normals end
# close to the solid ones: after so few steps the shape is an average chair, which fits both images equally badly. The
# eikonal term is low at first, because a ball's distance is easy, and rises while the ball is bent into a chair.
#
# </details>

# %% [markdown]
# ## Stop and go on
#
# The run folder now holds everything that is needed to go on. `checkpoint/state.safetensors` has the weights, Adam's
# two moments for each weight, and the step. There is no random state to keep: the generator of a step is seeded by the
# run's seed and the step's number, and the order of the images by the run's seed and the number of the epoch. To go on,
# make a new system and call `train` with the same arguments. (Run the cell above once more: it tells you that there is
# nothing left to train.)
#
# Two tiny runs test it. One takes six steps in one go. The other stops after the third and keeps nothing but its folder.
#
# **Predict.** Will their weights be different, equal but for rounding, or identical?

# %% tags=["resume"]
tiny = chosen.changed(steps=4, pretrain_steps=2, rays=16, neighbor_rays=8, samples=6, batch_size=2, save_every=100)


def digest_of_run(folder, *pauses):
    """Train the tiny recipe with pauses, a new system after each; a fingerprint of its weights."""
    shutil.rmtree(folder, ignore_errors=True)
    for stop_after in (*pauses, None):
        torch.manual_seed(seed)
        system = train(
            make_system(tiny.system), tiny.training, data, folder, stop_after=stop_after, accelerator=accelerator
        )
    weights = b"".join(tensor.cpu().numpy().tobytes() for tensor in system.state_dict().values())
    return hashlib.sha256(weights).hexdigest()[:16]


for path in sorted(run.iterdir()):
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    print(f"{path.name:20} {sum(file.stat().st_size for file in files) / 1000:10,.1f} kB")
digests = {"in one go": digest_of_run(run / "tiny-a"), "with a pause": digest_of_run(run / "tiny-b", 3)}
print("\n".join(f"{way:14} {digest}" for way, digest in digests.items()))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Identical, bit for bit: the fingerprints of all weights are the same. Every number that a step depends on is either in
# the folder or follows from the seed and the step.
#
# </details>

# %% [markdown]
# ## What it learned
#
# Held-out chairs, of models that were not trained on. The last two columns are meshes of the same shapes from sides
# that no input shows: there the system relies on what chairs have in common.
#
# **Predict.** The four chairs are quite different. Will the four meshes be?

# %% tags=["key-figure"] alt="Held-out chairs: image, rendering, true and rendered normals, and the mesh from two sides"
rows = torch.linspace(0, len(test) - 1, 6).long()[1:5]
held_out = test.batch(rows).to(accelerator.device)
given = held_out.viewpoint if system.needs_viewpoint else None
shapes = system.reconstruct(held_out.rgb, given)
meshes = [shapes.mesh(resolution=64, index=i) for i in range(len(rows))]
figure = reconstruction_sheet(held_out, shapes.render(samples=32), shapes.viewpoint.rotation(), meshes)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Hardly. After so few steps the shape code changes little: the network has learned one armchair, the average of them
# all, and seen from the right side it fits every image a little. The shipped checkpoints, which trained for longer,
# tell chairs apart (notebook 07).
#
# </details>
#
# Turn the first chair with the sliders.

# %% tags=["control"] alt="One predicted chair, rendered and as a mesh, from a chosen side"
redraw = controlled(
    lambda azimuth, elevation: turned_views(shapes, meshes[0], azimuth, elevation, size=64),
    azimuth=slider("azimuth", 140, -180, 180, 10, "°"),
    elevation=slider("elevation", 15, -10, 80, 5, "°"),
)

# %% [markdown]
# ## Read the curves
#
# If a term falls while its dashed twin does not, the shape explains its own image only. Smoothing averages over
# logged rows: each is a single batch of 12 images, and ups and downs of a tenth from row to row mean nothing. The mask
# term hardly falls in so short a training, although chairs appear. It is measured at the rays that were drawn, most of
# them within a few pixels of the outline, where a ball of the right size is already half right, and where the shrinking
# $\beta$ makes it more costly to be wrong. Where the shipped checkpoints are installed, choose their logs and
# see what longer training does.

# %% tags=["curves"] alt="Weighted losses over the steps, one line a term, logarithmic"
logs = {"this run": log} | {path.parent.name: path for path in sorted(WEIGHTS.glob("shapeclipper-*/train.jsonl"))}
redraw = controlled(
    lambda which, smooth: loss_figure(read_log(logs[which]), smooth=smooth),
    which=dropdown("run", list(logs)),
    smooth=slider("smoothing", 5, 1, 40, 1),
)

# %% [markdown]
# ## Measure it
#
# Ten times the Chamfer distance (smaller is better) and F-scores on held-out images, in ShapeClipper's protocol. The
# quick profile measures a few images, coarsely; notebook 07 explains both numbers and measures properly. "Before" is
# the ball. For the shipped checkpoints the table shows the whole test set at full resolution, as measured by the
# command that made them.
#
# **Predict.** How far will the Chamfer distance have come from the ball's towards that of the shipped checkpoints? And
# FS@1, which counts points within 0.01 of the other surface?

# %% tags=["results"]
quick = profile == "quick"
few = torch.linspace(0, len(test) - 1, 12 if quick else len(test)).long().tolist()
resolution, points = (40, 5_000) if quick else (100, 100_000)
settings = {"protocols": ("view",), "rows": few, "points": points}
torch.manual_seed(seed)
untrained = make_system(chosen.system).to(accelerator.device).eval()
measured = []
for name, one, steps_done in (("before", untrained, 0), ("after", system, total)):
    predict = system_predictor(one, resolution, colored=False)
    measured += evaluate(predict, test, run=Run(name, profile, steps_done, seed), **settings)
write_results(run / "results.json", measured)
shipped = [row for path in sorted(WEIGHTS.glob("shapeclipper-*/results.json")) for row in read_results(path)]
table = results_table(measured + [row for row in shipped if row["system"].startswith("shapeclipper")])
print(table.round(3).to_string())

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The quick profile covers almost half of the way to the checkpoint that is given the viewpoints, *shapeclipper (true
# view)*. FS@1 has not moved: an average armchair is nearly everywhere farther than a hundredth from the true surface.
# The two measures see different stages of a training. (The rows are not measured alike: a dozen images here, the whole
# test set there.)
#
# </details>

# %% [markdown]
# ## Choose a checkpoint without looking at shapes
#
# Not every step improves the system, so one keeps the best state. Best at what? Every ten epochs the released code
# measures the Chamfer distance to the true shapes of the validation images, and keeps the best. That is 3D supervision
# through the back door: nobody who has only photographs can do it, and the numbers in the table are then a little
# better than the method deserves.
#
# Ours is `select="images"`: render the validation images and compare them with themselves, Eq. 5 without normals.
# `select="shapes"` is the released code's way, `select="last"` takes the last state. Both scores, after training:

# %%
scores = validate(system, validation or test, seed, shapes=True, limit=8)
print(f"image loss (what 'images' looks at)           {scores['image_loss']:.3f}")
print(f"10 x Chamfer distance (what 'shapes' looks at) {10 * scores['chamfer_distance']:.3f}")

# %% [markdown]
# ## Where to read the whole step
#
# To understand one step of ShapeClipper's training, read these files of `lib`, in this order. What is *ours* (guesses,
# quarter turns, mean colours) is a subclass in another file, `systems/shapeclipper_small.py`.
#
# 1. `systems/shapeclipper.py`: the configuration, the networks put together, and the objective shown above;
# 2. `systems/base.py`: what training and evaluation expect of every system;
# 3. `networks/`: from an image to features, codes and a viewpoint;
# 4. `geometry/cameras.py`: from a viewpoint and pixels to rays;
# 5. `fields/sdf.py`: the signed distance at a point, for a shape code;
# 6. `fields/texture.py`: the colour at a point, for a texture code;
# 7. `rendering/volume.py`: from distances and colours along rays to image, mask and normals;
# 8. `losses/`: one function for each term, with its equation.

# %% [markdown]
# ## What goes wrong
#
# **The viewpoint collapses.** With unknown viewpoints the mirror term is cheapest when every image gets azimuth 0 or
# 180°. With the released objective on this small collection it wins at once: after 300 steps of training the entropy of
# the predicted azimuths, 1 when they spread evenly, was 0.18 to 0.28 with three seeds (two directions alone give 0.28),
# and the median error 75° to 78°, where guessing gives about 90°. `RESULTS.md` has the command. Once all shapes have
# grown around one viewpoint, none can leave it. Watch `azimuth_entropy` in the validation rows of the log and stop a
# run below 0.4. The recipe `small` holds it up by four things, all of them *ours*:
#
# - *guesses*: most furniture has faces along three directions, so the normals of one image tell its elevation, and its
#   azimuth up to quarter turns. Many images together tell which quarter: two images with similar normals are seen from
#   nearly the same side, and we solve for azimuths that agree. The estimator starts from these guesses and is pulled
#   towards them all the time. A fifth of them are wrong, so a large difference pulls no harder than a small one;
# - the shape then corrects the guesses: if a guess turned by a quarter explains an image better, the step renders from
#   there;
# - mirrored images get other colours and sizes, so that the estimator cannot recognise the picture;
# - the estimator sees *where* things are: averaged over a small image, the features of a chair seen from the left and
#   from the right are nearly the same. Its network ends at maps of 4 x 4 cells or more, which keep them apart.
#
# **Every chair is grey.** The colour loss has a plateau: grey with the right brightness. Five sixths of the differences
# between the mean colours of these chairs are brightness, and the encoder drops the rest before the field asks for it.
# If the texture code also gets the mean colour of the object (`mean_color`, ours), the field leaves the plateau. The
# quick recipe has it from the start, though its few steps show only a trace. The real one has it in a second, short
# training (recipe `small-colors`), which learns a new texture field and nothing else, so the shapes do not change.
# `lib/weights/README.md` has the measurements.
#
# **A thin surface, a slow machine.** As $\beta$ falls, densities far from the surface drop below $10^{-38}$. CPUs
# compute such *denormal* numbers many times slower; `torch.set_flush_denormal(True)` in the first cell makes them zero.
#
# **The neighbour is the object itself.** The nearest neighbours of all are recoloured copies of the same model. Then
# the semantic term is multi-view supervision in disguise; `lib.data.neighbors` excludes the query's model.
#
# **The loss is not a number.** `train` stops with the name of the term. Lower the learning rate.
#
# ## The real training
#
# ```bash
# make run PROFILE=full NOTEBOOKS=06                        # viewpoints unknown: recipe small
# make run PROFILE=full NOTEBOOKS=06 PARAMS="-p recipe small-given"
# python -m lib.training small --categories chair --run runs/chair       # the same without a notebook
# python -m lib.training small-colors --categories chair --run runs/colors --set start=runs/chair   # then colours
# tensorboard --logdir runs                                            # what the last two commands write as they go
# ```
#
# The loop is the same on several GPUs: Accelerate starts a process for each GPU and divides every batch of 12 among
# them. The released code divides its batch too.
#
# ```bash
# accelerate launch --num_processes 4 -m lib.training paper --run runs/paper            # one machine, four GPUs
# accelerate launch --num_processes 12 --num_machines 3 --machine_rank 0 \
#   --main_process_ip first-machine --main_process_port 29500 -m lib.training paper --run runs/paper
# ```
#
# From a notebook, Accelerate's `notebook_launcher` starts the processes: run this one with `-p processes 4`. Each calls
# `lib.training.__main__.train_recipe`, which makes its own data, system and accelerator. They train into the run
# folder; when the notebook reaches its training cell, the run is already finished.

# %% [markdown]
# ## Exercises
#
# Write the formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### In the mirror (easy, 10 minutes)
#
# An image is seen from azimuth $\gamma$, elevation $\theta$ and roll $\rho$, given as unit pairs (cos, sin). From which
# viewpoint is its mirrored image seen? Give the three pairs, without a single angle.
#
# <details><summary>Hint: the view from behind</summary>
#
# $-\gamma$ is not $\gamma + 180°$. Which of $\cos(-\gamma)$ and $\sin(-\gamma)$ has another sign?
#
# </details>
#
# <details><summary>Hint: mirrored points are not at mirrored places</summary>
#
# Hold a picture that leans to the left in front of a mirror.
#
# </details>

# %% tags=["exercise"] slug="exercise-mirrored-viewpoint"
import torch


def my_mirrored_viewpoint(azimuth, elevation, roll):
    """Unit pairs (B, 2) of the mirrored image's azimuth, elevation and roll."""
    # BEGIN SOLUTION
    opposite = torch.tensor([1, -1])
    return azimuth * opposite, elevation, roll * opposite
    # END SOLUTION


# %% tags=["check"] slug="check-mirrored-viewpoint"
from support import check

check.mirrored_viewpoint(my_mirrored_viewpoint)

# %% [markdown]
# ### The eikonal loss (medium, 15 minutes)
#
# Write $\frac{1}{N} \sum_i (\lVert \nabla f(x_i) \rVert - 1)^2$ for any field `f` that takes points (N, 3) and gives N
# values. Take the gradient by automatic differentiation, so that the loss can train the field.
#
# <details><summary>Hint: one gradient for many values</summary>
#
# `torch.autograd.grad` wants a scalar. A value depends on its own point alone, so the gradient of the *sum* has in row
# $i$ the gradient of the value $i$. The points must have `requires_grad_()`.
#
# </details>
#
# <details><summary>Hint: the loss cannot train the field</summary>
#
# The gradient must itself be differentiable: `create_graph=True`.
#
# </details>

# %% tags=["exercise"] slug="exercise-eikonal"
import torch


def my_eikonal(f, points):
    """Eikonal loss of a field at points (N, 3)."""
    # BEGIN SOLUTION
    points = points.requires_grad_()
    (gradient,) = torch.autograd.grad(f(points).sum(), points, create_graph=True)
    return (gradient.norm(dim=-1) - 1).square().mean()
    # END SOLUTION


# %% tags=["check"] slug="check-eikonal"
from support import check

check.eikonal(my_eikonal)

# %% [markdown]
# ### An even spread of azimuths (hard, 20 minutes)
#
# Write $\mathcal{L}_{azi}$ for azimuths as unit pairs (cos, sin): compare the *sorted* values of cos, of sin and of
# cos · sin with those of the even grid $(2k - 1)\pi / B$, $k = 1 \dots B$: three L2 norms, summed and divided by $3B$.
# (In one dimension sorting solves the transport problem: this is a Wasserstein distance.)
#
# <details><summary>Hint: an even spread costs something</summary>
#
# The images of a batch come in any order. Sort both sides before you subtract.
#
# </details>
#
# <details><summary>Hint: two different spreads cost the same</summary>
#
# Did you use all three projections?
#
# </details>

# %% tags=["exercise"] slug="exercise-azimuth-prior"
import math

import torch


def my_azimuth_prior(azimuth):
    """The distance of azimuths (B, 2) from an even spread."""
    # BEGIN SOLUTION
    count, total = len(azimuth), 0.0
    grid = (2 * torch.arange(1, count + 1) - 1) * math.pi / count
    even = torch.stack([grid.cos(), grid.sin()], dim=-1)
    for project in (lambda p: p[:, 0], lambda p: p[:, 1], lambda p: p.prod(dim=-1)):
        total = total + (project(azimuth).sort().values - project(even).sort().values).norm()
    return total / (3 * count)
    # END SOLUTION


# %% tags=["check"] slug="check-azimuth-prior"
from support import check

check.azimuth_prior(my_azimuth_prior)

# %% [markdown]
# ## Questions to try
#
# 1. Put `semantic_weight=0.0` into `.changed(...)` in the second code cell, and run *that cell* and all that follow.
#    (It empties the run folder. Without that, the training cell says "finished already" and trains nothing.) Which
#    columns of the held-out figure get worse?
# 2. The ball has radius 0.5. What would you expect from a start with radius 0.1? Try `sphere_radius`.
# 3. Compare each dashed curve with its solid one. Which term of the neighbour should stay higher, and does it here?
# 4. Halve `beta_final`. What happens to the normals, and to the seconds a step takes?

# %% tags=["nbval-check-output"]
rows = [row for row in read_log(log) if row["phase"] == "training"]
compared = [term for term in rows[0] if term.removeprefix("neighbor_") in ("rgb", "mask", "normal")]
means = [{term: sum(row[term] for row in part) for term in compared} for part in (rows[:5], rows[-5:])]
before, after = (r["value"] for r in measured if r["metric"] == "chamfer_distance" and r["category"] == "all")
print(f"{total} steps, {chosen.training.pretrain_steps} of them pretraining")
print("terms:", ", ".join(objective_table(chosen.system).query("weight > 0").index))
print("fell:", ", ".join(term for term in compared if means[1][term] < means[0][term]))
print("interrupted run equals the other bit for bit:", len(set(digests.values())) == 1)
print("nearer to the true shapes than the ball:", after < before)

# %% [markdown]
# ## Where to read on
#
# - The paper: Huang et al., *ShapeClipper*, CVPR 2023, Sec. 3.4 for the training, Tables 2 and 3 for the ablations.
# - `lib/training/loop.py` for the loop, `lib/training/batches.py` for the images of a step, also where several
#   processes share it, and `lib/training/recipes.py` for the numbers.
# - Notebook **07** measures what you trained: pass the run folder printed above as its `checkpoint`.

# %% [markdown] tags=["instructor"]
# ## For instructors: ninety minutes
#
# - 0-10 start the training cell, then read the objective while it runs; 10-25 toy numbers, exercise *In the mirror*;
# - 25-40 exercise *The eikonal loss*; 40-60 curves, checkpoints, what goes wrong;
# - 60-80 exercise *An even spread*; 80-90 the collapse: which term wins, and why.
#
# **Common mistakes**
#
# - A finished run folder trains nothing, and the cell says so: run the second code cell again.
# - `create_graph=True` is forgotten: the loss has a value, but the field does not learn from it.
# - $-\gamma$ is taken for $\gamma + 180°$.
# - Single rows of the log are read as trends.
#
# Timings of the cells are in the gallery that `make run` writes.
