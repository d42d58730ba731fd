"""What a configuration says about its image networks."""

import math

from lib.networks.backbones import Backbone
from lib.networks.heads import CameraPrior
from lib.systems.sdf_srn_config import SDFSRNConfig
from lib.systems.shapeclipper_config import ShapeClipperConfig


def code_backbone(config: ShapeClipperConfig) -> Backbone:
    """The network behind the shape and texture codes."""
    return backbone_of(config, config.backbone)


def viewpoint_backbone(config: ShapeClipperConfig) -> Backbone:
    """The viewpoint estimator's own network."""
    return backbone_of(config, config.viewpoint_backbone, config.viewpoint_channels)


def camera_prior(config: ShapeClipperConfig) -> CameraPrior:
    """What the viewpoint estimator takes for granted."""
    c = config
    start = math.radians(c.start_elevation)
    return CameraPrior(c.distance, c.distance_range, c.focal, c.projection, start, c.center_range)


def backbone_of(config: ShapeClipperConfig | SDFSRNConfig, name: str, map_channels: int = 0) -> Backbone:
    """A network that sees images as the configuration says."""
    c = config
    look = (c.image_size, c.image_mean, c.image_std)
    return Backbone(name, c.backbone_weights, *look, c.freeze_batchnorm, map_channels, c.image_layout)
