import errno
import os

import pytest

from probes.report.whole_file import whole_file


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail():
        with whole_file(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "old")]


def test_two_processes_that_write_one_file_do_not_meet(tmp_path, monkeypatch):
    path = tmp_path / "file"
    with whole_file(path) as ours:
        ours.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with whole_file(path) as theirs:
            theirs.write_text("theirs")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("file", "ours")]


def test_a_full_disk_is_told_once_by_files_that_are_written_together(tmp_path):
    def fail():
        with whole_file(tmp_path / "first"), whole_file(tmp_path / "second"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match="expected a folder") as caught:
        fail()
    reason = os.strerror(errno.ENOSPC)
    assert str(caught.value) == (
        f"{tmp_path}/second: expected a folder that can be written, with room for it, got: {reason}; free some space, "
        "or choose another folder"
    )
