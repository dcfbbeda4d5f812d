"""What depends on earlier lines: gaps, duplicates, restarts, mixed engines, settings."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import polars as pl
import pytest

from pdtrace.sources import read
from pdtrace.sources.scheduler_log.server_args import parse_server_args
from tests.sources.scheduler_log.conftest import LINES, prefill_line

ARGS = (
    "[2026-05-28 02:00:00] server_args=ServerArgs(model_path='/m', port={port}, tp_size=4,"
    " dp_size=4, enable_dp_attention={attention}, disaggregation_mode='{mode}',"
    " chunked_prefill_size={chunk})\n"
)


def start(port=1, *, attention=True, mode="prefill", chunk=2048):
    """A server_args line."""
    return ARGS.format(port=port, attention=attention, mode=mode, chunk=chunk)


def events_of(recording):
    """All chunks as one frame."""
    return pl.concat(list(recording.events))


def test_gap_from_this_lines_tokens(write_log):
    """From 0.5.11 the gap is this line's tokens divided by the printed throughput."""
    text = prefill_line(1, tokens=100) + prefill_line(2, tokens=300, throughput="200.00")
    assert events_of(read([write_log(text)]))["gap"][1] == timedelta(seconds=1.5)


def test_gap_from_the_previous_lines_tokens(write_log):
    """Through 0.5.10 it is the tokens of the rank's previous line; the first line cannot tell."""
    lines = [
        prefill_line(i, rank=r, tokens=t, throughput="200.00").replace(" #pending-token: 40,", "")
        for i, r, t in ((1, 0, 100), (1, 1, 500), (2, 0, 300))
    ]
    gaps = events_of(read([write_log("".join(lines))]))["gap"].to_list()
    assert gaps == [None, None, timedelta(seconds=0.5)]


def test_gap_counts_replayed_tokens(write_log):
    """From 0.5.21 recomputed tokens count into the throughput too."""
    line = prefill_line(1, tokens=100).replace("40,", "40, #replay-token: 100,")
    assert events_of(read([write_log(line)]))["gap"][0] == timedelta(seconds=4)


def test_gap_is_unknown_at_throughput_zero(write_log):
    """A throughput that prints as 0.00 gives no gap rather than an infinite one."""
    line = prefill_line(1, throughput="0.00")
    assert events_of(read([write_log(line)]))["gap"][0] is None


def test_largest_usage_of_the_pools(write_log):
    """With several pools the fullest one counts."""
    line = prefill_line().replace(
        "token usage: 0.25", "full token usage: 0.10, swa token usage: 0.80, mamba usage: 0.30"
    )
    assert events_of(read([write_log(line)]))["token_usage"][0] == 0.80


def test_negative_cached_tokens_are_kept(write_log):
    """Releases with optimistic bootstrap print negative cached tokens; they are no error."""
    line = prefill_line().replace("#cached-token: 7", "#cached-token: -64")
    assert events_of(read([write_log(line)]))["num_cached_tokens"][0] == -64


def test_number_too_large_for_its_column_is_null(write_log):
    """A number that cannot be is null, and the row is kept."""
    line = prefill_line().replace("#queue-req: 3", "#queue-req: 99999999999")
    row = events_of(read([write_log(line)])).to_dicts()[0]
    assert (row["num_queue_reqs"], row["num_new_tokens"]) == (None, 100)


def test_attention_tp_peers_are_dropped(write_log):
    """Of several TP ranks that print for one DP rank only the smallest counts."""
    text = "".join(
        prefill_line(s, tags=f" DP{tp // 2} TP{tp}") for s in range(3) for tp in (1, 0, 3, 2)
    )
    recording = read([write_log(text)])
    assert events_of(recording)["tp_rank"].to_list() == [0, 2] * 3
    assert recording.files[0].skipped == {"duplicate of an attention-TP peer": 6}


def test_pipeline_stages_are_dropped(write_log):
    """Every pipeline stage prints its own line; stage 0 counts."""
    text = "".join(prefill_line(s, tags=f" DP0 PP{p} TP0") for s in range(3) for p in (1, 0))
    assert events_of(read([write_log(text)]))["pp_rank"].to_list() == [0] * 3


def test_restart_is_seen_by_falling_labels(write_log):
    """A restart that no line tells is one new engine run, not one a rank."""
    text = "".join(prefill_line(i, rank=r, label=n) for i, n in enumerate((90, 91, 1, 2))
                   for r in range(2))  # fmt: skip
    assert events_of(read([write_log(text)]))["engine_run"].to_list() == [0] * 4 + [1] * 4


def test_first_start_is_run_zero(write_log):
    """A log that begins with its engine's start has one run, number 0."""
    recording = read([write_log(start() + prefill_line())])
    assert events_of(recording)["engine_run"].to_list() == [0]


