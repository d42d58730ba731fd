"""ShapeClipper as the course trains it on two cores: smaller, and with additions of ours that no paper has.

- The width of the rendered surface follows a schedule instead of being learned.
- Viewpoints that nobody gave are first guessed from normals (`lib.systems.guesses`); the estimator is pulled towards
  the guess, and the shape decides which quarter turn of it is right.
- The estimator keeps where things are in the image, sees mirrored images in other colours and sizes, and may predict
  the principal point.
- Images keep the soft masks that they were rendered with, depths come from bins of one width, the eikonal term looks at
  points of the unit cube instead of points on rays, and azimuths of neighbours are spread evenly too.
- The texture code also gets the image's mean colour, and a second training can give colours to finished shapes.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lib.data.augment import augmented
from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.geometry.cameras import Viewpoint, unit_pair
from lib.losses.camera import azimuth_prior_loss, viewpoint_distance
from lib.losses.normal import RankBy, to_canonical
from lib.losses.reprojection import soft_iou
from lib.networks.heads import ColorCode, ViewpointHead
from lib.rendering.sampling import sample_pixels, uniform, values_at
from lib.rendering.volume import DepthBins
from lib.systems.base import System
from lib.systems.guesses import guess_viewpoints
from lib.systems.shapeclipper import CAMERA, CODE_SIZE, ShapeClipper, ShapeClipperConfig

BETA_UNTIL = 0.7  # share of the training after which the width of the surface stays
QUARTERS_FROM = 0.1  # share of the training after which the shape decides between quarter turns of a guess
QUARTER_MARGIN = 0.05  # how much better a turned viewpoint must explain the image
QUARTER_RAYS, QUARTER_SAMPLES = 96, 16


@dataclass(frozen=True)
class ShapeClipperSmallConfig(ShapeClipperConfig):
    """The settings of ours; their defaults are those of the recipe `small-given`. The paper's are inherited."""

    backbone: str = "tf_efficientnet_lite0"
    viewpoint_backbone: str = "tf_efficientnet_lite0"
    viewpoint_channels: int = 32  # the estimator's features keep their place in the image (lib.networks.backbones)
    image_size: int = 64
    image_mean: float = 127 / 255
    image_std: float = 128 / 255
    freeze_batchnorm: bool = True
    head_batchnorm: bool = False
    latent_size: int = 256
    start_elevation: float = 0.0  # degrees, where the estimator begins
    center_range: float = 0.0  # image widths; above 0 the principal point is predicted too
    mean_color: bool = False  # the texture code also gets the image's mean colour
    learn: Literal["all", "texture"] = "all"  # "texture": shapes and viewpoints stay as they are
    rays: int = 128
    neighbor_rays: int = 64
    samples: int = 24
    hard_masks: bool = False
    depth_bins: DepthBins = "equal"
    beta_final: float = 0.015  # log-linear from beta to this
    neighbor_weighting: str = "silhouette"
    normal_rank: RankBy = "angle"
    camera_margin_weight: float = 0.005  # half of the released code's
    mirror_weight: float = 0.1 / 6  # a sixth of the released code's
    augment_mirrored: bool = False  # the mirrored image also changes colour and size
    guess_weight: float = 0.0  # of the pull towards guessed viewpoints; 0: no guesses
    guesses_until: float = 1.0  # share of the training; then images are rendered from the estimator's viewpoints
    pretrain_points: int = 1000

    def __post_init__(self):
        super().__post_init__()
        if self.learn not in ("all", "texture"):
            raise InputError(f"learn: {self.learn!r} is neither 'all' nor 'texture'")
        if self.learn == "texture" and (self.head_batchnorm or not self.freeze_batchnorm):
            raise InputError("learn: 'texture' needs freeze_batchnorm=true and head_batchnorm=false, else shapes move")


SMALL = ShapeClipperSmallConfig()


