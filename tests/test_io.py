import pytest

from sgpo.io import write_text


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
