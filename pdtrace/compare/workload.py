"""Whether two runs did the same work: by request id, or else by what was asked of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.matching import match_requests

if TYPE_CHECKING:
    from pdtrace.compare.matching import I64, Requests
    from pdtrace.compare.passes import Passes

MIN_SHARE = 0.2  # of the run with fewer requests that must have a partner
ALIKE = 0.05  # counts, rates and quantiles of lengths may differ by this much
ALIKE_RATES = 0.25  # rates of few requests may differ by no more than this
MIDDLE = 0.9  # of the requests, between which a rate is measured
ALIKE_TOKENS = 0.02
_DECILES = np.arange(0.1, 1.0, 0.1)


@dataclass(frozen=True)
class Workload:
    """How the requests of two runs relate.

    Attributes:
        kind: ``paired``: by id; ``unpaired``: different ids, alike in number, lengths and rate;
            ``unnamed``: no request is known, tokens are alike; ``different``.
        left, right: Rows of the baseline's and the candidate's requests, pair by pair: those that
            both runs answered.
        num_unanswered: Requests of both runs that the baseline and the candidate did not answer.
        reasons: Why they cannot be compared.
        notes: What a reader should know.
    """

    kind: str
    left: I64
    right: I64
    num_unanswered: tuple[int, int] = (0, 0)
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def compare_workloads(
    requests: tuple[Requests, Requests], passes: tuple[Passes, Passes], *, is_filtered: bool
) -> Workload:
    """Decide how two runs can be compared.

    Args:
        requests: Of the baseline and the candidate, filtered.
        passes: Of both.
        is_filtered: Only some requests were asked for, by id.
    """
    a, b = requests
    none = np.zeros(0, np.int64)
    if is_filtered and not (len(a) and len(b)):
        which = "either run" if not (len(a) or len(b)) else "the candidate" if len(a) else (
            "the baseline"
        )  # fmt: skip
        return Workload(
            "different", none, none, reasons=(f"no request of {which} matches the filter",)
        )
    if not len(a) or not len(b):
        return _compare_tokens(passes)
    left, right = match_requests(a, b)
    done = a.is_finished[left] & b.is_finished[right]
    unanswered = (int((~a.is_finished[left]).sum()), int((~b.is_finished[right]).sum()))
    fewer = min(len(a), len(b))
    if done.sum() >= MIN_SHARE * fewer:
        notes = []
        if done.sum() < max(len(a), len(b)):
            notes.append(
                f"compared on the {done.sum():,} requests that both runs answered, of {len(a):,} "
                f"and {len(b):,}" + _describe_neighbours(a, left[done], b, right[done])
            )
        return Workload("paired", left[done], right[done], unanswered, (), tuple(notes))
    if len(left) >= MIN_SHARE * fewer:
        why = f"both runs answered only {done.sum():,} of {len(left):,} requests that both got"
        return Workload("different", none, none, unanswered, (why,))
    differences = _differences(a, b, passes)
    if differences:
        why = f"only {len(left):,} requests of {len(a):,} and {len(b):,} are the same"
        return Workload("different", none, none, reasons=(f"{why}, and {'; '.join(differences)}",))
    note = (
        "the request ids differ: compared as two samples of one workload, alike in number, "
        "lengths and rate of arrival; paired requests would show smaller changes"
    )
    lost = (int((~a.is_finished).sum()), int((~b.is_finished).sum()))
    return Workload("unpaired", none, none, lost, (), (note,))


def _describe_neighbours(a: Requests, left: I64, b: Requests, right: I64) -> str:
    """How many pairs were in flight beside a request that is not compared."""
    beside = np.zeros(len(left), np.bool_)
    for run, mine in ((a, left), (b, right)):
        others = np.setdiff1d(np.arange(len(run)), mine)
        begin, end = run.begin[others], run.end[others]
        keep = np.isfinite(begin)
        # Unanswered ones are in flight to the end of the log; what they share is not known.
        end = np.where(np.isfinite(end), end, begin)[keep]
        begins, ends = np.sort(begin[keep]), np.sort(end)
        entered = np.searchsorted(begins, run.end[mine], side="left")
        left_before = np.searchsorted(ends, run.begin[mine], side="left")
        beside |= entered > left_before
    if not beside.any():
        return "; no other request was in flight beside them"
    return f"; {beside.sum():,} of them were in flight beside others, which may differ"


def _compare_tokens(passes: tuple[Passes, Passes]) -> Workload:
    none = np.zeros(0, np.int64)
    totals = [float(p.tokens.sum()) for p in passes]
    if _apart(*totals) > ALIKE_TOKENS:
        return Workload(
            "different",
            none,
            none,
            reasons=(
                "no request is named in one of the runs, and their prompt tokens differ: "
                f"{totals[0]:,.0f} and {totals[1]:,.0f}",
            ),
        )
    note = (
        "no request is named in one of the runs (time stats, spans or a client's log would): only "
        "that both computed as many prompt tokens was checked"
    )
    return Workload("unnamed", none, none, notes=(note,))


def _differences(a: Requests, b: Requests, passes: tuple[Passes, Passes]) -> list[str]:
    out = []
    if _apart(len(a), len(b)) > ALIKE:
        out.append(f"their number differs: {len(a):,} and {len(b):,}")
    x, y = a.tokens[np.isfinite(a.tokens)], b.tokens[np.isfinite(b.tokens)]
    if len(x) and len(y):
        lengths = zip(np.quantile(x, _DECILES), np.quantile(y, _DECILES), strict=True)
        if max(_apart(*pair) for pair in lengths) > ALIKE:
            out.append("the lengths of their prompts are distributed differently")
    else:
        out.append("the lengths of their prompts are not known")
    first, second = (measure_rate(r, p) for r, p in zip((a, b), passes, strict=True))
    low, high = sorted((first, second))
    allowed = min(max(ALIKE, 2 * float(np.sqrt(1 / len(a) + 1 / len(b)))), ALIKE_RATES)
    if high[0] > low[1] and _apart(low[1], high[0]) > allowed:
        out.append(
            f"they came at different rates: {first[0]:.3g} and {second[0]:.3g} a second "
            f"({allowed:.0%} may be chance among so few; warm-up and stalls do not count)"
        )
    return out


def measure_rate(requests: Requests, passes: Passes) -> tuple[float, float]:
    """How many requests came in a second, in the middle nine tenths of them: least and most.

    A tenth is left at the ends for warm-up and for what trails. Clients that wait for answers send
    nothing in a stall, others go on: least counts the time of stalls, most leaves it out.
    """
    begin = requests.begin[np.isfinite(requests.begin)]
    if not len(begin):
        return 0.0, np.inf
    low, high = np.quantile(begin, [(1 - MIDDLE) / 2, (1 + MIDDLE) / 2])
    start, length = passes.start[passes.is_stall], passes.duration[passes.is_stall]
    stalled = np.minimum(start + length, high) - np.maximum(start, low)
    num, span = MIDDLE * len(begin), float(high - low)
    rest = span - float(np.nansum(np.maximum(stalled, 0.0)))
    return num / max(span, 1e-9), num / max(rest, 1e-9)


def _apart(x: float, y: float) -> float:
    """Relative difference, the same whichever comes first."""
    return 0.0 if x == y else abs(x - y) / max(abs(x), abs(y))
