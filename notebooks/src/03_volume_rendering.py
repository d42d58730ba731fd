# %% [markdown]
# # 03 · Volume rendering: from signed distance to a picture
#
# A shape here is a function that gives the distance to the nearest surface. To learn it from photographs we have to
# draw it, and the drawing has to have useful derivatives. Volume rendering does both: it blurs the surface into a thin
# fog and adds up the fog along each pixel's ray.
#
# **You need** exponentials, a little PyTorch, and to know that a signed distance is negative inside.
#
# **Afterwards you can**
#
# - compute by hand, and in code, how a distance becomes density, transmittance, weights, and then a pixel;
# - say for a given width $\beta$ of the fog and number of samples which of the two limits mask, depth and normals;
# - predict when a chair's leg disappears, and explain why it then cannot be learned;
# - explain the small print: the last interval, random sample positions, and which gradient a normal is made of.
#
# **Time**: about twenty-five minutes to read, and thirty-five for the three exercises. On two idle CPU cores all cells
# together take about a minute.
#
# A cell needs the cells above it; the first of them, folded away, has all imports. If one ends in `NameError`, choose
# *Run > Run All Above Selected Cell*.

# %% tags=["parameters"]
profile: str = "quick"  # quick | full: size of the pictures and of the measurements
dataset: str = "furniture"  # name of the prepared data
data_root: str = ""  # a prepared folder; empty: the one that comes with the course
category: str = "chair"  # where the model is taken from
model: str = "scopia-white-kitchen-chair"  # which object to look at; empty: the first of the category
run_dir: str = ""  # where results go; empty: runs/<profile>/03_volume_rendering
seed: int = 0  # of the random sample positions
device: str = "cpu"  # cpu: nothing is trained here

# %% tags=["imports"] slug="imports"
import math
import time

import torch
from tqdm.auto import tqdm

from lib.data.loading import PreparedDataset
from lib.errors import InputError
from lib.evaluation import write_results
from lib.evaluation.studies import study_row
from lib.fields.encoding import encode
from lib.fields.sdf import SDFField
from lib.figures.shapes import viewpoint_at
from lib.figures.source import show_source
from lib.figures.viewer import controlled
from lib.geometry.cameras import Rays, Viewpoint, camera_rays
from lib.paths import prepared_folder, run_folder
from lib.rendering.volume import compositing_weights, laplace_density, render_rays
from support import nb03

# %%
begin = time.perf_counter()
run = run_folder("03_volume_rendering", profile, run_dir)
data = PreparedDataset(prepared_folder(dataset, data_root), "train", [category])
named = data.metadata.index[data.metadata["model"] == model] if model else data.metadata.index
if len(named) == 0:
    raise InputError(f"model: there is no {category} {model!r} in the training split; leave it empty for the first")
mesh = data.mesh(int(named[0]))
scene = nb03.mesh_scene(mesh, viewpoint_at(35, 20), 80 if profile == "quick" else 160)

# %% [markdown]
# ## The picture first
#
# The top row is the truth: each pixel's ray is intersected with the triangles of a designer's chair (Embree, a ray
# tracer). The middle row is the same chair by volume rendering, with the paper's 64 samples a ray and $\beta$ = 0.02,
# about where our trainings end (0.015). The last row is the difference. Both colour a point by its height, so a colour
# error is a geometry error.
#
# Three things to see: a halo around the silhouette, a back that is not quite opaque, and normals that are speckled
# just there. By the end of this notebook you can say where each comes from, and how large it must be.

# %% tags=["key-figure"] alt="A chair by exact ray casting, by volume rendering, and the differences of all maps"
figure = nb03.comparison_figure(scene, beta=0.02, samples=64)

