"""The few messages of a Perfetto trace that pdtrace writes, as protobuf bytes.

A trace is a stream of ``TracePacket``; the numbers below are the fields' in Perfetto's
``protos/perfetto/trace``. Written by hand because the generated classes are a megabyte and more of
dependency for a dozen fields, and because a packet is the concatenation of pieces most of which
repeat: those are encoded once.

Names of events, categories and arguments are interned: the first packet declares them all, so that
a slice costs some fifty bytes.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BOOTTIME, REALTIME = 6, 1  # BuiltinClock
SLICE_BEGIN, SLICE_END, INSTANT, COUNTER = 1, 2, 3, 4  # TrackEvent.Type
EXPLICIT_ORDER = 3  # TrackDescriptor.ChildTracksOrdering
STATE_CLEARED, NEEDS_STATE = 1, 2  # TracePacket.SequenceFlags
SEQUENCE = 1
FLUSH_BYTES = 1 << 20

Value = int | float | str | bool


def encode_varint(value: int) -> bytes:
    """A base-128 varint; negative numbers are two's complement of 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_SMALL = tuple(encode_varint(n) for n in range(1 << 14))


def _varint(value: int) -> bytes:
    return _SMALL[value] if 0 <= value < len(_SMALL) else encode_varint(value)


def encode_int(field: int, value: int) -> bytes:
    """A field of an integer, bool or enum."""
    return _varint(field << 3) + _varint(value)


def encode_bytes(field: int, value: bytes) -> bytes:
    """A field of a string or message."""
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def encode_text(field: int, value: str) -> bytes:
    """A field of a string."""
    return encode_bytes(field, value.encode("utf-8", "backslashreplace"))


def encode_double(field: int, value: float) -> bytes:
    """A field of a double."""
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def encode_fixed(field: int, value: int) -> bytes:
    """A field of a fixed64."""
    return _varint(field << 3 | 1) + struct.pack("<Q", value)


# The ranks of an iteration share its times and most of its numbers.
@lru_cache(1 << 12)
def _encode_head(kind: int, track: int) -> bytes:
    return encode_int(9, kind) + encode_int(11, track)  # TrackEvent.type, track_uuid


@lru_cache(1 << 10)
def _encode_time(at_ns: int) -> bytes:
    return encode_int(8, at_ns)  # TracePacket.timestamp


def _encode_flows(flows: Sequence[int]) -> bytes:
    return b"".join(encode_fixed(47, f) for f in flows)  # TrackEvent.flow_ids


