"""Command line of the course: ``python -m lib.course run | build | gallery | classroom | test | check-outputs``."""

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
from lib.course.editions import write_classroom
from lib.course.gallery import write_gallery
from lib.course.lab import WORK, open_lab, working_copies
from lib.errors import InputError, exit_code
from lib.paths import NOTEBOOKS, REPOSITORY, RUNS

TEST_SECONDS_PER_NOTEBOOK = 600
SANITIZE = REPOSITORY / "tests" / "nbval_sanitize.cfg"
STOPPED = "\ninterrupted: nothing goes on in the background; the same command starts again"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit code 0 for success, 1 where a notebook or test failed, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    failed: list[bool] = []
    code = exit_code(lambda: failed.append(options.command(options)), STOPPED)
    return code or int(failed[0])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.course", description="Run, build and show the notebooks.")
    parser.add_argument("--folder", type=Path, default=NOTEBOOKS, help="where the notebooks are")
    commands = parser.add_subparsers(required=True, metavar="command")

    run = commands.add_parser("run", help="execute notebooks through papermill, with a table and a gallery")
    run.add_argument("--profile", default="quick", help="how much to compute; results go to runs/PROFILE")
    run.add_argument("--notebook", action="append", default=[], metavar="NAME", help="only this one (06, 06_train)")
    run.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    run.add_argument("--runs", type=Path, default=RUNS, help="folder above runs/PROFILE")
    run.add_argument("--threads", type=int, help="threads of each notebook; default: what the machine has")
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time")
    run.add_argument("--timeout", type=float, help="seconds that a notebook may take")
    run.set_defaults(command=_run)

    build = commands.add_parser("build", help="build notebooks/NN_slug.ipynb from notebooks/src/NN_slug.py")
    build.add_argument("names", nargs="*", help="only these (06, 06_train)")
    build.add_argument("--check", action="store_true", help="change nothing; fail where a build would")
    build.add_argument("--execute", action="store_true", help="also run the quick profile and store its outputs")
    build.set_defaults(command=_build)

    show = commands.add_parser("gallery", help="write index.html again for a folder of runs")
    show.add_argument("target", type=Path, nargs="?", default=RUNS / "quick")
    show.set_defaults(command=_gallery)

    classroom = commands.add_parser("classroom", help="students', solution, instructors' and nbgrader's editions")
    classroom.add_argument("names", nargs="*", help="only these (06, 06_train)")
    classroom.add_argument("--output", type=Path, default=REPOSITORY / "build" / "classroom")
    classroom.set_defaults(command=_classroom)

    lab = commands.add_parser("lab", help="JupyterLab on working copies of the notebooks, in work/")
    lab.add_argument("--students", action="store_true", help="copies of the students' edition, in work-student/")
    lab.add_argument("--update", action="store_true", help="bring copies up to date; yours stay as they are")
    lab.add_argument("options", nargs="*", help="for JupyterLab, after --")
    lab.set_defaults(command=_lab)

    check = commands.add_parser("check-outputs", help="compare stored outputs with an execution's (nbval)")
    check.add_argument("names", nargs="*")
    check.add_argument("--executed", type=Path, required=True, help="folder of the executed copies, e.g. runs/quick")
    check.set_defaults(command=_check_outputs)

    test = commands.add_parser("test", help="unit tests, every notebook by papermill, stored outputs by nbval")
    test.add_argument("--jobs", type=int, default=2, help="how many processes at a time, one thread each")
    test.set_defaults(command=_test)
    return parser


def _run(options: argparse.Namespace) -> bool:
    target = options.runs / options.profile
    jobs = runner.plan(
        profile=options.profile,
        names=options.notebook,
        asked=[(name, value) for name, value in options.parameter],
        folder=options.folder,
        runs=options.runs,
    )
    print(f"Running {len(jobs)} notebooks in the {options.profile} profile into {target}", flush=True)
    results = _execute(jobs, target, threads=options.threads, workers=options.jobs, timeout=options.timeout)
    print(f"\ngallery: {write_gallery(target)}", flush=True)
    return any(result.status != "ok" for result in results)


def _execute(
    jobs: Sequence[runner.Job], target: Path, *, threads: int | None, workers: int = 1, timeout: float | None = None
) -> list[runner.Result]:
    """Run planned notebooks, note how they went in `target`, and print the table."""
    environment = runner.notebook_environment(threads) | {"COURSE_RUNS": str(target.parent.resolve())}
    status = runner.status_line()
    results = runner.run_jobs(jobs, environment, workers=workers, timeout=timeout, status=status)
    runner.write_summary(results, target)
    print(f"\n{runner.format_table(results)}", flush=True)
    return results