# %% [markdown]
# ## Where a ray comes from
#
# The world has z up, and the object is centred in a cube of side 1. A camera has x to the right, y down and z forward
# (OpenCV's axes). At azimuth $\gamma$, elevation $\theta$, roll $\rho$ and distance $d$ a point $X$ of the world is at
#
# $$X_{cam} = R\,X + (0, 0, d)^\top, \qquad R = R_z(\rho)\,R_x(\theta)\,R_y(\gamma)\,P, \qquad
# P = \begin{pmatrix} -1 & 0 & 0 \\ 0 & 0 & -1 \\ 0 & -1 & 0 \end{pmatrix}$$
#
# so the camera itself stands at $-R^\top (0, 0, d)^\top$. A pixel at $(x, y)$, in image widths from the upper left
# corner, sees along
#
# $$R^\top \big((x - \tfrac12)/f,\; (y - \tfrac12)/f,\; 1\big)^\top$$
#
# made 1 long; $f$ is the focal length in image widths. Turn the camera by 90 degrees with your hand first: along which
# axis of the world does it look?

# %%
quarter = torch.tensor(torch.pi / 2)
P = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])
c, s = quarter.cos(), quarter.sin()
R = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ P  # azimuth 90 degrees, no elevation, no roll
camera = -R.T @ torch.tensor([0.0, 0, 5])
middle = R.T @ torch.tensor([0.0, 0, 1])  # through (1/2, 1/2)
corner = R.T @ torch.tensor([(0 - 0.5) / 4, (0 - 0.5) / 4, 1])  # through (0, 0), f = 4
print("camera at", camera.round(decimals=3).tolist(), "looking along", middle.round(decimals=3).tolist())
view = Viewpoint.from_angles(quarter[None], torch.zeros(1), distance=5.0, focal=4.0)
rays = camera_rays(view, torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]))
assert torch.allclose(rays.origins[0, 0], camera, atol=1e-6)
assert torch.allclose(rays.directions[0], torch.stack([middle, corner / corner.norm()]), atol=1e-6)

# %% [markdown]
# ## A point, encoded
#
# A network that sees only $(x, y, z)$ learns smooth functions. So each coordinate also enters as sines and cosines of
# growing frequency (Sec. 3.4; NeRF, 2020): fine detail is then as easy to express as the coarse.
#
# $$e(x) = \big(x,\; \sin 2^0 x, \dots, \sin 2^{F-1} x,\; \cos 2^0 x, \dots, \cos 2^{F-1} x\big)$$
#
# With three coordinates and $F = 6$ these are 39 numbers. (SDF-SRN has a factor $\pi$ in front of $x$.)

# %%
x = torch.tensor([0.5, 0.0, -0.25])
parts = [x] + [torch.sin(2**k * x) for k in range(6)] + [torch.cos(2**k * x) for k in range(6)]
assert torch.equal(torch.cat(parts), encode(x, 6)) and len(encode(x, 6)) == 39

# %% [markdown]
# How did a designer's mesh become a distance function? Such meshes are soups of triangles with holes, so "inside" is
# not what their faces say. We call a point inside if it sees no way out in any of 26 directions, measure the distance
# to the surface, and keep both on a grid (`lib/geometry/distance_grid.py`). Everything below holds for the learned
# network too: the renderer only asks for a function from points to distance, gradient and colour.
#
# ## The formula, and the code that is the formula
#
# With signed distance $s$ (negative inside), VolSDF (Eq. 2-3) sets the density
#
# $$\sigma(x) = \tfrac{1}{\beta}\,\Psi_\beta(-s(x)), \qquad
# \Psi_\beta(u) = \begin{cases}\tfrac12 e^{u/\beta} & u \le 0\\ 1 - \tfrac12 e^{-u/\beta} & u > 0\end{cases}$$
#
# where $\Psi_\beta$ is the Laplace distribution function. Deep inside, a ray meets an obstacle every $\beta$; on the
# surface half as often; outside the density dies off within a few $\beta$. With samples at depths $z_i$ and intervals
# $d_i = z_{i+1} - z_i$,
#
# $$\alpha_i = 1 - e^{-\sigma_i d_i}, \qquad T_i = e^{-\sum_{j<i} \sigma_j d_j}, \qquad w_i = T_i\,\alpha_i .$$
#
# $T_i$ is the probability to get as far as sample $i$, $w_i$ to get there and no further. A pixel sums up its ray. With
# colours $c_i$, on a white background,
#
# $$M = \sum_i w_i, \qquad C = \sum_i w_i\, c_i + (1 - M), \qquad z = \frac{1}{M} \sum_i w_i\, z_i .$$
#
# $M$ is the mask, $C$ the colour, $z$ the depth. The normal is the sum of $w_i \nabla s / |\nabla s|$, made 1 long.
#
# First the density, where $e^{-|s|/\beta}$ is 1/2; then a ray on which every interval lets half of the light through.