class TraceWriter:
    """Writes packets to a stream.

    Args:
        stream: Where to.
        start_ns: A time near the first event, ns since 1970, at which the clocks are compared.
        categories, arguments: Every category and argument that events will use.
        strings: Texts that arguments repeat, for instance the paths of the input.

    Attributes:
        num_packets: Packets written.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        start_ns: int,
        categories: Iterable[str],
        arguments: Iterable[str],
        strings: Iterable[str] = (),
    ) -> None:
        self._stream = stream
        self._pending = bytearray()
        self.num_packets = 0
        self._next_uuid = 1
        self._categories: dict[str, bytes] = {}
        self._arguments: dict[str, bytes] = {}
        self._strings: dict[str, bytes] = {}
        self._names: dict[str, bytes] = {}
        self._encode_argument = lru_cache(1 << 12)(self._encode_anew)
        interned = bytearray()
        for iid, name in enumerate(categories, 1):
            self._categories[name] = encode_int(3, iid)  # TrackEvent.category_iids
            interned += encode_bytes(1, encode_int(1, iid) + encode_text(2, name))
        for iid, name in enumerate(arguments, 1):
            self._arguments[name] = encode_int(1, iid)  # DebugAnnotation.name_iid
            interned += encode_bytes(3, encode_int(1, iid) + encode_text(2, name))
        for iid, text in enumerate(dict.fromkeys(strings), 1):
            self._strings[text] = encode_int(17, iid)  # DebugAnnotation.string_value_iid
            interned += encode_bytes(29, encode_int(1, iid) + encode_text(2, text))
        # Both clocks show the same, so that a reader who prefers either has the time of day.
        clocks = b"".join(
            encode_bytes(1, encode_int(1, clock) + encode_int(2, start_ns))
            for clock in (BOOTTIME, REALTIME)
        )
        snapshot = encode_bytes(6, clocks + encode_int(2, REALTIME))
        self._write(encode_int(10, SEQUENCE) + snapshot)
        defaults = encode_bytes(59, encode_int(58, REALTIME))  # timestamp_clock_id
        state = encode_int(10, SEQUENCE) + encode_int(13, STATE_CLEARED)
        self._write(state + encode_int(41, 1) + defaults + encode_bytes(12, bytes(interned)))
        self._tail = encode_int(10, SEQUENCE) + encode_int(13, NEEDS_STATE)

    def _write(self, packet: bytes) -> None:
        self._pending += b"\x0a" + _varint(len(packet)) + packet  # Trace.packet
        self.num_packets += 1
        if len(self._pending) > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand what is pending to the stream."""
        self._stream.write(self._pending)
        self._pending.clear()

    def add_process(self, name: str, *, labels: Sequence[str] = ()) -> int:
        """Declare a process, whose tracks show in the order of their ranks.

        Returns:
            Its track.
        """
        process = encode_int(1, 1) + encode_text(6, name)  # pid, process_name
        process += b"".join(encode_text(8, label) for label in labels)
        return self._add_track(name, encode_bytes(3, process) + encode_int(11, EXPLICIT_ORDER))

    def add_track(self, name: str, parent: int, *, order: int = 0) -> int:
        """Declare a track of slices and instants below another one.

        Returns:
            The track.
        """
        body = encode_int(5, parent) + encode_int(12, order) + encode_int(11, EXPLICIT_ORDER)
        return self._add_track(name, body)

    def add_counter(self, name: str, parent: int, *, unit: str, order: int = 0) -> int:
        """Declare a counter below a track.

        Returns:
            The track.
        """
        counter = encode_bytes(8, encode_text(6, unit))  # CounterDescriptor.unit_name
        return self._add_track(name, encode_int(5, parent) + encode_int(12, order) + counter)

    def _add_track(self, name: str, body: bytes) -> int:
        uuid = self._next_uuid
        self._next_uuid += 1
        descriptor = encode_int(1, uuid) + encode_text(2, name) + body
        self._write(self._tail + encode_bytes(60, descriptor))
        return uuid

    def _name(self, name: str, *, is_repeated: bool) -> bytes:
        if not is_repeated:
            return encode_text(23, name)
        found = self._names.get(name)
        if found is None:
            iid = len(self._names) + 1
            found = self._names[name] = encode_int(10, iid)  # TrackEvent.name_iid
            entry = encode_bytes(2, encode_int(1, iid) + encode_text(2, name))
            self._write(self._tail + encode_bytes(12, entry))
        return found

    def encode_arguments(self, arguments: dict[str, Value | None]) -> bytes:
        """Arguments of an event; those that are None are left out."""
        encode = self._encode_argument
        return b"".join(
            # True and 1 are equal, and would be one entry of the cache.
            [encode(name, value, isinstance(value, bool)) for name, value in arguments.items()
             if value is not None]
        )  # fmt: skip

    def _encode_anew(self, name: str, value: Value, is_bool: bool) -> bytes:
        if is_bool:
            body = encode_int(2, int(value))
        elif isinstance(value, int):
            body = encode_int(4, value)
        elif isinstance(value, str):
            body = self._strings.get(value) or encode_text(6, value)
        else:
            body = encode_double(5, value)
        return encode_bytes(4, self._arguments[name] + body)

    def begin(
        self,
        track: int,
        at_ns: int,
        name: str,
        category: str,
        *,
        arguments: bytes = b"",
        flows: Sequence[int] = (),
        is_repeated: bool = True,
    ) -> None:
        """Begin a slice.

        Args:
            track: Where.
            at_ns: When, ns since 1970.
            name: Shown on it.
            category: Of those declared.
            arguments: As :meth:`encode_arguments` gives them.
            flows: Arrows: slices with the same number are joined in order of time.
            is_repeated: Many slices bear this name.
        """
        self._event(
            SLICE_BEGIN, track, at_ns, self._name(name, is_repeated=is_repeated)
            + self._categories[category] + arguments
            + _encode_flows(flows),
        )  # fmt: skip

    def end(self, track: int, at_ns: int) -> None:
        """End the slice that was begun last on a track."""
        self._event(SLICE_END, track, at_ns, b"")

    def mark(
        self,
        track: int,
        at_ns: int,
        name: str,
        category: str,
        *,
        arguments: bytes = b"",
        flows: Sequence[int] = (),
    ) -> None:
        """Write an instant; see :meth:`begin`."""
        body = self._name(name, is_repeated=True) + self._categories[category]
        self._event(INSTANT, track, at_ns, body + arguments + _encode_flows(flows))

    def count(self, track: int, at_ns: int, value: float) -> None:
        """Write a counter's value from a time on."""
        body = encode_int(30, value) if isinstance(value, int) else encode_double(44, value)
        self._event(COUNTER, track, at_ns, body)

    def _event(self, kind: int, track: int, at_ns: int, body: bytes) -> None:
        event = _encode_head(kind, track) + body
        packet = _encode_time(at_ns) + self._tail + b"\x5a" + _varint(len(event)) + event
        self._write(packet)  # 5a: TracePacket.track_event
