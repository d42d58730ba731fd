"""ShapeClipper (Huang et al., CVPR 2023): shape from single views, with semantic neighbours and normals.

`PAPER` is the paper, and where it is silent the authors' released code; `RELEASED` is that code throughout. What the
course adds to train on two cores is in `lib.systems.shapeclipper_small`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.data.loading import Batch
from lib.errors import InputError
from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField, colored_field
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, index_to_pixel, points_along
from lib.losses.camera import azimuth_prior_loss, camera_margin_loss, mirror_loss
from lib.losses.field import eikonal_loss, sphere_sdf
from lib.losses.normal import RankBy, normal_loss
from lib.losses.reprojection import mask_loss, rgb_loss
from lib.losses.semantic import NeighborWeighting
from lib.networks.backbones import Backbone
from lib.networks.heads import CameraPrior, CodeHead, ViewpointHead
from lib.rendering.sampling import sample_pixels, uniform, values_at
from lib.rendering.volume import (
    DepthBins,
    LastInterval,
    RenderedMaps,
    render_rays,
    render_rays_in_parts,
    sample_depths,
)
from lib.systems.base import Reconstruction, System, SystemConfig, require_viewpoint

CODE_SIZE = 64  # of the shape code and the texture code
CAMERA = CameraPrior()  # the camera's distance lies within 20 % of 5, its focal length is 4 image widths
DEPTH_RANGE = 0.7  # rays are sampled this far before and behind the world's origin
LEAST_BETA = 1e-4  # of the learned width of the surface
SPHERE_RADIUS = 0.5  # the shape that training starts from
MANY_POINTS = 200_000  # in one rendering; more are rendered in parts, because keeping them takes gigabytes


@dataclass(frozen=True)
class ShapeClipperConfig(SystemConfig):
    """Everything that defines the system. The defaults are the paper's Pix3D setting."""

    # image -> codes, viewpoint
    backbone: str = "resnet34.tv_in1k"  # with torchvision's first ImageNet weights
    viewpoint_backbone: str = "resnet18.tv_in1k"
    backbone_weights: str = "imagenet"
    image_size: int = 224
    image_mean: float = 0.0
    image_std: float = 1.0
    freeze_batchnorm: bool = False
    head_batchnorm: bool = True
    latent_size: int = 512
    viewpoint: Literal["predicted", "given"] = "predicted"
    hard_masks: bool = True  # masks are thresholded, and images composited with these
    # fields and rendering
    symmetric: bool = True
    rays: int = 512
    neighbor_rays: int = 512
    samples: int = 64
    depth_bins: DepthBins = "released"
    last_interval: LastInterval = "zero"
    beta: float = 0.1  # learned from here on
    # objective (Eq. 5-7); a weight of 0 turns a term off: the switches of Tables 2 and 3
    rgb_weight: float = 1.0
    mask_weight: float = 0.5
    normal_weight: float = 0.01
    normal_keep: float = 0.8  # share of the pixels whose normals count; 1: without noise tolerance
    normal_rank: RankBy = "loss"  # what outliers have most of
    semantic_weight: float = 1.0  # 0: without SSC
    neighbor_weighting: NeighborWeighting = "uniform"
    eikonal_weight: float = 0.03
    azimuth_prior_weight: float = 0.1
    camera_margin_weight: float = 0.0
    mirror_weight: float = 0.0
    pretrain_points: int = 10_000

    def __post_init__(self):
        if self.viewpoint not in ("predicted", "given"):
            raise InputError(f"viewpoint: {self.viewpoint!r} is neither 'predicted' nor 'given'")
        if not 0 < self.normal_keep <= 1:
            raise InputError(f"normal_keep: {self.normal_keep} is not in (0, 1]")
        if min(self.rays, self.neighbor_rays, self.samples) < 1:
            raise InputError("rays, neighbor_rays and samples must be at least 1")


