"""The run directory of a load: what the client knows, as lines, and what the engine said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pdtrace.collect.run_directory import AppendFile, StorageError
from pdtrace.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUESTS = "client.jsonl"
DIARY = "client.txt"
INFO = "server_info.json"
BEFORE = "metrics_before.txt"
AFTER = "metrics_after.txt"
DESCRIPTION = "run.toml"
OWN = (REQUESTS, DIARY, INFO, BEFORE, AFTER, DESCRIPTION)


class RunDirectory:
    """The files of one engine's load; those that grow do so by whole lines.

    Args:
        path: The directory; made if it is not there.
        is_forced: Accept one that holds files: those of an earlier load are replaced, others (an
            engine's log, say) stay.

    Raises:
        OutputError: It holds files, is in use, or cannot be written.
    """

    def __init__(self, path: Path, *, is_forced: bool) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {p.name for p in path.iterdir()}
            if names and not is_forced:
                raise OutputError(
                    f"{path}: is not empty; name a new directory, or give --force to replace what"
                    " an earlier load left there and keep the rest"
                )
            self._requests = AppendFile(path / REQUESTS)
            for name in names.intersection(OWN) - {REQUESTS}:
                (path / name).unlink()
            self._diary = AppendFile(path / DIARY)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(f"{path}: is not a directory") from error
        except BlockingIOError as error:
            raise OutputError(f"{path}: another load is writing there") from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Write lines of client.jsonl.

        Raises:
            OutputError: The disk did not take them.
        """
        text = "".join(json.dumps(line) + "\n" for line in lines)
        _append(self._requests, text)

    def note(self, line: str) -> None:
        """Write a line of client.txt.

        Raises:
            OutputError: The disk did not take it.
        """
        _append(self._diary, line + "\n")

    def put(self, name: str, data: bytes) -> None:
        """Write another file, whole or not at all.

        Raises:
            OutputError: The disk did not take it.
        """
        scratch = self.path / f".{name}.part"
        try:
            scratch.write_bytes(data)
            scratch.replace(self.path / name)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise OutputError(f"{self.path / name}: {error.strerror or error}") from error

    def close(self) -> None:
        """Wait until the disk has the lines.

        Raises:
            OutputError: The disk could not keep what it had taken.
        """
        for file in (self._requests, self._diary):
            try:
                file.sync()
            except OSError as error:
                raise OutputError(f"{file.path}: {error.strerror or error}") from error
            finally:
                file.close()


def _append(file: AppendFile, text: str) -> None:
    try:
        file.append(text.encode("utf-8", "backslashreplace"))
    except StorageError as error:
        raise OutputError(f"{file.path}: {error}") from error


def write_toml(sections: dict[str, dict[str, Any]]) -> bytes:
    """Sections of plain values as TOML; what is None or empty is left out."""
    out = []
    for section, values in sections.items():
        out.append(f"[{section}]")
        # JSON's strings, numbers, lists and booleans are TOML's, but for one unescaped character.
        out += [
            f"{name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f")
            for name, value in values.items()
            if value is not None and value != [] and value != ()
        ]
        out.append("")
    return "\n".join(out).encode("utf-8", "replace")
