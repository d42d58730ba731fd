"""Freed memory that is kept: blocks that are asked for again cost no new pages."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from lib.rendering.memory import keep_memory

{first}
def new_pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        [torch.zeros(12_000_000), torch.zeros(12_000_000)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(new_pages() for _ in range(4)))
"""


def pages(first: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(first=first)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_that_were_freed_are_used_again():
    assert pages("keep_memory()") < pages("") / 10


def test_another_c_library_is_left_alone(monkeypatch):
    from lib.rendering import memory

    def refuse(_):
        raise AssertionError("its allocator was asked for")

    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", refuse)
    memory.keep_memory()
