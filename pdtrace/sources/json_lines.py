"""JSON objects, one a line, from files that anyone may have written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.sources.inputs import Input

_LATEST_S = 4e9  # 2096


@dataclass
class LineCount:
    """Lines met; those that are no JSON object, and why the first of them is none."""

    num_lines: int = 0
    num_bad: int = 0
    first_bad: str = ""

    def miss(self, why: str) -> None:
        """Count the current line as one that cannot be used."""
        self.num_bad += 1
        self.first_bad = self.first_bad or f"line {self.num_lines}: {why}"


def read_objects(source: Input, count: LineCount) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of every line that is a JSON object; others are counted."""
    for block in source.blocks():
        for line in block.splitlines():
            count.num_lines += 1
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as e:
                count.miss(str(e).splitlines()[0][:100])
                continue
            if isinstance(found, dict):
                yield count.num_lines, found
            else:
                count.miss("no JSON object")


def as_time_ns(value: object) -> int | None:
    """Epoch seconds as nanoseconds; None for what is no time of this century."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not 1e9 <= value <= _LATEST_S:
        return None
    whole = int(value)
    # seconds and nanoseconds do not fit into one float together
    return whole * 1_000_000_000 + round((value - whole) * 1e9)


def as_count(value: object, most: int = 2**32 - 1) -> int | None:
    """A whole number from 0 to ``most``; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= most else None


def as_text(value: object) -> str | None:
    """Text of at least one character that can be printed as UTF-8; None for anything else."""
    if not isinstance(value, str) or not value:
        return None
    return value.encode("utf-8", "replace").decode("utf-8")
