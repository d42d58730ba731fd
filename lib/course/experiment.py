"""Run an experiment, a cell at a time: ``python -m lib.course.experiment tables-2-3 --seeds 3``.

A cell (a row of the table and a seed) is notebook 08, executed by papermill into its own folder. Finished cells are
skipped, interrupted ones go on, failed ones do not stop the others. The table is made of what is finished.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lib.course.environment import notebook_environment
from lib.course.experiment_cells import ABOUT, Cell, Settings, about_cell, plan_cells
from lib.course.experiment_report import keep_report, write_report
from lib.course.grids import FULL, GRIDS, Grid, find_grid
from lib.course.pool import CheckStop, work_through
from lib.course.run import Job, Report, Result, run_job, status_line
from lib.errors import InputError, exit_code
from lib.files import write_json
from lib.paths import FURNITURE, NOTEBOOKS, RUNS
from lib.training.__main__ import read_settings

NOTEBOOK = NOTEBOOKS / "08_experiment_cell.ipynb"


def run_cells(cells: Sequence[Cell], *, jobs: int = 1, say: Report = print, status: Report | None = None) -> list[str]:
    """Run the cells that are not finished, so many at a time, also after one has failed.

    Returns
    -------
    list of str
        A sentence for each cell that failed.
    """
    waiting = [cell for cell in cells if not cell.finished]
    if len(waiting) < len(cells):
        say(f"{len(cells) - len(waiting)} of {len(cells)} cells were finished before")

    def run_one(cell: Cell, check_stop: CheckStop) -> str:
        label = f"[{waiting.index(cell) + 1}/{len(waiting)}] {cell.name}"
        if cell.waits:
            return f"{cell.name}: the cell {FULL!r} of this seed, whose networks it takes, is not finished"
        result = run_cell(cell, _watch(cell, label, check_stop, status if jobs == 1 else None), _threads(jobs))
        error = result.error or ("" if cell.finished else "wrote no results.json")
        say(f"{label}: {'failed' if error else 'finished'} after {result.seconds:.0f} s")
        if error:
            say(f"      {error}\n      all it printed: {cell.folder / 'cell.log'}")
        return f"{cell.name}: {error}" if error else ""

    trained = [cell for cell in waiting if "refine_from" not in cell.parameters]  # others take their networks
    refined = [cell for cell in waiting if cell not in trained]
    return [failure for some in (trained, refined) for failure in work_through(run_one, some, jobs) if failure]


def _threads(jobs: int) -> int | None:
    """Threads of a cell: the cores are shared among the cells at work; as the user's environment says, if it does."""
    return None if jobs == 1 or "OMP_NUM_THREADS" in os.environ else max(1, (os.cpu_count() or 1) // jobs)


def run_cell(cell: Cell, tick: Callable[[float, float], None] | None = None, threads: int | None = None) -> Result:
    """Execute notebook 08 for one cell, in its own process; what it printed is in ``cell.log``."""
    write_json(cell.folder / ABOUT, about_cell(cell))
    job = Job(NOTEBOOK, cell.folder / "cell.ipynb", cell.folder / "cell.log", cell.parameters)
    return run_job(job, notebook_environment(threads), tick=tick)


def _watch(cell: Cell, label: str, check_stop: CheckStop, status: Report | None) -> Callable[[float, float], None]:
    def tick(seconds: float, peak: float) -> None:
        check_stop()
        if status:
            status(f"{label} · step {_last_step(cell)} · {seconds:.0f} s")

    return tick


def _last_step(cell: Cell) -> int:
    log = cell.folder / "log.jsonl"
    steps = re.findall(rb'"step": (\d+)', log.read_bytes()[-2000:]) if log.is_file() else []
    return int(steps[-1]) if steps else 0


def run_experiment(grid: Grid, settings: Settings, jobs: int = 1, say: Report = print) -> list[str]:
    """Run what is missing of an experiment, then write its results, table and figure; the failures, a sentence each."""
    cells = plan_cells(grid, settings)
    say(f"{grid.title}: {len(grid.rows)} rows x {settings.seeds} seeds in {settings.output}")
    failures = run_cells(cells, jobs=jobs, say=say, status=status_line())
    finished = [cell for cell in cells if cell.finished]
    if finished:
        say(write_report(grid, settings, finished, len(cells)))
    return failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 where every cell is finished, 1 where some failed, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    failures: list[str] = []

    def work() -> None:
        if options.jobs < 1:
            raise InputError(f"--jobs must be at least 1, not {options.jobs}")
        grid, settings = find_grid(options.name), _settings(options)
        failures.extend(run_experiment(grid, settings, options.jobs))
        if options.keep and not failures:
            print(f"kept in {keep_report(options.name, settings, plan_cells(grid, settings))}")

    code = exit_code(work)
    if failures:
        head = f"{len(failures)} cells failed; the same command tries them again:"
        print(head, *failures, sep="\n  ", file=sys.stderr)
    return code or (1 if failures else 0)


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
    add("--jobs", type=int, default=1, help="cells at a time")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--output", type=Path, help="default: runs/experiments/NAME")
    add("--keep", action="store_true", help="copy the whole table's results and figure to lib/results")
    return parser


if __name__ == "__main__":
    sys.exit(main())
