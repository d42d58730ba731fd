"""The README promises what is there."""

import re

from lib.course import readme
from lib.paths import REPOSITORY


def test_numbers_are_those_of_the_shipped_results():
    text = readme.README.read_text()
    assert readme.updated(text) == text, "run python -m lib.course.readme"


def test_linked_files_exist():
    links = re.findall(r"\]\(([^)#:]+)\)", readme.README.read_text())
    assert len(links) > 5
    assert [link for link in links if not (REPOSITORY / link).exists()] == []


def test_an_edited_number_is_noticed():
    text = readme.README.read_text()
    section = readme.results_section()
    changed = text.replace(section, re.sub(r"0\.\d{3}", "0.001", section, count=1))
    assert changed != text
    assert readme.updated(changed) == text
