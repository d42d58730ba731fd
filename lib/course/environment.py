"""The environment variables under which the course's notebooks run, and facts about the machine."""

import importlib.metadata
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from lib.paths import REPOSITORY

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def notebook_environment(threads: int | None = None, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the environment of a notebook's process: quiet, repeatable, with the kernel of this Python.

    Parameters
    ----------
    threads : int or None
        Threads of numerical libraries; None leaves them to the machine. Tests use 1: on a busy two-core
        machine two torch threads were 4 to 20 times slower than one.
    base : mapping or None
        What to start from; None is this process' environment.
    """
    environment = dict(os.environ if base is None else base)
    environment |= {
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "TQDM_DISABLE": "1",  # a bar's thread may print after its cell has ended
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel warns of frozen modules
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel beside this Python, whatever the user has installed
        "IPYTHONDIR": str(Path(tempfile.gettempdir()) / f"course-ipython-{os.getpid()}"),  # no user start-up files
        "TOKENIZERS_PARALLELISM": "false",
    }
    if threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    return environment


def describe_machine() -> dict[str, str]:
    """Name what the numbers of a run depend on: system, cores, memory, Python, torch, commit."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "gpu": gpu_name(),
        "python": platform.python_version(),
        "torch": package_version("torch"),
        "commit": commit(),
    }


def package_version(name: str) -> str:
    """Give the installed version of a package, or 'none'."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def gpu_name() -> str:
    """Give the name of the first NVIDIA GPU, or 'none'; asks the driver, since importing torch takes seconds."""
    return _first_line(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "none"


def commit() -> str:
    """Give the short commit hash of the repository, or 'unknown' outside of git."""
    return _first_line(["git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD"]) or "unknown"


def _first_line(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return (done.stdout.strip().splitlines() or [""])[0]
