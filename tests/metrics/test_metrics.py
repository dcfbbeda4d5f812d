"""Every metric family against numbers counted by hand, and properties over any run."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdtrace.errors import UsageError
from pdtrace.loading import load
from pdtrace.metrics import measure
from pdtrace.run import DelayerInfo, EngineInfo, Part, count_rank_passes
from pdtrace.schema import ITERATIONS, METRICS

# importlib import mode gives tests no package, so the neighbour is loaded by its path.
_spec = importlib.util.spec_from_file_location(
    "hand_counted", Path(__file__).with_name("hand_counted.py")
)
assert _spec is not None
assert _spec.loader is not None
hand = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(hand)

# Four iterations on two ranks: solo on 0, fused, solo on 1, solo on 0.
SAMPLES = Path(__file__).parents[2] / "sample_logs"
GRID = [(100, {0: 1000}), (200, {0: 1000, 1: 400}), (300, {1: 600}), (400, {0: 2000})]


def values(run: Any, **options: Any) -> dict[str, Any]:
    """Engine-wide metric → its row."""
    frame = measure(run, **options).filter(pl.col("dp_rank").is_null())
    assert frame["metric"].is_unique().all()
    return {row["metric"]: row for row in frame.iter_rows(named=True)}


def of_rank(run: Any, rank: int) -> dict[str, Any]:
    """Metric → value of one rank."""
    frame = measure(run).filter(pl.col("dp_rank") == rank)
    return dict(frame.select("metric", "value").iter_rows())


def test_fusion_is_counted() -> None:
    """The counts of iterations by width are what a reader's verdict rests on."""
    m = values(hand.build(GRID))
    assert (m["num_iterations"]["value"], m["num_iterations"]["n"]) == (4, 5)
    assert m["num_solo_iterations"]["value"] == 3
    assert m["num_fully_fused_iterations"]["value"] == 1
    assert m["fusion_width_mean"]["value"] == 5 / 4
    assert m["num_iterations_width_1"]["value"] == 3
    assert m["num_iterations_width_2"]["value"] == 1
    assert m["grouping_confidence_mean"]["value"] == 1


def test_idle_is_counted_and_priced() -> None:
    """Idle time is idle ranks × duration, and money follows from GPUs per rank."""
    engine = EngineInfo(tp_size=8, pp_size=2, enable_dp_attention=True)
    m = values(hand.build(GRID, engine=engine), gpu_hour_cost=3.0)
    assert m["idle_rank_passes"]["value"] == 3
    assert m["idle_rank_pass_ratio"]["value"] == 3 / 8
    assert m["idle_rank_seconds"]["value"] == pytest.approx(0.1 + 0.3 + 0.4)
    assert m["idle_rank_time_ratio"]["value"] == pytest.approx(0.8 / 2.0)
    assert m["idle_gpu_hours"]["value"] == pytest.approx(0.8 * 8 / 3600)  # 16 GPUs ÷ 2 ranks
    assert m["idle_cost_usd"]["value"] == pytest.approx(0.8 * 8 / 3600 * 3)


def test_gpu_hours_need_tp_size() -> None:
    """Without tp_size the number of GPUs is not guessed: null, with what would give it."""
    m = values(hand.build(GRID, engine=EngineInfo()))
    assert m["idle_gpu_hours"]["value"] is None
    assert "tp_size" in m["idle_gpu_hours"]["note"]
    assert m["idle_cost_usd"]["value"] is None
    assert "--gpu-hour-cost" in m["idle_cost_usd"]["note"]


def test_throughput_is_tokens_over_busy_time() -> None:
    """Throughput divides by the engine's busy time, never adds up what ranks print."""
    m = values(hand.build(GRID))
    assert m["num_new_tokens"]["value"] == 5000
    assert m["busy_seconds"]["value"] == 1.0
    assert m["span_seconds"]["value"] == 1.0
    assert m["prefill_throughput_tok_s"]["value"] == 5000
    # 2 × (1000 + 1000 + 600 + 2000) − 5000
    assert m["padded_tokens"]["value"] == 4200


