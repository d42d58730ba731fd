# %% [markdown]
# # 02 · A silhouette is full of distances
#
# A mask seems to say yes or no to each pixel and nothing more. But a pixel ten pixels away from the silhouette knows
# that *nothing* is within ten pixels of it: its whole neighbourhood is empty, and so is a cone in space. SDF-SRN turns
# that into a lower bound on the signed distance, at every depth, from one picture.
#
# **You need** the distance between two points, a little PyTorch, and to know that a signed distance is negative inside.
#
# **Afterwards you can**
#
# - write the distance transform, the bound and its loss in a few lines each, also at the principal point, where the
#   paper's formula divides by 0;
# - point at the places where the bound is the whole truth, and where it says little;
# - say what 1, 2, 4, 8 views prove together, and why that is the visual hull and no more;
# - explain why distances teach a network where yes and no do not reach;
# - name the real masks that break the bound, and what repairs it.
#
# **Time**: about twenty-five minutes to read, and thirty-five for the three exercises. On two idle CPU cores all cells
# together take about a minute.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: size of the grids and length of the fits
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
model: str = "scopia-armchair"  # which object is carved
silhouette_file: str = ""  # a silhouette of your own: an image with alpha, or black and white; empty: none
run_dir: str = ""  # where results go; empty: runs/<profile>/02_distance_transform_bounds
seed: int = 0  # of the fits
device: str = "cpu"  # cpu: nothing large is trained here

# %% tags=["imports"] slug="imports"
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from tqdm.auto import tqdm

from lib.data.prepared import load_mesh, read_prepared
from lib.data.silhouette_files import read_silhouette
from lib.errors import InputError
from lib.evaluation import write_results
from lib.evaluation.studies import study_row
from lib.fields.sdf import SDFField
from lib.figures.source import show_source
from lib.figures.viewer import values_of
from lib.geometry.distance_grid import distance_grid
from lib.geometry.distance_transform import distance_transform, sdf_lower_bound
from lib.geometry.meshes import grid_points, marching_cubes
from lib.losses.silhouette import importance_weight, sdf_bound_loss
from lib.paths import prepared_folder, run_folder
from support import nb02

# %%
begin = time.perf_counter()
run = run_folder("02_distance_transform_bounds", profile, run_dir)
scene = nb02.scene_of("chair of boxes", "perspective")
parallel = nb02.scene_of("chair of boxes", "parallel rays")

# %% [markdown]
# ## The picture first
#
# Left: a silhouette, and around it each pixel's distance $D$ to it. The red circle has radius $D$: no pixel within it
# shows the object. Middle: the rays through that circle form a cone of free space (orange). Pick a depth on the
# middle ray; the largest ball about that point that stays in the cone (red) cannot touch the object, *whatever* the
# object is. Right: its radius $b$ over the depth, below the true distance $f$.

# %% tags=["key-figure"] alt="A chair's silhouette with its distance transform, the cone of free space with a ball in it, and the bound below the true distance along the ray"
figure = nb02.bound_figure(scene, 16, 22, 1.8)

# %% [markdown]
# ## Make a silhouette
#
# Paint on one or erase from it; "keep this touch" leaves the brush's mark and lets you go on. Or load your own, here
# or with the parameter `silhouette_file`: an image whose background is transparent, or a black and white one. The
# object is what the alpha channel says; without one, brightness decides, and the border is background. A single
# painted pixel far away darkens half the picture: $D$ is a minimum, so one wrong pixel speaks for all its
# surroundings. Remember that for the end.

# %% tags=["control"] alt="A painted or loaded silhouette, its distance transform and the importance weight"
given = None
if silhouette_file:
    given, source = read_silhouette(silhouette_file)
    print(f"{silhouette_file}: the silhouette was read from its {source}.")
easel = nb02.Easel(given)
redraw_paint = easel.show(run)

