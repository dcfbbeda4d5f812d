"""Small runs whose changes a person can count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from pdtrace.compare import compare_runs
from pdtrace.compare.phases import name_phases
from pdtrace.errors import UsageError
from pdtrace.run import EngineInfo

QUARTER = [0.2 + 0.001 * (k % 5) for k in range(20)]


def test_fusing_pairs_is_counted(pairs) -> None:
    """Two passes of 0.2 s become one of 0.25 s: a pair takes 0.25 s, no longer 0.4 s."""
    off, on = pairs([0.2] * 20), pairs([0.25] * 20, fused=True)
    result = compare_runs(off, on)
    assert result.num_matched == 40
    assert result.num_blocks == (20, 20)
    expected = {
        "group_makespan_mean_s": (0.4, 0.25),
        "makespan_s": (8.0, 5.0),
        "request_latency_mean_s": (0.3, 0.25),
        "request_latency_p50_s": (0.3, 0.25),
        "iterations_per_thousand_requests": (1000, 500),
        "solo_iteration_ratio": (1, 0),
        "fusion_width_mean": (1, 2),
        "served_throughput_tok_s": (5000, 8000),
    }
    for name, (baseline, candidate) in expected.items():
        row = result.get(name)
        assert row.baseline == pytest.approx(baseline), name
        assert row.candidate == pytest.approx(candidate), name
        assert row.change_ratio == pytest.approx(candidate / baseline - 1), name
        assert row.verdict == "better", name


def test_a_slower_run_is_worse(pairs) -> None:
    """The same passes at four fifths of the speed."""
    result = compare_runs(pairs(QUARTER), pairs([1.25 * s for s in QUARTER]))
    row = result.get("request_latency_mean_s")
    assert row.verdict == "worse"
    assert row.change_ratio == pytest.approx(0.25, abs=0.01)
    assert result.num_slower == (40, 40)
    assert result.get("num_iterations").verdict == "same"


def test_swapping_the_runs_inverts_the_ratios(pairs, rng) -> None:
    """1 + change becomes its inverse, and so do the ends of the interval."""
    a, b = (pairs(rng.lognormal(np.log(m), 0.2, 20)) for m in (0.2, 0.3))
    there, back = compare_runs(a, b), compare_runs(b, a)
    opposite = {"better": "worse", "worse": "better"}
    for row, other in zip(there.rows, back.rows, strict=True):
        assert other.verdict == opposite.get(row.verdict, row.verdict), row.quantity.name
        if row.change_ratio is None or row.change_ratio == 0:
            continue
        assert 1 + other.change_ratio == pytest.approx(1 / (1 + row.change_ratio))
        assert 1 + other.low == pytest.approx(1 / (1 + row.high))
        assert 1 + other.high == pytest.approx(1 / (1 + row.low))


def test_intervals_contain_the_point(pairs, rng) -> None:
    """Whatever was drawn."""
    result = compare_runs(
        pairs(rng.lognormal(-1.5, 0.5, 15)), pairs(rng.lognormal(-1.4, 0.5, 15), fused=True)
    )
    for row in result.rows:
        if row.low is not None:
            assert row.low <= row.change_ratio <= row.high, row.quantity.name


def test_the_same_runs_give_the_same_numbers(pairs, rng) -> None:
    """The draws are seeded."""
    a, b = (pairs(rng.lognormal(-1.5, 0.3, 12)) for _ in range(2))
    assert compare_runs(a, b) == compare_runs(a, b)


def test_few_samples_give_no_verdict(pairs) -> None:
    """Three pairs are not enough for any claim; how many more would be is said."""
    result = compare_runs(pairs([0.2, 0.21, 0.2]), pairs([0.25, 0.26, 0.25], fused=True))
    row = result.get("group_makespan_mean_s")
    assert row.verdict == "inconclusive"
    assert row.note == "3 independent blocks; at least 3 more needed"


def test_a_stall_is_left_out_with_what_it_touched(pairs) -> None:
    """One pass of 5 s among those of 0.2 s: both requests of its pair are left out of times."""
    b = list(QUARTER)
    b[7] = 5.0
    result = compare_runs(pairs(QUARTER), pairs(b, fused=False))
    assert result.num_stalls == (0, 2)
    assert result.num_touched == 2
    row = result.get("request_latency_mean_s")
    assert row.verdict == "same"
    assert row.change_ratio == pytest.approx(0, abs=1e-9)
    assert row.raw[1] > 1.5 * row.raw[0]


def test_requests_of_other_ids_are_compared_as_samples(pairs, rng) -> None:
    """Alike in number, lengths and rate of arrival: unpaired, and said so."""
    a = pairs(rng.normal(0.2, 0.003, 30), prefix="a")
    b = pairs(rng.normal(0.25, 0.003, 30), prefix="b", fused=True)
    result = compare_runs(a, b)
    assert result.kind == "unpaired"
    assert result.get("group_makespan_mean_s").verdict == "better"
    assert any("request ids differ" in note for note in result.notes)


def test_other_work_is_not_comparable(pairs) -> None:
    """Other ids and other lengths: what differs is said."""
    result = compare_runs(pairs(QUARTER, prefix="a"), pairs(QUARTER, prefix="b", tokens=3000))
    assert not result.is_comparable
    assert "the lengths of their prompts are distributed differently" in result.reasons[0]


def test_a_filter_counts_only_its_requests_and_passes(pairs) -> None:
    """Ten of the twenty pairs: 20 requests, 20 passes."""
    result = compare_runs(pairs(QUARTER), pairs(QUARTER), request_filter=r"^pair1\d-")
    assert result.num_matched == 20
    assert result.get("num_iterations").baseline == 20
    assert result.get("makespan_s").baseline == pytest.approx(2 * sum(QUARTER[10:]))


def test_a_broken_filter_is_a_usage_error(pairs) -> None:
    """It is the user's, not ours."""
    with pytest.raises(UsageError, match="--request-filter"):
        compare_runs(pairs(QUARTER), pairs(QUARTER), request_filter="(")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"model_path": "/models/b"}, "model differs: a and b"),
        ({"release_min": "0.5.17", "release_max": "0.5.17"}, "engine release differs"),
        ({"role": "decode"}, "role differs"),
        ({"server_args": {"chunked_prefill_size": "1"}}, "flag chunked_prefill_size differs"),
    ],
)
def test_what_matters_is_a_reason(pairs, changed, reason) -> None:
    """A difference in what decides the work or its speed."""
    engine = EngineInfo(
        model_path="/here/a", release_min="0.5.13", release_max="0.5.13", role="prefill",
        server_args={"chunked_prefill_size": "2", "port": "1"},
    )  # fmt: skip
    a = pairs(QUARTER, engine=engine)
    b = pairs(QUARTER, engine=replace(engine, **changed))
    reasons = compare_runs(a, b).reasons
    assert len(reasons) == 1
    assert reason in reasons[0]


