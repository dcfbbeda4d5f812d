"""Logs as users have them: wrapped, compressed, coloured, torn, cut off, or no logs at all."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import zstandard

from pdtrace.errors import InputError, UsageError
from pdtrace.sources import read
from tests.sources.scheduler_log.conftest import LINES, prefill_line

PLAIN = (LINES / "0.5.13.log").read_bytes()
THREE = [prefill_line(i, rank=i, tokens=100 + i) for i in range(3)]


def events_of(recording):
    """All chunks as one frame."""
    return pl.concat(list(recording.events))


@pytest.fixture(scope="module")
def plain_events(tmp_path_factory):
    """Events of the unwrapped log."""
    path = tmp_path_factory.mktemp("plain") / "x.log"
    path.write_bytes(PLAIN)
    return events_of(read([str(path)]))


def wrap(name):
    """The example log inside a wrapper that carries whole-second-late nanosecond stamps."""
    out = []
    for i, line in enumerate(PLAIN.decode().split("\n")[:-1]):
        stamp = f"2026-05-28T04:00:00.{i:09d}Z"
        out.append(
            {
                "kubectl": f"{stamp} {line}",
                "cri": f"{stamp} stderr F {line}",
                "docker": json.dumps({"log": line + "\n", "stream": "stderr", "time": stamp}),
                "journald": f"May 28 04:00:00 host sglang[12]: {line}",
                "journald_iso": f"2026-05-28T04:00:00+0000 host sglang[12]: {line}",
                "journald_precise": f"2026-05-28T04:00:00.{i:06d}+00:00 host python3[12]: {line}",
                "colour": f"\x1b[32m{line}\x1b[0m",
                "crlf": line + "\r",
                "pod": f"[pod/prefill-0/sglang] {line}",
                "compose": f"prefill-1  | {line}",
            }[name]
        )
    return "\n".join(out) + "\n"


WRAPPERS = ("kubectl", "cri", "docker", "journald", "journald_iso", "journald_precise", "colour",
            "crlf", "pod", "compose")  # fmt: skip


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_change_nothing_but_the_time(name, write_log, plain_events):
    """A wrapped log gives the same rows and line numbers as the bare one."""
    found = events_of(read([write_log(wrap(name))]))
    assert found.drop("ts", "ts_resolution").equals(plain_events.drop("ts", "ts_resolution"))


def wrap_with_times(lines, moments):
    """Lines behind kubectl stamps."""
    stamps = (m.strftime("%Y-%m-%dT%H:%M:%S.%f") + "123Z" for m in moments)
    return "".join(f"{s} {line}" for s, line in zip(stamps, lines, strict=True))


def test_wrapper_time_refines_whole_seconds(write_log):
    """Where the line has only seconds, an agreeing wrapper gives the milliseconds."""
    base = datetime(2026, 5, 28, 3, 0, 0, 250_000, tzinfo=UTC)
    moments = [base + timedelta(seconds=i) for i in range(3)]
    found = events_of(read([write_log(wrap_with_times(THREE, moments))]))
    assert found["ts"].to_list() == moments  # python datetimes drop the 123 ns
    assert set(found["ts_resolution"].to_list()) == {timedelta(milliseconds=1)}


def test_wrapper_in_utc_and_line_in_local_time(write_log):
    """A constant zone offset between wrapper and line is no disagreement: UTC is what counts."""
    base = datetime(2026, 5, 27, 19, 0, 0, 250_000, tzinfo=UTC)
    moments = [base + timedelta(seconds=i) for i in range(3)]
    found = events_of(read([write_log(wrap_with_times(THREE, moments))]))
    assert found["ts"].to_list() == moments


def test_disagreeing_wrapper_time_is_not_used(write_log):
    """A line that its wrapper stamped much later keeps its own second."""
    base = datetime(2026, 5, 28, 3, 0, 0, 250_000, tzinfo=UTC)
    moments = [base, base + timedelta(seconds=1), base + timedelta(seconds=50)]
    recording = read([write_log(wrap_with_times(THREE, moments))])
    assert events_of(recording)["ts"].to_list()[2] == datetime(2026, 5, 28, 3, 0, 2, tzinfo=UTC)
    assert any("disagrees" in w for w in recording.warnings)


def test_cri_partial_lines_are_joined(write_log):
    """A line that the container run time cut into P pieces is one line again."""
    a, b = THREE[0][:90], THREE[0][90:]
    text = (
        f"2026-05-28T03:00:00.1Z stderr P {a}\n2026-05-28T03:00:00.1Z stdout F other\n"
        f"2026-05-28T03:00:00.1Z stderr F {b}2026-05-28T03:00:01.1Z stderr F {THREE[1]}"
    )
    found = events_of(read([write_log(text)]))
    assert found["num_new_tokens"].to_list() == [100, 101]
    assert found["line"].to_list() == [1, 4]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_logs(suffix, write_log, plain_events):
    """Compressed files are told by their content, whatever their name."""
    data = gzip.compress(PLAIN) if suffix == "gz" else zstandard.compress(PLAIN)
    assert events_of(read([write_log(data, "misnamed.log")])).equals(plain_events)


def test_standard_input(monkeypatch, plain_events):
    """``-`` reads the standard input, compressed or not."""
    stream = io.TextIOWrapper(io.BytesIO(gzip.compress(PLAIN)))
    monkeypatch.setattr(sys, "stdin", stream)
    assert events_of(read(["-"])).equals(plain_events)


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_cut_off_compressed_file_is_an_input_error(suffix, write_log):
    """Half a compressed file is refused with its name, in one line."""
    data = gzip.compress(PLAIN) if suffix == "gz" else zstandard.compress(PLAIN)
    path = write_log(data[: len(data) // 2])
    with pytest.raises(InputError, match="cut off or damaged") as e:
        read([path])
    assert str(e.value).startswith(path)
    assert "\n" not in str(e.value)


def test_files_are_merged_by_time(write_log):
    """One file a rank: the rows come in order of time, each with its own file and line."""
    paths = [
        write_log("".join(prefill_line(s, rank=r, ms=r) for s in range(5)), f"rank{r}.log")
        for r in range(2)
    ]
    found = events_of(read(paths))
    assert found["ts"].is_sorted()
    assert found["source_id"].to_list() == [0, 1] * 5
    assert found["line"].to_list() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert found["event_id"].to_list() == list(range(10))


def test_same_rank_in_two_files_at_once_is_two_engines(write_log):
    """Logs of two engines given together are not taken for one in lock-step."""
    other = "".join(prefill_line(i, rank=i, tokens=200 + i) for i in range(3))
    recording = read([write_log("".join(THREE), "a.log"), write_log(other, "b.log")])
    assert recording.engine.lock_step is False
    assert any("two engines" in w for w in recording.warnings)


@pytest.mark.parametrize("share", [1, 10])
def test_copies_of_lines_are_left_out(share, write_log, plain_events):
    """Lines that a second handler wrote again, all or a few, are no events of their own."""
    lines = PLAIN.splitlines(keepends=True)
    text = b"".join(x * 2 if i % share == 0 else x for i, x in enumerate(lines))
    recording = read([write_log(text)])
    assert events_of(recording).drop("line").equals(plain_events.drop("line"))
    assert any("copies were left out" in w for w in recording.warnings)


def test_equal_batches_of_one_second_are_no_copies(write_log):
    """Without a label, milliseconds and throughput, two equal lines may be two batches."""
    line = prefill_line(0)
    bare = line.split(", input throughput")[0] + "\n"
    bare = "[" + bare[1:20] + bare[bare.index(" DP") :]
    recording = read([write_log(bare * 2)])
    assert recording.num_events == 2
    assert not recording.warnings


@pytest.mark.parametrize("first", [0, 3, 15])
def test_lines_of_two_overlapping_pieces_count_once(first, write_log, plain_events):
    """Pieces of one log that overlap, or the same log twice, are one log and not two engines."""
    lines = PLAIN.splitlines(keepends=True)
    start = b"".join(x for x in lines if b"server_args" in x)
    rest = [x for x in lines if b"server_args" not in x]
    end = len(rest) if not first else first + 8
    paths = [
        write_log(start + b"".join(rest[:end]), "a.log"), write_log(b"".join(rest[first:]), "b.log")
    ]  # fmt: skip
    recording = read(paths)
    whole = events_of(read([write_log(start + b"".join(rest), "whole.log")]))
    where = ["line", "source_id", "event_id", "engine_run"]
    assert events_of(recording).drop(where).equals(whole.drop(where))
    assert any("copies were left out" in w for w in recording.warnings)
    assert not any("two engines" in w for w in recording.warnings)


def test_a_log_given_three_times_is_one_log(write_log, plain_events):
    """A file of which nothing is left after its copies went does not hinder the next."""
    found = events_of(read([write_log(PLAIN, f"{i}.log") for i in range(3)]))
    assert found["ts"].equals(plain_events["ts"])


def test_torn_lines_are_put_together(write_log):
    """A line that another rank's line was written into is recovered, and so is the other."""
    a, b, c = THREE
    text = c + a[:150] + b + a[150:] + c
    recording = read([write_log(text)])
    assert sorted(events_of(recording)["num_new_tokens"].to_list()) == [100, 101, 102, 102]
    assert recording.files[0].skipped == {}