# %% [markdown]
# ## The formula, and the code that is the formula
#
# The distance transform is a minimum over the silhouette's pixels $p$; call the silhouette $S$:
#
# $$D(u) = \min_{p \in S} \lVert u - p \rVert$$
#
# With $\bar u = (u, 1)$ the bound is the distance from $z\bar u$ to the nearest ray of the cone:
#
# $$b(z; u)^2 = \min_{v,\, z' \ge 0} \lVert z\bar u - z'\bar v \rVert^2
# \quad\text{subject to}\quad \lVert v - u \rVert = D(u) . \qquad \text{(Eq. 3)}$$
#
# The paper proves that this ray passes through $v = (1 + D/|u|)\,u$, the circle's point *farthest from the principal
# point*:
#
# $$b(z; u) = z\,\Big\| \bar u - \tfrac{\bar v^\top \bar u}{\bar v^\top \bar v}\,\bar v \Big\| .
# \qquad \text{(Eq. 1-2)}$$
#
# Here is why. The distance from a point to a line is $z\,|\bar u \times \bar v| / |\bar v|$. For
# $v = u + D(\cos t, \sin t)$, with $t$ measured from the direction of $u$,
#
# $$b_t^2 = z^2 D^2\, \frac{1 + |u|^2 \sin^2 t}{1 + |u|^2 + 2 |u| D \cos t + D^2} .$$
#
# At $t = 0$ the numerator is smallest **and** the denominator largest, so no second-order argument is needed, and
#
# $$b(z; u) = \frac{z D}{\sqrt{1 + (|u| + D)^2}} .$$
#
# No division by $|u|$ is left: at the principal point the limit is $zD/\sqrt{1+D^2}$. With parallel rays the cone is a
# cylinder and $b = D$. Our tests search Eq. 3's minimum over circle and depth for 100,000 circles and find this value.
# Check one by hand: a pixel 0.6 to the right of the principal point, at depth 2, and a silhouette of two points.

# %%
u, z = torch.tensor([0.6, 0.0]), 2.0
silhouette = torch.tensor([[0.75, 0.0], [0.6, 0.4]])
D = (silhouette - u).norm(dim=-1).min()  # 0.15 and 0.4 away: the nearest counts
b = z * D / (1 + (u.norm() + D) ** 2).sqrt()  # 2 · 0.15 / 1.25 = 0.24
t = torch.linspace(0, 2 * torch.pi, 3601)
v = torch.stack([u[0] + D * t.cos(), D * t.sin(), torch.ones_like(t)], dim=-1)  # all rays of the cone
to_rays = torch.linalg.cross(z * torch.tensor([[0.6, 0.0, 1.0]]), v).norm(dim=-1) / v.norm(dim=-1)
assert torch.isclose(b, torch.tensor(0.24)) and torch.isclose(b, to_rays.min())  # Eq. 3
assert torch.isclose(b, sdf_lower_bound(u, D, z))
assert torch.equal(distance_transform(torch.tensor([[0, 0, 1], [0, 0, 0]]))[1], torch.tensor([5.0, 2.0, 1.0]).sqrt())

# %% [markdown]
# A field $f$ that is below the bound is charged for what is missing. The loss runs over the pixels $u$ outside the
# silhouette, at random depths $\tilde z$. The weight $w(u) = 1/D(u)$ is largest beside the outline:
#
# $$\mathcal L_{SDF} = \frac{\sum_u w(u) \sum_{\tilde z} \max\big(0,\; b(\tilde z; u) - f(\tilde z\bar u)\big)}
# {\sum_u w(u)} \qquad \text{(Eq. 4)}$$
#
# Two pixels, two depths each:

# %%
f = torch.tensor([[0.1, 0.5], [0.3, 0.3]])
b = torch.tensor([[0.4, 0.4], [0.5, 0.2]])
D = torch.tensor([0.5, 0.25])
w = 1 / D  # 2 and 4
missing = (b - f).clamp(min=0).sum(dim=1)  # 0.3 + 0 and 0.2 + 0
loss = (w * missing).sum() / w.sum()  # (2 · 0.3 + 4 · 0.2) / 6 = 7/30
assert torch.isclose(loss, torch.tensor(7 / 30)) and torch.isclose(loss, sdf_bound_loss(f[None], b[None], D[None]))

# %%
show_source(sdf_lower_bound, importance_weight, sdf_bound_loss)

# %% [markdown]
# Eq. 1 as printed also subtracts nearly equal numbers. In 32 bits, for $D$ = 0.001:

# %%
u = torch.tensor([[0.0, 0.0], [1e-6, 0.0], [0.1, 0.1], [1.0, 1.0]])
for dtype in (torch.float32, torch.float64):
    point, D = u.to(dtype), 1e-3
    v = (1 + D / point.norm(dim=-1, keepdim=True)) * point
    a, c = (torch.cat([x, torch.ones_like(x[:, :1])], -1) for x in (point, v))
    printed = (a - (a * c).sum(-1, keepdim=True) / (c * c).sum(-1, keepdim=True) * c).norm(dim=-1)
    ours = sdf_lower_bound(point, D, 1.0)
    print(f"{str(dtype)[6:]}: Eq. 1 {printed.numpy()}, ours {ours.numpy()}")

