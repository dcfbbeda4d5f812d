"""Every declared line of every release, against a slow regex that knows nothing of the reader."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from pdtrace.sources import read
from tests.sources.scheduler_log.conftest import LINES

LOGS = sorted(LINES.glob("*.log"))
NAMES = {
    "#new-seq": "num_new_seqs", "#new-token": "num_new_tokens",
    "#cached-token": "num_cached_tokens",
    "#running-req": "num_running_reqs", "#queue-req": "num_queue_reqs",
    "#pending-token": "num_pending_tokens", "#unbootstrapped-req": "num_bootstrap_reqs",
    "#prealloc-req": "num_bootstrap_reqs", "#bootstrap-req": "num_bootstrap_reqs",
    "#transferring-req": "num_inflight_reqs", "#inflight-req": "num_inflight_reqs",
    "token usage": "token_usage", "input throughput (token/s)": "throughput_tok_s",
    "gen throughput (token/s)": "throughput_tok_s",
}  # fmt: skip
COLUMNS = sorted(set(NAMES.values()))


def expected_rows(path):
    """Rows by the robust regex of the format description."""
    rows = []
    for number, line in enumerate(path.read_text().split("\n"), 1):
        m = re.match(
            r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{3}))?((?: [A-Z_]+\d+)*)\] "
            r"(Prefill|Decode) batch(?: \[(\d+)\])?[.,] (.*?)[, ]*$",
            line,
        )
        if m is None:
            continue
        ts = datetime.strptime(m[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
        row = dict.fromkeys(COLUMNS)
        row |= {
            "line": number,
            "ts": ts + timedelta(milliseconds=int(m[2] or 0)),
            "ts_resolution": timedelta(milliseconds=1 if m[2] else 1000),
            "dp_rank": int(re.search(r"DP(\d+)", m[3])[1]),
            "tp_rank": int(re.search(r"TP(\d+)", m[3])[1]),
            "kind": m[4].lower(),
            "forward_iter": int(m[5]) if m[5] else None,
        }
        for key, value in re.findall(r"(?:^|, )([^:,]+): ([^,]+?)(?=, |$)", m[6]):
            if key in NAMES:
                row[NAMES[key]] = float(value) if "." in value else int(value)
        rows.append(row)
    return rows


@pytest.mark.parametrize("path", LOGS, ids=lambda p: p.stem)
def test_every_batch_line_of_a_release(path):
    """Each batch line of each release gives exactly the values a slow regex finds in it."""
    recording = read([str(path)])
    rows = expected_rows(path)
    events = pl.concat(list(recording.events))
    found = events.select("line", "ts", "ts_resolution", "dp_rank", "tp_rank", "kind",
                          "forward_iter", *COLUMNS)  # fmt: skip
    assert [{k: r[k] for k in sorted(r)} for r in found.to_dicts()] == [
        {k: r[k] for k in sorted(r)} for r in rows
    ]


@pytest.mark.parametrize("path", LOGS, ids=lambda p: p.stem)
def test_release_is_within_the_detected_range(path):
    """The release that a log shows includes the one that wrote it."""
    release = tuple(int(x) for x in path.stem.split(".")[:3])
    engine = read([str(path)]).engine

    def number(text):
        return tuple(int(x) for x in text.split("."))

    assert number(engine.release_min) <= release <= number(engine.release_max)


@pytest.mark.parametrize("path", LOGS, ids=lambda p: p.stem)
def test_settings_of_every_release(path):
    """Both forms of server_args give the ranks, and lock-step from DP attention."""
    engine = read([str(path)]).engine
    assert (engine.dp_size, engine.dp_size_source, engine.lock_step) == (4, "server_args", True)


def test_hand_counted_line_of_0_5_23():
    """One line read by eye: the third of the second run of 0.5.23's example."""
    events = pl.concat(list(read([str(LINES / "0.5.23.log")]).events))
    row = events.filter(pl.col("forward_iter") == 3).to_dicts()[0]
    assert (row["dp_rank"], row["num_new_seqs"], row["num_new_tokens"], row["token_usage"]) == (
        2, 2, 8192, 0.04,
    )  # fmt: skip


def test_two_starts_in_one_log_are_two_engine_runs():
    """A server_args line after lines of an engine starts the next engine run."""
    events = pl.concat(list(read([str(LINES / "0.5.13.log")]).events))
    assert events["engine_run"].to_list() == [0] * 4 + [1] * 9


def test_crash_before_the_second_start_counts_as_a_run():
    """0.5.10's example starts twice after its first run: assertion, then the real start."""
    events = pl.concat(list(read([str(LINES / "0.5.10.post1.log")]).events))
    assert events["engine_run"].unique().to_list() == [0, 2]


@pytest.mark.parametrize(
    ("name", "result"), [("0.5.8.post1", False), ("0.5.10.post1", True), ("0.5.23", True)]
)
def test_when_lines_are_printed(name, result):
    """Lines come before launch through 0.5.8 and after the result from 0.5.10."""
    assert read([str(LINES / f"{name}.log")]).engine.prints_after_result is result


def test_delayer_debug_lines_become_decisions():
    """Timeout and watermark lines give one decision each, with the ranks that could prefill."""
    decisions = read([str(LINES / "0.5.12.post1.log")]).decisions
    assert decisions["output_reason"].to_list() == ["wait_timeout"] * 4 + ["token_watermark"] * 4
    assert decisions["num_prefillable"].to_list() == [1] * 4 + [3] * 4


def test_delayer_settings_come_from_its_own_line():
    """The initialisation line says what is in force, whatever the settings say."""
    delayer = read([str(LINES / "0.5.12.post1.log")]).engine.delayer
    assert (delayer.enabled, delayer.max_delay_passes, delayer.token_usage_low_watermark) == (
        True, 30, 0.05,
    )  # fmt: skip


def test_time_stats_with_epoch_entry():
    """From 0.5.12 entry, selection and end of a request follow from its time-stats line."""
    row = read([str(LINES / "0.5.13.log")]).requests.to_dicts()[0]
    entry = datetime.fromtimestamp(1779937260, UTC) + timedelta(milliseconds=116)
    assert row["received"] == entry
    assert row["selected"] == entry + timedelta(microseconds=1120 + 410)
    assert row["finished"] == entry + timedelta(microseconds=1120 + 410 + 414_000)


@pytest.mark.parametrize("path", LOGS, ids=lambda p: p.stem)
def test_time_stats_of_every_release_are_read(path):
    """No release's time-stats form is skipped, and no time is invented for a monotonic start."""
    recording = read([str(path)])
    wanted = len(re.findall(r"\] Req ?Time ?Stats\(", path.read_text()))
    assert recording.requests.height == wanted
    if "entry_time" not in path.read_text():
        assert recording.requests["received"].null_count() == wanted


def test_crash_text_names_the_exception():
    """A crash incident carries the exception's own line, not only the traceback's head."""
    incidents = read([str(LINES / "0.5.13.log")]).incidents
    crash = next(i for i in incidents if i.kind == "crash")
    assert "torch.OutOfMemoryError" in crash.text
    assert crash.dp_rank == 1


def test_prefill_engine_of_0_5_9_is_told_why_it_is_empty(write_log):
    """A prefill engine of 0.5.9 prints no Prefill lines; the warning names the release."""
    text = (LINES / "0.5.9.log").read_text()
    first_start = text.partition("[2026-05-28 03:22:00")[0]
    recording = read([write_log(first_start)])
    assert recording.num_events == 0
    assert any("0.5.9" in w for w in recording.warnings)
