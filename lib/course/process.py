"""Run a command and measure it: seconds, and the most memory that it and its children held."""

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


class MeasuredProcess:
    """A command at work, with its output in `log`.

    Attributes
    ----------
    peak_memory : float
        Largest sum of resident sizes of the process and its descendants so far, in MB (2**20 bytes), as seen by
        `watch`. Pages that two of them share count twice.
    timed_out : bool
        It was stopped because it ran past its limit.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path, timeout: float | None = None):
        self.begin, self.timeout, self.seconds = time.perf_counter(), timeout, 0.0
        self.peak_memory, self.timed_out = 0.0, False
        quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, env=dict(environment), stdout=stream, **quiet)

    def watch(self) -> bool:
        """Measure it, stop it when its time is up, and tell whether it has ended; call it about ten times a second."""
        ended = self.process.poll() is not None
        self.seconds = time.perf_counter() - self.begin
        if not ended:
            self.peak_memory = max(self.peak_memory, memory_of_tree(self.process.pid))
            self.timed_out = self.timeout is not None and self.seconds > self.timeout
            if self.timed_out:
                self.stop()
        return ended or self.timed_out

    def stop(self) -> None:
        """End it and all that it started, e.g. kernels: ask first, insist after three seconds."""
        tree = _tree(self.process.pid)
        for process in tree:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(tree, timeout=3)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def memory_of_tree(pid: int) -> float:
    """Sum the resident memory of a process and its descendants, in MB; 0 once it is gone."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            total += process.memory_info().rss
    return total / 2**20


def _tree(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.Error:
        return []
