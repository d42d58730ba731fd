"""Make the environment: ``make setup`` calls this with the standard library only; uv does the work."""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_GB = 3  # 2.1 measured with a CPU build of torch; a CUDA build takes 7 and says so itself
# uv does not read pip's settings: where a machine tells pip to use a mirror or local wheels, uv is told the same.
PIP_TO_UV = {
    "find-links": "UV_FIND_LINKS",
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
    "trusted-host": "UV_INSECURE_HOST",
}
CHECK = """
import torch, lib, jupyter_client.kernelspec as kernels
kernels.get_kernel_spec("python3")
print("      torch", torch.__version__, "on", torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU")
"""


def main() -> int:
    """Make the environment in the first argument and write the stamp in the second; the exit code."""
    venv, stamp = Path(sys.argv[1]), Path(sys.argv[2])
    unfinished, begin, version = venv / ".unfinished", time.monotonic(), sys.version.split()[0]
    free = shutil.disk_usage(REPOSITORY).free / 2**30
    if free < NEEDED_GB:
        print(f"error: {free:.1f} GB are free and {NEEDED_GB} are needed: make room and try again", file=sys.stderr)
        return 2
    print(f"Setting up the course in {venv} with Python {version} (a minute or two, then never again)", flush=True)
    try:
        make_environment(venv, unfinished)
    except subprocess.CalledProcessError as error:
        what = " ".join(str(part) for part in error.cmd[:4])
        print(f"error: set-up failed at '{what} ...' (see above): repair that and try again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: 'make setup' starts again, with what was downloaded", file=sys.stderr)
        return 130
    unfinished.unlink()
    stamp.write_text(f"Python {version}\n")  # last, so that half an environment is never taken for a whole one
    print(f"Ready after {time.monotonic() - begin:.0f} s.")
    return 0


def make_environment(venv: Path, unfinished: Path) -> None:
    """Create, fill and try the environment; from nothing if the last set-up was interrupted or used another Python."""
    print("[1/3] a fresh environment, and uv to fill it", flush=True)
    if unfinished.exists() or not (venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}").is_dir():
        shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    python = venv.absolute() / "bin" / "python"
    if not python.exists():
        _run(sys.executable, "-m", "venv", venv)
    _run(python, "-m", "pip", "install", "uv", "--constraint", "constraints.txt", "--quiet")
    print("[2/3] packages, at the versions of constraints.txt", flush=True)
    uv = [python, "-m", "uv", "pip"]
    wanted = ["--editable", ".[dev]", "--constraint", "constraints.txt"]
    _run(*uv, "install", "--python", python, *wanted, environment=uv_settings(python) | os.environ)
    print("[3/3] do they work?", flush=True)
    _run(*uv, "check", "--quiet", "--python", python)
    _run(python, "-c", CHECK, environment=os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"})


def uv_settings(python: Path) -> dict[str, str]:
    """Give pip's settings as environment variables of uv."""
    listed = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False).stdout
    settings = {"UV_INDEX_STRATEGY": "unsafe-best-match"}  # as pip: all indexes are asked, not only the first
    for section in ("global.", "install.", ":env:."):  # a later one counts more
        for line in listed.splitlines():
            name, _, value = line.removeprefix(section).partition("=")
            if line.startswith(section) and name in PIP_TO_UV:
                values = str(ast.literal_eval(value)).split()
                settings[PIP_TO_UV[name]] = ("," if name == "find-links" else " ").join(values)
    return settings


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment)


if __name__ == "__main__":
    sys.exit(main())