def test_torn_line_with_its_end_on_the_same_line(write_log):
    """``A-begin B A-end`` without a newline between: both are recovered."""
    a, b, c = THREE
    recording = read([write_log(c + a[:150] + b[:-1] + a[150:] + c)])
    assert sorted(events_of(recording)["num_new_tokens"].to_list()) == [100, 101, 102, 102]


def test_lines_without_a_newline_between(write_log):
    """Two whole lines on one physical line are two rows."""
    a, b, c = THREE
    recording = read([write_log(c + a[:-1] + b + c)])
    assert events_of(recording)["num_new_tokens"].to_list() == [102, 100, 101, 102]


def test_torn_line_that_lost_its_end_is_counted(write_log):
    """A cut number is never read as a whole one: the line is counted as torn instead."""
    a, b, c = THREE
    recording = read([write_log(c + a[:75] + b + c)])
    assert events_of(recording)["num_new_tokens"].to_list() == [102, 101, 102]
    assert recording.files[0].skipped == {"torn line": 1}


@pytest.mark.parametrize("cut", range(1, 60, 4))
def test_half_written_last_line_gives_no_wrong_row(cut, write_log):
    """A last line that is cut off is left out and counted, wherever it is cut."""
    recording = read([write_log("".join(THREE)[:-cut])])
    tokens = events_of(recording)["num_new_tokens"].to_list()
    whole = cut == 1
    assert tokens == [100, 101, 102][: 3 if whole else 2]
    assert recording.files[0].skipped == ({} if whole else {"half-written last line": 1})


