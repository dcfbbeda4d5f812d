"""The ledger of the delayer: one row a delay episode, what it cost and saved, and the balance.

An episode is a stretch in which the negotiation withheld prefill. Where requests are known,
episodes were found with them (``Run.episodes``); a log alone still tells the waits that ran out, by
who did not run. The balance lays what was rebuilt beside what the engine counted; nothing is scaled
to fit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.delayer.balance import NO_REQUESTS, Entry, build_balance, count_alone
from pdtrace.delayer.costs import list_held, price_episodes, share_of_slow
from pdtrace.delayer.line_waits import read_line_waits
from pdtrace.schema import DELAY_EPISODES

if TYPE_CHECKING:
    from pdtrace.run import Run

MIXED_ONLY = (
    "only waits for ranks without a request are rebuilt; where the engine also decodes, waits for "
    "free slots or a longer queue cannot be told from others"
)
SAVED_FROM = (
    "saved is an estimate: had each request run in the first forward after it stood ready, all "
    "priced by this run's typical durations for their tokens; too high where requests keep coming, "
    "as pdtrace whatif would show"
)


@dataclass(frozen=True)
class Totals:
    """Sums over the episodes; None where the input cannot tell.

    Attributes:
        num_episodes: Rows.
        num_fused, num_timeouts, num_watermark, num_unknown: By how they ended.
        num_delay_passes: Passes on which prefill was withheld.
        num_estimated_passes: Those of them that were estimated from time.
        wait_s: Wall time.
        num_held_requests: Requests that were withheld, each once.
        request_seconds: Σ over them of the time withheld.
        p50_ratio, p99_ratio: Share of that in the time to first token of the requests at or above
            its 50th and 99th percentile.
        num_saved_forwards, saved_s, saved_idle_rank_s: Estimates, see ``savings``.
        pass_s: Median length of a delay pass.
    """

    num_episodes: int = 0
    num_fused: int | None = None
    num_timeouts: int | None = None
    num_watermark: int | None = None
    num_unknown: int | None = None
    num_delay_passes: int | None = None
    num_estimated_passes: int | None = None
    wait_s: float | None = None
    num_held_requests: int | None = None
    request_seconds: float | None = None
    p50_ratio: float | None = None
    p99_ratio: float | None = None
    num_saved_forwards: int | None = None
    saved_s: float | None = None
    saved_idle_rank_s: float | None = None
    pass_s: float | None = None


@dataclass(frozen=True)
class Ledger:
    """The ledger of a run.

    Attributes:
        episodes: Table ``delay_episodes``.
        totals: Sums over it.
        balance: Beside what the engine counted.
        reason: Why there is no episode; None where there are some.
        notes: What limits the numbers.
    """

    episodes: pl.DataFrame
    totals: Totals
    balance: tuple[Entry, ...] = ()
    reason: str | None = None
    notes: tuple[str, ...] = ()


def build_ledger(run: Run) -> Ledger:
    """Build the ledger of a run.

    Args:
        run: The run; its parts are read only where the delayer was on.

    Returns:
        The ledger, empty with a reason where nothing was, or could be seen to be, withheld.
    """
    reason = _why_empty(run)
    if reason is not None:
        return Ledger(
            DELAY_EPISODES.empty(), Totals(), build_balance(run, None, is_whole=False), reason
        )
    has_requests = not run.stages.is_empty()
    episodes = run.episodes if has_requests else read_line_waits(run)
    if has_requests:
        episodes = count_alone(price_episodes(episodes, run), run)
    totals = _sum_up(episodes, run, is_whole=has_requests)
    balance = build_balance(run, episodes, is_whole=has_requests)
    if episodes.is_empty():
        reason = _why_none(run, has_requests=has_requests)
    notes = [] if has_requests else [NO_REQUESTS]
    if has_requests and run.engine.role != "prefill":
        notes.append(MIXED_ONLY)
    if totals.saved_s is not None and episodes.height:
        notes.append(SAVED_FROM)
    return Ledger(episodes, totals, balance, reason, tuple(notes))


def ledger_values(ledger: Ledger) -> dict[str, Any]:
    """The ledger without its rows, as plain values for JSON.

    Returns:
        ``totals``; ``counters``: what the engine counted, by quantity; ``balance``: ``what``,
        ``unit``, ``counted``, ``counted_by``, ``rebuilt``, ``difference``, ``note``; ``reason``;
        ``notes``.
    """
    return {
        "totals": {f.name: getattr(ledger.totals, f.name) for f in fields(Totals)},
        "counters": {e.what: _plain(e.counted, e.unit) for e in ledger.balance},
        "balance": [
            {
                "what": e.what,
                "unit": e.unit,
                "counted": _plain(e.counted, e.unit),
                "counted_by": e.counted_by,
                "rebuilt": _plain(e.rebuilt, e.unit),
                "difference": _plain(e.difference, e.unit),
                "note": e.note,
            }
            for e in ledger.balance
        ],
        "reason": ledger.reason,
        "notes": list(ledger.notes),
    }


def _plain(value: float | None, unit: str) -> float | None:
    return value if value is None or unit == "s" else round(value)


def _why_empty(run: Run) -> str | None:
    """Why nothing can have been withheld, or no episode can be rebuilt; None if neither."""
    delayer = run.engine.delayer
    if delayer.enabled is False:
        return "the engine says the delayer is off"
    if delayer.enabled is None and run.decisions.is_empty():
        return "nothing says whether the delayer was on; the server_args line of the log would"
    if delayer.max_delay_passes is not None and delayer.max_delay_passes < 2:
        return f"max_delay_passes {delayer.max_delay_passes} lets everything through at once"
    if run.dp_size < 2:
        return "one DP rank: there is nobody to wait for"
    if run.engine.role == "decode":
        return "a decode engine ignores the delayer"
    if run.grouping == "none":
        return "no iteration could be rebuilt, so no wait can be told"
    return None


def _why_none(run: Run, *, has_requests: bool) -> str:
    reasons = run.decisions["output_reason"].cast(pl.String)
    if has_requests:
        through = " (the low watermark lets it through)" if "token_watermark" in reasons else ""
        return f"prefill was never withheld{through}"
    if run.engine.delayer.token_usage_low_watermark is not None:
        return "with a low watermark a log tells waits only by its debug lines; it has none"
    return "no wait that ran out is seen in the log"


def _sum_up(episodes: pl.DataFrame, run: Run, *, is_whole: bool) -> Totals:
    ended = episodes["ended_by"].cast(pl.String)
    num = {how: int((ended == how).sum()) for how in ("fused", "timeout", "watermark", "unknown")}
    passes = episodes["num_delay_passes"]
    estimated = episodes.filter(pl.col("passes_source").cast(pl.String) == "estimated")
    held = list_held(episodes, run) if is_whole and episodes.height else None
    half, late = (None, None) if held is None else share_of_slow(run, held, (50, 99))

    def total(name: str) -> float | None:
        column = episodes[name]
        return float(column.sum()) if is_whole and not column.null_count() else None

    saved = total("num_saved_forwards")
    return Totals(
        num_episodes=episodes.height,
        num_fused=num["fused"] if is_whole else None,
        num_timeouts=num["timeout"],
        num_watermark=num["watermark"] if is_whole else None,
        num_unknown=num["unknown"] if is_whole else None,
        num_delay_passes=None if passes.null_count() or not is_whole else int(passes.sum()),
        num_estimated_passes=int(estimated["num_delay_passes"].sum()) if is_whole else None,
        wait_s=float(episodes["wait"].dt.total_nanoseconds().sum()) / 1e9 if is_whole else None,
        num_held_requests=None if held is None else held.filter("is_held")["request"].n_unique(),
        request_seconds=total("request_seconds"),
        p50_ratio=half,
        p99_ratio=late,
        num_saved_forwards=None if saved is None else round(saved),
        saved_s=total("saved_s"),
        saved_idle_rank_s=total("saved_idle_rank_s"),
        pass_s=None if episodes.is_empty() else _median(episodes["pass_s"]),
    )


def _median(column: pl.Series) -> float | None:
    value = column.median()
    return None if value is None else float(str(value))
