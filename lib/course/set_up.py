"""Make the environment: ``make setup`` calls this with the standard library only."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NEEDED_GB = 3  # 2.1 measured with a CPU build of torch; a CUDA build takes 7 and says so itself
TICK_SECONDS = 5


def main() -> int:
    """Run the steps; the stamp is written only when all have succeeded."""
    venv, stamp = Path(sys.argv[1]), Path(sys.argv[2])
    unfinished = venv / ".unfinished"
    begin = time.monotonic()
    free = shutil.disk_usage(REPOSITORY).free / 2**30
    if free < NEEDED_GB:
        print(f"error: {free:.1f} GB are free and {NEEDED_GB} are needed: make room and try again", file=sys.stderr)
        return 2
    print(f"Setting up the course in {venv} with Python {sys.version.split()[0]} (about 2 minutes, then never again)")
    try:
        _step(1, "a fresh environment", lambda: _create(venv, unfinished))
        _step(2, "packages, at the versions of constraints.txt", lambda: _install(venv))
        _step(3, "a look whether they work", lambda: _check(venv))
    except subprocess.CalledProcessError as error:
        print(f"error: {_reason(venv, error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: 'make setup' starts afresh next time", file=sys.stderr)
        return 130
    unfinished.unlink()
    stamp.write_text(f"Python {sys.version.split()[0]}\n")
    print(f"Ready after {time.monotonic() - begin:.0f} s.")
    return 0


def _step(number: int, title: str, work: Callable[[], None]) -> None:
    print(f"[{number}/3] {title}", flush=True)
    begin = time.monotonic()
    work()
    print(f"      done in {time.monotonic() - begin:.0f} s", flush=True)


def _create(venv: Path, unfinished: Path) -> None:
    """Begin from nothing if the last set-up was interrupted or used another Python, else go on with what is there."""
    if unfinished.exists() or not _same_python(venv):
        shutil.rmtree(venv, ignore_errors=True)
    venv.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    if not (venv / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)


def _same_python(venv: Path) -> bool:
    wanted = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return (venv / "lib" / wanted).is_dir()


def _install(venv: Path) -> None:
    """Install through pip, telling every few seconds how far it is; all that pip says goes to a log."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input", "--progress-bar=off"]
    command += ["--disable-pip-version-check", "--editable", ".[dev]", "--constraint", "constraints.txt"]
    with _log(venv).open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT)
        try:
            for seconds in _ticks(process):
                print(f"      {seconds:3.0f} s: {_progress(venv)}", flush=True)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, "pip install")


def _ticks(process: subprocess.Popen) -> Iterator[float]:
    """Yield the seconds so far, every few seconds while the process runs."""
    begin = time.monotonic()
    while True:
        try:
            process.wait(timeout=TICK_SECONDS)
        except subprocess.TimeoutExpired:
            yield time.monotonic() - begin
        else:
            return


def _progress(venv: Path) -> str:
    """Say what pip is doing, from its log and from what is already in place."""
    lines = _log(venv).read_text(encoding="utf-8", errors="replace").splitlines()
    found = sum(line.startswith("Collecting ") for line in lines)
    installing = [line for line in lines if line.startswith("Installing collected packages:")]
    if installing:
        total, done = installing[0].count(",") + 1, len(list(venv.glob("lib/*/site-packages/*.dist-info")))
        return f"installed {min(done, total)} of {total}"
    loading = [line.split() for line in lines if line.strip().startswith("Downloading ")]
    return f"found {found} packages" + (f", reading {Path(loading[-1][1]).name.split('-')[0]}" if loading else "")


def _check(venv: Path) -> None:
    """Import the heavy packages, and see that none contradicts another and that notebooks find their kernel."""
    python = str(venv / "bin" / "python")
    code = "import torch, lib; gpu = torch.cuda.is_available(); print('      torch', torch.__version__, "
    code += "'on ' + torch.cuda.get_device_name() if gpu else 'on the CPU')"
    subprocess.run([python, "-c", code], cwd=REPOSITORY, check=True)
    quiet = {"check": True, "stdout": subprocess.DEVNULL, "cwd": REPOSITORY}
    subprocess.run([python, "-m", "pip", "check"], **quiet)
    environment = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    subprocess.run([python, "-c", "import jupyter_client.kernelspec as k; k.get_kernel_spec('python3')"],
                   env=environment, **quiet)  # fmt: skip


def _reason(venv: Path, error: subprocess.CalledProcessError) -> str:
    """Put the failure in one sentence, with pip's own last words if pip failed."""
    if error.cmd != "pip install":
        return f"the environment does not work ({' '.join(error.cmd[1:4])} failed, see above): try 'make clean setup'"
    lines = _log(venv).read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line for line in lines if line.strip().lower().startswith("error")] or lines[-3:]
    return f"pip could not install the packages: {' '.join(said[:2])} (all of it: {_log(venv)}; then 'make setup')"


def _log(venv: Path) -> Path:
    return venv / "setup.log"


if __name__ == "__main__":
    sys.exit(main())
