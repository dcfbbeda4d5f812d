"""What a source format is: how it is told from others, and how its files are read.

A new format is one new module in this folder that puts a ``SourceFormat`` on ``FORMATS``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pdtrace.registry import Shelf

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pdtrace.run import Recording
    from pdtrace.sources.inputs import Input

MAX_RANKS = 4096
"""DP ranks that an engine may have: tables are laid out over all of them. More are a mistake."""


@dataclass(frozen=True)
class ReadOptions:
    """What the caller wants of every reader.

    Attributes:
        dp_size: DP ranks as the user says; None: find out.
        tz: Zone that printed local times are in.
        progress: Called with bytes done and bytes in all.
        server_info: The engine's own answer to ``/server_info``, where the run directory has it.
        first_source_id: Index of the reader's first file among all files of the recording.
    """

    dp_size: int | None = None
    tz: str = "UTC"
    progress: Callable[[int, int], None] | None = None
    server_info: dict[str, Any] = field(default_factory=dict)
    first_source_id: int = 0


@dataclass(frozen=True)
class SourceFormat:
    """One kind of input file.

    Attributes:
        name: One of ``schema.SOURCES``, or another word for what is only recognised.
        title: What it is called in messages.
        sniff: Whether the first bytes of a file (decompressed) are of this format.
        read: Reads files of this format; None where nothing is to be read from them.
        order: Formats are asked in ascending order; the first that says yes has the file.
    """

    name: str
    title: str
    sniff: Callable[[bytes], bool]
    read: Callable[[Sequence[Input], ReadOptions], Recording] | None = None
    order: int = 50


FORMATS: Shelf[SourceFormat] = Shelf("pdtrace.sources", noun="source")


def recognise(head: bytes) -> SourceFormat | None:
    """The format that the first bytes of a file show, or None."""
    for candidate in sorted(FORMATS, key=lambda f: f.order):
        if candidate.sniff(head):
            return candidate
    return None
