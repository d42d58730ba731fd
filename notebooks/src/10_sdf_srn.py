# %% [markdown]
# # 10 · SDF-SRN: shapes from silhouettes with known viewpoints
#
# Two and a half years before ShapeClipper, SDF-SRN learned 3D shapes from single images too. It is *told* each image's
# viewpoint, and it takes the silhouette at its word: every pixel outside says how far away the object must be (notebook
# 02). A second idea makes rendering cheap: a small network learns how far to stride along each ray.
#
# **You need** notebook 02 (the bound), a little PyTorch, and the chain rule.
#
# **Afterwards you can**
#
# - write the layer that one image writes, and compute by hand what the parts of the loss ask of it;
# - choose between a learned march and classical methods, and say what each of them misses;
# - differentiate a surface, and explain why differentiating bisection is not the same;
# - say how far SDF-SRN and ShapeClipper get on the same chairs with the same budget, and which part of SDF-SRN matters.
#
# **Time**: about twenty-five minutes to read, and forty for the three exercises. On two idle CPU cores all cells
# together take about a minute and a half, most of it training.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: a minute of training, or the recipe sdf-srn-small
checkpoint: str = ""  # folder of a checkpoint or a run; empty: the one that comes with the course, else this run's
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # which objects to learn
run_dir: str = ""  # where to write; empty: runs/<profile>/10_sdf_srn
seed: int = 0  # of the first weights and of everything drawn
device: str = "auto"  # auto | cpu | cuda

# %% tags=["imports"] slug="imports"
import shutil
import time
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from lib.course.grids import grid_results
from lib.data.loading import PreparedDataset
from lib.evaluation import Run, evaluate, read_results, results_table, system_predictor, write_results
from lib.evaluation.claims import place_table
from lib.evaluation.comparison import comparison_table
from lib.fields.hypernetwork import linear
from lib.figures.maps import reconstruction_sheet
from lib.figures.source import show_source
from lib.figures.viewer import LiveBoard, Snapshots
from lib.geometry.cameras import Rays
from lib.losses.field import eikonal_loss
from lib.losses.reprojection import rgb_loss, soft_iou
from lib.paths import WEIGHTS, prepared_folder, run_folder
from lib.rendering.ray_marching import Marcher, find_surface, march, sign_losses
from lib.systems import make_system
from lib.systems.checkpoints import load_system
from lib.systems.sdf_srn import SDFSRN
from lib.training.__main__ import choose_device
from lib.training.loop import train
from lib.training.recipes import SDF_SRN_RECIPES
from support import nb10

# %%
begin, quick = time.perf_counter(), profile == "quick"
chosen = SDF_SRN_RECIPES["sdf-srn-quick" if quick else "sdf-srn-small"].changed(seed=seed)
run = run_folder("10_sdf_srn", profile, run_dir)
folder, accelerator = prepared_folder(dataset, data_root), choose_device(device)
data, test = (PreparedDataset(folder, split, [category]) for split in ("train", "test"))
print(f"{len(data)} training images of {data.metadata['model'].nunique()} models, viewpoints given")

# %% [markdown]
# ## The idea in a picture
#
# Left: all that SDF-SRN is given of an object, one image with its silhouette and viewpoint. Middle: the distance
# transform $D$ of the silhouette. Right: the plane through the camera and the red column. A pixel with distance $D$
# proves that the field is at least $b$ there, at *every* depth: the bright bands are empty space. Where the silhouette
# is, $b = 0$: it says nothing about depth, and the true object (white) is somewhere within the dark.

# %% tags=["idea"] alt="A chair's image, the distance transform of its silhouette, and the bound it proves on a vertical plane"
shown = len(test) // 6
figure = nb10.idea_figure(test.batch(torch.tensor([shown])), test.mesh(shown))

