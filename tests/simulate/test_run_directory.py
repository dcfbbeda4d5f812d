"""What a simulated run directory holds: readable, marked, balanced, the same again for a seed."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import polars as pl
import pytest

import pdtrace
from pdtrace.__main__ import main
from pdtrace.simulate.run_directory import FILES
from tests.iterations.score import score_run
from tests.simulate.made import make_run, read_truth

# Releases before 0.5.14 do that, and so does their simulation.
ZEROS = "histograms hold only zeros"
SIZES = ("2", "4", "8", "32")


class Same:
    """Line numbers of a log that nothing was taken from."""

    def __getitem__(self, line):
        return line


def small(ranks, *options):
    """A short run of so many ranks."""
    return make_run("--dp-size", ranks, "--requests", "200", *options)


@pytest.mark.parametrize("ranks", SIZES)
@pytest.mark.parametrize("passes", ["off", "30"])
def test_labels_give_exactly_the_truth(ranks, passes):
    """Grouping by label finds every iteration, its ranks and its lines."""
    directory = small(ranks, "--max-delay-passes", passes)
    run = pdtrace.load(directory)
    truth = read_truth(directory)
    assert run.grouping == "label"
    assert run.dp_size == int(ranks)
    assert score_run(run, truth, Same()).exact == 1.0
    assert len(run.iterations) == truth["num_iterations"]
    assert [w for w in run.warnings if ZEROS not in w] == []


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        *((ranks, ("--max-delay-passes", "30")) for ranks in SIZES),
        # Most passes have ranks that idle in the next, and hold their results back.
        ("32", ("--requests", "1600")),
    ],
)
def test_spans_alone_give_the_same_iterations(ranks, options):
    """Schedule events group into the true iterations, with their numbers of requests."""
    directory = small(ranks, *options)
    run = pdtrace.load(directory / "spans.jsonl.gz")
    assert run.grouping == "span"
    placed = run.events.filter(pl.col("iteration").is_not_null()).sort("iteration", "dp_rank")
    found = {}
    for iteration, rank, seqs in placed.select("iteration", "dp_rank", "num_new_seqs").iter_rows():
        found.setdefault(iteration, {})[rank] = seqs
    true = [
        {int(rank): line["new_seq"] for rank, line in it["ranks"].items()}
        for it in read_truth(directory)["iterations"]
    ]
    assert [found[k] for k in sorted(found)] == true


@pytest.mark.parametrize("version", ["0.5.12", "0.5.13", "0.5.16", "0.5.19", "0.5.23"])
def test_every_release_is_read_as_itself(version):
    """Log lines, time stats and settings of each form are recognised without a warning."""
    directory = small("4", "--max-delay-passes", "30", "--engine-version", version)
    run = pdtrace.load(directory)
    assert any(ZEROS in w for w in run.warnings) == (version in ("0.5.12", "0.5.13"))
    assert [w for w in run.warnings if ZEROS not in w] == []
    assert (run.dp_size, run.engine.release_max) == (4, version)
    assert run.engine.delayer.enabled
    assert run.engine.delayer.max_delay_passes == 30
    log = pdtrace.load(directory / "server.log")
    assert len(log.requests) == 204


def test_counters_balance():
    """Ranks negotiate equally often and agree; executions are the passes that ran."""
    directory = small("4", "--max-delay-passes", "30")
    truth = read_truth(directory)
    by_rank = {r: Counter() for r in range(4)}
    ran = Counter()
    for row in truth["prefill_delayer_outcomes"]:
        reason = row["input_estimation"], row["output_reason"]
        by_rank[row["dp_rank"]][reason] += row["count"]
        ran[row["dp_rank"]] += row["count"] * row["actual_execution"]
    assert by_rank[0] == by_rank[1] == by_rank[2] == by_rank[3]
    batches = Counter(int(r) for it in truth["iterations"] for r in it["ranks"])
    assert ran == batches
    metrics = pdtrace.measure(pdtrace.load(directory))
    value = dict(metrics.filter(pl.col("dp_rank").is_null()).select("metric", "value").iter_rows())
    assert value["num_delay_passes"] == by_rank[0]["mixed", "delay"] > 0
    assert value["num_delay_successes"] == by_rank[0]["all", "wait_success"] > 0
    assert value["num_delay_timeouts"] == by_rank[0]["mixed", "wait_timeout"] > 0


def test_debug_lines_tell_every_timeout_once_a_rank():
    """The log's timeouts are the counters' timeouts."""
    directory = small("4", "--max-delay-passes", "30")
    text = (directory / "server.log").read_text()
    counted = sum(
        row["count"]
        for row in read_truth(directory)["prefill_delayer_outcomes"]
        if row["output_reason"] == "wait_timeout"
    )
    assert text.count("timeout thus not forbid prefill") == counted


def test_the_delayer_fuses_more():
    """The same load in fewer and wider iterations."""
    off, on = (read_truth(small("4", "--max-delay-passes", x)) for x in ("off", "30"))
    assert on["num_iterations"] < off["num_iterations"]
    assert on["ranks_per_iteration"]["4"] > off["ranks_per_iteration"]["4"]


def test_a_high_watermark_lets_everything_through():
    """Usage stays below it, so every prefill is forced and nothing is held back."""
    directory = small("2", "--max-delay-passes", "30", "--token-usage-low-watermark", "1")
    reasons = {x["output_reason"] for x in read_truth(directory)["prefill_delayer_outcomes"]}
    assert reasons == {"", "token_watermark"}


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    """Byte for byte, compressed spans included; another seed gives other lines."""
    first = small("4", "--max-delay-passes", "30")
    options = ["--dp-size", "4", "--requests", "200", "--max-delay-passes", "30"]
    for name, more in (("again", []), ("other", ["--seed", "1"])):
        assert main(["simulate", "-o", str(tmp_path / name), *options, *more]) == 0
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (first / name).read_bytes()
    assert (tmp_path / "other" / "server.log").read_bytes() != (first / "server.log").read_bytes()


def test_what_is_written_does_not_change_what_happens():
    """Without labels, milliseconds and time stats it is the same run."""
    full = read_truth(small("2"))
    bare = read_truth(small("2", "--no-labels", "--whole-seconds", "--no-time-stats"))
    assert [sorted(x["ranks"]) for x in full["iterations"]] == [
        sorted(x["ranks"]) for x in bare["iterations"]
    ]


def test_every_file_says_that_it_is_simulated():
    """A recording that nobody made must not pass for one."""
    directory = small("2", "--max-delay-passes", "30")
    assert (directory / "server.log").read_text().startswith("simulated: ")
    assert read_truth(directory)["simulated"] is True
    assert json.loads((directory / "server_info.json").read_text())["simulated"] is True
    assert '"simulated": true' in (directory / "client.jsonl").read_text().partition("\n")[0]
    with gzip.open(directory / "spans.jsonl.gz", "rt") as stream:
        for line in stream:
            (resource,) = json.loads(line)["resourceSpans"]
            mark = {"key": "pdtrace.simulated", "value": {"boolValue": True}}
            assert mark in resource["resource"]["attributes"]
    for name in ("metrics_before.txt", "metrics_after.txt"):
        helps = [x for x in (directory / name).read_text().splitlines() if "# HELP" in x]
        assert helps
        assert all("simulated" in x for x in helps)


def test_the_client_saw_what_the_engine_served():
    """Every request but the warm-up is in the client's log, answered after it was sent."""
    directory = small("2")
    rows = [json.loads(x) for x in (directory / "client.jsonl").read_text().splitlines()]
    assert len(rows) == 200
    assert all(0 < row["t1"] - row["t0"] < 60 for row in rows)
    assert {row["phase"].rstrip("0123456789") for row in rows} == {
        "seed", "stagger", "burst", "poisson", "mixed",
    }  # fmt: skip


