"""The compiled negotiation gives what the readable one gives."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdtrace.delayer import (
    Ask,
    PolicyConfig,
    RankInput,
    RankOutput,
    RankState,
    ReleaseRules,
    WaitState,
    negotiate,
    rules_for,
)
from pdtrace.delayer.policy_kernel import (
    EngineState,
    PassColumns,
    PassVerdict,
    decide_pass,
    negotiate_passes,
    pack_settings,
)
from pdtrace.delayer.rules import GROUPS
from pdtrace.errors import UsageError
from pdtrace.schema import INPUT_ESTIMATIONS, OUTPUT_REASONS

EXCERPTS = sorted((Path(__file__).parents[1] / "data" / "delayer").glob("*.jsonl.gz"))


def differences(columns: PassColumns, i: int, state: RankState, output: RankOutput) -> list[str]:
    """Names of the columns of pass i that differ from the readable policy's."""
    verdict, wait = output.verdict, state.wait
    start = columns.next_start_time[i]
    pairs = {
        "status": (INPUT_ESTIMATIONS[columns.status[i]], verdict.input_estimation),
        "reason": (OUTPUT_REASONS[columns.reason[i]], verdict.output_reason),
        "allow": (columns.allow[i], verdict.output_allow),
        "prefillable": (columns.num_prefillable[i], verdict.num_prefillable),
        "force": (
            columns.num_token_watermark_force_allow[i],
            verdict.num_token_watermark_force_allow,
        ),
        "wait_passes": (columns.wait_forward_passes[i], verdict.wait_forward_passes),
        "wait_seconds": (columns.wait_seconds[i], verdict.wait_seconds),
        "count": (columns.next_delayed_count[i], 0 if wait is None else wait.delayed_count),
        "start": (None if math.isnan(start) else start, None if wait is None else wait.start_time),
        "armed": (columns.is_skip_first_armed[i], state.is_skip_first_armed),
    }
    return [name for name, (got, expected) in pairs.items() if got != expected]


def grids(n: int, dp_size: int, elements: st.SearchStrategy) -> st.SearchStrategy[np.ndarray]:
    """Arrays of shape (n, dp_size)."""
    row = st.lists(elements, min_size=dp_size, max_size=dp_size)
    return st.lists(row, min_size=n, max_size=n).map(np.array)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GROUPS), st.data())
def test_compiled_policy_equals_the_readable_one(rules: ReleaseRules, data: st.DataObject) -> None:
    """A replay that decided differently from the engine would predict another engine."""
    draw = data.draw
    dp_size, n = draw(st.integers(1, 5)), draw(st.integers(1, 16))
    config = PolicyConfig(
        dp_size=dp_size,
        max_delay_passes=draw(st.integers(0, 6)),
        token_usage_low_watermark=draw(st.sampled_from([None, 0.0, 0.5])),
        queue_min_ratio=draw(st.sampled_from([None, 0.0, 0.3, 0.5, 1.0])),
        max_delay_ms=draw(st.sampled_from([None, 0, 2.0, 4.0])),
        prefill_max_requests=draw(st.sampled_from([None, 0, 4])),
    )
    # Mostly unanimous passes, where most branches are.
    asks = draw(grids(n, dp_size, st.booleans())) | draw(grids(n, 1, st.booleans()))
    usage = draw(grids(n, dp_size, st.sampled_from([0.2, 0.5, 0.9, 0.9, 0.9])))
    running, largest, waiting = (draw(grids(n, dp_size, st.integers(0, 12))) for _ in range(3))
    limit = draw(st.integers(0, 24))
    steps = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=n, max_size=n))
    t2 = np.cumsum([a + b for a, b in steps]) / 1024 + 100
    t = t2 - np.array([b for _, b in steps]) / 1024

    final, columns = negotiate_passes(
        config,
        rules,
        prefillable=asks,
        token_usage=usage,
        t=t,
        t2=t2,
        running_batch=running,
        max_prefill_bs=largest,
        waiting_queue_len=waiting,
        max_running_requests=limit,
    )
    states: tuple[RankState, ...] = (RankState(),) * dp_size
    for i in range(n):
        inputs = [
            RankInput(
                float(usage[i, r]),
                (Ask(int(running[i, r]), int(largest[i, r]), limit, int(waiting[i, r])),)
                if asks[i, r]
                else (),
            )
            for r in range(dp_size)
        ]
        states, outputs = negotiate(
            config, rules, states, inputs, [float(t[i])] * dp_size, [float(t2[i])] * dp_size
        )
        for state, output in zip(states, outputs, strict=True):
            assert not differences(columns, i, state, output), i
    assert final.is_skip_first_armed == states[0].is_skip_first_armed
    assert final.delayed_count == columns.next_delayed_count[-1]