def test_decoys_are_not_events(write_log):
    """Only a message that begins with the words counts; quoted or printed ones do not."""
    quoted = THREE[1][:-1]
    decoys = (
        "[2026-05-28 03:00:00 DP0 TP0] WARNING slow step: last Prefill batch, #new-token: 9\n"
        "    batch = self.get_next_batch_to_run()  # Prefill batch, #new-seq: 9\n"
        f"[2026-05-28 03:00:00] Receive: obj=GenerateReqInfo(text='{quoted}')\n"
        f"a prompt that quotes {quoted}\n"
        "[2026-05-28 03:00:00 DP0 TP0] Prefill batch failed\n"
        "Prefill batch, #new-seq: 1, #new-token: 9\n"
    )
    assert events_of(read([write_log(decoys + THREE[0])]))["line"].to_list() == [7]


def test_request_id_cannot_forge_events(write_log):
    """A request id that holds a whole log line stays a request id."""
    rid = "x, " + THREE[1][:-1]
    text = THREE[0] + (
        f"[2026-05-28 03:00:00 DP0 TP0] ReqTimeStats(rid={rid}, bootstrap_room=1, input_len=5,"
        " cached_input_len=0, output_len=1, type=prefill): bootstrap_duration=1.00ms,"
        " queue_duration=1.00ms, forward_duration=1.00ms, entry_time=1779937260.116\n"
    )
    recording = read([write_log(text)])
    assert recording.num_events == 1
    assert recording.requests["rid"].to_list() == [rid]


def test_garbage_between_lines(write_log):
    """Invalid UTF-8, binary bytes, NULs and a 300 kB line do not disturb their neighbours."""
    junk = (
        b"\xff\xfe\x00[\x1b" * 50 + b"\n" + b"x" * 300_000 + b"\n" + bytes(range(11, 256)) + b"\n"
    )
    found = events_of(read([write_log(THREE[0].encode() + junk + THREE[1].encode())]))
    assert found["num_new_tokens"].to_list() == [100, 101]


def test_progress_bar_before_a_line(write_log):
    """A line that follows a progress bar without a newline is read."""
    bar = "Capturing batches:  3%|3         | 1/35 [00:00<00:10]"
    assert read([write_log(f"\r{bar}\r{bar}{THREE[0]}{THREE[1]}")]).num_events == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"hello\nworld\n" * 50, "nothing in it looks like an SGLang log"),
        (bytes(range(256)) * 100, "nothing in it looks like an SGLang log"),
        (b"INFO sched | Prefill batch, #new-seq: 1, #new-token: 5\n" * 9, "unknown prefix"),
    ],
)
def test_what_is_no_log_is_refused(data, message, write_log):
    """The error names the file, what was expected, and stays on one line."""
    path = write_log(data)
    with pytest.raises(InputError, match=message) as e:
        read([path])
    assert str(e.value).startswith(path)
    assert "\n" not in str(e.value)


def test_missing_path():
    """A path that does not exist is an input error, not a traceback."""
    with pytest.raises(InputError, match="no such file"):
        read(["/nowhere/server.log"])


def test_unknown_zone(write_log):
    """A zone that does not exist is a usage error that gives an example."""
    with pytest.raises(UsageError, match="unknown time zone"):
        read([write_log(THREE[0])], tz="Mars/Olympus")


