"""Run an experiment, a cell at a time: ``python -m lib.course.experiment tables-2-3 --seeds 3``.

A cell (a row of the table and a seed) is notebook 08, executed by papermill into a folder of its own. Finished cells
are skipped, interrupted ones go on, failed ones do not stop the others. The table is made of what is finished.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lib.course.experiment_cells import Cell, Settings, plan_cells
from lib.course.experiment_report import keep_report, write_report
from lib.course.grids import FULL, GRIDS, Grid, find_grid
from lib.course.run import Job, Report, notebook_environment, run_jobs, status_line
from lib.errors import InputError, exit_code
from lib.paths import FURNITURE, NOTEBOOKS, RUNS
from lib.training.__main__ import read_settings

NOTEBOOK = NOTEBOOKS / "08_experiment_cell.ipynb"


def run_cells(cells: Sequence[Cell], *, jobs: int = 1, say: Report = print, status: Report | None = None) -> list[str]:
    """Run the cells that are not finished, `jobs` at a time, also after one has failed.

    Returns
    -------
    list of str
        A sentence for each cell that failed.
    """
    waiting = [cell for cell in cells if not cell.finished]
    if len(waiting) < len(cells):
        say(f"{len(cells) - len(waiting)} of {len(cells)} cells were finished before")
    share = "OMP_NUM_THREADS" not in os.environ and jobs > 1  # the cores among the cells at work
    environment = notebook_environment(max(1, (os.cpu_count() or 1) // jobs) if share else None)
    by_log = {cell.folder / "cell.log": cell for cell in waiting}
    run = partial(
        run_jobs,
        environment=environment,
        workers=jobs,
        begin=lambda job: by_log[job.log].begin(),
        progress=_step_reached,
        say=say,
        status=status,
    )
    failures = []
    for refines in (False, True):  # those that take their networks from other cells come last
        some = [cell for cell in waiting if ("refine_from" in cell.parameters) == refines]
        failures += [
            f"{cell.name}: the cell {FULL!r} of this seed, whose networks it takes, is not finished"
            for cell in some
            if cell.waits
        ]
        ready = [cell for cell in some if not cell.waits]
        results = run([_job(cell) for cell in ready])
        for cell, result in zip(ready, results, strict=True):
            error = result.error or ("" if cell.finished else "wrote no results.json")
            failures += [f"{cell.name}: {error}"] if error else []
    return failures


def _job(cell: Cell) -> Job:
    return Job(cell.name, NOTEBOOK, cell.folder / "cell.ipynb", cell.folder / "cell.log", cell.parameters)


def _step_reached(job: Job) -> str:
    log = job.log.with_name("log.jsonl")
    steps = re.findall(rb'"step": (\d+)', log.read_bytes()[-2000:]) if log.is_file() else []
    return f"step {int(steps[-1]) if steps else 0}"


def run_experiment(grid: Grid, settings: Settings, jobs: int = 1, say: Report = print) -> list[str]:
    """Run what is missing of an experiment, then write its results, table and figure; the failures, a sentence each."""
    cells = plan_cells(grid, settings)
    say(f"{grid.title}: {len(grid.rows)} rows x {settings.seeds} seeds in {settings.output}")
    failures = run_cells(cells, jobs=jobs, say=say, status=status_line())
    if any(cell.finished for cell in cells):
        say(write_report(grid, settings, cells))
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 where every cell is finished, 1 where some failed, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    failures: list[str] = []

    def work() -> None:
        for name, least in {"jobs": 1, "resolution": 0, "points": 0}.items():
            if getattr(options, name) < least:
                raise InputError(f"--{name} must be at least {least}, not {getattr(options, name)}")
        grid, settings = find_grid(options.name), _settings(options)
        failures.extend(run_experiment(grid, settings, options.jobs))
        if options.keep and not failures:
            print(f"kept in {keep_report(options.name, settings, plan_cells(grid, settings))}")

    code = exit_code(work)
    if failures:
        head = f"{len(failures)} cells failed; the same command tries them again:"
        print(head, *failures, sep="\n  ", file=sys.stderr)
    return code or int(bool(failures))


def _settings(options: argparse.Namespace) -> Settings:
    named = {"steps": options.steps, "pretrain_steps": options.pretrain_steps}
    named["start"] = None if options.start is None else str(options.start.resolve())
    changes = read_settings(options.set) | {name: value for name, value in named.items() if value is not None}
    return Settings(
        output=options.output or RUNS / "experiments" / options.name,
        seeds=options.seeds,
        recipe=options.recipe,
        changes=tuple(changes.items()),
        dataset=options.dataset,
        category="" if options.category == "all" else options.category,
        profile=options.profile,
        device=options.device,
        resolution=options.resolution,
        points=options.points,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib.course.experiment", description=__doc__)
    add = parser.add_argument
    add("name", metavar="NAME", help=", ".join(GRIDS))
    add("--seeds", type=int, default=3, help="trainings of each row; more can be added later")
    add("--recipe", default="", help="what is trained, e.g. paper; default: the small recipe of the experiment")
    add("--steps", type=int, help="of training; default: the recipe's")
    add("--pretrain-steps", type=int, help="default: the recipe's")
    add("--start", type=Path, help="folder of a checkpoint whose weights every training begins with")
    many = {"action": "extend", "nargs": "+", "default": [], "metavar": "NAME=VALUE"}
    add("--set", **many, help="change settings of every training, as python -m lib.training does")
    add("--dataset", type=Path, default=FURNITURE, help="a prepared folder")
    add("--category", default="chair", help="what is learned and measured; all: every category")
    add("--profile", default="full", choices=["full", "quick"], help="quick: measure a few images, coarsely")
    add("--resolution", type=int, default=0, help="of the grid that meshes are taken from; default: the profile's")
    add("--points", type=int, default=0, help="drawn from each surface to compare two; default: the profile's")
    add("--jobs", type=int, default=1, help="cells at a time")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--output", type=Path, help="default: runs/experiments/NAME")
    add("--keep", action="store_true", help="copy the whole table's results and figure to lib/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
