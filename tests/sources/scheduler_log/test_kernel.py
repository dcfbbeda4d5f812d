"""The kernel against the reference: the same values on any bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdtrace.sources.scheduler_log import catalogue, reference
from tests.sources.scheduler_log.conftest import LINES, prefill_line

kernel = pytest.importorskip("pdtrace.sources.scheduler_log.kernel")

TEXT = b"".join(p.read_bytes() for p in sorted(LINES.glob("*.log")))
BATCH = [x for x in TEXT.split(b"\n") if b"batch" in x] + [
    b"[2026-05-28 03:21:01 DP0 TP0] Prefill batch, #new-seq: 1, #new-token: 5,"
    b" full token usage: 0.50, swa token usage: 0.75, mamba usage: 0.10, #cached-token: -3",
    b"[2026-05-28 03:21:01.123 DP0 PP1 TP0] Decode batch [7], #running-req: 2, #token: 9",
]
OTHER = sorted({x for x in TEXT.split(b"\n") if b"batch" not in x and len(x) < 400})
KEYS = [f.key for f in catalogue.FIELDS] + [b"#brand-new-req", b"#new-token ", b"[2026"]


def read_both(text):
    """The same text by both readers."""
    buffer = np.zeros(len(text) + kernel.PADDING, dtype=np.uint8)
    buffer[: len(text)] = np.frombuffer(text, dtype=np.uint8)
    return reference.parse_block(text), kernel.parse_block(buffer, len(text))


def test_kernel_equals_reference_on_all_declared_lines():
    """Every line of every release gives the same in both readers."""
    slow, fast = read_both(TEXT)
    assert slow.is_same(fast)
    assert slow.ints.shape[1] > 250


@pytest.mark.parametrize(
    ("printed", "read"),
    [(b"0.00", 0), (b"1.00", 1), (b"1.05", 1.05), (b"-0.01", None), (b"90000000000000", None),
     (b"99999999999999999999", None), (b"17.00", None)],
)  # fmt: skip
def test_a_usage_that_cannot_be_is_unknown(printed, read):
    """No pool is 17 times full; drawn as a share it would hide every other."""
    line = prefill_line().encode().replace(b"token usage: 0.25", b"token usage: " + printed)
    slow, fast = read_both(line)
    assert slow.is_same(fast)
    at = catalogue.FLOAT_FIELDS.index("token_usage")
    (usage,) = slow.floats[at]
    assert np.isnan(usage) if read is None else usage == read


@st.composite
def mutated_lines(draw):
    """Real lines, each with some bytes replaced, removed, doubled or moved into another line."""
    lines = []
    for _ in range(draw(st.integers(1, 4))):
        line = bytearray(draw(st.sampled_from(BATCH) | st.sampled_from(OTHER)))
        for _ in range(draw(st.integers(0, 3))):
            at = draw(st.integers(0, len(line)))
            cut = at + draw(st.integers(0, 12))
            new = draw(
                st.binary(max_size=3)
                | st.sampled_from([*KEYS, b", ", b": ", b"\n", b"\r", b"-", b".5", b"[", b"] "])
                | st.sampled_from(BATCH)
                | st.integers(-(10**20), 10**20).map(lambda n: str(n).encode())
                | st.decimals(allow_nan=False, allow_infinity=False, places=3).map(
                    lambda d: str(d).encode()
                )
            )
            line[at:cut] = new
        lines.append(bytes(line))
    return b"\n".join(lines) + draw(st.sampled_from([b"", b"\n", b"\r\n", b", \n"]))


@given(mutated_lines())
@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
def test_kernel_equals_reference_on_mutated_lines(text):
    """Whatever happens to a line, both readers see the same in it."""
    slow, fast = read_both(text)
    assert slow.is_same(fast)


@given(st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-5, 10**7) | st.floats(0, 99)),
                max_size=14))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_kernel_equals_reference_on_any_order_of_fields(cells):
    """Fields in any order, missing, twice or unknown give the same in both readers."""
    body = ", ".join(f"{k.decode()}: {v}" for k, v in cells)
    slow, fast = read_both(f"[2026-05-28 03:21:01 DP3] Prefill batch, {body}\n".encode() * 2)
    assert slow.is_same(fast)


def test_kernel_reads_from_the_middle_of_a_buffer():
    """A start offset that is no multiple of eight changes nothing but the offsets."""
    text = TEXT[:20_000].rpartition(b"\n")[0] + b"\n"
    for shift in (1, 3, 8, 13):
        buffer = np.full(len(text) + shift + kernel.PADDING, 91, dtype=np.uint8)
        buffer[shift : shift + len(text)] = np.frombuffer(text, dtype=np.uint8)
        moved = kernel.parse_block(buffer, shift + len(text), start=shift)
        assert np.array_equal(moved.ints, reference.parse_block(text).ints)


def test_big_file_in_blocks_equals_the_small_reader(write_log, monkeypatch):
    """Cutting a file into blocks, at any place in a line, loses and repeats nothing."""
    from pdtrace.sources import read
    from pdtrace.sources.scheduler_log import blocks
    from pdtrace.sources.scheduler_log import read as reading

    text = "".join(prefill_line(i // 40, rank=i % 4, tokens=i + 1) for i in range(3000))
    path = write_log(text[:-1])
    whole = read([path])
    for size in (1000, 4093):
        monkeypatch.setattr(reading, "SMALL_BYTES", 0)
        monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
        parts = read([path])
        assert next(iter(parts.events)).equals(next(iter(whole.events)))
        assert parts.files == whole.files
