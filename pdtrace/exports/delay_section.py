"""The delayer in a report: what it was set to and did, its episodes, their cost and balance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.exports.section import Section
from pdtrace.wording import UNKNOWN, number, percent, plural, seconds, whole

if TYPE_CHECKING:
    from pdtrace.delayer.balance import Entry
    from pdtrace.delayer.ledger import Ledger, Totals
    from pdtrace.exports.report import Numbers
    from pdtrace.run import Run

END_TEXTS = {
    "fused": "all ranks ready",
    "timeout": "wait ran out",
    "watermark": "low watermark",
    "open": "recording ended",
    "unknown": "unknown",
}
SHOWN_EPISODES = 5
SHOWN_RIDS = 3
COUNTED_FROM = {
    "timeouts": "from the waits that ran out",
    "pickups": "from when requests are picked up",
    "default": "assumed, as of a usual GPU host",
}


def delayer_section(run: Run, m: Numbers) -> Section:
    """What the delayer was set to, and what it did."""
    d = run.engine.delayer
    if d.enabled is None:
        state = "Nothing says whether it was on: the server_args line of the log would."
    elif not d.enabled:
        return Section("PrefillDelayer", notes=("Off.",))
    else:
        low = d.token_usage_low_watermark
        mark = "no low watermark" if low is None else f"low watermark {low:g} of the KV pool"
        bound = UNKNOWN if d.max_delay_passes is None else d.max_delay_passes
        state = f"On: waits up to {bound} passes, {mark}."
    outcomes = (
        ("prefill delayed", "num_delay_passes"),
        ("prefill allowed at once, all ranks ready", "num_delay_no_waits"),
        ("prefill allowed after a wait, all ranks ready", "num_delay_successes"),
        ("prefill allowed, wait ran out", "num_delay_timeouts"),
        ("prefill allowed, KV pool under the watermark", "num_delay_watermark_allows"),
    )
    # Without a watermark none can be under it: a zero would only be noise.
    has_mark = d.token_usage_low_watermark is not None
    told = [o for o in outcomes if has_mark or "watermark" not in o[1] or m.get(o[1])]
    known = [(text, name) for text, name in told if m.get(name) is not None]
    rows = tuple((text, whole(m.get(name))) for text, name in known)
    notes = [state]
    if "debug lines" in m.note("num_delay_timeouts") and rows:
        notes.append("Counted from the debug lines of the log.")
    missing = [name for _, name in told if m.get(name) is None]
    if missing:
        what = "other outcomes" if rows else "its outcomes"
        notes.append(f"The number of {what} is not known: {m.note(missing[0])}.")
    waited = m.get("delay_seconds_total")
    note = m.note("delay_seconds_total")
    estimate = f" ({note})" if note.startswith("estimated") else ""
    notes.append(
        f"Waited {seconds(waited)} in all{estimate}."
        if waited is not None
        else f"Time waited is not known: {m.note('delay_seconds_total')}."
    )
    return Section("PrefillDelayer", ("outcome", "scheduler passes"), rows, tuple(notes))


def ledger_section(ledger: Ledger) -> Section | None:
    """Episodes by how they ended, what they cost and saved, and the balance with the counters."""
    if ledger.reason is not None:
        if not ledger.balance:  # nothing was on that could have waited
            return None
        told = [_balance_line(e) for e in ledger.balance if e.counted]
        return Section("Delay episodes", notes=(f"None: {ledger.reason}.", *told))
    table = ledger.episodes.with_columns(
        pl.col("ended_by").cast(pl.String),
        (pl.col("wait").dt.total_nanoseconds() / 1e9).alias("wait_s"),
    )
    rows = [
        _row(text, mine)
        for how, text in END_TEXTS.items()
        if (mine := table.filter(pl.col("ended_by") == how)).height
    ]
    if len(rows) > 1:
        rows.append(_row("all", table))
    notes = [*_cost_notes(ledger.totals, table), *ledger.notes]
    notes = [n if n.endswith(".") else f"{n[0].upper()}{n[1:]}." for n in notes]
    notes += [_balance_line(e) for e in ledger.balance]
    if any("≈" in cell for row in rows for cell in row):
        notes.append("≈: estimated, in part.")
    columns = (
        "ended by", "episodes", "waited", "p50", "longest", "delay passes", "withheld",
        "forwards saved",
    )  # fmt: skip
    return Section("Delay episodes", columns, tuple(rows), tuple(notes))


def episode_section(ledger: Ledger) -> Section | None:
    """The episodes that cost most: who waited, for whom, and how it ended."""
    known = ledger.episodes.filter(pl.col("begin").is_not_null(), pl.col("request_seconds") > 0)
    if known.is_empty():
        return None
    worst = known.sort("request_seconds", descending=True).head(SHOWN_EPISODES).sort("begin")
    rows = [
        (
            r["begin"].strftime("%H:%M:%S.%f")[:-3],
            _name_requests(r["held"]),
            _name_requests(r["joined"]),
            END_TEXTS[r["ended_by"]],
            seconds(r["wait"].total_seconds()),
            seconds(r["request_seconds"]),
        )
        for r in worst.iter_rows(named=True)
    ]
    columns = ("from (UTC)", "withheld", "joined", "ended by", "waited", "withheld in all")
    return Section("Delay episodes that cost most", columns, tuple(rows), num_texts=4)


def _row(text: str, table: pl.DataFrame) -> tuple[str, ...]:
    waits = table["wait_s"].drop_nulls()
    whole_sums = not table["wait_s"].null_count()
    estimated = (table["passes_source"].cast(pl.String) == "estimated").any()
    passes = table["num_delay_passes"]
    saved = table["num_saved_forwards"]
    middle = waits.median()
    return (
        text,
        whole(table.height),
        seconds(float(waits.sum())) if whole_sums else UNKNOWN,
        UNKNOWN if middle is None else seconds(float(str(middle))),
        UNKNOWN if middle is None else seconds(float(str(waits.max()))),
        UNKNOWN if passes.null_count() else whole(int(passes.sum())) + (" ≈" if estimated else ""),
        seconds(float(table["request_seconds"].sum())) if whole_sums else UNKNOWN,
        UNKNOWN if saved.null_count() else whole(int(saved.sum())) + " ≈",
    )


def _cost_notes(t: Totals, table: pl.DataFrame) -> list[str]:
    notes = []
    if t.num_held_requests is not None and t.request_seconds is not None:
        notes.append(
            f"{plural(t.num_held_requests, 'request')} withheld for "
            f"{number(t.request_seconds)} request-seconds: {percent(t.p50_ratio)} of the time to "
            f"first token of the slower half, {percent(t.p99_ratio)} of the slowest hundredth."
        )
    if t.saved_s is not None and t.saved_idle_rank_s is not None and t.wait_s is not None:
        notes.append(
            f"For {seconds(t.wait_s)} of waiting it saved {whole(t.num_saved_forwards)} forwards, "
            f"{seconds(t.saved_s)} of forwards and {number(t.saved_idle_rank_s, 1)} idle "
            "rank-seconds."
        )
    if t.pass_s is not None:
        source = table["pass_source"].cast(pl.String).drop_nulls().first()
        told = f", {COUNTED_FROM[str(source)]}" if source else ""
        notes.append(f"A delay pass takes {number(t.pass_s * 1e3)} ms{told}.")
    return notes


def _balance_line(entry: Entry) -> str:
    """One line of the balance: rebuilt, counted, and by how much they differ."""

    def said(value: float | None) -> str:
        return seconds(value) if entry.unit == "s" else whole(value)

    text = f"{entry.what[0].upper()}{entry.what[1:]}: {said(entry.rebuilt)} rebuilt"
    if entry.counted is not None:
        text += f", {said(entry.counted)} by {entry.counted_by}"
    gap = entry.difference
    if gap is not None:
        sign = "+" if gap > 0 else "−" if gap < 0 else "±"
        text += f" ({sign}{said(abs(gap))})"
    return text + (f"; {entry.note}." if entry.note else ".")


def _name_requests(text: str | None) -> str:
    """The first requests of each rank, from JSON: ``0: a, b, + 3; 1: c``."""
    named = []
    for one in json.loads(text or "[]"):
        rids = one["rids"]
        more = [f"+ {len(rids) - SHOWN_RIDS}"] if len(rids) > SHOWN_RIDS else []
        rank = "?" if one["dp_rank"] is None else one["dp_rank"]
        named.append(f"{rank}: " + ", ".join([*rids[:SHOWN_RIDS], *more]))
    return "; ".join(named) or "nobody"
