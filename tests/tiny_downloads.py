"""What the tests of the data scripts have in common: runs on tiny downloads, their outputs and refusals."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def runner(script: ModuleType, *options: str) -> Callable[..., int]:
    """A function that runs a script on a source, with these options and more: its exit code."""

    def run(source: Path, output: Path, *more: str) -> int:
        return script.main([str(source), "--output", str(output), *options, *more])

    return run


def download(write: Callable[[Path], Path], run: Callable[..., int], *options: str) -> tuple:
    """Three fixtures: the source that ``write`` makes, the folder that a run prepares of it, and a copy to damage."""

    @pytest.fixture(scope="module")
    def source(tmp_path_factory) -> Path:
        return write(tmp_path_factory.mktemp("source") / "download")

    @pytest.fixture(scope="module")
    def folder(source, tmp_path_factory) -> Path:
        output = tmp_path_factory.mktemp("prepared") / "out"
        assert run(source, output, *options) == 0
        return output

    @pytest.fixture
    def damaged(source, tmp_path) -> Path:
        return shutil.copytree(source, tmp_path / "in")

    return source, folder, damaged


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rejected(folder: Path, table: str = "rejected.csv") -> dict[str, str]:
    """Reason by name of file; each is one line."""
    with (folder / table).open(encoding="utf-8") as file:
        found = {Path(row["file"]).name: row["reason"] for row in csv.DictReader(file)}
    assert not any("\n" in reason for reason in found.values())
    return found


def check_rejected(folder: Path, words: dict[str, str]) -> None:
    """Exactly these files are rejected, for reasons that hold these words."""
    found = rejected(folder)
    assert found.keys() == words.keys()
    for name, part in words.items():
        assert part in found[name], (name, found[name])


def stopped_after(count: int, real: Callable) -> Callable:
    """The same function, which Ctrl-C stops after some calls."""
    calls = []

    def stopped(*arguments, **more):
        if len(calls) == count:
            raise KeyboardInterrupt
        calls.append(arguments)
        return real(*arguments, **more)

    return stopped
