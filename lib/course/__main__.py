"""Command line of the course: ``python -m lib.course run | build | gallery | test | check-outputs``."""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lib.course import build as builder
from lib.course import run as runner
from lib.course.environment import describe_machine, notebook_environment
from lib.course.gallery import write_gallery
from lib.errors import InputError
from lib.paths import NOTEBOOKS, REPOSITORY, RUNS

TEST_SECONDS_PER_NOTEBOOK = 600
SANITIZE = REPOSITORY / "tests" / "nbval_sanitize.cfg"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit code 0 for success, 1 where a notebook or test failed, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing goes on in the background; the same command starts again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.course", description="Run, build and show the notebooks.")
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the notebooks are")
    commands = parser.add_subparsers(required=True, metavar="command")
    _add_run(commands)
    _add_build(commands)
    show = commands.add_parser("gallery", help="write index.html again for a folder of runs")
    show.add_argument("target", type=Path, nargs="?", default=RUNS / "quick")
    show.set_defaults(command=_gallery)
    check = commands.add_parser("check-outputs", help="execute the notebooks and compare stored outputs (nbval)")
    check.add_argument("names", nargs="*")
    check.add_argument("--jobs", type=int, default=1)
    check.set_defaults(command=_check_outputs)
    test = commands.add_parser("test", help="unit tests, every notebook by papermill, stored outputs by nbval")
    test.add_argument("--jobs", type=int, default=2, help="how many processes at a time, one thread each")
    test.set_defaults(command=_test)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser("run", help="execute notebooks through papermill, with a table and a gallery")
    run.add_argument("--profile", default="quick", help="how much to compute; results go to runs/PROFILE")
    run.add_argument("--notebook", action="append", default=[], metavar="NAME", help="only this one (06, 06_train)")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--runs", type=Path, default=RUNS, help="folder above runs/PROFILE")
    run.add_argument("--threads", type=int, help="threads a notebook; default: what the machine has")
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    run.add_argument("--timeout", type=float, help="seconds a notebook may take")
    run.set_defaults(command=_run)


def _add_build(commands: argparse._SubParsersAction) -> None:
    build = commands.add_parser("build", help="build notebooks/NN_slug.ipynb from notebooks/src/NN_slug.py")
    build.add_argument("names", nargs="*", help="only these (06, 06_train)")
    build.add_argument("--check", action="store_true", help="change nothing; fail where a build would")
    build.add_argument("--execute", action="store_true", help="also run the quick profile and store its outputs")
    build.set_defaults(command=_build)


def _run(options: argparse.Namespace) -> int:
    jobs = runner.plan(
        profile=options.profile,
        names=options.notebook,
        asked=[(name, value) for name, value in options.parameter],
        folder=options.folder,
        runs=options.runs,
    )
    target = options.runs / options.profile
    print(f"Running {len(jobs)} notebooks in the {options.profile} profile into {target}", flush=True)
    results = runner.run_jobs(
        jobs,
        threads=options.threads,
        workers=options.jobs,
        timeout=options.timeout,
        status=runner.status_line() if options.jobs == 1 else None,
    )
    runner.write_summary(results, target, describe_machine())
    print(f"\n{runner.format_table(results)}\n\ngallery: {write_gallery(target)}", flush=True)
    return int(any(result.status != "ok" for result in results))


def _gallery(options: argparse.Namespace) -> int:
    if not (options.target / runner.SUMMARY).is_file():
        raise InputError(f"{options.target} holds no {runner.SUMMARY}: 'make run' writes it")
    print(write_gallery(options.target))
    return 0


def _build(options: argparse.Namespace) -> int:
    if options.check:
        found = builder.differences(options.folder, options.names)
        print("\n".join(f"error: {sentence}" for sentence in found) or "every notebook is what its source builds")
        return int(bool(found))
    sources = builder.sources(options.folder, options.names)
    if not sources:
        raise InputError(f"there are no sources NN_slug.py in {options.folder / 'src'}")
    for source in sources:
        _build_one(source, options.folder / f"{source.stem}.ipynb", None)
    return _execute(options.folder, [source.stem for source in sources]) if options.execute else 0


def _build_one(source: Path, target: Path, outputs: Path | None) -> None:
    notebook, notes = builder.build(source, outputs or target)
    changed = builder.write_notebook(notebook, target)
    print(f"{target.name}: {'written' if changed else 'unchanged'}")
    for note in notes:
        print(f"  note: {note}")


def _execute(folder: Path, names: Sequence[str]) -> int:
    """Run the quick profile with one thread, as the tests do, and store the outputs of what succeeded."""
    jobs = runner.plan(names=names, folder=folder)
    results = runner.run_jobs(jobs, threads=1, status=runner.status_line())
    runner.write_summary(results, RUNS / "quick", describe_machine())
    for job, result in zip(jobs, results, strict=True):
        if result.status == "ok":
            _build_one(folder / "src" / f"{job.name}.py", job.source, job.output)
    print(runner.format_table(results))
    return int(any(result.status != "ok" for result in results))


def _check_outputs(options: argparse.Namespace) -> int:
    """Run nbval in the notebooks' folder; a cell tagged nbval-check-output must show what is stored."""
    paths = builder.choose(sorted(options.folder.glob("[0-9][0-9]_*.ipynb")), options.names, options.folder)
    if not paths:
        raise InputError(f"there are no notebooks in {options.folder}: 'make notebooks' builds them")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", f"--nbval-sanitize-with={SANITIZE}", "-q"]
    command += [f"--nbval-cell-timeout={TEST_SECONDS_PER_NOTEBOOK}", "-p", "no:cacheprovider", "--rootdir", "."]
    command += ["-c", os.devnull, *([f"--numprocesses={options.jobs}", "--dist=loadfile"] if options.jobs > 1 else [])]
    command += [path.name for path in paths]
    environment = notebook_environment(1) | {"COURSE_RUNS": str(RUNS / "test" / "nbval")}
    return subprocess.run(command, cwd=options.folder, env=environment, check=False).returncode


def _test(options: argparse.Namespace) -> int:
    """Do all three, each also when one before it failed, and say how long each took."""
    parallel = ["--numprocesses", str(options.jobs), "--dist", "loadfile"] if options.jobs > 1 else []
    unit = [sys.executable, "-m", "pytest", "-q", *parallel]
    itself = [sys.executable, "-m", "lib.course", "--folder", str(options.folder)]
    target = RUNS / "test" / "papermill"
    papermill = [*itself, "run", "--runs", str(target), "--threads", "1", "--jobs", str(options.jobs)]
    papermill += ["--timeout", str(TEST_SECONDS_PER_NOTEBOOK)]
    outputs = [*itself, "check-outputs", "--jobs", str(options.jobs)]
    shutil.rmtree(RUNS / "test", ignore_errors=True)
    stages = {"unit tests": unit, "notebooks by papermill": papermill, "stored outputs by nbval": outputs}
    return _run_stages(stages)


def _run_stages(stages: dict[str, list[str]]) -> int:
    lines, failed = [], False
    for title, command in stages.items():
        print(f"\n== {title}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(command, cwd=REPOSITORY, env=notebook_environment(1), check=False).returncode
        lines.append(f"{title:<26}{time.monotonic() - begin:>6.0f} s  {'ok' if code == 0 else f'failed ({code})'}")
        failed |= code != 0
    print("\n" + "\n".join(lines), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
