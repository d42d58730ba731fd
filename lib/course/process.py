"""Run a command and measure it: seconds, and the most memory that it and its children held."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_SECONDS = 0.1


@dataclass(frozen=True)
class Measured:
    """How a process went.

    Attributes
    ----------
    returncode : int
        Exit code; negative for a signal, None never.
    seconds : float
        Wall time.
    peak_memory : float
        Largest sum of resident sizes of the process and its descendants, in MB (2**20 bytes), sampled
        ten times a second. Pages that two of them share count twice.
    timed_out : bool
        It was stopped because it ran past its limit.
    """

    returncode: int
    seconds: float
    peak_memory: float
    timed_out: bool = False


def run_measured(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    log: Path,
    timeout: float | None = None,
    tick: Callable[[float, float], None] | None = None,
) -> Measured:
    """Run `command` with its output in `log`; leave none of its children behind, whatever happens.

    Parameters
    ----------
    timeout : float or None
        Seconds after which it is stopped.
    tick : callable (seconds, peak MB) or None
        Called at each sample, to show progress.
    """
    begin, peak = time.perf_counter(), 0.0
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                seconds, peak = time.perf_counter() - begin, max(peak, memory_of_tree(process.pid))
                if timeout is not None and seconds > timeout:
                    stop_tree(process.pid)
                    return Measured(process.wait(), seconds, peak, timed_out=True)
                if tick:
                    tick(seconds, peak)
                time.sleep(SAMPLE_SECONDS)
        except BaseException:  # Ctrl-C as well: no kernel may go on by itself
            stop_tree(process.pid)
            process.wait()
            raise
    return Measured(process.returncode, time.perf_counter() - begin, peak)


def memory_of_tree(pid: int) -> float:
    """Sum the resident memory of a process and its descendants, in MB; 0 once it is gone."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            total += process.memory_info().rss
    return total / 2**20


def stop_tree(pid: int) -> None:
    """End a process and its descendants: ask first, insist after three seconds."""
    tree = _tree(pid)
    for process in tree:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(tree, timeout=3)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.Error:
        return []
