"""Learning 3D shape from single photographs: the small package behind the notebooks."""

__version__ = "0.1.0"
