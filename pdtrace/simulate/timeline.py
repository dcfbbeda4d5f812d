"""What an engine did, as the moments that its files speak of; nanoseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from pdtrace.simulate.records import Batch, Outcome, Request
    from pdtrace.simulate.timing import Timing


@dataclass(frozen=True, slots=True)
class Moments:
    """A request's way.

    Attributes:
        request: It.
        room: Bootstrap room; its remainder by the ranks is the rank.
        port: The client's, in access lines.
        sent, received, tokenized, dispatched, routing, routed: Client, API server, DP controller.
        entered, prepared, queued, selected: Scheduler.
        chunk_ends: When the result of each of its chunks was processed.
        transferring, transferred, completed: Hand-over; as the scheduler prints it.
        finished, answered: API server, client.
    """

    request: Request
    room: int
    port: int
    sent: int
    received: int
    tokenized: int
    dispatched: int
    routing: int
    routed: int
    entered: int
    prepared: int
    queued: int
    selected: int
    chunk_ends: tuple[int, ...]
    transferring: int
    transferred: int
    completed: int
    finished: int
    answered: int
    chunk_passes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RankPass:
    """What one rank shows of a pass: its batch, the schedule event, the line."""

    number: int
    rank: int
    batch: Batch
    bid: str
    scheduled: int
    reported: int
    printed: int


@dataclass(frozen=True)
class Timeline:
    """Moments of every request, and what every rank shows of every pass.

    ``origin``: nanoseconds since the epoch of the outcome's second 0.
    """

    origin: int
    outcome: Outcome
    requests: list[Moments]
    rank_passes: list[RankPass]

    def at(self, seconds: float) -> int:
        """A moment of the outcome, nanoseconds since the epoch."""
        return self.origin + round(seconds * 1e9)


def build_timeline(
    outcome: Outcome, timing: Timing, dp_size: int, origin: int, rng: np.random.Generator
) -> Timeline:
    """Lay out what happens around passes and requests.

    Everything that a rank shows of a result falls into the time that processing it takes, so no
    order between ranks or passes is invented here.
    """

    def ns(seconds: float) -> int:
        return origin + round(seconds * 1e9)

    rank_passes = []
    for one in outcome.passes:
        for rank, batch in sorted(one.batches.items()):
            skew = float(rng.uniform(0.0, 0.2))
            rank_passes.append(
                RankPass(
                    number=one.number,
                    rank=rank,
                    batch=batch,
                    bid=rng.bytes(4).hex(),
                    scheduled=ns(one.launched - timing.launching * skew),
                    reported=ns(batch.reported + timing.processing * 0.05),
                    printed=ns(batch.reported + timing.processing * float(rng.uniform(0.3, 0.5))),
                )
            )
    report_of = {(p.number, p.rank): p for p in rank_passes}
    requests = []
    for k, journey in enumerate(outcome.journeys):
        request = journey.request
        seen = [report_of[number, request.rank] for number, _ in journey.chunks]
        ends = tuple(p.reported + 20_000 * p.batch.members.index(k) for p in seen)
        # Members of one batch follow one another; all end before its line is printed.
        ends = tuple(min(end, p.printed - 1000) for end, p in zip(ends, seen, strict=True))
        arrival = request.arrival
        last = journey.finished if journey.finished is not None else arrival
        handed = ns(last + timing.processing * 0.8)
        answer = float(rng.uniform(0.001, 0.002))
        requests.append(
            Moments(
                request=request,
                room=k * dp_size + request.rank,
                port=int(rng.integers(32768, 60999)),
                sent=ns(arrival - request.lead),
                received=ns(arrival - 0.0024),
                tokenized=ns(arrival - 0.0017),
                dispatched=ns(arrival - 0.0012),
                routing=ns(arrival - 0.0007),
                routed=ns(arrival - 0.0003),
                entered=ns(journey.taken + timing.taking * 0.1),
                prepared=ns(journey.taken + timing.taking * 0.2),
                queued=ns(journey.taken + timing.taking * 0.8),
                selected=ns(journey.selected),
                chunk_ends=ends,
                transferring=ns(last + timing.processing * 0.6),
                transferred=handed,
                completed=ns(last + timing.processing * 0.9),
                finished=handed + round(answer * 1e9),
                answered=handed + round(2 * answer * 1e9),
                chunk_passes=tuple(number for number, _ in journey.chunks),
            )
        )
    return Timeline(origin, outcome, requests, rank_passes)
