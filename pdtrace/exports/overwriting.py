"""The one rule of where results may be written: never onto what they are made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pdtrace.errors import InputError, UsageError
from pdtrace.exports.writing import STDOUT
from pdtrace.saved_run import is_saved_run
from pdtrace.sources.formats import recognise
from pdtrace.sources.inputs import Input
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def check_outputs(outputs: Mapping[str, str | None], inputs: Iterable[str | None]) -> None:
    """Refuse outputs that cannot all be written, or would replace an input, before any is read.

    Args:
        outputs: Option, as the user wrote it, to the file it names; None: not given.
        inputs: Everything that will be read: files, run directories, saved runs. What does not
            exist, standard input and None are no inputs that could be lost.

    Raises:
        UsageError: Two outputs are one file or standard output, or one is a file that is read.
    """
    named = {option: text for option, text in outputs.items() if text is not None}
    if list(named.values()).count(STDOUT) > 1:
        raise UsageError("only one output can be written to standard output")
    read = [Path(text) for text in inputs if text is not None and text != STDOUT]
    taken: dict[Path, str] = {}
    for option, text in named.items():
        if text == STDOUT:
            continue
        place = _resolve(text)
        if place.exists() and not place.is_file():  # such as /dev/null
            continue
        if place in taken:
            raise UsageError(f"{option} would replace {show(text)}, which {taken[place]} writes")
        if any(_is_read(place, path) for path in read):
            raise UsageError(f"{option} would replace {show(text)}, which is read")
        taken[place] = option


def check_directory(option: str, text: str | None, inputs: Iterable[str | None]) -> None:
    """Refuse a directory in which files are replaced and an input lies.

    Args:
        option: As the user wrote it.
        text: The directory; None: not given.
        inputs: As for :func:`check_outputs`. A saved run may be replaced: it gives itself again.

    Raises:
        UsageError: An input is it, or lies in it.
    """
    if text is None:
        return
    place = _resolve(text)
    for path in inputs:
        if path is None or path == STDOUT:
            continue
        where = _resolve(path)
        is_itself = where == place and place.is_dir() and not is_saved_run(place)
        if is_itself or place in where.parents:
            raise UsageError(
                f"{option} {show(text)} would replace what is read there; name another directory"
            )


def _resolve(text: str) -> Path:
    try:
        return Path(text).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null character
        raise UsageError(f"{show(text)}: cannot be used: {error}") from error


def _is_read(place: Path, path: Path) -> bool:
    """Whether an existing file is read where a path is."""
    try:
        if not place.is_file() or not path.exists():
            return False
        if not path.is_dir():
            return path.samefile(place)
        if is_saved_run(path):
            return path.resolve() in place.parents
        entries = [entry for entry in path.iterdir() if entry.is_file() and entry.samefile(place)]
    except (OSError, ValueError):
        return False  # reading it will say so
    return bool(entries) and _is_recognised(entries[0])


def _is_recognised(path: Path) -> bool:
    """Whether a file beside others in a run directory is one of a recording's."""
    try:
        source = Input(str(path))
    except InputError:
        return True  # compressed and damaged: nothing that pdtrace has written
    try:
        return bool(source.head) and recognise(source.head) is not None
    finally:
        source.close()
