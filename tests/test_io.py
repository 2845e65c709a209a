from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgpo.errors import RunDirectoryError
from sgpo.io import LOCK, holding, read_json, write_json, write_jsonl, write_text


def test_a_file_is_written_whole_or_stays_as_it_was(tmp_path):
    file = tmp_path / "some.json"
    write_text(file, "é\n")
    assert file.read_bytes() == b"\xc3\xa9\n"
    with pytest.raises(UnicodeEncodeError):
        write_text(file, "new \ud800")
    assert [(path.name, path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()] == [("some.json", "é\n")]
    write_text(file, "new \ud800", errors="replace")
    assert file.read_text() == "new ?"


def test_what_is_in_the_way_stays_and_nothing_is_left_behind(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "text")
    with pytest.raises(OSError, match="none/file"):
        write_text(tmp_path / "none" / "file", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_two_writers_of_one_file_have_staging_files_of_their_own(tmp_path, monkeypatch):
    """One is killed in the middle of writing; the other's file is whole."""

    def die(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", die)
        killed.setattr(Path, "unlink", lambda self, missing_ok: None)
        with pytest.raises(KeyboardInterrupt):
            write_text(tmp_path / "file", "half")
    (left,) = tmp_path.iterdir()
    write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"
    assert left.read_text() == "half"


@pytest.mark.parametrize("write", [write_json, lambda path, row: write_jsonl(path, [row], escape=False)])
def test_half_a_character_is_escaped_and_the_rest_stays_readable(tmp_path, write):
    row = {"é\ud800": ["\udfff", "\U0001f600"]}
    write(tmp_path / "file", row)
    text = (tmp_path / "file").read_bytes().decode("utf-8")
    assert "é\\ud800" in text
    assert "\U0001f600" in text
    assert read_json(tmp_path / "file") == row


# -- one process at a time


def test_a_directory_that_another_process_holds_is_refused_until_that_one_dies(tmp_path):
    directory = tmp_path / "run"
    hold = "import sys; from pathlib import Path; from sgpo.io import holding\nwith holding(Path(sys.argv[1])):"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{hold} print(flush=True); sys.stdin.read()", str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        other.stdout.readline()
        with pytest.raises(RunDirectoryError, match=rf"run: in use by another process \(process {other.pid} on "):
            holding(directory).__enter__()
        other.kill()
    with holding(directory):
        assert (directory / LOCK).read_text().startswith(f"process {os.getpid()} on ")


def test_who_holds_a_directory_may_hold_it_again_and_leaves_nothing(tmp_path):
    directory = tmp_path / "run"
    with holding(directory):
        with holding(directory):
            pass
        with (directory / LOCK).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (directory / "file").touch()
    assert [path.name for path in directory.iterdir()] == ["file"]
    with holding(tmp_path / "unused"):
        pass
    assert not (tmp_path / "unused").exists()


def test_a_lock_whose_file_was_removed_while_it_was_taken_is_taken_anew(tmp_path, monkeypatch):
    """The holder before ends between the opening of its file and the lock on it."""
    flock = fcntl.flock
    taken = []

    def late(file, how):
        if not taken:
            (tmp_path / LOCK).unlink()
        taken.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with holding(tmp_path), (tmp_path / LOCK).open() as file, pytest.raises(BlockingIOError):
        flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert len(taken) == 2


def test_a_file_system_without_locks_refuses_nobody(tmp_path, monkeypatch):
    def flock(file, how):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", flock)
    with holding(tmp_path):
        pass
