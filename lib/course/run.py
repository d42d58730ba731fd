"""Execute notebooks through papermill, each in its own process, and measure them."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lib.course.build import choose, read_notebook
from lib.course.parameters import check_parameters, read_parameters
from lib.course.process import MeasuredProcess
from lib.errors import InputError
from lib.files import read_json, write_json
from lib.paths import NOTEBOOKS, RUNS

PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SUMMARY = "summary.json"
SAMPLE_SECONDS = 0.1
Report = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One notebook to execute: its name in what is printed, checked parameters, and where copy and log go."""

    name: str
    source: Path
    output: Path
    log: Path
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """How one notebook went: `status` is "ok", "failed" or "stopped"; memory in MB; times as ISO 8601, UTC."""

    notebook: str
    status: str
    seconds: float
    peak_memory_mb: float
    error: str
    parameters: dict[str, Any]
    started: str
    run_dir: str


def plan(
    *,
    profile: str = "quick",
    names: Sequence[str] = (),
    asked: Sequence[tuple[str, str]] = (),
    folder: Path = NOTEBOOKS,
    runs: Path = RUNS,
) -> list[Job]:
    """Find the notebooks and check everything that a reader asked for, before the first one runs.

    Raises
    ------
    InputError
        For an unknown notebook, profile or parameter, or a parameter of the wrong type.
    """
    if not PROFILE_NAME.fullmatch(profile):
        raise InputError(f"profile '{profile}' must be a plain name such as quick or full")
    if any(name == "profile" for name, _ in asked):
        raise InputError("the profile is chosen by PROFILE=name (--profile name), not as a parameter")
    paths = choose(sorted(folder.glob("[0-9][0-9]_*.ipynb")), names, folder)
    if not paths:
        raise InputError(f"there are no notebooks in {folder}: 'make notebooks' builds them")
    known = {path.stem: read_parameters(path) for path in paths}
    if any(parameters["profile"].default != profile for parameters in known.values() if "profile" in parameters):
        asked = [*asked, ("profile", profile)]  # a notebook that stays as it is gets no parameters at all
    chosen, target = check_parameters(asked, known), runs / profile
    return [
        Job(path.stem, path, target / path.name, target / "logs" / f"{path.stem}.log", chosen[path.stem])
        for path in paths
    ]


def notebook_environment(threads: int | None = None) -> dict[str, str]:
    """Give the environment of a notebook's process: quiet, repeatable, with the kernel of this Python.

    Parameters
    ----------
    threads : int or None
        Threads of numerical libraries; None leaves them to the machine. Tests use 1: on a busy two-core
        machine two torch threads were 4 to 20 times slower than one.
    """
    environment = os.environ | {
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "TQDM_DISABLE": "1",  # a bar's thread may print after its cell has ended
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else each kernel warns of frozen modules
        "JUPYTER_PLATFORM_DIRS": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel beside this Python, whatever the user has installed
        "IPYTHONDIR": str(Path(tempfile.gettempdir()) / f"course-ipython-{os.getpid()}"),  # no user start-up files
        "TOKENIZERS_PARALLELISM": "false",
    }
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return environment if threads is None else environment | dict.fromkeys(names, str(threads))


@cache
def _count_cells(path: Path) -> int:
    return len(read_notebook(path).cells)


def cell_reached(job: Job) -> str:
    """Say how far a running notebook is: "cell 3 of 24"."""
    cells = _count_cells(job.source)
    return f"cell {min(job.log.read_bytes().count(b'Ending Cell') + 1, cells)} of {cells}"


def run_jobs(
    jobs: Sequence[Job],
    environment: dict[str, str],
    *,
    workers: int = 1,
    timeout: float | None = None,
    begin: Callable[[Job], None] = lambda job: None,
    progress: Callable[[Job], str] = cell_reached,
    say: Report = print,
    status: Report | None = None,
) -> list[Result]:
    """Run every job, also after one has failed; whatever happens, no process is left behind.

    Parameters
    ----------
    workers : int
        How many notebooks run at a time.
    timeout : float or None
        Seconds a notebook may take.
    begin : callable
        Called for each job before it starts.
    progress : callable
        Says how far a job is.
    say, status : callables
        Get a line when a notebook ends, and ten times a second a passing line about the first that runs.
    """
    waiting, running, results = list(enumerate(jobs)), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, job = waiting.pop(0)
                begin(job)
                job.log.parent.mkdir(parents=True, exist_ok=True)
                job.output.unlink(missing_ok=True)
                started = datetime.now(UTC).isoformat(timespec="seconds")
                running[number] = started, MeasuredProcess(papermill_command(job), environment, job.log, timeout)
            time.sleep(SAMPLE_SECONDS)
            for number, (started, process) in list(running.items()):
                job, label = jobs[number], f"[{number + 1}/{len(jobs)}] {jobs[number].name}"
                if process.watch():
                    del running[number]
                    results[number] = _result(job, started, process)
                    _tell(job, label, results[number], say)
                elif status and number == min(running):
                    memory = format_memory(process.peak_memory)
                    status(f"{label} · {progress(job)} · {process.seconds:.0f} s · {memory}")
    finally:
        for _, process in running.values():
            process.stop()
    return [results[number] for number in range(len(jobs))]