def test_durations_by_width() -> None:
    """Quantiles over all iterations and over those of one width are not mixed up."""
    m = values(hand.build(GRID))
    assert m["iteration_seconds_p50"]["value"] == pytest.approx(0.25)
    assert m["iteration_seconds_p50_width_1"]["value"] == pytest.approx(0.3)
    assert m["iteration_seconds_p50_width_2"]["value"] == pytest.approx(0.2)
    assert m["busy_seconds_width_1"]["value"] == pytest.approx(0.8)
    assert m["num_new_tokens_width_2"]["value"] == 1400


def test_balance_by_rank() -> None:
    """Passes, tokens and seconds of each rank are its own."""
    run = hand.build(GRID)
    zero, one = of_rank(run, 0), of_rank(run, 1)
    assert (zero["num_prefill_passes"], one["num_prefill_passes"]) == (3, 2)
    assert (zero["idle_rank_passes"], one["idle_rank_passes"]) == (1, 2)
    assert (zero["num_new_tokens"], one["num_new_tokens"]) == (4000, 1000)
    assert zero["prefill_rank_seconds"] == pytest.approx(0.7)
    assert one["idle_rank_seconds"] == pytest.approx(0.5)
    assert one["prefill_time_ratio"] == pytest.approx(0.5)
    assert values(run)["rank_token_imbalance_ratio"]["value"] == pytest.approx(4000 / 2500)


def test_queues_are_samples_of_prefill_batches() -> None:
    """Means are over what batches reported; what no line reports stays null."""
    m = values(hand.build(GRID))
    assert m["num_queue_reqs_mean"]["value"] == pytest.approx(2 / 5)
    assert m["num_queue_reqs_max"]["value"] == 1
    assert m["token_usage_mean"]["value"] == 0.25
    assert m["num_pending_tokens_max"]["value"] is None
    assert m["num_pending_tokens_max"]["note"]


def test_requests_without_any_source_are_null() -> None:
    """A log without request ids must not pretend to know how many requests there were."""
    m = values(hand.build(GRID))
    for name in ("num_requests", "num_unfinished_requests", "ttft_p50_s", "ttft_p99_s"):
        assert m[name]["value"] is None
        assert "time stats" in m[name]["note"]


def test_latency_of_finished_requests() -> None:
    """TTFT on a prefill engine is finished − received, of finished requests."""
    rows = [hand.request("a", 0, 100), hand.request("b", 50, 350), hand.request("c", 60, None)]
    m = values(hand.build(GRID, requests=rows))
    assert m["num_requests"]["value"] == 3
    assert m["ttft_p50_s"]["value"] == pytest.approx(0.2)
    assert m["ttft_p99_s"]["value"] == pytest.approx(0.1 + 0.99 * 0.2)
    assert m["ttft_p50_s"]["n"] == 2
    # Time stats speak of finished requests only.
    assert m["num_unfinished_requests"]["value"] is None


def test_a_request_of_two_sources_counts_once() -> None:
    """Two sources that saw one request do not make two, nor mix their clocks."""
    rows = [
        hand.request("a", 0, 130, source="client_log"),
        hand.request("a", 10, 110),
        hand.request("b", 0, None, source="client_log", status="unfinished"),
    ]
    m = values(hand.build(GRID, requests=rows))
    assert (m["num_requests"]["value"], m["num_requests"]["n"]) == (2, 3)
    assert m["ttft_p50_s"]["value"] == pytest.approx(0.1)
    assert m["num_unfinished_requests"]["value"] == 1
    assert m["num_failed_requests"]["value"] == 0


def test_request_latency_is_the_clients() -> None:
    """A client's log tells sent → answered; it is no time to first token."""
    row = hand.request("a", None, None, source="client_log")
    row |= {"sent": hand.START, "answered": hand.START + 130 * hand.MS}
    m = values(hand.build(GRID, requests=[row]))
    assert m["request_latency_p50_s"]["value"] == pytest.approx(0.13)
    assert m["ttft_p50_s"]["value"] is None
    assert "time stats" in m["ttft_p50_s"]["note"]


