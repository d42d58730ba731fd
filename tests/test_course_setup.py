"""Set-up: one list of dependencies, a lock that fits it, and no half environment that looks whole."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib.course import set_up as course_set_up
from lib.paths import REPOSITORY

needs_make = pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make and a shell")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
LOCK = [Requirement(line) for line in (REPOSITORY / "constraints.txt").read_text().splitlines()]
DIRECT = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]


def test_environment_yml_holds_no_second_list():
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text())
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    pip = [entry for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert [entry.split("=")[0] for entry in plain] == ["python", "pip"]
    assert pip == [{"pip": ["--constraint constraints.txt", "--editable ."]}]
    assert SpecifierSet(PROJECT["requires-python"]).contains(plain[0].split("=")[1])


def test_no_other_file_lists_dependencies():
    names = ("requirements*.txt", "setup.py", "setup.cfg", "Pipfile*", "poetry.lock", "uv.lock", "conda*.yml")
    assert [path.name for name in names for path in REPOSITORY.glob(name)] == []


@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_the_lock_fits_the_ranges(python):
    """After a change of pyproject.toml, `make lock` is due."""
    markers = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    for wanted in DIRECT:
        locked = [
            pin
            for pin in LOCK
            if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
            and (pin.marker is None or pin.marker.evaluate(markers))
        ]
        assert len(locked) == 1, wanted
        (specifier,) = locked[0].specifier
        assert specifier.operator == "==" and wanted.specifier.contains(specifier.version), wanted


def test_the_lock_is_versions_only():
    assert [pin for pin in LOCK if pin.url or [part.operator for part in pin.specifier] != ["=="]] == []


@pytest.fixture
def copy(tmp_path):
    """What `make setup` reads: (folder)."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "lib/course/set_up.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


@needs_make
@pytest.mark.parametrize("version", ["3.10.13", "3.13.0"])
def test_another_python_is_refused_in_one_sentence(copy, version):
    python = copy / "python"  # says that it is of another version: make asks it to compare its own
    python.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    python.chmod(0o755)
    done = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("error: ") and f"(Python {version}) is not Python 3.11 or 3.12" in sentence
    assert not (copy / ".venv").exists()


def bare_environment(venv, calls):
    """What looks like an environment: a Python that notes what it is asked for, and fails where `calls` says."""
    (venv / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").write_text(f'#!/bin/sh\necho "$*" >> {venv.parent}/calls\n{calls}\n')
    (venv / "bin" / "python").chmod(0o755)


def set_up(folder):
    command = [sys.executable, "lib/course/set_up.py", ".venv", ".venv/stamp"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@needs_make
def test_a_failed_set_up_says_where_and_is_not_taken_for_a_whole_one(copy):
    bare_environment(copy / ".venv", 'case "$*" in *"uv pip install"*) echo "no such wheel" >&2; exit 3;; esac')
    code, printed, errors = set_up(copy)
    assert code == 1 and "[2/3]" in printed and "[3/3]" not in printed
    assert errors.startswith("no such wheel\nerror: set-up failed at ") and errors.count("\n") == 2
    assert (copy / ".venv" / ".unfinished").exists() and not (copy / ".venv" / "stamp").exists()


@needs_make
def test_a_whole_environment_is_kept_and_stamped_last(copy):
    bare_environment(copy / ".venv", "")
    code, printed, _ = set_up(copy)
    assert code == 0 and "Ready after" in printed
    calls = (copy / "calls").read_text()
    assert "--editable .[dev] --constraint constraints.txt" in calls and "uv pip check" in calls
    assert (copy / ".venv" / "stamp").exists() and not (copy / ".venv" / ".unfinished").exists()


def test_an_unfinished_environment_is_made_anew(tmp_path, monkeypatch):
    (tmp_path / ".venv" / "half").mkdir(parents=True)
    (tmp_path / ".venv" / ".unfinished").touch()
    commands = []
    monkeypatch.setattr(course_set_up, "_run", lambda *command, environment=None: commands.append(command))
    monkeypatch.setattr(course_set_up, "uv_settings", lambda python: {})
    course_set_up.make_environment(tmp_path / ".venv", tmp_path / ".venv" / ".unfinished")
    assert not (tmp_path / ".venv" / "half").exists()
    assert commands[0][1:] == ("-m", "venv", tmp_path / ".venv")


def test_pips_settings_reach_uv(monkeypatch):
    listed = """:env:.find-links='/wheels https://a.org/b'
global.find-links='/others'
global.index-url='https://mirror.org/simple'
install.extra-index-url='https://more.org/simple'
global.timeout='60'
"""
    done = subprocess.CompletedProcess([], 0, stdout=listed)
    monkeypatch.setattr(course_set_up.subprocess, "run", lambda *command, **options: done)
    assert course_set_up.uv_settings(Path("python")) == {
        "UV_FIND_LINKS": "/wheels,https://a.org/b",
        "UV_DEFAULT_INDEX": "https://mirror.org/simple",
        "UV_INDEX": "https://more.org/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


@needs_make
def test_make_lists_its_targets():
    done = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target in ("setup", "run", "test", "lab", "notebooks", "experiment", "bench", "lint", "lock", "clean"):
        assert f"  make {target} " in done.stdout
