"""README.md and RESULTS.md promise what is there, and the workflow for the outside world runs what we run."""

import re

import pytest
import yaml

from lib.course import readme
from lib.paths import REPOSITORY

PAGES = [readme.README, readme.RESULTS_PAGE]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_numbers_are_those_of_the_shipped_results(page):
    text = page.read_text(encoding="utf-8")
    assert readme.updated(text) == text, "run python -m lib.course.readme"


@pytest.mark.parametrize("page", [*PAGES, REPOSITORY / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_linked_files_exist(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith("../../actions/")]  # pages of the host
    assert [link for link in files if not (REPOSITORY / link).exists()] == []


def test_an_edited_number_is_noticed():
    text = readme.README.read_text(encoding="utf-8")
    section = readme.results_section(whole=False)
    changed = text.replace(section, re.sub(r"0\.\d{3}", "0.001", section, count=1))
    assert changed != text
    assert readme.updated(changed) == text


def test_readme_is_short_and_every_section_is_shown_once():
    assert len(readme.README.read_text(encoding="utf-8").split()) < 1000
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [text.count(f"<!-- {name}: begin -->") for name in readme.SECTIONS] == [1] * len(readme.SECTIONS)


def test_workflow_runs_what_we_run_on_every_system():
    jobs = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["everything"] == [".ci/run"] and "pytest" in commands["unit-tests"][-1]
    assert jobs["everything"]["strategy"]["matrix"]["python"] == ["3.11", "3.12"]
    assert jobs["unit-tests"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
