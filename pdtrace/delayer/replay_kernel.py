"""Compiled lock-step engine: recorded arrivals through the negotiation, pass by pass.

A pass: every rank takes what arrived; the ranks meet (all-gather); the delayer decides; batches are
built within the chunk budget; if any rank has tokens, all launch, real or idle; then the result of
the pass before is processed. ``docs/method.md`` derives the timing.

times: 0 taking requests in, 1 from the meeting to the launch, 2 processing a result, 3 a delayed
turn, 4 an empty turn, 5 an asynchronous launch; all seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compiled import compiled
from pdtrace.delayer.engine_trace import EngineTrace
from pdtrace.delayer.launches import draw_return
from pdtrace.delayer.pass_cost import draw_excess
from pdtrace.delayer.policy_kernel import (
    DELAY,
    TOKEN_WATERMARK,
    WAIT_SUCCESS,
    WAIT_TIMEOUT,
    EngineState,
    KernelSettings,
    decide_pass,
)
from pdtrace.delayer.routing import GIVEN, ONE_QUEUE, choose_rank, deal_requests, withdraw_requests

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

TURN_S = 0.0005  # what a loop turn costs a rank that had nothing to process
MAX_TURNS = 400_000_000


@compiled
def run_engine(
    settings: KernelSettings,
    use_delayer: bool,
    mid_chunk_asks: bool,
    arrival: F64,
    rank: I64,
    tokens: F64,
    num_ranks: int,
    chunk: float,
    pool: float,
    theta: F64,
    expected: F64,
    excess: F64,
    time: F64,
    blocking: bool,
    idle_launch: F64,
    return_took: F64,
    return_share: F64,
    times: F64,
    nearness: int,
    seed: int,
    hold: F64,
    routing: int,
) -> EngineTrace:
    """Run the engine over all arrivals.

    Args:
        settings, use_delayer, mid_chunk_asks: The policy of the release.
        arrival, rank, tokens: The requests, by arrival.
        num_ranks: DP ranks.
        chunk: Token budget of a rank's batch.
        pool: KV tokens of a rank; inf where unknown.
        theta, expected, excess, time, blocking: The pass cost.
        idle_launch, return_took, return_share: Of :class:`pdtrace.delayer.launches.Launches`.
        times: See the module.
        nearness: As in ``draw_excess``.
        seed: Of the draws.
        hold: How long each request's KV is held after its result (the transfer), seconds.
        routing: ``routing.GIVEN`` takes ``rank``; any other rule chooses.
    """
    np.random.seed(seed)
    n = len(arrival)
    rank = rank.copy()
    limit = 1
    for i in range(n):
        limit += 1 + int(tokens[i] / chunk)
    width = np.zeros(limit, np.int64)
    batch = np.zeros(limit)
    busy = np.zeros(limit)
    delays = np.zeros(limit + 1, np.int64)
    finish = np.full(n, np.nan)
    first = np.full(n, -1, np.int64)
    final = np.full(n, -1, np.int64)
    num = 0

    # A rank's queue is a chain in order of arrival: from head what was not admitted, from unseen
    # what has not been taken in yet. With one queue for all, the chains are dealt anew each turn.
    following = np.full(n, -1, np.int64)
    head = np.full(num_ranks, -1, np.int64)
    unseen = np.full(num_ranks, -1, np.int64)
    last = np.full(num_ranks, -1, np.int64)
    routed = 0
    undealt = 0
    ready = np.full(num_ranks, arrival[0] - 0.01)
    chunked = np.full(num_ranks, -1, np.int64)
    computed = np.zeros(n)
    num_requests = np.zeros(num_ranks, np.int64)  # routed and not finished
    num_tokens = np.zeros(num_ranks)
    released_at = np.full(num_ranks, -np.inf)
    released_requests = np.zeros(num_ranks, np.int64)
    released_tokens = np.zeros(num_ranks)
    # KV tokens held: admitted and not yet transferred.
    has_watermark = use_delayer and not np.isnan(settings.watermark)
    used = np.zeros(num_ranks)
    holders = np.empty(n, np.int64)
    num_holders = 0
    # Requests whose last chunk is in a pass leave the queue in order, plus at most one chunked one.
    pending = False
    pending_done = 0.0
    pending_from = np.zeros(num_ranks, np.int64)
    pending_count = np.zeros(num_ranks, np.int64)
    pending_chunk = np.full(num_ranks, -1, np.int64)
    pending_real = np.zeros(num_ranks, np.bool_)
    new_from = np.zeros(num_ranks, np.int64)
    new_count = np.zeros(num_ranks, np.int64)
    new_chunk = np.full(num_ranks, -1, np.int64)
    real = np.zeros(num_ranks, np.bool_)

    state = EngineState(0, np.nan, True)
    asks = np.zeros(num_ranks, np.bool_)
    usage = np.zeros(num_ranks)
    nothing = np.zeros(num_ranks, np.int64)
    device_free = 0.0
    done = 0.0
    launch = 0.0
    took_s = 0.0
    usages = np.zeros(1001, np.int64)
    num_waits = 0
    num_near_bound = 0
    patience = settings.max_delay_passes - 1
    is_long = patience >= 5  # shorter, a fifth of it is no whole turn
    missing = np.zeros(num_ranks, np.bool_)
    near_until = -np.inf

    for _ in range(MAX_TURNS):
        horizon = ready[0]
        for r in range(1, num_ranks):
            horizon = max(horizon, ready[r])
        came = False
        while routed < n and arrival[routed] <= horizon:
            i = routed
            routed += 1
            came = True
            if routing == ONE_QUEUE:
                continue
            if routing != GIVEN:
                rank[i] = choose_rank(
                    routing,
                    arrival[i],
                    num_requests,
                    num_tokens,
                    released_at,
                    released_requests,
                    released_tokens,
                )
            r = rank[i]
            num_requests[r] += 1
            num_tokens[r] += tokens[i]
            if last[r] >= 0:
                following[last[r]] = i
            last[r] = i
            if head[r] < 0:
                head[r] = i
            if unseen[r] < 0:
                unseen[r] = i
            if missing[r] and arrival[i] <= near_until:
                missing[r] = False
                if not missing.any():
                    num_near_bound += 1
        if routing == ONE_QUEUE:
            undealt = deal_requests(
                head, last, following, rank, tokens, computed, chunked, chunk, undealt, routed
            )

        meet = 0.0
        waiting = False
        for r in range(num_ranks):
            took = came and routing == ONE_QUEUE
            while unseen[r] >= 0 and arrival[unseen[r]] <= ready[r]:
                unseen[r] = following[unseen[r]]
                took = True
            if took:
                ready[r] += times[0]
            meet = max(meet, ready[r])
            has_queue = head[r] >= 0 and head[r] != unseen[r]
            asks[r] = has_queue or (mid_chunk_asks and chunked[r] >= 0)
            if has_queue or chunked[r] >= 0:
                waiting = True
        if not waiting and not pending:
            nearest = arrival[routed] if routed < n else np.inf
            for r in range(num_ranks):
                if unseen[r] >= 0:
                    nearest = min(nearest, arrival[unseen[r]])
            if nearest == np.inf:
                break
            at = max(meet, nearest + np.random.random() * times[4])
            ready[:] = at
            state = EngineState(0, np.nan, state.is_skip_first_armed)
            continue
        allow = True
        if use_delayer:
            k = 0
            while k < num_holders:  # those whose transfer is over leave
                i = holders[k]
                if finish[i] + hold[i] <= meet:
                    used[rank[i]] -= tokens[i]
                    num_holders -= 1
                    holders[k] = holders[num_holders]
                else:
                    k += 1
            least = 1.0
            for r in range(num_ranks):
                usage[r] = used[r] / pool
                if asks[r]:
                    least = min(least, usage[r])
            before = state.delayed_count
            state, verdict = decide_pass(
                settings, state, asks, usage, nothing, nothing, nothing, 1 << 30, meet, meet
            )
            allow = verdict.reason != DELAY
            if before == 0 and (verdict.reason == DELAY or verdict.reason == TOKEN_WATERMARK):
                usages[int(1000 * least)] += 1
            if before > 0 and allow:
                num_waits += 1
                if verdict.reason == WAIT_SUCCESS and is_long and before >= 0.8 * patience:
                    num_near_bound += 1
                near_until = -np.inf
                if verdict.reason == WAIT_TIMEOUT and is_long:
                    near_until = meet + 0.25 * patience * times[3]
                    for r in range(num_ranks):
                        missing[r] = not asks[r] and unseen[r] < 0
                    if not missing.any():
                        num_near_bound += 1

        anything = False
        biggest = 0.0
        total = 0.0
        ranks = 0
        for r in range(num_ranks):
            real[r] = False
            new_chunk[r] = -1
            new_from[r] = head[r]
            new_count[r] = 0
            budget = chunk
            squares = 0.0
            mine = 0.0
            if chunked[r] >= 0:
                i = chunked[r]
                take = min(tokens[i] - computed[i], budget)
                squares += 2 * take * (computed[i] + take) - take * take
                computed[i] += take
                mine += take
                budget -= take
                real[r] = True
                if computed[i] >= tokens[i]:
                    new_chunk[r] = i
                    final[i] = num
                    chunked[r] = -1
            if allow and chunked[r] < 0:
                longest = 0.0
                left = budget
                i = head[r]
                while i != unseen[r] and i >= 0 and left > 0:
                    take = min(tokens[i], left)
                    longest = max(longest, take)
                    left -= take
                    i = following[i]
                while head[r] != unseen[r] and head[r] >= 0 and budget > 0:
                    i = head[r]
                    take = min(tokens[i], budget)
                    squares += 2 * take * longest - take * take
                    computed[i] = take
                    mine += take
                    budget -= take
                    used[r] += tokens[i]
                    first[i] = num
                    head[r] = following[i]
                    real[r] = True
                    if take < tokens[i]:
                        chunked[r] = i  # cut, so the last taken; not finished by this pass
                        break
                    new_count[r] += 1
                    final[i] = num
            if real[r]:
                anything = True
                ranks += 1
                total += mine
                work = theta[1] * mine / 1e3 + theta[2] * squares / 1e6
                biggest = max(biggest, work)
        if routing == ONE_QUEUE and not allow:
            undealt -= withdraw_requests(head, following)
        if not allow:
            delays[num] += 1
        if anything:
            launch = meet + times[1]
            likely = max(theta[0], theta[4] + biggest + theta[3] * total / 1e3)
            took_s = max(
                likely + draw_excess(likely, launch, expected, excess, time, nearness), 1e-4
            )
            done = launch + took_s
            if not blocking:
                done = max(launch + times[5], device_free) + took_s
            device_free = done
            width[num] = ranks
            batch[num] = total
            busy[num] = took_s
            num += 1
        elif not pending:
            # Turns on which nothing can change are gone through at once.
            at = meet + (times[4] if allow else times[3])
            if not allow:
                nearest = arrival[routed] if routed < n else np.inf
                for r in range(num_ranks):
                    if unseen[r] >= 0:
                        nearest = min(nearest, arrival[unseen[r]])
                if has_watermark:
                    for k in range(num_holders):
                        if not np.isnan(finish[holders[k]]):
                            nearest = min(nearest, finish[holders[k]] + hold[holders[k]])
                refused = state.delayed_count
                while at < nearest and refused < patience:
                    at += times[3]
                    refused += 1
                delays[num] += refused - state.delayed_count
                state = EngineState(refused, state.start_time, state.is_skip_first_armed)
            ready[:] = at
            continue
        # The result of the pass before is processed after this launch, or now if there was none.
        for r in range(num_ranks):
            if anything:
                at = launch + times[5]
                if blocking:
                    at = done
                    if not real[r]:
                        idle = idle_launch[int(np.random.random() * len(idle_launch))]
                        at = launch + min(idle, took_s)
            else:
                at = max(ready[r], meet)
            if pending:
                at = max(at, pending_done)
                seen = at
                if anything and blocking and pending_real[r] and real[r]:
                    back = launch + draw_return(took_s, return_took, return_share)
                    seen = max(min(at, back), pending_done)
                requests = pending_count[r] + (1 if pending_chunk[r] >= 0 else 0)
                done_tokens = 0.0
                i = pending_from[r]
                for k in range(requests):
                    if k == pending_count[r]:
                        i = pending_chunk[r]
                    finish[i] = seen
                    done_tokens += tokens[i]
                    holders[num_holders] = i
                    num_holders += 1
                    i = following[i]
                if requests > 0:
                    released_at[r] = seen
                    released_requests[r] = requests
                    released_tokens[r] = done_tokens
                    num_requests[r] -= requests
                    num_tokens[r] -= done_tokens
            turn = TURN_S
            if pending and pending_real[r]:
                at = max(at, seen + times[2])
                if not anything:
                    turn = 0.0
            ready[r] = at + turn
        pending = anything
        pending_done = done
        for r in range(num_ranks):
            pending_from[r] = new_from[r]
            pending_count[r] = new_count[r]
            pending_chunk[r] = new_chunk[r]
            pending_real[r] = real[r]
    return EngineTrace(
        finish,
        first,
        final,
        width[:num],
        batch[:num],
        busy[:num],
        delays[: num + 1],
        rank,
        usages,
        num_waits,
        num_near_bound,
    )
