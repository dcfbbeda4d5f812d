"""How long the turns of an idle scheduler take: what a wait's number of passes is reckoned by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.joined.passes import NEVER, overlap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    I64 = NDArray[np.int64]
    F64 = NDArray[np.float64]
    Flags = NDArray[np.bool_]

DEFAULT_PASS_NS = 1_600_000  # a pass of an idle scheduler on a GPU host: 1.0 to 2.2 ms
SHORTEST_PASS_NS = 500_000
FEWEST_GAPS = 20
FEWEST_WAITS = 5
WINDOW = 11  # waits that ran out over which the length of a pass is the median


@dataclass(frozen=True)
class Turns:
    """Lengths in ns.

    Attributes:
        length: Of a delay pass, one value for each release.
        source: ``timeouts``, ``pickups`` or ``default``.
        look: From the waiting queue to the selection in the same turn.
        taking: What a turn that takes a request in takes longer, until the request is queued.
    """

    length: F64
    source: str
    look: float
    taking: float


@dataclass(frozen=True)
class Pickups:
    """How long requests took to be taken in, and then to be queued, while no forward ran.

    Attributes:
        usual: A pass as the pickups tell it, in ns; None where they are too few.
        least: The shortest that a pickup usually takes.
        queueing: From the pickup to the queue, the median; 0 where not known.
    """

    usual: float | None
    least: float
    queueing: float


def read_pickups(joined: pl.DataFrame, busy: I64) -> Pickups:
    """Measure the pickups of a run.

    A request reaches an idle engine at any moment of a pass, so the times until it is picked up are
    spread evenly over one; their lower half spans half a pass, and disturbances lengthen the upper.

    Args:
        joined: Table ``requests``, one row a request.
        busy: Begins and ends of the stretches in which forwards ran.
    """
    own = pl.col("source").cast(pl.String) == "client_log"
    told = joined.filter(
        ~own,
        pl.col("received") >= pl.col("dispatched"),
        pl.coalesce("queued", "bootstrapped") >= pl.col("received"),
    ).select(
        pl.col("dispatched").dt.epoch("ns"),
        pl.col("received").dt.epoch("ns"),
        pl.coalesce("queued", "bootstrapped").dt.epoch("ns").alias("queued"),
    )
    begin, end = told["dispatched"].to_numpy(), told["received"].to_numpy()
    gaps = (end - begin)[overlap(busy, begin, end) == 0]
    queueing = float(np.median(told["queued"].to_numpy() - end)) if told.height else 0.0
    if len(gaps) < FEWEST_GAPS:
        return Pickups(None, 0.0, queueing)
    low, middle = np.quantile(gaps, [0.1, 0.5])
    usual = max(float(middle - low) / 0.4, SHORTEST_PASS_NS)
    return Pickups(usual, max(float(low) - 0.1 * usual, 0.0), queueing)


def measure_turns(
    idle: I64,
    before: I64,
    ran_out: Flags,
    limit: int | None,
    looks: I64,
    waits: I64,
    pickups: Pickups,
) -> Turns:
    """Measure how long delay passes take.

    A wait that ran out lasted as many passes as the delayer waits at most, so each of them tells
    the length about then. Where there are too few of them pickups tell one length for the run.

    Args:
        idle: Time of each release without a forward since its first request stood ready.
        before: Passes behind a forward in it.
        ran_out: Releases that ended a wait which ran out.
        limit: Passes on which the delayer refuses at most.
        looks: Selection − queueing of the ranks that came last.
        waits: Time in the queue of each request that met no forward.
        pickups: Of the run.
    """
    usual, source = (
        pickups.usual or float(DEFAULT_PASS_NS),
        "pickups" if pickups.usual else "default",
    )
    short = waits[waits <= 2 * usual]
    look = float(np.median(looks)) if len(looks) >= FEWEST_WAITS else 0.5 * usual
    if len(looks) < FEWEST_WAITS and len(short):
        look = float(np.median(short))
    length = np.full(len(idle), usual)
    rest = np.full(len(idle), 0) if limit is None else limit - before
    good = np.flatnonzero(ran_out & (rest > 0) & (idle > look))
    if limit is not None and len(good) >= FEWEST_WAITS:
        each = pl.Series((idle[good] - look) / rest[good])
        near = each.rolling_median(WINDOW, min_samples=FEWEST_WAITS, center=True)
        near = near.fill_null(float(np.median(each.to_numpy())))
        at = np.searchsorted(good, np.arange(len(idle))).clip(0, len(good) - 1)
        length, source = near.to_numpy()[at], "timeouts"
    taking = pickups.least + min(
        pickups.queueing, 0.5 * float(np.median(length)) if len(length) else 0
    )
    return Turns(np.maximum(length, 1.0), source, look, taking)


def queue_waits(queued: I64, selected: I64, busy: I64) -> I64:
    """Times in the waiting queue of the requests that met no forward in it."""
    known = (queued < NEVER) & (selected < NEVER) & (selected >= queued)
    begin, end = queued[known], selected[known]
    out: I64 = (end - begin)[overlap(busy, begin, end) == 0]
    return out
