"""Independent pieces of work on a processor's cores, one thread each.

An operation that is split over two threads waits for the slower one, and the next operation finds half of its input in
the other core's cache. Chunks side by side, each on a thread of its own, do neither; that pays where a chunk spends
its time outside of Python, in long operations or in compiled code.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Job], Result], jobs: Iterable[Job]) -> list[Result]:
    """The results of all jobs, in their order, from as many threads as torch uses here; each computes with one.

    Within `work`, gradients are recorded if they are where this is called; autocast is off. With one thread, and within
    `work` itself, the jobs are done one after the other.
    """
    count = torch.get_num_threads()
    if count == 1:
        return [work(job) for job in jobs]
    recording = torch.is_grad_enabled()

    def one(job: Job) -> Result:
        with torch.set_grad_enabled(recording):
            return work(job)

    return list(_pool(count, os.getpid()).map(one, jobs))


@functools.cache
def _pool(count: int, process: int) -> ThreadPoolExecutor:
    """So many threads that compute with one thread each; a forked `process` has none of its parent's."""
    started = threading.Barrier(count)  # none takes two of the first jobs, so that all threads start now

    def start() -> None:
        torch.get_num_threads()  # torch settles a new thread's number when it is first asked
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(count, thread_name_prefix="core", initializer=start)
    for waiting in [pool.submit(started.wait) for _ in range(count)]:
        waiting.result()
    torch.set_num_threads(count)  # also what threads get that start later
    return pool