def test_ttft_begins_at_the_arrival_where_spans_tell_it() -> None:
    """Before its entry into the scheduler a request has already waited."""
    span = hand.request("a", 10, 110, source="otel_spans")
    rows = [span | {"arrived": hand.START}, hand.request("a", 10, 110)]
    m = values(hand.build(GRID, requests=rows))
    assert m["ttft_p50_s"]["value"] == pytest.approx(0.11)
    assert "arrival" in m["ttft_p50_s"]["note"]


def test_delay_passes_count_once_for_all_ranks() -> None:
    """All ranks take part in every negotiation: a pass counts once, by what counters say."""
    rows = [
        hand.decision("prometheus", rank, reason, count)
        for rank in (0, 1)
        for reason, count in (("delay", 40), ("wait_timeout", 3), ("wait_success", 7))
    ]
    rows += [hand.decision("scheduler_log", rank, "wait_timeout", 1) for rank in (0, 1)]
    m = values(hand.build(GRID, decisions=rows))
    assert m["num_delay_passes"]["value"] == 40
    assert m["num_delay_timeouts"]["value"] == 3
    assert m["num_delay_successes"]["value"] == 7
    assert m["num_delay_no_waits"]["value"] == 0


def test_delay_passes_are_null_from_a_log_alone() -> None:
    """No line is printed for a delayed pass, so a log alone cannot give their number."""
    engine = EngineInfo(delayer=DelayerInfo(enabled=True, max_delay_passes=30))
    lines = [hand.decision("scheduler_log", rank, "wait_timeout", 1) for rank in (0, 1)]
    m = values(hand.build(GRID, engine=engine, decisions=lines))
    assert m["num_delay_passes"]["value"] is None
    assert "counters" in m["num_delay_passes"]["note"]
    assert m["delay_seconds_total"]["value"] is None
    assert m["num_delay_timeouts"]["value"] == 1


def test_requests_without_iterations_tell_no_delay() -> None:
    """What a client alone wrote says nothing of waits: their time is null, not zero."""
    run = load(SAMPLES / "h100x2-on", sources=["client_log"])
    assert run.requests.height
    assert values(run)["delay_seconds_total"]["value"] is None


def test_waits_that_were_not_found_are_no_zero() -> None:
    """A log in local time hides the waits that the engine counted: their time is null."""
    run = load(SAMPLES / "h100x2-on", tz="Asia/Shanghai")
    row = values(run)["delay_seconds_total"]
    assert row["value"] is None
    assert "4,215" in row["note"]


def test_sums_of_rough_durations_say_so(tmp_path: Path) -> None:
    """From a bare log times are taken from gaps; nobody may read them as measured."""
    lines = gzip.decompress((SAMPLES / "cpu-dp4-on" / "server.log.gz").read_bytes()).splitlines()
    log = tmp_path / "server.log"
    log.write_bytes(b"\n".join(line for line in lines if b"ReqTimeStats" not in line))
    m = values(load(log))
    for name in ("busy_seconds", "prefill_throughput_tok_s", "idle_rank_seconds"):
        assert "estimated" in m[name]["note"]
    for name in ("num_new_tokens", "num_iterations"):
        assert m[name]["note"] is None


def test_an_id_that_comes_again_is_another_request() -> None:
    """After a restart a load may be sent again with the same ids; each counts."""
    again = [hand.request("a", 0, 100), hand.request("b", 0, 300), hand.request("a", 500, 900)]
    m = values(hand.build(GRID, requests=again))
    assert m["num_requests"]["value"] == 3
    assert m["ttft_p50_s"]["value"] == pytest.approx(0.3)


def test_a_delayer_that_is_off_delays_nothing() -> None:
    """Off is knowledge: zero passes, not null."""
    m = values(hand.build(GRID))
    assert m["num_delay_passes"]["value"] == 0
    assert m["delay_seconds_total"]["value"] == 0


def test_unknown_ranks_are_not_idle() -> None:
    """Where lock-step is not established, silence is unknown, and no ratio pretends 0 % idle."""
    m = values(hand.build(GRID, unknown=True))
    row = m["idle_rank_pass_ratio"]
    assert (row["value"], row["low"], row["high"]) == (None, 0, 3 / 8)
    assert m["idle_rank_seconds"]["value"] is None
    assert m["unknown_rank_passes"]["value"] == 3


