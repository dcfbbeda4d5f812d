"""A run as OTLP spans, sent to an endpoint: a trace an iteration, a span for each of its ranks.

Engines send spans of their requests only, so whoever looks at Tempo or Jaeger never sees a rank
that had nothing to run. Ids are a hash of what a span stands for: a run sent twice is there once.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, cast
from urllib.parse import SplitResult, urlsplit

from pdtrace.errors import OutputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.sdk.trace.export import SpanExporter

    from pdtrace.run import Run

BATCH_SPANS = 512
GRPC_PORT = 4317
TRACES_PATH = "/v1/traces"


@dataclass(frozen=True)
class Endpoint:
    """An exporter and the name that messages give it (without the password of its URL)."""

    exporter: SpanExporter
    name: str


def open_exporter(
    url: str,
    *,
    protocol: str | None = None,
    insecure: bool = False,
    timeout_s: float | None = None,
    option: str = "--endpoint",
) -> Endpoint:
    """Prepare sending to an endpoint; nothing is sent yet.

    Headers and certificates come from ``OTEL_EXPORTER_OTLP_…`` of the environment, as everywhere.
    Proxies of the environment are not used: spans go to the endpoint itself.

    Args:
        url: ``http://host:port`` or ``https://…``; without a scheme it is https.
        protocol: ``grpc`` or ``http/protobuf``; by default grpc if the port is 4317.
        insecure: Without a scheme it is http.
        timeout_s: How long a batch may take, retries included; 10 s if not given.
        option: What messages call the URL.

    Raises:
        UsageError: The URL or an option makes no sense, or the extra ``otel`` is not installed.
    """
    parts, port = _split(url, option, insecure=insecure)
    where = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    if port is not None:
        where = f"{where}:{port}"
    name = f"{parts.scheme}://{where}{parts.path}"
    if protocol is None:
        protocol = "grpc" if port == GRPC_PORT else "http/protobuf"
    try:
        if protocol == "grpc":
            return Endpoint(_open_grpc(parts, timeout_s), name)
        return Endpoint(_open_http(parts, timeout_s), name)
    except ImportError as error:
        raise UsageError(
            "sending spans needs the extra pdtrace[otel]: pip install 'pdtrace[otel]'"
        ) from error


def _split(url: str, option: str, *, insecure: bool) -> tuple[SplitResult, int | None]:
    if "://" not in url:
        url = f"{'http' if insecure else 'https'}://{url}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{option} {url!r} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{option} must be http://HOST:PORT or https://HOST:PORT, not {url!r}")
    if insecure and parts.scheme == "https":
        raise UsageError("--endpoint says https, --insecure says no TLS: leave one out")
    return parts, port


def _open_grpc(parts: SplitResult, timeout_s: float | None) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 (extra otel)
        OTLPSpanExporter,
    )

    host = parts.netloc.rpartition("@")[2]
    return OTLPSpanExporter(
        endpoint=f"{parts.scheme}://{host}" + ("" if parts.port else f":{GRPC_PORT}"),
        insecure=parts.scheme == "http",
        timeout=timeout_s,
        # Annotated as text, but gRPC takes this one as a number only.
        channel_options=cast("tuple[tuple[str, str]]", (("grpc.enable_http_proxy", 0),)),
    )


def _open_http(parts: SplitResult, timeout_s: float | None) -> SpanExporter:
    import requests  # noqa: PLC0415 (extra otel)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 (likewise)
        OTLPSpanExporter,
    )

    path = parts.path.rstrip("/")
    if not path.endswith(TRACES_PATH):
        path += TRACES_PATH
    session = requests.Session()
    session.trust_env = False  # no proxy, no .netrc
    session.max_redirects = 0  # a redirect would be another endpoint
    url = parts._replace(path=path, fragment="").geturl()
    return OTLPSpanExporter(endpoint=url, timeout=timeout_s, session=session)


def send_spans(
    run: Run, endpoint: Endpoint, *, progress: Callable[[int], None] | None = None
) -> int:
    """Send the spans of a run, and return once the endpoint has taken the last of them.

    Args:
        run: The run.
        endpoint: As :func:`open_exporter` gives it; closed in the end.
        progress: Called with the number of spans sent, after each batch.

    Returns:
        The number of spans sent.

    Raises:
        OutputError: The endpoint did not take a batch, retries included.
    """
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415 (extra otel)

    from pdtrace.exports.otlp_spans import build_spans  # noqa: PLC0415 (likewise)

    num_sent = 0
    spans = build_spans(run)
    with _listen() as said:
        try:
            # Not the SDK's batch processor: where the endpoint is slow or gone it drops spans.
            while batch := list(islice(spans, BATCH_SPANS)):
                try:
                    result = endpoint.exporter.export(batch)
                except OSError as error:  # the HTTP client's errors are
                    said.append(str(error))
                    result = SpanExportResult.FAILURE
                if result is not SpanExportResult.SUCCESS:
                    why = " ".join(said[-2:]) or "no reason given"
                    raise OutputError(
                        f"{endpoint.name}: did not take the spans ({num_sent} sent before): {why}"
                    )
                num_sent += len(batch)
                if progress is not None:
                    progress(num_sent)
        finally:
            endpoint.exporter.shutdown()
    return num_sent


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        del self.said[:-2]  # the last attempt, and that it was the last


@contextmanager
def _listen() -> Iterator[list[str]]:
    """What the exporter logs, kept off the terminal: its last words are why it failed."""
    logger = logging.getLogger("opentelemetry")
    listener, propagates = _Listener(), logger.propagate
    logger.addHandler(listener)
    logger.propagate = False
    try:
        yield listener.said
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagates
