"""Do the sources agree? One quantity as two of them give it, with the known reasons to differ.

A difference that a known reason explains in full is no disagreement, and the row says the reason; a
source that did not see the whole recording is not compared.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import polars as pl

from pdtrace.schema import AGREEMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pdtrace.run import Run

FOLDING = "before 0.5.23 a message may stand for several passes, and a late subscriber misses some"
CHUNKS = (
    "a chunk's continuation is added before the delayer is asked, so it also runs in passes whose "
    "outcome is delay or none"
)
UNTIMED = (
    "estimated, and without debug lines of waits that ran out the length of a pass is a guess too"
)
NEAR_RATIO = 0.15  # how near an estimate must come


@dataclass(frozen=True)
class Row:
    """One row of the table ``agreement``."""

    what: str
    source_a: str
    value_a: float | None
    source_b: str
    value_b: float | None
    verdict: str
    reason: str | None = None
    difference: float | None = None


def compare(
    what: str,
    a: tuple[str, float | None],
    b: tuple[str, float | None],
    *,
    allowed: float = 0,
    reason: str | None = None,
    blocked: str | None = None,
    doubt: str | None = None,
) -> Row:
    """Compare two values.

    Args:
        what: The quantity.
        a, b: Source and value.
        allowed: Difference that ``reason`` explains.
        reason: Why they may differ; said only where they do.
        blocked: Why they cannot be compared, if so.
        doubt: Why a difference would say nothing.
    """
    x, y = a[1], b[1]
    if blocked or x is None or y is None:
        return Row(what, a[0], x, b[0], y, "not_comparable", blocked or "a value is missing")
    if doubt and abs(y - x) > allowed:
        return Row(what, a[0], x, b[0], y, "not_comparable", doubt)
    verdict = "agrees" if abs(y - x) <= allowed else "differs"
    return Row(what, a[0], x, b[0], y, verdict, reason if y != x else None, y - x)


def check_agreement(
    run: Run, joined: pl.DataFrame, others: Mapping[str, tuple[Run, bool]]
) -> pl.DataFrame:
    """Compare what the sources of a run say of the same quantities.

    Args:
        run: The run.
        joined: Table ``requests``, one row a request, with the column ``sources``.
        others: Name → the run rebuilt in another way (from spans, from times alone), and whether
            it must agree exactly (else its own confidence says how often it may err).

    Returns:
        Table ``agreement``; empty where there is but one source.
    """
    rows = [
        *_iterations(run, others),
        *_batches(run),
        *_outcomes(run),
        *_waits(run),
        *_requests(run, joined),
        *_followed(run),
        *_tokens(run),
    ]
    if not rows:
        return AGREEMENT.empty()
    return AGREEMENT.conform(pl.DataFrame([asdict(r) for r in rows], infer_schema_length=None))


def _iterations(run: Run, others: Mapping[str, tuple[Run, bool]]) -> Iterator[Row]:
    mine = _widths(run)
    own = f"by {run.grouping}"
    for name, (other, is_exact) in others.items():
        theirs = _widths(other)
        slack, reason, blocked = 0.0, None, None
        if not is_exact:
            slack = max(1.0, 3 * theirs["doubt"])
            reason = "inferred: some iterations may be put together wrongly"
        elif theirs["passes"] < mine["passes"]:
            blocked = f"{name} saw {theirs['passes']:,.0f} of {mine['passes']:,.0f} prefill batches"
        for what, key in (
            ("iterations", "iterations"),
            ("iterations on all ranks", "fused"),
            ("iterations on one rank", "solo"),
        ):
            yield compare(
                what, (own, mine[key]), (name, theirs[key]),
                allowed=slack, reason=reason, blocked=blocked,
            )  # fmt: skip


def _widths(run: Run) -> dict[str, float]:
    out = dict.fromkeys(("iterations", "fused", "solo", "passes", "idle", "doubt"), 0.0)
    for part in run:
        width = part.iterations["fusion_width"]
        out["iterations"] += len(width)
        out["fused"] += int((width == part.iterations["dp_size"]).sum())
        out["solo"] += int((width == 1).sum())
        out["passes"] += int(width.cast(pl.Int64).sum())
        out["doubt"] += float(len(width) - part.iterations["confidence"].cast(pl.Float64).sum())
        out["idle"] += int(part.iterations["num_idle_ranks"].cast(pl.Int64).sum())
    return out


def _batches(run: Run) -> Iterator[Row]:
    """Prefill batches and idle passes as log, spans and forward-pass metrics saw them."""
    counts: dict[tuple[str, str], int] = {}
    for part in run:
        seen = part.events.group_by(
            pl.col("source").cast(pl.String), pl.col("kind").cast(pl.String)
        ).len()
        for source, kind, n in seen.iter_rows():
            counts[source, kind] = counts.get((source, kind), 0) + n
    log = counts.get(("scheduler_log", "prefill"))
    spans = counts.get(("otel_spans", "prefill"))
    fpm = counts.get(("fpm", "prefill"))
    base, name = (log, "log") if log else (spans, "spans")
    if log and spans:
        died = any(i.kind == "crash" for i in run.incidents)
        why = "the engine died: spans of what ran then were never sent" if died else None
        yield compare(
            "prefill batches",
            ("log", log),
            ("spans", spans),
            allowed=4 * run.dp_size if died else 0,
            reason=why,
        )
    if base and fpm is not None:
        gap = None if fpm == base else f"{FOLDING}: {fpm:,} of {base:,} batches"
        yield compare("prefill batches", (name, base), ("forward-pass metrics", fpm), blocked=gap)
        idle = counts.get(("fpm", "idle"), 0)
        mine = _widths(run)["idle"]
        yield compare(
            "idle rank passes", ("inferred", mine), ("forward-pass metrics", idle), blocked=gap
        )


def _outcomes(run: Run) -> Iterator[Row]:
    """The engine's own counters of the negotiation, against iterations and debug lines."""
    told = run.decisions.with_columns(
        pl.col("source").cast(pl.String), pl.col("output_reason").cast(pl.String)
    )
    counters = told.filter(pl.col("source") == "prometheus")
    if counters.is_empty():
        return
    doubt = _doubt_of_counters(run)
    executed = counters.filter(pl.col("actual_execution"))
    width = _widths(run)
    reason = pl.col("output_reason")
    outside = float(executed.filter(reason.is_in(["", "delay"]))["count"].sum())
    yield compare(
        "prefill batches", (f"by {run.grouping}", width["passes"]),
        ("engine counters: actual_execution", float(executed["count"].sum())), doubt=doubt,
    )  # fmt: skip
    fused = _of_rank(executed.filter(pl.col("output_reason").is_in(["no_wait", "wait_success"])))
    yield compare(
        "iterations on all ranks", (f"by {run.grouping}", width["fused"]),
        ("engine counters: no_wait + wait_success", fused),
        allowed=outside, reason=CHUNKS, doubt=doubt,
    )  # fmt: skip
    let = counters.filter(pl.col("output_reason").is_in(["wait_timeout", "token_watermark"]))
    mixed_let = let.filter(pl.col("input_estimation").cast(pl.String) == "mixed")
    yield compare(
        "iterations on some ranks", (f"by {run.grouping}", width["iterations"] - width["fused"]),
        ("engine counters: wait_timeout, watermark", _of_rank(mixed_let)),
        allowed=outside, reason=CHUNKS, doubt=doubt,
    )  # fmt: skip
    lines = told.filter(
        pl.col("source") == "scheduler_log", pl.col("output_reason") == "wait_timeout"
    )
    if lines.height:
        timeouts = counters.filter(pl.col("output_reason") == "wait_timeout")
        yield compare(
            "waits that ran out", ("debug lines", _of_rank(lines)),
            ("engine counters", _of_rank(timeouts)), doubt=doubt,
        )  # fmt: skip