class ShapeClipperSmall(ShapeClipper):
    """`ShapeClipper` with the additions of this module."""

    name = "shapeclipper_small"
    mesh_grid = System.mesh_grid

    def __init__(self, config: ShapeClipperSmallConfig = SMALL):
        super().__init__(config)
        self.color_code = ColorCode(CODE_SIZE) if config.mean_color else None
        self.raw_beta.requires_grad_(False)  # scheduled
        if config.learn == "texture":
            self.fresh_parts = ("texture_field",)  # one that has painted everything grey stays grey
            self.requires_grad_(False)
            for part in (self.texture_field, self.codes.texture_projection, self.color_code):
                if part is not None:
                    part.requires_grad_(True)
        self.register_buffer("guesses", torch.zeros(0, 2), persistent=False)  # azimuth, elevation of training images
        self.register_buffer("progress", torch.zeros(()))  # share of the training that is done

    def add_estimator(self) -> None:
        """V, whose features keep their place in the image and which may predict the principal point."""
        config = self.config
        start = math.radians(config.start_elevation)
        camera = replace(CAMERA, start_elevation=start, center_range=config.center_range)
        self.viewpoint_backbone = self.image_network(config.viewpoint_backbone, config.viewpoint_channels)
        self.viewpoint_head = ViewpointHead(
            self.viewpoint_backbone.size, camera, config.latent_size, config.head_batchnorm
        )

    def begin_step(self, done: float) -> None:
        """Move the schedules on."""
        self.progress.fill_(done)

    def beta(self) -> Tensor:
        """The width of the surface: log-linear from `beta` to `beta_final`, then constant."""
        config = self.config
        done = (self.progress / BETA_UNTIL).clamp(max=1)
        return config.beta * (config.beta_final / config.beta) ** done

    def prepare(self, data: PreparedDataset) -> None:
        """Guess the viewpoints of the whole training set from its normals, where guesses are asked for."""
        if self.needs_viewpoint or self.config.guess_weight == 0:
            return
        if data.batch(torch.arange(1)).normal is None:
            raise InputError("guess_weight > 0 needs a dataset whose samples have normals; or set it to 0")
        batches = map(data.batch, torch.arange(len(data)).split(256))
        guesses = guess_viewpoints(((some.normal, some.mask) for some in batches), data.metadata["model"].to_numpy())
        self.guesses = torch.stack([guesses.azimuth, guesses.elevation], dim=-1).to(self.guesses.device)

    def encode(
        self, images: Float[Tensor, "batch height width 3"]
    ) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"], Viewpoint | None]:
        """As in the paper; the texture code may also get the mean colour."""
        shape_code, texture_code, viewpoint = super().encode(images)
        if self.color_code is not None:
            texture_code = texture_code + self.color_code(images)
        return shape_code, texture_code, viewpoint

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The paper's terms; as long as there are guesses, images are rendered from those, and pull the estimator."""
        config = self.config
        self.check(batch)
        with_neighbor = config.semantic_weight > 0
        # Encode the query and its neighbour, and look at the query in the mirror.
        shape_code, texture_code, viewpoint = self.read(batch)
        neighbor_viewpoint = mirrored = None
        if with_neighbor:
            neighbor_shape, neighbor_texture, neighbor_viewpoint = self.read(batch.neighbor)
        if not self.needs_viewpoint and config.mirror_weight > 0:
            mirrored = self.estimate(self.mirror(batch.rgb, generator))

        # Choose the viewpoints to render from: the estimator's, or guesses that pull the estimator.
        losses = {}
        from_view, neighbor_from_view = viewpoint, neighbor_viewpoint
        if len(self.guesses) and self.progress < config.guesses_until:
            from_view = self.guessed(batch, viewpoint, shape_code, generator)
            pulls = [viewpoint_distance(viewpoint, from_view)]
            if with_neighbor:
                neighbor_from_view = self.guessed(batch.neighbor, neighbor_viewpoint, neighbor_shape, generator)
                pulls.append(viewpoint_distance(neighbor_viewpoint, neighbor_from_view))
            if mirrored:
                pulls.append(viewpoint_distance(mirrored, from_view.mirrored()))
            losses["guess"] = config.guess_weight * torch.cat(pulls).mean()

        # Render and compare, as in the paper.
        terms, on_rays = self.compare(batch, shape_code, texture_code, from_view, config.rays, generator)
        losses |= terms
        losses["eikonal"] = config.eikonal_weight * self.eikonal(on_rays, shape_code, generator)
        if with_neighbor:
            rays = config.neighbor_rays
            terms, _ = self.compare(batch.neighbor, shape_code, neighbor_texture, neighbor_from_view, rays, generator)
            losses |= {f"neighbor_{name}": config.semantic_weight * term for name, term in terms.items()}
        if not self.needs_viewpoint:
            azimuths = viewpoint.azimuth  # (B, 2)
            if with_neighbor:
                azimuths = torch.cat([azimuths, neighbor_viewpoint.azimuth])  # (2 B, 2)
            losses["azimuth_prior"] = config.azimuth_prior_weight * azimuth_prior_loss(azimuths)
            losses |= self.margin_and_mirror(viewpoint, mirrored)
        return losses

    def eikonal(self, on_rays: Tensor, shape_code: Tensor, generator: torch.Generator) -> Tensor:
        """As in the paper, at as many points of the unit cube instead of those on rays."""
        in_cube = 0.5 * uniform(on_rays.shape, on_rays, generator)
        return super().eikonal(in_cube, shape_code, generator)

    def mirror(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored images, in other colours and sizes where the configuration says so."""
        flipped = images.flip(2)
        return augmented(flipped, generator) if self.config.augment_mirrored else flipped

    def guess_at(self, index: Tensor, like: Viewpoint) -> Viewpoint:
        """The guessed angles of training images, at the estimator's distance."""
        azimuth, elevation = self.guesses[index].unbind(-1)
        roll = torch.zeros_like(azimuth)
        return replace(like, azimuth=unit_pair(azimuth), elevation=unit_pair(elevation), roll=unit_pair(roll))

    def guessed(self, target: Batch, estimate: Viewpoint, shape_code: Tensor, generator: torch.Generator) -> Viewpoint:
        """The guess, turned by as many quarters as bring it closest to the estimate; later, as explain the image."""
        viewpoint = nearest_quarter(self.guess_at(target.index, estimate), estimate)
        if self.progress < QUARTERS_FROM:
            return viewpoint
        return self.best_quarter(target, shape_code, viewpoint, generator)

    @torch.no_grad()
    def best_quarter(
        self, target: Batch, shape_code: Tensor, viewpoint: Viewpoint, generator: torch.Generator
    ) -> Viewpoint:
        """The viewpoint, turned by quarters where the shape explains the image better then, by a margin.

        A score is 1 - IoU of the mask plus the mean angular error (1 - cos) of the normals on the object. All turns
        see the same pixels and depths, so that equal ones score equally.
        """
        index = sample_pixels(target.ray_weights, QUARTER_RAYS, generator)
        mask, normal = values_at(target.mask, index), values_at(target.normal, index)
        scores, size = [], target.rgb.shape[1]
        for turn in quarter_turns(viewpoint):
            view = viewpoint.turned(turn)
            rays, depths = self.sample(view, index, size, None, QUARTER_SAMPLES)
            maps = self.render(shape_code, None, rays, depths, mask > 0)
            angular = 1 - (maps.normal * to_canonical(normal, view.rotation())).sum(-1) * maps.mask
            scores.append(1 - soft_iou(maps.mask, mask) + (angular * mask).sum(-1) / (mask.sum(-1) + 1e-6))
        scores[0] = scores[0] - QUARTER_MARGIN
        return viewpoint.turned(quarter_turns(viewpoint)[torch.stack(scores).argmin(dim=0), 0])

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """A sphere for any code; with guesses the whole estimator learns them, also from mirrored images."""
        if self.needs_viewpoint or len(self.guesses) == 0:
            return super().pretrain_losses(batch, generator)
        losses = {"shape": self.sphere_loss(len(batch.rgb), generator)}
        count = len(batch.rgb)
        viewpoint = self.estimate(torch.cat([batch.rgb, self.mirror(batch.rgb, generator)]))
        guess = self.guess_at(batch.index, viewpoint[:count])
        distances = torch.cat(
            [viewpoint_distance(viewpoint[:count], guess), viewpoint_distance(viewpoint[count:], guess.mirrored())]
        )
        return losses | {"guess": self.config.guess_weight * distances.mean()}


def nearest_quarter(viewpoint: Viewpoint, other: Viewpoint) -> Viewpoint:
    """The viewpoint, turned by 0, 90, 180 or 270 degrees so that its azimuth is closest to the other's."""
    turns = quarter_turns(viewpoint)
    likeness = torch.stack([(viewpoint.turned(turn).azimuth * other.azimuth).sum(-1) for turn in turns])
    return viewpoint.turned(turns[likeness.argmax(dim=0), 0])


def quarter_turns(viewpoint: Viewpoint) -> Float[Tensor, "quarters batch"]:
    """0, 90, 180 and 270 degrees in radians, for each viewpoint."""
    quarters = torch.arange(4, device=viewpoint.azimuth.device) * (math.pi / 2)
    return quarters[:, None].expand(4, len(viewpoint))