# %% [markdown]
# ## Drag a pixel and a depth
#
# Move the pixel outwards: the ball grows. Move the depth: in perspective the ball grows with $z$. Change to parallel
# rays: the ball keeps its size. Look through the hole of the ring, at the principal point.
#
# Choose "your silhouette", which follows what you paint or load above. If it was loaded, nobody knows the object: it
# is somewhere between the blue rays, and the bound holds for all that fit there. Or start from the chair, erase its
# back, and put the pixel there: $b$ rises above $f$, for the proof believes the silhouette.

# %% tags=["control"] alt="The cone, its ball and the bound for a chosen scene, camera, pixel and depth"
column, row = 27, 50
if given is not None:  # a background pixel that is neither near the silhouette nor far
    D = easel.scene().distance
    from_median = torch.where(given, torch.inf, (D - D[~given].median()).abs())
    row, column = divmod(int(from_median.argmin()), len(D))
chosen = nb02.bound_controls(column, row, 1.6, scene="chair of boxes" if given is None else nb02.OWN)
redraw_bound = nb02.bound_explorer(easel, chosen)

# %% [markdown]
# The same to turn with the mouse, for what is chosen above when the cell is run (readers without scripts have the
# figure):

# %%
nb02.draw_chosen(nb02.turned_cone, easel, **values_of(chosen))

# %% [markdown]
# ## Where the bound is the whole truth
#
# Below is $f - b$ on one row of the picture over depth; within the red lines the bound is within 0.02 of the truth.
#
# **Predict.** For a pixel outside, at which depths is the bound near the truth: in front of the object, beside it, or
# behind it? And for which camera in more places: perspective, or parallel rays?

# %% tags=["gap"] alt="Gap between distance and bound over pixel and depth, in perspective and for parallel rays"
figure = nb02.gap_figure({"perspective": scene, "parallel rays": parallel}, 40)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Beside it. The bound is tight where the ball touches the object: near the depth of the part whose outline is nearest.
# Seat and legs stand at different depths, hence several islands. Before and behind the object the gap grows: a
# silhouette has no opinion on depth.
#
# Parallel rays are tight in more places, and for the whole width beside the chair. In perspective the ball is stopped
# by the *far* side of the cone, away from the principal point, so the bound touches only if the object is on that side.
#
# </details>
#
# ## One view, two, four, eight
#
# Each view $k$ gives every point $x$ of space a bound, and all of them hold, so the largest counts:
#
# $$b(x) = \max_k\, b_k(x)$$
#
# What is left where all views are silent is the **visual hull**: the most that silhouettes can know, without the hollow
# of the seat. The bound is positive exactly outside the hull, but it is not the distance to the hull. That is larger,
# because the nearest place of the hull may be one that no single view's ball touches.
#
# **Predict.** How much of the hull of eight views is armchair (its IoU with the armchair): 0.4, 0.7 or 0.95?

# %% slug="one-view-two-four-eight-measured"
prepared = read_prepared(prepared_folder(dataset, data_root))
named = prepared.metadata[prepared.metadata["model"] == model]
if len(named) == 0:
    raise InputError(f"model: {prepared.folder} has no {model!r}; take one of its metadata's column 'model'")
mesh = load_mesh(prepared, named.iloc[0])
grid = distance_grid(mesh, resolution=64 if profile == "quick" else 80, samples=30_000)  # the true distance
truth, points = grid.values, torch.from_numpy(grid_points(len(grid.values), grid.bound))

sides = ((30, 15), (120, 15), (75, 50), (165, 50), (210, -20), (300, -20), (345, 50), (30, 80))  # azimuth, elevation
proved, inside = [], []  # by each view: the bound at the points, and whether they are in its silhouette
for side in tqdm(sides, unit="view"):
    view = nb02.bound_scene(nb02.Solid(mesh, None), nb02.near_camera(*side, focal=0.8), size=128)
    bound, seen_inside = nb02.bounds_at(view, points)
    proved.append(bound.reshape(truth.shape))
    inside.append(seen_inside.reshape(truth.shape))

