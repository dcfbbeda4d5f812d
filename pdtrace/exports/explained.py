"""Where time went and why ranks idled, as sections of the report and as JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from pdtrace.delayer.ledger import Ledger, build_ledger, ledger_values
from pdtrace.exports.section import Section
from pdtrace.joined.breakdown import Breakdown, break_down, count_causes
from pdtrace.wording import percent, plural, seconds, whole

if TYPE_CHECKING:
    from pdtrace.run import Run

STAGE_TEXTS = {
    "tokenize": "tokenize",
    "dispatch": "dispatch",
    "pickup": "pickup by the scheduler",
    "bootstrap": "bootstrap queue",
    "waiting": "waiting queue",
    "forward": "forward",
    "transfer": "KV transfer",
    "answer": "answer",
}
HOLD_TEXTS = {
    "delayer": "held by the delayer",
    "forward": "behind a running forward",
    "loop": "scheduler loop",
}
CAUSE_TEXTS = {
    ("nothing_arrived", None): "nothing had arrived for the rank",
    ("nothing_arrived", "arrived_while_running"): (
        "nothing had arrived for the rank; it did while the others ran"
    ),
    ("not_yet_eligible", "arrived_after_selection"): (
        "not yet eligible: arrived, but not with the scheduler at the selection"
    ),
    ("not_yet_eligible", "in_bootstrap"): "not yet eligible: in the bootstrap queue",
    ("not_yet_eligible", "not_selected"): "not yet eligible: queued, but not selected (KV budget)",
    ("held_by_delayer", None): "held by the delayer",
    ("other_rank_mid_chunk", None): "another rank went on with a chunk",
    ("other_rank_mid_chunk", "nothing_arrived"): (
        "another rank went on with a chunk, and nothing had arrived here"
    ),
    ("other_rank_mid_chunk", "arrived_after_selection"): (
        "another rank went on with a chunk, and a request was on its way here"
    ),
    ("other_rank_mid_chunk", "withheld"): (
        "another rank went on with a chunk, and the delayer withheld this one"
    ),
    ("unknown", None): "unknown",
}
VERDICT_TEXTS = {"agrees": "agrees", "differs": "DIFFERS", "not_comparable": "not comparable"}
NO_STAGES = (
    "spans or request time stats (--enable-request-time-stats-logging) tell when each "
    "request was where"
)


def breakdown_section(told: Breakdown) -> Section | None:
    """Where each millisecond of the time to first token went."""
    if not told.num_requests:
        return None
    rows = []
    for row in told.table.iter_rows(named=True):
        text = STAGE_TEXTS.get(row["stage"], row["stage"])
        if row["held_by"]:
            text += f": {HOLD_TEXTS[row['held_by']]}"
        mark = " ≈" if row["is_estimated"] else ""
        rows.append(
            (
                text + mark,
                *(milliseconds(row[f"{q}_s"]) for q in ("mean", "p50", "p99")),
                percent(row["share"]),
            )
        )
    rows.append(("all", *(milliseconds(v) for v in (told.mean_s, told.p50_s, told.p99_s)), "100 %"))
    notes = [
        f"Of {plural(told.num_requests, 'finished request')}; the p50 and p99 columns are one "
        f"request each: {told.p50_rid} and {told.p99_rid}. Held by the delayer: "
        f"{percent(told.delay_ratio)} of the time. Pickup: until the scheduler took it."
    ]
    if told.num_left_out:
        notes.append(
            f"{plural(told.num_left_out, 'request')} left out: a time between is missing, or "
            "another source saw less of it."
        )
    if told.table["is_estimated"].any():
        notes.append("≈: where it begins or ends is inferred in part, not read.")
    notes += [
        f"{STAGE_TEXTS[stage]}: {note}."
        for stage, note in told.table.filter(pl.col("note").is_not_null())
        .select("stage", "note")
        .iter_rows()
    ]
    columns = ("ms", "mean", "p50 request", "p99 request", "share of mean")
    return Section("Where the time to first token went", columns, tuple(rows), tuple(notes))


def milliseconds(value: float | None) -> str:
    """Milliseconds with one decimal; a thing that took less than a tenth is not nothing."""
    if value is None:
        return "–"
    if 0 < value < 0.00005:
        return "< 0.1"
    return f"{value * 1e3:,.1f}"


def cause_section(run: Run, causes: pl.DataFrame) -> Section | None:
    """Why ranks idled."""
    if causes.is_empty():
        return None
    rows = [
        (
            CAUSE_TEXTS.get((r["cause"], r["cause_detail"]), _plain(r)),
            whole(r["num_passes"]),
            percent(r["share"]),
            seconds(r["seconds"]),
        )
        for r in causes.iter_rows(named=True)
    ]
    num, took = int(causes["num_passes"].sum()), math.fsum(causes["seconds"])
    rows.append(("all", whole(num), "100 %", seconds(took)))
    notes = []
    if run.requests.is_empty():
        notes.append(
            "No source knows requests: only the continuation of a chunk can be told, from the "
            "tokens that lines left pending. Spans or request time stats tell the others."
        )
    elif not run.requests["arrived"].count():
        notes.append(
            "Arrivals are known only from the scheduler's entry; with spans, requests that were "
            "still on their way would stand apart."
        )
    columns = ("cause", "idle rank passes", "share", "rank time")
    return Section("Why ranks idled", columns, tuple(rows), tuple(notes))


def _plain(row: dict[str, Any]) -> str:
    text = str(row["cause"]).replace("_", " ")
    detail = row["cause_detail"]
    return f"{text}: {str(detail).replace('_', ' ')}" if detail else text


def agreement_section(agreement: pl.DataFrame) -> Section | None:
    """Do the sources agree?"""
    if agreement.is_empty():
        return None
    rows, notes = [], []
    for r in agreement.iter_rows(named=True):
        mark = ""
        if r["reason"]:
            if r["reason"] not in notes:
                notes.append(r["reason"])
            mark = f" [{notes.index(r['reason']) + 1}]"
        difference = r["difference"]
        rows.append(
            (
                r["what"],
                f"{r['source_a']} / {r['source_b']}",
                VERDICT_TEXTS[r["verdict"]] + mark,
                whole(r["value_a"]),
                whole(r["value_b"]),
                "–" if difference is None else "0" if not difference else f"{difference:+,.0f}",
            )
        )
    counts = agreement["verdict"].cast(pl.String).value_counts(sort=True)
    said = ", ".join(f"{VERDICT_TEXTS[v].lower()} {n}" for v, n in counts.iter_rows())
    columns = ("what", "sources a / b", "verdict", "a", "b", "b − a")
    lines = [f"Of {plural(agreement.height, 'comparison')}: {said}."]
    lines += [f"[{k}] {text}." for k, text in enumerate(notes, start=1)]
    return Section("Do the sources agree?", columns, tuple(rows), tuple(lines), num_texts=3)


@dataclass(frozen=True)
class Explained:
    """What several tables tell of a run together, worked out once for all outputs."""

    breakdown: Breakdown
    causes: pl.DataFrame
    agreement: pl.DataFrame
    ledger: Ledger


def explain(run: Run) -> Explained:
    """Sum up stages of requests, causes of idle passes, agreement of sources, delay episodes."""
    return Explained(break_down(run.stages), count_causes(run), run.agreement, build_ledger(run))


def explained_values(told: Explained) -> dict[str, Any]:
    """The same as plain values, by their keys in the summary: ``ttft_breakdown`` and so on."""
    b = told.breakdown
    return {
        "ttft_breakdown": {
            "num_requests": b.num_requests,
            "num_left_out": b.num_left_out,
            "p50_rid": b.p50_rid,
            "p99_rid": b.p99_rid,
            "mean_s": b.mean_s,
            "p50_s": b.p50_s,
            "p99_s": b.p99_s,
            "delay_ratio": b.delay_ratio,
            "note": None if b.num_requests else NO_STAGES,
            "stages": _rows(b.table),
        },
        "idle_causes": _rows(told.causes),
        "agreement": _rows(told.agreement),
        "delay_ledger": ledger_values(told.ledger),
    }


def _rows(table: pl.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in row.items()
        }
        for row in table.iter_rows(named=True)
    ]
