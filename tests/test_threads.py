"""Jobs side by side: their order, errors, settings, and that each computes with one thread."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from lib.rendering.threads import in_parallel


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_jobs(threads):
    later = threading.Event()

    def work(job: int) -> int:
        if job == 0 and threads > 1:
            later.wait(10)  # the first is finished last
        if job == 5:
            later.set()
        return job * job

    assert in_parallel(work, range(20)) == [job * job for job in range(20)]
    assert in_parallel(work, []) == []


def test_as_many_jobs_at_once_as_threads_and_each_with_one(threads):
    together = threading.Barrier(threads, timeout=10)

    def work(_) -> tuple[int, int]:
        together.wait()  # hangs unless so many are at work at once
        return torch.get_num_threads(), threading.get_ident()

    found = in_parallel(work, range(3 * threads))
    assert {count for count, _ in found} == {1}
    assert len({name for _, name in found}) == threads
    assert torch.get_num_threads() == threads


def test_threads_that_start_later_compute_as_the_main_one(threads):
    in_parallel(abs, [1])
    found = []
    other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert found == [threads]


def test_an_error_reaches_who_asked_and_the_next_call_works(threads):
    with pytest.raises(ZeroDivisionError):
        in_parallel(lambda job: 1 / job, [2, 1, 0, 3])
    assert in_parallel(abs, [-1, -2]) == [1, 2]


def test_gradients_are_recorded_where_they_are_outside(threads):
    x = torch.ones(3, requires_grad=True)
    assert all(y.requires_grad for y in in_parallel(lambda a: a * x, [1, 2]))
    with torch.no_grad():
        assert not any(y.requires_grad for y in in_parallel(lambda a: a * x, [1, 2]))


def test_jobs_inside_of_a_job_are_done_by_it(threads):
    def work(_) -> bool:
        return set(in_parallel(lambda _: threading.get_ident(), range(4))) == {threading.get_ident()}

    assert all(in_parallel(work, range(4)))


def test_denormal_numbers_are_flushed_as_in_the_main_thread(threads):
    before = torch.tensor([1e-38]) * 0.1 == 0
    torch.set_flush_denormal(not before)
    other = torch.get_num_threads() + 3  # threads that have not started yet
    torch.set_num_threads(other)
    try:
        flushed = in_parallel(lambda _: bool(torch.tensor([1e-38]) * 0.1 == 0), range(other))
        assert set(flushed) == {not before}
    finally:
        torch.set_flush_denormal(bool(before))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_process_has_threads_of_its_own(threads):
    in_parallel(abs, [1, 2])
    child = os.fork()
    if child == 0:
        os._exit(int(in_parallel(abs, [-3, -4]) != [3, 4]))
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize(("own", "expected"), [({}, "30000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_idle_threads_wait_shortly_unless_the_user_says_otherwise(own, expected):
    given = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"} | own
    program = "import sys, os, lib; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, "False"]
