"""The gate on the recorded runs: what must pass, what must fail, and what must not be judged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pdtrace.check.baseline import Baseline
from pdtrace.check.gate import check_runs, require_conclusive
from pdtrace.check.records import build_record
from pdtrace.check.rules import Rules, parse_rule
from pdtrace.check.verdicts import Verdict
from pdtrace.errors import UsageError
from pdtrace.run import DelayerInfo
from tests.check.recorded import baseline_of, check, load, verdict_of

FUSION = ("iterations_per_thousand_requests", "solo_iteration_ratio", "idle_rank_pass_ratio",
          "fusion_width_mean")  # fmt: skip
SOURCES = (None, "scheduler_log", "otel_spans")


@pytest.mark.parametrize(
    ("name", "baseline", "source"),
    [
        *(("h100x2-on", "h100x2-on", source) for source in SOURCES),
        *(("cpu-dp4-on", "cpu-dp4-on", source) for source in SOURCES),
        ("cpu-dp4-on-defaultlog", "cpu-dp4-on", None),
        ("cpu-dp4-on-defaultlog", "cpu-dp4-on", "otel_spans"),
        ("h100x2-on", "h100x2-off", None),
    ],
)
def test_on_passes_against_on_and_off(name, baseline, source):
    """A gate that fails a repeat, or an improvement, would be switched off."""
    result = check(name, baseline_of(baseline), source=source)
    assert (result.verdict, result.exit_code) == (Verdict.PASS, 0)
    assert not result.of(Verdict.FAIL)


def test_a_repeat_passes_the_other_way_round():
    """The same two runs with their parts exchanged: neither is a regression of the other."""
    assert check("cpu-dp4-on", baseline_of("cpu-dp4-on-defaultlog")).exit_code == 0


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("h100x2-off", "h100x2-on"),
        ("h100x2-on-watermark", "h100x2-on"),
        ("cpu-dp4-off", "cpu-dp4-on"),
        ("cpu-dp4-off", "cpu-dp4-on-defaultlog"),
    ],
)
def test_lost_fusion_fails(name, baseline, source):
    """Off, and on with a watermark under which it does nothing, are what the gate is for."""
    result = check(name, baseline_of(baseline), source=source)
    assert (result.verdict, result.exit_code) == (Verdict.FAIL, 1)
    for metric in FUSION:
        assert verdict_of(result, metric) == "fail"


def test_a_delayer_that_is_gone_fails_where_no_number_shows_it():
    """At many ranks or on an even load the counts may hide for long that the flag was lost."""
    before = baseline_of("h100x2-off")
    (record,) = before.records
    engine = replace(record.engine, delayer=DelayerInfo(enabled=True, max_delay_passes=30))
    result = check("h100x2-off", replace(before, records=(replace(record, engine=engine),)))
    (lost,) = result.of(Verdict.FAIL)
    assert lost.metric == "num_runs_without_delayer"
    assert result.exit_code == 1
    assert not check("h100x2-off", before).of(Verdict.FAIL)


@pytest.mark.parametrize("source", ["scheduler_log", "otel_spans"])
def test_a_baseline_of_one_source_judges_whole_runs(source):
    """What the baseline was recorded with need not be what the run is recorded with."""
    baseline = baseline_of("h100x2-on", source)
    assert check("h100x2-on", baseline).exit_code == 0
    assert check("h100x2-off", baseline).exit_code == 1


def test_a_failure_names_delayer_values_and_line():
    """Whoever reads a red cross wants to know what changed and where to look."""
    result = check("h100x2-on-watermark", baseline_of("h100x2-on"))
    finding = next(f for f in result.findings if f.metric == "solo_iteration_ratio")
    assert "token_usage_low_watermark 0.04" in finding.reason
    assert finding.baseline == 0
    assert finding.value > 0.7
    assert finding.low is not None
    assert finding.low <= finding.change <= finding.high
    where = finding.where
    run = load("h100x2-on-watermark")
    line = (
        run.rank_passes.filter(pl.col("iteration") == where.iteration)
        .filter(pl.col("role").cast(pl.String) == "prefill")["line"]
        .to_list()
    )
    assert where.line in line
    assert where.file.endswith("server.log")
    shown = Path(where.file).read_text("utf-8").splitlines()[where.line - 1]
    assert re.search(r"batch (\[\d+\])", shown)[1] in where.text  # the engine's count, from 1 on
    idle = run.iterations.filter(pl.col("iteration") == where.iteration)["num_idle_ranks"]
    assert idle.item() > 0


@pytest.mark.parametrize("source", [None, "scheduler_log"])
@pytest.mark.parametrize("name", ["h100x2-off-crash", "h100x2-on-watermark"])
def test_a_crash_is_found_and_located(name, source):
    """An engine that died answers the rest of its requests very quickly: not at all."""
    result = check(name, baseline_of("h100x2-off"), source=source)
    assert result.exit_code == 1
    (finding,) = result.of(Verdict.FAIL)
    assert finding.metric == "num_unfinished_requests"
    crash = next(i for i in load(name, source).incidents if i.kind == "crash")
    assert finding.where.line == crash.line
    assert "the engine died" in finding.reason
    if source is None:  # the client's log knows how many it sent
        assert finding.value == {"h100x2-off-crash": 188, "h100x2-on-watermark": 89}[name]


def test_a_traceback_that_the_engine_survives_is_no_crash():
    """A request that raises is not an engine that dies."""
    run = load("h100x2-on", "scheduler_log")
    start = next(i for i in run.incidents if i.kind == "ready")
    odd = replace(run, incidents=(replace(start, kind="crash"),))
    assert check_runs([("x", odd)], baseline_of("h100x2-on"), Rules()).exit_code == 0


def test_counts_are_those_of_the_recording():
    """Judged values are counts over the compared blocks, not something near them."""
    baseline = baseline_of("h100x2-on")
    sample = baseline.records[0].sample
    usable = sample.is_usable
    solo = sample.column("solo")[usable].sum() / sample.column("iterations")[usable].sum()
    result = check("h100x2-on", baseline)
    finding = next(f for f in result.findings if f.metric == "solo_iteration_ratio")
    assert finding.value == finding.baseline == pytest.approx(solo)
    # all blocks together are the whole run, but for what was no client's
    run = load("h100x2-on").iterations
    assert sample.column("iterations").sum() == pytest.approx(run.height, abs=8)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"release_min": "0.5.17", "release_max": "0.5.17"}, "release differs"),
        ({"model_path": "/models/another"}, "model differs"),
        ({"tp_size": 4}, "tp_size differs"),
        ({"server_args": {"chunked_prefill_size": "8192"}}, "flag chunked_prefill_size differs"),
    ],
)
def test_another_engine_is_not_judged(changed, told):
    """A run on other terms passes or fails for reasons that are not the build's."""
    result = check("h100x2-on", baseline_of("h100x2-on"), **changed)
    assert (result.verdict, result.exit_code) == (Verdict.UNCOMPARABLE, 2)
    assert any(told in reason for reason in result.reasons)
    assert not [f for f in result.findings if f.metric in FUSION]


