"""The recorded runs against each other: the numbers a reader can check, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

import pdtrace
from pdtrace.compare import compare_runs
from tests.compare.conftest import SAMPLES


def test_off_and_on_give_the_counts_of_the_engine(sample) -> None:
    """Whole runs are compared over the same passes that analyze counts."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"))
    assert result.is_comparable
    counts = {
        name: (result.get(name).baseline, result.get(name).candidate, result.get(name).verdict)
        for name in ("num_iterations", "num_solo_iterations", "num_fully_fused_iterations")
    }
    assert counts == {
        "num_iterations": (381, 277, "better"),
        "num_solo_iterations": (297, 119, "better"),
        "num_fully_fused_iterations": (84, 158, "better"),
    }
    assert result.get("solo_iteration_ratio").baseline == pytest.approx(297 / 381)
    assert result.get("solo_iteration_ratio").candidate == pytest.approx(119 / 277)
    assert result.num_matched == 554
    assert result.num_internal == (8, 8)


def test_the_price_of_delaying_stands_beside_the_gain(sample) -> None:
    """Delay passes, and the requests that are answered later, are part of the result."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"))
    delays = result.get("num_delay_passes")
    assert (delays.baseline, delays.candidate, delays.verdict) == (0, 4215, "worse")
    assert delays.change_ratio is None
    slower, of = result.num_slower
    assert 0 < slower < of


def test_stalls_are_left_out_and_the_raw_figure_is_kept(sample) -> None:
    """Nine stalls after warm-up of the delayed run turn its mean around; both figures are told."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"))
    assert result.num_stalls[1] > result.num_stalls[0]
    assert result.num_touched > 0
    latency = result.get("request_latency_mean_s")
    assert latency.verdict == "better"
    assert latency.raw[0] is not None
    assert latency.raw[1] is not None
    assert latency.raw[1] > latency.raw[0]


def test_the_seed_experiment_is_reproduced(sample) -> None:
    """Pairs of 8192-token prompts: 0.49 s → 0.31 s by the client's own account."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"), request_filter="^seed")
    makespan = result.get("group_makespan_mean_s")
    assert makespan.n == (12, 12)
    assert makespan.baseline == pytest.approx(0.49, abs=0.01)
    assert makespan.candidate == pytest.approx(0.31, abs=0.01)
    assert makespan.verdict == "better"
    assert -0.40 < makespan.low <= makespan.change_ratio <= makespan.high < -0.34
    assert result.num_matched == 24
    assert result.get("num_iterations").baseline == 24
    assert result.get("num_iterations").candidate == 12
    assert result.get("solo_iteration_ratio").change_ratio == -1
    assert result.get("solo_iteration_ratio").verdict == "better"
    # Counters know the whole run only; what cannot be told apart is not claimed.
    assert result.get("num_delay_passes").candidate is None
    assert result.get("num_delay_passes").raw == (0, 4215)


def test_a_run_against_itself_is_the_same_in_everything(sample) -> None:
    """Any other verdict would be made up."""
    run = sample("h100x2-off")
    result = compare_runs(run, run)
    assert {row.verdict for row in result.rows} == {"same"}
    assert {row.change_ratio for row in result.rows} == {0}
    assert {(row.low, row.high) for row in result.rows} == {(0, 0)}


def test_a_repeat_that_crashed_shows_no_gain_where_there_is_none(sample) -> None:
    """The same setting again, until it died: compared on what both answered, and no false claim."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-off-crash"))
    assert result.is_comparable
    assert result.num_matched == 366
    assert any("366 requests that both runs answered" in note for note in result.notes)
    lost = result.get("num_unfinished_requests")
    assert (lost.baseline, lost.candidate, lost.verdict) == (0, 188, "worse")
    claimed = {r.quantity.name for r in result.rows if r.verdict in ("better", "worse")}
    assert claimed == {"num_unfinished_requests"}


