"""The run directory that a collection writes: files that grow by whole records, or appear whole."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable

SPANS = "spans.pb"
FRAMES = "fpm.bin"
BEFORE = "metrics_before.txt"
AFTER = "metrics_after.txt"
SERIES = "metrics_series.txt"
MANIFEST = "collect.json"
OWN = (SPANS, FRAMES, BEFORE, AFTER, SERIES, MANIFEST)


class StorageError(Exception):
    """The disk did not take a record; the file is as it was before."""


class AppendFile:
    """A file that grows by whole records, whatever the disk does.

    An append that fails half-way is taken back, so that the file stays readable and the next append
    continues it. Bytes are handed to the operating system before :meth:`append` returns: they
    survive the end of this process, and, after :meth:`sync`, that of the machine.

    Args:
        path: The file; what it held is dropped.
        pwrite: Writes bytes at an offset and returns how many; a seam for tests.
    """

    def __init__(
        self, path: Path, *, pwrite: Callable[[int, bytes | memoryview, int], int] = os.pwrite
    ) -> None:
        self.path = path
        self.num_bytes = 0
        self._pwrite = pwrite
        self._is_torn = False
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._fd, 0)
        except BaseException:
            os.close(self._fd)
            raise

    def append(self, data: bytes) -> None:
        """Write a record, or several, whole or not at all.

        Raises:
            StorageError: The disk is full or failing.
        """
        view = memoryview(data)
        try:
            if self._is_torn:
                self._take_back()
            while view:
                # near the end of the space a write may take a part only
                done = self._pwrite(self._fd, view, self.num_bytes + len(data) - len(view))
                view = view[done:]
        except OSError as error:
            self._is_torn = True
            with suppress(OSError):  # tried again before the next record, and at the end
                self._take_back()
            raise StorageError(error.strerror or str(error)) from error
        self.num_bytes += len(data)

    def _take_back(self) -> None:
        os.ftruncate(self._fd, self.num_bytes)
        self._is_torn = False

    def sync(self) -> None:
        """Wait until the disk itself has all of it.

        Raises:
            OSError: The disk could not keep what it had taken.
        """
        if self._is_torn:
            self._take_back()
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class RunDirectory:
    """A directory of one collection.

    Args:
        path: The directory; made if it is not there.
        is_forced: Accept one that holds files: those of an earlier collection are replaced, others
            (an engine's log, say) stay.

    Raises:
        OutputError: It holds files, is in use by another collection, or cannot be written.
    """

    def __init__(self, path: str, *, is_forced: bool = False) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {p.name for p in self.path.iterdir()}
            if names and not is_forced:
                raise OutputError(
                    f"{path}: is not empty; name a new directory, or give --force to replace what"
                    " an earlier collection left there and keep the rest"
                )
            self.spans = AppendFile(self.path / SPANS)
            for name in names.intersection(OWN) - {SPANS}:
                (self.path / name).unlink()
        except BlockingIOError as error:
            raise OutputError(f"{path}: another collection is writing there") from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
        self._files = [self.spans]

    def open(self, name: str) -> AppendFile:
        """Start another file that grows.

        Raises:
            OutputError: It cannot be written.
        """
        try:
            file = AppendFile(self.path / name)
        except OSError as error:
            raise OutputError(f"{self.path / name}: {error.strerror or error}") from error
        self._files.append(file)
        return file

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole, in place of an older one.

        Raises:
            StorageError: The disk is full or failing; the older one stays.
        """
        scratch = self.path / f".{name}.part"
        try:
            with scratch.open("wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            scratch.replace(self.path / name)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise StorageError(error.strerror or str(error)) from error

    def put_manifest(self, manifest: dict[str, Any]) -> None:
        """Write how the collection went; see :meth:`put`."""
        self.put(MANIFEST, json.dumps(manifest, indent=1).encode() + b"\n")

    def close(self) -> None:
        """Wait until the disk has every file, and close them.

        Raises:
            OutputError: The disk could not keep what it had taken.
        """
        failed: list[str] = []
        for file in self._files:
            try:
                file.sync()
            except OSError as error:
                failed.append(f"{file.path}: not safely on disk: {error.strerror or error}")
            file.close()
        self._files = []
        with suppress(OSError):  # not every file system can sync a directory
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        if failed:
            raise OutputError("; ".join(failed))
