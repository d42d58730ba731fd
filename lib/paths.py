"""Where things are, whatever folder a notebook or a command is started from."""

import os
from pathlib import Path

from lib.errors import InputError

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
RUNS = Path(os.environ.get("COURSE_RUNS") or REPOSITORY / "runs")  # tests and `--runs` write elsewhere
FURNITURE = REPOSITORY / "lib" / "data" / "furniture"
WEIGHTS = REPOSITORY / "lib" / "weights"
PROFILES = ("quick", "full")
RESULTS = REPOSITORY / "lib" / "results"  # measured by commands that the README gives, of checkpoints not shipped


def run_folder(notebook: str, profile: str, run_dir: str = "") -> Path:
    """Give the folder a notebook writes to, made if missing: `run_dir` if given, else ``runs/<profile>/<notebook>``.

    ``make run`` looks there for ``results.json`` and shows its rows in the gallery.

    Raises
    ------
    InputError
        `profile` is none that notebooks have: "Quick" would silently start the full training.
    """
    if profile not in PROFILES:
        raise InputError(f"profile: {profile!r} is none of {', '.join(PROFILES)}")
    folder = Path(run_dir) if run_dir else RUNS / profile / notebook
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def prepared_folder(dataset: str = "furniture", data_root: str = "") -> Path:
    """Give the prepared folder that a notebook reads: `data_root` if given, else the one that ships with the course."""
    return Path(data_root) if data_root else REPOSITORY / "lib" / "data" / dataset
