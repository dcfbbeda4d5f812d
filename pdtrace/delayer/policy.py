"""The negotiation of SGLang's PrefillDelayer as a pure state machine, for every release.

Once a scheduler pass, every rank tells the others whether it could prefill, and every rank decides
for itself, from the same rows, whether prefill may run now or waits for more ranks. Nothing here
reads a clock or keeps a state: both go in and come out.

The order of a pass is the order of this file: what a rank sends (:func:`build_row`), what the read
rows say (:func:`summarize`), what a rank decides (:func:`choose_reason`, :func:`decide`), what it
reports (:func:`finalize`); :func:`negotiate` strings them together. ``docs/method.md``
describes the rules in the same order; :mod:`pdtrace.delayer.rules` says which release has which.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pdtrace.delayer.records import (
    NO_ASK,
    GlobalView,
    PolicyConfig,
    RankInput,
    RankOutput,
    RankState,
    Row,
    Status,
    Verdict,
    WaitState,
)
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.delayer.rules import ReleaseRules


def is_past_deadline(config: PolicyConfig, wait: WaitState | None, now: float) -> bool:
    """Whether a wait is pending and at least as old as the queue trigger's deadline.

    Args:
        config: Settings.
        wait: The rank's wait.
        now: The rank's clock in seconds.
    """
    # Order of operations as in the engine: the doubles must agree at the very deadline.
    return wait is not None and (now - wait.start_time) * 1000.0 >= config.deadline_ms


def build_row(
    config: PolicyConfig, rules: ReleaseRules, state: RankState, given: RankInput, t: float
) -> Row:
    """What a rank puts into the gather: ``docs/method.md``, "What a rank sends".

    Two columns in A, four from B (0.5.10), five from D (0.5.12), six in H (0.5.22).

    Args:
        config: Settings.
        rules: The release's rules.
        state: The rank's memory before the pass.
        given: The rank's input; a rank that asked nothing sends zeros for what an ask would bring.
        t: The rank's clock in seconds before the gather.

    Returns:
        One integer for each of ``rules.gathered_fields``.
    """
    ask = given.asks[0] if given.asks else NO_ASK
    watermark = config.token_usage_low_watermark
    # A watermark of 0 is set, yet no usage is below it.
    is_forcing = given.is_prefillable and watermark is not None and given.token_usage < watermark
    # H judges the deadline whether or not the rank is prefillable.
    is_expired = config.queue_min_ratio is not None and is_past_deadline(config, state.wait, t)
    values = {
        "prefillable": int(given.is_prefillable),
        "token_watermark_force_allow": int(is_forcing),
        "running_batch": ask.running_batch,
        "max_prefill_bs": ask.max_prefill_bs,
        "waiting_queue_len": ask.waiting_queue_len,
        "queue_timeout_expired": int(is_expired),
    }
    return tuple(values[name] for name in rules.gathered_fields)


def summarize(rules: ReleaseRules, rows: Sequence[Row]) -> GlobalView:
    """What the rows say together: "What the rows say", alike in all releases.

    Args:
        rules: The release's rules; they name the columns.
        rows: The rows that are read, one a DP rank.
    """
    columns = dict(zip(rules.gathered_fields, zip(*rows, strict=True), strict=True))
    prefillable = columns["prefillable"]
    status: Status = "all" if all(prefillable) else "mixed" if any(prefillable) else "none"
    return GlobalView(
        status=status,
        num_prefillable=sum(prefillable),
        num_token_watermark_force_allow=sum(columns["token_watermark_force_allow"]),
        max_running_batch=max(columns.get("running_batch", (0,))),
        max_prefill_bs=max(columns.get("max_prefill_bs", (0,))),
        max_waiting_queue_len=max(columns.get("waiting_queue_len", (0,))),
        is_any_deadline_expired=any(columns.get("queue_timeout_expired", (0,))),
    )


def is_slot_short(config: PolicyConfig, view: GlobalView, max_running_requests: int) -> bool:
    """The slot condition of B (0.5.10) on: fewer free slots than the largest prefill would take.

    The two maxima may come from different ranks.

    Args:
        config: Settings.
        view: What the read rows say.
        max_running_requests: The rank's own; 0 if it asked nothing.
    """
    num_free = config.slots(max_running_requests) - view.max_running_batch
    return num_free < view.max_prefill_bs


def is_queue_short(
    config: PolicyConfig, rules: ReleaseRules, wait: WaitState | None, view: GlobalView, now: float
) -> bool:
    """The queue condition of D (0.5.12) on: too few requests waiting, before the deadline.

    From G (0.5.19) a setting caps the target; in H (0.5.22) any rank's deadline lifts it for all.

    Args:
        config: Settings; without queue_min_ratio the condition never holds (a ratio of 0 is set,
            but its target is 0).
        rules: The release's rules.
        wait: The rank's wait.
        view: What the read rows say.
        now: The rank's clock in seconds after the gather.
    """
    ratio = config.queue_min_ratio
    if ratio is None or view.max_running_batch <= 0:
        return False
    cap = view.max_prefill_bs
    if rules.caps_by_max_requests and config.prefill_max_requests is not None:
        cap = config.prefill_max_requests
    target = min(int(view.max_running_batch * ratio), cap)
    if not (target > 0 and view.max_waiting_queue_len < target):
        return False
    if rules.gathers_deadline:
        return not view.is_any_deadline_expired
    return not is_past_deadline(config, wait, now)


def choose_reason(
    config: PolicyConfig,
    rules: ReleaseRules,
    state: RankState,
    view: GlobalView,
    max_running_requests: int,
    now: float,
) -> tuple[str, bool]:
    """The decision itself: "The decision", line by line in the order of its table.

    Args:
        config: Settings.
        rules: The release's rules.
        state: The rank's memory before the pass.
        view: What the read rows say.
        max_running_requests: The rank's own, from its first ask.
        now: The rank's clock in seconds after the gather.

    Returns:
        The reason (``delay`` refuses, any other allows), and the skip-first flag after the pass.
    """
    is_armed = state.is_skip_first_armed
    num_delayed = 0 if state.wait is None else state.wait.delayed_count
    may_delay = num_delayed < config.max_delay_passes - 1
    success = "no_wait" if state.wait is None else "wait_success"
    is_forced = view.num_token_watermark_force_allow > 0

    if view.status == "none":
        return "", is_armed

    if view.status == "mixed":
        if is_forced:
            return "token_watermark", is_armed
        return "delay" if may_delay else "wait_timeout", is_armed

    if rules.has_watermark_in_all and is_forced:
        return "token_watermark", is_armed
    holds_back = (
        rules.has_slot_condition and is_slot_short(config, view, max_running_requests)
    ) or (rules.has_queue_trigger and is_queue_short(config, rules, state.wait, view, now))
    if not holds_back:
        return success, is_armed
    if is_armed:
        return success, False
    if rules.bounds_all and not may_delay:
        return "wait_timeout", is_armed
    return "delay", is_armed


def decide(
    config: PolicyConfig,
    rules: ReleaseRules,
    state: RankState,
    view: GlobalView,
    max_running_requests: int,
    now: float,
) -> tuple[RankState, Verdict]:
    """One rank's verdict, and what it means for its wait: "The wait", alike in all releases.

    A refusal begins a wait or lengthens it; any verdict that allows ends it, whether or not
    anything is run. Nothing else touches it.

    Args:
        config: Settings.
        rules: The release's rules.
        state: The rank's memory before the pass.
        view: What the read rows say.
        max_running_requests: The rank's own, from its first ask.
        now: The rank's clock in seconds after the gather.

    Returns:
        The memory with its new wait and skip-first flag, and the verdict.
    """
    reason, is_armed = choose_reason(config, rules, state, view, max_running_requests, now)
    wait = state.wait
    is_allowed = reason != "delay"
    verdict = Verdict(
        input_estimation=view.status,
        output_allow=is_allowed,
        output_reason=reason,
        num_prefillable=view.num_prefillable,
        num_token_watermark_force_allow=view.num_token_watermark_force_allow,
        wait_forward_passes=wait.delayed_count if is_allowed and wait else 0,
        wait_seconds=now - wait.start_time if is_allowed and wait else 0.0,
    )
    if is_allowed:
        next_wait = None
    elif wait is None:
        next_wait = WaitState(delayed_count=1, start_time=now)
    else:
        next_wait = replace(wait, delayed_count=wait.delayed_count + 1)
    return replace(state, wait=next_wait, is_skip_first_armed=is_armed), verdict


def observe_attempt(sizes: tuple[int, ...], size: int, window: int) -> tuple[int, ...]:
    """Put an attempt into the high-watermark's window, from F (0.5.18) on.

    Args:
        sizes: The attempts in the window, oldest first.
        size: Size of the new attempt.
        window: Attempts that the window holds.

    Returns:
        The window with the attempt, without the oldest if it was full.

    Raises:
        ValueError: The size is not positive: that is no attempt, and does not age the window.
    """
    if size <= 0:
        raise ValueError(f"expected a non-empty attempt, not size {size}")
    return (*sizes, size)[-window:]


def measure_attempt(config: PolicyConfig, given: RankInput) -> int:
    """Size of an attempt from F (0.5.18) on: what ran, else the most an ask could have run.

    Args:
        config: Settings.
        given: The rank's input, with all asks of the pass.

    Returns:
        Requests; 0 if nothing ran and nothing was asked.
    """
    if given.actual_prefill_bs:
        return given.actual_prefill_bs
    estimates = (
        min(
            max(ask.waiting_queue_len, 1),
            max(config.slots(ask.max_running_requests) - ask.running_batch, 1),
        )
        for ask in given.asks
    )
    return max(estimates, default=0)


def finalize(
    config: PolicyConfig,
    rules: ReleaseRules,
    state: RankState,
    given: RankInput,
    verdict: Verdict,
    row: Row,
    now: float,
) -> tuple[RankState, RankOutput]:
    """End a rank's pass: "What is reported", which changed in E (0.5.14) and F (0.5.18).

    Args:
        config: Settings.
        rules: The release's rules.
        state: The rank's memory after the verdict.
        given: The rank's input.
        verdict: What it decided.
        row: What it sent.
        now: The rank's clock in seconds after the gather.

    Returns:
        The memory for the next pass, and what the rank lets out.
    """
    if rules.reports_release:
        passes, seconds = verdict.wait_forward_passes, verdict.wait_seconds
    elif state.wait is not None:
        passes, seconds = state.wait.delayed_count, now - state.wait.start_time
    else:
        passes, seconds = 0, 0.0

    size = None
    if rules.has_sliding_watermark:
        size = measure_attempt(config, given)
        if size > 0:
            sizes = observe_attempt(state.prefill_sizes, size, config.tracker_window)
            state = replace(state, prefill_sizes=sizes)
    elif rules.has_slot_condition:
        largest = max(state.max_prefill_bs, given.actual_prefill_bs)
        state = replace(state, prefill_sizes=(largest,))

    output = RankOutput(
        verdict=verdict,
        gathered=row,
        metric_forward_passes=passes,
        metric_wait_seconds=seconds,
        finalize_return=size,
        max_prefill_bs_after=state.max_prefill_bs if rules.has_slot_condition else None,
    )
    return state, output


def negotiate(
    config: PolicyConfig,
    rules: ReleaseRules,
    states: Sequence[RankState],
    inputs: Sequence[RankInput],
    t: Sequence[float],
    t2: Sequence[float] | None = None,
) -> tuple[tuple[RankState, ...], tuple[RankOutput, ...]]:
    """One pass of all ranks of one engine.

    Args:
        config: Settings.
        rules: The release's rules, from :func:`pdtrace.delayer.rules.rules_for`.
        states: Each rank's memory; ``RankState()`` before the first pass.
        inputs: Each rank's input.
        t: Each rank's monotonic clock in seconds before the gather; origins may differ.
        t2: The same after the gather; null: as ``t``.

    Returns:
        Each rank's memory after the pass, and what each rank lets out.

    Raises:
        UsageError: A sequence does not have one entry a rank, or the release cannot gather over
            these ranks: attention-CP before H, no DP attention in A.
    """
    after = t if t2 is None else t2
    if {len(states), len(inputs), len(t), len(after)} != {config.num_ranks}:
        raise UsageError(
            f"states, inputs and clocks must have {config.num_ranks} entries, one a rank"
        )
    if config.attn_cp_size > 1 and not rules.counts_attn_cp:
        raise UsageError(f"the gather of {rules.release} fails with attn_cp_size > 1")
    if rules.needs_dp_attention and not config.enable_dp_attention:
        raise UsageError(f"the delayer of {rules.release} needs DP attention")

    rows = [
        build_row(config, rules, state, given, before)
        for state, given, before in zip(states, inputs, t, strict=True)
    ]
    view = summarize(rules, [rows[rank] for rank in config.leaders])

    next_states, outputs = [], []
    for state, given, row, now in zip(states, inputs, rows, after, strict=True):
        own = given.asks[0] if given.asks else NO_ASK
        decided, verdict = decide(config, rules, state, view, own.max_running_requests, now)
        final, output = finalize(config, rules, decided, given, verdict, row, now)
        next_states.append(final)
        outputs.append(output)
    return tuple(next_states), tuple(outputs)
