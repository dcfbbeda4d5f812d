"""Which rank a request goes to: the recorded assignment, and what other balancers would choose.

The engine's own balancers (``--load-balance-method``) choose when a request arrives:
``round_robin``, ``total_requests``, ``total_tokens``, and ``follow_bootstrap_room``, the default of
a prefill engine, which takes a random number modulo the ranks. The engine judges load by reports
that are a moment old; here it is known exactly. One queue for all ranks is no balancer of the
engine's: it shows how much a choice at arrival costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compiled import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]

GIVEN, FEWEST_REQUESTS, FEWEST_TOKENS, ONE_QUEUE = range(4)


@dataclass(frozen=True)
class Routing:
    """A way to assign requests to ranks.

    Attributes:
        name: As in a :class:`~pdtrace.delayer.engine_model.Setting`.
        title: As shown.
        meaning: What it does, in one line.
        method: The value of ``--load-balance-method`` that asks for it; None: there is none.
        rule: What the replay's kernel does: one of the constants above.
    """

    name: str
    title: str
    meaning: str
    method: str | None
    rule: int


ROUTINGS = (
    Routing("recorded", "as recorded", "each request on the rank that it ran on", None, GIVEN),
    Routing(
        "round_robin",
        "round robin",
        "the ranks in turn, in order of arrival",
        "round_robin",
        GIVEN,
    ),
    Routing(
        "fewest_requests",
        "fewest requests",
        "at arrival, the rank with the fewest unfinished requests",
        "total_requests",
        FEWEST_REQUESTS,
    ),
    Routing(
        "fewest_tokens",
        "fewest tokens",
        "at arrival, the rank with the fewest prompt tokens of unfinished requests",
        "total_tokens",
        FEWEST_TOKENS,
    ),
    Routing(
        "arrival_order",
        "arrival order",
        "one queue for all: each pass takes requests in order of arrival, each to the rank with "
        "the fewest tokens in that pass; no balancer of the engine does this",
        None,
        ONE_QUEUE,
    ),
)
BY_NAME = {r.name: r for r in ROUTINGS}


def assign_ranks(name: str, recorded: I64, num_ranks: int) -> I64:
    """Ranks that are known before the replay.

    Args:
        name: Of the routing.
        recorded: Recorded ranks, by arrival.
        num_ranks: DP ranks.
    """
    if name == "round_robin":
        return np.arange(len(recorded), dtype=np.int64) % num_ranks
    return recorded


@compiled
def choose_rank(
    rule: int,
    now: float,
    num_requests: I64,
    num_tokens: F64,
    released_at: F64,
    released_requests: I64,
    released_tokens: F64,
) -> int:
    """The rank that a request arriving now goes to; ties go by requests, then to the first.

    Args:
        rule: ``FEWEST_REQUESTS`` or ``FEWEST_TOKENS``.
        now: Its arrival.
        num_requests, num_tokens: What each rank has not finished.
        released_at, released_requests, released_tokens: When each rank last finished something,
            and what; it may lie after the arrival, and then it still counts.
    """
    best = 0
    least_requests = 0
    least_tokens = 0.0
    for r in range(len(num_requests)):
        requests = num_requests[r]
        tokens = num_tokens[r]
        if released_at[r] > now:
            requests += released_requests[r]
            tokens += released_tokens[r]
        if rule == FEWEST_REQUESTS:
            tokens = 0.0
        is_tie = tokens == least_tokens and requests < least_requests
        if r == 0 or tokens < least_tokens or is_tie:
            best = r
            least_requests = requests
            least_tokens = tokens
    return best


@compiled
def deal_requests(
    head: I64,
    last: I64,
    following: I64,
    rank: I64,
    tokens: F64,
    computed: F64,
    chunked: I64,
    chunk: float,
    first: int,
    stop: int,
) -> int:
    """Deal the requests of one queue for the next pass.

    In order, each to the rank with the fewest tokens in that pass, until every rank has a full one;
    so a pass takes all that was dealt.

    Args:
        head, last, following: The ranks' chains, made anew.
        rank: Of each request, written.
        tokens, computed, chunked, chunk: Of the requests; what was computed of a cut one; the cut
            one of each rank, -1 for none; token budget of a batch.
        first, stop: The queue.

    Returns:
        Its first request that was not dealt.
    """
    load = np.zeros(len(head))
    for r in range(len(head)):
        head[r] = -1
        last[r] = -1
        if chunked[r] >= 0:
            load[r] = tokens[chunked[r]] - computed[chunked[r]]
    i = first
    while i < stop:
        r = int(np.argmin(load))
        if load[r] >= chunk:
            break
        following[i] = -1
        rank[i] = r
        if head[r] < 0:
            head[r] = i
        else:
            following[last[r]] = i
        last[r] = i
        load[r] += tokens[i]
        i += 1
    return i


@compiled
def withdraw_requests(head: I64, following: I64) -> int:
    """Take back what was dealt and not admitted; returns how many requests that were."""
    count = 0
    for r in range(len(head)):
        i = head[r]
        while i >= 0:
            count += 1
            i = following[i]
        head[r] = -1
    return count
