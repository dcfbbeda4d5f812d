"""What became of the requests of a round: the lines of the client's log, and their sums."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pdtrace.client.answers import read_answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.client.answers import Answer
    from pdtrace.client.arrivals import Request
    from pdtrace.client.flights import Departure


@dataclass(frozen=True)
class Outcome:
    """One request that was sent, or tried.

    Attributes:
        request: What was sent.
        answer: How it ended.
        sent: When its last byte was handed over; where it never was, when that was known. Epoch
            seconds.
        ended: When its answer was complete or it had failed; None: not waited for.
        planned: When it was to be sent.
        late_s: Seconds from ``planned`` to ``sent``; None: it was not sent.
        status: HTTP status.
        post: Which post of the round it was in.
    """

    request: Request
    answer: Answer
    sent: float
    ended: float | None
    planned: float
    late_s: float | None
    status: int | None
    post: int


@dataclass(frozen=True)
class RoundOutcome:
    """A round.

    Attributes:
        repeat: Counts from 0; None: the warm-up.
        num_planned: Requests that the round has.
        outcomes: Of those that were sent or tried.
    """

    repeat: int | None
    num_planned: int
    outcomes: tuple[Outcome, ...]

    @property
    def num_ok(self) -> int:
        """Requests that were answered as they should be."""
        return sum(o.answer.is_ok for o in self.outcomes)

    @property
    def makespan_s(self) -> float | None:
        """From the first sending to the last end, seconds; None: nothing ended."""
        ends = [o.ended for o in self.outcomes if o.ended is not None]
        return max(ends) - min(o.sent for o in self.outcomes) if ends else None

    @property
    def is_complete(self) -> bool:
        """Whether every request was answered, so that the makespan means the same in each round."""
        return self.num_ok == self.num_planned

    def describe(self) -> str:
        """As ``sent 4 reqs in 3.023s, ok=4/4``; without the time if nothing ended."""
        num, makespan = len(self.outcomes), self.makespan_s
        took = "" if makespan is None else f" in {makespan:.3f}s"
        return f"sent {num} reqs{took}, ok={self.num_ok}/{num}"


def read_outcomes(
    requests: Sequence[Request], departure: Departure, post: int, epoch: float
) -> list[Outcome]:
    """What became of the requests of one post; nothing if it was never due.

    Args:
        requests: In the post.
        departure: Of the post.
        post: Its place in the round.
        epoch: What to add to the monotonic clock for seconds since the epoch.
    """
    flight = departure.flight
    if flight.planned is None:
        return []
    sent = next(t for t in (flight.sent, flight.ended, flight.planned) if t is not None)
    return [
        Outcome(
            request=request,
            answer=answer,
            sent=sent + epoch,
            ended=None if flight.ended is None else flight.ended + epoch,
            planned=flight.planned + epoch,
            late_s=flight.late_s,
            status=flight.status,
            post=post,
        )
        for request, answer in zip(requests, read_answers(flight, len(requests)), strict=True)
    ]


def build_line(outcome: Outcome, repeat: int, *, is_simulated: bool) -> dict[str, Any]:
    """A line of client.jsonl.

    The first eight keys are those that load clients write and readers know; ``t0`` and ``t1`` are
    epoch seconds.
    """
    request, answer = outcome.request, outcome.answer
    line: dict[str, Any] = {
        "phase": request.phase,
        "rid": request.rid,
        "n": request.num_tokens,
        "rank": request.rank,
        "t0": outcome.sent,
        "t1": outcome.ended,
        "ok": answer.is_ok,
        "err": answer.error,
        "kind": answer.kind,
        "status": outcome.status,
        "planned": outcome.planned,
        "late_ms": None if outcome.late_s is None else round(outcome.late_s * 1e3, 4),
        "repeat": repeat,
        "post": outcome.post,
        "served_rank": answer.rank,
        "cached": answer.num_cached,
    }
    return line | {"simulated": True} if is_simulated else line


@dataclass(frozen=True)
class Lateness:
    """How late posts were sent, milliseconds.

    Attributes:
        p50, p99, most: Quantiles and maximum.
        num: Posts that were sent.
    """

    p50: float
    p99: float
    most: float
    num: int


def measure_lateness(rounds: Sequence[RoundOutcome]) -> Lateness | None:
    """How late the posts of some rounds were sent; None: none was."""
    late = {
        (k, o.post): o.late_s
        for k, one in enumerate(rounds)
        for o in one.outcomes
        if o.late_s is not None
    }
    if not late:
        return None
    values = np.array(list(late.values())) * 1e3
    p50, p99 = np.quantile(values, [0.5, 0.99])
    return Lateness(float(p50), float(p99), float(values.max()), len(values))


def count_errors(rounds: Sequence[RoundOutcome]) -> dict[str, int]:
    """Failed requests by kind, most frequent first."""
    kinds = (o.answer.kind for one in rounds for o in one.outcomes if o.answer.kind is not None)
    return dict(Counter(kinds).most_common())
