"""Threads that watch processes: order, errors, Ctrl-C."""

import signal
import threading
import time

import pytest

from lib.course.pool import work_through


def test_outcomes_come_in_the_order_of_the_items_and_at_most_so_many_at_a_time():
    running, most = [], []

    def work(item, check_stop):
        running.append(item)
        most.append(len(running))
        time.sleep(0.02 * (4 - item))
        running.remove(item)
        return item**2

    assert work_through(work, range(4), workers=2) == [0, 1, 4, 9]
    assert max(most) == 2


def wait_for_stop(check_stop, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check_stop()
        time.sleep(0.01)


def test_an_error_stops_what_runs_and_nothing_new_begins():
    begun = []

    def work(item, check_stop):
        begun.append(item)
        if item == 1:
            raise OSError("no such kernel")
        wait_for_stop(check_stop)

    start = time.monotonic()
    with pytest.raises((OSError, KeyboardInterrupt)):
        work_through(work, range(5), workers=2)
    assert time.monotonic() - start < 10
    assert set(begun) == {0, 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_in_the_main_thread_reaches_every_thread(workers):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore Ctrl-C
    stopped, begun = [], []

    def work(item, check_stop):
        begun.append(item)
        if len(begun) == workers:
            time.sleep(0.2)  # until the pool waits: a signal while it starts a thread would race with this test
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        try:
            wait_for_stop(check_stop)
        except KeyboardInterrupt:
            stopped.append(item)
            raise

    try:
        with pytest.raises(KeyboardInterrupt):
            work_through(work, range(6), workers)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(stopped) == sorted(begun) == list(range(workers))