@pytest.mark.parametrize("pattern", ["seed", "stagger", "burst", "poisson", "mixed"])
def test_one_pattern_and_lengths(pattern):
    """Only that phase, and prompts of the wanted lengths."""
    directory = make_run("--requests", "30", "--pattern", pattern, "--input-len", "100-200")
    rows = [json.loads(x) for x in (directory / "client.jsonl").read_text().splitlines()]
    assert {row["phase"].rstrip("0123456789") for row in rows} == {pattern}
    assert all(100 <= row["n"] <= 200 for row in rows)


@pytest.mark.parametrize(
    "options",
    [
        ["--dp-size", "0"],
        ["--dp-size", "257"],
        ["--requests", "0"],
        ["--rate", "0"],
        ["--rate", "nan"],
        ["--input-len", "9-3"],
        ["--input-len", "x"],
        ["--max-delay-passes", "-1"],
        ["--token-usage-low-watermark", "2"],
        ["--chunked-prefill-size", "0"],
        ["--engine-version", "0.5.9"],
        ["--engine-version", "new"],
        ["--seed", "-1"],
        ["--replay-arrivals"],
    ],
)
def test_options_that_make_no_sense_end_with_two(options, tmp_path, capsys):
    """One line says why; nothing is written."""
    assert main(["simulate", "-o", str(tmp_path / "run"), *options]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_files_are_not_replaced_without_force(tmp_path):
    """A directory that holds something is left alone."""
    (tmp_path / "mine.txt").write_text("x")
    assert main(["simulate", "-o", str(tmp_path), "--requests", "4"]) == 2
    assert main(["simulate", "-o", str(tmp_path), "--requests", "4", "--force"]) == 0
    assert (tmp_path / "mine.txt").read_text() == "x"
    assert {p.name for p in tmp_path.iterdir()} == {*FILES, "mine.txt"}