@pytest.mark.parametrize("path", EXCERPTS, ids=lambda p: p.name.removesuffix(".jsonl.gz"))
def test_compiled_policy_gives_the_recorded_verdicts(recordings: ModuleType, path: Path) -> None:
    """The compiled policy is compared with the engine too, not only with its readable twin."""
    header, scenarios = recordings.read_recording(path)
    rules = rules_for(header["sglang_version"])
    num_compared = 0
    for scenario in scenarios:
        config = recordings.read_config(scenario["config"])
        passes = scenario["passes"]
        dp_size = config.dp_size
        is_plain = config.enable_dp_attention and config.num_ranks == dp_size
        has_one_clock = not any(isinstance(p.get(k), list) for p in passes for k in ("t", "t2"))
        inputs = [recordings.read_inputs(p["in"], dp_size) for p in passes] if is_plain else []
        limits = {i.asks[0].max_running_requests for given_ in inputs for i in given_ if i.asks}
        if not (is_plain and has_one_clock and len(limits) <= 1):
            continue
        first = [[i.asks[0] if i.asks else Ask() for i in given_] for given_ in inputs]
        _, columns = negotiate_passes(
            config,
            rules,
            prefillable=[[i.is_prefillable for i in given_] for given_ in inputs],
            token_usage=[[i.token_usage for i in given_] for given_ in inputs],
            t=[p["t"] for p in passes],
            t2=[p.get("t2", p["t"]) for p in passes],
            running_batch=[[a.running_batch for a in asks] for asks in first],
            max_prefill_bs=[[a.max_prefill_bs for a in asks] for asks in first],
            waiting_queue_len=[[a.waiting_queue_len for a in asks] for asks in first],
            max_running_requests=max(limits, default=0),
        )
        for i, recorded in enumerate(passes):
            out = {n: recordings.spread(c, dp_size)[0] for n, c in recorded["out"].items()}
            where = (scenario["id"], i)
            assert columns.allow[i] == out["output_allow"], where
            assert OUTPUT_REASONS[columns.reason[i]] == out["output_reason"], where
            assert columns.next_delayed_count[i] == (out["next_delayed_count"] or 0), where
            num_compared += 1
    assert num_compared > 100


def test_a_pass_continues_from_a_given_state() -> None:
    """A replay steps pass by pass, from whatever state it left the engine in."""
    config = PolicyConfig(dp_size=2, max_delay_passes=30)
    rules = rules_for("0.5.23")
    columns = [np.zeros(2, np.int64)] * 3
    state, verdict = decide_pass(
        pack_settings(config, rules),
        EngineState(29, 1.5, is_skip_first_armed=False),
        np.array([True, False]),
        np.full(2, 0.9),
        *columns,
        32,
        2.0,
        2.0,
    )
    assert OUTPUT_REASONS[PassVerdict(*verdict).reason] == "wait_timeout"
    assert PassVerdict(*verdict)[4:] == (29, 0.5)
    assert EngineState(*state).delayed_count == 0
    after, outputs = negotiate(
        config,
        rules,
        [RankState(WaitState(29, 1.5))] * 2,
        [RankInput(0.9, (Ask(),)), RankInput(0.9)],
        [2.0, 2.0],
    )
    assert outputs[0].verdict.wait_seconds == 0.5
    assert after[0].wait is None


def test_shapes_that_do_not_fit_are_refused() -> None:
    """A kernel does not check bounds, so its door must."""
    config, rules = PolicyConfig(dp_size=2), rules_for("0.5.23")
    with pytest.raises(UsageError, match=r"\(3, 2\)"):
        negotiate_passes(config, rules, prefillable=[[True] * 3] * 3, token_usage=0.9, t=[1, 2, 3])
    with pytest.raises(UsageError, match="broadcast"):
        negotiate_passes(
            config, rules, prefillable=[[True] * 2] * 3, token_usage=[0.1] * 4, t=[1, 2, 3]
        )
    without = PolicyConfig(dp_size=2, enable_dp_attention=False)
    with pytest.raises(UsageError, match="DP attention"):
        negotiate_passes(without, rules, prefillable=[[True] * 2], token_usage=0.9, t=[1])
