"""Makes the logs that users usually have out of one recorded with everything on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LABEL = re.compile(r"( batch) \[\d+\]")
MILLISECONDS = re.compile(r"^(\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)\.\d{3}")


@dataclass(frozen=True)
class Stripped:
    """A log with less in it, and where its lines were: new line number → old one, both from 1."""

    text: str
    old_line: dict[int, int]


def strip_log(
    lines: Iterable[str], *, label: bool, milliseconds: bool, time_stats: bool, debug: bool = False
) -> Stripped:
    """Leave things out of a log, as an engine does that was started without them.

    Args:
        lines: The lines with their ends.
        label: Keep the iteration label (``SGLANG_LOG_FORWARD_ITERS=1``).
        milliseconds: Keep the milliseconds of time stamps (``SGLANG_LOG_MS=1``).
        time_stats: Keep the request time stats (``--enable-request-time-stats-logging``).
        debug: Keep the delayer's debug lines (``SGLANG_PREFILL_DELAYER_DEBUG_LOG=1``).
    """
    kept: list[str] = []
    old_line: dict[int, int] = {}
    for number, whole in enumerate(lines, 1):
        line = whole
        if not time_stats and "ReqTimeStats(" in line:
            continue
        if not debug and "PrefillDelayer " in line and "initialized" not in line:
            continue
        if not label:
            line = LABEL.sub(r"\1", line)
        if not milliseconds:
            line = MILLISECONDS.sub(r"\1", line)
        kept.append(line)
        old_line[len(kept)] = number
    return Stripped("".join(kept), old_line)