def _doubt_of_counters(run: Run) -> str | None:
    if sum(f.source == "prometheus" for f in run.files) > 1:
        return None
    return "one scrape of the counters only: it may be from before the load"


def _of_rank(decisions: pl.DataFrame) -> float:
    """Passes of these outcomes; every rank counts every pass, so the rank that saw most."""
    per_rank = decisions.group_by("dp_rank").agg(pl.col("count").sum())
    return float(str(per_rank["count"].max() or 0))


def _waits(run: Run) -> Iterator[Row]:
    """Waits of the negotiation, as counters and as the requests that waited."""
    counters = run.decisions.filter(
        pl.col("source").cast(pl.String) == "prometheus", pl.col("count") > 0
    )
    if counters.is_empty() or run.stages.is_empty():
        return
    reason = pl.col("output_reason").cast(pl.String)
    timed = run.decisions.filter(reason == "wait_timeout", pl.col("ts").is_not_null()).height > 0
    num = _of_rank(counters.filter(reason.is_in(["wait_success", "wait_timeout"])))
    windows = run.episodes["ended_by"].cast(pl.String).is_in(["fused", "timeout"]).sum()
    yield compare(
        "waits of the delayer", ("engine counters", num), ("requests held", float(windows or 0)),
        allowed=max(1.0, NEAR_RATIO * num),
        reason="estimated: a wait is told by which ranks had a request, and since when",
        doubt=_doubt_of_counters(run) or (None if timed else UNTIMED),
    )  # fmt: skip