def test_a_watermark_that_is_never_reached_changes_no_fusion(sample) -> None:
    """Every prefill was force-allowed, so the passes of the same requests are the same."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on-watermark"))
    assert result.num_matched == 64  # the phases seed and uneven; mixed has other prompts
    for name in ("num_iterations", "fusion_width_mean", "solo_iteration_ratio"):
        assert result.get(name).verdict == "same"
        assert result.get(name).change_ratio == 0
    claimed = {r.quantity.name for r in result.rows if r.verdict in ("better", "worse")}
    assert not claimed


def test_another_machine_is_not_comparable(sample) -> None:
    """Ranks and model differ: a reason, not a number."""
    result = compare_runs(sample("h100x2-off"), sample("cpu-dp4-off"))
    assert not result.is_comparable
    assert not result.rows
    assert any("dp_size" in reason for reason in result.reasons)
    assert any("model" in reason for reason in result.reasons)


def test_a_decode_engine_is_not_comparable(sample) -> None:
    """It holds no prefill iteration."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-decode"))
    assert any("no prefill iteration" in reason for reason in result.reasons)


def test_a_filter_that_matches_nothing_is_a_reason(sample) -> None:
    """No number can be given for no request."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"), request_filter="nobody")
    assert result.reasons == ("no request of either run matches the filter",)


def test_a_second_baseline_widens_every_interval(sample) -> None:
    """What two runs of one setting differ by cannot be a gain."""
    off, on = sample("h100x2-off"), sample("h100x2-on")
    alone = compare_runs(off, on, request_filter="^seed")
    repeat = compare_runs(
        off, on, request_filter="^seed", second_baseline=sample("h100x2-off-crash")
    )
    for name in ("group_makespan_mean_s", "request_latency_mean_s"):
        assert repeat.noise[name] > 0
        assert repeat.get(name).low < alone.get(name).low
        assert repeat.get(name).high > alone.get(name).high
        assert repeat.get(name).verdict == "better"


def name_anew(run, prefix):
    """The same requests under ids of their own."""
    names = pl.lit(prefix) + pl.int_range(pl.len()).cast(pl.String) + pl.lit("x")
    return replace(run, requests=run.requests.with_columns(rid=names))


def spread_times(run, factor, *, first_s=0.0):
    """Every time of a request so many times as far from the first; and that one earlier still."""
    times = [name for name, kind in run.requests.schema.items() if isinstance(kind, pl.Datetime)]
    origin = run.requests.select(pl.min_horizontal(pl.col(times).min())).item()
    rows = run.requests.with_columns(
        (origin + ((pl.col(name) - origin) * factor)).cast(pl.Datetime("ns", "UTC")).alias(name)
        for name in times
    ).sort("received")
    if first_s:
        is_first = pl.int_range(pl.len()) == 0
        rows = rows.with_columns(
            pl.when(is_first).then(pl.col(name).dt.offset_by(f"-{first_s:.0f}s"))
            .otherwise(pl.col(name)).alias(name)
            for name in times
        )  # fmt: skip
    return replace(run, requests=rows)


def load_log(name):
    """The engine's log alone."""
    return pdtrace.load(SAMPLES / name / "server.log")


def test_logs_of_one_load_are_compared_without_ids() -> None:
    """Off and on: stalls and warm-up make the rates differ by 5.3 %, the load is the same."""
    result = compare_runs(
        name_anew(load_log("h100x2-off"), "a"), name_anew(load_log("h100x2-on"), "b")
    )
    assert result.kind == "unpaired"
    assert result.get("num_iterations").verdict == "better"


def test_an_early_first_request_is_no_other_load() -> None:
    """A warm-up request five minutes before the others halves the rate of the whole, no more."""
    run = load_log("h100x2-off")
    early = spread_times(run, 1, first_s=300)
    assert compare_runs(name_anew(run, "a"), name_anew(early, "b")).kind == "unpaired"


def test_half_the_rate_is_another_load() -> None:
    """The same lengths, twice as far apart: refused, with both rates."""
    run = load_log("h100x2-off")
    slower = spread_times(run, 2)
    result = compare_runs(name_anew(run, "a"), name_anew(slower, "b"))
    assert not result.is_comparable
    assert "they came at different rates: 5.85 and 2.93 a second" in result.reasons[0]