def test_another_number_of_ranks_is_not_judged():
    """The same for what the captures themselves differ in."""
    result = check("cpu-dp8-off", baseline_of("cpu-dp4-on"))
    assert result.exit_code == 2
    assert any("dp_size differs: 4 and 8" in reason for reason in result.reasons)


def test_another_load_is_not_judged():
    """Prompts of other lengths fuse otherwise."""
    run = load("h100x2-on")
    other = replace(
        run,
        requests=run.requests.with_columns(
            (pl.col("num_prompt_tokens") * 2 + 1).cast(run.requests.schema["num_prompt_tokens"])
        ),
    )
    result = check_runs([("x", other)], baseline_of("h100x2-on"), Rules())
    assert (result.verdict, result.exit_code) == (Verdict.UNCOMPARABLE, 2)
    assert "workload differs" in result.reasons[0]


def test_the_same_prompts_sent_faster_are_not_judged():
    """At twice the rate more requests meet, which no build is to be thanked for."""
    (record,) = baseline_of("h100x2-on").records
    slow = replace(record, sample=replace(record.sample, span_s=record.sample.span_s * 2))
    result = check("h100x2-on", Baseline((slow,), "test"))
    assert (result.verdict, result.exit_code) == (Verdict.UNCOMPARABLE, 2)
    assert "2 times as fast" in result.reasons[0]