def _requests(run: Run, joined: pl.DataFrame) -> Iterator[Row]:
    if joined.is_empty() or "sources" not in joined.columns:
        return
    has = {
        name: pl.col("sources").list.contains(source)
        for name, source in (
            ("log", "scheduler_log"), ("spans", "otel_spans"), ("client", "client_log"),
        )
    }  # fmt: skip
    num = {name: joined.filter(told).height for name, told in has.items()}
    done = pl.col("status").cast(pl.String) == "finished"
    if num["log"] and num["spans"]:
        extra = joined.filter(has["spans"] & ~has["log"] & ~done).height
        yield compare(
            "requests", ("log, time statistics", num["log"]), ("spans", num["spans"]),
            allowed=extra, reason="time statistics are printed for finished requests only",
        )  # fmt: skip
    engine = "spans" if num["spans"] else "log"
    if not num["client"] or not num[engine]:
        return
    sent = joined.filter(has["client"])
    lost = sent.filter(~has[engine])
    first = sent["sent"].min()
    extra_ones = joined.filter(has[engine] & ~has["client"])
    at = pl.coalesce("arrived", "received")
    early = extra_ones.filter(at < first).height if first is not None else 0
    failed = lost.filter(~done).height
    told = [
        f"{early} before the client's first (warm-up)" if early else "",
        f"{failed} that failed left no trace on the engine" if failed else "",
    ]
    died = any(i.kind == "crash" for i in run.incidents) and failed > 0
    yield compare(
        "requests", (f"{engine}, engine side", num[engine]), ("client", num["client"]),
        allowed=max(early, failed) if early == extra_ones.height and failed == lost.height else 0,
        reason="; ".join(t for t in told if t) or None,
        blocked=f"the engine died: {failed:,} requests that failed left no trace" if died else None,
    )  # fmt: skip
    both = joined.filter(has[engine] & has["client"])
    ended = both.filter(pl.col("finished").is_not_null()).height
    yield compare(
        "requests of both that finished", (engine, ended),
        ("client", both.filter(done & pl.col("answered").is_not_null()).height),
    )  # fmt: skip


def _followed(run: Run) -> Iterator[Row]:
    """Requests and chunks in the batches of the log, and those whose batches were found."""
    if run.stages.is_empty() or not any(f.source == "scheduler_log" for f in run.files):
        return
    num, coarse = 0, False
    for part in run:
        lines = part.events.filter(
            pl.col("iteration").is_not_null(),
            pl.col("kind").cast(pl.String) == "prefill",
            pl.col("source").cast(pl.String) == "scheduler_log",
        )
        num += int(lines["num_new_seqs"].cast(pl.Int64).sum())
        width = lines["ts_resolution"].dt.total_milliseconds().max()
        coarse = coarse or int(str(width or 0)) > 100
    doubt = None
    if coarse:
        doubt = "lines in whole seconds: which batch a chunk was in is inferred from tokens"
    elif any(i.kind == "crash" for i in run.incidents):
        doubt = "the engine died: what ran then left a line, but no request that finished"
    yield compare(
        "requests in prefill batches", ("log, #new-seq", num),
        ("requests followed", run.stages["iteration"].count()), doubt=doubt,
    )  # fmt: skip


def _tokens(run: Run) -> Iterator[Row]:
    """Prompt tokens computed, by log, spans, forward-pass metrics and counters."""
    sums: dict[str, int] = {}
    num: dict[str, int] = {}
    for part in run:
        lines = part.events.filter(pl.col("kind").cast(pl.String) == "prefill")
        for source, tokens, n in (
            lines.group_by(pl.col("source").cast(pl.String))
            .agg(pl.col("num_new_tokens").cast(pl.Int64).sum(), pl.len())
            .iter_rows()
        ):
            sums[source] = sums.get(source, 0) + tokens
            num[source] = num.get(source, 0) + n
    base = "scheduler_log" if "scheduler_log" in sums else "otel_spans"
    if base not in sums:
        return
    name = {"scheduler_log": "log", "otel_spans": "spans", "fpm": "forward-pass metrics"}
    for other in ("otel_spans", "fpm"):
        if other in sums and other != base:
            blocked = None
            if num[other] != num[base]:
                blocked = f"{num[other]:,} of {num[base]:,} batches were seen"
            yield compare(
                "prompt tokens computed", (name[base], sums[base]), (name[other], sums[other]),
                blocked=blocked,
            )  # fmt: skip
    counted = run.counters.filter(
        pl.col("counter") == "realtime_tokens_total",
        pl.col("labels").str.contains("mode=prefill_compute", literal=True),
    )
    if counted.height:
        yield compare(
            "prompt tokens computed", (name[base], sums[base]),
            ("engine counters: realtime_tokens_total", float(counted["growth"].sum())),
            doubt=_doubt_of_counters(run),
        )  # fmt: skip
