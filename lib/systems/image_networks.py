"""What ShapeClipper's configuration says about its image networks."""

import math

from lib.backbones import Backbone
from lib.encoders import CameraPrior
from lib.systems.shapeclipper_config import ShapeClipperConfig


def code_backbone(config: ShapeClipperConfig) -> Backbone:
    """The network behind the shape and texture codes."""
    return _backbone(config, config.backbone)


def viewpoint_backbone(config: ShapeClipperConfig) -> Backbone:
    """The viewpoint estimator's own network."""
    return _backbone(config, config.viewpoint_backbone, config.viewpoint_channels)


def camera_prior(config: ShapeClipperConfig) -> CameraPrior:
    """What the viewpoint estimator takes for granted."""
    c = config
    start = math.radians(c.start_elevation)
    return CameraPrior(c.distance, c.distance_range, c.focal, c.projection, start, c.center_range)


def _backbone(config: ShapeClipperConfig, name: str, map_channels: int = 0) -> Backbone:
    c = config
    look = (c.image_size, c.image_mean, c.image_std)
    return Backbone(name, c.backbone_weights, *look, c.freeze_batchnorm, map_channels, c.image_layout)
