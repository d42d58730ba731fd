# %% [markdown]
# # 00 · Start here: one photo in, a shape out
#
# You see a photograph of a chair and know how it goes on behind: four legs, a back of that thickness. The photo does
# not say so. You know chairs. This course builds a network that learns the same from single photographs: nobody gives
# it a 3D shape or says where the camera stood. What it is given with each photo is a mask of the object and a map of
# surface normals, as another network estimates them. The method is *ShapeClipper* (Huang et al., CVPR 2023), and you
# will have every formula of it in your hands.
#
# In this notebook you
#
# - turn a photo that the network has never seen into a textured mesh that you can rotate and download;
# - see how far it is from the truth, at its best and at its worst;
# - look through the data that comes with the course;
# - try it with a photo of your own.
#
# **Time**: under half a minute to run. Nothing is downloaded.

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

# %%
import time
from pathlib import Path

import pandas as pd
import torch
from IPython.display import FileLink

from lib.systems.checkpoints import load_system
from lib.data.loading import PreparedDataset
from lib.paths import NOTEBOOKS, WEIGHTS, prepared_folder, run_folder
from lib.training.__main__ import choose_device

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
# On the left the photo, then our mesh as the network believes the photo sees it, then the true shape. The last two are
# turned to the side that the photo hides: nothing there was seen, all of it is knowledge of chairs.

# %% tags=["key-figure"] alt="A photo of a chair, the predicted mesh and the true one, from two sides"
from lib.evaluation import Prediction
from lib.figures.results import case_sheet, make_case

prediction = Prediction(mesh, shape.viewpoint.rotation()[0].double().cpu().numpy(), given is not None)
true = chairs.mesh(row)
figure = case_sheet([make_case("held out", chairs.rgb[row], prediction, true, chairs.viewpoint[row])])

# %% [markdown]
# Now turn them yourself, with the mouse. (Where no scripts run, the pictures from several sides below stand in.)

# %%
from lib.figures.shapes import mesh_sheet, turnable

sides = [float(view.angles()[0][0].rad2deg()) for view in (shape.viewpoint, chairs.viewpoint[row])]
turnable({"predicted": mesh, "true": true}, azimuths=sides)

# %% tags=["sides"] alt="The predicted and the true mesh from four sides"
figure = mesh_sheet({"predicted": mesh, "true": true}, azimuths=(30, 120, 210, 300))

# %% [markdown]
# Take it with you: GLB opens in Blender, in most 3D viewers and in many browsers.

# %%
import os

from lib.data.photos import write_glb

glb = write_glb(mesh, run / "shape.glb")
FileLink(os.path.relpath(glb, NOTEBOOKS))

# %% [markdown]
# ## How far from the truth?
#
# Draw points on both surfaces and measure from each point to the nearest of the other surface. The mean over both
# directions is the *Chamfer distance*. Before that both are turned into their cameras' axes, centred, and scaled to
# the same size in the image: a wrong viewpoint counts as a wrong shape. Papers print ten times the value, and so do
# we: 0.5 means that surfaces are on average a twentieth of the object's size apart.

# %%
from lib.geometry.alignment import Clouds, aligned_chamfer_distance
from lib.geometry.meshes import sample_surface

views = (prediction.rotation, chairs.viewpoint[row].rotation()[0].double().numpy())
clouds = Clouds(sample_surface(mesh, 20_000, seed), sample_surface(true, 20_000, seed + 1), *views)
print(f"10 x Chamfer distance of this chair: {10 * aligned_chamfer_distance(clouds):.2f}")

# %% [markdown]
# One example proves nothing, least of all one chosen by us. So we measure a spread of held-out images, quickly here
# and all of them in the full profile. For the checkpoint that comes with the course, the table adds what the command
# that made it measured: every held-out image, at full resolution.

# %% tags=["results"]
from lib.evaluation import (
    Run,
    evaluate_instances,
    read_instances,
    read_results,
    results_table,
    summarize,
    system_predictor,
    write_results,
)

count, resolution = (12, 48) if profile == "quick" else (len(chairs), 100)
rows = torch.linspace(0, len(chairs) - 1, count).round().long().tolist()
begin = time.perf_counter()
options = {"protocols": ("view",), "points": 10_000, "seed": seed, "progress": False}
predict = system_predictor(system, resolution, colored=False)
instances = evaluate_instances(predict, chairs, rows=rows, **options)
about = Run("shapeclipper" + (" (true view)" if given is not None else ""), profile)
results = summarize(instances, chairs, about, seed=seed, seconds=time.perf_counter() - begin)
write_results(run / "results.json", results)
stored = read_results(source / "results.json") if (source / "results.json").is_file() else []
print(results_table(results + stored).round(3).to_string())

