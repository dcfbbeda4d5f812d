"""The engine's ``/metrics`` (SGLang 0.5.3 to 0.5.23, names with prefix ``sglang:``) → counters.

``scrapes`` parses the text and takes differences, ``read`` makes tables of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

_HEAD = re.compile(rb"\s*(?:# scraped [^\n]*\n)?# (?:HELP|TYPE) [A-Za-z_:]")


def _is_prometheus(head: bytes) -> bool:
    return _HEAD.match(head) is not None


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    from pdtrace.sources.prometheus.read import read_metrics  # noqa: PLC0415  (imports polars)

    return read_metrics(inputs, options)


FORMATS.register(
    "prometheus",
    SourceFormat("prometheus", "Prometheus metrics", _is_prometheus, _read, order=63),
)
