"""Working copies: made once, brought up to date on request, and never overwritten."""

import pytest

from lib.course import build, lab

SOURCE = '# %% [markdown]\n# # One\n\n# %%\nprint("{}")\n'


@pytest.fixture
def course(tmp_path):
    """A folder with a notebook; gives a function that publishes another version of it."""
    folder = tmp_path / "notebooks"
    (folder / "src").mkdir(parents=True)

    def publish(text):
        source = folder / "src" / "00_one.py"
        source.write_text(SOURCE.format(text))
        build.write_notebook(build.build(source)[0], folder / "00_one.ipynb")
        return folder

    return publish


def test_a_copy_is_made_once_and_kept(course, tmp_path):
    folder, work = course("first"), tmp_path / "work"
    assert lab.working_copies(folder, work) == []
    copy = work / "00_one.ipynb"
    assert "first" in copy.read_text()
    copy.write_text(copy.read_text().replace("first", "mine"))
    assert lab.working_copies(folder, work) == [] and "mine" in copy.read_text()
    course("second")
    (sentence,) = lab.working_copies(folder, work)
    assert sentence == "00_one.ipynb: the course has a newer one (make lab UPDATE=1)" and "mine" in copy.read_text()


def test_an_update_replaces_what_nobody_changed_and_puts_the_rest_beside(course, tmp_path):
    folder, work = course("first"), tmp_path / "work"
    lab.working_copies(folder, work)
    course("second")
    assert lab.working_copies(folder, work, update=True) == []
    copy = work / "00_one.ipynb"
    assert "second" in copy.read_text()
    copy.write_text(copy.read_text().replace("second", "mine"))
    course("third")
    (sentence,) = lab.working_copies(folder, work, update=True)
    assert "yours is kept" in sentence and "mine" in copy.read_text()
    beside = work / "00_one.new.ipynb"
    assert "third" in beside.read_text()
    beside.write_text("also mine")
    course("fourth")
    (sentence,) = lab.working_copies(folder, work, update=True)
    assert "00_one.new2.ipynb" in sentence and beside.read_text() == "also mine"
    assert "mine" in copy.read_text() and "fourth" in (work / "00_one.new2.ipynb").read_text()


@pytest.mark.parametrize("students", [False, True])
def test_the_students_zip_without_sources_is_copied_as_it_is(course, tmp_path, students):
    folder, work = course("first"), tmp_path / "work"
    (folder / "src" / "00_one.py").unlink()
    assert lab.working_copies(folder, work, students) == []
    assert (work / "00_one.ipynb").read_bytes() == (folder / "00_one.ipynb").read_bytes()


def test_students_copies_have_stubs(course, tmp_path):
    folder = course(
        'x")\n\n# %% tags=["exercise"]\n# BEGIN SOLUTION\ny = 2\n# END SOLUTION\n\n# %% tags=["check"]\nprint("'
    )
    lab.working_copies(folder, tmp_path / "work", students=True)
    text = (tmp_path / "work" / "00_one.ipynb").read_text()
    assert "NotImplementedError" in text and "y = 2" not in text


def test_jupyterlab_gets_the_copies_large_uploads_and_the_readers_options(tmp_path, monkeypatch):
    started = []

    class Done:
        returncode = 3

    monkeypatch.setattr(lab.subprocess, "run", lambda command, env, check: started.append((command, env)) or Done)
    assert lab.open_lab(lab.WORK, ["--ip=0.0.0.0"]) == 3
    ((command, environment),) = started
    assert command[-1] == "--ip=0.0.0.0" and "--LabApp.default_url=/lab/tree/work/00_start_here.ipynb" in command
    assert any("websocket_max_message_size': 104857600" in part for part in command)
    assert environment["PYTHONPATH"].startswith(str(lab.NOTEBOOKS))