def test_missing_durations_are_null_not_zero() -> None:
    """A log of whole seconds without throughput has no durations: no false 0 s."""
    m = values(hand.build([(None, {0: 5}), (None, {1: 5})]))
    for name in ("idle_rank_seconds", "busy_seconds", "prefill_throughput_tok_s",
                 "iteration_seconds_p50"):  # fmt: skip
        assert m[name]["value"] is None, name
        assert m[name]["note"], name
    assert m["idle_rank_passes"]["value"] == 2


def test_nothing_measured_is_null_with_notes() -> None:
    """An empty run gives every engine-wide name, null, each with its reason."""
    m = values(hand.build([]))
    for name in ("num_iterations", "idle_rank_passes", "num_new_tokens", "fusion_width_mean",
                 "prefill_throughput_tok_s", "iteration_seconds_p50",
                 "grouping_confidence_mean"):  # fmt: skip
        assert m[name]["value"] is None, name
        assert m[name]["note"], name


def test_batches_outside_iterations_count_as_tokens_only() -> None:
    """A line that fits no iteration still computed its tokens, and the notes say what is amiss."""
    run = hand.build(GRID)
    events = run.events.with_columns(pl.lit(None, pl.UInt32).alias("iteration"))
    lost = hand.build([])
    object.__setattr__(lost, "parts", (Part(events, ITERATIONS.empty()),))
    m = values(lost)
    assert (m["num_new_tokens"]["value"], m["num_unplaced_batches"]["value"]) == (5000, 5)
    assert m["num_iterations"]["value"] is None
    assert "SGLANG_LOG_FORWARD_ITERS" in m["num_iterations"]["note"]


def test_table_is_the_declared_one() -> None:
    """Metrics leave in exactly the declared columns and types."""
    assert measure(hand.build(GRID)).schema == pl.Schema(METRICS.schema)


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_senseless_price_is_refused(cost: float) -> None:
    """A negative or undefined price would silently poison the summary."""
    with pytest.raises(UsageError):
        measure(hand.build(GRID), gpu_hour_cost=cost)


GRIDS = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(1, 5000)),
        st.dictionaries(st.integers(0, 3), st.integers(0, 20_000), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, data=st.data())
def test_parts_do_not_change_what_is_measured(grid: list[Any], data: st.DataObject) -> None:
    """A spilled run of many parts measures the same as one part in memory."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(grid)), max_size=4)))
    one = measure(hand.build(grid, dp_size=4), gpu_hour_cost=2)
    many = measure(hand.build(grid, dp_size=4, cuts=cuts), gpu_hour_cost=2)
    keys = ["metric", "dp_rank", "unit", "n", "note"]
    assert one.select(keys).equals(many.select(keys))
    for a, b in zip(one["value"].to_list(), many["value"].to_list(), strict=True):
        assert a == (b if b is None else pytest.approx(b, rel=1e-12))


@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, unknown=st.booleans())
def test_every_rank_pass_has_one_role(grid: list[Any], unknown: bool) -> None:
    """Prefill + idle + unknown passes fill the grid exactly, for each rank and in all."""
    run = hand.build(grid, dp_size=4, unknown=unknown)
    m = values(run)
    parts = [
        m[name]["value"] or 0
        for name in ("num_prefill_passes", "idle_rank_passes", "unknown_rank_passes")
    ]
    assert sum(parts) == len(grid) * 4
    widths = sum(m[f"num_iterations_width_{w}"]["value"] for w in range(1, 5))
    assert widths == m["num_iterations"]["value"]
    by_rank = [of_rank(run, r) for r in range(4)]
    assert sum(r["num_new_tokens"] for r in by_rank) == m["num_new_tokens"]["value"]
    if not unknown:
        assert sum(r["idle_rank_passes"] for r in by_rank) == m["idle_rank_passes"]["value"]


@settings(deadline=None, max_examples=40)
@given(grid=GRIDS, unknown=st.booleans(), dp_size=st.integers(4, 6))
def test_counted_passes_are_those_of_the_grid(grid: list[Any], unknown: bool, dp_size: int) -> None:
    """The totals that spare the grid are the grid's, so that no metric depends on the shortcut."""
    for part in hand.build(grid, dp_size=dp_size, unknown=unknown):
        laid_out = part.rank_passes.group_by("dp_rank", pl.col("role").cast(pl.String)).agg(
            pl.len().cast(pl.Int64).alias("passes"),
            pl.col("duration").cast(pl.Int64).sum().alias("ns"),
            pl.col("num_new_tokens").cast(pl.Int64).sum().alias("tokens"),
        )
        counted = count_rank_passes(part.events, part.iterations)
        assert counted.sort("dp_rank", "role").equals(laid_out.sort("dp_rank", "role"))


