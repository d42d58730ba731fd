"""Several processes at a time, each watched by a thread, all stopped by one Ctrl-C."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
CheckStop = Callable[[], None]


def work_through(work: Callable[[Item, CheckStop], Outcome], items: Sequence[Item], workers: int = 1) -> list[Outcome]:
    """Work at so many items at a time; the outcomes in the items' order.

    Parameters
    ----------
    work : callable (item, check_stop)
        Calls ``check_stop()`` now and then: it raises KeyboardInterrupt in every thread after Ctrl-C, which reaches
        the main thread only, and after an error in any of them. What has not begun then, never begins.
    """
    stop = threading.Event()

    def check_stop() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def one(item: Item) -> Outcome:
        check_stop()
        try:
            return work(item, check_stop)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(one, items))
        except BaseException:
            stop.set()
            raise
