"""A paper in one file: its parts put together, its objective, its configuration."""

import torch

from lib.systems.shapeclipper import ShapeClipper
from lib.systems.shapeclipper_config import ShapeClipperConfig

# A thin surface (small beta) gives densities below 1e-38, on which a CPU is many times slower: flush them to zero.
# Threads inherit the setting when they start, so it comes before the first tensor is computed.
torch.set_flush_denormal(True)

SYSTEMS = {"shapeclipper": (ShapeClipper, ShapeClipperConfig)}
