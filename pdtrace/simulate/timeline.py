"""What an engine did, as the moments that its files speak of; nanoseconds since the epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from pdtrace.simulate.records import Batch, Journey, Outcome, Pass, Request
    from pdtrace.simulate.timing import Timing

HANDED = 0.8  # share of the time of processing a result after which a request is handed over


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


@dataclass(frozen=True, slots=True)
class Entry:
    """When a request went through what lies before its rank; names as in :class:`Moments`."""

    sent: int
    received: int
    tokenized: int
    dispatched: int
    routing: int
    routed: int


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
        return place(self.origin, seconds)


def place(origin: int, seconds: float) -> int:
    """Nanoseconds since the epoch of a moment that is so many seconds after the origin."""
    return origin + round(seconds * 1e9)


def build_timeline(
    outcome: Outcome, timing: Timing, dp_size: int, origin: int, rng: np.random.Generator
) -> Timeline:
    """Lay out what happens around passes and requests.

    Everything that a rank shows of a result falls into the time that processing it takes, so no
    order between ranks or passes is invented here.
    """
    rank_passes = [p for one in outcome.passes for p in show_pass(one, timing, origin, rng)]
    report_of = {(p.number, p.rank): p for p in rank_passes}
    requests = []
    for k, journey in enumerate(outcome.journeys):
        request = journey.request
        shown = [report_of[number, request.rank] for number, _ in journey.chunks]
        answer = draw_answer(rng)
        requests.append(
            show_request(
                journey, shown, timing, origin, enter(request, origin), answer,
                room=k * dp_size + request.rank, port=int(rng.integers(32768, 60999)),
            )
        )  # fmt: skip
    return Timeline(origin, outcome, requests, rank_passes)


def show_pass(one: Pass, timing: Timing, origin: int, rng: np.random.Generator) -> list[RankPass]:
    """What the ranks show of a pass."""
    out = []
    for rank, batch in sorted(one.batches.items()):
        skew = float(rng.uniform(0.0, 0.2))
        bid = rng.bytes(4).hex()
        printed = timing.processing * float(rng.uniform(0.3, 0.5))
        out.append(
            RankPass(
                number=one.number,
                rank=rank,
                batch=batch,
                bid=bid,
                scheduled=place(origin, one.launched - timing.launching * skew),
                reported=place(origin, batch.reported + timing.processing * 0.05),
                printed=place(origin, batch.reported + printed),
            )
        )
    return out


def enter(request: Request, origin: int) -> Entry:
    """The way to its rank of a request that nobody sent: near what engines take when they idle."""
    arrival = request.arrival
    return Entry(
        sent=place(origin, arrival - request.lead),
        received=place(origin, arrival - 0.0024),
        tokenized=place(origin, arrival - 0.0017),
        dispatched=place(origin, arrival - 0.0012),
        routing=place(origin, arrival - 0.0007),
        routed=place(origin, arrival - 0.0003),
    )


def draw_answer(rng: np.random.Generator) -> float:
    """From the hand-over of a request to the API server's answer, seconds."""
    return float(rng.uniform(0.001, 0.002))


def find_answer(journey: Journey, timing: Timing, answer: float) -> float:
    """When the API server answers, seconds since the origin, ``answer`` after the hand-over."""
    assert journey.finished is not None
    return journey.finished + timing.processing * HANDED + answer


def show_request(
    journey: Journey,
    shown: Sequence[RankPass],
    timing: Timing,
    origin: int,
    entry: Entry,
    answer: float,
    *,
    room: int,
    port: int,
) -> Moments:
    """What is seen of a request.

    Args:
        journey: It.
        shown: What its rank shows of each of its chunks.
        timing, origin: Of the engine.
        entry: Its way to the rank.
        answer: From the hand-over to the answer, seconds.
        room: Bootstrap room.
        port: The client's.
    """
    # Members of one batch follow one another; all end before its line is printed.
    ends = tuple(
        min(p.reported + 20_000 * p.batch.members.index(journey), p.printed - 1000) for p in shown
    )
    last = journey.finished if journey.finished is not None else journey.request.arrival
    handed = place(origin, last + timing.processing * HANDED)
    return Moments(
        request=journey.request,
        room=room,
        port=port,
        sent=entry.sent,
        received=entry.received,
        tokenized=entry.tokenized,
        dispatched=entry.dispatched,
        routing=entry.routing,
        routed=entry.routed,
        entered=place(origin, journey.taken + timing.taking * 0.1),
        prepared=place(origin, journey.taken + timing.taking * 0.2),
        queued=place(origin, journey.taken + timing.taking * 0.8),
        selected=place(origin, journey.selected),
        chunk_ends=ends,
        transferring=place(origin, last + timing.processing * 0.6),
        transferred=handed,
        completed=place(origin, last + timing.processing * 0.9),
        finished=handed + round(answer * 1e9),
        answered=handed + round(2 * answer * 1e9),
        chunk_passes=tuple(number for number, _ in journey.chunks),
    )
