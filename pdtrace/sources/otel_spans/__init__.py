"""SGLang's OpenTelemetry spans (0.5.3 on) → one event a batch and rank, one row a request.

``spans`` says which spans matter, ``otlp_json`` and ``otlp_protobuf`` decode files, ``traces``
reads the requests of a trace, ``collect`` keeps traces open while they grow, ``engines`` tells
engines apart, ``read`` puts files together.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pdtrace.sources.formats import FORMATS, ReadOptions, SourceFormat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

_JSON = re.compile(
    rb'\s*\{\s*"(?:resourceSpans|batches|trace)"\s*:\s*[\[{]'  # OTLP, Tempo
    rb'|\s*\{\s*"data"\s*:\s*\[\s*\{\s*"(?:traceID|spans|processes)"'  # Jaeger
)


def _is_spans(head: bytes) -> bool:
    if _JSON.match(head):
        return True
    # length as four bytes, then field 1 (resource_spans) of ExportTraceServiceRequest
    return len(head) > 16 and head[4] == 0x0A and 2 < int.from_bytes(head[:4], "big") < 1 << 28


def _read(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    from pdtrace.sources.otel_spans.read import read_spans  # noqa: PLC0415  (imports polars)

    return read_spans(inputs, options)


FORMATS.register(
    "otel_spans", SourceFormat("otel_spans", "OpenTelemetry spans", _is_spans, _read, order=60)
)