SHARED_BY_RANKS = (
    "num_solo_iterations",
    "num_fully_fused_iterations",
    "solo_iteration_ratio",
    "fully_fused_iteration_ratio",
    "fusion_width_mean",
    "num_iterations_width_1",
    "idle_rank_passes",
    "padded_tokens",
    "rank_token_imbalance_ratio",
    "busy_seconds",
    "prefill_throughput_tok_s",
)


def log_of_rank_0(folder: Path) -> Path:
    """The recorded log as rank 0 alone would have written it."""
    lines = (SAMPLES / "h100x2-off" / "server.log").read_text("utf-8").splitlines(keepends=True)
    out = folder / "rank0.log"
    out.write_text("".join(line for line in lines if " DP1 " not in line), "utf-8")
    return out


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The run of rank 0's log."""
    return load(log_of_rank_0(tmp_path_factory.mktemp("half")))


@pytest.mark.parametrize("name", SHARED_BY_RANKS)
def test_what_an_unread_rank_did_is_null(half: Any, name: str) -> None:
    """A rank whose log is missing may have prefilled beside any other."""
    row = values(half)[name]
    assert row["value"] is None
    assert "DP rank 1" in row["note"]


def test_totals_of_the_read_ranks_are_lower_bounds(half: Any) -> None:
    """Tokens and iterations of an unread rank are in no total, and the reader is told so."""
    m = values(half)
    for name in ("num_iterations", "num_new_tokens", "num_requests", "num_prefill_passes"):
        assert m[name]["low"] == m[name]["value"] > 0
        assert m[name]["high"] is None
        assert "at least" in m[name]["note"]
    assert of_rank(half, 1)["num_new_tokens"] is None
    assert of_rank(half, 1)["num_prefill_passes"] is None


def test_counters_do_not_stand_for_a_rank_s_log(tmp_path: Path) -> None:
    """That the engine's counters know rank 1 does not tell in which iterations it prefilled."""
    folder = SAMPLES / "h100x2-off"
    log = log_of_rank_0(tmp_path)
    run = load(log, *(folder / f"metrics_{when}.txt.zst" for when in ("before", "after")))
    assert run.missing_ranks == (1,)
    assert values(run)["fusion_width_mean"]["value"] is None


def test_a_rank_without_requests_idled(tmp_path: Path) -> None:
    """A rank that started up in this very log and then printed nothing was idle, not unread."""
    lines = (SAMPLES / "h100x2-off" / "server.log").read_text("utf-8").splitlines(keepends=True)
    log = tmp_path / "server.log"
    kept = (s for s in lines if " DP1 " not in s or (" batch" not in s and "TimeStats(" not in s))
    log.write_text("".join(kept), "utf-8")
    run = load(log)
    assert run.missing_ranks == ()
    assert values(run)["solo_iteration_ratio"]["value"] == 1


def test_a_batch_counts_once_where_spans_replace_the_log(tmp_path: Path) -> None:
    """Tokens of log lines beside spans of the same batches are not added to them."""
    spans = SAMPLES / "h100x2-off" / "spans.jsonl.gz"
    alone, both = load(spans), load(log_of_rank_0(tmp_path), spans)
    assert both.grouping == "span"
    assert values(both)["num_new_tokens"]["value"] == values(alone)["num_new_tokens"]["value"]