def test_restart_with_other_settings_is_warned_of(write_log):
    """Runs with different settings in one log are named, and the last one's are reported."""
    text = start() + prefill_line(1) + start(chunk=4096) + prefill_line(2)
    recording = read([write_log(text)])
    assert recording.engine.chunked_prefill_size == 4096
    assert any("chunked_prefill_size" in w for w in recording.warnings)


def test_two_formats_of_one_rank_are_two_engines(write_log):
    """Lines of one rank with and without labels in turn come from two engines."""
    text = "".join(prefill_line(i, label=i if i % 2 else None, ms=0 if i % 2 else None)
                   for i in range(20))  # fmt: skip
    recording = read([write_log(start() + text)])
    assert recording.engine.lock_step is False
    assert "two engines" in recording.warnings[0]


def test_two_servers_starting_in_one_stream(write_log):
    """Two server_args lines with different ports before anything runs are two servers."""
    recording = read([write_log(start(port=1) + start(port=2) + prefill_line() * 2)])
    assert recording.engine.lock_step is False


@pytest.mark.parametrize(("attention", "lock_step"), [(True, True), (False, False)])
def test_lock_step_follows_dp_attention(attention, lock_step, write_log):
    """Independent replicas (no DP attention) are not in lock-step."""
    recording = read([write_log(start(attention=attention) + prefill_line())])
    assert recording.engine.lock_step is lock_step


def test_lock_step_is_unknown_without_settings(write_log):
    """A log without its start says nothing of lock-step, and its ranks are a lower bound."""
    engine = read([write_log(prefill_line(rank=2))]).engine
    assert (engine.lock_step, engine.dp_size, engine.dp_size_source) == (None, 3, "tags")


def test_ranks_given_by_the_user(write_log):
    """The user's number of ranks beats what the log says."""
    engine = read([write_log(start() + prefill_line())], dp_size=8).engine
    assert (engine.dp_size, engine.dp_size_source) == (8, "option")


def test_decode_engine_is_told_by_its_lines(write_log):
    """A decode engine's log is read, and its role is told."""
    line = (
        "[2026-05-28 03:00:00 DP0 TP0] Decode batch, #running-req: 5, #token: 9, token usage: 0.10,"
        " pre-allocated usage: 0.01, #prealloc-req: 4, #transfer-req: 0, #retracted-req: 0,"
        " cuda graph: True, gen throughput (token/s): 12.50, #queue-req: 1\n"
    )
    recording = read([write_log(line * 2)])
    row = events_of(recording).to_dicts()[0]
    assert recording.engine.role == "decode"
    assert (row["kind"], row["num_running_reqs"], row["num_bootstrap_reqs"]) == ("decode", 5, None)


@pytest.mark.parametrize(
    "text",
    [
        "ServerArgs(a='x, y=(1', b=[1, 2], c={'k': 'v, w'}, d=None, e=\"it's\", f=<object at 0x1>)",
        "{'a': 'x, y=(1', 'b': [1, 2], 'c': {'k': 'v, w'}, 'd': None, 'e': \"it's\","
        " 'f': <object at 0x1>}",
    ],
)
def test_server_args_with_quotes_and_brackets(text):
    """Commas, brackets and quotes inside values do not split them, in both printed forms."""
    assert parse_server_args(text) == {
        "a": "x, y=(1", "b": "[1, 2]", "c": "{'k': 'v, w'}", "d": "None", "e": "it's",
        "f": "<object at 0x1>",
    }  # fmt: skip


def test_dp_ranks_of_0_5_22(write_log):
    """From 0.5.22 the number of DP ranks is dp_size × attn_dp_size."""
    args = (
        "[2026-05-28 02:00:00] server_args={'model_path': '/m', 'dp_size': 2, 'attn_dp_size': 4,"
        " 'enable_dp_attention': True}\n"
    )
    assert read([write_log(args + prefill_line())]).engine.dp_size == 8


def test_warm_up_and_flush_are_incidents():
    """Warm-up, readiness and flushes are told in order, so that they can be left out later."""
    kinds = [i.kind for i in read([str(LINES / "0.5.16.log")]).incidents]
    assert kinds == ["start", "warmup_start", "warmup_end", "warmup_end", "ready", "crash",
                     "watchdog"]  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path):
    """Reading four times as much takes about the same memory."""
    code = (
        "import sys, resource; from pdtrace.sources import read; r = read([sys.argv[1]]);"
        "print(sum(c.height for c in r.events),"
        " resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    text = "".join(prefill_line(i // 30, rank=i % 8, tokens=i + 1) for i in range(20_000)).encode()
    peaks = []
    for times in (12, 48):
        path = tmp_path / "big.log"
        with path.open("wb") as f:
            for _ in range(times):
                f.write(text)
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True
        )
        rows, peak = map(int, done.stdout.split())
        assert rows == times * 20_000
        peaks.append(peak)
    assert peaks[1] < peaks[0] + 60
