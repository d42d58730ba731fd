"""Exit codes of command lines and the one sentence that goes with them."""

import errno
from pathlib import Path

import pytest

from lib.errors import STOPPED, InputError, exit_code
from lib.training.log import Interrupted


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no such chair"), 2, "error: no such chair\n"),
        (FloatingPointError("loss is not finite"), 1, "error: loss is not finite\n"),
        (KeyboardInterrupt(), 130, f"{STOPPED}\n"),
        (Interrupted("stopped after step 4"), 130, "stopped after step 4\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "log.jsonl"),
            2,
            "error: log.jsonl cannot be written (No space left on device); repair that or choose another place.\n",
        ),
        (
            OSError(errno.EIO, "Input/output error", "a.png"),
            2,
            "error: a.png cannot be read or written (Input/output error); repair that or choose another place.\n",
        ),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_code(capsys, error, code, said):
    def work():
        raise error

    assert exit_code(work) == code
    assert capsys.readouterr() == ("", said)


def test_success_is_silent(capsys):
    assert exit_code(lambda: "ignored") == 0
    assert capsys.readouterr() == ("", "")


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        exit_code(lambda: 1 / 0)
    with pytest.raises(FileNotFoundError):
        exit_code(lambda: Path("/nowhere/at/all").read_text())
