"""``pdtrace load`` against a server: real requests, real files."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.sources import read
from tests.client.engines import FakeEngine, serve

SAMPLES = Path(__file__).parent.parent.parent / "sample_logs"
SHORT = ("--input-len", "64", "--pause-ms", "0")
LINE = re.compile(r"^sent (\d+) reqs in (\d+\.\d{3})s, ok=(\d+)/(\d+)$", re.MULTILINE)
CAPTURED = {
    "phase": str,
    "rid": str,
    "n": int,
    "rank": int | None,
    "t0": float,
    "t1": float,
    "ok": bool,
    "err": str | None,
}


def load(engine: FakeEngine, *args: object) -> int:
    """Run the command on an engine."""
    return main(["load", engine.url, *SHORT, *map(str, args)])


def lines_of(directory: Path) -> list[dict]:
    """The client's log."""
    text = (directory / "client.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def served_ranks(engine: FakeEngine, directory: Path) -> list[int]:
    """Where requests ran, in the order of their ids."""
    return [x["served_rank"] for x in sorted(lines_of(directory), key=lambda x: x["rid"])]


def test_it_prints_what_the_original_client_printed(capsys):
    """``sent 4 reqs in 3.023s, ok=4/4`` is what scripts look for; the time is the served one."""
    with serve(FakeEngine(service_s=0.2)) as engine:
        argv = "--batch-size 4 --input-len 8192 --output-len 1 --dp-size 4 --stagger-ms 0"
        assert main(["load", engine.url, *argv.split(), "--flush-cache"]) == 0
    (found,) = LINE.findall(capsys.readouterr().out)
    assert (found[0], found[2], found[3]) == ("4", "4", "4")
    assert 0.2 <= float(found[1]) < 0.45
    assert engine.asked == ["/server_info", "/flush_cache", *["/generate"] * 4]
    assert sorted(body["routed_dp_rank"] for body in engine.bodies) == [0, 1, 2, 3]
    assert all(len(body["input_ids"]) == 8192 for body in engine.bodies)


def test_run_directory_is_as_the_captures(tmp_path):
    """What other readers take of a capture they must find here: names, types, metrics, diary."""
    target = tmp_path / "run"
    with serve(FakeEngine()) as engine:
        assert load(engine, "-o", target, "--warmup", 1, "--repeats", 3) == 0
    found = lines_of(target)
    assert len(found) == 12
    for line in found:
        assert list(line)[:8] == list(CAPTURED)
        assert all(isinstance(line[name], kind) for name, kind in CAPTURED.items())
        assert line["t0"] < line["t1"]
        assert re.fullmatch(r"batch(\d)-[0-3]-\d+", line["rid"])[1] == str(line["repeat"])
        assert line["served_rank"] == line["rank"]
    diary = (target / "client.txt").read_text().splitlines()
    assert [line.split(" ")[:2] for line in diary[:2]] == [["phase", "warm"], ["phase", "batch"]]
    assert [bool(LINE.match(f"{line}")) for line in diary[2:]] == [True] * 3
    before, after = (target / f"metrics_{x}.txt" for x in ("before", "after"))
    assert before.read_text().startswith("# scraped 2")
    assert before.read_text().endswith("} 4.0\n")  # after the warm-up
    assert after.read_text().endswith("} 16.0\n")
    assert json.loads((target / "server_info.json").read_text())["version"] == "0.5.13"
    told = tomllib.loads((target / "run.toml").read_text())
    assert told["load"]["num_ok"] == 12
    assert told["load"]["arrivals_num_requests"] == 4
    recording = read([str(target)])
    assert recording.requests["rid"].to_list() == [line["rid"] for line in found]
    assert recording.requests["status"].unique().to_list() == ["finished"]
    assert recording.requests["num_prompt_tokens"].unique().to_list() == [64]


def test_the_log_joins_what_the_engine_wrote(tmp_path):
    """The ids that were sent are those that the engine's log has: latency and selection meet."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    lines = [
        {
            "phase": "seed0",
            "rid": f"seed0-{k}-{k + 2}",
            "n": 8192,
            "rank": None,
            "t0": 1.8e9,
            "t1": 1.8e9 + 1,
        }
        for k in range(2)
    ]
    (recorded / "client.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with serve(FakeEngine(num_ranks=2)) as engine:
        assert (
            main(["load", engine.url, "-o", str(tmp_path / "run"), "--replay", str(recorded)]) == 0
        )
    run = pdtrace.load(tmp_path / "run" / "client.jsonl", SAMPLES / "h100x2-off" / "spans.jsonl.gz")
    joined = run.requests.group_by("rid").agg(pl.col("source").n_unique())
    both = joined.filter(pl.col("source") == 2)["rid"].to_list()
    assert sorted(both) == ["seed0-0-2", "seed0-1-3"]


@pytest.mark.parametrize("version", ["0.4.6.post5", "0.4.9", "0.5.9", "0.5.16", "0.5.23"])
def test_every_release_routes_as_asked(version, tmp_path):
    """Each has its own field for the rank, path for its settings and name for the ranks."""
    with serve(FakeEngine(version=version, num_ranks=3)) as engine:
        assert load(engine, "--batch-size", 6, "-o", tmp_path / "run", "--route", "rank", 2) == 0
        assert load(engine, "--batch-size", 6, "-o", tmp_path / "all") == 0
    if engine.release >= (0, 5, 10):
        assert set(served_ranks(engine, tmp_path / "run")) == {2}
        assert served_ranks(engine, tmp_path / "all") == [0, 1, 2, 0, 1, 2]
    rooms = [body["bootstrap_room"] % 3 for body in engine.bodies]
    assert rooms[:6] == [2] * 6
    assert sorted(rooms[6:]) == [0, 0, 1, 1, 2, 2]
    asked = "/server_info" if engine.release >= (0, 5, 6) else "/get_server_info"
    assert asked in engine.asked


def test_the_version_can_be_said(tmp_path):
    """An engine built from a branch may call itself anything."""
    with serve(FakeEngine(version="0.5.13")) as engine:
        assert load(engine, "--engine-version", "0.5.2") == 0
    assert all("data_parallel_rank" in body for body in engine.bodies)
    assert not any("routed_dp_rank" in body for body in engine.bodies)


def test_an_engine_that_says_nothing_gets_every_field(capsys):
    """Engines ignore fields they do not know, and a known one must not be missing."""
    with serve(FakeEngine(has_info=False, has_metrics=False)) as engine:
        assert load(engine) == 2
        assert "give --dp-size" in capsys.readouterr().err
        assert load(engine, "--dp-size", 4) == 0
    assert "rank fields of all releases" in capsys.readouterr().err
    assert all({"data_parallel_rank", "routed_dp_rank"} <= body.keys() for body in engine.bodies)


def test_several_prompts_in_one_post(tmp_path):
    """The engine gets them at one moment; each has its own line and its own rank."""
    with serve(FakeEngine()) as engine:
        assert load(engine, "--batch-size", 8, "--prompts-per-post", 4, "-o", tmp_path) == 0
    assert [len(body["input_ids"]) for body in engine.bodies] == [4, 4]
    assert served_ranks(engine, tmp_path) == [0, 1, 2, 3, 0, 1, 2, 3]
    lines = lines_of(tmp_path)
    assert len({line["t0"] for line in lines if line["post"] == 0}) == 1


def test_requests_arrive_when_planned(tmp_path):
    """The body is complete at the engine no earlier than planned, and soon after: the last byte."""
    with serve(FakeEngine(service_s=0.0)) as engine:
        argv = ("--rank-offsets-ms", "0,100,200,300", "--input-len", 8192, "-o", tmp_path)
        assert load(engine, *argv) == 0
    arrived = {body["rid"]: when for body, when in engine.posts}
    epoch = time.time() - time.monotonic()
    lines = sorted(lines_of(tmp_path), key=lambda x: x["planned"])
    planned = [line["planned"] for line in lines]
    assert [round(b - a, 4) for a, b in pairwise(planned)] == [0.1] * 3
    for line in lines:
        # the upper bound is for a machine that has other things to do
        assert -0.002 < arrived[line["rid"]] + epoch - line["planned"] < 0.5
        assert line["late_ms"] == pytest.approx((line["t0"] - line["planned"]) * 1e3, abs=0.01)
        assert line["late_ms"] >= 0


def test_closed_arrivals_keep_so_many_under_way(tmp_path):
    """Three clients: never more than three requests open, and a next one right after an answer."""
    with serve(FakeEngine(num_ranks=1, service_s=0.02)) as engine:
        argv = ("--arrivals", "closed", "--concurrency", 3, "--batch-size", 15, "-o", tmp_path)
        assert load(engine, *argv) == 0
    lines = lines_of(tmp_path)
    assert len(lines) == 15
    steps = sorted([(x["t0"], 1) for x in lines] + [(x["t1"], -1) for x in lines])
    under_way = 0
    seen = []
    for _, step in steps:
        under_way += step
        seen.append(under_way)
    assert max(seen) == 3
    ends = {x["t1"] for x in lines}
    followed = [x for x in lines if min(abs(x["planned"] - end) for end in ends) < 1e-5]
    assert len(followed) == 12


def test_replay_keeps_ids_lengths_ranks_and_times(tmp_path):
    """A recorded load sent again is the same load: only the engine's answers may differ."""
    recorded = tmp_path / "recorded"
    recorded.mkdir()
    source = read([str(SAMPLES / "h100x2-off" / "client.jsonl.gz")]).requests
    lines = []
    for rid, tokens, sent in source.select(
        "rid", "num_prompt_tokens", pl.col("sent").dt.timestamp("ns")
    ).iter_rows():
        if rid.startswith(("burst", "uneven")):
            lines.append({"rid": rid, "phase": "x", "n": tokens, "t0": sent / 1e9, "rank": 1})
    lines = lines[:24]
    (recorded / "client.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    with serve(FakeEngine(num_ranks=2, service_s=0.0)) as engine:
        assert (
            main(["load", engine.url, "-o", str(tmp_path / "run"), "--replay", str(recorded)]) == 0
        )
    again = sorted(lines_of(tmp_path / "run"), key=lambda x: x["planned"])
    was = sorted(lines, key=lambda x: x["t0"])
    assert [(x["rid"], x["n"]) for x in again] == [(x["rid"], x["n"]) for x in was]
    assert {x["phase"] for x in again} == {"burst", "uneven"} & {x["phase"] for x in again}
    assert {x["served_rank"] for x in again} == {1}
    for x, y in zip(again, was, strict=True):
        assert x["planned"] - again[0]["planned"] == pytest.approx(y["t0"] - was[0]["t0"], abs=1e-5)


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ("abort", "engine", "KV transfer failed"),
        ("drop", "disconnected", "ServerDisconnected"),
        ("hang", "timeout", "no answer within 0.5 s"),
        ("garbage", "answer", "not JSON"),
        ("large", "answer", "more than 16 MiB"),
        ("400", "http_400", "no"),
        ("503", "http_503", "no"),
    ],
)
def test_failures_are_told_apart(how, kind, text, tmp_path, capsys):
    """One bad request must neither stop the others nor look like an answer."""
    with serve(FakeEngine(misbehave={"batch0-2-": how})) as engine:
        argv = ("--timeout", 0.5, "-o", tmp_path, "--json", tmp_path / "sums")
        assert load(engine, *argv, "--force") == 0
    out, _ = capsys.readouterr()
    assert LINE.findall(out)[0][2:] == ("3", "4")
    assert f"failed: {kind} 1" in out
    (bad,) = [line for line in lines_of(tmp_path) if not line["ok"]]
    assert bad["kind"] == kind
    assert text in bad["err"]
    assert bad["t1"] > bad["t0"]
    told = json.loads((tmp_path / "sums").read_text())
    assert told["engines"][0]["errors"] == {kind: 1}
    assert told["engines"][0]["makespan_s"]["n"] == 0
    statuses = read([str(tmp_path)]).requests["status"].to_list()
    assert sorted(statuses) == ["failed", "finished", "finished", "finished"]


