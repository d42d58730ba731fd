"""A paper a file: its parts put together, its objective, its configuration. What is ours is a subclass beside it."""

from lib.systems.base import System, SystemConfig
from lib.systems.sdf_srn import SDFSRN, SDFSRNConfig
from lib.systems.sdf_srn_small import SDFSRNSmall, SDFSRNSmallConfig
from lib.systems.shapeclipper import ShapeClipper, ShapeClipperConfig
from lib.systems.shapeclipper_small import ShapeClipperSmall, ShapeClipperSmallConfig

SYSTEMS = {
    "shapeclipper": (ShapeClipper, ShapeClipperConfig),
    "shapeclipper_small": (ShapeClipperSmall, ShapeClipperSmallConfig),
    "sdf_srn": (SDFSRN, SDFSRNConfig),
    "sdf_srn_small": (SDFSRNSmall, SDFSRNSmallConfig),
}


def make_system(config: SystemConfig) -> System:
    """The system that a configuration belongs to, with new weights."""
    for system_class, config_class in SYSTEMS.values():
        if type(config) is config_class:
            return system_class(config)
    raise TypeError(f"no system has a configuration of type {type(config).__name__}")
