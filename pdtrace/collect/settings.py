"""What a collection was asked to do, and how much of the machine it may take."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 1 << 20
MAX_MESSAGE_MIB = 255
"""Readers tell spans.pb by a length below 2²⁸ in its first four bytes."""
RETRY_SECONDS = 1
"""When to come again; exporters give up after about ten seconds, so more would lose spans."""


@dataclass(frozen=True)
class Limits:
    """Bounds that no sender can exceed.

    Attributes:
        max_message_bytes: Largest message, decompressed.
        max_queue_bytes: Messages received but not yet written, all together.
        max_connections: Open connections, of each receiver.
        head_seconds: Time a client has for the head of its first request.
        body_seconds: Time it has for a body.
        grace_seconds: Time that requests under way have when the collection stops.
    """

    max_message_bytes: int = 16 * MIB
    max_queue_bytes: int = 128 * MIB
    max_connections: int = 256
    head_seconds: float = 10.0
    body_seconds: float = 20.0
    grace_seconds: float = 5.0


@dataclass(frozen=True)
class Settings:
    """What to collect, and where to.

    Attributes:
        directory: The run directory.
        host: Address to listen on.
        grpc_port: Port of OTLP over gRPC; 0 takes a free one.
        http_port: Port of OTLP over HTTP; 0 takes a free one.
        metrics_urls: Expositions of one engine, scraped together.
        metrics_interval: Seconds between scrapes; None: at the start and the end only.
        fpm_endpoints: ZeroMQ endpoints of the ranks' forward-pass metrics.
        duration: Seconds until the collection stops by itself; None: until a signal.
        is_forced: Write beside files that are there already, replacing those of a collection.
        limits: See :class:`Limits`.
    """

    directory: str
    host: str = "127.0.0.1"
    grpc_port: int = 4317
    http_port: int = 4318
    metrics_urls: tuple[str, ...] = ()
    metrics_interval: float | None = None
    fpm_endpoints: tuple[str, ...] = ()
    duration: float | None = None
    is_forced: bool = False
    limits: Limits = field(default_factory=Limits)