def test_an_engine_that_dies_is_told_from_one_that_never_was(tmp_path, capsys):
    """Refused connections are lines of the log; without any engine there is nothing to write."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["load", url, "-o", str(tmp_path / "run")]) == 2
    assert "no engine answers: Connection refused" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    with serve(FakeEngine()) as engine:
        code = """
import sys
from pdtrace.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
        argv = ["load", engine.url, *SHORT, "-o", str(tmp_path / "run"), "--batch-size", "8"]
        running = subprocess.Popen(
            [sys.executable, "-c", code, *argv, "--arrivals", "poisson", "--rate", "4"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        while len(engine.posts) < 2:
            time.sleep(0.01)
    running.communicate(timeout=20)
    assert running.returncode == 0
    kinds = [line["kind"] for line in lines_of(tmp_path / "run")]
    assert len(kinds) == 8
    assert kinds.count(None) >= 2
    assert kinds.count("refused") >= 1
    for line in lines_of(tmp_path / "run"):
        if line["kind"] == "refused":
            assert line["late_ms"] is None


@pytest.mark.parametrize(
    ("number", "how"),
    [
        (signal.SIGINT, ["poisson", "--rate", "20"]),
        (signal.SIGTERM, ["closed", "--concurrency", "3"]),
    ],
)
def test_a_signal_leaves_complete_files(number, how, tmp_path):
    """Whoever stops a long load keeps what it measured: every line whole, nothing invented."""
    with serve(FakeEngine(num_ranks=1, service_s=0.05)) as engine:
        argv = ["load", engine.url, *SHORT, "-o", str(tmp_path / "run"), "--json", "-"]
        running = subprocess.Popen(
            [sys.executable, "-m", "pdtrace", *argv, "--batch-size", "2000", "--arrivals", *how],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(engine.posts) < 10:
            time.sleep(0.01)
        running.send_signal(number)
        out, err = running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert err.splitlines()[-1].startswith("pdtrace: interrupted")
    lines = lines_of(tmp_path / "run")
    assert len(lines) == len(engine.posts)
    assert all(line["ok"] for line in lines)
    told = json.loads(out)
    assert told["stopped"] == "interrupted"
    assert told["engines"][0]["num_sent"] == len(lines) == told["engines"][0]["num_ok"]
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert names == {"client.jsonl", "client.txt", "metrics_before.txt", "metrics_after.txt",
                     "run.toml", "server_info.json"}  # fmt: skip
    assert read([str(tmp_path / "run")]).requests.height == len(lines)


def test_requests_that_nobody_waits_for_are_told(tmp_path):
    """A second Ctrl-C does not wait; what was sent is in the log, without an answer."""
    with serve(FakeEngine(misbehave={"batch": "hang"})) as engine:
        argv = ["load", engine.url, *SHORT, "-o", str(tmp_path / "run")]
        running = subprocess.Popen(
            [sys.executable, "-m", "pdtrace", *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        while len(engine.posts) < 4:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=3)
    assert running.returncode == 130
    lines = lines_of(tmp_path / "run")
    assert [(line["kind"], line["t1"], line["ok"]) for line in lines] == [
        ("interrupted", None, False)
    ] * 4


def test_a_run_is_bounded_in_time_and_number(tmp_path, capsys):
    """Nobody wants to find an engine under load the next morning."""
    with serve(FakeEngine(service_s=0.0)) as engine:
        begun = time.monotonic()
        slow = ("--arrivals", "poisson", "--rate", 5, "--batch-size", 500, "--max-duration", 1)
        assert load(engine, *slow) == 0
        assert time.monotonic() - begun < 8
        assert "ended by --max-duration" in capsys.readouterr().err
        num = len(engine.posts)
        assert 0 < num < 60
        assert load(engine, "--repeats", 5, "--max-requests", 9) == 0
        assert len(engine.posts) - num == 8
        assert "ended by --max-requests" in capsys.readouterr().err
        assert load(engine, "--max-requests", 3) == 2
    assert "one repeat has 4 requests" in capsys.readouterr().err


def test_repeats_end_when_the_interval_is_narrow(tmp_path):
    """Equal makespans need the least number of repeats; those asked for are done in any case."""
    sums = tmp_path / "sums"
    with serve(FakeEngine(service_s=0.05)) as engine:
        assert load(engine, "--precision", 0.5, "--json", sums, "--batch-size", 2) == 0
        few = json.loads(sums.read_text())["engines"][0]
        assert load(engine, "--precision", 1e-9, "--max-repeats", 6, "--json", sums) == 0
        most = json.loads(sums.read_text())["engines"][0]
    assert len(few["repeats"]) == 5
    assert few["makespan_s"]["low"] < few["makespan_s"]["mean"] < few["makespan_s"]["high"]
    assert len(most["repeats"]) == 6


def test_two_engines_take_turns_and_are_compared(tmp_path, capsys):
    """Same requests to a slow and a fast one, A first and B first in turn; then the verdict."""
    with serve(FakeEngine(service_s=0.1)) as slow, serve(FakeEngine(service_s=0.04)) as fast:
        argv = ["load", "--ab", slow.url, fast.url, *SHORT, "-o", str(tmp_path), "--repeats", "4"]
        assert main([*argv, "--flush-cache"]) == 0
    out = capsys.readouterr().out
    ends = [line[-3:] for line in out.splitlines() if line.startswith("sent ")]
    assert ends == ["(a)", "(b)", "(b)", "(a)", "(a)", "(b)", "(b)", "(a)"]
    a, b = lines_of(tmp_path / "a"), lines_of(tmp_path / "b")
    assert {x["rid"] for x in a} == {x["rid"] for x in b}
    assert {json.dumps(x["input_ids"]) for x in slow.bodies} == {
        json.dumps(x["input_ids"]) for x in fast.bodies
    }
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["comparable"] is True
    latency = told["metrics"]["request_latency_mean_s"]
    assert latency["change_ratio"] == pytest.approx(-0.6, abs=0.15)
    assert "request latency" in out
    assert out.index("sent 4 reqs") < out.index("request latency")


def test_engines_of_different_sizes_are_not_mixed(tmp_path, capsys):
    """Round-robin over 4 ranks of an engine with 8 is another load than over 4 of 4."""
    with serve(FakeEngine(num_ranks=2)) as a, serve(FakeEngine(num_ranks=4)) as b:
        argv = ["load", "--ab", a.url, b.url, *SHORT, "-o", str(tmp_path)]
        assert main(argv) == 2
    assert "the engines have 2 and 4 DP ranks" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, capsys):
    """A second load into the same directory would mix two runs; the engine's log must survive."""
    (tmp_path / "server.log").write_text("kept\n")
    (tmp_path / "metrics_after.txt").write_text("of an earlier load\n")
    with serve(FakeEngine(has_metrics=False)) as engine:
        assert load(engine, "-o", tmp_path) == 2
        assert not engine.posts
        assert "is not empty" in capsys.readouterr().err
        assert load(engine, "-o", tmp_path, "--force") == 0
    assert (tmp_path / "server.log").read_text() == "kept\n"
    assert not (tmp_path / "metrics_after.txt").exists()
    assert "--enable-metrics" in capsys.readouterr().err


def test_the_cache_is_flushed_before_each_repeat():
    """Busy engines refuse; the client asks again rather than measure a warm cache."""
    with serve(FakeEngine(refusals=2)) as engine:
        assert load(engine, "--flush-cache", "--repeats", 2) == 0
    flushes = [k for k, path in enumerate(engine.asked) if path == "/flush_cache"]
    assert len(flushes) == 4
    assert engine.asked[flushes[-1] + 1 :] == ["/generate"] * 4


def test_secrets_are_neither_shown_nor_written(tmp_path, monkeypatch, capsys):
    """Run directories are passed on; what the engine was started with may hold its keys."""
    monkeypatch.setenv("PDTRACE_API_KEY", "s3cret")
    more = {"api_key": "s3cret", "ssl_keyfile_password": "s3cret"}
    with serve(FakeEngine(more_info=more, api_key="s3cret")) as engine:
        assert load(engine, "-o", tmp_path, "--json", tmp_path / "sums", "--force") == 0
        monkeypatch.delenv("PDTRACE_API_KEY")
        assert load(engine) == 2
    out, err = capsys.readouterr()
    assert "PDTRACE_API_KEY" in err
    for text in (out, err, *(p.read_text() for p in tmp_path.iterdir())):
        assert "s3cret" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["http://user:pw@127.0.0.1:1"], "user name or password"),
        (["ftp://127.0.0.1"], "expected http://HOST:PORT"),
        (["http://127.0.0.1:30000/generate"], "without /generate"),
        (["http://127.0.0.1:99999"], "cannot be used"),
        ([], "name one engine"),
        (["http://127.0.0.1:1", "--arrivals", "poisson"], "needs --rate"),
        (["http://127.0.0.1:1", "--rate", "3"], "--rate means nothing with --arrivals batch"),
        (["http://127.0.0.1:1", "--route", "nowhere"], "expected round-robin"),
        (["http://127.0.0.1:1", "--route", "recorded"], "needs --replay"),
        (["http://127.0.0.1:1", "--input-len", "0"], "expected tokens from 1 to"),
        (["http://127.0.0.1:1", "--batch-size", "-1"], "expected a whole number from 1 to"),
        (["http://127.0.0.1:1", "--stagger-ms", "nan"], "expected a number from 0"),
        (["http://127.0.0.1:1", "--bootstrap-port", "65536"], "from 1 to 65535"),
        (["http://127.0.0.1:1", "--json", "/nowhere/sums.json"], "its directory does not exist"),
        (["http://127.0.0.1:1", "--phase", "a-b"], "expected letters"),
        (
            ["http://127.0.0.1:1", "--replay", "x", "--batch-size", "3"],
            "means nothing with --replay",
        ),
        (["--ab", "http://127.0.0.1:1", "http://127.0.0.1:2"], "needs -o"),
    ],
)
def test_mistakes_are_one_line(argv, message, capsys):
    """Exit code 2 and one line that says which option; never a password of the URL."""
    assert main(["load", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "pw" not in line


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 17000000\r\n\r\n" + b" " * 17_000_000, "16 MiB"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak HTTP"),
    ],
)
def test_what_is_no_engine_is_told_in_one_line(answer, message, capsys):
    """A port of something else must not end in an internal error."""

    def answer_once() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once)
        thread.start()
        assert main(["load", f"http://127.0.0.1:{listener.getsockname()[1]}"]) == 2
        thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "internal error" not in line