def test_the_delayers_own_flags_do_not_forbid_judging():
    """Losing them is what the gate is to catch."""
    args = {"enable_prefill_delayer": "False"}
    result = check("h100x2-on", baseline_of("h100x2-on"), server_args=args)
    assert result.exit_code == 0


def test_uncertain_iterations_are_not_counted():
    """Counts of iterations that were guessed would be judged as if they had been seen."""
    run = load("h100x2-on")
    guessed = pl.lit(0.7, pl.Float32).alias("confidence")
    parts = [replace(p, iterations=p.iterations.with_columns(guessed)) for p in run]
    unsure = replace(run, parts=parts)
    result = check_runs([("x", unsure)], baseline_of("h100x2-on"), Rules())
    assert (result.verdict, result.exit_code) == (Verdict.UNMEASURED, 2)
    assert "confidence of only 0.70" in result.of(Verdict.UNMEASURED)[0].reason
    only_times = check_runs([("x", unsure)], baseline_of("h100x2-on"), Rules(tiers=("B",)))
    assert only_times.exit_code == 0


def test_a_bound_on_what_is_not_there_is_no_pass():
    """A metric that stopped being recorded would otherwise be green for ever."""
    result = check("h100x2-on", None, "queue_wait_p50_s<=10", source="client_log")
    assert (result.verdict, result.exit_code) == (Verdict.UNMEASURED, 2)
    both = check(
        "h100x2-off", None, "idle_cost_usd<=1", "idle_rank_pass_ratio<=0.3", source="scheduler_log"
    )
    assert (both.verdict, both.exit_code) == (Verdict.FAIL, 1)
    assert {f.verdict for f in both.findings} == {Verdict.UNMEASURED, Verdict.FAIL}


def test_bounds_are_judged_as_measured():
    """A bound is the user's own number; 29.5 % is not 30 %."""
    value = load("h100x2-off")
    record = build_record(value, "x")
    ratio = record.metrics["idle_rank_pass_ratio"][0]
    assert check("h100x2-off", None, f"idle_rank_pass_ratio<={ratio + 1e-4}").exit_code == 0
    assert check("h100x2-off", None, f"idle_rank_pass_ratio<={ratio - 1e-4}").exit_code == 1
    assert check("h100x2-off", None, "fusion_width_mean>=1.5").exit_code == 1
    assert check("h100x2-on", None, "fusion_width_mean>=1.5").exit_code == 0


def test_rules_on_changes_need_more_than_noise():
    """Exceeding a limit by chance is no failure, and not being sure is no pass."""
    on, off = baseline_of("h100x2-on"), baseline_of("h100x2-off")
    assert verdict_of(check("h100x2-off", on, "num_iterations:5%"), "num_iterations") == "fail"
    assert verdict_of(check("h100x2-on", off, "num_iterations:5%"), "num_iterations") == "pass"
    noisy = check("cpu-dp4-on", baseline_of("cpu-dp4-on-defaultlog"), "ttft_mean_s:1%")
    assert verdict_of(noisy, "ttft_mean_s") == "inconclusive"
    assert noisy.exit_code == 2
    finding = noisy.findings[0]
    assert finding.runs_needed or finding.baseline_runs_needed


def test_strict_takes_no_inconclusive_pass():
    """Who asks for certainty gets a 2 where there is none."""
    result = check("h100x2-on", baseline_of("h100x2-on"))
    assert result.of(Verdict.INCONCLUSIVE)
    assert require_conclusive(result).exit_code == 2


def test_repeats_are_judged_together_and_each():
    """Several directories are repeats: one verdict over all, and one for each."""
    runs = [(n, load(n)) for n in ("h100x2-off", "h100x2-on")]
    result = check_runs(runs, baseline_of("h100x2-on"), Rules())
    assert [r.verdict for r in result.runs] == [Verdict.FAIL, Verdict.PASS]


