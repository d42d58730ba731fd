"""What the command lines of several scripts have in common."""

import argparse
from collections.abc import Callable

from lib.errors import STOPPED, exit_code


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def run_command(
    parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], object], arguments: list[str] | None
) -> int:
    """Read a command line and do its work; returns the exit code."""
    options = parser.parse_args(arguments)
    return exit_code(lambda: work(options), f"error: {STOPPED}")