def test_a_signal_before_the_first_request_ends_it_at_once():
    """While the engine is still asked about itself; 143 for SIGTERM, as later on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        running = subprocess.Popen([sys.executable, "-m", "pdtrace", "load", url])
        connection, _ = listener.accept()
        with connection:
            running.send_signal(signal.SIGTERM)
            assert running.wait(timeout=5) == 143


def test_a_decode_engine_is_refused(capsys):
    """It would wait for a prefill engine's KV cache for each prompt."""
    with serve(FakeEngine(mode="decode")) as engine:
        assert load(engine) == 2
    assert "decode engine" in capsys.readouterr().err


def test_a_real_peer_is_a_decode_engine_that_gets_the_same_requests(tmp_path, capsys):
    """It finds the KV cache by the room, at the prefill engine's own bootstrap address."""
    more = {"disaggregation_bootstrap_port": 8998}
    failing = {"batch0-3-": "500"}
    with (
        serve(FakeEngine(more_info=more)) as prefill,
        serve(FakeEngine(mode="decode", misbehave=failing)) as decode,
    ):
        assert load(prefill, "--decode-url", decode.url, "--output-len", 7, "-o", tmp_path) == 0
    assert "the decode engine failed 1 requests" in capsys.readouterr().err
    first, second = ({b["rid"]: b for b in engine.bodies} for engine in (prefill, decode))
    assert len(first) == 4
    for rid, body in first.items():
        assert body.pop("routed_dp_rank") == body["bootstrap_room"] % 4
        assert second[rid] == body
        assert (body["bootstrap_host"], body["bootstrap_port"]) == ("127.0.0.1", 8998)
        assert body["sampling_params"]["max_new_tokens"] == 7
    assert [line["ok"] for line in lines_of(tmp_path)] == [True] * 4


