"""The folder that a script makes: nothing of the user's is lost, whatever the output names; work that stops is kept."""

import errno
import os
from pathlib import Path

import pytest
from test_prepare_eth80 import run as run_eth80
from test_prepare_eth80 import write_eth80
from tiny_downloads import contents

from data_scripts import prepare_photos
from data_scripts.output import REPLACED, check_output, going_on, partial_of, publish, take_up
from lib.errors import InputError


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def write_prepared(folder: Path) -> Path:
    return write(folder, "dataset.json", "metadata.parquet", "images/a.png")


def refused(words: str, output: Path, *sources: Path, **more) -> None:
    """One sentence, and not one byte is another one afterwards."""
    place = output.resolve().parent
    before = contents(place)
    with pytest.raises(InputError, match=words) as caught:
        check_output(output, *sources, **more)
    assert "\n" not in str(caught.value)
    assert contents(place) == before


# --- what may be replaced ---------------------------------------------------------------------------------------------


def test_what_is_not_there_or_empty_or_prepared_is_taken(tmp_path):
    check_output(tmp_path / "far" / "new")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    check_output(write_prepared(tmp_path / "old"), write(tmp_path / "source", "a.jpg"), None)
    (tmp_path / "begun.partial" / "parts").mkdir(parents=True)  # killed before its note was there
    (tmp_path / "begun.partial" / "parts" / "run.txt.tmp").write_text("{")
    check_output(tmp_path / "begun")
    take_up(tmp_path / "begun.partial", {"size": 1})
    check_output(tmp_path / "begun")


@pytest.mark.parametrize("names", [("thesis.txt",), ("dataset.json", "thesis.txt"), (".hidden",), ("deep/thesis.txt",)])
def test_a_folder_with_other_things_is_refused(tmp_path, names):
    refused("holds '.*' but no .*, so it is not replaced", write(tmp_path / "precious", *names))


def test_a_file_a_disk_and_foreign_work_are_refused(tmp_path):
    refused("is a file", write(tmp_path, "afile") / "afile")
    with pytest.raises(InputError, match="is a whole disk"):
        check_output(Path("/dev"))
    write(tmp_path / "out.partial", "thesis.txt")
    refused("out.partial is in the way", tmp_path / "out")
    write(tmp_path, "other.partial")
    refused("other.partial is in the way", tmp_path / "other")
    refused("but no shards.json", write_prepared(tmp_path / "old"), holds=("shards.json",))


def test_an_output_that_meets_a_source_is_refused_also_through_links(tmp_path, monkeypatch):
    trip = write(tmp_path / "Pictures" / "trip", "a.jpg")
    (tmp_path / "link").symlink_to(trip, target_is_directory=True)
    (tmp_path / "list.csv").write_text("")
    refused("is the source", trip, trip)
    refused("is the source", tmp_path / "link", trip)
    refused("holds the source", trip.parent, trip)
    refused("holds the source", write_prepared(trip.parent), tmp_path / "link")  # also where it is a prepared folder
    refused("lies in the source", trip / "new", trip)
    refused("lies in the source", tmp_path / "link" / "new", None, trip)
    refused("holds the source", tmp_path, tmp_path / "list.csv")
    monkeypatch.chdir(trip)
    refused("is the source", Path(), Path())
    refused("holds the source", Path(".."), Path())
    for output in (Path(), Path(".."), trip, Path("/")):
        with pytest.raises(InputError, match="is or holds the current folder"):
            check_output(output)
    check_output(tmp_path / "Pictures2", trip)  # a name that begins alike is another one


def test_the_commands_of_the_reviewers_lose_nothing(tmp_path, capsys):
    trip = write(tmp_path / "Pictures" / "trip", "a.jpg", "diary.txt")
    source = write_eth80(tmp_path / "ETH-80", instances=1)
    precious, afile = write(tmp_path / "precious", "thesis.txt"), write(tmp_path, "afile") / "afile"
    write(tmp_path / "mine.partial", "work.txt")
    before = contents(tmp_path)
    assert prepare_photos.main([str(trip), "--output", str(trip.parent)]) == 2
    for output in (source, source.parent, source / "new", precious, afile, tmp_path / "mine"):
        assert run_eth80(source, output) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 7 and all(line.startswith("error: ") for line in said)
    assert contents(tmp_path) == before


