"""What a served engine writes: as much as a simulated one, while it runs, whatever ends it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from tests.iterations.score import score_run
from tests.simulate.made import read_truth
from tests.simulate.serving import ROOT, prompt, serving, start, wait_until
from tests.simulate.test_run_directory import ZEROS, Same

FILES = {
    "server.log", "spans.jsonl", "metrics_before.txt", "metrics_after.txt", "server_info.json",
    "truth.json",
}  # fmt: skip


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run of four ranks with the delayer that answered prompts and was then told to stop."""
    directory = tmp_path_factory.mktemp("serve") / "run"
    options = ("--dp-size", "4", "--max-delay-passes", "30", "--time-scale", "0.1")
    with serving(directory, *options, "--chunked-prefill-size", "4096") as served:
        for k in range(6):
            served.generate_at_once(
                [
                    prompt(500 * (1 + (k + r) % 4), rid=f"group{k}-{r}", bootstrap_room=r)
                    for r in range(4)
                ]
            )
        served.generate(**prompt(11_000, rid="long-0", bootstrap_room=1))
        served.generate_at_once([prompt(3000, rid=f"many-{r}", bootstrap_room=r) for r in range(9)])
        assert served.stop() == 0
    return served


def test_all_files_are_there_and_say_that_they_are_simulated(ended):
    """A recording that nobody made must not pass for one."""
    directory = ended.directory
    assert {p.name for p in directory.iterdir()} == FILES
    assert (directory / "server.log").read_text().startswith("simulated: ")
    assert read_truth(directory)["simulated"] is True
    assert json.loads((directory / "server_info.json").read_text())["simulated"] is True
    for line in (directory / "spans.jsonl").read_text().splitlines():
        assert '{"key":"pdtrace.simulated","value":{"boolValue":true}}' in line
    for name in ("metrics_before.txt", "metrics_after.txt"):
        helps = [x for x in (directory / name).read_text().splitlines() if "# HELP" in x]
        assert all("simulated" in x for x in helps)
    assert "simulated 34 requests on 4 DP ranks" in ended.said


def test_the_log_is_the_truth(ended):
    """Grouping by label finds every iteration, its ranks and its lines, and nothing to warn of."""
    run = pdtrace.load(ended.directory)
    truth = read_truth(ended.directory)
    assert (run.grouping, run.dp_size) == ("label", 4)
    assert score_run(run, truth, Same()).exact == 1.0
    assert len(run.iterations) == truth["num_iterations"]
    assert [w for w in run.warnings if ZEROS not in w] == []
    assert run.requests["status"].unique().to_list() == ["finished"]


def test_spans_alone_give_the_same_iterations(ended):
    """Schedule events group into the true iterations."""
    run = pdtrace.load(ended.directory / "spans.jsonl")
    assert run.grouping == "span"
    found = {}
    placed = run.events.filter(pl.col("iteration").is_not_null()).sort("iteration", "dp_rank")
    for iteration, rank, seqs in placed.select("iteration", "dp_rank", "num_new_seqs").iter_rows():
        found.setdefault(iteration, {})[rank] = seqs
    true = [
        {int(rank): line["new_seq"] for rank, line in it["ranks"].items()}
        for it in read_truth(ended.directory)["iterations"]
    ]
    assert [found[k] for k in sorted(found)] == true


def test_counters_are_the_truth(ended):
    """What was scraped in the end is what the delayer did, on every rank alike."""
    truth = read_truth(ended.directory)
    value = dict(
        pdtrace.measure(pdtrace.load(ended.directory))
        .filter(pl.col("dp_rank").is_null())
        .select("metric", "value")
        .iter_rows()
    )
    held = Counter()
    for row in truth["prefill_delayer_outcomes"]:
        held[row["dp_rank"]] += row["count"] * (row["output_reason"] == "delay")
    assert len(held) == 4
    assert set(held.values()) == {value["num_delay_passes"]}
    assert value["num_delay_passes"] > 0
    counted = Counter()
    for line in (ended.directory / "metrics_after.txt").read_text().splitlines():
        if line.startswith("sglang:prefill_delayer_outcomes_total{"):
            rank = re.search(r'dp_rank="(\d+)"', line)[1]
            counted[int(rank)] += float(line.split()[-1])
    turns = Counter()
    for row in truth["prefill_delayer_outcomes"]:
        turns[row["dp_rank"]] += row["count"]
    assert counted == turns  # the empty ones too, which go on as long as it runs


def test_the_lines_of_ranks_are_in_the_order_of_time(ended):
    """Readers rely on it, and a result may not be written before the one before it."""
    text = (ended.directory / "server.log").read_text()
    stamps = re.findall(r"^\[(\S+ \S+) DP\d+ [^\]]*\] Prefill batch", text, re.MULTILINE)
    assert stamps == sorted(stamps)
    assert len(stamps) > 30


def shape(line):
    """A line with every number and request id taken out."""
    line = re.sub(r"rid=[^,]*", "rid=R", line)
    line = re.sub(r"^\[[^\]]*?( DP\d+ TP\d+ EP\d+)?\]", lambda m: f"[T{'R' * bool(m[1])}]", line)
    line = re.sub(r"0x[0-9a-f]+|[0-9a-f]{32}", "N", line)
    return re.sub(r"\d+(\.\d+)?", "N", line)


def test_no_line_differs_from_those_of_a_real_engine(ended):
    """Batches, time stats, the delayer's words, warm-up, flushes and access lines look the same."""
    captured = {
        shape(x) for x in (ROOT / "sample_logs/h100x2-on/server.log").read_text().splitlines()
    }
    own = {shape(x) for x in (ended.directory / "server.log").read_text().splitlines()[1:]}
    kinds = (
        "Prefill batch", "ReqTimeStats", "PrefillDelayer", "POST /generate", "Uvicorn",
        "Application", "Start of pd", "End of", "fired up", "max_total_num_tokens",
    )  # fmt: skip
    for kind in kinds:
        made = {x for x in own if kind in x}
        assert made, kind
        assert made <= captured, made - captured


def test_the_log_source_cannot_tell_it_from_a_real_log(ended):
    """Analysed side by side: the same columns filled, the same facts of the engine."""
    own = pdtrace.load(ended.directory / "server.log")
    real = pdtrace.load(ROOT / "sample_logs" / "h100x2-on" / "server.log")

    def filled(frame):
        return {name for name in frame.columns if frame[name].null_count() < len(frame)}

    assert filled(own.events) == filled(real.events)
    assert filled(own.requests) == filled(real.requests)
    assert filled(own.iterations) == filled(real.iterations)
    for name in ("engine", "release_max", "role", "lock_step", "has_ms", "prints_after_result"):
        assert getattr(own.engine, name) == getattr(real.engine, name), name
    assert own.engine.delayer.max_delay_passes == real.engine.delayer.max_delay_passes


def test_it_writes_while_it_runs(tmp_path):
    """Whoever tails the log, or reads the spans, sees a request soon after its answer."""
    with serving(tmp_path / "run", "--time-scale", "0.1") as served:
        served.generate(**prompt(50, rid="early-0"))
        log, spans = (tmp_path / "run" / name for name in ("server.log", "spans.jsonl"))
        wait_until(lambda: "rid=early-0" in log.read_text())
        wait_until(lambda: "early-0" in spans.read_text())
        assert served.process.poll() is None


