"""Broken and hostile span files: counted, told in one line, never a traceback."""

from __future__ import annotations

import contextlib
import json

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_spans import as_lines, as_protobuf, message, request, span

from pdtrace.errors import InputError
from pdtrace.sources import read
from pdtrace.sources.otel_spans import collect

GOOD = [message(request(n, 0, 100 * n, f"b{n}")) for n in range(1, 4)]


def write(folder, data, name="spans"):
    """A file with these bytes, as a path."""
    path = folder / name
    path.write_bytes(data)
    return str(path)


def test_torn_json_lines_are_counted(tmp_path):
    """A half line and lines that are no spans are left out; the first is named."""
    lines = as_lines(GOOD).splitlines(keepends=True)
    data = lines[0] + lines[1][:200] + b"\n" + b'{"resourceSpans": 7}\n' + lines[2]
    recording = read([write(tmp_path, data)])
    assert recording.num_events == 2
    assert recording.files[0].skipped == {"damaged lines": 2}
    assert "2 damaged lines" in recording.warnings[0]
    assert "line 2" in recording.warnings[0]


def test_damaged_first_span_is_counted(tmp_path):
    """The first span of a file may be the damaged one; the rest is read all the same."""
    first = span(8, 1, 0, "x (host:1)", 0, 1)
    first["attributes"] = [{"value": {"stringValue": "no key"}}]
    recording = read([write(tmp_path, as_lines([message([first]), *GOOD]))])
    assert recording.num_events == 3
    assert sum(recording.files[0].skipped.values()) == 1


def test_bad_utf8_is_counted(tmp_path):
    """Bytes that are no UTF-8 spoil their own line only."""
    lines = as_lines(GOOD).splitlines(keepends=True)
    lines[1] = lines[1].replace(b"rid-2", b"\xff\xfe")
    recording = read([write(tmp_path, b"".join(lines))])
    assert recording.num_events == 2
    assert "line 2" in recording.warnings[0]


def test_cut_protobuf_keeps_what_came_before(tmp_path):
    """A file that was copied while it was written ends inside a message."""
    recording = read([write(tmp_path, as_protobuf(GOOD)[:-30])])
    assert recording.num_events == 2
    assert "cut off" in recording.warnings[0]
    assert "offset" in recording.warnings[0]


def test_huge_length_is_refused(tmp_path):
    """A length of 4 GB is not believed."""
    recording = read([write(tmp_path, as_protobuf(GOOD) + b"\xff\xff\xff\xff" + b"x" * 50)])
    assert recording.num_events == 3
    assert "a length of 4294967295 bytes" in recording.warnings[0]


def test_damaged_message_in_between(tmp_path):
    """A message that is no protobuf is passed over by its length."""
    first, second = as_protobuf(GOOD[:1]), as_protobuf(GOOD[1:])
    junk = (20).to_bytes(4, "big") + b"\x0a\xff" + b"\xff" * 18
    recording = read([write(tmp_path, first + junk + second)])
    assert recording.num_events == 3
    assert f"offset {len(first)}" in recording.warnings[0]


def test_nothing_readable_is_an_error(tmp_path):
    """A file of damaged lines only is refused in one line that names it."""
    path = write(tmp_path, b'{"resourceSpans": [1]}\n')
    with pytest.raises(InputError) as e:
        read([path])
    assert str(e.value).startswith(path)
    assert "\n" not in str(e.value)


def test_deep_nesting(tmp_path):
    """Nesting without end does not exhaust the stack."""
    deep = b'{"trace":' * 100_000 + b"{}" + b"}" * 100_000
    recording = read([write(tmp_path, as_lines(GOOD) + deep + b"\n")])
    assert recording.num_events == 3


def test_absurd_times_and_ids(tmp_path):
    """Times outside this century and spans without an id are counted, not used."""
    bad = span(9, 1, 0, "prefill_forward", 0, 1)
    bad["startTimeUnixNano"] = "99999999999999999999999999999999"
    none = span(9, 2, 0, "tokenize", 0, 1)
    none["spanId"] = ""
    recording = read([write(tmp_path, as_lines([*GOOD, message([bad, none])]))])
    assert recording.num_events == 3
    assert recording.files[0].skipped == {"span without plausible times or ids": 2}


