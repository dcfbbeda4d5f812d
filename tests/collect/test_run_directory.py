"""Files stay readable and directories are not overwritten, whatever the disk does."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pdtrace.collect.run_directory import AFTER, AppendFile, RunDirectory, StorageError
from pdtrace.errors import OutputError


class Disk:
    """Writes with a given space; a write may take a part only, as a real one's may."""

    def __init__(self, space: int) -> None:
        self.space = space

    def pwrite(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        """Write what fits."""
        room = self.space - offset
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data[: min(room, 7)], offset)


def test_a_half_written_record_is_taken_back(tmp_path: Path) -> None:
    """A full disk must not leave half a message that every reader would stop at."""
    disk = Disk(space=25)
    file = AppendFile(tmp_path / "f", pwrite=disk.pwrite)
    file.append(b"a" * 10)
    with pytest.raises(StorageError, match="No space"):
        file.append(b"b" * 20)
    assert (tmp_path / "f").read_bytes() == b"a" * 10
    file.append(b"c" * 15)
    disk.space = 100
    file.append(b"d" * 20)
    file.sync()
    file.close()
    assert (tmp_path / "f").read_bytes() == b"a" * 10 + b"c" * 15 + b"d" * 20


def test_a_record_that_could_not_be_taken_back_is_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the disk refuses to shorten the file at first, no half record is left inside."""
    disk = Disk(space=15)
    file = AppendFile(tmp_path / "f", pwrite=disk.pwrite)
    file.append(b"a" * 10)
    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(StorageError):
            file.append(b"b" * 20)
    file.append(b"c" * 3)
    file.close()
    assert (tmp_path / "f").read_bytes() == b"a" * 10 + b"c" * 3


def test_a_directory_with_files_is_refused(tmp_path: Path) -> None:
    """A recording is not repeatable, so nothing is written over one by accident."""
    (tmp_path / "server.log").write_text("precious")
    with pytest.raises(OutputError, match="--force"):
        RunDirectory(str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["server.log"]


def test_force_replaces_a_collection_and_keeps_the_rest(tmp_path: Path) -> None:
    """The engine's log may lie in the directory already; a stale scrape must not."""
    (tmp_path / "server.log").write_text("precious")
    (tmp_path / "spans.pb").write_bytes(b"old")
    (tmp_path / AFTER).write_text("old")
    RunDirectory(str(tmp_path), is_forced=True).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["server.log", "spans.pb"]
    assert (tmp_path / "spans.pb").read_bytes() == b""
    assert (tmp_path / "server.log").read_text() == "precious"


def test_two_collections_do_not_share_a_directory(tmp_path: Path) -> None:
    """Their messages would be written over one another."""
    first = RunDirectory(str(tmp_path / "run"))
    first.spans.append(b"whole")
    with pytest.raises(OutputError, match="another collection"):
        RunDirectory(str(tmp_path / "run"), is_forced=True)
    assert (tmp_path / "run" / "spans.pb").read_bytes() == b"whole"
    first.close()


def test_a_path_that_cannot_be_a_directory_is_one_line(tmp_path: Path) -> None:
    """The message names the path and the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file: cannot be written"):
        RunDirectory(str(tmp_path / "file"))
