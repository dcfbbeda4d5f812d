"""A comparison of two runs as JSON, and as content that the report's renderers show.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from pdtrace.compare.comparison import TWO_SPEEDS
from pdtrace.compare.published import LATENCY, THROUGHPUT, find_band, read_published
from pdtrace.compare.verdicts import FLOOR, MIN_BLOCKS
from pdtrace.exports.report import Report, Section
from pdtrace.wording import UNKNOWN, in_unit, number, percent, plural
from pdtrace.wording import change as describe_ratio

# Known from the compared requests alone: no warm-up is among them.
OF_REQUESTS = ("request_latency", "ttft", "group_makespan", "makespan", "served_throughput")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pdtrace.compare import Comparison
    from pdtrace.compare.verdicts import Compared
    from pdtrace.run import Run

SCHEMA_VERSION = 1
SHARE_IN_GROUPS = 0.8
ITERATION_TIMES = ("idle_rank_seconds",)


def build_comparison_json(result: Comparison) -> dict[str, Any]:
    """The comparison as plain values; a value that does not exist is null, never NaN."""
    return {
        "schema_version": SCHEMA_VERSION,
        "comparable": result.is_comparable,
        "reasons": list(result.reasons),
        "notes": list(result.notes),
        "metrics": {row.quantity.name: _row_json(row) for row in result.rows},
        "phases": {name: _row_json(row) for name, row in result.phases},
        "requests": {
            "matching": result.kind,
            "baseline": result.num_requests[0],
            "candidate": result.num_requests[1],
            "compared": result.num_matched,
            "left_out_internal": list(result.num_internal),
            "left_out_stalled": result.num_touched,
            "slower": result.num_slower[0],
            "slower_of": result.num_slower[1],
        },
        "stalls": list(result.num_stalls),
        "blocks": list(result.num_blocks),
        "published": [
            {
                "source": p.source,
                "setting": p.setting,
                "of": p.of,
                "change_ratio_low": p.low,
                "change_ratio_high": p.high,
                "note": p.note,
            }
            for p in read_published()
        ],
    }


def _row_json(row: Compared) -> dict[str, Any]:
    return {
        "baseline": _finite(row.baseline),
        "candidate": _finite(row.candidate),
        "change_ratio": _finite(row.change_ratio),
        "low": _finite(row.low),
        "high": _finite(row.high),
        "verdict": row.verdict,
        "unit": row.quantity.unit,
        "better": row.quantity.better,
        "n": list(row.n),
        "num_blocks": row.num_blocks,
        "baseline_raw": _finite(row.raw[0]),
        "candidate_raw": _finite(row.raw[1]),
        "note": row.note,
    }


def _finite(value: float | None) -> float | int | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) and abs(value) >= 1 else value


def write_comparison_json(result: Comparison) -> str:
    """The comparison as strict JSON, the same for the same runs to the last byte."""
    return json.dumps(build_comparison_json(result), indent=1, allow_nan=False) + "\n"


def build_comparison_report(result: Comparison, runs: tuple[Run, Run]) -> Report:
    """What a comparison says: the verdict in words, the metrics, what was left out, the notes."""
    sections = [_settings_section(runs)]
    if result.is_comparable:
        costs = [r for r in result.rows if r.quantity.is_cost]
        gains = [r for r in result.rows if not r.quantity.is_cost]
        times = [r for r in gains if _is_time(r)]
        passes = [r for r in gains if not _is_time(r)]
        sections += [
            _metric_section("Time", times),
            _metric_section("Fusion and idle ranks", passes),
            _metric_section("Cost", costs),
            *_phase_sections(result),
            _left_out_section(result),
            _published_section(),
        ]
    else:
        sections.append(Section("Why not", notes=result.reasons))
    if result.notes:
        sections.append(Section("Notes", notes=result.notes))
    return Report(tuple(build_verdict(result)), None, tuple(sections))


def _is_time(row: Compared) -> bool:
    return row.quantity.unit in ("s", "tok/s") and row.quantity.name not in ITERATION_TIMES


def headline(result: Comparison) -> Compared | None:
    """The metric that the verdict is about; None if nothing was measured.

    The time of a simultaneous group where nearly all requests came in groups, the latency of a
    request otherwise, and what comes nearest to it where no client was recorded.
    """
    names = ["request_latency_mean_s", "ttft_mean_s", "prefill_throughput_tok_s", "num_iterations"]
    groups = result.get("group_makespan_mean_s")
    kept = result.num_matched - result.num_touched
    if groups.verdict != "unmeasured" and 2 * groups.n[0] >= SHARE_IN_GROUPS * kept:
        names.insert(0, "group_makespan_mean_s")
    found = (result.get(name) for name in names)
    return next((row for row in found if row.verdict != "unmeasured"), None)


def build_verdict(result: Comparison) -> Iterator[str]:
    """The first lines: the gain with its interval, the cost beside it, and what changed inside."""
    if not result.is_comparable:
        yield f"Not comparable: {result.reasons[0]}."
        if len(result.reasons) > 1:
            yield f"And {len(result.reasons) - 1} more reasons below."
        return
    row = headline(result)
    if row is None:
        yield "Nothing was measured in both runs."
        return
    words = {
        "better": "The candidate is better",
        "worse": "The candidate is worse",
        "same": "No difference that matters",
        "inconclusive": f"No verdict, {_why_inconclusive(row)}",
        "unmeasured": "Not measured",
    }
    yield f"{words[row.verdict]}: {row.quantity.title}, {describe_change(row)}."
    if _differs(row.raw[0], row.baseline) or _differs(row.raw[1], row.candidate):
        yield _raw_sentence(result, row)
    yield from (f"Beware: {note}." for note in result.notes if TWO_SPEEDS in note)
    yield _cost_sentence(result)
    idle, fused = result.get("idle_rank_time_ratio"), result.get("fusion_width_mean")
    parts = [
        f"{name} {show_value(r.baseline, r)} → {show_value(r.candidate, r)}"
        for name, r in (
            ("iterations", result.get("num_iterations")),
            ("idle share of rank time", idle),
            ("fusion width", fused),
        )
        if r.verdict != "unmeasured"
    ]
    if parts:
        text = ", ".join(parts)
        yield text[0].upper() + text[1:] + "."


def _why_inconclusive(row: Compared) -> str:
    if row.low is None or row.high is None:
        return "for there is no interval"
    nearest = 0.0 if row.low <= 0 <= row.high else min(abs(row.low), abs(row.high))
    if nearest == 0:
        return "the difference could be chance"
    if nearest <= FLOOR:
        return f"repeats of one setting can differ by {percent(FLOOR)}, too"
    return "there is too little of it"


def _raw_sentence(result: Comparison, row: Compared) -> str:
    x, y = row.raw
    change = f" ({describe_ratio(y / x - 1)})" if x and y is not None else ""
    a, b = result.num_stalls
    return (
        f"With stalls included, {show_value(x, row)} → {show_value(y, row)}{change}: "
        f"{plural(a, 'pass')} of the baseline and {b:,} of the candidate stalled."
    )


def _cost_sentence(result: Comparison) -> str:
    parts = []
    slower, of = result.num_slower
    if of:
        parts.append(f"{slower:,} of {of:,} requests are answered over 5 % later")
    for row in result.rows:
        if row.quantity.is_cost and row.verdict == "worse":
            parts.append(
                f"{row.quantity.title} {show_value(row.baseline, row)} → "
                f"{show_value(row.candidate, row)}"
            )
        elif row.quantity.is_cost and row.verdict == "unmeasured" and row.raw[1]:
            x, y = (show_value(v, row) for v in row.raw)
            parts.append(f"{row.quantity.title} {x} → {y} in the whole runs")
    worse = [r for r in result.rows if r.verdict == "worse" and not r.quantity.is_cost]
    if worse:
        shown = ", ".join(
            f"{r.quantity.title} ({describe_ratio(r.change_ratio)})" for r in worse[:3]
        )
        more = f" and {len(worse) - 3} more" if len(worse) > 3 else ""
        parts.append(f"worse: {shown}{more}")
    return f"Cost: {'; '.join(parts)}." if parts else "Cost: none was measured."


def describe_change(row: Compared) -> str:
    """``0.48 s → 0.30 s (−37 %, 95 % interval −38 % to −36 %)``."""
    text = f"{show_value(row.baseline, row)} → {show_value(row.candidate, row)}"
    if row.change_ratio is None:
        return text
    if row.low is None or row.high is None:
        return f"{text} ({describe_ratio(row.change_ratio)}, no interval)"
    return (
        f"{text} ({describe_ratio(row.change_ratio)}, 95 % interval {describe_ratio(row.low)} to "
        f"{describe_ratio(row.high)})"
    )


def show_value(value: float | None, row: Compared) -> str:
    """A value in its unit."""
    return in_unit(value, row.quantity.unit)


def _metric_section(title: str, rows: list[Compared]) -> Section:
    columns = ("metric", "verdict", "baseline", "candidate", "change", "95 % from", "to", "n")
    cells = tuple(
        (
            row.quantity.title,
            row.verdict,
            show_value(row.baseline, row),
            show_value(row.candidate, row),
            describe_ratio(row.change_ratio),
            describe_ratio(row.low),
            describe_ratio(row.high),
            f"{row.n[0]:,} / {row.n[1]:,}" if row.n[0] != row.n[1] else f"{row.n[0]:,}",
        )
        for row in rows
    )
    told: dict[str, list[str]] = {}
    for r in rows:
        if r.note:
            told.setdefault(r.note, []).append(r.quantity.title)
    notes = [f"{'; '.join(titles)}: {note}" for note, titles in told.items()]
    for r in rows:
        if _differs(r.raw[0], r.baseline) or _differs(r.raw[1], r.candidate):
            x, y = (show_value(v, r) for v in r.raw)
            also = "stalls" if r.quantity.name.startswith(OF_REQUESTS) else "stalls and warm-up"
            notes.append(f"{r.quantity.title}, with {also}: {x} → {y}")
    return Section(title, columns, cells, tuple(notes), num_texts=2)


def _phase_sections(result: Comparison) -> Iterator[Section]:
    if not result.phases:
        return
    columns = ("phase", "verdict", "baseline", "candidate", "change", "95 % from", "to", "n")
    rows = tuple(
        (
            name,
            row.verdict,
            show_value(row.baseline, row),
            show_value(row.candidate, row),
            describe_ratio(row.change_ratio),
            describe_ratio(row.low),
            describe_ratio(row.high),
            f"{row.n[0]:,}",
        )
        for name, row in result.phases
    )
    title = f"By kind of request: {result.phases[0][1].quantity.title}"
    note = (
        "The kind is the first part of the request id. Of many, some differ by chance; those of "
        f"under {MIN_BLOCKS} independent stretches of time are not judged."
    )
    yield Section(title, columns, rows, (note,), num_texts=2)


def _differs(raw: float | None, value: float | None) -> bool:
    return raw is not None and value is not None and not math.isclose(raw, value, rel_tol=1e-3)


def _settings_section(runs: tuple[Run, Run]) -> Section:
    rows = []
    for name, run in zip(("baseline", "candidate"), runs, strict=True):
        d = run.engine.delayer
        state = {True: "on", False: "off", None: UNKNOWN}[d.enabled]
        rows.append(
            (
                name,
                run.files[0].path if run.files else UNKNOWN,
                state,
                UNKNOWN if d.max_delay_passes is None else str(d.max_delay_passes),
                number(d.token_usage_low_watermark),
            )
        )
    columns = ("run", "first file", "delayer", "max passes", "low watermark")
    return Section("Runs", columns, tuple(rows), num_texts=3)


def _left_out_section(result: Comparison) -> Section:
    a, b = result.num_internal
    s, t = result.num_stalls
    lines = [f"{result.num_matched:,} requests are compared, in {result.num_blocks[0]:,} blocks."]
    if result.kind != "paired":
        x, y = result.num_requests
        lines = [f"Two samples are compared: {x:,} and {y:,} requests."]
    if a or b:
        lines.append(f"Left out: {a:,} and {b:,} requests that no client sent (warm-up).")
    if s or t:
        lines.append(
            f"Left out of times: {s:,} and {t:,} stalled passes (half a second or more, over four "
            "times what their size takes; likely kernels compiled on first use), and "
            f"{result.num_touched:,} requests that were in flight during one in either run."
        )
    return Section("What is compared", notes=tuple(lines))


def _published_section() -> Section:
    rows = tuple(
        (
            p.source,
            p.setting,
            p.of,
            _describe_band(p.low, p.high),
        )
        for p in read_published()
    )
    bands = [f"{of} {_describe_band(*find_band(of))}" for of in (LATENCY, THROUGHPUT)]
    return Section(
        "Published results of delaying prefill",
        ("source", "setting", "of", "change"),
        rows,
        (f"Band of all: {'; '.join(bands)}. Other hardware, models and loads: no target.",),
        num_texts=3,
    )


def _describe_band(low: float, high: float) -> str:
    if low == high:
        return describe_ratio(low)
    return f"{describe_ratio(low)} to {describe_ratio(high)}"
