# %% [markdown]
# # 08 · One cell of an experiment
#
# A table of ablations has a row for each thing that was taken away, and an honest one has several seeds for each row.
# This notebook is *one* cell of such a table: it trains one recipe with one seed and some changed settings, measures
# the result on held-out objects, and writes down every number. papermill runs it once for each cell; you can run it for
# one.
#
# You will understand
#
# - what belongs to a cell, so that two cells differ in only one thing;
# - why a cell can be stopped at any time, and why a finished one is never run twice;
# - how many cells become a table with a spread and a test: `make experiment NAME=tables-2-3 SEEDS=3`.
#
# **Time**: ten minutes to read. The cells take about half a minute in the quick profile, which trains far too briefly to
# say anything about the method. There are no exercises: papermill runs this notebook, and a stub would stop it.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: a dozen held-out images, coarsely, or the whole test split at full resolution
recipe: str = "quick"  # what is trained, a name of lib/training/recipes.py
row: str = "full"  # the cell's row in the table
changes: dict = {"steps": 50, "pretrain_steps": 20}  # settings of the recipe that this cell changes
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # what is learned and measured; empty: every category
run_dir: str = ""  # where to write; empty: runs/<profile>/08_experiment_cell, emptied first in the quick profile
resolution: int = 0  # of the grid that meshes are taken from; 0: the profile's (48 or 100)
points: int = 0  # drawn from each surface to compare two; 0: the profile's (5,000 or 100,000)
refine_from: str = ""  # folder of a finished cell: train nothing, optimise its code for each image (SDF-SRN's Table 3)
seed: int = 0  # of the first weights and of everything drawn
device: str = "auto"  # auto | cpu | cuda

# %% tags=["imports"] slug="imports"
import math
import shutil
import time
from pathlib import Path

import pandas as pd
import torch

from lib.course.grids import find_recipe, size_of
from lib.data.loading import PreparedDataset
from lib.evaluation import (
    Run,
    evaluate_instances,
    refined_predictor,
    results_table,
    summarize,
    system_predictor,
    write_instances,
    write_results,
)
from lib.evaluation.comparison import compare_rows, comparison_table
from lib.figures.experiments import instance_rows
from lib.figures.results import case_sheet
from lib.figures.training import loss_figure
from lib.paths import prepared_folder, run_folder
from lib.systems import make_system
from lib.systems.checkpoints import load_system
from lib.training.__main__ import choose_device, only_category, validation_images
from lib.training.log import read_log
from lib.training.loop import train
from support.nb08 import cases_of

# %%
torch.set_flush_denormal(True)  # densities far from a thin surface are tiny, and slow to compute with
run = run_folder("08_experiment_cell", profile, run_dir)
if not run_dir and profile == "quick":
    shutil.rmtree(run)
folder, categories = prepared_folder(dataset, data_root), [category] if category else None
chosen = find_recipe(recipe).for_category(only_category(folder, categories)).changed(**{**changes, "seed": seed})
data = PreparedDataset(folder, "train", categories, chosen.views)
test = PreparedDataset(folder, "test", categories)
validation = validation_images(folder, categories)
print(f"{recipe}, row '{row}', seed {seed}: {changes or 'nothing'} changed; {len(data)} training images")

# %% [markdown]
# ## Train
#
# The seed fixes the first weights, the order of the images and every random draw, and each row gets the same seeds. Still a
# row differs from the full method in more than its switch: a term that is taken away draws nothing, so all later draws of
# a step are others. That is noise, and one reason why a row needs several seeds. Training goes on where the run folder
# stopped, and refuses a folder of another configuration. It keeps the weights that explain the validation *images* best, or the last
# ones where a dataset has no validation images; no true shape takes part in the choice.
#
# One row of SDF-SRN's Table 3, "w/ test-time optimization", trains nothing. It takes the full method's networks, and
# before it measures a held-out image it descends on the training's losses over that image's code (notebook `10`).
#
# **Predict.** The quick cell trains 20 + 50 steps. Which loss will fall most, in proportion: colour, mask or normals?

# %% tags=["train"]
accelerator = choose_device(device, chosen.training.mixed_precision)
torch.manual_seed(seed)
if refine_from:
    system = load_system(refine_from, str(accelerator.device))
else:
    system = make_system(chosen.system)
    system = train(system, chosen.training, data, run, validation=validation, accelerator=accelerator)
log = read_log(Path(refine_from or run) / "log.jsonl")

# %% tags=["curves"] alt="Weighted losses over the steps of this cell's training, one panel a term"
figure = loss_figure(log)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The normals, by almost half: a ball that flattens at the top and at the back has most of a chair's normals. The masks
# hardly fall, for what is missing in them are legs and gaps. The eikonal loss rises first: a ball's field is exact, and
# bending it costs.
#
# </details>
#
# ## Measure
#
# Every held-out image is measured, with the same points drawn from its surfaces in every cell. Numbers are kept image by
# image (`instances.parquet`): two rows are compared on the same images, which tells small differences from chance where
# two means cannot.

# %% tags=["measure"]
quick = profile == "quick"
count, usual_resolution, usual_points = (12, 48, 5_000) if quick else (len(test), 100, 100_000)
resolution = resolution or usual_resolution
rows = torch.linspace(0, len(test) - 1, min(count, len(test))).round().long().tolist()
options = {"protocols": ("raw", "view"), "points": points or usual_points, "rows": rows}
steps = chosen.system.refine_steps if refine_from else None
measured = system_predictor(system, resolution, colored=False)
if refine_from:
    measured = refined_predictor(system, resolution, steps, seed, colored=False)
