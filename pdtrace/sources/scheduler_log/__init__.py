"""SGLang's scheduler log: ``Prefill batch`` lines of releases 0.4.6 to 0.5.23 → ``events``.

``catalogue`` says what the fields mean, ``reference`` and ``kernel`` read them (slow and obvious;
fast), ``state`` folds the blocks in order, ``read`` puts files together.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

_HEADER = re.compile(
    rb"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{3})?(?: [A-Z_]+\d+)*\] (?!INFO:     Started|$)"
)
_BATCH = re.compile(rb"(?:Prefill|Decode) batch(?: \[\d+\])?[.,] #")


def _is_scheduler_log(head: bytes) -> bool:
    return _HEADER.search(head) is not None or _BATCH.search(head) is not None


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    from pdtrace.sources.scheduler_log.read import read_logs  # noqa: PLC0415  (imports polars)

    return read_logs(inputs, options)


FORMATS.register(
    "scheduler_log",
    SourceFormat("scheduler_log", "a scheduler log", _is_scheduler_log, _read, order=90),
)