# %% tags=["carving"] alt="What 1, 2, 4 and 8 views leave of space, the true chair, and mean bounds over the number of views"
outside, carved, volumes = truth >= 0, [], []
for count in (1, 2, 4, 8):
    bound = torch.stack(proved[:count]).amax(0)
    hull = torch.stack(inside[:count]).all(0)
    to_hull = torch.from_numpy(distance_transform_edt(~hull.numpy(), grid.spacing))
    volumes.append(bound.numpy() - 0.006)
    row = {
        "views": count,
        "iou": (hull & ~outside).sum() / (hull | ~outside).sum(),
        "bound": bound[outside].mean(),
        "hull": to_hull[outside].mean(),
        "truth": truth[outside].mean(),
        "broken": (bound > truth + 1e-3)[outside].float().mean(),
    }
    carved.append({name: value if name == "views" else float(value) for name, value in row.items()})
figures = nb02.carving_figures(carved, [*volumes, truth.numpy()], grid.bound)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# About 0.4: even eight views leave more than twice the volume of this armchair. The grid is not the reason: with 40, 64
# and 80 samples an axis the value stays between 0.40 and 0.42. The reason is the hollow between seat, back and arms.
# Most views look across it, see an arm behind it, and can prove nothing.
#
# </details>
#
# ## Distances against yes and no
#
# Now learning. Let the field be a ball where a chair should be. Which pixels pull at it? With yes and no (occupancy
# $\sigma(-f/t)$ and cross-entropy, as rivals train), a point pulls only if the field calls it full, or nearly. With
# Eq. 4 each point pulls whose $f$ is below $b$: also points *outside* the ball, whose value is merely too small.
# The weight $1/D$ makes the outline the loudest (colours are the square root of the gradient's share).


# %% tags=["gradients"] alt="Gradient of each outside pixel under distance and occupancy supervision"
def outside_loss(kind, f, bound, D, weighted=True, width=0.02):
    """Of f at depths along rays that miss the object (rays, depths): Eq. 4, or -log(1 - occupancy)."""
    if kind == "distance":
        return sdf_bound_loss(f[None], bound[None], D[None], weighted) / f.shape[-1]
    return F.softplus(-f / width).mean()


depths, free = torch.linspace(1.2, 2.4, 24), ~scene.mask
now, pulls = nb02.ball(0.45).distance(scene.points(depths)), {}
for kind in ("distance", "occupancy"):
    f = now.clone().requires_grad_()
    outside_loss(kind, f[free], scene.bound(depths)[free], scene.distance[free]).backward()
    pulls[kind] = f.grad.abs().sum(-1)
figure = nb02.gradient_maps(scene, (now < 0).any(-1).float(), pulls)

# %% [markdown]
# ## Fit one field to one silhouette
#
# Now a race: the same small network, from the same ball, with the same few steps, the same optimiser and the same
# weight for outside and inside, where both only ask for a hit somewhere along the ray. Neither side gets importance
# weights, a margin or an eikonal term. The judge is one that neither trains on: how well the silhouettes of field and
# image overlap (IoU). The occupancy's width $t$ is 0.05; we also tried 0.02 and 0.1, which were no better.
#
# **Predict.** Which is ahead after 25 steps, and after 75? And do the two shapes look right from beside?

# %% slug="fit-measured"
steps = 75 if profile == "quick" else 400
code = torch.zeros(1, 1)


@torch.no_grad()
def values(field, points):
    """The field at points of any shape."""
    return field(points.reshape(1, -1, 3), code)[0].reshape(points.shape[:-1])


def overlap(field):
    """IoU of the field's silhouette with the given one, at every second pixel."""
    hit, target = values(field, scene.points(scene.depths(24))[::2, ::2]).amin(-1) < 0, scene.mask[::2, ::2]
    return float((hit & target).sum() / (hit | target).sum())


