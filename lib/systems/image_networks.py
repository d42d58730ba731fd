"""What ShapeClipper's configuration says about its image networks."""

import math

from lib.encoders import Backbone, CameraPrior
from lib.systems.shapeclipper_config import ShapeClipperConfig


def code_backbone(config: ShapeClipperConfig) -> Backbone:
    """The network behind the shape and texture codes."""
    return _backbone(config, config.backbone, config.image_size)


def viewpoint_backbone(config: ShapeClipperConfig) -> Backbone:
    """The viewpoint estimator's own network."""
    size = config.viewpoint_image_size or config.image_size
    return _backbone(config, config.viewpoint_backbone, size, config.viewpoint_channels)


def camera_prior(config: ShapeClipperConfig) -> CameraPrior:
    """What the viewpoint estimator takes for granted."""
    c = config
    start = math.radians(c.start_elevation)
    return CameraPrior(c.distance, c.distance_range, c.focal, c.projection, start, c.center_range)


def _backbone(config: ShapeClipperConfig, name: str, size: int, map_channels: int = 0) -> Backbone:
    c = config
    return Backbone(name, c.backbone_weights, size, c.image_mean, c.image_std, c.freeze_batchnorm, map_channels)