def _gallery(options: argparse.Namespace) -> bool:
    if not (options.target / runner.SUMMARY).is_file():
        raise InputError(f"{options.target} holds no {runner.SUMMARY}: 'make run' writes it")
    print(write_gallery(options.target))
    return False


def _build(options: argparse.Namespace) -> bool:
    if options.check:
        found = builder.differences(options.folder, options.names)
        print("\n".join(f"error: {sentence}" for sentence in found) or "every notebook is what its source builds")
        return bool(found)
    sources = builder.sources(options.folder, options.names)
    if not sources:
        raise InputError(f"there are no sources NN_slug.py in {options.folder / 'src'}")
    for source in sources:
        _build_one(source, options.folder / f"{source.stem}.ipynb", None)
    if not options.execute:
        return False
    jobs = runner.plan(names=[source.stem for source in sources], folder=options.folder)
    results = _execute(jobs, RUNS / "quick", threads=1)  # one thread, as in the tests
    for job, result in zip(jobs, results, strict=True):
        if result.status == "ok":
            _build_one(options.folder / "src" / f"{job.name}.py", job.source, job.output)
    return any(result.status != "ok" for result in results)


def _build_one(source: Path, target: Path, outputs: Path | None) -> None:
    builder.check_not_edited(target)
    notebook, notes = builder.build(source, outputs or target)
    changed = builder.write_notebook(notebook, target)
    print(f"{target.name}: {'written' if changed else 'unchanged'}", *notes, sep="\n  note: ")


def _classroom(options: argparse.Namespace) -> bool:
    counts = write_classroom(options.output, options.folder, options.names)
    for edition, count in counts.items():
        print(f"{edition:<11}{count:>3} notebooks  {options.output / edition}")
    print(
        f"offline     {(options.output / 'student.zip').stat().st_size / 1e6:.0f} MB  {options.output / 'student.zip'}"
    )
    return False


def _lab(options: argparse.Namespace) -> bool:
    work = WORK.with_name("work-student") if options.students else WORK
    for sentence in working_copies(options.folder, work, options.students, options.update):
        print(sentence, flush=True)
    return open_lab(work, options.options) != 0


def _check_outputs(options: argparse.Namespace) -> bool:
    """Have nbval compare; a cell tagged nbval-check-output must show in its executed copy what is stored."""
    paths = builder.choose(sorted(options.folder.glob("[0-9][0-9]_*.ipynb")), options.names, options.folder)
    if not paths:
        raise InputError(f"there are no notebooks in {options.folder}: 'make notebooks' builds them")
    missing = [path.stem for path in paths if not (options.executed / path.name).is_file()]
    if missing:
        raise InputError(f"{options.executed} holds no executed copy of {missing[0]}: 'make run' writes them")
    command = [sys.executable, "-m", "pytest", "-p", "lib.course.executed", f"--nbval-sanitize-with={SANITIZE}", "-q"]
    command += ["-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(options.folder), *map(str, paths)]
    environment = runner.notebook_environment(1) | {"COURSE_EXECUTED": str(options.executed)}
    return subprocess.run(command, env=environment, check=False).returncode != 0


def _parallel(jobs: int) -> list[str]:
    return ["--numprocesses", str(jobs), "--dist", "loadfile"] if jobs > 1 else []


def _test(options: argparse.Namespace) -> bool:
    """Do all three, each also when one before it failed, and say how long each took."""
    shutil.rmtree(RUNS / "test", ignore_errors=True)
    jobs, itself = str(options.jobs), [sys.executable, "-m", "lib.course", "--folder", str(options.folder)]
    limits = ["--threads", "1", "--jobs", jobs, "--timeout", str(TEST_SECONDS_PER_NOTEBOOK)]
    executed = RUNS / "test" / "papermill"
    stages = {
        "unit tests": [sys.executable, "-m", "pytest", "-q", *_parallel(options.jobs)],
        "notebooks by papermill": [*itself, "run", "--runs", str(executed), *limits],
        "stored outputs by nbval": [*itself, "check-outputs", "--executed", str(executed / "quick")],
    }
    lines, failed = [], False
    for title, command in stages.items():
        print(f"\n== {title}", flush=True)
        begin = time.monotonic()
        code = subprocess.run(command, cwd=REPOSITORY, env=runner.notebook_environment(1), check=False).returncode
        lines.append(f"{title:<26}{time.monotonic() - begin:>6.0f} s  {'ok' if code == 0 else f'failed ({code})'}")
        failed |= code != 0
    print("\n" + "\n".join(lines), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
