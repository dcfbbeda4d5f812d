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
from pdtrace.delayer.policy_kernel import (
    DELAY,
    EngineState,
    KernelSettings,
    decide_pass,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

TURN_S = 0.0005  # what a loop turn costs a rank that had nothing to process
MIN_NEIGHBOURS = 15
MAX_TURNS = 400_000_000


@compiled
def draw_excess(
    expected_s: float, now: float, expected: F64, excess: F64, time: F64, nearness: int
) -> float:
    """Excess of a recorded pass of like expectation, rather one from about the same time.

    The host's speed drifts over a recording, so of ``nearness`` draws the nearest in time is taken.
    """
    low = int(np.searchsorted(expected, expected_s * 0.95))
    high = int(np.searchsorted(expected, expected_s * 1.05, side="right"))
    if high - low < MIN_NEIGHBOURS:
        middle = (low + high) // 2
        low = max(0, min(len(expected) - MIN_NEIGHBOURS, middle - MIN_NEIGHBOURS // 2))
        high = min(len(expected), low + MIN_NEIGHBOURS)
    best = low + int(np.random.random() * (high - low))
    for _ in range(nearness - 1):
        other = low + int(np.random.random() * (high - low))
        if abs(time[other] - now) < abs(time[best] - now):
            best = other
    return float(excess[best])


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
    times: F64,
    nearness: int,
    seed: int,
) -> tuple[F64, I64, I64, I64, F64, F64, I64]:
    """Run the engine over all arrivals.

    Args:
        settings, use_delayer, mid_chunk_asks: The policy of the release.
        arrival, rank, tokens: The requests, by arrival.
        num_ranks: DP ranks.
        chunk: Token budget of a rank's batch.
        pool: KV tokens of a rank; inf where unknown.
        theta, expected, excess, time, blocking: The pass cost.
        idle_launch: Recorded durations of launching an idle batch, seconds.
        times: See the module.
        nearness: As in ``draw_excess``.
        seed: Of the draws.

    Returns:
        when each request's result was processed (nan: never); its first and last iteration; of each
        iteration: ranks that prefilled, tokens, seconds; delay passes before it (one more for the
        end).
    """
    np.random.seed(seed)
    n = len(arrival)
    count = np.zeros(num_ranks, np.int64)
    for i in range(n):
        count[rank[i]] += 1
    offset = np.zeros(num_ranks + 1, np.int64)
    for r in range(num_ranks):
        offset[r + 1] = offset[r] + count[r]
    queue = np.empty(n, np.int64)
    fill = np.zeros(num_ranks, np.int64)
    limit = 1
    for i in range(n):
        r = rank[i]
        queue[offset[r] + fill[r]] = i
        fill[r] += 1
        limit += 1 + int(tokens[i] / chunk)
    width = np.zeros(limit, np.int64)
    batch = np.zeros(limit)
    busy = np.zeros(limit)
    delays = np.zeros(limit + 1, np.int64)
    finish = np.full(n, np.nan)
    first = np.full(n, -1, np.int64)
    final = np.full(n, -1, np.int64)
    num = 0

    taken = np.zeros(num_ranks, np.int64)
    head = np.zeros(num_ranks, np.int64)
    ready = np.full(num_ranks, arrival[0] - 0.01)
    chunked = np.full(num_ranks, -1, np.int64)
    computed = np.zeros(n)
    used = np.zeros(num_ranks)  # KV tokens held: admitted and not yet reported
    # Requests whose last chunk is in a pass leave the queue in order, plus at most one chunked one.
    pending = False
    pending_done = 0.0
    pending_from = np.zeros(num_ranks, np.int64)
    pending_to = np.zeros(num_ranks, np.int64)
    pending_chunk = np.full(num_ranks, -1, np.int64)
    pending_real = np.zeros(num_ranks, np.bool_)
    new_from = np.zeros(num_ranks, np.int64)
    new_to = np.zeros(num_ranks, np.int64)
    new_chunk = np.full(num_ranks, -1, np.int64)
    real = np.zeros(num_ranks, np.bool_)

    state = EngineState(0, np.nan, True)
    asks = np.zeros(num_ranks, np.bool_)
    usage = np.zeros(num_ranks)
    nothing = np.zeros(num_ranks, np.int64)
    device_free = 0.0

    for _ in range(MAX_TURNS):
        meet = 0.0
        waiting = False
        for r in range(num_ranks):
            took = False
            while taken[r] < count[r] and arrival[queue[offset[r] + taken[r]]] <= ready[r]:
                taken[r] += 1
                took = True
            if took:
                ready[r] += times[0]
            meet = max(meet, ready[r])
            asks[r] = taken[r] > head[r] or (mid_chunk_asks and chunked[r] >= 0)
            if taken[r] > head[r] or chunked[r] >= 0:
                waiting = True
        if not waiting and not pending:
            following = np.inf
            for r in range(num_ranks):
                if taken[r] < count[r]:
                    following = min(following, arrival[queue[offset[r] + taken[r]]])
            if following == np.inf:
                break
            at = max(meet, following + np.random.random() * times[4])
            ready[:] = at
            state = EngineState(0, np.nan, state.is_skip_first_armed)
            continue
        allow = True
        if use_delayer:
            for r in range(num_ranks):
                usage[r] = used[r] / pool
            state, verdict = decide_pass(
                settings, state, asks, usage, nothing, nothing, nothing, 1 << 30, meet, meet
            )
            allow = verdict.reason != DELAY

        anything = False
        biggest = 0.0
        total = 0.0
        ranks = 0
        for r in range(num_ranks):
            real[r] = False
            new_chunk[r] = -1
            new_from[r] = head[r]
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
                for k in range(head[r], taken[r]):
                    if left <= 0:
                        break
                    take = min(tokens[queue[offset[r] + k]], left)
                    longest = max(longest, take)
                    left -= take
                while head[r] < taken[r] and budget > 0:
                    i = queue[offset[r] + head[r]]
                    take = min(tokens[i], budget)
                    squares += 2 * take * longest - take * take
                    computed[i] = take
                    mine += take
                    budget -= take
                    used[r] += tokens[i]
                    first[i] = num
                    head[r] += 1
                    real[r] = True
                    if take < tokens[i]:
                        chunked[r] = i
                        break
                    final[i] = num
            # The prompt that was cut is the last taken; it is not finished by this pass.
            new_to[r] = head[r] - (1 if chunked[r] >= 0 and head[r] > new_from[r] else 0)
            if real[r]:
                anything = True
                ranks += 1
                total += mine
                work = theta[1] * mine / 1e3 + theta[2] * squares / 1e6
                biggest = max(biggest, work)
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
            for r in range(num_ranks):
                at = launch + times[5]
                if blocking:
                    at = done
                    if not real[r]:
                        idle = idle_launch[int(np.random.random() * len(idle_launch))]
                        at = launch + min(idle, took_s)
                if pending:
                    at = max(at, pending_done)
                    for k in range(pending_from[r], pending_to[r]):
                        i = queue[offset[r] + k]
                        finish[i] = at
                        used[r] -= tokens[i]
                    if pending_chunk[r] >= 0:
                        finish[pending_chunk[r]] = at
                        used[r] -= tokens[pending_chunk[r]]
                    if pending_real[r]:
                        at += times[2]
                ready[r] = at + TURN_S
            pending = True
            pending_done = done
            for r in range(num_ranks):
                pending_from[r] = new_from[r]
                pending_to[r] = new_to[r]
                pending_chunk[r] = new_chunk[r]
                pending_real[r] = real[r]
        elif pending:
            for r in range(num_ranks):
                at = max(ready[r], pending_done, meet)
                for k in range(pending_from[r], pending_to[r]):
                    i = queue[offset[r] + k]
                    finish[i] = at
                    used[r] -= tokens[i]
                if pending_chunk[r] >= 0:
                    finish[pending_chunk[r]] = at
                    used[r] -= tokens[pending_chunk[r]]
                ready[r] = at + (times[2] if pending_real[r] else TURN_S)
            pending = False
        else:
            ready[:] = meet + (times[4] if allow else times[3])
    return finish, first, final, width[:num], batch[:num], busy[:num], delays[: num + 1]
