"""A paper in one file: its parts put together, its objective, its configuration."""

import torch

from lib.systems.sdf_srn import SDFSRN
from lib.systems.sdf_srn_config import SDFSRNConfig
from lib.systems.shapeclipper import ShapeClipper
from lib.systems.shapeclipper_config import ShapeClipperConfig

# A thin surface (small beta) gives densities below 1e-38, on which a CPU is many times slower: flush them to zero.
# Threads inherit the setting when they start, so it comes before the first tensor is computed.
torch.set_flush_denormal(True)

SYSTEMS = {"shapeclipper": (ShapeClipper, ShapeClipperConfig), "sdf_srn": (SDFSRN, SDFSRNConfig)}


def make_system(config: ShapeClipperConfig | SDFSRNConfig) -> ShapeClipper | SDFSRN:
    """The system that a configuration belongs to, with new weights."""
    (make,) = (make for make, kind in SYSTEMS.values() if type(config) is kind)
    return make(config)
