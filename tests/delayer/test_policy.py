"""Invariants of the negotiation, over random engines and every release group."""

from __future__ import annotations

import math
from dataclasses import dataclass

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
from pdtrace.delayer.policy import measure_attempt
from pdtrace.delayer.rules import GROUPS
from pdtrace.errors import UsageError

# A busy machine is no failure.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
RULES = st.sampled_from(GROUPS)
COUNTS = st.integers(0, 12)
ASKS = st.builds(
    Ask,
    running_batch=COUNTS,
    max_prefill_bs=COUNTS,
    max_running_requests=st.integers(0, 24),
    waiting_queue_len=COUNTS,
)
USAGES = st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])
INPUTS = st.builds(
    RankInput,
    token_usage=USAGES,
    asks=st.lists(ASKS, max_size=2).map(tuple),
    actual_prefill_bs=COUNTS,
)


@dataclass(frozen=True)
class Story:
    """A random engine and its passes: inputs and clocks before and after each gather, by rank."""

    config: PolicyConfig
    rules: ReleaseRules
    inputs: list[list[RankInput]]
    t: list[list[float]]
    t2: list[list[float]]

    def play(self) -> list[tuple[tuple[RankState, ...], tuple[RankOutput, ...]]]:
        """The states and outputs after each pass."""
        states: tuple[RankState, ...] = (RankState(),) * self.config.num_ranks
        played = []
        for given_, t, t2 in zip(self.inputs, self.t, self.t2, strict=True):
            states, outputs = negotiate(self.config, self.rules, states, given_, t, t2)
            played.append((states, outputs))
        return played