# %% [markdown]
# Here are the best, the middle and the worst of them all. The number is ten times the Chamfer distance.

# %% tags=["extremes"] alt="The best, the median and the worst prediction of all held-out images beside the truth"
from lib.evaluation import system_predictor
from lib.figures.results import ranked_rows

whole = read_instances(source / "instances.parquet") if (source / "instances.parquet").is_file() else instances
order = ranked_rows(whole, chairs) or ranked_rows(instances, chairs)  # rows of the dataset, best first
predict, cases = system_predictor(system, 64), []
for name, (k, distance) in {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}.items():
    made = predict(chairs.batch(torch.tensor([k])))[0]
    title = f"{name}: {10 * distance:.2f}"
    cases.append(make_case(title, chairs.rgb[k], made, chairs.mesh(k), chairs.viewpoint[k]))
figure = case_sheet(cases)

# %% [markdown]
# ## Look around it
#
# The network stores no triangles: it is a function, and volume rendering shows it from anywhere. Move the camera,
# choose another image.

# %% tags=["viewer"] alt="A predicted chair, rendered from a chosen azimuth and elevation"
from lib.figures.viewer import controlled, dropdown, slider
from support.nb00 import prediction_viewer

redraw = controlled(
    prediction_viewer(system, chairs),
    row=dropdown("image", [(chairs.metadata["id"][k], k) for k in rows], rows[len(rows) // 2]),
    azimuth=slider("azimuth", 40, -180, 180, 10, "°"),
    elevation=slider("elevation", 20, -10, 80, 5, "°"),
)

# %% [markdown]
# ## Your own photo
#
# Give a photo whose background is transparent (an RGBA image), or any photo together with a mask, white where the
# object is. It is cropped as the training images were: a square 1.2 times the mask's larger side. Use the parameters
# `photo` and `photo_mask`, or upload here. The network knows only the category that it was trained on: it will find a
# chair in anything.

# %% tags=["photo"] alt="A photo and the predicted mesh from several sides"
from lib.data.photos import read_photo
from lib.figures.upload import photo_figure, upload_control

size = chairs.rgb.shape[1]
if photo:
    images, title = read_photo(photo, photo_mask, size), "your photo"
else:
    images, title = chairs.batch(torch.tensor([rows[1]])).rgb, "no photo given: a held-out image"
figure = photo_figure(system, images, title)

# %%
reconstruct = upload_control(system, run, size)

# %% [markdown]
# ## The data
#
# Furniture that designers modelled for *Sweet Home 3D*, rendered with textures and light at 64 x 64 pixels. Models are
# stretched and recoloured, and each instance that results is rendered once: 37 models of chairs give 518 training
# images. Training, validation and test never share a model. A collection of photographs would have neither true
# viewpoints nor meshes; they are there to study and to measure with. The true *normals* take part in the training of the
# course's checkpoints, and viewpoints are guessed from them (notebook 06). With photographs a network estimates normals,
# and they are worse.

# %% tags=["data"] alt="Samples with image, mask, normals, viewpoint and caption, and who made the object"
from support.nb00 import sample_page

creators = pd.read_csv(data.prepared.folder / "ATTRIBUTION.csv").set_index("model")
makers = {model: f"{c['name']} by {c.creator}, {c.licence}" for model, c in creators.iterrows()}
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
# - Next is **01**: do photos that look alike show shapes that are alike?
# - The paper: Huang, Jampani, Thai, Li, Stojanov, Rehg, *ShapeClipper: Scalable 3D Shape Learning from Single-View
#   Images via Geometric and CLIP-based Consistency*, CVPR 2023.
# - `README.md` says how to use your own data and how to cite.

# %% [markdown] tags=["instructor"]
# ## For instructors: ninety minutes
#
# - 0-15 the picture and the mesh: let everybody turn the chair to its hidden side first, and say what was invented;
# - 15-35 best, median, worst: collect guesses of the number before the table is run;
# - 35-60 own photos (bring cut-outs with alpha; five of people, five of chairs);
# - 60-90 what is given in training, and what is not: masks, normals, no viewpoints.
#
# **Common mistakes**
#
# - "It has seen this chair." It has not: models do not cross splits. Ask how one would check.
# - "The normals are free." Somebody trained the network that estimates them, with 3D data.
#
# Timings of the cells are in the gallery that `make run` writes.