def test_cycle_of_parents(tmp_path):
    """Slices that are each other's parents end the search."""
    a, b = span(9, 1, 2, "prefill_forward", 0, 1), span(9, 2, 1, "prefill_forward", 0, 1)
    assert read([write(tmp_path, as_lines([*GOOD, message([a, b])]))]).num_events == 3


@given(st.data())
def test_any_mutation_is_survived(tmp_path_factory, data):
    """Bytes changed, cut out or put in anywhere: a recording or an InputError, nothing else."""
    is_proto = data.draw(st.booleans())
    text = bytearray(as_protobuf(GOOD) if is_proto else as_lines(GOOD))
    for _ in range(data.draw(st.integers(1, 4))):
        # the first bytes say what the file is
        at = data.draw(st.integers(40, len(text) - 1))
        size = data.draw(st.integers(0, 30))
        text[at : at + size] = data.draw(st.binary(max_size=20))
        if len(text) < 60:
            break
    path = write(tmp_path_factory.mktemp("m"), bytes(text))
    with contextlib.suppress(InputError):
        assert all("\n" not in w for w in read([path]).warnings)


@given(
    st.dictionaries(
        st.text(max_size=5), st.integers() | st.text(max_size=5) | st.none(), max_size=3
    )
)
def test_any_json_object_is_survived(tmp_path_factory, said):
    """Values of unexpected types in a message are counted."""
    line = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [said]}]}]}).encode() + b"\n"
    path = write(tmp_path_factory.mktemp("o"), as_lines(GOOD) + line)
    assert read([path]).num_events == 3


def test_absurd_attributes(tmp_path):
    """Ranks, sizes, tokens and event times that nothing has: no overflow, no giant table."""
    spans = request(9, 0, 400, "b9")
    for s in spans:
        for a in s.get("attributes", []):
            if a["key"] in ("dp_rank", "tp_rank", "pid"):
                a["value"] = {"intValue": str(2**62)}
            if a["key"].endswith("prompt_tokens"):
                a["value"] = {"intValue": str(2**32 - 1)}
        for e in s.get("events", []):
            e["attributes"][1]["value"] = {"intValue": "2"}
    more = request(10, 0, 400, "b9", size=2)
    more[0]["attributes"][1]["value"] = {"intValue": str(2**32 - 1)}
    late = request(11, 0, 500, "b11")
    next(s for s in late if "events" in s)["events"][0]["timeUnixNano"] = str(2**64 + 5)
    recording = read([write(tmp_path, as_lines([*GOOD, message(spans + more + late)]))])
    events = pl.concat(list(recording.events))
    assert events["dp_rank"].max() < 4096
    assert events["num_new_seqs"].max() <= 2
    assert recording.engine.dp_size < 4096


@pytest.mark.parametrize("rid", ["\\ud800", "\\u0000", "\x1b[31m"])
def test_odd_request_ids(tmp_path, rid):
    """Lone surrogates, zeros and control characters in ids: kept, or the line is left out."""
    lines = as_lines(GOOD).splitlines(keepends=True)
    lines[1] = lines[1].replace(b"rid-2", rid.encode())
    assert 2 <= read([write(tmp_path, b"".join(lines))]).num_events <= 3


def test_one_trace_of_a_client_that_never_ends(tmp_path, monkeypatch):
    """A client that asks everything within one trace does not fill the memory."""
    monkeypatch.setattr(collect, "MAX_SPANS", 20)
    monkeypatch.setattr(collect, "SWEEP_SPANS", 30)
    messages = []
    for n in range(1, 40):
        spans = request(n, 0, 100 * n, f"b{n}")
        for s in spans:
            s["traceId"] = f"{7:032x}"
        messages.append(message(spans))
    recording = read([write(tmp_path, as_lines(messages))])
    assert recording.num_events == 39
    assert recording.requests["rid"].n_unique() == recording.requests.height == 39
