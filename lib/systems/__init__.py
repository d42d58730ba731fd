"""A paper in one file: its parts put together, its objective, its configuration."""

from lib.systems.shapeclipper import ShapeClipper, ShapeClipperConfig

SYSTEMS = {"shapeclipper": (ShapeClipper, ShapeClipperConfig)}
