"""What defines ShapeClipper: every setting, and the named sets of them."""

from dataclasses import dataclass, replace
from typing import Literal

from lib.errors import InputError
from lib.geometry.cameras import Projection
from lib.losses.semantic import NeighborWeighting
from lib.networks.backbones import ImageLayout
from lib.rendering.paths import RenderPath
from lib.rendering.volume import LastInterval


@dataclass(frozen=True)
class ShapeClipperConfig:
    """Everything that defines the system. The defaults are the paper's Pix3D setting; see `CONFIGS` for others.

    Where paper and released code differ, the default is the paper's and `CONFIGS["released"]` the code's.
    """

    # image -> codes, viewpoint
    backbone: str = "resnet34"
    viewpoint_backbone: str = "resnet18"  # "shared": the codes' backbone serves the viewpoint too
    viewpoint_channels: int = 0  # above 0, its features keep their place in the image: lib.networks.backbones (ours)
    backbone_weights: str = "imagenet"
    image_size: int = 224
    image_mean: float = 0.0
    image_std: float = 1.0
    freeze_batchnorm: bool = False
    image_layout: ImageLayout = "auto"  # in memory; the same numbers to rounding, see lib.networks.backbones.Backbone
    head_batchnorm: bool = True
    latent_size: int = 512
    code_size: int = 64
    mean_color: bool = False  # the texture code also has the image's mean colour: lib.networks.heads (ours)
    viewpoint: Literal["predicted", "given"] = "predicted"
    projection: Projection = "perspective"
    distance: float = 5.0
    distance_range: float = 0.2
    focal: float = 4.0
    start_elevation: float = 0.0  # degrees
    center_range: float = 0.0  # image widths; above 0 the principal point is predicted too (ours)
    learn: Literal["all", "texture"] = "all"  # "texture": shapes and viewpoints stay (ours)
    # fields
    width: int = 64
    sdf_layers: int = 5
    texture_layers: int = 3
    frequencies: int = 6
    symmetric: bool = True
    sphere_radius: float = 0.5
    # rendering
    rays: int = 512
    neighbor_rays: int = 512
    samples: int = 64
    depth_range: float = 0.7
    last_interval: LastInterval = "zero"
    render_path: RenderPath = "auto"  # the same maps, see lib.rendering.paths
    skip_weight: float = 0.0  # above 0, points of no larger weight have no colour and normal (lib.rendering.skipping)
    skip_beta: float = 0.02  # and only where beta is below this
    beta: float = 0.1  # learned from here on, unless beta_final is set
    beta_min: float = 1e-4
    beta_final: float | None = None  # then log-linear from beta to beta_final between two points of training
    beta_from: float = 0.0
    beta_until: float = 0.7
    # objective (Eq. 5-7); a weight of 0 turns a term off: the switches of Tables 2 and 3
    rgb_weight: float = 1.0
    mask_weight: float = 0.5
    normal_weight: float = 0.01
    normal_l1_weight: float = 5.0
    normal_keep: float = 0.8  # 1: without noise tolerance
    semantic_weight: float = 1.0  # 0: without SSC
    neighbor_weighting: NeighborWeighting = "uniform"
    eikonal_weight: float = 0.03
    azimuth_prior_weight: float = 0.1
    camera_margin_weight: float = 0.0
    mirror_weight: float = 0.0
    pretrain_points: int = 10_000
    augment_mirrored: bool = False  # the mirrored image also changes colour and size (ours)
    # viewpoint guesses from normals (ours; weight 0: off, as in the paper), see lib.systems.guesses
    guess_weight: float = 0.0
    guesses_until: float = 0.7  # share of training; from then on images are rendered from the estimator's viewpoints
    quarters_from: float = 0.1  # share of training; from then on the shape decides between quarter turns of a guess
    quarter_margin: float = 0.05
    quarter_rays: int = 96
    quarter_samples: int = 16

    def __post_init__(self):
        if self.viewpoint not in ("predicted", "given"):
            raise InputError(f"viewpoint: {self.viewpoint!r} is neither 'predicted' nor 'given'")
        if self.viewpoint_channels > 0 and self.viewpoint_backbone == "shared":
            raise InputError("viewpoint_channels: a shared backbone has no maps of its own; set it to 0")
        if self.learn not in ("all", "texture"):
            raise InputError(f"learn: {self.learn!r} is neither 'all' nor 'texture'")
        if self.learn == "texture" and (self.head_batchnorm or not self.freeze_batchnorm):
            raise InputError("learn: 'texture' needs freeze_batchnorm=true and head_batchnorm=false, else shapes move")
        if not 0 < self.normal_keep <= 1:
            raise InputError(f"normal_keep: {self.normal_keep} is not in (0, 1]")
        if min(self.rays, self.neighbor_rays, self.samples) < 1:
            raise InputError("rays, neighbor_rays and samples must be at least 1")


PAPER = ShapeClipperConfig()
RELEASED = replace(PAPER, neighbor_weighting="released", camera_margin_weight=0.01, mirror_weight=0.1)
SMALL = replace(
    RELEASED,
    neighbor_weighting="silhouette",
    backbone="tf_efficientnet_lite0",
    viewpoint_backbone="tf_efficientnet_lite0",
    viewpoint_channels=32,
    image_size=64,
    image_mean=127 / 255,
    image_std=128 / 255,
    freeze_batchnorm=True,
    head_batchnorm=False,
    latent_size=256,
    rays=128,
    neighbor_rays=64,
    samples=24,
    beta_final=0.015,
    pretrain_points=1000,
)
CONFIGS = {"paper": PAPER, "released": RELEASED, "small": SMALL}

# the rows of the paper's Tables 2 and 3, and what else can be taken away, as changes of the configuration
ABLATIONS = {
    "w/o L_SSC": {"semantic_weight": 0.0},
    "w/o normal": {"normal_weight": 0.0},
    "w/o noise-tol": {"normal_keep": 1.0},
    "w/o symmetry": {"symmetric": False},
    "w/o eikonal": {"eikonal_weight": 0.0},
    "w/o azimuth prior": {"azimuth_prior_weight": 0.0},
    "viewpoint given": {"viewpoint": "given"},
}
IN_THE_PAPER = ("w/o L_SSC", "w/o normal", "w/o noise-tol")