# %% [markdown]
# ## The parts
#
# | part | in the paper | here |
# |---|---|---|
# | encoder | ResNet-18 → code | `lib.networks.backbones.Backbone` |
# | hypernetwork | code → weights of $f$ and $g$ | `lib.fields.hypernetwork`: *one small network an image* |
# | $f$, $g$ | signed distance and colour, 4 layers, encoded points | `WrittenField` |
# | $h$ | LSTM: the next stride from the feature where the ray is (Eq. 6) | `lib.rendering.ray_marching.Marcher` |
# | $\mathcal{L}_{SDF}$ | $f \ge b$ outside the silhouette, weight $1/D$ (Eq. 4) | `lib.losses.silhouette` |
# | $\mathcal{L}_{ray}$ | signs at the marched points (Eq. 7) | `sign_losses` |
# | $\mathcal{L}_{RGB}$ | colour where the ray hits (Eq. 8) | `rgb_loss` at bisection's depth |
# | $\mathcal{L}_{eik}$ | $\lVert\nabla f\rVert = 1$ (Eq. 10) | `WrittenField.with_gradient`, `eikonal_loss` |
#
# The surface along a ray is the first zero of the field (Eq. 5). The marcher, with state $\eta$, takes $N$ strides:
#
# $$z^* = \min\{z \ge 1 : f(z\bar u) = 0\} \quad\text{(Eq. 5)}$$
#
# $$\Delta z^{(j)} = |h(z^{(j)}\bar u;\, \eta^{(j)})|, \quad z^{(j+1)} = z^{(j)} + \Delta z^{(j)} \quad\text{(Eq. 6)}$$
#
# At the points that it visits, signs are asked for: $\alpha = 1$ at the last one of a pixel inside the silhouette, else
# $-1$. The colour is that of the surface, and the field's slope is 1 at random points $\tilde x$:
#
# $$\mathcal{L}_{ray} = \sum_u \sum_{j=0}^{N} \max\big(0,\; \alpha f(z^{(j)}\bar u) + \varepsilon\big) \quad\text{(Eq. 7)}$$
#
# $$\mathcal{L}_{RGB} = \sum_u \lVert g(z^*\bar u) - I(u)\rVert^2 \quad\text{(Eq. 8)}$$
#
# $$\mathcal{L}_{eik} = \sum_{\tilde x} \big(\lVert\nabla f(\tilde x)\rVert - 1\big)^2 \quad\text{(Eq. 10)}$$
#
# $$\mathcal{L} = \lambda_{RGB}\mathcal{L}_{RGB} + \lambda_{SDF}\mathcal{L}_{SDF} + \lambda_{ray}\mathcal{L}_{ray}
# + \lambda_{eik}\mathcal{L}_{eik} \quad\text{(Eq. 11)}$$
#
# On a toy: a ray towards a ball of radius 0.4 whose centre is 2 away, a marcher whose $h$ is $-1/2$ everywhere, three
# strides from $z^{(0)} = 0.25$, and $\varepsilon = 0.4$. The code takes means where the paper writes sums, and weighs
# the last point (1) and the others (0.1) apart.

# %%
z = 0.25 + torch.tensor([0, 1, 2, 3]) * abs(-0.5)  # Eq. 6: 0.25, 0.75, 1.25, 1.75
f = (2 - z).abs() - 0.4  # 1.35, 0.85, 0.35, -0.15: the last interval holds z* = 2 - 0.4 (Eq. 5)
alpha = torch.tensor([-1.0, -1.0, -1.0, 1.0])  # a pixel of the silhouette
charged = (alpha * f + 0.4).clamp(min=0)  # Eq. 7: 0, 0, 0.05, 0.25
last, free = sign_losses(f[None, None], torch.tensor([[True]]), torch.ones(1, 1), margin=0.4)
assert torch.isclose(last, charged[-1]) and torch.isclose(free, charged[:-1].mean())


# %%
def toy_ball(points):
    """Signed distance to the ball."""
    return (points - torch.tensor([0.0, 2.0, 0.0])).norm(dim=-1) - 0.4


marcher = Marcher(feature_size=1)
marcher.to_stride.weight.data.zero_()
marcher.to_stride.bias.data.fill_(-0.5)  # h, whatever it sees
ahead = Rays(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 1.0, 0.0]]]))
depths, values = march(lambda p: (toy_ball(p), toy_ball(p)[..., None]), marcher, ahead, torch.tensor([0.25]), steps=3)
assert torch.allclose(depths[0, 0], z) and torch.allclose(values[0, 0], f, atol=1e-6)
assert torch.isclose(find_surface(toy_ball, ahead, depths, values, 20).depth[0, 0], torch.tensor(1.6))