def test_what_does_not_matter_is_a_note(pairs) -> None:
    """Ports, seeds, logging, the path to the model, and the delayer itself."""
    one = {"port": "1", "random_seed": "1", "log_level": "info", "enable_prefill_delayer": "False"}
    two = {"port": "2", "random_seed": "2", "log_level": "debug", "enable_prefill_delayer": "True"}
    a = pairs(QUARTER, engine=EngineInfo(model_path="/here/a", server_args=one))
    b = pairs(QUARTER, engine=EngineInfo(model_path="/there/a", server_args=two))
    result = compare_runs(a, b)
    assert result.is_comparable
    assert sum(note.startswith("ignored, ") for note in result.notes) == 3
    assert not any("prefill_delayer" in note for note in result.notes)


def test_a_run_at_two_speeds_is_named(pairs, rng) -> None:
    """The same passes take 1.4 times as long in half of the time: a mean describes neither."""
    noise = rng.normal(1, 0.01, 120)
    steady = pairs(0.2 * noise)
    speeds = np.where(np.arange(120) // 30 % 2, 1.4, 1.0)
    moody = pairs(0.2 * noise * speeds)
    notes = compare_runs(steady, moody).notes
    assert any("the candidate ran at two speeds" in note for note in notes)
    assert not any("the baseline ran at two speeds" in note for note in notes)


def test_logs_without_requests_are_compared_by_their_passes(pairs) -> None:
    """Only iterations then; what needs a request is unmeasured, with what would give it."""
    a, b = (replace(run, requests=run.requests.clear()) for run in (pairs(QUARTER), pairs(QUARTER)))
    result = compare_runs(a, b)
    assert result.kind == "unnamed"
    assert result.get("num_iterations").verdict == "same"
    latency = result.get("request_latency_mean_s")
    assert latency.verdict == "unmeasured"
    assert "client" in latency.note


def test_phases_are_read_from_the_ids() -> None:
    """A number belongs to the name where many requests share it, and counts repeats otherwise."""
    rids = [f"seed{k}-0-{k}" for k in range(8)] + [f"stagger100-1-{k}" for k in range(8)] + ["-x"]
    assert name_phases(rids) == ["seed"] * 8 + ["stagger100"] * 8 + [""]


def test_a_loss_within_a_gain_is_shown_by_phase(sample) -> None:
    """Requests that wait in vain for a partner lose, however much the others gain."""
    result = compare_runs(sample("h100x2-off"), sample("h100x2-on"))
    phases = dict(result.phases)
    assert phases["seed"].verdict == "better"
    assert phases["stagger200"].low > 0.2
    assert len(phases) == 13


def test_a_comparison_is_a_declared_table(pairs) -> None:
    """One row for each metric, also where nothing can be compared."""
    same = compare_runs(pairs(QUARTER), pairs(QUARTER))
    table = same.to_table()
    assert table["metric"].to_list() == [row.quantity.name for row in same.rows]
    assert table["verdict"].unique().to_list() == ["same"]
    none = compare_runs(pairs(QUARTER), pairs(QUARTER), request_filter="nobody").to_table()
    assert none.is_empty()
    assert none.schema == table.schema


def test_estimated_durations_support_no_claim(pairs) -> None:
    """A log without selection times guesses durations after pauses; nothing is claimed of them."""
    runs = [pairs([0.2] * 20), pairs([0.1] * 20)]
    assert compare_runs(*runs).get("prefill_throughput_tok_s").verdict == "better"
    guess = [
        replace(run, parts=tuple(
            replace(part, iterations=part.iterations.with_columns(
                duration_source=pl.lit("bounded", part.iterations["duration_source"].dtype)
            ))
            for part in run.parts
        ))
        for run in runs
    ]  # fmt: skip
    row = compare_runs(*guess).get("prefill_throughput_tok_s")
    assert row.verdict == "inconclusive"
    assert "estimates" in row.note
