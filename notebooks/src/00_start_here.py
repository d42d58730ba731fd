# %% [markdown]
# # 00 · Start here: one photo in, a shape out
#
# You see a photograph of a chair and know how it goes on behind: four legs, a back of that thickness. The photo does
# not say so. You know chairs. This course builds a network that learns the same from single photographs: nobody gives
# it a 3D shape or says where the camera stood. What it is given with each photo is a mask of the object and a map of
# surface normals, as another network estimates them. The method is *ShapeClipper* (Huang et al., CVPR 2023), and you
# will have every formula of it in your hands.
#
# You need Python, and a little of `torch` or `numpy`: arrays, and what an axis is. After this notebook you can
#
# - turn a photo that the network has never seen into a textured mesh that you can rotate and download;
# - say how far a mesh is from the truth, at its best and at its worst, in a number whose meaning you know;
# - prepare a photo of your own as the training images were prepared, and try it;
# - read a viewpoint in the data, and say where the camera stood.
#
# **Time**: half a minute to run, about fifteen minutes to read, half an hour for the three exercises. Nothing is
# downloaded.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: how many held-out images are measured, and how finely
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # what the checkpoint was trained on
checkpoint: str = ""  # folder of a checkpoint; empty: the one that comes with the course
photo: str = ""  # your own photo: an RGBA image, or any image together with photo_mask
photo_mask: str = ""  # its mask: white object on black, of the same size
run_dir: str = ""  # where to write; empty: runs/<profile>/00_start_here
seed: int = 0  # of the points drawn for measuring
device: str = "auto"  # auto | cpu | cuda

# %% tags=["imports"] slug="imports"
import os
import time
from pathlib import Path

import numpy as np
import torch
from IPython.display import FileLink

from lib.data.images import crop_to_mask, on_white
from lib.data.loading import PreparedDataset
from lib.data.photos import read_photo, write_glb
from lib.evaluation import (
    Prediction,
    Run,
    evaluate_instances,
    read_instances,
    read_results,
    results_table,
    summarize,
    system_predictor,
    write_results,
)
from lib.figures.results import case_sheet, make_case, ranked_rows
from lib.figures.shapes import mesh_sheet, turnable
from lib.figures.upload import photo_figure, upload_control
from lib.figures.viewer import controlled, dropdown, slider
from lib.geometry.alignment import Clouds, aligned_chamfer_distance
from lib.geometry.cameras import Viewpoint
from lib.geometry.meshes import sample_surface
from lib.geometry.metrics import chamfer_distance, nearest_distances
from lib.paths import WEIGHTS, prepared_folder, run_folder
from lib.systems.checkpoints import load_system
from lib.training.__main__ import choose_device
from support.nb00 import example_upload, prediction_viewer, read_makers, sample_page

# %%
run = run_folder("00_start_here", profile, run_dir)
source = Path(checkpoint) if checkpoint else WEIGHTS / f"shapeclipper-{dataset}-{category}"
data = PreparedDataset(prepared_folder(dataset, data_root), "test")
chairs = PreparedDataset(prepared_folder(dataset, data_root), "test", [category])
place = choose_device(device).device

# %% [markdown]
# ## One photo in, a shape out
#
# The photo below is *held out*: neither it nor any other picture of this model was used for training. The network
# reads two short lists of 64 numbers from it, one for the shape and one for the colours, and guesses the viewpoint. A
# small function, conditioned on the shape's numbers, then gives for any point of space its distance to the surface.
# Where that distance is zero, there is the surface; marching cubes turns it into triangles.

# %%
row = len(chairs) // 2
begin = time.perf_counter()
system = load_system(source, place)
batch = chairs.batch(torch.tensor([row])).to(place)
given = batch.viewpoint if system.needs_viewpoint else None
shape = system.reconstruct(batch.rgb, given)
mesh = shape.mesh(resolution=100)
seconds = time.perf_counter() - begin
print(f"{len(mesh.vertices):,} vertices, {len(mesh.faces):,} faces in {seconds:.1f} s, checkpoint loaded included")