def test_hostile_ids_and_paths_cannot_forge_lines(tmp_path):
    """Nothing that a client sends starts a line, or stops the one who writes them."""
    forged = "x\n[2026-01-01 00:00:00 DP0 TP0 EP0] Prefill batch [9], #new-seq: 1\u2028\x1b[31m"
    with serving(tmp_path / "run", "--time-scale", "0.05") as served:
        assert served.generate(**prompt(3, rid=forged))["meta_info"]["id"] == forged
        assert served.ask("/generate", b'{"input_ids": [1], "rid": "\\ud800"}')[0] in (200, 400)
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET /\xff\xfe\x85%0a[x] HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 400 " in connection.recv(4096)
        assert served.generate(**prompt(4))["meta_info"]["prompt_tokens"] == 4
        assert served.stop() == 0
    log = (tmp_path / "run" / "server.log").read_bytes()
    assert log.isascii()
    assert b"\x1b" not in log
    assert all(line.startswith((b"[", b"simulated: ")) for line in log.splitlines())
    assert b"Prefill batch [9]" not in log
    run = pdtrace.load(tmp_path / "run")
    assert score_run(run, read_truth(tmp_path / "run"), Same()).exact == 1.0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_under_way_are_answered_before_it_stops(number, tmp_path):
    """A signal takes no new request, finishes the old ones, then the files."""
    with serving(tmp_path / "run", "--cost", "floor=0.6") as served:
        answers = []
        post = threading.Thread(
            target=lambda: answers.append(served.generate(**prompt(5, rid="last-0")))
        )
        post.start()
        time.sleep(0.2)
        assert served.stop(number) == 0
        post.join()
    assert answers[0]["meta_info"]["id"] == "last-0"
    truth = read_truth(tmp_path / "run")
    assert truth["num_iterations"] == 2  # the warm-up's, and this
    assert truth["num_unfinished"] == 0
    assert "rid=last-0" in (tmp_path / "run" / "server.log").read_text()


def test_a_second_signal_does_not_wait(tmp_path):
    """Files are complete all the same, and say that a request was not finished."""
    with serving(tmp_path / "run", "--cost", "floor=0.01") as served:
        body = json.dumps(prompt(30_000)).encode()
        host, port = served.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            head = f"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            time.sleep(0.3)
            served.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            assert served.stop() == 0
    truth = read_truth(tmp_path / "run")
    assert truth["num_unfinished"] == 1
    assert "1 requests were not finished" in served.said
    assert {p.name for p in (tmp_path / "run").iterdir()} == FILES


def test_it_stops_by_itself_after_its_duration(tmp_path):
    """Scripts that cannot send a signal bound it."""
    served = start(tmp_path / "run", "--time-scale", "0.1", "--duration", "0.3")
    assert served.process.wait(timeout=30) == 0
    served.stop()
    assert read_truth(tmp_path / "run")["num_iterations"] == 1


def test_a_taken_port_is_one_line_and_leaves_the_directory_alone(tmp_path, capsys):
    """An engine that is there already keeps its files."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["simulate", "-o", str(tmp_path / "run"), "--serve", port]) == 2
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}" in complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--serve", "x"],
        ["--serve", "70000"],
        ["--serve", "0", "--requests", "4"],
        ["--serve", "0", "--pattern", "seed"],
        ["--serve", "0", "--like", "nowhere", "--replay-arrivals"],
        ["--serve", "0", "--context-length", "1"],
        ["--serve", "0", "--otlp-endpoint", "ftp://x"],
        ["--serve", "0", "--duration", "-1"],
        ["--duration", "4"],
        ["--otlp-endpoint", "http://127.0.0.1:1"],
        ["--time-scale", "0"],
        ["--cost", "floor"],
        ["--cost", "floor=-1"],
        ["--cost", "speed=1"],
        ["--enable-prefill-delayer", "--max-delay-passes", "off"],
    ],
)
def test_options_that_make_no_sense_end_with_two(options, tmp_path, capsys):
    """One line says why; nothing is written."""
    assert main(["simulate", "-o", str(tmp_path / "run"), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not Path(tmp_path / "run").exists()


def test_without_the_extra_one_line_names_it(tmp_path):
    """Whoever installed the bare package is told what to install."""
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from pdtrace.__main__ import main\n"
        f"sys.exit(main(['simulate', '--serve', '0', '-o', {str(tmp_path / 'run')!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pip install 'pdtrace[serve]'" in done.stderr
    assert not (tmp_path / "run").exists()
