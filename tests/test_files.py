"""Files of ours: whole or not at all, and no longer than they may be."""

from pathlib import Path

import pytest

from runner.files import keep_end, write_atomically


@pytest.mark.parametrize("path", ["nowhere/file.json", "folder", "file.json/x.json"])
def test_an_error_names_the_file_that_was_to_be_written(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.json").write_text("before")
    with pytest.raises(OSError, match=r".") as caught:
        write_atomically(tmp_path / path, "text")
    assert caught.value.filename == str(tmp_path / path)
    assert caught.value.filename2 is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file.json", "folder"]


def test_a_full_disk_names_the_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "file.json").write_text("before")
    monkeypatch.setattr("runner.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_atomically(tmp_path / "file.json", "text")
    assert caught.value.filename == str(tmp_path / "file.json")
    assert (tmp_path / "file.json").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_grew_too_large_keeps_its_last_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    with log.open("ab") as appending:
        appending.write(b"".join(b"line %d\n" % n for n in range(100)))
        appending.flush()
        keep_end(log, 790)
        assert len(log.read_bytes()) == 790, "not above the limit yet"
        keep_end(log, 100)
        lines = [f"line {n}" for n in range(94, 100)]
        assert log.read_text().splitlines() == lines
        appending.write(b"more\n")
    assert log.read_text().splitlines() == [*lines, "more"]


def test_a_file_that_is_not_there_needs_no_shortening(tmp_path: Path) -> None:
    keep_end(tmp_path / "agent.log", 100)
    assert list(tmp_path.iterdir()) == []