# %% [markdown]
# One pixel's colour, and two points' slopes:

# %%
colored, given = torch.tensor([[[0.5, 0.5, 0.5]]]), torch.tensor([[[1.0, 0.5, 0.0]]])
squares = (colored - given).square().sum()  # Eq. 8: 1/4 + 0 + 1/4
assert torch.isclose(squares / 3, rgb_loss(colored, given))  # the code's mean is over channels, too
gradients = torch.tensor([[0.0, 0.6, 0.8], [3.0, 0.0, 0.0]])  # of length 1 and 3
slopes_off = (gradients.norm(dim=-1) - 1).square()  # Eq. 10: 0 and 4
assert torch.isclose(slopes_off.mean(), eikonal_loss(gradients))

# %% [markdown]
# Not in the paper, but in its released code: a LayerNorm in each layer of the field, and the field *starts as a ball
# for every code*. Question 5 asks what happens without that start.

# %%
show_source(SDFSRN.losses_of, march, find_surface, sign_losses)

# %% [markdown]
# ## One image writes a network
#
# ShapeClipper's field is one network for all images, which sees the code as one more input. Here the code *becomes* the
# network. A hypernetwork is a network whose outputs are the weights of another. For each written layer it turns the
# code $c$ into a matrix, whose first row $b$ is the bias and whose other rows $A$ are the weights:
#
# $$\begin{pmatrix} b \\ A \end{pmatrix} = H c, \qquad y = b + A^\top x$$
#
# With a code of two numbers, and a field that is a single linear layer:

# %%
code = torch.tensor([1.0, 2.0])  # what the encoder says of an image
writer = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # learned: a row for each number that is written
bias, *weights = writer @ code  # 1; 2 and 3
point = torch.tensor([10.0, 100.0])
value = bias + weights[0] * point[0] + weights[1] * point[1]
assert value == 1 + 2 * 10 + 3 * 100
layer = torch.stack([bias, *weights])[None, :, None]  # (images, 1 + inputs, outputs): the bias is the first row
assert linear(point[None, None], layer).item() == value
print(f"another image, another layer: {(writer @ torch.tensor([2.0, 0.0])).tolist()}")

# %% [markdown]
# The real one writes four layers and two heads in this way, tens of thousands of numbers for each image. Below are
# three held-out chairs, a part of what is written as the first layer of $f$ for each, and the $f$ that results: blue
# inside, red outside.

