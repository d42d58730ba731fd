"""Where things are, whatever folder a notebook or a command is started from."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
RUNS = REPOSITORY / "runs"
FURNITURE = REPOSITORY / "lib" / "data" / "furniture"
WEIGHTS = REPOSITORY / "lib" / "weights"