PAPER = ShapeClipperConfig()
RELEASED = replace(
    PAPER, neighbor_weighting="released", normal_rank="angle", camera_margin_weight=0.01, mirror_weight=0.1
)
# what can be taken away; the first three are the rows of the paper's Tables 2 and 3
IN_THE_PAPER = ("w/o L_SSC", "w/o normal", "w/o noise-tol")
ABLATIONS = {
    "w/o L_SSC": {"semantic_weight": 0.0},
    "w/o normal": {"normal_weight": 0.0},
    "w/o noise-tol": {"normal_keep": 1.0},
    "w/o symmetry": {"symmetric": False},
    "w/o eikonal": {"eikonal_weight": 0.0},
    "w/o azimuth prior": {"azimuth_prior_weight": 0.0},
    "viewpoint given": {"viewpoint": "given"},
}


class ShapeClipper(System):
    """The whole of Fig. 4: encoder E, fields f_S and f_T, viewpoint estimator V and the renderer R."""

    name = "shapeclipper"
    mesh_grid = (101, 0.6)

    def __init__(self, config: ShapeClipperConfig = PAPER):
        super().__init__()
        self.config = config
        self.needs_viewpoint = config.viewpoint == "given"
        self.neighbor_weighting = config.neighbor_weighting if config.semantic_weight > 0 else None
        self.backbone = self.image_network(config.backbone)
        self.codes = CodeHead(self.backbone.size, config.latent_size, CODE_SIZE, config.head_batchnorm)
        if config.viewpoint == "predicted":
            self.add_estimator()
        self.sdf_field = SDFField(CODE_SIZE, symmetric=config.symmetric, radius=SPHERE_RADIUS)
        self.texture_field = TextureField(CODE_SIZE, symmetric=config.symmetric)
        self.raw_beta = nn.Parameter(torch.tensor(config.beta))

    def image_network(self, name: str, map_channels: int = 0) -> Backbone:
        """A network that sees images as the configuration says."""
        config = self.config
        look = (config.image_size, config.image_mean, config.image_std)
        return Backbone(name, config.backbone_weights, *look, config.freeze_batchnorm, map_channels)

    def add_estimator(self) -> None:
        """V: the viewpoint's network and its head."""
        config = self.config
        self.viewpoint_backbone = self.image_network(config.viewpoint_backbone)
        self.viewpoint_head = ViewpointHead(
            self.viewpoint_backbone.size, CAMERA, config.latent_size, config.head_batchnorm
        )

    def encode(
        self, images: Float[Tensor, "batch height width 3"]
    ) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"], Viewpoint | None]:
        """Shape code s, texture code t and viewpoint v of images; no viewpoint where it is given."""
        shape_code, texture_code = self.codes(self.backbone(images))
        viewpoint = None if self.needs_viewpoint else self.estimate(images)
        return shape_code, texture_code, viewpoint

    def estimate(self, images: Float[Tensor, "batch height width 3"]) -> Viewpoint:
        """V: the viewpoints that images seem to be taken from."""
        return self.viewpoint_head(self.viewpoint_backbone(images))

    def beta(self) -> Tensor:
        """The learned width of the rendered surface, in world units."""
        return self.raw_beta.abs() + LEAST_BETA

    @property
    def status(self) -> dict[str, float]:
        """The width of the surface."""
        return {"beta": round(float(self.beta().detach()), 6)}

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of Eq. 7 and of Sec. 3.4; training minimises their sum.

        Parameters
        ----------
        batch : Batch
            B images with masks, normals (unless their weight is 0) and one neighbour each (unless SSC is off).
        generator : torch.Generator
            Draws pixels, depths and points.
        """
        config = self.config
        self.check(batch)
        batch = self.as_seen(batch)
        # Encode the query: codes s and t (B, 64) and viewpoint v (Sec. 3.1).
        shape_code, texture_code, viewpoint = self.read(batch)

        # Render some of its rays from its own codes and viewpoint, and compare (Eq. 5).
        losses, on_rays = self.compare(batch, shape_code, texture_code, viewpoint, config.rays, generator)

        # The field is a signed distance, also at one point of each of these rays (Sec. 3.4).
        losses["eikonal"] = config.eikonal_weight * self.eikonal(on_rays, shape_code, generator)

        # SSC (Eq. 3): the query's shape explains its semantic neighbour, with the neighbour's texture and viewpoint.
        if config.semantic_weight > 0:
            _, neighbor_texture, neighbor_viewpoint = self.read(batch.neighbor)
            rays = config.neighbor_rays
            terms, _ = self.compare(batch.neighbor, shape_code, neighbor_texture, neighbor_viewpoint, rays, generator)
            losses |= {f"neighbor_{name}": config.semantic_weight * term for name, term in terms.items()}

        # Predicted azimuths spread evenly (Sec. 3.4); the released code also looks at the query in the mirror.
        if not self.needs_viewpoint:
            losses["azimuth_prior"] = config.azimuth_prior_weight * azimuth_prior_loss(viewpoint.azimuth)
            mirrored = self.estimate(batch.rgb.flip(2)) if config.mirror_weight > 0 else None
            losses |= self.margin_and_mirror(viewpoint, mirrored)
        return losses

    def as_seen(self, batch: Batch) -> Batch:
        """The batch with masks as the configuration wants them."""
        return batch.with_hard_masks() if self.config.hard_masks else batch

    def read(self, target: Batch) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"], Viewpoint]:
        """Codes s and t of a batch's images, and their viewpoints: predicted, or given with them."""
        shape_code, texture_code, viewpoint = self.encode(target.rgb)
        return shape_code, texture_code, viewpoint or require_viewpoint(target, "viewpoint='given'")

    def eikonal(
        self,
        on_rays: Float[Tensor, "batch rays 3"],
        shape_code: Float[Tensor, "batch code"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """The length of the gradient of f_S is 1: at points on rays, and at as many anywhere in [-1, 1]^3.

        The code is detached: the term shapes the field, not the encoder. Points on rays are not: it moves viewpoints.
        """
        anywhere = uniform(on_rays.shape, on_rays, generator)
        points = torch.cat([anywhere, on_rays], dim=1)  # (B, 2 rays, 3)
        _, _, gradient = self.sdf_field.with_gradient(points, shape_code.detach())
        return eikonal_loss(gradient)

    def margin_and_mirror(self, viewpoint: Viewpoint, mirrored: Viewpoint | None) -> dict[str, Tensor]:
        """The released code's priors on predicted viewpoints."""
        config, losses = self.config, {}
        if config.camera_margin_weight > 0:
            losses["camera_margin"] = config.camera_margin_weight * camera_margin_loss(viewpoint)
        if mirrored:
            losses["mirror"] = config.mirror_weight * mirror_loss(viewpoint, mirrored)
        return losses

    def compare(
        self,
        target: Batch,
        shape_code: Float[Tensor, "batch code"],
        texture_code: Float[Tensor, "batch code"],
        viewpoint: Viewpoint,
        count: int,
        generator: torch.Generator,
    ) -> tuple[dict[str, Tensor], Float[Tensor, "batch rays 3"]]:
        """Render some rays of the target image and compare: the weighted terms of Eq. 1-2 and 4.

        Also gives one of the points that were looked at on each ray, at random.
        """
        config = self.config
        index = sample_pixels(target.ray_weights, count, generator)  # (B, rays)
        mask = values_at(target.mask, index)  # (B, rays)
        inside = (mask > 0.5) & (config.normal_weight > 0)
        rays, depths = self.sample(viewpoint, index, target.rgb.shape[1], generator)  # depths: (B, rays, S)
        maps = self.render(shape_code, texture_code, rays, depths, inside)
        losses = {
            "rgb": config.rgb_weight * rgb_loss(maps.rgb, values_at(target.rgb, index)),
            "mask": config.mask_weight * mask_loss(maps.mask, mask),
        }
        if config.normal_weight > 0:
            normal = values_at(target.normal, index)  # (B, rays, 3), camera frame
            visible = inside & (maps.mask > 0.5)
            rotation = viewpoint.rotation()
            loss = normal_loss(maps.normal, normal, rotation, visible, config.normal_keep, config.normal_rank)
            losses["normal"] = config.normal_weight * loss
        chosen = torch.randint(depths.shape[2], index.shape, generator=generator, device=generator.device)
        on_rays = points_along(rays, depths.gather(2, chosen.to(index.device)[..., None]))  # (B, rays, 1, 3)
        return losses, on_rays[:, :, 0]

    def sample(
        self,
        viewpoint: Viewpoint,
        index: Int[Tensor, "batch rays"],
        image_size: int,
        generator: torch.Generator | None,
        samples: int | None = None,
    ) -> tuple[Rays, Float[Tensor, "batch rays samples"]]:
        """Rays through pixels of an image, and the depths that R looks at; no random ones without a generator."""
        config = self.config
        near, far = viewpoint.distance - DEPTH_RANGE, viewpoint.distance + DEPTH_RANGE
        count = samples or config.samples
        depths = sample_depths(near, far, index.shape[1], count, generator, config.depth_bins)
        return camera_rays(viewpoint, index_to_pixel(index, image_size)), depths

    def render(
        self,
        shape_code: Float[Tensor, "batch code"],
        texture_code: Float[Tensor, "batch code"] | None,
        rays: Rays,
        depths: Float[Tensor, "batch rays samples"],
        needs_normal: Bool[Tensor, "batch rays"] | None = None,
    ) -> RenderedMaps:
        """R: what is seen along rays; white without a texture code. Only rays that need one get a normal."""
        field = colored_field(self.sdf_field, self.texture_field, shape_code, texture_code)
        render = render_rays_in_parts if depths.numel() > MANY_POINTS else render_rays
        return render(field, rays, depths, self.beta(), self.config.last_interval, needs_normal)

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Before training: any code gives a sphere (Sec. 3.4), and the released code spreads the azimuths."""
        losses = {"shape": self.sphere_loss(len(batch.rgb), generator)}
        if not self.needs_viewpoint:
            with torch.no_grad():  # only the last layer of the head learns
                features = self.viewpoint_backbone(self.as_seen(batch).rgb)
            azimuth = self.viewpoint_head.azimuth_of_last_layer(features)
            losses["azimuth_prior"] = azimuth_prior_loss(azimuth, power=1)
        return losses

    def sphere_loss(self, count: int, generator: torch.Generator) -> Tensor:
        """Squared difference from a sphere's signed distance, for codes of random latents."""
        noise = torch.randn((count, self.config.latent_size), generator=generator, device=generator.device)
        code = self.codes.shape_projection(noise.to(self.raw_beta.device))
        points = uniform((count, self.config.pretrain_points, 3), code, generator)
        return (self.sdf_field(points, code)[0] - sphere_sdf(points, SPHERE_RADIUS)).square().mean()

    def reconstruct(
        self, images: Float[Tensor, "batch height width 3"], viewpoint: Viewpoint | None = None
    ) -> Reconstruction:
        """Shapes of segmented images on white, in [0, 1].

        Parameters
        ----------
        viewpoint : Viewpoint, optional
            Of the images, where it is known; without it a system with given viewpoints assumes a view from the front.
        """
        with torch.no_grad():
            shape_code, texture_code, predicted = self.encode(images)
            beta = float(self.beta())
        zero = images.new_zeros(len(images))
        front = Viewpoint.from_angles(zero, zero, distance=CAMERA.distance, focal=CAMERA.focal)

        def field(i: int, points: Tensor):
            one = slice(i, i + 1)
            return colored_field(self.sdf_field, self.texture_field, shape_code[one], texture_code[one])(points)

        def distance(i: int, points: Tensor):
            return self.sdf_field(points, shape_code[i : i + 1])[0]

        view = viewpoint or predicted or front
        bins, grid = self.config.depth_bins, self.mesh_grid
        return Reconstruction(field, distance, view, beta, DEPTH_RANGE, bins=bins, mesh_grid=grid)

    def reconstruct_batch(self, batch: Batch) -> Reconstruction:
        """Shapes of a batch, seen with the masks of training."""
        return super().reconstruct_batch(self.as_seen(batch))

    def check(self, batch: Batch) -> None:
        """One sentence where the dataset lacks what the objective needs."""
        if self.config.normal_weight > 0 and batch.normal is None:
            raise InputError("normal_weight > 0 needs a dataset whose samples have normals; or set it to 0")
        if self.config.semantic_weight > 0 and batch.neighbor is None:
            raise InputError("semantic_weight > 0 needs neighbours: give the dataset's neighbour file, or set it to 0")
