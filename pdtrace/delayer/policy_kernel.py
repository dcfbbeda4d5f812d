"""The negotiation compiled, for replays that step through many passes of one engine.

It is :func:`pdtrace.delayer.policy.negotiate` for the case that a replay has: DP attention, one
row a DP rank, one clock and one max_running_requests for all of them. Then every rank comes to the
same verdict, and the engine has one wait and one skip-first flag. A property test holds the two
equal. :func:`decide_pass` can be called from other compiled loops, where the verdict decides what
the next pass sees; :func:`negotiate_passes` runs a given series of passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pdtrace.compiled import compiled
from pdtrace.errors import UsageError
from pdtrace.schema import INPUT_ESTIMATIONS, OUTPUT_REASONS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from pdtrace.delayer.records import PolicyConfig
    from pdtrace.delayer.rules import ReleaseRules

NOTHING = OUTPUT_REASONS.index("")
NO_WAIT = OUTPUT_REASONS.index("no_wait")
WAIT_SUCCESS = OUTPUT_REASONS.index("wait_success")
WAIT_TIMEOUT = OUTPUT_REASONS.index("wait_timeout")
TOKEN_WATERMARK = OUTPUT_REASONS.index("token_watermark")
DELAY = OUTPUT_REASONS.index("delay")
ALL = INPUT_ESTIMATIONS.index("all")
MIXED = INPUT_ESTIMATIONS.index("mixed")
NONE = INPUT_ESTIMATIONS.index("none")


class KernelSettings(NamedTuple):
    """Settings and release rules as scalars.

    NaN stands for an unset watermark or ratio, -1 for an unset prefill_max_requests.
    """

    has_slot_condition: bool
    has_queue_trigger: bool
    has_watermark_in_all: bool
    bounds_all: bool
    gathers_deadline: bool
    max_delay_passes: int
    watermark: float
    queue_min_ratio: float
    deadline_ms: float
    prefill_max_requests: int


class EngineState(NamedTuple):
    """What the engine remembers: refusals of the wait (0: none), its start, the skip-first flag."""

    delayed_count: int = 0
    start_time: float = float("nan")
    is_skip_first_armed: bool = True


class PassVerdict(NamedTuple):
    """Verdict of a pass.

    ``status`` and ``reason`` are indices into ``schema.INPUT_ESTIMATIONS`` and
    ``schema.OUTPUT_REASONS``; prefill is allowed unless the reason is :data:`DELAY`.
    """

    status: int
    reason: int
    num_prefillable: int
    num_token_watermark_force_allow: int
    wait_forward_passes: int
    wait_seconds: float


class PassColumns(NamedTuple):
    """Verdicts and next states of n passes, one array of shape (n,) a field."""

    status: NDArray[np.int8]
    reason: NDArray[np.int8]
    allow: NDArray[np.bool_]
    num_prefillable: NDArray[np.int32]
    num_token_watermark_force_allow: NDArray[np.int32]
    wait_forward_passes: NDArray[np.int64]
    wait_seconds: NDArray[np.float64]
    next_delayed_count: NDArray[np.int64]
    next_start_time: NDArray[np.float64]
    is_skip_first_armed: NDArray[np.bool_]


def pack_settings(config: PolicyConfig, rules: ReleaseRules) -> KernelSettings:
    """Settings and rules in the form that the kernel takes.

    Args:
        config: Settings.
        rules: The release's rules.

    Raises:
        UsageError: DP attention is off; that case is the readable policy's only.
    """
    if not config.enable_dp_attention:
        raise UsageError("the compiled policy is for engines with DP attention")
    nan = float("nan")
    watermark, ratio = config.token_usage_low_watermark, config.queue_min_ratio
    cap = config.prefill_max_requests if rules.caps_by_max_requests else None
    return KernelSettings(
        has_slot_condition=rules.has_slot_condition,
        has_queue_trigger=rules.has_queue_trigger,
        has_watermark_in_all=rules.has_watermark_in_all,
        bounds_all=rules.bounds_all,
        gathers_deadline=rules.gathers_deadline,
        max_delay_passes=int(config.max_delay_passes),
        watermark=nan if watermark is None else float(watermark),
        queue_min_ratio=nan if ratio is None else float(ratio),
        deadline_ms=float(config.deadline_ms),
        prefill_max_requests=-1 if cap is None else int(cap),
    )


@compiled
def is_queue_short(
    settings: KernelSettings,
    state: EngineState,
    max_running: int,
    max_prefill: int,
    max_waiting: int,
    t: float,
    t2: float,
) -> bool:
    """The queue condition, see the function of that name in the policy."""
    if not settings.has_queue_trigger or np.isnan(settings.queue_min_ratio) or max_running <= 0:
        return False
    cap = max_prefill
    if settings.prefill_max_requests >= 0:
        cap = settings.prefill_max_requests
    target = min(int(max_running * settings.queue_min_ratio), cap)
    if not (target > 0 and max_waiting < target):
        return False
    now = t if settings.gathers_deadline else t2
    age_ms = (now - state.start_time) * 1000.0
    return not (state.delayed_count > 0 and age_ms >= settings.deadline_ms)


@compiled
def decide_pass(
    settings: KernelSettings,
    state: EngineState,
    prefillable: NDArray[np.bool_],
    token_usage: NDArray[np.float64],
    running_batch: NDArray[np.int64],
    max_prefill_bs: NDArray[np.int64],
    waiting_queue_len: NDArray[np.int64],
    max_running_requests: int,
    t: float,
    t2: float,
) -> tuple[EngineState, PassVerdict]:
    """One pass of an engine; arrays have shape (dp_size,).

    Args:
        settings: From :func:`pack_settings`.
        state: What the engine remembers.
        prefillable: Which ranks ask; what the others hold in the arrays below does not count.
        token_usage: Share of the KV pool in use (0–1).
        running_batch: Requests running.
        max_prefill_bs: High-watermarks of prefill batch sizes.
        waiting_queue_len: Requests waiting.
        max_running_requests: Requests that a rank may run.
        t: Clock in seconds before the gather.
        t2: Clock in seconds after it.

    Returns:
        What the engine remembers after the pass, and the verdict.
    """
    num_prefillable = 0
    num_forcing = 0
    max_running = 0
    max_prefill = 0
    max_waiting = 0
    for rank in range(len(prefillable)):
        if prefillable[rank]:
            num_prefillable += 1
            if token_usage[rank] < settings.watermark:
                num_forcing += 1
            max_running = max(max_running, running_batch[rank])
            max_prefill = max(max_prefill, max_prefill_bs[rank])
            max_waiting = max(max_waiting, waiting_queue_len[rank])

    num_delayed = state.delayed_count
    may_delay = num_delayed < settings.max_delay_passes - 1
    is_armed = state.is_skip_first_armed
    if num_prefillable == 0:
        status, reason = NONE, NOTHING
    elif num_prefillable < len(prefillable):
        status = MIXED
        reason = DELAY if may_delay else WAIT_TIMEOUT
        if num_forcing > 0:
            reason = TOKEN_WATERMARK
    else:
        status = ALL
        lacks_slots = (
            settings.has_slot_condition and max_running_requests - max_running < max_prefill
        )
        reason = WAIT_SUCCESS if num_delayed > 0 else NO_WAIT
        if settings.has_watermark_in_all and num_forcing > 0:
            reason = TOKEN_WATERMARK
        elif lacks_slots or is_queue_short(
            settings, state, max_running, max_prefill, max_waiting, t, t2
        ):
            if is_armed:
                is_armed = False
            elif settings.bounds_all and not may_delay:
                reason = WAIT_TIMEOUT
            else:
                reason = DELAY

    passes, seconds = 0, 0.0
    if reason == DELAY:
        start = state.start_time if num_delayed > 0 else t2
        after = EngineState(num_delayed + 1, start, is_armed)
    else:
        if num_delayed > 0:
            passes, seconds = num_delayed, t2 - state.start_time
        after = EngineState(0, np.nan, is_armed)
    return after, PassVerdict(status, reason, num_prefillable, num_forcing, passes, seconds)


@compiled
def _run_passes(
    settings: KernelSettings,
    state: EngineState,
    prefillable: NDArray[np.bool_],
    token_usage: NDArray[np.float64],
    running_batch: NDArray[np.int64],
    max_prefill_bs: NDArray[np.int64],
    waiting_queue_len: NDArray[np.int64],
    max_running_requests: int,
    t: NDArray[np.float64],
    t2: NDArray[np.float64],
    out: PassColumns,
) -> EngineState:
    """Fill the columns, and return the state after the last pass."""
    for i in range(len(t)):
        state, verdict = decide_pass(
            settings,
            state,
            prefillable[i],
            token_usage[i],
            running_batch[i],
            max_prefill_bs[i],
            waiting_queue_len[i],
            max_running_requests,
            t[i],
            t2[i],
        )
        out.status[i] = verdict.status
        out.reason[i] = verdict.reason
        out.allow[i] = verdict.reason != DELAY
        out.num_prefillable[i] = verdict.num_prefillable
        out.num_token_watermark_force_allow[i] = verdict.num_token_watermark_force_allow
        out.wait_forward_passes[i] = verdict.wait_forward_passes
        out.wait_seconds[i] = verdict.wait_seconds
        out.next_delayed_count[i] = state.delayed_count
        out.next_start_time[i] = state.start_time
        out.is_skip_first_armed[i] = state.is_skip_first_armed
    return state


def negotiate_passes(
    config: PolicyConfig,
    rules: ReleaseRules,
    *,
    prefillable: ArrayLike,
    token_usage: ArrayLike,
    t: ArrayLike,
    t2: ArrayLike | None = None,
    running_batch: ArrayLike = 0,
    max_prefill_bs: ArrayLike = 0,
    waiting_queue_len: ArrayLike = 0,
    max_running_requests: int = 0,
    state: EngineState | None = None,
) -> tuple[EngineState, PassColumns]:
    """Verdicts over a given series of n passes.

    Args:
        config: Settings, with DP attention.
        rules: The release's rules.
        prefillable: Which ranks ask, shape (n, dp_size).
        token_usage: Share of the KV pool in use (0–1); like the counts below, anything that
            broadcasts to (n, dp_size).
        t: Clock in seconds before each gather, shape (n,).
        t2: Clock in seconds after each gather; null: as ``t``.
        running_batch: Requests running. A PD prefill engine has none.
        max_prefill_bs: High-watermarks of prefill batch sizes.
        waiting_queue_len: Requests waiting.
        max_running_requests: Requests that a rank may run.
        state: What the engine remembers before the first pass; null: just started.

    Returns:
        The state after the last pass, and the columns.

    Raises:
        UsageError: DP attention is off, or a shape does not fit.
    """
    asks = np.ascontiguousarray(prefillable, dtype=np.bool_)
    before = np.ascontiguousarray(t, dtype=np.float64)
    after = before if t2 is None else np.ascontiguousarray(t2, dtype=np.float64)
    n = len(before)
    if asks.shape != (n, config.dp_size) or after.shape != (n,):
        raise UsageError(f"expected prefillable of shape ({n}, {config.dp_size}) and {n} clocks")
    try:
        usage = np.ascontiguousarray(np.broadcast_to(np.asarray(token_usage, float), asks.shape))
        running, largest, waiting = (
            np.ascontiguousarray(np.broadcast_to(np.asarray(column, np.int64), asks.shape))
            for column in (running_batch, max_prefill_bs, waiting_queue_len)
        )
    except ValueError as error:
        raise UsageError(f"a column does not broadcast to {asks.shape}: {error}") from error
    out = PassColumns(
        status=np.empty(n, np.int8),
        reason=np.empty(n, np.int8),
        allow=np.empty(n, np.bool_),
        num_prefillable=np.empty(n, np.int32),
        num_token_watermark_force_allow=np.empty(n, np.int32),
        wait_forward_passes=np.empty(n, np.int64),
        wait_seconds=np.empty(n, np.float64),
        next_delayed_count=np.empty(n, np.int64),
        next_start_time=np.empty(n, np.float64),
        is_skip_first_armed=np.empty(n, np.bool_),
    )
    final = _run_passes(
        pack_settings(config, rules),
        EngineState() if state is None else state,
        asks,
        usage,
        running,
        largest,
        waiting,
        int(max_running_requests),
        before,
        after,
        out,
    )
    return EngineState(*final), out