def papermill_command(job: Job) -> list[str]:
    """The command that executes a notebook from its own folder."""
    command = [sys.executable, "-m", "papermill", str(job.source.resolve()), str(job.output.resolve())]
    command += ["--cwd", str(job.source.parent.resolve()), "--kernel", "python3", "--log-output", "--no-progress-bar"]
    if job.parameters:
        # not JSON: YAML reads its 1e-05 as a text
        command += ["--parameters_yaml", yaml.safe_dump(job.parameters, allow_unicode=True)]
    return command


def _result(job: Job, started: str, process: MeasuredProcess) -> Result:
    error = _error(job, process)
    return Result(
        notebook=job.name,
        status="stopped" if process.timed_out else "failed" if error else "ok",
        seconds=round(process.seconds, 2),
        peak_memory_mb=round(process.peak_memory, 1),
        error=error,
        parameters=job.parameters,
        started=started,
        run_dir=str(job.parameters.get("run_dir") or job.output.with_suffix("")),
    )


def _error(job: Job, process: MeasuredProcess) -> str:
    """Say in one sentence why a notebook did not succeed; empty if it did."""
    if process.timed_out:
        return f"stopped after {process.timeout:.0f} s"
    if process.process.returncode == 0:
        return ""
    cells = read_notebook(job.output).cells if job.output.is_file() else []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell '{cell.get('id')}': {output.ename}: {output.evalue}".splitlines()[0]
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {process.process.returncode}: {lines[-1].strip() if lines else 'nothing printed'}"


def _tell(job: Job, label: str, result: Result, say: Report) -> None:
    say(f"{label:<34} {result.status} · {result.seconds:.0f} s · {format_memory(result.peak_memory_mb)}")
    if result.error:
        log = job.log.relative_to(Path.cwd()) if job.log.is_relative_to(Path.cwd()) else job.log
        say(f"      {result.error}\n      all it printed: {log}")


def write_summary(results: Sequence[Result], target: Path) -> None:
    """Write `summary.json`, keeping what earlier runs of other notebooks left there."""
    from lib.evaluation.results import commit, machine  # it imports torch, which takes seconds

    rows = {row["notebook"]: row for row in read_summary(target)["notebooks"]}
    rows |= {result.notebook: asdict(result) for result in results}
    kept = [rows[name] for name in sorted(rows) if (target / f"{name}.ipynb").is_file() or rows[name]["error"]]
    write_json(target / SUMMARY, {"machine": {"machine": machine(), "commit": commit()}, "notebooks": kept})


def read_summary(target: Path) -> dict[str, Any]:
    """Read `summary.json`; an empty one where there is none."""
    path = target / SUMMARY
    return read_json(path) if path.is_file() else {"machine": {}, "notebooks": []}


def format_memory(megabytes: float) -> str:
    """Show megabytes: '840 MB', '1.2 GB'."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def format_table(results: Sequence[Result]) -> str:
    """Lay out notebook · seconds · peak memory · status, with a closing line of totals."""
    lines = [(one.notebook, f"{one.seconds:.1f}", format_memory(one.peak_memory_mb), one.status) for one in results]
    total, peak = sum(one.seconds for one in results), max(one.peak_memory_mb for one in results)
    good = sum(one.status == "ok" for one in results)
    lines.append(("together", f"{total:.1f}", format_memory(peak), f"{good} of {len(results)} ok"))
    width = max(len(line[0]) for line in lines)
    lines.insert(0, ("notebook", "seconds", "peak memory", "status"))
    return "\n".join(
        f"{name:<{width}}  {seconds:>7}  {memory:>11}  {status}" for name, seconds, memory, status in lines
    )


def status_line() -> Report | None:
    """Give a function that rewrites the terminal's last line, or None where output goes to a file."""
    if not sys.stdout.isatty():
        return None

    def show(text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}\r", end="", flush=True)

    return show
