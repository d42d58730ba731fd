"""What a run tells while it goes on, and how it is asked to stop."""

import json
import math
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from lib.files import write_atomically
from lib.systems.base import System

Listener = Callable[[System, dict], None]


class Interrupted(KeyboardInterrupt):
    """Training was stopped by the user after its state had been saved."""


class RunLog:
    """``log.jsonl``: a row a line, cut back to the step that a resumed run starts from; begun with the first row."""

    def __init__(self, run: Path, first: int, listeners: tuple[Listener, ...], enabled: bool):
        self.path, self.listeners, self.enabled, self.last = run / "log.jsonl", listeners, enabled, {"loss": math.nan}
        self.before, self.file = 0.0, None
        if enabled and self.path.is_file():
            kept = [row for row in read_log(self.path) if row["step"] <= first]
            self.before = kept[-1]["seconds"] if kept else 0.0
            write_log(self.path, kept)

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *error):
        if self.file:
            self.file.close()

    def write(self, system: System, row: dict):
        """Add a row, with the seconds that the run has taken so far, and hand it to the listeners."""
        row = row | {"seconds": round(self.before + time.perf_counter() - self.start, 2)}
        self.last = row if "loss" in row else self.last
        if self.enabled:
            if self.file is None:  # a run that fails before its first row leaves nothing behind
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.path.open("a")
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()
            for listener in self.listeners:
                listener(system, row)


def write_log(path: Path, rows: list[dict]) -> None:
    """A row a line as JSON, whole or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text("".join(json.dumps(row) + "\n" for row in rows)))


def read_log(path: Path | str) -> list[dict]:
    """Rows of a ``log.jsonl``; a last line cut off by a kill is dropped."""
    rows = []
    for line in Path(path).read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


@contextmanager
def interruptible():
    """Turn Ctrl-C into a question that the loop asks after each step; a second Ctrl-C stops at once."""
    pressed = []

    def note(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not in the main thread: leave the signal alone
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