# %%
beta = 0.5
s = beta * math.log(2) * torch.tensor([1.0, 0.0, -1.0])  # outside, on the surface, inside
psi = torch.where(s > 0, 0.5 * torch.exp(-s / beta), 1 - 0.5 * torch.exp(s / beta))  # 1/4, 1/2, 3/4
assert torch.allclose(psi / beta, torch.tensor([0.5, 1.0, 1.5]))
assert torch.allclose(psi / beta, laplace_density(s, beta))

# %%
sigma = torch.full((4,), math.log(2))
z = torch.tensor([1.0, 2.0, 3.0, 4.0])
d = torch.tensor([1.0, 1.0, 1.0, 0.0])  # the last sample has no right neighbour
alpha = 1 - torch.exp(-sigma * d)  # 1/2, 1/2, 1/2, 0
T = torch.exp(-torch.stack([(sigma * d)[:i].sum() for i in range(4)]))  # 1, 1/2, 1/4, 1/8
w = T * alpha  # 1/2, 1/4, 1/8, 0
assert torch.allclose(w, torch.tensor([0.5, 0.25, 0.125, 0.0])) and torch.allclose(w, compositing_weights(sigma, z))

# %%
red = torch.tensor([1.0, 0.0, 0.0]).expand(4, 3)
M = w.sum()  # 7/8
C = (w[:, None] * red).sum(0) + (1 - M)  # 7/8 red and 1/8 white: (1, 1/8, 1/8)
depth = (w * z).sum() / M  # (1/2 + 2/4 + 3/8) / (7/8) = 11/7
surface = (
    torch.zeros(1, 4),
    red[None],
    red[None],
)  # s = 0, where the density is 1 / (2 beta) = log 2; gradient; colour
ray = Rays(torch.zeros(1, 1, 3), torch.tensor([[[0.0, 1.0, 0.0]]]))
maps = render_rays(lambda points: surface, ray, z[None, None], beta=0.5 / math.log(2))
assert torch.allclose(maps.rgb[0, 0], C) and torch.allclose(maps.mask[0, 0], M)
assert torch.allclose(maps.depth[0, 0], depth) and torch.isclose(depth, torch.tensor(11 / 7))

# %% [markdown]
# The library's functions are the same lines, for many rays.

# %%
show_source(laplace_density, compositing_weights, render_rays)

# %% [markdown]
# ## One ray
#
# Follow one pixel. Dots are the renderer's samples, grey lines the same with 4,000 of them, the dashed line is the
# exact hit. Move the pixel next to a leg, so that the ray just misses it, and watch how much fog it meets. Then make
# $\beta$ small with few samples: the leg falls between two dots.

