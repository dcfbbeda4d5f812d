"""What pdtrace raises, and the exit code that each becomes.

::

    PdtraceError                 exit code 2 unless said otherwise
    ├── UsageError               an option or argument does not make sense
    ├── InputError               a file cannot be read as what it claims to be (path, line)
    │   └── NothingMeasuredError the input was read, but holds nothing to measure
    └── OutputError              a named output could not be written

A message is one line: what, where (``file:line``), what was expected, and the remedy if there is
one. ``pdtrace.__main__`` prints it to standard error; a traceback is shown only with ``--debug``.
"""

from __future__ import annotations


class PdtraceError(Exception):
    """Base of everything pdtrace raises on purpose."""

    exit_code = 2


class UsageError(PdtraceError):
    """An option or an argument does not make sense."""


class InputError(PdtraceError):
    """A file cannot be read as what it claims to be.

    Args:
        message: What is wrong and what was expected, in one line.
        path: The file, as the user named it.
        line: 1-based line number, where one is to blame.
    """

    def __init__(self, message: str, *, path: str | None = None, line: int | None = None) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message)
        self.path = path
        self.line = line


class NothingMeasuredError(InputError):
    """The input was read to its end, but holds nothing that could be measured."""


class OutputError(PdtraceError):
    """A named output could not be written."""