def test_a_simulated_engine_is_marked(tmp_path, capsys):
    """Figures of a model must not pass for an engine's."""
    with serve(FakeEngine(more_info={"simulated": True})) as engine:
        assert load(engine, "-o", tmp_path) == 0
    assert "simulated" in capsys.readouterr().err
    assert all(line["simulated"] is True for line in lines_of(tmp_path))
    assert tomllib.loads((tmp_path / "run.toml").read_text())["origin"]["simulated"] is True


def test_surprises_in_the_answers_are_told(capsys, tmp_path):
    """Requests that ran on another rank than asked for make another experiment."""
    with serve(FakeEngine(version="0.5.16")) as engine:
        # 0.5.16 ignores the old name, and without rooms its balancer chooses
        argv = ("--engine-version", "0.5.2", "--bootstrap-host", "none", "-o", tmp_path)
        engine.mode = "null"
        assert load(engine, *argv) == 0
    assert "were served by another rank than asked for" in capsys.readouterr().err
    assert {line["served_rank"] for line in lines_of(tmp_path)} == {0, 1, 2, 3}


def test_summary_has_its_keys(tmp_path):
    """Scripts read the sums by these names, which the page of promises has too."""
    sums = tmp_path / "sums"
    with serve(FakeEngine()) as engine:
        assert load(engine, "--json", sums) == 0
    told = json.loads(sums.read_text(), parse_constant=pytest.fail)
    assert told.keys() == {"schema_version", "stopped", "settings", "engines", "notes"}
    assert told["engines"][0].keys() == {
        "name", "url", "version", "dp_size", "simulated", "directory", "num_warm", "num_sent",
        "num_ok", "errors", "makespan_s", "lateness_ms", "repeats",
    }  # fmt: skip
    page = (SAMPLES.parent / "docs" / "interface.md").read_text(encoding="utf-8")
    promised = set(re.findall(r"`(\w+)`", re.search(r"load --json.*?\n\n", page, re.DOTALL)[0]))
    engine = told["engines"][0]
    known = {*told, *engine, *engine["makespan_s"], *engine["lateness_ms"]}
    ends = {"done", "interrupted", "max_duration", "max_requests", "nothing_answered"}
    assert promised - {"schema_version"} == known - {"schema_version"} | ends
    assert told["engines"][0]["lateness_ms"]["n"] == 4
    assert 0 <= told["engines"][0]["lateness_ms"]["p50"] <= told["engines"][0]["lateness_ms"]["max"]


def test_a_broken_answer_does_not_give_the_key_away(tmp_path, monkeypatch, capsys):
    """What aiohttp says of a broken answer holds the headers that were sent."""
    monkeypatch.setenv("PDTRACE_API_KEY", "sk-secret")
    empty = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                peer, _ = server.accept()
                asked = peer.recv(65536)
                is_prompt = b"/generate" in asked
                peer.sendall(b"garbage\r\n\r\n" if is_prompt else empty)
                peer.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, args=(server,), daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        main(
            ["load", url, "-o", str(tmp_path / "d"), "--batch-size", "1", "--dp-size", "1", *SHORT]
        )
    said = capsys.readouterr()
    written = b"".join(p.read_bytes() for p in (tmp_path / "d").glob("*"))
    assert "failed: disconnected 1" in said.out + said.err
    assert b"secret" not in (said.out + said.err).encode() + written
