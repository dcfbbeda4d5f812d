"""The report of a run as content: what is said, before any renderer says how it looks.

Text from the input is left as it is here; each renderer escapes it in its own way.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pdtrace.exports.delay_section import delayer_section, episode_section, ledger_section
from pdtrace.exports.explained import (
    Explained,
    agreement_section,
    breakdown_section,
    cause_section,
    explain,
)
from pdtrace.exports.section import Section
from pdtrace.exports.strip import Strip, find_worst_stretch
from pdtrace.exports.summary import WIDTH_PREFIX, release_of
from pdtrace.metrics.tally import MOST_BOUNDED
from pdtrace.wording import (
    UNKNOWN,
    name_ranks,
    number,
    percent,
    plural,
    seconds,
    significant,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from pdtrace.run import Run

__all__ = ["Numbers", "Report", "Section", "build_report"]  # others take Section from here

STRIP_LENGTH = 80


@dataclass(frozen=True)
class Report:
    """What a report says: up to three lines of verdict, the worst stretch, and the sections."""

    verdict: tuple[str, ...]
    strip: Strip | None
    sections: tuple[Section, ...]


@dataclass(frozen=True)
class Numbers:
    """The metrics of a run by name and rank."""

    values: dict[tuple[str, int | None], float | None]
    notes: dict[tuple[str, int | None], str | None] = field(default_factory=dict)

    def get(self, name: str, rank: int | None = None) -> float | None:
        """The value; None where it is null or was not measured."""
        return self.values.get((name, rank))

    def note(self, name: str) -> str:
        """The note of an engine-wide metric, or an empty text."""
        return self.notes.get((name, None)) or ""


def build_report(
    run: Run,
    metrics: pl.DataFrame,
    *,
    strip_length: int = STRIP_LENGTH,
    explained: Explained | None = None,
) -> Report:
    """Build the report of a run.

    Args:
        run: The run.
        metrics: Table ``metrics`` of it.
        strip_length: Iterations that the strip of the worst stretch may hold.
        explained: As :func:`pdtrace.exports.explained.explain` gives it; worked out here if not.
    """
    told = explained or explain(run)
    rows = list(metrics.select("metric", "dp_rank", "value", "note").iter_rows())
    m = Numbers({(r[0], r[1]): r[2] for r in rows}, {(r[0], r[1]): r[3] for r in rows})
    sections = (
        width_section(run, m),
        rank_section(run, m),
        request_section(m),
        breakdown_section(told.breakdown),
        cause_section(run, told.causes),
        queue_section(m),
        delayer_section(run, m),
        ledger_section(told.ledger),
        episode_section(told.ledger),
        agreement_section(told.agreement),
        engine_section(run, m),
        source_section(run),
        incident_section(run),
        Section("Warnings", notes=run.warnings) if run.warnings else None,
    )
    return Report(
        verdict=tuple(build_verdict(run, m)),
        strip=find_worst_stretch(run, strip_length),
        sections=tuple(s for s in sections if s is not None),
    )


def build_verdict(run: Run, m: Numbers) -> Iterator[str]:
    """The first lines: how often ranks ran alone, what idled, and how fast it was."""
    n, ranks = m.get("num_iterations"), run.dp_size
    if not n:
        why = next((w for w in run.warnings if "not put into iterations" in w), None)
        why = why or next((w for w in run.warnings if "cannot be put" in w), None)
        yield f"No iteration could be rebuilt: {why or m.note('num_iterations')}."
        yield f"{whole(m.get('num_new_tokens'))} prompt tokens computed."
        return
    if ranks == 1:
        yield f"{whole(n)} iterations on one DP rank: nothing could idle beside it."
    else:
        yield fusion_sentence(run, m)
        if not run.missing_ranks or m.get("idle_rank_passes") is not None:
            yield idle_sentence(run, m)
    if run.missing_ranks:
        yield (
            f"{whole(m.get('num_new_tokens'))} prompt tokens computed on the ranks that were read, "
            f"in {seconds(m.get('span_seconds'))}."
        )
        return
    speed = m.get("prefill_throughput_tok_s")
    pace = "" if speed is None else f", {whole(speed)} tok/s while busy"
    pace += " (estimated, too)" if is_rough(m) else ""
    yield (
        f"{whole(m.get('num_new_tokens'))} prompt tokens computed: engine busy "
        f"{seconds(m.get('busy_seconds'))} of {seconds(m.get('span_seconds'))}{pace}."
    )


def fusion_sentence(run: Run, m: Numbers) -> str:
    """The line about how often ranks prefilled alone and together, or why it is not known."""
    n, ranks = whole(m.get("num_iterations")), run.dp_size
    if run.missing_ranks:
        idle = "" if m.get("idle_rank_passes") is not None else " and what idled"
        return (
            f"Which of {ranks} ranks prefilled together{idle} is not known: nothing was read of DP "
            f"{name_ranks(run.missing_ranks)}. Name the logs of all ranks; {n} iterations of the "
            "others were read."
        )
    solo, fused = m.get("solo_iteration_ratio"), m.get("fully_fused_iteration_ratio")
    return (
        f"{percent(solo)} of {n} iterations prefilled on one rank of {ranks}, "
        f"{percent(fused)} on {'both' if ranks == 2 else f'all {ranks}'}."
    )


def idle_sentence(run: Run, m: Numbers) -> str:
    """The line about idle rank time, or about why it is not known."""
    share = m.get("idle_rank_time_ratio")
    if share is None:
        passes = m.get("idle_rank_passes")
        if passes is None:
            return f"Idle rank time is not known: {m.note('idle_rank_passes')}."
        part = percent(m.get("idle_rank_pass_ratio"))
        return f"{part} of the rank passes were idle ({whole(passes)}); their time is not known."
    idle, hours, cost = (
        m.get(name) for name in ("idle_rank_seconds", "idle_gpu_hours", "idle_cost_usd")
    )
    whole_time = idle / share if share and idle else (m.get("busy_seconds") or 0) * run.dp_size
    estimated = " (estimated: the log does not say when passes began)" if is_rough(m) else ""
    money = "" if hours is None else f", {significant(hours)} GPU hours"
    money += "" if cost is None else f", {significant(cost)} USD"
    return (
        f"{percent(share)} of rank time was idle: {number(idle, 1)} of "
        f"{number(whole_time, 1)} rank-seconds{money}{estimated}."
    )


def is_rough(m: Numbers) -> bool:
    """Whether so many durations are rough that their sums are estimates."""
    num_rough, n = m.get("num_bounded_durations") or 0.0, m.get("num_iterations") or 1.0
    return num_rough > MOST_BOUNDED * n


def width_section(run: Run, m: Numbers) -> Section | None:
    """Iterations, tokens and durations by fusion width."""
    n = m.get("num_iterations")
    if not n:
        return None
    if run.missing_ranks:
        return Section(
            "By fusion width: ranks that prefilled together",
            notes=(f"Not known: {m.note('fusion_width_mean')}.", f"{grouping_sentence(run, m)}"),
        )
    names = (name for name, _ in m.values if name.startswith(WIDTH_PREFIX))
    widths = sorted({int(name.removeprefix(WIDTH_PREFIX)) for name in names})
    rows = []
    for w in widths:
        count = m.get(f"{WIDTH_PREFIX}{w}") or 0
        if not count and run.dp_size > 16:
            continue
        rows.append(
            (
                str(w),
                whole(count),
                percent(count / n),
                whole(m.get(f"num_new_tokens_width_{w}") if count else 0),
                seconds(m.get(f"busy_seconds_width_{w}") if count else 0),
                *(
                    seconds(m.get(f"iteration_seconds_{q}_width_{w}"))
                    for q in ("p50", "p90", "p99")
                ),
            )
        )
    rows.append(
        (
            "all",
            whole(n),
            "100 %",
            whole(m.get("num_new_tokens")),
            seconds(m.get("busy_seconds")),
            *(seconds(m.get(f"iteration_seconds_{q}")) for q in ("p50", "p90", "p99")),
        )
    )
    notes = [
        f"On average {number(m.get('fusion_width_mean'))} of {run.dp_size} ranks prefilled. "
        f"{grouping_sentence(run, m)}"
    ]
    padded = m.get("padded_tokens")
    if padded is not None and run.dp_size > 1:
        notes.append(
            f"Waiting for the busiest rank left room for {whole(padded)} tokens more, idle "
            f"ranks included ({percent(m.get('padded_token_ratio'))} of ranks × busiest rank)."
        )
    if m.get("num_bounded_durations") or not m.get("busy_seconds"):
        notes.append(f"Durations: {m.note('iteration_seconds_p50')}.")
    columns = ("ranks", "iterations", "share", "tokens", "busy", "p50", "p90", "p99")
    return Section(
        "By fusion width: ranks that prefilled together", columns, tuple(rows), tuple(notes)
    )


def grouping_sentence(run: Run, m: Numbers) -> str:
    """How sure it is which ranks ran together."""
    how = {
        "label": "the printed iteration label says which ranks ran together",
        "span": "spans say which ranks ran together",
        "time": "time stamps tell which ranks ran together",
        "gap": "printed throughputs tell which ranks ran together",
    }.get(run.grouping, "it is not known which ranks ran together")
    sure = m.get("grouping_confidence_mean")
    if sure is None or sure == 1:
        return f"{how[0].upper()}{how[1:]}."
    return (
        f"{how[0].upper()}{how[1:]}; an iteration is right with probability {sure:.3f} on average."
    )


def rank_section(run: Run, m: Numbers) -> Section | None:
    """Work by DP rank."""
    if run.dp_size == 1 or not m.get("num_iterations"):
        return None
    has_unknown = bool(m.get("unknown_rank_passes"))
    rows = []
    for rank in range(run.dp_size):
        row = [
            f"rank {rank}",
            whole(m.get("num_prefill_passes", rank)),
            whole(m.get("idle_rank_passes", rank)),
            whole(m.get("num_new_tokens", rank)),
            seconds(m.get("prefill_rank_seconds", rank)),
            seconds(m.get("idle_rank_seconds", rank)),
            percent(m.get("prefill_time_ratio", rank)),
        ]
        if has_unknown:
            row.insert(3, whole(m.get("unknown_rank_passes", rank)))
        rows.append(tuple(row))
    columns = ["", "prefill passes", "idle passes", "tokens", "prefilling", "idle", "share of busy"]
    if has_unknown:
        columns.insert(3, "unknown passes")
    notes = []
    uneven = m.get("rank_token_imbalance_ratio")
    if uneven is not None:
        notes.append(f"The busiest rank computed {uneven:.2f} × the mean number of tokens.")
    if run.missing_ranks:
        notes.append("Idle passes: within the iterations that were read.")
    if has_unknown:
        notes.append(m.note("idle_rank_pass_ratio") + ".")
    return Section("By rank", tuple(columns), tuple(rows), tuple(notes))


def request_section(m: Numbers) -> Section:
    """Requests and their latency, or what would give them."""
    n = m.get("num_requests")
    if n is None:
        return Section("Requests", notes=(f"Not known: {m.note('num_requests')}.",))
    known = m.get("ttft_p50_s") is not None
    since = m.note("ttft_p50_s").partition(";")[0] if known else "on the engine"
    stages = (
        (f"time to first token ({since})", "ttft"),
        ("waiting queue (queued → selected)", "queue_wait"),
        ("forward and transfer (selected → finished)", "forward"),
        ("request, by the client's clock (sent → answered)", "request_latency"),
    )
    rows = tuple(
        (text, *(seconds(m.get(f"{name}_{q}_s")) for q in ("p50", "p90", "p99", "mean")))
        for text, name in stages
        if name != "request_latency" or m.get("request_latency_p50_s") is not None
    )
    open_ones, failed = m.get("num_unfinished_requests"), m.get("num_failed_requests")
    if open_ones is None:
        state = f"The number of unfinished ones is not known: {m.note('num_unfinished_requests')}."
    else:
        state = f"{whole(open_ones)} did not finish, {whole(failed)} failed."
    return Section(
        "Requests",
        ("", "p50", "p90", "p99", "mean"),
        rows,
        (f"{plural(round(n), 'request')}. {state}",),
    )


def queue_section(m: Numbers) -> Section | None:
    """Queues and the KV pool at prefill batches."""
    readings = (
        ("waiting queue", "num_queue_reqs", "requests"),
        ("tokens still to compute", "num_pending_tokens", "tokens"),
        ("bootstrap queue", "num_bootstrap_reqs", "requests"),
        ("KV transfer queue", "num_inflight_reqs", "requests"),
        ("KV pool in use", "token_usage", ""),
    )
    rows = []
    for text, name, unit in readings:
        mean, top = m.get(f"{name}_mean"), m.get(f"{name}_max")
        if mean is None:
            continue
        if unit:
            rows.append((text, f"{significant(mean)} {unit}", f"{whole(top)} {unit}"))
        else:
            rows.append((text, percent(mean), percent(top)))
    if not rows:
        return None
    return Section("Queues, as prefill batches report them", ("", "mean", "most"), tuple(rows))


def engine_section(run: Run, m: Numbers) -> Section:
    """Facts of the engine, one line."""
    e = run.engine
    source = {
        "server_args": "from server_args",
        "option": "as given",
        "tags": "largest rank seen + 1, there may be more",
    }.get(e.dp_size_source or "", "source not known")
    facts = [
        f"{e.engine} {release_of(e) or 'of unknown release'}",
        f"role {'unified' if e.role == 'null' else e.role or 'not known'}",
        f"{plural(run.dp_size, 'DP rank')} ({source})",
    ]
    facts += [
        f"{name} {value}"
        for name, value in (
            ("tp_size", e.tp_size),
            ("ep_size", e.ep_size),
            ("pp_size", e.pp_size),
            ("chunked_prefill_size", e.chunked_prefill_size),
            ("model", e.model_path),
        )
        if value is not None
    ]
    return Section("Engine", notes=("; ".join(facts) + ".",))


def source_section(run: Run) -> Section:
    """What was read."""
    rows = []
    for f in run.files:
        reasons = Counter(f.skipped).most_common()
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in reasons) or "none"
        lines = UNKNOWN if f.num_lines is None else f"{f.num_lines:,}"
        rows.append((f.path, f.source, skipped, lines, f"{f.num_events:,}"))
    columns = ("file", "read as", "skipped", "lines", "events")
    return Section("Read", columns, tuple(rows), num_texts=3)


def incident_section(run: Run) -> Section | None:
    """What the engine reported, by kind, and where it was first said."""
    counts: Counter[str] = Counter(i.kind for i in run.incidents)
    rows = []
    for kind, count in counts.items():
        first = next(i for i in run.incidents if i.kind == kind)
        path = run.files[first.source_id].path if first.source_id < len(run.files) else UNKNOWN
        rows.append((kind, f"{path}:{first.line}", f"{count:,}"))
    if not rows:
        return None
    return Section("Engine events", ("what", "first at", "times"), tuple(rows), num_texts=2)
