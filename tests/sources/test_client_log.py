"""A load client's log and the engine's exported request metrics."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.errors import InputError
from pdtrace.sources import read

SAMPLES = Path(__file__).parents[2] / "sample_logs"
T = 1_795_400_000.25


def write(folder, *rows):
    """JSON lines as a path."""
    path = folder / "lines.jsonl"
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_real_client_log():
    """The client of a crashed run: all it sent, and what failed."""
    requests = read([str(SAMPLES / "h100x2-off-crash")], sources=["client_log"]).requests
    assert requests.height == 554
    assert dict(requests["status"].value_counts().iter_rows()) == {"finished": 366, "failed": 188}


def test_lines_that_are_no_requests(tmp_path):
    """Half lines, foreign objects and absurd times are counted; the first is named."""
    recording = read([
        write(tmp_path,
              {"phase": "p", "rid": "a", "n": 5, "rank": 1, "t0": T, "t1": T + 1, "ok": True},
              {"rid": "b", "t0": 1e300}, [1], "{half\n",
              {"rid": "c", "t0": T, "t1": None, "ok": None})
    ])  # fmt: skip
    rows = recording.requests.select("rid", "dp_rank", "line", "status").rows()
    assert rows == [("a", 1, 1, "finished"), ("c", None, 5, "unfinished")]
    assert "3 lines were left out (first: line 2" in recording.warnings[0]


def test_request_metrics(tmp_path):
    """The engine's export: meta_info keys of 0.5.10 on, parameters as JSON text."""
    recording = read([
        write(tmp_path, {
            "request_parameters": json.dumps({"rid": "a"}), "id": "a", "prompt_tokens": 70,
            "cached_tokens": 6, "dp_rank": 3, "finish_reason": {"type": "length"},
            "request_received_ts": T, "api_server_dispatch_finish_ts": T + 0.125,
            "forward_entry_time": T + 0.25, "queue_time": 0.05, "prefill_finished_time": T + 0.375,
            "response_sent_to_client_ts": T + 0.5, "e2e_latency": 0.5,
        }, {"request_parameters": "{}", "id": "b", "finish_reason": {"type": "abort"}})
    ])  # fmt: skip
    first, second = recording.requests.to_dicts()
    assert (first["dp_rank"], first["num_prompt_tokens"], first["num_cached_tokens"]) == (3, 70, 6)
    assert (first["selected"] - first["queued"]).total_seconds() == 0.05
    assert (first["finished"] - first["arrived"]).total_seconds() == 0.5
    assert (second["status"], second["selected"]) == ("failed", None)


def test_nothing_readable(tmp_path):
    """A file whose lines are all of no use is refused in one line."""
    with pytest.raises(InputError, match="no line of it could be read"):
        read([write(tmp_path, {"rid": "a", "t0": "soon"})])


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=6),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
    max_leaves=5,
)
KEYS = ("rid", "id", "n", "rank", "t0", "t1", "ok", "dp_rank", "request_received_ts",
        "forward_entry_time", "queue_time", "e2e_latency", "finish_reason", "prompt_tokens",
        "cached_tokens", "request_parameters")  # fmt: skip


@pytest.mark.parametrize("head", [{"rid": "x", "t0": T}, {"request_parameters": "{}", "id": "x"}])
@given(said=st.dictionaries(st.sampled_from(KEYS), JSON, max_size=8))
def test_any_values_are_survived(tmp_path_factory, head, said):
    """Values of any type under the known keys never stop the reader."""
    recording = read([write(tmp_path_factory.mktemp("c"), head, head | said)])
    assert 1 <= recording.requests.height <= 2