# %% [markdown]
# Next come the photo, our mesh as the network believes the photo sees it, and the true shape. Then both are turned by
# 120°, towards the side that the photo hides: what was not seen is knowledge of chairs.
#
# **Predict.** The photo shows an armchair on thin steel legs. Which of its parts will the mesh have: the seat, the
# back, the arm rests, the legs, the green?

# %% tags=["key-figure"] alt="A photo of a chair, the predicted mesh and the true one, from two sides"
prediction = Prediction(mesh, shape.viewpoint.rotation()[0].double().cpu().numpy(), given is not None)
true = chairs.mesh(row)
figure = case_sheet([make_case("held out", chairs.rgb[row], prediction, true, chairs.viewpoint[row])])

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Seat, back and the green are there. The arm rests have sunk into the body, and the legs are gone: in the photo they
# are one or two pixels wide. The back is wider than the true one. Turned, the mesh is whole, and looks as sure of
# itself as from the photo's side: nothing says where seeing ends and guessing begins.
#
# </details>
#
# Now turn them yourself, with the mouse. (Where no scripts run, the pictures from several sides below stand in. Both
# meshes begin at the photo's side.)

# %%
sides = [float(view.angles()[0][0].rad2deg()) for view in (shape.viewpoint, chairs.viewpoint[row])]
turnable({"predicted": mesh, "true": true}, azimuths=sides)

# %% tags=["sides"] alt="The predicted and the true mesh from four sides"
figure = mesh_sheet({"predicted": mesh, "true": true}, starts=sides)

# %% [markdown]
# Take it with you: GLB opens in Blender, in most 3D viewers and in many browsers.

# %%
glb = write_glb(mesh, run / "shape.glb")
FileLink(os.path.relpath(glb))

# %% [markdown]
# ## How far from the truth?
#
# Draw points $P$ and $Q$ on both surfaces and measure from each point to the nearest of the other surface. The mean
# over both directions is the *Chamfer distance*:
#
# $$CD(P, Q) = \tfrac12 \, \underset{p \in P}{\mathrm{mean}} \, \min_{q \in Q} \|p - q\|
#   + \tfrac12 \, \underset{q \in Q}{\mathrm{mean}} \, \min_{p \in P} \|q - p\|$$
#
# Two points against two, on a line, so that you can check it by hand:

# %% slug="chamfer-by-hand"
P, Q = np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([[0.0, 0, 0], [3, 0, 0]])
from_P = (0 + 1) / 2  # 0 lies on a point of Q; from 1 it is 1 to the point 0
from_Q = (0 + 2) / 2  # 0 lies on a point of P; from 3 it is 2 to the point 1
by_hand = from_P / 2 + from_Q / 2
print("Chamfer distance by hand:", by_hand)
assert by_hand == chamfer_distance(*nearest_distances(P, Q))

# %% [markdown]
# Before shapes are compared, both are turned into their cameras' axes, centred, and scaled to the same size in the
# image: a wrong viewpoint counts as a wrong shape. Papers print ten times the value, and so do we: 0.5 means that
# surfaces are on average a twentieth of the object's size apart.

# %%
views = (prediction.rotation, chairs.viewpoint[row].rotation()[0].double().numpy())
clouds = Clouds(sample_surface(mesh, 20_000, seed), sample_surface(true, 20_000, seed + 1), *views)
print(f"10 x Chamfer distance of this chair: {10 * aligned_chamfer_distance(clouds):.2f}")

# %% [markdown]
# One example proves nothing, least of all one chosen by us. So we measure a spread of held-out images, quickly here
# and all of them in the full profile. For the checkpoint that comes with the course, the table adds what the command
# that made it measured: every held-out image, at full resolution.

