"""Cases of the engine's own unit tests: the policy agrees where the release does, and only there.

Each case lists the releases whose code agrees with it and those whose code does not. A case that
describes a development branch must therefore fail here for every release, as it did in the engine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from pdtrace.delayer import Ask, PolicyConfig, RankInput, RankState, WaitState, negotiate
from pdtrace.delayer.policy import build_row, decide, finalize, observe_attempt, summarize
from pdtrace.delayer.records import Verdict
from pdtrace.delayer.rules import ReleaseRules, rules_for
from pdtrace.errors import UsageError

CASES_FILE = Path(__file__).parents[1] / "data" / "delayer" / "upstream_cases.json"
NOW = 1000.0
Case = dict[str, Any]


def ask_of(call: Case) -> Ask:
    """The ask that a call describes; what it does not give is 0."""
    names = ("running_batch", "max_prefill_bs", "max_running_requests", "waiting_queue_len")
    return Ask(**{name: call.get(name, 0) for name in names})


def config_of(given: Case, **topology: Any) -> PolicyConfig:
    """The settings of a case."""
    return PolicyConfig(**{"dp_size": 1, **given, **topology})


def wait_of(state: Case | None, now: float = NOW) -> WaitState | None:
    """A wait that a case presets."""
    if state is None:
        return None
    age = state.get("age_s", 1.0 if state.get("local_timer_expired") else 0.0)
    return WaitState(state["delayed_count"], now - age)


def differing(**pairs: tuple[Any, Any]) -> list[str]:
    """Names of the pairs (expected, got) that differ; null expects nothing."""
    return [n for n, (expected, got) in pairs.items() if expected is not None and expected != got]


def run_table(rules: ReleaseRules, case: Case) -> list[str]:
    """Four DP ranks, fresh, all calls in order; the last verdict counts, on every rank."""
    names = ("max_delay_passes", "token_usage_low_watermark", "queue_min_ratio", "max_delay_ms")
    config = PolicyConfig(dp_size=4, **{n: case[n] for n in names if n in case})
    states: tuple[RankState, ...] = (RankState(),) * 4
    now, outputs = NOW, ()
    for call in case["calls"]:
        now += 0.001 + call.get("sleep_before_s", 0.0)
        inputs = []
        for rank in range(4):
            own = {k: v[rank] if isinstance(v, list) else v for k, v in call.items()}
            asks = (ask_of(own),) if own["prefillable"] else ()
            inputs.append(RankInput(own["token_usage"], asks))
        states, outputs = negotiate(config, rules, states, inputs, [now] * 4)
    expected = (case["expected_allow"], case["expected_reason"])
    return [
        f"rank {rank}"
        for rank, o in enumerate(outputs)
        if (o.verdict.output_allow, o.verdict.output_reason) != expected
    ]


def run_tracker(rules: ReleaseRules, case: Case) -> list[str]:
    """A running maximum over the last attempts; bad windows and empty attempts are refused."""
    if "expected_error" in case:
        if case["window"] < 1:
            with pytest.raises(UsageError, match=case["message_contains"]):
                PolicyConfig(dp_size=1, tracker_window=case["window"])
        else:
            with pytest.raises(ValueError, match=case["message_contains"]):
                observe_attempt((), case["observe"][0], case["window"])
        return []
    windows = accumulate(
        case["observe"], lambda s, size: observe_attempt(s, size, case["window"]), initial=()
    )
    got = [max(sizes) for sizes in windows if sizes]
    return differing(maxima=(case["expected_max"], got))


def run_rejected(rules: ReleaseRules, case: Case) -> list[str]:
    """Refused passes: the estimate of what they would have run ages the high-watermark."""
    config = config_of({"tracker_window": case["window"]})
    state = RankState(prefill_sizes=tuple(case["pre_observe"]))
    refused = Verdict("all", case["verdict_allow"], "delay", 1, 0)
    given = RankInput(0.9, (ask_of(case["call"]),), case["actual_prefill_bs"])
    returned, maxima = [], []
    for _ in range(case["repeat"]):
        state, output = finalize(config, rules, state, given, refused, (), NOW)
        returned.append(output.finalize_return)
        maxima.append(output.max_prefill_bs_after)
    return differing(
        returned=([case["expected_finalize_return"]] * case["repeat"], returned),
        final=(case.get("expected_final_max"), maxima[-1]),
        each=(case.get("expected_max_each"), maxima),
    )


def run_gathered_flag(rules: ReleaseRules, case: Case) -> list[str]:
    """The gathered rows are replaced: the verdict follows the flag there, not the own clock."""
    config = config_of(case["config"])
    state = RankState(wait_of(case["initial"]["state"]), case["initial"]["skip_first_delayer"])
    ask = ask_of(case["call"])
    sent = build_row(config, rules, state, RankInput(case["call"]["token_usage"], (ask,)), NOW)
    width = len(rules.gathered_fields)
    view = summarize(rules, [tuple(row[:width]) for row in case["gathered_override"]])
    _, verdict = decide(config, rules, state, view, ask.max_running_requests, NOW)
    flag = dict(zip(rules.gathered_fields, sent, strict=True)).get("queue_timeout_expired")
    return differing(
        allow=(case["expected_allow"], verdict.output_allow),
        flag=(case["expected_sent_flag"], None if flag is None else bool(flag)),
    )


def run_layout(rules: ReleaseRules, case: Case) -> list[str]:
    """Whose rows are read; a collective that fails agrees with nothing."""
    is_dp = case["dp_groups"] > 1
    config = PolicyConfig(
        dp_size=case["dp_groups"],
        enable_dp_attention=is_dp,
        attn_tp_size=case["ranks_per_dp_group"] // case["attn_cp_size"],
        attn_cp_size=case["attn_cp_size"],
    )
    ranks = case["tp_size"]
    try:
        negotiate(config, rules, [RankState()] * ranks, [RankInput(0.5)] * ranks, [NOW] * ranks)
    except UsageError:
        return ["collective"]
    return differing(rows=(case["expected_source_rank_of_each_row"], list(config.leaders)))


def run_pure(rules: ReleaseRules, case: Case) -> list[str]:
    """The gathered rows are replaced, with five columns; the sixth follows from the age."""
    rows = [tuple(row) for row in case["gathered_override"]]
    config = config_of(case["config"], dp_size=len(rows))
    state = RankState(wait_of(case["initial"]["state"]), case["initial"]["skip_first_delayer"])
    if rules.gathers_deadline:
        age = (case["initial"]["state"] or {}).get("age_s")
        expired = age is not None and age * 1000 >= config.deadline_ms
        rows = [(*row, int(expired)) for row in rows]
    mrr = case["local"]["max_running_requests"]
    after, verdict = decide(config, rules, state, summarize(rules, rows), mrr, NOW)
    got = {
        "output_allow": verdict.output_allow,
        "output_reason": verdict.output_reason,
        "input_estimation": verdict.input_estimation,
        "wait_forward_passes": verdict.wait_forward_passes,
        "skip_first_delayer": after.is_skip_first_armed,
        "next_delayed_count": after.wait and after.wait.delayed_count,
    }
    return differing(**{name: (value, got[name]) for name, value in case["expected"].items()})


def run_deadline(rules: ReleaseRules, case: Case) -> list[str]:
    """One rank without DP attention, with expectations after each call."""
    config = config_of(case["config"], enable_dp_attention=False)
    state = RankState(wait_of(case["initial"]["state"]), case["initial"]["skip_first_delayer"])
    found = []
    for index, call in enumerate(case["calls"]):
        if call.get("reset_state_before"):
            state = replace(state, wait=None)
        given = RankInput(call["token_usage"], (ask_of(call),))
        (state,), (output,) = negotiate(config, rules, [state], [given], [NOW + index / 1024])
        names = differing(
            allow=(call.get("expected_allow"), output.verdict.output_allow),
            reason=(call.get("expected_reason"), output.verdict.output_reason),
            count=(
                call.get("expected_delayed_count_after"),
                state.wait.delayed_count if state.wait else 0,
            ),
            skip_first=(call.get("expected_skip_first_after"), state.is_skip_first_armed),
        )
        found += [f"call {index} {name}" for name in names]
    return found


def run_skew(rules: ReleaseRules, case: Case) -> list[str]:
    """Four ranks whose waits are made to differ in age: whose clock counts, and do all agree."""
    topology = {
        "tp4": {"enable_dp_attention": False, "attn_tp_size": 4},
        "dp_attention_dp2_tp4": {"dp_size": 2, "attn_tp_size": 2},
    }.get(case.get("topology", ""), {"dp_size": 4})
    config = config_of(case["config"], **topology)
    armed = case.get("initial", {}).get("skip_first_delayer", True)
    states: tuple[RankState, ...] = (RankState(is_skip_first_armed=armed),) * 4
    inputs = [RankInput(case["call"]["token_usage"], (ask_of(case["call"]),))] * 4
    states, first = negotiate(config, rules, states, inputs, [NOW] * 4)
    later = NOW + 0.001
    if "preset_state" in case:
        waits = [wait_of(state, later) for state in case["preset_state"]]
    else:
        ages = [
            case["expired_age_s"] if rank in case["expired_ranks"] else case["fresh_age_s"]
            for rank in range(4)
        ]
        waits = [
            s.wait and replace(s.wait, start_time=later - age)
            for s, age in zip(states, ages, strict=True)
        ]
    states = tuple(replace(s, wait=w) for s, w in zip(states, waits, strict=True))
    _, second = negotiate(config, rules, states, inputs, [later] * 4)
    found = []
    for rank, (one, two) in enumerate(zip(first, second, strict=True)):
        names = differing(
            first=(
                tuple(case["expected_first"]),
                (one.verdict.output_allow, one.verdict.output_reason),
            ),
            second=(
                tuple(case["expected_second"]),
                (two.verdict.output_allow, two.verdict.output_reason),
            ),
            passes=(case.get("expected_wait_forward_passes"), two.verdict.wait_forward_passes),
        )
        found += [f"rank {rank} {name}" for name in names]
    return found


RUNNERS = {
    "negotiate_table": run_table,
    "negotiate_table_queue_rows": run_table,
    "high_watermark_tracker": run_tracker,
    "high_watermark_rejected_attempts": run_rejected,
    "gathered_timeout_flag": run_gathered_flag,
    "gather_layout": run_layout,
    "pure_function_cases": run_pure,
    "queue_trigger_deadline": run_deadline,
    "queue_trigger_rank_skew": run_skew,
    "queue_timeout_rank_skew": run_skew,
}
CASES = [
    pytest.param(group["group"], case, version, verdict == "agrees", id=f"{case['name']}-{version}")
    for group in json.loads(CASES_FILE.read_text())["groups"]
    for case in group["cases"]
    for verdict in ("agrees", "differs")
    for version in case["checked_against_real_code"][verdict]
]


@pytest.mark.parametrize(("group", "case", "version", "agrees"), CASES)
def test_upstream_case(group: str, case: Case, version: str, agrees: bool) -> None:
    """A release that passes, or fails, one of the engine's own tests must do so here too."""
    differences = RUNNERS[group](rules_for(version), case)
    assert (not differences) == agrees, differences
