"""Reads a Perfetto trace back with Perfetto's own message classes, as its trace processor would."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import (
    BUILTIN_CLOCK_BOOTTIME,
    BUILTIN_CLOCK_REALTIME,
    Trace,
    TrackDescriptor,
    TrackEvent,
)


@dataclass
class Slice:
    """A slice or instant (``end`` None)."""

    track: int
    name: str
    category: str
    begin: int
    end: int | None
    args: dict[str, Any]
    flows: list[int]
    depth: int


@dataclass
class DecodedTrace:
    """What a trace holds, its interned names resolved."""

    tracks: dict[int, TrackDescriptor] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    instants: list[Slice] = field(default_factory=list)
    counters: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    clocks: dict[int, int] = field(default_factory=dict)
    num_packets: int = 0

    def path(self, track: int) -> str:
        """Names of a track and those above it."""
        d = self.tracks[track]
        name = d.name or d.process.process_name
        return f"{self.path(d.parent_uuid)}/{name}" if d.parent_uuid else name

    def arrows(self) -> dict[int, list[Slice]]:
        """Flow → its slices and instants in order of time."""
        out: dict[int, list[Slice]] = {}
        for s in sorted([*self.slices, *self.instants], key=lambda s: s.begin):
            for f in s.flows:
                out.setdefault(f, []).append(s)
        return out


def decode(data: bytes) -> DecodedTrace:
    """Decode a trace; anything that a trace processor would drop or complain of fails."""
    trace = Trace.FromString(data)
    # Nothing in the file may be unknown to Perfetto's own classes.
    trace.DiscardUnknownFields()
    assert trace.ByteSize() == len(data)
    out = DecodedTrace(num_packets=len(trace.packet))
    names: dict[str, dict[int, str]] = {}
    clock = None
    events = []
    for number, p in enumerate(trace.packet):
        assert p.trusted_packet_sequence_id == 1
        if p.HasField("clock_snapshot"):
            assert number == 0
            out.clocks = {c.clock_id: c.timestamp for c in p.clock_snapshot.clocks}
            assert p.clock_snapshot.primary_trace_clock == BUILTIN_CLOCK_REALTIME
            continue
        assert p.sequence_flags == (1 if p.incremental_state_cleared else 2)
        if p.HasField("trace_packet_defaults"):
            clock = p.trace_packet_defaults.timestamp_clock_id
        for kind in (
            "event_names",
            "event_categories",
            "debug_annotation_names",
            "debug_annotation_string_values",
        ):
            for entry in getattr(p.interned_data, kind):
                text = entry.str.decode() if kind.endswith("string_values") else entry.name
                known = names.setdefault(kind, {})
                assert known.setdefault(entry.iid, text) == text
        if p.HasField("track_descriptor"):
            d = p.track_descriptor
            assert d.uuid not in out.tracks
            assert not d.parent_uuid or d.parent_uuid in out.tracks
            out.tracks[d.uuid] = d
        if p.HasField("track_event"):
            assert clock == BUILTIN_CLOCK_REALTIME
            assert p.track_event.track_uuid in out.tracks
            events.append((p.timestamp, p.track_event))
    assert set(out.clocks) == {BUILTIN_CLOCK_BOOTTIME, BUILTIN_CLOCK_REALTIME}
    assert len(set(out.clocks.values())) == 1
    # A trace processor sorts by time, and keeps the order of the file within one.
    events.sort(key=lambda e: e[0])
    stacks: dict[int, list[Slice]] = {}
    for at, e in events:
        if e.type == TrackEvent.TYPE_COUNTER:
            kind = e.WhichOneof("counter_value_field")
            out.counters.setdefault(out.path(e.track_uuid), []).append((at, getattr(e, kind)))
            continue
        stack = stacks.setdefault(e.track_uuid, [])
        if e.type == TrackEvent.TYPE_SLICE_END:
            stack.pop().end = at
            continue
        args = {}
        for a in e.debug_annotations:
            kind = a.WhichOneof("value")
            value = getattr(a, kind)
            if kind == "string_value_iid":
                value = names["debug_annotation_string_values"][value]
            args[names["debug_annotation_names"][a.name_iid]] = value
        name = e.name or names["event_names"][e.name_iid]
        (category,) = (names["event_categories"][i] for i in e.category_iids)
        s = Slice(e.track_uuid, name, category, at, None, args, list(e.flow_ids), len(stack))
        if e.type == TrackEvent.TYPE_INSTANT:
            out.instants.append(s)
        else:
            assert e.type == TrackEvent.TYPE_SLICE_BEGIN
            stack.append(s)
            out.slices.append(s)
    assert not any(stacks.values())
    return out
