"""The change of latency by kind of request: an overall gain may be the loss of some."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.quantities import QUANTITIES
from pdtrace.compare.resampling import Ratio, draw_weights
from pdtrace.compare.verdicts import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pdtrace.compare.estimates import Kept, Side
    from pdtrace.compare.verdicts import Compared

MIN_REQUESTS = 6
MAX_PHASES = 30
_STEM = re.compile(r"^[^-_.:/]+")


def name_phases(rids: Sequence[str]) -> list[str]:
    """The phase of each request, as load clients put it into the id: what comes before a separator.

    A number at its end belongs to the name (``stagger100-1-76``) unless hardly any request has
    that name: then it counts repeats (``seed7-0-16`` is of phase seed).
    """
    stems = [name_stem(rid) for rid in rids]
    counts = Counter(stems)
    return [s if counts[s] >= MIN_REQUESTS else s.rstrip("0123456789") or s for s in stems]


def name_stem(rid: str) -> str:
    """What an id has before its first separator."""
    found = _STEM.match(rid)
    return found.group() if found else ""


def compare_phases(
    sides: tuple[Side, Side], kept: tuple[Kept, Kept]
) -> tuple[tuple[str, Compared], ...]:
    """Compare the mean latency of each phase of paired requests, in order of appearance.

    Returns:
        Name and row of each; nothing where ids tell no phases: there are under two or over thirty,
        or most hold fewer than six requests.
    """
    timed = kept[0].timed
    if timed.any():
        name = "request_latency_mean_s"
        values = [s.requests.answered - s.requests.sent for s in sides]
    else:
        timed, name = kept[0].answered, "ttft_mean_s"
        values = [
            s.requests.finished - (s.requests.arrived if k.by_arrival else s.requests.received)
            for s, k in zip(sides, kept, strict=True)
        ]
    names = np.array(name_phases(sides[0].requests.rid), dtype=object)
    sizes = Counter(names[timed].tolist())
    if not 2 <= len(sizes) <= MAX_PHASES or np.median(list(sizes.values())) < MIN_REQUESTS:
        return ()
    quantity = next(q for q in QUANTITIES if q.name == name)
    out = []
    for phase in dict.fromkeys(names[timed].tolist()):
        mask: NDArray[np.bool_] = timed & (names == phase)
        numbers, blocks = np.unique(sides[0].blocks[mask], return_inverse=True)
        below = np.bincount(blocks).astype(np.float64)
        a, b = (
            Ratio(np.bincount(blocks, weights=v[mask]).astype(np.float64), below, int(mask.sum()))
            for v in values
        )
        weights = draw_weights(len(numbers))
        out.append((str(phase), judge(quantity, a, b, (weights, weights))))
    return tuple(out)
