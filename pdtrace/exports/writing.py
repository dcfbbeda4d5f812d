"""Writing named outputs: whole or not at all; ``-`` is standard output."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pdtrace.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

STDOUT = "-"


def find_width() -> int | None:
    """Columns of the terminal that standard output is, at least 40; None: it is none."""
    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else None


@contextmanager
def open_output(name: str) -> Iterator[BinaryIO]:
    """Open an output that takes the place of what is there only once it is complete.

    Args:
        name: A path, or ``-`` for standard output. A device or pipe (``/dev/stdout``, ``>(…)``) is
            written to directly, because it cannot be replaced.

    Raises:
        OutputError: It cannot be written.
    """
    if name == STDOUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as stream:
                yield stream
            return
        # A link keeps being one: what it points to is replaced.
        with _replace(path.resolve()) as stream:
            yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _replace(path: Path) -> Iterator[BinaryIO]:
    if path.is_dir():
        raise IsADirectoryError(0, "it is a directory")
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
        # mkstemp makes the file private; an output gets the mode that any new file would.
        mask = os.umask(0)
        os.umask(mask)
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask
        Path(scratch).chmod(mode)
        Path(scratch).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(scratch).unlink()
        raise


def drop_stdout() -> None:
    """Go on without a reader: what is still buffered would fail again when the stream is closed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_text(name: str, text: str) -> None:
    """Write a text as UTF-8 to a named output; see :func:`open_output`."""
    with open_output(name) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
