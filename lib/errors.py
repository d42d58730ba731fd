"""What a user can cause and repair, and how a command line says so."""

import errno
import sys
from collections.abc import Callable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last is a limit on one file, of FAT disks 4 GB
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENAMETOOLONG)
UNWRITABLE = (*FULL, *REFUSED, errno.EIO, errno.EBUSY)
STOPPED = "Stopped; the same command goes on where this one was."


class InputError(ValueError):
    """A file, a parameter or a device is not what it should be.

    The message is one clear sentence: what was wrong, in which file or parameter, and what to do.
    Command lines print it without a traceback and exit with code 2.
    """


def exit_code(work: Callable[[], object], stopped: str = STOPPED) -> int:
    """Do a command's work; its exit code, and one sentence on the error stream where that is not 0.

    Parameters
    ----------
    work : callable
        Without arguments; what it returns is not used.
    stopped : str
        Said after Ctrl-C, unless the interrupt brings a sentence of its own.

    Returns
    -------
    int
        0; 1 for numbers that are no longer finite; 2 for bad input or a place that cannot be written; 130 for Ctrl-C.
    """
    try:
        work()
    except InputError as error:
        return _fail(2, f"error: {error}")
    except FloatingPointError as error:
        return _fail(1, f"error: {error}")
    except KeyboardInterrupt as error:
        return _fail(130, str(error) or stopped)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        what = error.filename or "A file"
        how = "read or written" if error.errno == errno.EIO else "written"
        return _fail(2, f"error: {what} cannot be {how} ({error.strerror}); repair that or choose another place.")
    return 0


def _fail(code: int, sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return code
