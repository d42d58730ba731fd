"""Set-up: one list of dependencies, a lock that fits it, and no half environment that looks whole."""

import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from lib.course import set_up
from lib.paths import REPOSITORY

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
@pytest.mark.parametrize("wanted", DIRECT, ids=str)
def test_the_lock_fits_the_ranges(wanted, python):
    """After a change of pyproject.toml, `make lock` is due."""
    markers = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    locked = [
        pin
        for pin in LOCK
        if canonicalize_name(pin.name) == canonicalize_name(wanted.name)
        and (pin.marker is None or pin.marker.evaluate(markers))
    ]
    assert len(locked) == 1
    (specifier,) = locked[0].specifier
    assert specifier.operator == "==" and wanted.specifier.contains(specifier.version)


def test_the_lock_is_versions_only():
    for pin in LOCK:
        assert pin.url is None
        assert [specifier.operator for specifier in pin.specifier] == ["=="]


@pytest.fixture
def copy(tmp_path):
    """What `make setup` reads, without a network to reach: (folder)."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "lib/course/set_up.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def fake_python(folder, version):
    """An interpreter that says it is of another version: make asks it to compare its own."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Python {version}" && exit 0\nexit 1\n')
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.10.13", "3.13.0"])
def test_another_python_is_refused_in_one_sentence(copy, version):
    python = fake_python(copy, version)
    done = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("error: ") and f"(Python {version}) is not Python 3.11 or 3.12" in sentence
    assert not (copy / ".venv").exists()


def bare_environment(venv):
    """What looks like an environment, and uses the pip of this one: a real one takes seconds to make."""
    (venv / "lib" / f"python3.{sys.version_info.minor}").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin" / "pip").touch()
    (venv / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (venv / "bin" / "python").chmod(0o755)


def test_a_failed_set_up_says_why_and_is_not_taken_for_a_whole_one(copy):
    """pip cannot read the lock: the stamp is missing, and the next set-up starts afresh."""
    (copy / "constraints.txt").write_text("torch is nice\n")
    bare_environment(copy / ".venv")
    command = [sys.executable, "lib/course/set_up.py", ".venv", ".venv/stamp"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: pip could not install the packages: ERROR: Invalid requirement")
    assert "[2/3]" in done.stdout and "[3/3]" not in done.stdout
    assert not (copy / ".venv" / "stamp").exists()
    assert (copy / ".venv" / ".unfinished").exists()


def test_an_unfinished_environment_is_made_anew(tmp_path):
    venv = tmp_path / ".venv"
    unfinished = venv / ".unfinished"
    bare_environment(venv)
    set_up._create(venv, unfinished)
    assert (venv / "bin" / "pip").stat().st_size == 0  # one that looks whole is kept
    set_up._create(venv, unfinished)
    assert (venv / "bin" / "pip").stat().st_size > 0


def test_progress_counts_what_is_in_place(tmp_path):
    log = set_up._log(tmp_path)
    log.write_text("Collecting torch\n  Downloading numpy-2.4.6-cp311.whl (16 MB)\n")
    assert set_up._progress(tmp_path) == "found 1 packages, reading numpy"
    (tmp_path / "lib/python3.11/site-packages/torch-2.13.0.dist-info").mkdir(parents=True)
    log.write_text("Installing collected packages: torch, numpy, timm\n")
    assert set_up._progress(tmp_path) == "installed 1 of 3"


def test_make_lists_its_targets():
    done = subprocess.run(["make"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for target in ("setup", "run", "test", "lab", "notebooks", "lint", "lock", "clean"):
        assert f"  make {target} " in done.stdout
