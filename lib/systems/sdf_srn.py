"""SDF-SRN (Lin et al., NeurIPS 2020): shape from single silhouettes with known viewpoints, by distance transforms.

The paper; what it leaves to its supplement is the released code's. What the course adds to train on two cores is in
`lib.systems.sdf_srn_small`.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from lib.data.augment import color_jitter
from lib.data.loading import Batch
from lib.errors import InputError
from lib.fields.hypernetwork import Hypernetwork, WrittenField
from lib.geometry.cameras import (
    Projection,
    Rays,
    Viewpoint,
    check_viewpoint,
    index_to_pixel,
    points_along,
    projective_rays,
)
from lib.geometry.distance_transform import Beyond, Unusable, count_unusable, distance_transform, sdf_lower_bound
from lib.losses.field import eikonal_loss, sphere_sdf
from lib.losses.reprojection import rgb_loss
from lib.losses.silhouette import importance_weight, sdf_bound_loss
from lib.networks.backbones import Backbone
from lib.rendering.ray_marching import Marcher, Surface, find_surface, march, points_at, sign_losses, weighted_mean
from lib.rendering.sampling import sample_pixels, uniform, values_at
from lib.rendering.volume import RenderedMaps
from lib.systems.base import Reconstruction, System, SystemConfig, require_viewpoint

STRIDES = 10  # N of Eq. 6
LAYERS = 4  # of the written fields
REFINE_RATE = 1e-2  # of Adam on a code at test time


@dataclass(frozen=True)
class SDFSRNConfig(SystemConfig):
    """Everything that defines the system. The defaults are the paper's ShapeNet setting; `CONFIGS` has others.

    Losses are means over pixels, depths and colour channels, as the released code computes them, where Eq. 4, 7 and 8
    write sums: the weights belong to the means.
    """

    # image -> code -> fields
    backbone: str = "resnet18.tv_in1k"  # with torchvision's first ImageNet weights
    backbone_weights: str = "imagenet"
    image_size: int = 64
    image_mean: float = 0.5
    image_std: float = 0.5
    freeze_batchnorm: bool = False
    latent_size: int = 512
    hyper_layers: int = 5
    hyper_width: int = 512
    width: int = 128
    frequencies: int = 5  # 0: without positional encoding
    # known viewpoints, and the depths that rays see
    projection: Projection = "perspective"
    distance: float = 2.732  # of the view from the front, where none is given
    focal: float = 1.8660254  # a field of view of 30 degrees
    near: float = 0.732  # rays start this far before the origin; at distance 2.732: at 2
    far: float = 0.768  # silhouette depths reach this far behind it: to 3.5
    # objective (Eq. 10-11)
    field: Literal["distance", "occupancy"] = "distance"
    rays: int = 1024
    silhouette_depths: int = 5
    importance: bool = True
    beyond: Beyond = "background"  # the picture's border; "unknown" for crops that may cut the object (notebook 02)
    rgb_weight: float = 1.0  # on colours in [-1, 1]
    sdf_weight: float = 3.0
    last_weight: float = 1.0
    free_weight: float = 0.1
    margin: float = 0.01
    eikonal_weight: float = 0.01
    eikonal_points: int = 10_000
    sphere_radius: float = 0.5
    pretrain_points: int = 10_000
    # augmentation of the training images
    jitter: float = 0.0  # colours
    rescale: float = 0.0  # sizes, by 1 +- rescale
    refine_steps: int = 500  # of Adam on the code of an image at test time
    refine_rays: int | None = None  # in each; None: all pixels

    def __post_init__(self):
        if self.field not in ("distance", "occupancy"):
            raise InputError(f"field: {self.field!r} is neither 'distance' nor 'occupancy'")
        if self.beyond not in ("background", "unknown"):
            raise InputError(f"beyond: {self.beyond!r} is neither 'background' nor 'unknown'")
        if min(self.rays, self.silhouette_depths) < 1:
            raise InputError("rays and silhouette_depths must be at least 1")
        if not 0 <= self.rescale < 1:
            raise InputError(f"rescale: {self.rescale} is not in [0, 1)")

    def for_category(self, category: str) -> "SDFSRNConfig":
        """ShapeNet's airplanes have lambda_SDF = 1 (Sec. 4.1); Pascal3D+'s, known by their projection, do not."""
        airplane = category in ("airplane", "aeroplane", "02691156") and self.projection == "perspective"
        return replace(self, sdf_weight=1.0) if airplane else self


SHAPENET = SDFSRNConfig()
SINGLE_VIEW = replace(SHAPENET, jitter=0.2)  # one view a model: the recipe says so to what loads the images
# The paper's unit for Pascal3D+ is half the crop, about half of the unit cube that the course uses: its lengths by 2,
# and so the margin. Terms that are lengths (sdf, last, free) are then half as large as there, beside colours and slopes
# (eikonal), which have no unit; with 2 times the paper's weights 3, 1 and 0.1 the objective is the paper's. The octaves
# of the encoding stay: the finest is half as fine on the object as the paper's.
PASCAL3D = replace(
    SHAPENET,
    latent_size=256,
    hyper_layers=1,
    hyper_width=256,
    width=64,
    projection="weak_perspective",
    near=0.65,
    far=0.65,
    sphere_radius=0.25,
    margin=0.005,
    sdf_weight=6.0,
    last_weight=2.0,
    free_weight=0.2,
    rgb_weight=10.0,
    eikonal_weight=1.0,
    jitter=0.2,
    rescale=0.2,
)
CONFIGS = {"shapenet": SHAPENET, "shapenet-single-view": SINGLE_VIEW, "pascal3d": PASCAL3D}
# the rows of the paper's Table 3, as changes of the configuration
ABLATIONS = {
    "binary occupancy": {"field": "occupancy"},
    "w/o rendering loss": {"rgb_weight": 0.0},
    "w/o importance weighting": {"importance": False},
    "w/o positional encoding": {"frequencies": 0},
}


class SDFSRN(System):
    """The whole of Fig. 3: encoder and hypernetwork E, fields f and g that it writes, marcher h.

    Attributes
    ----------
    crossings : dict
        `Surface.counts` of the last training step: rays whose surface lies in the last interval, an early one, none.
    silhouettes : dict
        Of its images, as they were after augmentation: how many silhouettes are empty, full or cut by the border.
    """

    name = "sdf_srn"
    needs_viewpoint = True
    can_refine = True
    mesh_grid = (129, 0.6)

    def __init__(self, config: SDFSRNConfig = SHAPENET):
        super().__init__()
        self.config = config
        look = (config.image_size, config.image_mean, config.image_std)
        self.backbone = Backbone(config.backbone, config.backbone_weights, *look, config.freeze_batchnorm)
        self.to_code = nn.Linear(self.backbone.size, config.latent_size)
        self.hypernetwork = Hypernetwork(
            config.latent_size, config.hyper_layers, config.hyper_width, config.width, LAYERS, config.frequencies
        )
        self.marcher = Marcher(config.width)
        self.crossings: dict[str, int] = {}
        self.silhouettes: dict[str, int] = {}

    @property
    def counts(self) -> dict[str, int]:
        """``rays_none``, ``silhouettes_empty`` and so on."""
        kinds = {"rays": self.crossings, "silhouettes": self.silhouettes}
        return {f"{what}_{name}": count for what, found in kinds.items() for name, count in found.items()}

    def encode(self, images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch code"]:
        """The code of each image."""
        return self.to_code(self.backbone(images))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of Eq. 11; training minimises their sum.

        Parameters
        ----------
        batch : Batch
            B images with masks and viewpoints.
        generator : torch.Generator
            Draws pixels, depths and points.

        Raises
        ------
        InputError
            The batch has no viewpoints, or one that sees nothing (`lib.geometry.cameras.check_viewpoint`).
        """
        batch = self.with_projection(batch)
        batch = augmented_batch(batch, self.config.jitter, self.config.rescale, generator)
        return self.losses_of(self.encode(batch.rgb), batch, self.config.rays, generator)

    def losses_of(self, code: Float[Tensor, "batch code"], batch: Batch, rays: int, generator) -> dict[str, Tensor]:
        """The terms for given codes and so many rays an image: what test-time optimisation descends on, too."""
        config = self.config
        # The hypernetwork writes f and g of each image (Sec. 3.3).
        field = self.hypernetwork(code)

        # Some pixels of each image, with their rays and distances to the silhouette.
        target = sample_target(batch, rays, config.importance, generator, config.beyond)
        self.silhouettes = asdict(target.unusable)

        # March N strides along each ray (Eq. 6) and ask for the right signs there (Eq. 7).
        depths, values = self.march(field, target.viewpoint, target.rays)  # (B, R, N + 1)
        losses = self.ray_losses(target, depths, values)

        # The colour where the ray meets the surface (Eq. 8).
        surface = self.surface(field, target.rays, depths, values)
        self.crossings = surface.counts
        if config.rgb_weight > 0:
            color = field.color_at(points_at(target.rays, surface.depth))  # (B, R, 3)
            losses["rgb"] = 4 * config.rgb_weight * rgb_loss(color, target.rgb)  # 4: squares on [-1, 1]

        # Outside the silhouette the distance is at least what its distance transform says (Eq. 4).
        losses["sdf"] = config.sdf_weight * self.silhouette_loss(field, outside_only(target), generator)

        # A distance grows by one unit a unit (Eq. 10); the released code asks it of the ablation's logit as well.
        if config.eikonal_weight > 0:
            points = uniform((len(batch.rgb), config.eikonal_points, 3), batch.rgb, generator)  # in [-1, 1]^3
            _, _, gradient = field.with_gradient(points, create_graph=True)
            losses["eikonal"] = config.eikonal_weight * eikonal_loss(gradient)
        return losses

    def march(self, field: WrittenField, viewpoint: Viewpoint, rays: Rays) -> tuple[Tensor, Tensor]:
        """Depths and signed distances (B, R, N + 1) along rays, from in front of the object on."""
        start = viewpoint.distance - self.config.near
        return march(field.distance_and_feature, self.marcher, rays, start, STRIDES)

    def surface(self, field: WrittenField, rays: Rays, depths: Tensor, values: Tensor) -> Surface:
        """Where rays meet the surface, by bisection that is differentiated as it was computed."""
        return find_surface(field.distance, rays, depths, values.detach(), gradient="unrolled")

    def ray_losses(self, target: "Target", depths: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Eq. 7; or, for the ablation, cross-entropy of occupancy, whose logit is -f."""
        config, inside, weights = self.config, target.inside, target.weights
        if config.field == "distance":
            last, free = sign_losses(values, inside, weights, config.margin)
        else:
            toward = torch.where(inside, values[..., -1], -values[..., -1])
            last, free = weighted_mean(F.softplus(toward), weights), F.softplus(-values[..., :-1]).mean()
        return {"ray_last": config.last_weight * last, "ray_free": config.free_weight * free}

    def silhouette_loss(self, field: WrittenField, target: "Target", generator: torch.Generator) -> Tensor:
        """Eq. 4 at random depths of rays outside; its sum over depths as a mean."""
        config = self.config
        shape = (*target.inside.shape, config.silhouette_depths)
        middle, reach = (config.far - config.near) / 2, (config.far + config.near) / 2
        along = target.viewpoint.distance[:, None, None] + middle + reach * uniform(shape, target.plane, generator)
        values = field.distance(points_along(target.rays, along).flatten(1, 2)).unflatten(1, shape[1:])
        if config.field == "occupancy":
            weights = importance_weight(target.distance) if config.importance else (target.distance > 0).to(values)
            return weighted_mean(F.softplus(-values), weights[..., None].expand_as(values))
        bound = silhouette_bound(target, along)
        return sdf_bound_loss(values, bound, target.distance, config.importance) / config.silhouette_depths

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Before training: any code gives a sphere; without it training often ends without a surface."""
        config, like, count = self.config, self.to_code.weight, len(batch.rgb)
        noise = torch.randn((count, config.latent_size), generator=generator, device=generator.device)
        field = self.hypernetwork(noise.to(like))
        points = uniform((count, config.pretrain_points, 3), like, generator)
        values, sphere = field.distance(points), sphere_sdf(points, config.sphere_radius)
        if config.field == "distance":
            return {"shape": (values - sphere).square().mean()}
        return {"shape": F.binary_cross_entropy_with_logits(-values, (sphere < 0).to(values))}

    def reconstruct(
        self, images: Float[Tensor, "batch height width 3"], viewpoint: Viewpoint | None = None
    ) -> Reconstruction:
        """Shapes of segmented images on white, in [0, 1].

        Parameters
        ----------
        viewpoint : Viewpoint, optional
            Of the images; a view from the front without it. The shape does not depend on it.

        Raises
        ------
        InputError
            A viewpoint sees nothing.
        """
        if viewpoint is None:
            zero = images.new_zeros(len(images))
            viewpoint = Viewpoint.from_angles(zero, zero, distance=self.config.distance, focal=self.config.focal)
        with torch.no_grad():
            code = self.encode(images)
        return self.decode(code, viewpoint)

    def decode(self, code: Float[Tensor, "batch code"], viewpoint: Viewpoint) -> Reconstruction:
        """The shapes of codes, rendered by marching."""
        viewpoint = self.projected(viewpoint)
        with torch.no_grad():
            field = self.hypernetwork(code)

        def evaluate(i: int, points: Tensor):
            sdf, feature, gradient = field[i : i + 1].with_gradient(points)
            return sdf, gradient, field[i : i + 1].color(feature)

        def distance(i: int, points: Tensor):
            return field[i : i + 1].distance(points)

        def cast(i: int, view: Viewpoint, pixels: Tensor):
            self.check_view(view, i)
            return self.render(field[i : i + 1], view, pixels)

        slope = math.inf if self.config.field == "occupancy" else 4.0  # a logit may have any
        near, grid = self.config.near, self.mesh_grid
        return Reconstruction(evaluate, distance, viewpoint, 0.01, near, cast, slope, mesh_grid=grid)

    @torch.no_grad()
    def render(self, field: WrittenField, viewpoint: Viewpoint, pixels: Float[Tensor, "batch rays 2"]) -> RenderedMaps:
        """What rays through image points see: the marched surface's colour, on white, with a mask of 0 and 1."""
        rays = projective_rays(viewpoint, pixels)
        surface = self.surface(field, rays, *self.march(field, viewpoint, rays))
        _, feature, gradient = field.with_gradient(points_at(rays, surface.depth))
        mask = surface.hit.to(pixels.dtype)
        rgb = 1 - mask[..., None] * (1 - field.color(feature))
        far = (viewpoint.distance + self.config.far)[:, None]
        length = torch.where(surface.hit, surface.depth, far) * rays.directions.norm(dim=-1)
        return RenderedMaps(rgb, mask, F.normalize(gradient, dim=-1), length)

    def refine(
        self, batch: Batch, generator: torch.Generator, steps: int | None = None, progress: bool = False
    ) -> Reconstruction:
        """Test-time optimisation (Table 3): descend on Eq. 11 over the codes of these images, the network fixed.

        Parameters
        ----------
        batch : Batch
            Images with masks and viewpoints.
        steps : int, optional
            Of Adam; the configuration's `refine_steps` without it.
        progress : bool
            Show a bar that counts the steps.
        """
        batch = self.with_projection(batch)
        with torch.no_grad():
            code = self.encode(batch.rgb)
        code = code.detach().requires_grad_()
        optimizer = torch.optim.Adam([code], REFINE_RATE)
        rays = self.config.refine_rays or batch.mask[0].numel()
        rounds = range(self.config.refine_steps if steps is None else steps)
        for _ in tqdm(rounds, "refine", unit="step") if progress else rounds:
            loss = sum(self.losses_of(code, batch, rays, generator).values())
            (code.grad,) = torch.autograd.grad(loss, code)
            optimizer.step()
        return self.decode(code.detach(), batch.viewpoint)

    def with_projection(self, batch: Batch) -> Batch:
        """The batch with viewpoints of the configuration's projection."""
        return replace(batch, viewpoint=self.projected(require_viewpoint(batch, "SDF-SRN")))

    def projected(self, viewpoint: Viewpoint) -> Viewpoint:
        """The viewpoint with the configuration's projection; `InputError` where it sees nothing."""
        viewpoint = replace(viewpoint, projection=self.config.projection)
        self.check_view(viewpoint)
        return viewpoint

    def check_view(self, viewpoint: Viewpoint, first: int = 0) -> None:
        """Perspective rays must not start behind the camera, where nothing is seen; parallel ones may."""
        check_viewpoint(viewpoint, self.config.near if viewpoint.projection == "perspective" else 0.0, first)


@dataclass(frozen=True)
class Target:
    """R pixels of each of B images, and what belongs to them.

    Attributes
    ----------
    viewpoint : Viewpoint
        Of the images.
    rays : Rays
        Through the pixels, world frame; depths are measured along the viewing axis.
    plane : Tensor, shape (B, R, 2)
        The pixels at focal length 1 with the principal point at 0.
    rgb : Tensor, shape (B, R, 3)
        In [0, 1].
    inside : Tensor, shape (B, R)
        In the silhouette.
    distance : Tensor, shape (B, R)
        To the silhouette, on the plane; 0 inside, infinite where the image has no silhouette.
    weights : Tensor, shape (B, R)
        Importance 1 / (distance to the silhouette's boundary, on both sides), in 1 / pixels; or 1.
    unusable : Unusable
        How many of the B silhouettes are empty, full, or touch the border.
    """

    viewpoint: Viewpoint
    rays: Rays
    plane: Float[Tensor, "batch rays 2"]
    rgb: Float[Tensor, "batch rays 3"]
    inside: Bool[Tensor, "batch rays"]
    distance: Float[Tensor, "batch rays"]
    weights: Float[Tensor, "batch rays"]
    unusable: Unusable


def sample_target(
    batch: Batch, rays: int, importance: bool, generator: torch.Generator, beyond: Beyond = "background"
) -> Target:
    """Draw pixels, all alike (Sec. 4), and look up what belongs to them.

    The boundary of a silhouette is half-way between two pixel centres, so half a pixel is taken off all distances.

    Silhouettes that say little are used as they are, and counted, so that nothing is divided by nothing. An image that
    is silhouette everywhere, or nowhere, has no boundary: all its pixels count as an image's width away from one. An
    empty one has infinite distances, which bound nothing, and a full one has no pixel outside: Eq. 4 leaves both out.
    One that touches the border is taken for whole: where the crop cut the object, that forbids what is there. With
    `beyond` = "unknown" the border counts as boundary, on both sides, and nothing is forbidden that may be cut off.
    """
    size = batch.rgb.shape[1]
    index = sample_pixels(torch.ones_like(batch.mask), rays, generator)  # (B, R)
    viewpoint, pixels = batch.viewpoint, index_to_pixel(index, size)
    mask = (batch.mask > 0.5).cpu()
    device = batch.mask.device
    outer = values_at(distance_transform(mask, beyond=beyond, margin=0.5).to(device), index)  # pixels, 0 inside
    inner = values_at(distance_transform(~mask, beyond=beyond, margin=0.5).to(device), index)  # pixels, 0 outside
    weights = 1 / torch.maximum(outer, inner).clamp(max=size)
    focal = viewpoint.focal[:, None]
    return Target(
        viewpoint=viewpoint,
        rays=projective_rays(viewpoint, pixels),
        plane=(pixels - viewpoint.center[:, None]) / focal[..., None],
        rgb=values_at(batch.rgb, index),
        inside=values_at(batch.mask, index) > 0.5,
        distance=outer / (focal * size),
        weights=weights if importance else torch.ones_like(weights),
        unusable=count_unusable(mask),
    )


def outside_only(target: Target) -> Target:
    """Only rays outside the silhouettes, as many an image as the image with most of them has; at least one."""
    outside = ~target.inside
    count = max(1, int(outside.sum(dim=1).max()))
    order = outside.int().argsort(dim=1, descending=True, stable=True)[:, :count]  # (B, K)

    def chosen(values: Tensor) -> Tensor:
        return values[torch.arange(len(values), device=values.device)[:, None], order]

    rays = Rays(chosen(target.rays.origins), chosen(target.rays.directions))
    values = {name: chosen(getattr(target, name)) for name in ("plane", "rgb", "inside", "distance", "weights")}
    return replace(target, rays=rays, **values)


def silhouette_bound(target: Target, depth: Float[Tensor, "batch rays depths"]) -> Float[Tensor, "batch rays depths"]:
    """b(z; u) of Eq. 1 at depths along unit rays, whose projective depth is z = depth * cos(angle to the axis)."""
    view = target.viewpoint
    if view.projection == "weak_perspective":
        depth = view.distance[:, None, None].expand_as(depth)
    return sdf_lower_bound(target.plane[..., None, :], target.distance[..., None], depth, view.projection)


def augmented_batch(batch: Batch, jitter: float, rescale: float, generator: torch.Generator) -> Batch:
    """Other colours, and other sizes with the focal length that goes with them."""
    if rescale > 0:
        noise = torch.rand((len(batch.rgb),), generator=generator, device=generator.device).to(batch.rgb)
        batch = rescaled(batch, 1 + rescale * (2 * noise - 1))
    if jitter > 0:
        batch = replace(batch, rgb=color_jitter(batch.rgb, batch.mask, jitter, generator))
    return batch


def rescaled(batch: Batch, scale: Float[Tensor, " batch"]) -> Batch:
    """Images magnified about their middle, white where nothing was; the viewpoint's camera magnifies as much."""
    images = torch.cat([1 - batch.rgb, batch.mask[..., None]], dim=-1).permute(0, 3, 1, 2)
    matrix = torch.diag_embed((1 / scale)[:, None].expand(-1, 2))
    grid = F.affine_grid(F.pad(matrix, (0, 1)), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)
    view = batch.viewpoint
    center = 0.5 + scale[:, None] * (view.center - 0.5)
    view = replace(view, focal=view.focal * scale, center=center)
    return replace(batch, rgb=1 - moved[..., :3], mask=moved[..., 3], viewpoint=view)