@st.composite
def stories(draw: st.DrawFn, *, agreeing: bool = False) -> Story:
    """Random engines. Agreeing: one clock, one max_running_requests, equal TP ranks of a group."""
    rules = draw(RULES)
    is_dp = True if rules.needs_dp_attention else draw(st.booleans())
    config = PolicyConfig(
        dp_size=draw(st.integers(1, 4)),
        enable_dp_attention=is_dp,
        attn_tp_size=draw(st.integers(1, 2)),
        attn_cp_size=draw(st.integers(1, 2)) if rules.counts_attn_cp else 1,
        max_delay_passes=draw(st.integers(0, 6)),
        token_usage_low_watermark=draw(st.sampled_from([None, 0.0, 0.5])),
        queue_min_ratio=draw(st.sampled_from([None, 0.0, 0.5, 1.0])),
        max_delay_ms=draw(st.sampled_from([None, 0, 2.0, 4.0])),
        prefill_max_requests=draw(st.sampled_from([None, 0, 4])),
        tracker_window=draw(st.integers(1, 4)),
    )
    ranks, n = config.num_ranks, draw(st.integers(1, 12))
    groups = len(config.leaders)
    limit = draw(st.integers(0, 24))
    inputs, t, t2 = [], [], []
    now, later = [100.0] * ranks, [0.0] * ranks
    for _ in range(n):
        if agreeing:
            one_each = [draw(INPUTS) for _ in range(groups)]
            given_ = [
                RankInput(
                    i.token_usage,
                    tuple(
                        Ask(a.running_batch, a.max_prefill_bs, limit, a.waiting_queue_len)
                        for a in i.asks
                    ),
                    i.actual_prefill_bs,
                )
                for i in one_each
                for _ in range(ranks // groups)
            ]
            steps = [draw(st.integers(0, 3))] * ranks
            lags = [draw(st.integers(0, 1))] * ranks
        else:
            given_ = [draw(INPUTS) for _ in range(ranks)]
            steps = [draw(st.integers(0, 3)) for _ in range(ranks)]
            lags = [draw(st.integers(0, 1)) for _ in range(ranks)]
        now = [max(a, b) + s / 1024 for a, b, s in zip(now, later, steps, strict=True)]
        later = [a + lag / 1024 for a, lag in zip(now, lags, strict=True)]
        inputs.append(given_)
        t.append(now)
        t2.append(later)
    return Story(config, rules, inputs, t, t2)


@CALM
@given(stories())
def test_an_allow_ends_the_wait_and_a_refusal_lengthens_it(story: Story) -> None:
    """The wait state must be a count of refusals since the last allow, and nothing else."""
    before = [RankState()] * story.config.num_ranks
    for (states, outputs), t2 in zip(story.play(), story.t2, strict=True):
        for old, new, output, now in zip(before, states, outputs, t2, strict=True):
            assert output.verdict.output_allow == (output.verdict.output_reason != "delay")
            if output.verdict.output_allow:
                assert new.wait is None
                count = old.wait.delayed_count if old.wait else 0
                assert output.verdict.wait_forward_passes == count
            elif old.wait is None:
                assert new.wait == WaitState(1, now)
            else:
                assert new.wait == WaitState(old.wait.delayed_count + 1, old.wait.start_time)
        before = list(states)


@CALM
@given(stories(agreeing=True))
def test_ranks_that_see_the_same_agree(story: Story) -> None:
    """If ranks could disagree with equal clocks and limits, one would prefill alone and hang."""
    for states, outputs in story.play():
        assert len({o.verdict for o in outputs}) == 1
        assert len({(s.wait, s.is_skip_first_armed) for s in states}) == 1


@CALM
@given(stories())
def test_mixed_passes_delay_at_most_max_delay_passes_minus_one_times(story: Story) -> None:
    """The bound is what keeps a rank from starving its own requests."""
    limit = max(0, story.config.max_delay_passes - 1)
    for states, outputs in story.play():
        for state, output in zip(states, outputs, strict=True):
            mixed = output.verdict.input_estimation == "mixed"
            if not output.verdict.output_allow and (mixed or story.rules.bounds_all):
                assert state.wait is not None
                assert state.wait.delayed_count <= limit


@CALM
@given(RULES, st.integers(0, 12), st.integers(1, 40))
def test_a_row_of_mixed_passes_is_a_cycle(
    rules: ReleaseRules, max_delay_passes: int, num_passes: int
) -> None:
    """M − 1 refusals, one wait_timeout, and again; with M ≤ 1 nothing is ever refused."""
    config = PolicyConfig(dp_size=2, max_delay_passes=max_delay_passes)
    inputs = [RankInput(0.9, (Ask(),)), RankInput(0.9)]
    states: tuple[RankState, ...] = (RankState(),) * 2
    reasons = []
    for index in range(num_passes):
        states, (output, _) = negotiate(config, rules, states, inputs, [float(index)] * 2)
        reasons.append(output.verdict.output_reason)
    cycle = max(1, max_delay_passes)
    assert reasons == [
        "wait_timeout" if index % cycle == cycle - 1 else "delay" for index in range(num_passes)
    ]


@CALM
@given(stories())
def test_nothing_to_prefill_is_always_allowed_without_a_reason(story: Story) -> None:
    """A refusal with no rank prefillable would begin a wait that nothing asked for."""
    for _, outputs in story.play():
        for output in outputs:
            is_none = output.verdict.input_estimation == "none"
            assert is_none == (output.verdict.num_prefillable == 0)
            assert is_none == (output.verdict.output_reason == "")


@CALM
@given(stories())
def test_watermark_releases_whatever_else_holds(story: Story) -> None:
    """Where a release looks at the watermark, an almost empty KV pool must not wait."""
    for _, outputs in story.play():
        for output in outputs:
            verdict = output.verdict
            looked_at = verdict.input_estimation == "mixed" or (
                verdict.input_estimation == "all" and story.rules.has_watermark_in_all
            )
            is_forced = looked_at and verdict.num_token_watermark_force_allow > 0
            assert is_forced == (verdict.output_reason == "token_watermark")
            if story.config.token_usage_low_watermark in (None, 0.0):
                assert verdict.num_token_watermark_force_allow == 0


@CALM
@given(stories())
def test_skip_first_is_used_at_most_once_and_only_by_all(story: Story) -> None:
    """A flag that came back, or was used up in mixed, would change the first burst of an engine."""
    before = [True] * story.config.num_ranks
    for states, outputs in story.play():
        for was_armed, state, output in zip(before, states, outputs, strict=True):
            assert was_armed or not state.is_skip_first_armed
            if was_armed and not state.is_skip_first_armed:
                assert output.verdict.input_estimation == "all"
                assert output.verdict.output_reason in ("no_wait", "wait_success")
            if was_armed and output.verdict.input_estimation == "all":
                assert output.verdict.output_allow
        before = [s.is_skip_first_armed for s in states]


@CALM
@given(stories())
def test_reasons_say_whether_a_wait_was_pending(story: Story) -> None:
    """no_wait and wait_success are told apart by the wait before the pass, on each rank."""
    before: list[WaitState | None] = [None] * story.config.num_ranks
    for states, outputs in story.play():
        for wait, output in zip(before, outputs, strict=True):
            if output.verdict.output_reason == "no_wait":
                assert wait is None
            if output.verdict.output_reason == "wait_success":
                assert wait is not None
        before = [s.wait for s in states]


@CALM
@given(stories())
def test_metrics_report_either_waits_going_on_or_waits_ended(story: Story) -> None:
    """Histograms of 0.5.8 to 0.5.13 hold zeros for releases; those of later ones hold the waits."""
    for states, outputs in story.play():
        for state, output in zip(states, outputs, strict=True):
            if story.rules.reports_release:
                assert output.metric_forward_passes == output.verdict.wait_forward_passes
                assert output.metric_wait_seconds == output.verdict.wait_seconds
            elif output.verdict.output_allow:
                assert (output.metric_forward_passes, output.metric_wait_seconds) == (0, 0.0)
            else:
                assert state.wait is not None
                assert output.metric_forward_passes == state.wait.delayed_count


@CALM
@given(stories())
def test_high_watermark_is_a_maximum_of_what_was_attempted(story: Story) -> None:
    """Lifetime maximum of executed sizes before 0.5.18, of the last attempts from then on."""
    executed: list[list[int]] = [[] for _ in range(story.config.num_ranks)]
    attempts: list[list[int]] = [[] for _ in range(story.config.num_ranks)]
    for (_, outputs), inputs in zip(story.play(), story.inputs, strict=True):
        for rank, (output, given_) in enumerate(zip(outputs, inputs, strict=True)):
            executed[rank].append(given_.actual_prefill_bs)
            if output.finalize_return:
                attempts[rank].append(output.finalize_return)
            if story.rules.has_sliding_watermark:
                recent = attempts[rank][-story.config.tracker_window :]
                assert output.max_prefill_bs_after == max(recent, default=0)
            elif story.rules.has_slot_condition:
                assert output.max_prefill_bs_after == max(executed[rank])
            else:
                assert output.max_prefill_bs_after is None


@CALM
@given(stories(), st.data())
def test_later_asks_change_no_verdict(story: Story, data: st.DataObject) -> None:
    """The verdict of a pass is remembered: what is asked afterwards gets the same answer."""
    more = [
        [RankInput(i.token_usage, i.asks[:1] and (*i.asks[:1], data.draw(ASKS)), 0) for i in inputs]
        for inputs in story.inputs
    ]
    fewer = [[RankInput(i.token_usage, i.asks[:1], 0) for i in inputs] for inputs in story.inputs]
    played = [
        [
            (s.wait, o.verdict, o.gathered)
            for states, outputs in Story(
                story.config, story.rules, inputs, story.t, story.t2
            ).play()
            for s, o in zip(states, outputs, strict=True)
        ]
        for inputs in (more, fewer)
    ]
    assert played[0] == played[1]


@CALM
@given(stories())
def test_only_leaders_are_read(story: Story) -> None:
    """What the other TP and CP ranks of a group send must not count, whatever it is."""
    width = len(story.rules.gathered_fields)
    for _, outputs in story.play():
        rows = [outputs[rank].gathered for rank in story.config.leaders]
        assert {len(o.gathered) for o in outputs} == {width}
        for output in outputs:
            assert output.verdict.num_prefillable == sum(row[0] for row in rows)
            assert output.verdict.num_token_watermark_force_allow == sum(row[1] for row in rows)


@pytest.mark.parametrize("version", ["0.5.10", "0.5.16", "0.5.17", "0.5.23"])
def test_slot_refusals_are_bounded_from_0_5_17_on(version: str) -> None:
    """Up to 0.5.16 an engine whose slots stay short never prefills again; later ones do."""
    inputs = [RankInput(0.9, (Ask(31, 8, 32, 3),))] * 2
    config = PolicyConfig(dp_size=2, max_delay_passes=5)
    states: tuple[RankState, ...] = (RankState(is_skip_first_armed=False),) * 2
    reasons = []
    for index in range(40):
        now = [float(index)] * 2
        states, outputs = negotiate(config, rules_for(version), states, inputs, now)
        reasons.append(outputs[0].verdict.output_reason)
    cycle = ["delay"] * 4 + ["wait_timeout"]
    assert reasons == (["delay"] * 40 if version < "0.5.17" else cycle * 8)


def test_refusals_in_mixed_count_against_all_and_back() -> None:
    """One counter serves both branches, so a wait cannot be stretched by changing between them."""
    config = PolicyConfig(dp_size=2, max_delay_passes=3)
    short = RankInput(0.9, (Ask(31, 8, 32, 3),))
    passes = [[short, RankInput(0.9)], [short, short], [short, short]]
    for version, last in (("0.5.16", "delay"), ("0.5.18", "wait_timeout")):
        states: tuple[RankState, ...] = (RankState(is_skip_first_armed=False),) * 2
        reasons = []
        for index, inputs in enumerate(passes):
            states, outputs = negotiate(
                config, rules_for(version), states, inputs, [float(index)] * 2
            )
            reasons.append(outputs[0].verdict.output_reason)
        assert reasons == ["delay", "delay", last]


@pytest.mark.parametrize("version", ["0.5.13", "0.5.23"])
def test_deadline_is_judged_at_the_exact_double(version: str) -> None:
    """The engine compares the age times 1000; the age against ms / 1000 errs at the deadline."""
    config = PolicyConfig(dp_size=1, queue_min_ratio=0.5, max_delay_ms=117, max_delay_passes=99)
    given_ = RankInput(0.9, (Ask(100, 80, 1024, 10),))
    state = RankState(WaitState(1, 0.0), is_skip_first_armed=False)
    just_before = math.nextafter(0.117, 0.0)
    assert just_before * 1000.0 == 117.0
    for now, allow in ((just_before, True), (math.nextafter(just_before, 0.0), False)):
        _, (output,) = negotiate(config, rules_for(version), [state], [given_], [now])
        assert output.verdict.output_allow == allow


def test_no_timeout_is_sent_while_the_queue_trigger_is_off() -> None:
    """In H a wait older than the default deadline says nothing, if no ratio is set."""
    rules, state = rules_for("0.5.23"), RankState(WaitState(1, 0.0))
    flag = rules.gathered_fields.index("queue_timeout_expired")
    for ratio, sent in ((None, 0), (0.0, 1)):
        config = PolicyConfig(dp_size=1, queue_min_ratio=ratio)
        _, (output,) = negotiate(config, rules, [state], [RankInput(0.9)], [5.0])
        assert output.gathered[flag] == sent


def test_own_clock_decides_before_0_5_22_and_the_gathered_flag_from_then_on() -> None:
    """Ranks near the deadline can disagree in 0.5.12 to 0.5.21; the gathered flag ended that."""
    config = PolicyConfig(dp_size=2, queue_min_ratio=0.5, max_delay_ms=1000, max_delay_passes=99)
    inputs = [RankInput(0.9, (Ask(100, 80, 1024, 10),))] * 2
    states = [RankState(WaitState(1, start), is_skip_first_armed=False) for start in (0.0, 0.5)]
    for version, allows in (("0.5.21", [True, False]), ("0.5.22", [True, True])):
        _, outputs = negotiate(config, rules_for(version), states, inputs, [1.0, 1.0])
        assert [o.verdict.output_allow for o in outputs] == allows
    # From 0.5.22 the clock before the gather counts, before that the one after it.
    for version, allow in (("0.5.21", True), ("0.5.22", False)):
        _, outputs = negotiate(config, rules_for(version), states, inputs, [0.9, 0.9], [1.5, 1.5])
        assert outputs[1].verdict.output_allow == allow


def test_attempt_estimate_takes_the_largest_ask() -> None:
    """A refused pass counts with the most that it could have run, at least one request an ask."""
    config = PolicyConfig(dp_size=2, enable_dp_attention=False)
    asks = (Ask(10, 0, 33, 100), Ask(16, 0, 33, 100), Ask(40, 0, 33, 100), Ask(0, 0, 33, 0))
    estimates = [measure_attempt(config, RankInput(0.9, (ask,))) for ask in asks]
    assert estimates == [7, 1, 1, 1]
    assert measure_attempt(config, RankInput(0.9, asks)) == 7
    assert measure_attempt(config, RankInput(0.9, asks, actual_prefill_bs=3)) == 3
    assert measure_attempt(config, RankInput(0.9)) == 0


@pytest.mark.parametrize(
    "given_",
    [
        {"dp_size": 0},
        {"dp_size": 2, "attn_tp_size": 0},
        {"dp_size": 2, "world_size": 3},
        {"dp_size": 2, "world_size": 0},
        {"dp_size": 2, "tracker_window": 0},
    ],
)
def test_impossible_settings_are_refused(given_: dict) -> None:
    """A topology that cannot be would be read by wrong leaders."""
    with pytest.raises(UsageError):
        PolicyConfig(**given_)


def test_what_a_release_cannot_gather_is_refused() -> None:
    """The collective of those releases fails there, so no verdict may come out."""
    states, inputs = [RankState()] * 4, [RankInput(0.9)] * 4
    two = PolicyConfig(dp_size=2, attn_cp_size=2)
    with pytest.raises(UsageError, match="attn_cp_size"):
        negotiate(two, rules_for("0.5.20"), states, inputs, [0.0] * 4)
    without = PolicyConfig(dp_size=1, enable_dp_attention=False, attn_tp_size=4)
    with pytest.raises(UsageError, match="DP attention"):
        negotiate(without, rules_for("0.5.9"), states, inputs, [0.0] * 4)
    with pytest.raises(UsageError, match="4 entries"):
        negotiate(two, rules_for("0.5.23"), states, inputs[:3], [0.0] * 4)
