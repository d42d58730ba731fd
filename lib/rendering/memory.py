"""Memory that a process was given, kept for its next use."""

import ctypes
import platform

_LARGEST_UNUSED, _MAPPINGS, _ARENAS = -1, -4, -8  # M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX of glibc's malloc.h


def keep_memory() -> None:
    """Let this process keep what it frees; with a C library other than glibc nothing changes.

    glibc gives a large block back when it is freed. A training step that needs it again gets it from the system page
    by page, each cleared: 40,000 pages in a step of SDF-SRN on a processor, whose hypernetwork has gradients of 42 MB
    an MLP, and a tenth of its time. From here on the process stays as large as it has been at its largest.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MAPPINGS, 0)  # no block gets a mapping of its own, which would end with it
        libc.mallopt(_LARGEST_UNUSED, 2**31 - 1)
        libc.mallopt(_ARENAS, 1)  # a thread's own memory comes in blocks of 64 MB, which are given back whatever is set