# %% tags=["results"]
count, resolution = (12, 48) if profile == "quick" else (len(chairs), 100)
rows = torch.linspace(0, len(chairs) - 1, count).round().long().tolist()
begin = time.perf_counter()
options = {"protocols": ("view",), "points": 10_000, "seed": seed}
predict = system_predictor(system, resolution, colored=False)
instances = evaluate_instances(predict, chairs, rows=rows, **options)
about = Run("shapeclipper" + (" (true view)" if given is not None else ""), profile)
results = summarize(instances, chairs, about, seed=seed, seconds=time.perf_counter() - begin)
write_results(run / "results.json", results)
stored = read_results(source / "results.json") if (source / "results.json").is_file() else []
print(results_table(results + stored).round(3).to_string())

# %% [markdown]
# Here are the best, the middle and the worst of all held-out images. The number is ten times the Chamfer distance.
#
# **Predict.** The mean is in the table's last line. How far are the best and the worst from it? Write down two numbers,
# and what kind of chair the worst will be.

# %% tags=["extremes"] alt="The best, the median and the worst prediction of all held-out images beside the truth"
whole = read_instances(source / "instances.parquet") if (source / "instances.parquet").is_file() else instances
order = ranked_rows(whole, chairs) or ranked_rows(instances, chairs)  # rows of the dataset, best first
predict, cases = system_predictor(system, 64), []
for name, (k, distance) in {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}.items():
    made = predict(chairs.batch(torch.tensor([k])))[0]
    title = f"{name}: {10 * distance:.2f}"
    cases.append(make_case(title, chairs.rgb[k], made, chairs.mesh(k), chairs.viewpoint[k]))
figure = case_sheet(cases)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The best has 0.26, the worst 1.19: more than four times as far. The best is a plain chair on four straight legs. The
# worst is an office chair: a thin seat on one column, with a star of five feet. The network answers with a block on
# short legs, and nearly the whole lower half is wrong. The mean tells you neither.
#
# </details>

# %% [markdown]
# ## Look around it
#
# The network stores no triangles: it is a function, and volume rendering shows it from anywhere. Move the camera,
# choose another image.

