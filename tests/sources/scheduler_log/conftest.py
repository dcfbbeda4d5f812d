"""Logs to read in the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

LINES = Path(__file__).parents[2] / "data" / "lines"


@pytest.fixture
def write_log(tmp_path):
    """Write text or bytes as a file and give its path."""

    def write(text, name="server.log"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def prefill_line(
    second=1, *, rank=0, tokens=100, label=None, ms=None, throughput="50.00", tags=None, day=28
):
    """One Prefill line as release 0.5.13 prints it."""
    stamp = f"2026-05-{day} 03:{second // 60:02d}:{second % 60:02d}" + (
        "" if ms is None else f".{ms:03d}"
    )
    tags = f" DP{rank} TP{rank}" if tags is None else tags
    head = "Prefill batch" + ("" if label is None else f" [{label}]")
    return (
        f"[{stamp}{tags}] {head}, #new-seq: 1, #new-token: {tokens}, #cached-token: 7,"
        " token usage: 0.25, #running-req: 0, #queue-req: 3, #pending-token: 40,"
        " #bootstrap-req: 2, #inflight-req: 1, cuda graph: False,"
        f" input throughput (token/s): {throughput}\n"
    )