def test_unknown_source(write_log):
    """A source that does not exist is a usage error that lists those there are."""
    with pytest.raises(UsageError, match="scheduler_log"):
        read([write_log(THREE[0])], sources=["telepathy"])


def test_run_directory_is_searched_by_content(tmp_path, write_log):
    """Logs are found whatever their name; metrics, spans and client lines are no logs."""
    write_log(THREE[0] + THREE[1], "run/strange.name")
    write_log("# HELP sglang:x y\n# TYPE sglang:x gauge\n", "run/metrics_before.txt")
    write_log(b"\x00\x00\x01\x00\x0a\xff" + b"x" * 300, "run/spans.pb")
    write_log('{"rid": "a", "t0": 1.5, "text": "[2026-05-28 03:00:00] x"}\n', "run/client.jsonl")
    write_log('version = "0.5.13"\n[settings]\ndp_size = 4\n', "run/run.toml")
    recording = read([str(tmp_path / "run")])
    assert [f.path.rpartition("/")[2] for f in recording.files] == ["strange.name"]


def test_damaged_neighbour_of_a_log(tmp_path, write_log):
    """A damaged file beside the log in a run directory does not keep the log from being read."""
    write_log(THREE[0] + THREE[1], "run/server.log")
    write_log(b"\x1f\x8b\x08\x00garbage", "run/spans.jsonl.gz")
    assert read([str(tmp_path / "run")]).num_events == 2


def test_absurd_numbers_in_time_stats(write_log):
    """Times that no clock shows become null; nothing overflows."""
    line = (
        "[2026-05-28 03:00:01 DP0] ReqTimeStats(rid=x, input_len=99999999999999999999,"
        " type=prefill): bootstrap_duration=1.00ms, queue_duration=9999999999999999999999.00ms,"
        " entry_time=99999999999999999999.116\n"
    )
    row = read([write_log(THREE[0] + line)]).requests.to_dicts()[0]
    assert (row["num_prompt_tokens"], row["received"], row["selected"]) == (None, None, None)


def test_server_info_names_the_release(tmp_path, write_log):
    """``server_info.json`` in the run directory gives the release and missing settings."""
    write_log(THREE[0] + THREE[1], "run/server.log")
    info = {"model_path": "/m", "version": "0.5.13", "dp_size": 4, "enable_dp_attention": True}
    write_log(json.dumps(info), "run/server_info.json")
    engine = read([str(tmp_path / "run")]).engine
    assert (engine.release_min, engine.release_max, engine.dp_size) == ("0.5.13", "0.5.13", 4)


def test_directory_without_a_log(tmp_path, write_log):
    """A directory without any log says so."""
    write_log("hello\n", "run/notes.txt")
    with pytest.raises(InputError, match="holds no scheduler log"):
        read([str(tmp_path / "run")])


def test_zone_of_printed_times(write_log):
    """Printed local time is converted from the zone that the user names."""
    found = events_of(read([write_log(THREE[0])], tz="Asia/Shanghai"))
    assert found["ts"][0] == datetime(2026, 5, 27, 19, 0, 0, tzinfo=UTC)


def test_repeated_hour_in_autumn(write_log):
    """When the clock goes back, the second 02:30 is an hour after the first."""
    lines = [
        prefill_line().replace("2026-05-28 03:00:01", f"2026-10-25 {t}")
        for t in ("02:30:00", "02:59:59", "02:00:01", "02:30:00", "03:00:00")
    ]
    found = events_of(read([write_log("".join(lines))], tz="Europe/Berlin"))
    seconds = found["ts"].dt.epoch("s").diff().to_list()[1:]
    assert seconds == [1799, 2, 1799, 1800]


def test_small_logs_do_not_import_numba(write_log):
    """A small log is read without the half second that importing numba costs."""
    code = (
        "import sys; from pdtrace.sources import read; r = read([sys.argv[1]]);"
        "sys.exit('numba' in sys.modules or r.num_events != 3)"
    )
    done = subprocess.run([sys.executable, "-c", code, write_log("".join(THREE))], check=False)
    assert done.returncode == 0


def test_nothing_is_left_in_the_temporary_folder(write_log, monkeypatch, tmp_path):
    """Spilled chunks are read back whole, and removed when the recording is no longer used."""
    from pdtrace.sources import spill

    monkeypatch.setattr(spill, "MEMORY_BYTES", 0)
    monkeypatch.setattr(spill.tempfile, "tempdir", str(tmp_path))
    recording = read([write_log("".join(THREE))])
    assert events_of(recording)["num_new_tokens"].to_list() == [100, 101, 102]
    assert len(list(tmp_path.glob("pdtrace-*"))) == 1
    del recording
    assert list(tmp_path.glob("pdtrace-*")) == []