# %% tags=["viewer"] alt="A predicted chair, rendered from a chosen azimuth and elevation"
redraw = controlled(
    prediction_viewer(system, chairs),
    row=dropdown("image", [(chairs.metadata["id"][k], k) for k in rows], rows[len(rows) // 2]),
    azimuth=slider("azimuth", 40, -180, 180, 10, "°"),
    elevation=slider("elevation", 20, -10, 80, 5, "°"),
)

# %% [markdown]
# ## Your own photo
#
# Training images show the object on white, in the middle, at one size. A photo of your own is brought into that form in
# two steps. The first needs a *mask*: it says of each pixel which share $a \in [0, 1]$ of it the object covers. With
# the colour $c$, and white being 1,
#
# $$c_{white} = a \, c + (1 - a)$$
#
# The second step is a square crop. Let columns $x_0$ to $x_1$ and rows $y_0$ to $y_1$ hold all pixels with
# $a \ge \tfrac12$; $x_1$ and $y_1$ are the first numbers *after* them. With the margin $m = 1.2$ the crop has
#
# $$side = \lceil m \, \max(x_1 - x_0, \; y_1 - y_0) \rceil, \qquad left = \frac{x_0 + x_1 - side}{2}, \qquad
# top = \frac{y_0 + y_1 - side}{2}$$
#
# so crop and object have one centre. What lies beyond the photo's border becomes white. With numbers, where colours and
# opacities are bytes, 0 to 255:

# %% slug="preparing-by-hand"
c, a = 100 / 255, 51 / 255  # a dark pixel; the object covers a fifth of it
print("on white:", round(255 * (a * c + (1 - a))))  # 0.2 x 100 + 0.8 x 255
assert on_white(np.uint8([[[100] * 3]]), np.uint8([[51]])).ravel().tolist() == [224] * 3

pixels, opacity = np.full((12, 12, 3), 100, np.uint8), np.zeros((12, 12), np.uint8)
opacity[3:9, 4:6] = 255  # 6 rows, 2 columns
left, top, side = (4 + 6 - 8) // 2, (3 + 9 - 8) // 2, 8  # 1.2 x 6 = 7.2, rounded up
print("left, top, side:", left, top, side)
cut = on_white(pixels, opacity)[top : top + side, left : left + side]
assert np.array_equal(cut, crop_to_mask(pixels, opacity, size=side)[0])

# %% [markdown]
# Give a photo whose background is transparent (an RGBA image), or any photo together with a mask, white where the
# object is. Use the parameters `photo` and `photo_mask`, or the buttons below. If a photo comes without a mask, the
# buttons offer you the mask of a network that finds objects in photos (U-2-Net, its small version, shipped with the
# course). Look at it before you use it. The example is a held-out picture from our own data: a render on white, not a
# photograph.
#
# Without a photo of yours, the next picture shows a lamp. The network was trained on chairs, and on nothing else.
#
# **Predict.** What will it make of a desk lamp?

# %% tags=["photo"] alt="A photo, a lamp if none is given, and the predicted mesh from several sides"
size = chairs.rgb.shape[1]
others = [*np.flatnonzero(data.metadata["category"] == "lamp"), 0]  # the first lamp; without lamps, the first image
if photo:
    images, title = read_photo(photo, photo_mask, size), "your photo"
else:
    images, title = data.batch(torch.tensor([others[0]])).rgb, "held out: " + data.metadata["category"][others[0]]
figure = photo_figure(system, images, title)

# %%
makers = read_makers(data.prepared.folder)
example = example_upload(chairs, rows[0], makers.get(chairs.metadata["model"][rows[0]], ""))
reconstruct = upload_control(system, run, size, example)

# %% [markdown]
# <details><summary>What came out of the lamp, and why</summary>
#
# A bar stool: the shade became a round seat with a back, and the column and its foot stayed. The network cannot say
# "this is not a chair". Whatever 64 numbers it reads, they stand for something like a chair, and no number tells you
# how little it fits the photo. Question 3 has more of this.
#
# </details>

# %% [markdown]
# ## The data
#
# Furniture that designers modelled for *Sweet Home 3D*, rendered with textures and light at 64 x 64 pixels. Models are
# stretched and recoloured, and each instance that results is rendered once: 37 models of chairs give 518 training
# images. Training, validation and test never share a model. A collection of photographs would have neither true
# viewpoints nor meshes; they are there to study and to measure with. The true *normals* take part in the training of
# the course's checkpoints, and viewpoints are guessed from them (notebook 06). With photographs a network estimates
# normals, and they are worse.
#
# A *viewpoint* is two angles. The object is in the middle, z is up, and its front looks along +y. A camera with azimuth
# $\gamma$ and elevation $\theta$, at distance $d$, stands at
#
# $$d \, \big({-\sin\gamma \cos\theta}, \;\; \cos\gamma \cos\theta, \;\; \sin\theta\big)$$
#
# At azimuth 0 it looks into the object's face, and it walks round counter-clockwise, as seen from above. For 30 degrees
# of both, where $\sin = 0.5$ and $\cos = 0.866$, at distance 5:

# %% slug="camera-by-hand"
camera = torch.tensor([5 * -0.5 * 0.866, 5 * 0.866 * 0.866, 5 * 0.5])
print("the camera stands at", [round(x, 2) for x in camera.tolist()])
angle = torch.tensor([30.0]).deg2rad()
view = Viewpoint.from_angles(angle, angle, distance=5.0)
assert torch.allclose(-5 * view.rotation()[0, 2], camera, atol=1e-3)  # row 2 is where the camera looks

# %% [markdown]
# In the dials below the triangle is the object, seen from above, its front at the top.

# %% tags=["data"] alt="Samples with image, mask, normals, viewpoint and caption, and who made the object"
redraw = controlled(
    lambda kind, page: sample_page(data, kind, page, makers=makers),
    kind=dropdown("category", sorted(set(data.metadata["category"])), category),
    page=slider("page", 1, 1, 15, 1),
)

# %% [markdown]
# ## What it cannot do
#
# - The furniture is synthetic: clean masks, exact normals, light without shadows of other things. Photographs are
#   harder, and the paper's numbers are for photographs. Ours and the paper's cannot be ranked against each other.
# - At 64 x 64 pixels a chair's leg is two pixels wide. Thin parts come out thick, melt together, or are missing.
# - The shape's 64 numbers hold what chairs have in common. An unusual one is pulled towards the usual: look at the
#   worst case above again.
# - Front and back of the canonical frame are the network's own choice. Nobody told it where the front of a chair is.
#
# ## Exercises
#
# Write three formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### On white (easy, 5 minutes)
#
# Put colours on a white background. Colours and opacities are numbers in $[0, 1]$.
#
# <details><summary>Hint: torch complains about sizes, or colours come out striped</summary>
#
# Colours have three axes, opacities two. `opacity[..., None]` has a third one, of length 1.
#
# </details>
#
# <details><summary>Hint: the object is right, the background is black</summary>
#
# The share $1 - a$ of each pixel is white, and white is 1.
#
# </details>

# %% tags=["exercise"] slug="exercise-on-white"
import torch


def my_on_white(colours, opacity):
    """Colours (H, W, 3) on white, for opacities (H, W); all in [0, 1]."""
    # BEGIN SOLUTION
    a = opacity[..., None]
    return a * colours + (1 - a)
    # END SOLUTION


# %% tags=["check"] slug="check-on-white"
from support import check

check.on_white(my_on_white)

# %% [markdown]
# ### The crop (medium, 15 minutes)
#
# Give left, top and side of the square crop around a mask. A pixel belongs to the object if its opacity is at least
# 0.5. In the check, halves do not occur.
#
# <details><summary>Hint: the side is a pixel too small</summary>
#
# Rows 10 to 27 are 18 rows: add 1 to the last one before you subtract. And round up, not down.
#
# </details>
#
# <details><summary>Hint: left and top are exchanged</summary>
#
# `mask.nonzero(as_tuple=True)` gives rows first, that is $y$.
#
# </details>

# %% tags=["exercise"] slug="exercise-crop-square"
import math

import torch


def my_crop(mask, margin):
    """(left, top, side) in whole pixels, for a mask (H, W) in [0, 1]."""
    # BEGIN SOLUTION
    rows, columns = (mask >= 0.5).nonzero(as_tuple=True)
    x0, x1 = int(columns.min()), int(columns.max()) + 1
    y0, y1 = int(rows.min()), int(rows.max()) + 1
    side = math.ceil(margin * max(x1 - x0, y1 - y0))
    return (x0 + x1 - side) // 2, (y0 + y1 - side) // 2, side
    # END SOLUTION


# %% tags=["check"] slug="check-crop-square"
from support import check

check.crop_square(my_crop)

# %% [markdown]
# ### Where the camera stands (easy, 10 minutes)
#
# Give the position of each camera. Angles are in radians.
#
# <details><summary>Hint: the camera walks round the wrong way</summary>
#
# At azimuth 90 degrees it stands at $-x$. The first coordinate has a minus.
#
# </details>
#
# <details><summary>Hint: a raised camera is too far away</summary>
#
# All positions lie on one sphere. What the camera gains in $z$ it loses in $x$ and $y$: both have the factor
# $\cos\theta$.
#
# </details>

# %% tags=["exercise"] slug="exercise-camera-position"
import torch


def my_camera(azimuth, elevation, distance):
    """Positions (N, 3) of cameras with azimuths (N,) and elevations (N,)."""
    # BEGIN SOLUTION
    x = -azimuth.sin() * elevation.cos()
    y = azimuth.cos() * elevation.cos()
    return distance * torch.stack([x, y, elevation.sin()], dim=-1)
    # END SOLUTION


# %% tags=["check"] slug="check-camera-position"
from support import check

check.camera_position(my_camera)

# %% [markdown]
# ## The course
#
# | notebook | part of the paper | you will |
# |---|---|---|
# | **00** start here | Fig. 1 | see what comes out |
# | **01** CLIP neighbours | Fig. 2 | test whether photos that look alike show shapes that are alike |
# | **02** distance-transform bounds | SDF-SRN, Eq. 1-4 | learn what one silhouette proves about a shape |
# | **03** volume rendering | Sec. 3.1 | turn a distance field into an image, and see where it blurs |
# | **04** semantic consistency | Sec. 3.2, Eq. 3 and 6 | let one shape explain another object's photo |
# | **05** normal loss | Sec. 3.3, Eq. 4 | drop outliers, and let normals teach the viewpoint |
# | **06** train | Sec. 3.4, Eq. 5-7 | grow chairs from a ball in a minute |
# | **07** evaluate | Sec. 4, Eq. 8, Tables 2-4 | measure, and distrust measurements |
# | **08** experiment cell | Tables 2 and 3 | train one cell of a table of ablations |
# | **10** SDF-SRN | SDF-SRN, whole | let one network write another, and march along rays |
#
# Numbers without a name are of ShapeClipper's paper. The other three papers of the course follow.
#
# ## Questions to try
#
# 1. Turn a predicted chair to the side that its photo hides. Which parts were invented well, which badly?
# 2. Find an image whose mesh looks right from the photo's side and is wrong from every other. How can that be?
# 3. Give it a photo of a table, or of yourself. What does "it knows chairs" mean?
# 4. Load the example, and compare the network's mask with the true one in the data. Where do they differ?

# %% tags=["nbval-check-output"]
models = {split: set(data.prepared.metadata.query("split == @split")["model"]) for split in ("train", "val", "test")}
shared = models["train"] & models["test"] | models["train"] & models["val"] | models["val"] & models["test"]
print("models that two splits share:", len(shared))
print("the held-out image became a surface:", len(mesh.faces) > 0)
empty = int(instances.query("metric == 'empty'")["value"].sum())
print(f"images measured here: {len(rows)}, without a surface: {empty}; images ranked: {len(order)}")

# %% [markdown]
# ## Where to read on
#
# - Next is **01**, `01_clip_neighbors.ipynb`: do photos that look alike show shapes that are alike?
# - The paper: Huang, Jampani, Thai, Li, Stojanov, Rehg, *ShapeClipper: Scalable 3D Shape Learning from Single-View
#   Images via Geometric and CLIP-based Consistency*, CVPR 2023.
# - `README.md` says how to use your own data and how to cite.

# %% [markdown] tags=["instructor"]
# ## For instructors: ninety minutes
#
# - 0-15 the picture and the mesh: let everybody turn the chair to its hidden side first, and say what was invented;
# - 15-30 best, median, worst: collect guesses of the numbers before the figure is drawn;
# - 30-50 own photos, with and without masks (bring five of people, five of chairs); exercise *On white* (5 minutes);
# - 50-75 exercises *The crop* (15 minutes) and *Where the camera stands* (10 minutes);
# - 75-90 what is given in training, and what is not: masks, normals, no viewpoints.
#
# **Common mistakes**
#
# - "It has seen this chair." It has not: models do not cross splits. Ask how one would check.
# - "The normals are free." Somebody trained the network that estimates them, with 3D data.
# - Rows and columns: a mask's first axis is $y$. The crop of a tall chair comes out mirrored at the diagonal.
# - Degrees where radians are needed: the sine of 90 is 0.89 then, not 1.
#
# Timings of the cells are in the gallery that `make run` writes.