# %% slug="fit-one-field"
def fit(kind, seed, rays=256, samples=6):
    """A fitted field, and its overlap at every 25th step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    field, overlaps = SDFField(code_size=1, radius=0.4), []
    optimizer = torch.optim.Adam(field.parameters(), lr=3e-3)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    mask, D = scene.mask.flatten(), scene.distance.flatten()
    chance = mask / mask.sum() + ~mask / (~mask).sum()  # half of the rays inside
    for step in tqdm(range(steps + 1), kind, unit="step"):
        if step % 25 == 0:
            overlaps.append(overlap(field))
        index = torch.multinomial(chance, rays, generator=generator)
        depths = 1.2 + 1.2 * (torch.arange(samples) + torch.rand(samples, generator=generator)) / samples
        points = scene.points(depths).flatten(0, 1)[index]  # (rays, samples, 3)
        f = field(points.reshape(1, -1, 3), code)[0].reshape(rays, samples)
        bound, hits = scene.bound(depths).flatten(0, 1)[index], mask[index]
        deepest = f[hits].amin(-1)  # must be inside somewhere along the ray
        inside = F.relu(deepest) if kind == "distance" else F.softplus(deepest / 0.05)
        loss = outside_loss(kind, f[~hits], bound[~hits], D[index][~hits], False, 0.05) + inside.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
    return field, overlaps


# %% tags=["fit"] alt="Overlap of the silhouettes while fitting, and the two fitted shapes from the camera and from beside"
def shape(field):
    """Its surface as a mesh."""
    return marching_cubes(lambda points: values(field, torch.from_numpy(points)).numpy(), resolution=44)


fields, overlaps, at_the_end = {}, {}, {}
for kind in ("distance", "occupancy"):
    fields[kind], overlaps[kind] = fit(kind, seed)
    at_the_end[kind] = [overlaps[kind][-1], fit(kind, seed + 1)[1][-1]]
    print(f"{kind:9} overlap of the silhouettes with two seeds:", [round(one, 2) for one in at_the_end[kind]])
shapes = {kind: shape(field) for kind, field in fields.items()}
figures = nb02.fit_figures(shapes, overlaps, every=25)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The distance, at both steps and with both seeds, though the second seed's lead is small. Points outside the ball pull
# too, as the map above shows, so more of space hears of the silhouette in the same few steps. Two seeds are few, and
# the paper's Table 3 compares the two after far longer training.
#
# From beside both are guesses. Neither field is the true distance: the bound is only from below, and one view leaves
# the depth open.
#
# </details>
#
# ## What goes wrong
#
# The proof assumes the *true* distance to the *true* silhouette. Masks are not that.
#
# - **Pixels.** The transform measures to a pixel's centre, but the object fills the pixel. Taking off half a pixel (as
#   the released code does) leaves broken bounds at corners. Half a diagonal leaves those where a thin part fell between
#   two centres. The rest shrinks with the pixel.
# - **Dust**: a few pixels far from the object that do not belong to it.
# - **Holes** and a **tight outline**: pixels of the object that are called background.
# - **Crops.** Beyond the picture there may be more object. To call it background is one choice. The other is
#   `beyond="unknown"`: no distance is larger than that to the border.
#
# **Predict.** Which breaks the bound most: dust, pinholes, one hole in the seat, an outline that is a pixel too tight,
# or a crop? Which only makes it weak?


# %% slug="what-goes-wrong-measured"
def verdict(scene):
    """How often and by how much b is larger than f, over free pixels and depths; and mean b over mean f."""
    depths, free = scene.depths(24), ~scene.mask
    bound, truth = scene.bound(depths)[free], scene.truth(depths)[free]
    excess = bound - truth
    found = {"broken": (excess > 1e-4).float().mean(), "worst": excess.max().clamp(min=0)}
    found["strength"] = bound.mean() / truth.clamp(min=0).mean()
    return {name: float(value) for name, value in found.items()}


def cropped(columns, beyond):
    """The scene when only the first columns of its picture are left; bounds are 0 in the others."""
    part = distance_transform(scene.mask[:, :columns], "pixels", beyond, margin=0.5**0.5)
    distance = torch.zeros_like(scene.distance)
    distance[:, :columns] = part / (len(scene.mask) * scene.viewpoint.focal)
    return replace(scene, distance=distance)


# %% tags=["failures"] alt="Worst broken bounds over the resolution, and what dust, holes, tight outlines and crops do"
solid, view, mask = scene.solid, scene.viewpoint, scene.mask
draw = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))
depth_inside = distance_transform(~mask)  # pixels from the outline
middle = torch.tensor(divmod(int(depth_inside.argmax()), len(mask)))
away = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"), -1) - middle
masks = {
    "as it is": mask,
    "dust: 0.2 % of the background": mask | (draw < 0.002),
    "pinholes: 2 % of the object": mask & (draw > 0.02),
    "a hole in the seat": mask & (away.float().norm(dim=-1) > 64 / 14),
    "outline 1 pixel too tight": depth_inside > 1.5,
}
spoiled = {name: verdict(nb02.bound_scene(solid, view, mask=wrong)) for name, wrong in masks.items()}
for beyond in ("background", "unknown"):
    spoiled[f"cropped, beyond is {beyond}"] = verdict(cropped(22, beyond))
margins = {"nothing": 0.0, "half a pixel": 0.5, "half a diagonal": 0.5**0.5}
by_pixels = {
    (size, name): verdict(nb02.bound_scene(solid, view, size, margin=margin))
    for size in (16, 32, 64, 128)
    for name, margin in margins.items()
}
figure = nb02.failure_figure({case: found["worst"] for case, found in by_pixels.items()}, spoiled)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The crop, by far: whole parts of the chair are outside the picture, and the bound forbids them. The hole in the seat
# is next. Both claim free space where there is object, and Eq. 4 then carves into it, with the largest weight beside
# the wrong outline. Pinholes and the tight outline do the same by little more than a pixel. Dust breaks nothing: it
# only makes the bound weaker. `beyond="unknown"` mends the crop, and pays with the weakest bound of all.
#
# </details>
#
# And the corner cases of a data set: an empty silhouette has infinite $D$ and proves that nothing is in front of the
# camera ($b = z$); a full one proves nothing. Both have weight 0 in Eq. 4, so that no NaN leaves the loss;
# `lib.geometry.distance_transform.count_unusable` counts them, and a training of SDF-SRN writes the counts into its
# log. Where crops cut objects, train with `--set beyond=unknown`.

# %% [markdown]
# ## Exercises
#
# Write the formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### The distance transform (easy, 10 minutes)
#
# Give $D(u)$ in pixels for every pixel of a small silhouette. All pairs may be compared: the exact transform in linear
# time is another paper's (below).
#
# <details><summary>Hint: distances grow inside the object, and are 0 outside</summary>
#
# $p$ runs over the pixels where the silhouette is True. They are 0 away from themselves.
#
# </details>
#
# <details><summary>Hint: contours of D are squares or diamonds, not round</summary>
#
# Pythagoras: the root of the sum of squared offsets in rows and columns. `torch.cdist` does it for all pairs.
#
# </details>

# %% tags=["exercise"] slug="exercise-distance-transform"
import torch


def my_distance_transform(silhouette):
    """Pixels from every pixel to the nearest of a silhouette (H, W), True on the object: (H, W)."""
    # BEGIN SOLUTION
    everywhere = torch.ones_like(silhouette).nonzero().float()  # (H W, 2): row and column of each pixel
    object_pixels = silhouette.nonzero().float()
    return torch.cdist(everywhere, object_pixels).amin(dim=1).reshape(silhouette.shape)
    # END SOLUTION


# %% tags=["check"] slug="check-distance-transform"
from support import check

check.distance_transform(my_distance_transform)

# %% [markdown]
# ### The bound (medium, 15 minutes)
#
# Give $b(z; u)$ for pixels $u$ on the plane at focal length 1, their distances $D$ in the same unit, and depths $z$.
#
# <details><summary>Hint: NaN at the principal point</summary>
#
# Eq. 1 divides by $|u|$. The closed form does not: which term of $b_t^2$ is smallest, and which largest, at $t = 0$?
#
# </details>
#
# <details><summary>Hint: the bound is too large</summary>
#
# $zD$ is the distance to the circle at depth $z$. The ray through its farthest point comes nearer than that before
# depth $z$.
#
# </details>

# %% tags=["exercise"] slug="exercise-sdf-lower-bound"
import torch


def my_bound(u, D, z):
    """Bounds (N,) for pixels u (N, 2), distances D (N,) and depths z (N,)."""
    # BEGIN SOLUTION
    return z * D / (1 + (u.norm(dim=-1) + D) ** 2).sqrt()
    # END SOLUTION


# %% tags=["check"] slug="check-sdf-lower-bound"
from support import check

check.sdf_lower_bound(my_bound)

# %% [markdown]
# ### The loss (medium, 10 minutes)
#
# Write Eq. 4 for $f$ and $b$ at some depths of some pixels. $D$ is 0 for pixels inside the silhouette.
#
# <details><summary>Hint: the loss is infinite</summary>
#
# A pixel of the silhouette has $D = 0$ and no weight. `torch.where` still divides by 0 unless $D$ is replaced first.
#
# </details>
#
# <details><summary>Hint: the loss does not depend on the number of depths</summary>
#
# Eq. 4 has a sum over depths inside the weighted mean over pixels.
#
# </details>

# %% tags=["exercise"] slug="exercise-bound-loss"
import torch


def my_bound_loss(f, b, D):
    """Eq. 4 for f and b (pixels, depths) and distances D (pixels,)."""
    # BEGIN SOLUTION
    weight = torch.where(D > 0, 1 / torch.where(D > 0, D, 1.0), 0.0)
    missing = (b - f).clamp(min=0).sum(dim=-1)
    return (weight * missing).sum() / weight.sum()
    # END SOLUTION


# %% tags=["check"] slug="check-bound-loss"
from support import check

check.bound_loss(my_bound_loss)

# %% [markdown]
# ## Questions
#
# 1. Prove that the ball of radius $b$ never reaches behind the camera. (Compare $b$ with $z$ as $D \to \infty$.)
# 2. For which object and which pixel is the perspective bound tight at *every* depth? (Think of a plane.)
# 3. Why does the paper ask for $z \ge 1$, and where does the proof use it?
# 4. Write the *upper* bound that the silhouette's inside gives: along its rays some point has $f \le 0$. What is the
#    most that $f$ can be at another point of that ray?

# %% tags=["results"]
about = {"n": truth.numel(), "dataset": prepared.info["name"], "profile": profile}
write_results(
    run / "results.json",
    [
        study_row(f"{row['views']} views", "known views, exact silhouettes", name, row[name], unit, **about)
        for row in carved
        for name, unit in (("iou", "1"), ("bound", "world unit"), ("hull", "world unit"), ("broken", "1"))
    ]
    + [
        study_row(
            name, "distances of a chair of boxes", "worst", found["worst"], "world unit", n=64**2, profile=profile
        )
        for name, found in spoiled.items()
    ],
)
print("views  IoU of hull and shape   mean bound   to hull   to shape")
for row in carved:
    print(f"{row['views']:5}  {row['iou']:.3f} {row['bound']:23.3f} {row['hull']:9.3f} {row['truth']:10.3f}")
print(f"{time.perf_counter() - begin:.0f} s for this notebook")

# %% tags=["nbval-check-output"]
print(f"at the principal point, D = 0.75, z = 2: b = {float(sdf_lower_bound(torch.zeros(2), 0.75, 2.0)):.3f}")
print("distance in a picture of one pixel:", distance_transform(torch.eye(3) * torch.tensor([1, 0, 0])).tolist()[0])
print("more views, closer to the shape:", sorted(carved, key=lambda row: row["iou"]) == carved)
print("bound below hull's distance below shape's:", all(r["bound"] < r["hull"] < r["truth"] for r in carved))
finest = by_pixels[128, "half a diagonal"]
print(f"128 pixels, half a diagonal off: broken at under 0.1 % of the points: {finest['broken'] < 1e-3}")
crops = [spoiled[f"cropped, beyond is {beyond}"]["worst"] for beyond in ("background", "unknown")]
print("a crop breaks the bound, the repair mends it:", crops[0] > 0.1 > 0.02 > crops[1])
means = {kind: sum(both) / 2 for kind, both in at_the_end.items()}
print("after so few steps the distance loss is ahead:", means["distance"] > means["occupancy"])

# %% [markdown]
# ## Where to read on
#
# - Lin, Wang, Lucey, *SDF-SRN*, 2020, Sec. 3.1 and its supplement: the proposition and its proof.
# - Laurentini, *The visual hull concept for silhouette-based image understanding*, 1994: what silhouettes cannot know.
# - Felzenszwalb, Huttenlocher, *Distance transforms of sampled functions*, 2012: the exact transform in linear time.
# - Notebook **10** trains SDF-SRN with this loss; **03** shows what a renderer makes of a distance.

# %% [markdown] tags=["instructor"]
# ## For instructors: ninety minutes
#
# - 0-20 paint a silhouette, exercise *The distance transform*; 20-45 derive the bound on the board, exercise *The
#   bound*;
# - 45-60 exercise *The loss*; 60-75 eight views and the race: vote before each is run;
# - 75-90 which masks break the proof: vote, then run.
#
# **Common mistakes**
#
# - The distance transform of the outside instead of the object: it is 0 where it should be large.
# - D in pixels instead of units at focal length 1: bounds are too large by the image's size.
# - The circle's nearest point is taken instead of the farthest.
#
# Timings of the cells are in the gallery that `make run` writes.