start = time.perf_counter()
instances = evaluate_instances(measured, test, progress=False, **options)
about = Run(f"{recipe}: {row}", size_of(recipe, profile), chosen.training.pretrain_steps + chosen.training.steps, seed)
results = summarize(instances, test, about, seconds=time.perf_counter() - start)
write_instances(run / "instances.parquet", instances.assign(row=row, seed=seed))

# %% [markdown]
# ## Look
#
# The same few images for every row and every seed: to choose them afterwards would be to choose the story.
#
# **Predict.** Four held-out chairs after so short a training: will the shapes differ from each other?

# %% tags=["key-figure"] alt="The same four held-out objects in every cell: photo, prediction and truth from two sides"
fine = 48 if quick else 80
predict = refined_predictor(system, fine, steps, seed) if refine_from else system_predictor(system, fine)
figure = case_sheet(cases_of(predict, test, instance_rows(len(test))))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Hardly. All have a seat and a back, none has legs or a gap, and widths differ a little. Such a training first learns
# what all chairs share. Whether a row of the table would matter later, it cannot say.
#
# </details>
#
# ## From cells to a table
#
# Say $d_{i,s}$ is the distance measured for image $i$ with seed $s$, and $d'_{i,s}$ that of another row. The table shows
# three things about the two rows:
#
# - the *spread* over seeds: the standard deviation of the seeds' means;
# - the *difference*, paired by image and seed, and its interval over objects (notebook `01`):
#
# $$\bar\Delta = \frac{1}{IS} \sum_{i,s} \big(d'_{i,s} - d_{i,s}\big)$$
#
# - a *star* where that interval leaves out 0 **and** every seed's own difference has the same sign.
#
# Four images, of the models a, a, b and b, with two seeds. The two rows' means differ by 0.10. The means of the first
# row's two seeds differ by more: 0.15. (The table below shows lengths times ten.)
#
# **Predict.** Does the second row earn a star?

# %% slug="star-by-hand"
first = {0: [0.5, 0.7, 1.0, 0.8], 1: [0.6, 0.8, 1.2, 1.0]}  # seed -> distance of each image
other = {0: [0.6, 0.8, 1.2, 1.0], 1: [0.6, 0.9, 1.2, 1.1]}
spread = ((0.75 - 0.825) ** 2 + (0.90 - 0.825) ** 2) ** 0.5  # seeds' means 0.75 and 0.90; divided by 2 seeds - 1
by_seed = [(0.1 + 0.1 + 0.2 + 0.2) / 4, (0.0 + 0.1 + 0.0 + 0.1) / 4]  # 0.15, 0.05
by_model = [(0.1 + 0.1 + 0.0 + 0.1) / 4, (0.2 + 0.2 + 0.0 + 0.1) / 4]  # a 0.075, b 0.125: any draw of them is > 0
difference = sum(by_seed) / 2  # 0.1

kept = [
    {"row": name, "seed": s, "id": i, "category": "chair", "model": "aabb"[i], "protocol": "view", "value": distance}
    for name, distances in (("first", first), ("other", other))
    for s, values in distances.items()
    for i, distance in enumerate(values)
]
toy = pd.DataFrame(kept).assign(metric="chamfer_distance")
compared = compare_rows(toy, {name: {"system": name} for name in ("first", "other")}, "first")
by_code = {(one["system"], one["metric"]): one for one in compared}
assert math.isclose(by_code["first", "chamfer_distance_spread"]["value"], spread)
assert math.isclose(by_code["other", "chamfer_distance_difference"]["value"], difference)
assert by_code["other", "chamfer_distance_difference"]["low"] >= min(by_model) - 1e-9  # if only a is drawn
assert by_code["other", "chamfer_distance_agreeing"]["value"] == 2
display(comparison_table(compared, "view"))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# It does. One image is harder than another in both rows, and one seed worse than the other in both; the pairing takes
# that away, and what is left has one sign. Had seed 1 said -0.05, there would be no star, however narrow the interval:
# then the sign depends on the draw of a training.
#
# </details>
#
# ## Write down
#
# `results.json` is written last. If it exists, the cell is finished and the experiment skips it. If not, the cell runs
# again, and its training goes on from the last saved step.
#
# ```bash
# make experiment NAME=tables-2-3 SEEDS=3                         # ShapeClipper's Tables 2 and 3, 12 cells
# python -m lib.course.experiment sdf-srn-table-3 --seeds 3       # SDF-SRN's Table 3, 18 cells; see --help
# # ShapeClipper's Table 3 begins with weights from ShapeNet; --keep copies a whole table to where the ledger looks:
# python -m lib.course.experiment tables-2-3 --recipe paper --dataset PASCAL3D --category all --start SHAPENET_RUN --keep
# papermill notebooks/08_experiment_cell.ipynb out.ipynb --cwd notebooks -p row "w/o SSC" \
#   -y '{changes: {semantic_weight: 0.0}, recipe: small-given, profile: full, run_dir: /somewhere}'
# ```

# %% tags=["results"]
print(results_table(results, protocol=None).round(3).to_string())

# %% tags=["nbval-check-output"]
write_results(run / "results.json", results)
losses = [sum(r[k] for k in ("rgb", "mask") if k in r) for r in log if r["phase"] == "training"]
print(f"{chosen.training.pretrain_steps} + {chosen.training.steps} steps, {len(rows)} images measured")
print("losses of image and mask fell:", losses[-1] < losses[0])
print("finished:", sorted(p.name for p in run.iterdir() if p.suffix in (".json", ".jsonl", ".parquet")))

# %% [markdown] tags=["instructor"]
# ## For instructors: thirty minutes
#
# - one cell live; then a table over seeds from `lib/results`, and what a star means.
#
# **Common mistakes**
#
# - One seed is taken for a result.
#
# Timings of the cells are in the gallery that `make run` writes.