# %% tags=["control"] alt="Distance, density, transmittance and weight along the ray of one pixel"
redraw = nb03.ray_control(scene, scene.image_size * 55 // 96, scene.image_size * 66 // 96)

# %% [markdown]
# ## How wrong is it?
#
# Now every combination of $\beta$ and samples, against exact ray casting of the same pixels.
#
# **Predict.** With 64 samples a ray, which $\beta$ gives the best normals: 0.1, 0.03, 0.01 or 0.001?

# %% tags=["curves"] alt="Errors of mask, depth and normals over the number of samples, one line for each beta"
betas, counts = (0.1, 0.03, 0.01, 0.003, 0.001), (16, 32, 64, 128, 256)
errors = {}
for beta, n in tqdm([(beta, n) for beta in betas for n in counts], unit="picture"):
    errors[beta, n] = nb03.compare_maps(scene.render(beta, n), scene.exact)
units = {"mask": "1", "iou": "1", "depth": "world unit", "depth_bias": "world unit", "normal": "degree", "rgb": "1"}
about = {"n": scene.image_size**2, "dataset": data.name, "split": "train", "category": category, "profile": profile}
rows = [
    study_row(f"volume β={b:g} samples={n}", "exact ray casting", name, getattr(e, name), unit, **about)
    for (b, n), e in errors.items()
    for name, unit in units.items()
]
write_results(run / "results.json", rows)
figure = nb03.error_curves(errors)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# The normals are **best near $\beta$ = 0.03**, not at the smallest. Each line has two regimes. On its flat part the
# error is *blur*: it belongs to $\beta$, and more samples do not help. On its steep part it is *sampling*: the
# intervals are too long for a fog that thin. The two meet where the spacing of the samples is a few $\beta$. So a
# smaller $\beta$ is better only if the samples can follow.
#
# The normals are the first to break. In a thin part the gradient turns round half-way through, and a sample or two too
# deep cancel those before: the speckles on the back.
#
# </details>
#
# See it in pictures:

# %% tags=["control"] alt="Exact and rendered maps and their differences for a chosen beta and number of samples"
redraw = controlled(lambda **values: nb03.comparison_figure(scene, **values), **nb03.render_controls(0.001, 32))

# %% [markdown]
# ## The limit of small β
#
# For a flat wall met at a right angle everything can be integrated. A slab of thickness $t$ has optical depth
# $t/\beta + e^{-t/2\beta}$, hence the mask
#
# $$M = 1 - \exp\!\big(-t/\beta - e^{-t/(2\beta)}\big).$$
#
# To be 99 % opaque a slab needs about $t > 4.5\,\beta$: at $\beta$ = 0.02 that is 0.09. This chair's back is 0.016
# thick, and so it is grey above. A sheet with *no* thickness has $M = 1 - 1/e = 0.63$ for every $\beta$: it never
# becomes opaque. The library's renderer agrees, if its samples are close enough:

# %%
for t, beta in ((0.0, 0.02), (0.016, 0.02), (0.09, 0.02)):  # a sheet, the chair's back, 4.5 beta
    M = 1 - math.exp(-t / beta - math.exp(-t / (2 * beta)))
    z = torch.arange(-1, 1, 0.0005, dtype=torch.float64)
    rendered = compositing_weights(laplace_density(z.abs() - t / 2, beta), z).sum()
    assert abs(M - rendered) < 0.001
    print(f"thickness {t:<5}  mask {M:.3f} by the formula, {rendered:.3f} rendered")

# %% [markdown]
# And the depth of a thick wall? Below, its rendered depth minus its true depth, over $\beta$.
#
# **Predict.** Is the rendered wall too near or too far? What does half the $\beta$ do to the error, and is that so for
# every $\beta$ with 64 samples?

# %% tags=["limit"] alt="Depth error of a flat wall over beta: 0.343 beta, then half a spacing"
figure = nb03.depth_bias_figure((0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1), (64, 256, 4096))

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# Too far, by $c\,\beta$ with $c = 2(1-e^{-1/2}) - \int_0^{1/2} \frac{1-e^{-x}}{x}\,dx = 0.343$: most rays get a little
# way into the fog. So half the $\beta$ makes half the error, until the samples are too coarse. A sample carries the
# interval *behind* it, so for a very small $\beta$ the first one inside the wall stops the ray, on average half a
# spacing too late: the dotted line, which the 64 samples approach on the left.
#
# A wall is too far, yet in the first picture the seat is too *near* (blue). No contradiction: a ray that meets a
# surface at a grazing angle stays in the fog before it for longer, and stops there.
#
# </details>
#
# ## Thin legs
#
# ShapeClipper takes 64 samples over a depth of 1.4: a spacing of 0.022. The legs of this chair are 0.031 thick, its
# back 0.016, the legs of a steel chair 0.02 or less. Below, first the mask of a slab for all its positions between two
# samples: the line is the mean, the band the extremes, dashed the formula. Then the legs of the chair at
# $\beta$ = 0.001.
#
# **Predict.** A slab is half as thick as the spacing. What is its mask at $\beta$ = 0.02, and what at $\beta$ = 0.001:
# near 1, near 0.7, or anything between 0 and 1?

# %% tags=["thin"] alt="Rendered mask of a slab over its thickness, and the legs of the chair with 16 to 256 samples"
side = scene.image_size
legs = (slice(side // 2, side), slice(side // 4, 5 * side // 6))
figure = nb03.thin_figure(scene, (16, 32, 64, 128, 256), beta=0.001, crop=legs)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# At $\beta$ = 0.02 about 0.73, wherever the slab is: the fog around it always reaches a sample. At $\beta$ = 0.001
# anything from 0.1 to 1, and 0.77 on average: the fog is thinner than the gaps, so it is luck whether a sample falls
# into the slab. A slab shows reliably **as long as $\beta$ is not much smaller than the spacing**. In the lower row the
# legs are broken with 16 and 32 samples, and as good as whole from 128 on.
#
# </details>
#
# What is not sampled gets no gradient either: a leg that a ray does not see cannot be pulled to where the image has
# one. That is why training starts with a thick fog ($\beta$ = 0.1) and sharpens it, and one reason why learned chairs
# so often lack legs.
#
# ## What goes wrong: the last interval
#
# The last sample has no right neighbour, so how long is its interval? The released ShapeClipper says 0, VolSDF
# $10^{10}$. With $10^{10}$ any density that is left at the far end becomes a wall. VolSDF wants that (its scenes have a
# background). For an object on white it is wrong while $\beta$ is large: the whole background turns opaque, and there
# the mask has no gradient. Numbers are the mean mask of pixels that should be empty. A training survives it, because
# $\beta$ falls: after 40 + 160 steps our own comparison cannot tell the two rules apart (10 x CD +0.018, 95 % interval
# -0.025 to +0.054, five seeds; `lib/results/differences.json`).

# %% tags=["interval"] alt="Masks with a last interval of length zero and infinity, for falling beta"
figure = nb03.interval_figure(scene, (0.1, 0.05, 0.03, 0.02, 0.01))

# %% [markdown]
# ## Random positions
#
# In training each sample is drawn at random within its bin (*stratified*). One such picture is noisier than one with
# samples in the middle of the bins, but the middle has rings: errors that are the same in every step, so that
# the network can learn to fit them. The scatter of random errors averages out over steps.
#
# **Predict.** What is left in the mean of many random pictures: nothing, the same error as with middles, or a larger
# one?

# %% tags=["jitter"] alt="Depth errors: rings with fixed samples, noise with random ones"
generator = torch.Generator().manual_seed(seed)
figure = nb03.jitter_figure(scene, beta=0.003, samples=32, repeats=32, generator=generator)

# %% [markdown]
# <details><summary>What came out, and why</summary>
#
# A larger one, but with much fainter rings: its spread is the smallest. A thin fog stops a ray at the first sample
# inside the wall. Middles are half a bin behind it on average, random positions 7/12 of a bin. The difference, a
# twelfth of a bin, is 0.0036 here; the two medians differ by about as much. Question 2 asks for the proof.
#
# </details>
#
# ## Which gradient is the normal?
#
# The paper takes the normalised gradient of the *density*, our code that of the *distance*. By the chain rule
# $\nabla\sigma = -\tfrac{1}{\beta}\,\psi_\beta(-s)\,\nabla s$ with the Laplace density $\psi_\beta > 0$: opposite
# directions, a factor apart, so the outward unit normal is the same. On paper. In 32 bits the factor $e^{-|s|/\beta}$
# underflows to 0 at $|s| > 87\,\beta$, and the direction is lost. A rendered normal hardly suffers: outside, such a
# sample has no weight, and so deep inside no light arrives. But the loss of a *field* at any point, such as the eikonal
# term, needs the gradient of the distance. Both, for a network with random weights:

# %%
torch.manual_seed(seed)
network = SDFField()
points = torch.rand(1, 4000, 3) - 0.5


def density_gradient(beta, dtype):
    """Gradient of the density at the points by automatic differentiation."""
    x = points.to(dtype).requires_grad_()
    sdf, _ = network.to(dtype)(x, torch.zeros(1, 64, dtype=dtype))
    return torch.autograd.grad(laplace_density(sdf, beta).sum(), x)[0]


double = torch.float64
gradient = network.to(double).with_gradient(points.double(), torch.zeros(1, 64, dtype=double))[2]
ours, paper = (torch.nn.functional.normalize(g.detach(), dim=-1) for g in (gradient, -density_gradient(0.05, double)))
largest = float((ours - paper).norm(dim=-1).max())
lost = float((density_gradient(0.002, torch.float32) == 0).all(-1).float().mean())
print(f"largest difference of the two unit vectors, 64 bits, β = 0.05: {largest:.1e}")
print(f"share of points without a density gradient, 32 bits, β = 0.002: {lost:.0%}")

# %% [markdown]
# ## A check without a mesh
#
# The grid itself has errors. A sphere has none: distance, hit and normal are closed forms. If the renderer is
# right, its errors must go to zero as $\beta$ falls and samples grow.

# %%
sphere = nb03.sphere_scene(viewpoint_at(30, 20).to(torch.float64), radius=0.4, image_size=48)
on_sphere = {
    pair: nb03.compare_maps(sphere.render(*pair), sphere.exact) for pair in ((0.02, 64), (0.005, 256), (0.001, 1024))
}
for (beta, n), e in on_sphere.items():
    print(f"β = {beta:<6g} {n:5} samples: mask {e.mask:.4f}, depth {e.depth:.4f}, normals {e.normal:.2f}°")

# %% [markdown]
# ## Exercises
#
# Write the formulas of this lesson yourself. The cell below each one holds your answer against a truth that does not
# come from this course, and says what is wrong first.
#
# ### The density (easy, 10 minutes)
#
# Write $\sigma$ for signed distances and a width $\beta$.
#
# <details><summary>Hint: the shape is inside out</summary>
#
# $s < 0$ is inside, where $\Psi_\beta(-s)$ must be near 1.
#
# </details>
#
# <details><summary>Hint: training ends in NaN</summary>
#
# `torch.where` differentiates both branches. Keep the exponent of the branch that is not taken from overflowing: use
# $|s|$.
#
# </details>

# %% tags=["exercise"] slug="exercise-laplace-density"
import torch


def my_density(sdf, beta):
    """Densities of signed distances (any shape), VolSDF Eq. 2-3."""
    # BEGIN SOLUTION
    tail = 0.5 * torch.exp(-sdf.abs() / beta)
    return torch.where(sdf > 0, tail, 1 - tail) / beta
    # END SOLUTION


# %% tags=["check"] slug="check-laplace-density"
from support import check

check.laplace_density(my_density)

# %% [markdown]
# ### The weights (medium, 15 minutes)
#
# Write $w_i = T_i \alpha_i$ for densities and depths (rays, samples). The last interval has length 0.
#
# <details><summary>Hint: the first sample is already dark</summary>
#
# $T_i$ counts what is *before* sample $i$. A cumulative sum includes $i$ itself.
#
# </details>
#
# <details><summary>Hint: the background fills the mask</summary>
#
# The last sample has no right neighbour. Here its interval has length 0.
#
# </details>

# %% tags=["exercise"] slug="exercise-weights"
import torch


def my_weights(density, depths):
    """Weights (rays, samples)."""
    # BEGIN SOLUTION
    lengths = torch.cat([depths.diff(dim=-1), torch.zeros_like(depths[:, :1])], dim=-1)
    optical_depth = density * lengths
    before = optical_depth.cumsum(dim=-1) - optical_depth
    return torch.exp(-before) * (1 - torch.exp(-optical_depth))
    # END SOLUTION


# %% tags=["check"] slug="check-weights"
from support import check

check.weights(my_weights)

# %% [markdown]
# ### From weights to a pixel (easy, 10 minutes)
#
# Give the colour $C$ on white, the mask $M$ and the depth $z$ of rays. The depth of a ray that hits nothing is that of
# its last sample.
#
# <details><summary>Hint: an empty picture is black</summary>
#
# The share of light that nothing stopped, $1 - M$, comes from the background, and white is 1 in each channel.
#
# </details>
#
# <details><summary>Hint: the depth of the background is NaN</summary>
#
# $M = 0$ there. `torch.where` can put in the last depth, but divide by something above 0 first.
#
# </details>

# %% tags=["exercise"] slug="exercise-pixel"
import torch


def my_pixel(weights, colors, depths):
    """C (rays, 3), M (rays,), z (rays,) from weights and depths (rays, samples) and colours (rays, samples, 3)."""
    # BEGIN SOLUTION
    mask = weights.sum(dim=-1)
    rgb = (weights[..., None] * colors).sum(dim=-2) + (1 - mask)[:, None]
    depth = (weights * depths).sum(dim=-1) / mask.clamp(min=1e-6)
    return rgb, mask, torch.where(mask > 0, depth, depths[:, -1])
    # END SOLUTION


# %% tags=["check"] slug="check-pixel"
from support import check

check.pixel(my_pixel)

# %% [markdown]
# ## Questions
#
# 1. A ray just misses a wall: it runs parallel to it at distance $d$ over a length $L$. What is its mask at width
#    $\beta$? (Integrate; then check with the first control.) For which $d$ is it below 0.5?
# 2. Prove the 7/12. (A wall is a share $p$ into its bin. Where is the first sample behind it, if the one in its bin is
#    behind it, and if it is not? Then average over $p$.)
# 3. Give the last interval the length of the one before. Is that better than 0? Try it in `compositing_weights`.
# 4. Which number of samples would you choose for $\beta$ = 0.005, if the legs are 0.03 thick? Use the curves.

# %% tags=["results"]
print("β      samples   mask    depth   normals")
for pair in ((0.1, 64), (0.03, 64), (0.01, 64), (0.003, 64), (0.001, 64), (0.003, 256), (0.001, 256)):
    e = errors[pair]
    print(f"{pair[0]:<6g} {pair[1]:7}   {e.mask:.3f}   {e.depth:.4f}   {e.normal:5.1f}°")
print(f"{time.perf_counter() - begin:.0f} s for this notebook")

# %% tags=["nbval-check-output"]
fine = on_sphere[0.001, 1024]
print(
    f"sphere, β = 0.001: mask error {fine.mask:.3f}, depth error {fine.depth:.3f}, normals within 1°: {fine.normal < 1}"
)
print(f"rendered depth of a wall: {nb03.wall_depth_bias(0.02, 4096) / 0.02:.3f} β behind it")
print(f"mask of a sheet without thickness: {float(nb03.slab_opacity(0.0, 0.002, 0.0005).mean()):.2f}")
thin = {t: float((nb03.slab_opacity(t, 1e-4, 1.4 / 64) > 0.5).mean()) for t in (0.005, 0.011, 0.022)}
print("64 samples see a slab of", ", ".join(f"{t} with probability {p:.2f}" for t, p in thin.items()))
finest = [errors[beta, 256].mask for beta in betas]
print("mask error falls with β at 256 samples:", finest == sorted(finest, reverse=True))
print("density and distance give one normal:", largest < 1e-6)

# %% [markdown]
# ## Where to read on
#
# - Yariv et al., *Volume Rendering of Neural Implicit Surfaces* (VolSDF), 2021: the density, and a sampler that bounds
#   the opacity's error instead of trusting 64 even samples.
# - Huang et al., *ShapeClipper*, 2023, Sec. 3.1: uniform samples "with the exception" of that sampler.
# - Max, *Optical models for direct volume rendering*, 1995: where the weights come from.
# - Notebook **04** uses this renderer to ask one shape to explain two images; **05** uses its normals.

# %% [markdown] tags=["instructor"]
# ## For instructors: two times ninety minutes
#
# - first: 0-20 the ray by hand (turn a chair in the room); 20-40 the formulas on the board, with the numbers of the toy
#   cells; 40-90 exercises *The density*, *The weights* and *From weights to a pixel*;
# - second: 0-30 error curves, 30-50 small beta, 50-70 thin legs, 70-90 the last interval and random positions. Vote on
#   each prediction before the cell is run.
#
# **Common mistakes**
#
# - A black background, or a colour that is divided by the mask.
# - An inclusive cumulative sum: the first sample is dark.
# - NaN gradients through `torch.where`: let them print the gradient at sdf = 50.
#
# Timings of the cells are in the gallery that `make run` writes.