# %% tags=["written"] alt="Three chairs, the weights that the hypernetwork writes for them, and their fields on the mirror plane"
shipped = WEIGHTS / f"sdf-srn-{dataset}-{category}"
source = Path(checkpoint) if checkpoint else shipped if shipped.is_dir() else None
if source:
    trained = load_system(source, accelerator.device, expected="sdf_srn")
    figure = nb10.written_figure(trained.cpu(), test.batch(torch.tensor([0, len(test) // 2, len(test) - 1])))
else:
    print(f"There is no {shipped.name} in lib/weights: a learned field is missing in the next pictures.")

# %% [markdown]
# ## One ray
#
# A ray starts in front of the object. The marcher sees the field's feature where the ray is, remembers what it saw, and
# strides on. Eq. 7 asks that the field be positive at all points but the last and, for a pixel of the silhouette,
# negative at the last. The first stride over which it turns negative holds the surface (orange band). *Bisection*
# halves the band. A ray whose strides all end outside has no band, even if they jumped over the surface.
#
# Blue is inside, red outside, the black line the surface. Move the evaluations one by one. The solids are exact
# distances with marchers trained on the spot, from silhouettes alone; the chair is a trained field with its own
# marcher.

# %%
example = test.batch(torch.tensor([shown]))
cases = [nb10.solid_case(name, steps=150, seed=seed) for name in nb10.SOLIDS]
if source:
    cases.insert(0, nb10.system_case("chair", trained, example.rgb, example.viewpoint))

# %% tags=["key-figure"] alt="A ray's strides on a slice of a distance field, the bracketed surface and bisection within it"
redraw = nb10.march_explorer(cases, shown=14)

# %% [markdown]
# ## What a stride is worth
#
# Four ways to look for the surface with a given number of evaluations a ray:
#
# - *Sphere tracing*, the classical one: the stride is the distance itself, so it can never pass the surface of an exact
#   distance. Within 0.005 of a surface it calls that a hit.
# - The *learned march*, then bisection, which halves the error with each evaluation.
# - *Even steps*, then bisection: no network, but a step may be longer than the object is thick.
# - *Volume rendering* never needs to decide: its depth is a mean along the ray. Here it has the best $\beta$ for each
#   number of samples, chosen by looking at the truth.
#
# The upper row is the error where a method found a surface. The lower row is the price: rays that truly hit and for
# which it found nothing. The solids' marchers are trained for a few seconds, the chair's together with its field. The
# solids' distances are exact; the chair's field is *learned*, and no exact distance.
#
# **Predict.** With sixteen evaluations a ray: which method has the smallest median error on the solids, and which
# misses the most rays that hit? Does the same method win on the chair?

# %% tags=["marching-study"] alt="Median depth error and missed surfaces over evaluations a ray, for solids and a learned field"
table = pd.concat([nb10.marching_table(case) for case in tqdm(cases, unit="field")], ignore_index=True)
figure = nb10.study_figure(table)
sixteen = table[table["evaluations"] <= 16].groupby(["field", "method"], sort=False).last()
display(sixteen.rename(columns={"median": "median error", "p95": "95 % of errors below"}).round(4))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# - *Solids*: sphere tracing has the smallest error, too small for the chart. It pays elsewhere: rays that only graze an
#   object within 0.005 get a surface that is not there (column *invented*).
# - *Missed*: on every field a learned march. It strides past edges and what rays only graze, and no bisection brings
#   them back. Even steps miss more than it only with fewer evaluations, when a step is longer than the solid is thick.
#   Volume rendering misses next to nothing, and pays with a depth error of about 0.03.
# - *Chair*: not the same. The value of a learned field is no safe stride, so sphere tracing needs more steps; even
#   steps and the learned march have the smaller error here.
#
# </details>
#
# ## The gradient of a surface
#
# The colour loss needs to know how the depth $z^*$ changes with the field. Since $f(x(z^*)) = 0$ whatever the weights
# $\theta$ are, differentiating gives
#
# $$\frac{dz^*}{d\theta} = -\frac{\partial f / \partial\theta}{\nabla f \cdot d} .$$
#
# The paper differentiates the halvings instead. But each halving picks an end by a *sign*, whose derivative is zero:
# $z^*$ becomes a fixed blend of the two ends of the bracket, and its gradient reaches whatever decides where these ends
# are: the marcher, and through the feature that the marcher sees also the field, but never as a displacement of the
# surface.
#
# Take a ball of radius $r$ hit head on, with a bracket that does not depend on it. By hand, $\partial f/\partial r =
# -1$ and $\nabla f \cdot d = -1$, so $dz^*/dr = -(-1)/(-1) = -1$.
#
# **Predict.** What will the unrolled gradient say about the radius?

# %%
radius = torch.tensor(0.4, requires_grad=True)
ends = torch.tensor([[[1.5, 1.9]]], requires_grad=True)
head_on = Rays(torch.tensor([[[0.0, 2.0, 0.0]]]), torch.tensor([[[0.0, -1.0, 0.0]]]))
values = torch.tensor([[[0.1, -0.3]]])
for kind in ("implicit", "unrolled"):
    hit = find_surface(lambda p: p.norm(dim=-1) - radius, head_on, ends, values, 20, kind).depth.sum()
    slopes = torch.autograd.grad(hit, (radius, ends), allow_unused=True)
    named = ["none" if g is None else [round(v, 3) for v in g.flatten().tolist()] for g in slopes]
    print(f"{kind:9} d depth / d radius: {named[0]}, d depth / d ends of the bracket: {named[1]}")

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Nothing at all: "none". The ends of the bracket are given, and the halvings only choose between them by signs. So the
# unrolled $z^*$ is 0.75 of one end and 0.25 of the other, and grows with them. The implicit gradient is the reverse: it
# is $-1$ for the radius, and 0 for the ends, since the surface does not care where the search began.
#
# </details>
#
# ## Train
#
# The same images that ShapeClipper learns from, with their true viewpoints. Pretraining makes a ball for any code,
# which the first pictures do not show: the marcher that renders them learns to stride only afterwards, with all terms
# of Eq. 11 (the curves). An empty picture later on is a step at which the marcher had lost the surface. On the left
# below the curves is the goal, an image that is never trained on. Normals are not used here: their row of pictures is
# for you.

# %% tags=["train"] alt="Loss curves, and a held-out chair rendered at several steps"
if quick:
    shutil.rmtree(run / "training", ignore_errors=True)
total = chosen.training.pretrain_steps + chosen.training.steps
crossings = []


def watch(system, row):
    """Where the rays of this step met the surface."""
    if row["phase"] == "training":
        crossings.append({"step": row["step"], **system.crossings})


torch.manual_seed(seed)
board = LiveBoard(Snapshots(test.batch(torch.tensor([len(test) // 2])), every=total // 8))
system = make_system(chosen.system)
system = train(system, chosen.training, data, run / "training", listeners=(board, watch), accelerator=accelerator)
print(f"{total} steps")

# %% [markdown]
# ## Where are the surfaces?
#
# The paper assumes that the last interval holds the zero. That is what Eq. 7 trains for, but nothing enforces it. The
# released code bisects the last interval all the same and so returns a point where $f$ may be anything. Here the
# *first* interval that enters counts, a ray without one has no surface, and all kinds are counted, each step. (Many
# rays look past the object: the grey part is not an error.)
#
# **Predict.** Of the rays that find a surface after this training: do more find it in the last interval, or in an
# earlier one?

# %% tags=["crossings"] alt="Share of rays whose surface is in the last interval, in an earlier one, or nowhere, over training"
figure = nb10.crossings_figure(crossings)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# In an earlier one, by far, in the quick profile. To enter too soon costs little: Eq. 7's part for the earlier points
# has a weight of 0.1, and its curve above, *ray free*, is far below *ray last*. With bisection in the last interval
# these rays would end inside the object, or behind it.
#
# </details>
#
# ## What it learned
#
# Held-out chairs of models that were not trained on: image, rendering by marching, true and rendered normals, and the
# mesh from two sides that the image does not show.

# %% tags=["held-out"] alt="Held-out chairs: image, rendering, true and rendered normals, and the mesh from two sides"
best = (load_system(source, accelerator.device) if source else system).eval()
rows = torch.linspace(0, len(test) - 1, 6).long()[1:5]
held_out = test.batch(rows).to(accelerator.device)
shapes = best.reconstruct(held_out.rgb, held_out.viewpoint)
meshes = [shapes.mesh(resolution=64, index=i) for i in range(len(rows))]
figure = reconstruction_sheet(held_out, shapes.render(), shapes.viewpoint.rotation(), meshes)

# %% [markdown]
# ## Measured, and beside ShapeClipper
#
# Notebook 07's protocols on a few held-out images, coarsely, for what this notebook trained and for what comes with the
# course. **All of them are given the viewpoints**, SDF-SRN because it needs them, and that ShapeClipper because it was
# trained with them for this comparison: same images, same number of steps (ShapeClipper's later ones for colours change
# no shape), same backbone, same kind of schedule. What differs: ShapeClipper also sees normals and a neighbour's image
# and renders volumes; SDF-SRN sees silhouettes and colours.

# %% tags=["results"]
few = torch.linspace(0, len(test) - 1, 10 if quick else len(test)).round().long().tolist()
resolution, points = (48, 5_000) if quick else (100, 100_000)
settings = {"points": points, "rows": few, "seed": seed, "protocols": ("raw", "view")}
predict = system_predictor(system, resolution, colored=False)
measured = evaluate(predict, test, run=Run("sdf_srn, trained here", profile, total, seed), **settings)
for name in (shipped.name, f"shapeclipper-{dataset}-{category}-given"):
    if (WEIGHTS / name).is_dir():
        other = load_system(WEIGHTS / name, accelerator.device)
        predict = system_predictor(other, resolution, colored=False)
        measured += evaluate(predict, test, run=Run(name, "small", None, 0), **settings)
write_results(run / "results.json", measured)
print(f"{len(few)} held-out images, protocol view; 10 x Chamfer distance: less is better")
print(results_table(measured).round(3).to_string())

# %% [markdown]
# The same, as the command that made the checkpoints measured them: all held-out images, at full resolution. `raw` is
# SDF-SRN's own protocol on ShapeNet, in the canonical frame and at true size, with accuracy and coverage apart.

# %%
pairs = [WEIGHTS / name / "results.json" for name in (f"shapeclipper-{dataset}-{category}-given", shipped.name)]
full = [row for path in pairs if path.is_file() for row in read_results(path)]
wanted = ("chamfer_distance", "accuracy", "completeness", "f_score@0.05")
print(results_table(full, protocol="raw", metrics=wanted, intervals=True).to_string() if full else "no shipped results")
if not pairs[1].is_file():
    print("SDF-SRN's row is missing: lib/weights/sdf-srn-furniture-chair has not been made yet.")

# %% [markdown]
# ## Which part matters: Table 3
#
# Each row takes one thing away, with several seeds. The first table has the paper's numbers, on ShapeNet chairs after
# 200,000 steps of 16 images (10 x distance, smaller is better), and behind them ours of the profile *small*; the second
# has ours with their spread. Read accuracy and coverage together: a shape of which little is left can be accurate.
#
# Ours is a far smaller training on far fewer models: compare orders, not numbers, and look at the spread over seeds
# first (± is the standard deviation of the seeds' means). A difference is marked * where all seeds agree on its sign
# and its 95 % interval over test objects leaves out 0; without the mark, do not believe it.
#
# ```bash
# # 40 + 80 steps a cell
# python -m lib.course.experiment sdf-srn-table-3 --seeds 5 --steps 80 --pretrain-steps 40 \
#     --set rays=96 refine_steps=30 validate_every=40 --resolution 64 --points 20000
# ```
#
# **Predict.** Which row hurts most in the paper, and which in ours?

# %% tags=["ablations"] alt="Accuracy, coverage and Chamfer distance of each ablation, with the spread over seeds"
display(place_table("sdf_srn|Table 3"))
ablations = grid_results("sdf-srn-table-3")  # written by lib.course.experiment
display(comparison_table(ablations, "raw"))
figure = nb10.ablation_figure(ablations)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# In the paper importance weighting: without it coverage is 1.168 instead of 0.315. Binary occupancy is second. In ours
# it is binary occupancy: the best accuracy *and* by far the worst coverage, for little of the shape is left. With every
# seed it is worse than *full*. Importance weighting and the rendering loss we *cannot tell*. Without the positional
# encoding four seeds are worse by about 0.3, and the fifth is not, because with that seed *full* itself came out badly.
# Optimising the code at test time helps with every seed.
#
# But look at the shapes in `lib/results/sdf-srn-table-3.png` before you believe an order: after 40 + 80 steps *full* is a
# cloud of blobs and no row is a good chair yet. The table says what comes early, and the paper's what comes in the end.
#
# </details>
#
# ## Optimise the code at test time
#
# The last row of the table: with a known viewpoint the losses can be computed for a *new* image too. So descend on
# them, over the image's code alone, the network fixed. This does not cheat (no 3D is used), but it is only possible
# where the viewpoint is known.

# %%
steps = 40 if quick else 500
refined = best.refine(held_out, torch.Generator().manual_seed(seed), steps=steps, progress=True)
drawn = [(shape.render(image_size=64).mask > 0.5).float().flatten(1) for shape in (shapes, refined)]
before, after = (soft_iou(mask, held_out.mask.flatten(1)) for mask in drawn)
print("IoU of rendered and given silhouettes, before:", [round(v, 2) for v in before.tolist()])
print(f"                     after {steps:3} steps of Adam:", [round(v, 2) for v in after.tolist()])

# %% [markdown]
# ## What goes wrong
#
# - **No surface.** If all values stay positive, no ray hits, and the colour loss has nothing to colour. Eq. 7's
#   last-point term is what pulls a surface out, and the ball at the start gives it one to begin with. In the picture of
#   crossings all would be grey.
# - **A surface far behind the scene.** Eq. 7 asks for a negative value at the end of the march, wherever that is: with
#   two of three seeds our marcher ran away to a surface ten units behind the object, and the scene stayed empty.
#   *Ours*, in the recipes `sdf-srn-small` and `-quick` (`cube_weight`): objects are known to be in the unit cube, so no
#   marched point may be nearer to the surface than to the cube. The paper's recipes do without.
# - **Silhouettes without an outline.** An image that is all object, or none, has no $D$: such pixels have weight 0 in
#   Eq. 4 and no NaN leaves a loss; an object that touches the border is cut, and what is beyond the border is taken for
#   background unless the setting `beyond` is `"unknown"` (notebook 02). The training log counts all three:
#   `silhouettes_empty`, `silhouettes_full`, `silhouettes_cut`.
# - **The ray starts inside.** With a camera nearer than the recipe's, $z^{(0)}$ may be inside the object: such rays are
#   counted as "inside" and have no surface.
# - **Wrong viewpoints.** Everything above believes them. With viewpoints that are off by a few degrees bounds carve
#   into the object, the louder the nearer to its outline. ShapeClipper exists because they are usually not known at
#   all.

# %% [markdown]
# ## Exercises
#
# Write the formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### A written layer (medium, 15 minutes)
#
# From the codes of $B$ images, and the matrix $H$ that turns a code into $(1 + \text{inputs}) \cdot \text{outputs}$
# numbers, compute $y = b + A^\top x$ for some points of each image. What is written is read row by row: the bias of all
# outputs first, then a row for each input.
#
# <details><summary>Hint: all images have the same shape</summary>
#
# `codes @ writer.T` is one row for each image. Do not flatten the images into one another: a product of (B, P, inputs)
# with (B, inputs, outputs) is done image by image.
#
# </details>
#
# <details><summary>Hint: sizes do not match</summary>
#
# `unflatten(-1, (1 + inputs, -1))` makes a matrix of each row. Its row 0 is the bias; keep the axis with `[:, :1]`.
#
# </details>

# %% tags=["exercise"] slug="exercise-written-layer"
import torch


def my_written_layer(codes, writer, points):
    """For codes (B, C), writer ((1 + inputs) * outputs, C), points (B, P, inputs): (B, P, outputs)."""
    # BEGIN SOLUTION
    inputs = points.shape[-1]
    written = (codes @ writer.T).unflatten(-1, (1 + inputs, -1))  # (B, 1 + inputs, outputs)
    return written[:, :1] + points @ written[:, 1:]
    # END SOLUTION


# %% tags=["check"] slug="check-written-layer"
from support import check

check.written_layer(my_written_layer)

# %% [markdown]
# ### The signs along a ray (easy, 10 minutes)
#
# Write Eq. 7, the sum over all rays and points, for $f$ at the marched points.
#
# <details><summary>Hint: every ray ends in a wall</summary>
#
# $\alpha = 1$ at the last point only, and only for pixels inside the silhouette. Everywhere else $-1$.
#
# </details>
#
# <details><summary>Hint: the loss is 0 before anything is learned</summary>
#
# $\varepsilon$ is added inside the maximum, whatever $\alpha$ is: 0 would be fulfilled by $f = 0$ everywhere.
#
# </details>

# %% tags=["exercise"] slug="exercise-ray-loss"
import torch


def my_ray_loss(values, inside, margin):
    """Eq. 7 for f (rays, N + 1), pixels in the silhouette (rays,) and epsilon."""
    # BEGIN SOLUTION
    alpha = -torch.ones_like(values)
    alpha[inside, -1] = 1.0
    return (alpha * values + margin).clamp(min=0).sum()
    # END SOLUTION


# %% tags=["check"] slug="check-ray-loss"
from support import check

check.ray_loss(my_ray_loss)

# %% [markdown]
# ### How the surface moves (medium, 15 minutes)
#
# Give $dz^*/d\theta$ for rays with directions $d$, from $\partial f/\partial\theta$ and $\nabla f$ where they hit.
#
# <details><summary>Hint: a ball that grows moves away</summary>
#
# Differentiate $f(x(z^*)) = 0$ as a whole: both terms, with their signs.
#
# </details>
#
# <details><summary>Hint: only rays that hit head on are right</summary>
#
# $f$ changes along the ray by $\nabla f \cdot d$, not by $|\nabla f|$.
#
# </details>

# %% tags=["exercise"] slug="exercise-dz-dtheta"
import torch


def my_dz_dtheta(df_dtheta, gradient, direction):
    """For df/dtheta (N,), gradients of f (N, 3) and ray directions (N, 3): (N,)."""
    # BEGIN SOLUTION
    return -df_dtheta / (gradient * direction).sum(dim=-1)
    # END SOLUTION


# %% tags=["check"] slug="check-dz-dtheta"
from support import check

check.dz_dtheta(my_dz_dtheta)

# %% [markdown]
# ## Questions to try
#
# 1. *(5 min)* Why can an even march with $N$ steps miss a leg that sphere tracing finds with fewer evaluations, and why
#    can the learned marcher miss it too? *Hint: which of them sees the distance before it decides?*
# 2. *(10 min)* Train with `hit_gradient="unrolled"`:
#    `SDF_SRN_RECIPES["sdf-srn-quick"].changed(hit_gradient="unrolled")`. What happens to the coloured rows of the
#    board, and to the crossings?
# 3. *(10 min)* Set `sdf_weight=0.0`. The silhouette is still supervised by Eq. 7. What is lost? *Hint: look at the
#    meshes from the side, and at the space far from any marched point.*
# 4. *(15 min)* A sphere-traced renderer needs $f$ to be a distance. Plot $|\nabla f|$ along a ray of the chair
#    (`WrittenField.with_gradient`). Where is it not 1, and which term of the loss would you change?
# 5. *(10 min)* Train without the ball at the start: `SDF_SRN_RECIPES["sdf-srn-quick"].changed(pretrain_steps=0)`, with
#    three seeds. How many of them find a surface?
#
# ```bash
# # the real training, and a row of Table 3
# python -m lib.training sdf-srn-small --categories chair --run runs/sdf-srn
# python -m lib.training sdf-srn-small --categories chair --run runs/occupancy --set field=occupancy
# # the paper's settings: ShapeNet, one view of each of its models, photographs
# python -m lib.training sdf-srn --dataset SHAPENET --categories airplane --run runs/airplane
# python -m lib.training sdf-srn-single-view --dataset SHAPENET --categories chair --run runs/one
# python -m lib.training sdf-srn-pascal3d --dataset PASCAL3D --categories car --run runs/pascal
# ```

# %% tags=["nbval-check-output"]
finest = table[table["field"] == "sphere"].sort_values("evaluations").groupby("method").last()["median"]
by_name = {r["system"]: r["value"] for r in measured if (r["metric"], r["protocol"]) == ("chamfer_distance", "view")}
print("sphere: bisection makes the learned march exact to 0.001:", bool(finest["learned, 10 strides"] < 1e-3))
print(
    "sphere: volume rendering stays coarser than tracing:", bool(finest["volume rendering"] > finest["sphere tracing"])
)
print(f"{total} steps, and a shape for every image:", max(by_name.values()) < 1)
print("rays are counted without rest:", len({c["last"] + c["early"] + c["none"] for c in crossings}) == 1)
print("optimised codes explain the silhouettes at least as well:", bool(after.mean() > before.mean() - 0.02))

# %% [markdown] tags=["instructor"]
# ## For instructors: two times ninety minutes
#
# - first: 0-20 the parts, with the numbers of the toy cells; 20-40 the hypernetwork by hand, exercise *A written
#   layer*; 40-55 one ray, exercise *The signs along a ray*; 55-70 what a stride is worth: vote, then run; 70-90 the
#   gradient of a surface, exercise *How the surface moves*;
# - second: 0-30 training and crossings; 30-50 what it learned, beside ShapeClipper; 50-75 Table 3: vote, then run;
#   75-90 test-time optimisation.
#
# **Common mistakes**
#
# - One layer for the whole batch instead of one for each image.
# - alpha = 1 at all points of a pixel inside: then the camera is inside the object, too.
# - The minus sign; |grad f| instead of grad f . d.
# - Accuracy without coverage: an empty shape can be accurate.
#
# Timings of the cells are in the gallery that `make run` writes.