def test_a_recording_is_no_repeat_of_itself():
    """Given twice it would look like certainty."""
    runs = [(name, load("h100x2-on")) for name in ("a", "b")]
    with pytest.raises(UsageError, match="b is the same recording as a"):
        check_runs(runs, baseline_of("h100x2-on"), Rules())
    assert (
        "h100x2-on is itself a run of the baseline"
        in check("h100x2-on", baseline_of("h100x2-on")).notes
    )


def test_repeats_keep_a_bound_by_their_mean():
    """A bound on a noisy value is meant for the setting, not for each of its runs."""
    runs = [(n, load(n)) for n in ("cpu-dp4-on", "cpu-dp4-on-defaultlog")]
    result = check_runs(runs, None, Rules((parse_rule("num_iterations<=200"),)))
    assert result.findings[0].value == pytest.approx((214 + 143) / 2)
    assert result.exit_code == 0
    assert [r.verdict for r in result.runs] == [Verdict.FAIL, Verdict.PASS]


def test_nothing_to_judge_by_is_an_error():
    """A check without a baseline or a rule would always be green."""
    with pytest.raises(UsageError, match="nothing to judge by"):
        check("h100x2-on", None)
    with pytest.raises(UsageError, match="needs --baseline"):
        check("h100x2-on", None, "ttft_p50_s:5%")


def test_stalls_in_every_run_leave_something_to_compare():
    """Each repeat stalls elsewhere; a block counts in those in which it did not."""
    record = baseline_of("h100x2-on").records[0]
    size = len(record.sample.is_usable)
    records = []
    for k in range(4):
        usable = record.sample.is_usable.copy()
        usable[k * size // 4 : (k + 1) * size // 4] = False
        metrics = {m: (v * (1 + k / 1000), u) for m, (v, u) in record.metrics.items()}
        sample = replace(record.sample, is_usable=usable)
        records.append(replace(record, sample=sample, metrics=metrics))
    baseline = Baseline(tuple(records), "test")
    result = check_runs([("x", load("h100x2-on"))], baseline, Rules((parse_rule("ttft_p50_s:9%"),)))
    assert result.exit_code == 0
    width = next(f for f in result.findings if f.metric == "fusion_width_mean")
    assert width.value == width.baseline


def test_stalls_count_in_a_bound_and_nothing_says_otherwise():
    """A note that a value leaves stalls out, beside one that does not, would be believed."""
    result = check("h100x2-on", None, "idle_rank_pass_ratio<=0.3", "request_latency_mean_s<=0.5")
    idle, latency = result.findings
    assert idle.value == pytest.approx(119 / 554, abs=1e-6)
    assert latency.value == pytest.approx(0.444, abs=0.001)
    assert not [note for note in result.notes if "stall" in note]
    (note,) = check("h100x2-on", None, "iterations_per_thousand_requests<=600").notes
    assert note == "h100x2-on: 11 stalled iterations, left out with the requests around them"


def test_a_bound_and_a_change_of_one_metric_say_how_they_differ():
    """Two values of one name in one table, and no word on why, cannot be trusted."""
    result = check("h100x2-on", baseline_of("h100x2-off"), "request_latency_mean_s<=0.5")
    bound, change = (f for f in result.findings if f.metric == "request_latency_mean_s")
    assert bound.title == "request latency, mean, whole run"
    assert change.title == "request latency, mean"
    assert bound.value != pytest.approx(change.value, rel=0.1)
    (note,) = (note for note in result.notes if "stalled iter" in note)
    assert "counted in: request latency, mean, whole run" in note
    assert len({f.title for f in result.findings}) == len(result.findings)


def test_nothing_against_nothing_is_no_change():
    """The rules that are shipped hold for an engine without the delayer, too."""
    result = check("h100x2-off", baseline_of("h100x2-off"), "num_delay_passes:+50%")
    assert verdict_of(result, "num_delay_passes") != "fail"
    assert result.exit_code == 0