# --- in its place -----------------------------------------------------------------------------------------------------


def test_publishing_replaces_the_folder_as_a_whole_and_nothing_else(tmp_path):
    write_prepared(tmp_path / "data.old")  # the user's own copy
    write(write_prepared(tmp_path / "data"), "neighbors/x")
    write(write_prepared(tmp_path / "data.partial"), "new")
    kept = contents(tmp_path / "data.old")
    publish(tmp_path / "data.partial", tmp_path / "data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data.old"]
    assert set(contents(tmp_path / "data")) == {"dataset.json", "metadata.parquet", "images/a.png", "new"}
    assert contents(tmp_path / "data.old") == kept


def test_publishing_looks_again(tmp_path):
    write_prepared(tmp_path / "data.partial")
    write(tmp_path / "data", "thesis.txt")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"holds 'thesis\.txt'"):
        publish(tmp_path / "data.partial", tmp_path / "data")
    assert contents(tmp_path) == before


def test_a_kill_between_the_two_renames_is_gone_on_from(tmp_path, monkeypatch):
    write_prepared(tmp_path / "data")
    write(write_prepared(tmp_path / "data.partial"), "new")
    rename = Path.rename

    def killed(path, target):
        if path.name == "data.partial":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "data.partial", tmp_path / "data")
    monkeypatch.undo()
    assert (tmp_path / "data.partial" / REPLACED / "dataset.json").is_file()  # the older one is not lost
    publish(tmp_path / "data.partial", tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert set(contents(tmp_path / "data")) == {"dataset.json", "metadata.parquet", "images/a.png", "new"}


def test_links_and_points_name_the_folder_they_lead_to(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "data", target_is_directory=True)
    assert partial_of(tmp_path / "link") == tmp_path / "disk" / "data.partial"
    write_prepared(partial_of(tmp_path / "link"))
    publish(partial_of(tmp_path / "link"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "data" / "dataset.json").is_file()
    monkeypatch.chdir(tmp_path / "disk" / "data")
    assert partial_of(Path()) == tmp_path / "disk" / "data.partial"


# --- unfinished work --------------------------------------------------------------------------------------------------


def test_work_is_taken_up_with_the_same_settings_only(tmp_path):
    work, settings = tmp_path / "out.partial", {"size": 64, "photos": [["a", 1]], "name": "x"}
    take_up(work, settings)
    write(work, "parts/a.json")
    before = contents(work)
    take_up(work, settings | {"photos": [("a", 1)]})  # as JSON they are the same
    for changed, words in (
        ({"size": 128}, "with size 64 instead of 128: give the old settings"),
        ({"photos": [["a", 2]]}, "with other photos: "),
        ({"name": "y" * 61}, "with other name: "),
        ({"more": 1}, "with other settings: "),
    ):
        with pytest.raises(InputError, match=words) as caught:
            take_up(work, settings | changed)
        assert str(work) in str(caught.value) and "\n" not in str(caught.value)
    (work / "parts/run.txt").write_text('["of an older version"]')
    before["parts/run.txt"] = b'["of an older version"]'
    with pytest.raises(InputError, match="with other settings"):
        take_up(work, settings)
    assert contents(work) == before


@pytest.mark.parametrize("number", [errno.EIO, errno.EFBIG, errno.EDQUOT, errno.EROFS])
def test_a_broken_disk_is_one_sentence_too(tmp_path, number):
    words = rf"{os.strerror(number)} \(a\.png\); repair that"
    with pytest.raises(InputError, match=words), going_on(tmp_path / "out"):
        raise OSError(number, os.strerror(number), "a.png")


def test_our_own_mistakes_are_not_said_away(tmp_path):
    with pytest.raises(FileNotFoundError), going_on(tmp_path / "out"):
        (tmp_path / "none").read_text()
