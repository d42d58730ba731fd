"""Execute notebooks through papermill, each in its own process, and measure them."""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from lib.course.build import choose, read_notebook
from lib.course.environment import notebook_environment
from lib.course.parameters import Parameter, check_parameters, read_parameters
from lib.course.pool import CheckStop, work_through
from lib.course.process import Measured, run_measured
from lib.errors import InputError
from lib.paths import NOTEBOOKS, RUNS

PROFILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SUMMARY = "summary.json"


@dataclass(frozen=True)
class Job:
    """One notebook to execute, with checked parameters."""

    source: Path
    output: Path
    log: Path
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The notebook's name without its ending."""
        return self.source.stem

    @property
    def runs(self) -> Path:
        """The folder above the profile's, where `lib.paths.run_folder` puts what the notebook writes."""
        return self.output.parent.parent


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


Report = Callable[[str], None]


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
    paths = choose(sorted(folder.glob("[0-9][0-9]_*.ipynb")), names, folder)
    if not paths:
        raise InputError(f"there are no notebooks in {folder}: 'make notebooks' builds them")
    known = {path.stem: read_parameters(read_notebook(path), path.stem) for path in paths}
    chosen = check_parameters(_with_profile(asked, profile, known), known)
    return [_job(path, runs / profile, chosen[path.stem]) for path in paths]


def _job(path: Path, target: Path, parameters: dict[str, Any]) -> Job:
    return Job(path, target / path.name, target / "logs" / f"{path.stem}.log", parameters)


def _with_profile(
    asked: Sequence[tuple[str, str]], profile: str, known: Mapping[str, Mapping[str, Parameter]]
) -> list[tuple[str, str]]:
    """Add the profile where it is not what the notebooks have by default: an untouched notebook is injected nothing."""
    if any(name == "profile" for name, _ in asked):
        raise InputError("the profile is chosen by PROFILE=name (--profile name), not as a parameter")
    defaults = {parameters["profile"].default for parameters in known.values() if "profile" in parameters}
    return list(asked) if defaults <= {profile} else [*asked, ("profile", profile)]


def run_jobs(
    jobs: Sequence[Job],
    *,
    threads: int | None = None,
    workers: int = 1,
    timeout: float | None = None,
    say: Report = print,
    status: Report | None = None,
) -> list[Result]:
    """Run every job, also after one has failed.

    Parameters
    ----------
    threads : int or None
        See `notebook_environment`.
    workers : int
        How many notebooks run at a time.
    timeout : float or None
        Seconds a notebook may take.
    say, status : callables
        Get a line when a notebook ends, and a passing line of progress (only where one runs at a time).
    """
    environment = notebook_environment(threads) | {"COURSE_RUNS": str(jobs[0].runs.resolve())}

    def run_one(number: int, check_stop: CheckStop) -> Result:
        label = f"[{number + 1}/{len(jobs)}] {jobs[number].name}"
        tick = _ticker(jobs[number], label, check_stop, status if workers == 1 else None)
        result = run_job(jobs[number], environment, timeout, tick)
        say(f"{label:<34} {result.status} · {result.seconds:.0f} s · {format_memory(result.peak_memory_mb)}")
        if result.error:
            say(f"      {result.error}\n      all it printed: {_shown(jobs[number].log)}")
        return result

    return work_through(run_one, range(len(jobs)), workers)


def _ticker(job: Job, label: str, check_stop: CheckStop, status: Report | None) -> Callable[[float, float], None]:
    cells = len(read_notebook(job.source).cells)

    def tick(seconds: float, peak: float) -> None:
        check_stop()
        if status is None:
            return
        done = job.log.read_bytes().count(b"Ending Cell")
        status(f"{label} · cell {min(done + 1, cells)} of {cells} · {seconds:.0f} s · {format_memory(peak)}")

    return tick


def run_job(
    job: Job,
    environment: Mapping[str, str],
    timeout: float | None = None,
    tick: Callable[[float, float], None] | None = None,
) -> Result:
    """Execute one notebook in its own process, from its own folder."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.output.unlink(missing_ok=True)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    measured = run_measured(_command(job), environment=environment, log=job.log, timeout=timeout, tick=tick)
    error = _error(job, measured, timeout)
    return Result(
        notebook=job.name,
        status="stopped" if measured.timed_out else "failed" if error else "ok",
        seconds=round(measured.seconds, 2),
        peak_memory_mb=round(measured.peak_memory, 1),
        error=error,
        parameters=job.parameters,
        started=started,
        run_dir=str(job.parameters.get("run_dir") or job.output.with_suffix("")),
    )


def _command(job: Job) -> list[str]:
    command = [sys.executable, "-m", "papermill", str(job.source.resolve()), str(job.output.resolve())]
    command += ["--cwd", str(job.source.parent.resolve()), "--kernel", "python3", "--log-output", "--no-progress-bar"]
    if job.parameters:
        # not JSON: YAML reads its 1e-05 as a text
        command += ["--parameters_yaml", yaml.safe_dump(job.parameters, allow_unicode=True)]
    return command


def _error(job: Job, measured: Measured, timeout: float | None) -> str:
    """Say in one sentence why a notebook did not succeed; empty if it did."""
    if measured.timed_out:
        return f"stopped after {timeout:.0f} s"
    if measured.returncode == 0:
        return ""
    cells = read_notebook(job.output).cells if job.output.is_file() else []
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"cell '{cell.get('id')}': {output.ename}: {output.evalue}".splitlines()[0]
    lines = [line for line in job.log.read_text(errors="replace").splitlines() if line.strip()]
    return f"exit code {measured.returncode}: {lines[-1].strip() if lines else 'nothing printed'}"


def write_summary(results: Sequence[Result], target: Path, machine: Mapping[str, str]) -> None:
    """Write `summary.json`, keeping what earlier runs of other notebooks left there."""
    rows = {row["notebook"]: row for row in read_summary(target)["notebooks"]}
    rows |= {result.notebook: asdict(result) for result in results}
    kept = [rows[name] for name in sorted(rows) if (target / f"{name}.ipynb").is_file() or rows[name]["error"]]
    temporary = target / f"{SUMMARY}.tmp"
    temporary.write_text(json.dumps({"machine": dict(machine), "notebooks": kept}, indent=1), encoding="utf-8")
    temporary.replace(target / SUMMARY)


def read_summary(target: Path) -> dict[str, Any]:
    """Read `summary.json`; an empty one where there is none."""
    path = target / SUMMARY
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"machine": {}, "notebooks": []}


def format_memory(megabytes: float) -> str:
    """Show megabytes: '840 MB', '1.2 GB'."""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def format_table(results: Sequence[Result]) -> str:
    """Lay out notebook · seconds · peak memory · status, with a closing line of totals."""
    width = max([len("notebook"), *(len(result.notebook) for result in results)])
    lines = [f"{'notebook':<{width}}  seconds  peak memory  status"]
    for result in results:
        memory = format_memory(result.peak_memory_mb)
        lines.append(f"{result.notebook:<{width}}  {result.seconds:>7.1f}  {memory:>11}  {result.status}")
    total, peak = sum(result.seconds for result in results), max(result.peak_memory_mb for result in results)
    good = sum(result.status == "ok" for result in results)
    lines.append(f"{'together':<{width}}  {total:>7.1f}  {format_memory(peak):>11}  {good} of {len(results)} ok")
    return "\n".join(lines)


def status_line() -> Report | None:
    """Give a function that rewrites the terminal's last line, or None where output goes to a file."""
    if not sys.stdout.isatty():
        return None

    def show(text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:<{width}}\r", end="", flush=True)

    return show


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
