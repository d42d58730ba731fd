"""SDF-SRN as the course trains it on two cores: smaller, with another gradient of the surface and a loss of ours."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from lib.errors import InputError
from lib.fields.hypernetwork import WrittenField
from lib.geometry.cameras import Rays, points_along
from lib.losses.field import cube_distance, cube_loss
from lib.rendering.ray_marching import HitGradient, Surface, find_surface
from lib.systems.base import System
from lib.systems.sdf_srn import SDFSRN, SDFSRNConfig, Target


@dataclass(frozen=True)
class SDFSRNSmallConfig(SDFSRNConfig):
    """The settings of ours; the paper's are inherited, with defaults that fit two cores and the built-in furniture."""

    backbone: str = "tf_efficientnet_lite0"
    image_mean: float = 127 / 255
    image_std: float = 128 / 255
    freeze_batchnorm: bool = True
    latent_size: int = 256
    hyper_layers: int = 1
    hyper_width: int = 128
    width: int = 64
    distance: float = 5.0
    focal: float = 4.0
    near: float = 0.8
    far: float = 0.8
    rays: int = 256
    silhouette_depths: int = 3
    eikonal_points: int = 1000
    pretrain_points: int = 1000
    refine_rays: int | None = 256
    hit_gradient: HitGradient = "implicit"  # "unrolled" is the paper's: see lib.rendering.ray_marching
    cube_weight: float = 1.0  # marched points outside the unit cube keep their distance to it

    def __post_init__(self):
        super().__post_init__()
        if self.hit_gradient not in ("implicit", "unrolled"):
            raise InputError(f"hit_gradient: {self.hit_gradient!r} is neither 'implicit' nor 'unrolled'")


SMALL = SDFSRNSmallConfig()


class SDFSRNSmall(SDFSRN):
    """`SDFSRN` with the additions of this module."""

    name = "sdf_srn_small"
    mesh_grid = System.mesh_grid

    def __init__(self, config: SDFSRNSmallConfig = SMALL):
        super().__init__(config)

    def surface(self, field: WrittenField, rays: Rays, depths: Tensor, values: Tensor) -> Surface:
        """Where rays meet the surface, with the gradient of the implicit function theorem."""
        return find_surface(field.distance, rays, depths, values.detach(), gradient=self.config.hit_gradient)

    def ray_losses(self, target: Target, depths: Tensor, values: Tensor) -> dict[str, Tensor]:
        """Eq. 7, and what keeps the shape in the cube that the data's objects are known to be in."""
        losses = super().ray_losses(target, depths, values)
        if self.config.cube_weight > 0:
            points = points_along(target.rays, depths)  # (B, R, N + 1, 3)
            if self.config.field == "distance":
                loss = cube_loss(points, values)
            else:  # cross-entropy of "empty" beyond the cube: a logit knows no distance
                loss = (F.softplus(-values) * (cube_distance(points) > 0)).mean()
            losses["cube"] = self.config.cube_weight * loss
        return losses
