"""What defines SDF-SRN: every setting, the paper's settings by name, and the switches of its Table 3."""

from dataclasses import dataclass, replace
from typing import Literal

from lib.errors import InputError
from lib.geometry.cameras import Projection
from lib.geometry.distance_transform import Beyond
from lib.networks.backbones import ImageLayout
from lib.rendering.ray_marching import HitGradient


@dataclass(frozen=True)
class SDFSRNConfig:
    """Everything that defines the system. The defaults are the paper's ShapeNet setting; `CONFIGS` has others.

    What the paper leaves to its supplement is the released code's: sizes, depths, LayerNorm. Losses are means over
    pixels, depths and colour channels, as the released code computes them, where Eq. 4, 7 and 8 write sums: the
    weights belong to the means.
    """

    # image -> code -> fields
    backbone: str = "resnet18"
    backbone_weights: str = "imagenet"
    image_size: int = 64
    image_mean: float = 0.5
    image_std: float = 0.5
    freeze_batchnorm: bool = False
    image_layout: ImageLayout = "auto"  # in memory; the same numbers to rounding, see lib.networks.backbones.Backbone
    latent_size: int = 512
    hyper_layers: int = 5
    hyper_width: int = 512
    width: int = 128
    layers: int = 4
    frequencies: int = 5  # 0: without positional encoding
    # known viewpoints
    viewpoint: Literal["given"] = "given"
    projection: Projection = "perspective"
    distance: float = 2.732  # of the view from the front, where none is given
    focal: float = 1.8660254  # a field of view of 30 degrees
    # marching (Eq. 6)
    render_path: Literal["auto", "fast", "compiled"] = "auto"  # the same to rounding; "auto": compiled in long runs
    near: float = 0.732  # rays start so far before the origin; at distance 2.732: at 2
    far: float = 0.768  # silhouette depths reach so far behind it: to 3.5
    steps: int = 10
    bisections: int = 10
    state_size: int = 32
    hit_gradient: HitGradient = "unrolled"  # the paper's; "implicit": see lib.rendering.ray_marching
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
    cube_weight: float = 0.0  # ours: marched points outside the unit cube keep their distance to it
    bound: float = 1.0  # eikonal and pretraining points are in [-bound, bound]^3
    sphere_radius: float = 0.5
    pretrain_points: int = 10_000
    # augmentation of the training images
    jitter: float = 0.0  # colours
    rescale: float = 0.0  # sizes, by 1 +- rescale
    # optimisation of the code at test time
    refine_steps: int = 500
    refine_rate: float = 1e-2

    def __post_init__(self):
        if self.viewpoint != "given":
            raise InputError(f"viewpoint: SDF-SRN needs viewpoint='given', not {self.viewpoint!r}")
        if self.field not in ("distance", "occupancy"):
            raise InputError(f"field: {self.field!r} is neither 'distance' nor 'occupancy'")
        if self.beyond not in ("background", "unknown"):
            raise InputError(f"beyond: {self.beyond!r} is neither 'background' nor 'unknown'")
        if self.hit_gradient not in ("implicit", "unrolled"):
            raise InputError(f"hit_gradient: {self.hit_gradient!r} is neither 'implicit' nor 'unrolled'")
        if self.render_path not in ("auto", "fast", "compiled"):
            raise InputError(f"render_path: {self.render_path!r} is none of 'auto', 'fast', 'compiled'")
        if min(self.rays, self.steps, self.layers, self.silhouette_depths) < 1:
            raise InputError("rays, steps, layers and silhouette_depths must be at least 1")
        if not 0 <= self.rescale < 1:
            raise InputError(f"rescale: {self.rescale} is not in [0, 1)")


SHAPENET = SDFSRNConfig()
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
SMALL = replace(
    SHAPENET,
    backbone="tf_efficientnet_lite0",
    image_mean=127 / 255,
    image_std=128 / 255,
    freeze_batchnorm=True,
    latent_size=256,
    hyper_layers=1,
    hyper_width=128,
    width=64,
    distance=5.0,
    focal=4.0,
    near=0.8,
    far=0.8,
    rays=256,
    silhouette_depths=3,
    hit_gradient="implicit",
    eikonal_points=1000,
    cube_weight=1.0,
    pretrain_points=1000,
)
SINGLE_VIEW = replace(SHAPENET, jitter=0.2)  # one view a model: `lib.training.recipes` says so to what loads the images
CONFIGS = {
    "shapenet": SHAPENET,
    "shapenet-single-view": SINGLE_VIEW,
    "pascal3d": PASCAL3D,
    "small": SMALL,
}

# the rows of the paper's Table 3, as changes of the configuration
ABLATIONS = {
    "binary occupancy": {"field": "occupancy"},
    "w/o rendering loss": {"rgb_weight": 0.0},
    "w/o importance weighting": {"importance": False},
    "w/o positional encoding": {"frequencies": 0},
}


def for_category(config: SDFSRNConfig, category: str) -> SDFSRNConfig:
    """The setting for one category: ShapeNet's airplanes have lambda_SDF = 1 (Sec. 4.1), all others are alike.

    Pascal3D+'s have it not: its settings are known by their projection.
    """
    airplane = category in ("airplane", "aeroplane", "02691156") and config.projection == "perspective"
    return replace(config, sdf_weight=1.0) if airplane else config
