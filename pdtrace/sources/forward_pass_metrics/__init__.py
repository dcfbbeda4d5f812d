"""Forward-pass metrics (SGLang 0.5.12 on): recorded ZMQ frames, or a router's JSONL traces of them.

``frames`` decodes one payload, live or recorded; ``read`` reads files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

_NANOSECONDS = range(10**18, 4 * 10**18)  # receive times between 2001 and 2096
_JSONL = re.compile(rb'\s*\{[^\n]{0,4000}"scheduled_requests"')


def _is_fpm(head: bytes) -> bool:
    is_recorded = (
        len(head) > 13
        and int.from_bytes(head[:8], "big") in _NANOSECONDS
        and int.from_bytes(head[8:12], "big") < 1 << 24
        and (head[12] & 0xF0 == 0x80 or head[12] in (0xDE, 0xDF))
    )
    return is_recorded or _JSONL.match(head) is not None


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    from pdtrace.sources.forward_pass_metrics.read import read_fpm  # noqa: PLC0415  (imports polars)

    return read_fpm(inputs, options)


FORMATS.register("fpm", SourceFormat("fpm", "forward-pass metrics", _is_fpm, _read, order=61))
