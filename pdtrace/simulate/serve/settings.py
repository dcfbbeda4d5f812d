"""What is served, and how much of the machine it may take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pdtrace.simulate.serve.frontend import FrontTiming

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timing import Timing

MIB = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """What no client can exceed.

    Attributes:
        max_connections: Open connections.
        max_body_bytes: Of a post.
        max_held_bytes: Bodies that are being read, all together.
        max_requests: Requests that are not answered yet.
        head_seconds, body_seconds: Time for the head of a first request; for a body.
        grace_seconds: Time that requests under way have when it is told to stop.
    """

    max_connections: int = 4096
    max_body_bytes: int = 32 * MIB
    max_held_bytes: int = 256 * MIB
    max_requests: int = 65536
    head_seconds: float = 20.0
    body_seconds: float = 120.0
    grace_seconds: float = 10.0


@dataclass(frozen=True)
class ServeSettings:
    """An engine to serve.

    Attributes:
        launch: Its start; a port of 0 takes a free one.
        timing, front: How long things take, on the ranks and before them.
        directory: Where its files go.
        is_forced: Write beside files that are there already.
        duration: Seconds until it stops by itself; None: until a signal.
        exporter: Where its spans are sent besides; None: nowhere.
        bounds: See :class:`Bounds`.
    """

    launch: Launch
    timing: Timing
    directory: str
    front: FrontTiming = field(default_factory=FrontTiming)
    is_forced: bool = False
    duration: float | None = None
    exporter: SpanExporter | None = None
    bounds: Bounds = field(default_factory=Bounds)
