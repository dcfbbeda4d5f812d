"""Reads the scrapes of one engine → ``counters`` and ``decisions``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.errors import InputError
from pdtrace.run import EngineInfo, Recording, SourceFile
from pdtrace.schema import COUNTERS, DECISIONS, INPUT_ESTIMATIONS, OUTPUT_REASONS, SPAN
from pdtrace.sources.formats import MAX_RANKS
from pdtrace.sources.prometheus.scrapes import (
    PREFIX,
    Growth,
    Labels,
    Parser,
    Scrape,
    measure_growth,
    put_in_order,
)
from pdtrace.untrusted import show
from pdtrace.wording import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pdtrace.sources.formats import ReadOptions
    from pdtrace.sources.inputs import Input

OUTCOMES = "prefill_delayer_outcomes_total"
WAIT = "prefill_delayer_wait_seconds"
WAIT_PASSES = "prefill_delayer_wait_forward_passes"
# Labels that say which engine and process, not what was counted.
_PLACE = ("dp_rank", "tp_rank", "pp_rank", "moe_ep_rank", "model_name", "engine_type", "pid")


def _lines(source: Input) -> Iterator[str]:
    for block in source.blocks():
        yield from block.decode("utf-8", "replace").splitlines()


def read_metrics(inputs: Sequence[Input], options: ReadOptions) -> Recording:
    """Read the scrapes of one engine.

    Args:
        inputs: The files, opened.
        options: What the caller wants.

    Returns:
        ``counters`` rows of every counter and histogram, and ``decisions`` rows of the delayer's
        outcomes. What the first scrape already held counts where it is less than half of the last:
        then the recording holds most of the engine's life; otherwise only the growth since counts.

    Raises:
        InputError: A file has no sample of the engine.
    """
    warnings: list[str] = []
    parsed: list[tuple[str, list[Scrape]]] = []
    files = []
    for k, source in enumerate(inputs):
        parser = Parser(k)
        for line in _lines(source):
            parser.fold(line)
        scrapes = [s for s in parser.scrapes if s.values]
        if parser.num_bad:
            warnings.append(
                f"{source.path}:{parser.first_bad}: {parser.num_bad} damaged samples were left out"
                f" (this is the first{f', of {show(parser.bad_name)}' if parser.bad_name else ''})"
            )
        if parser.num_odd_times:
            warnings.append(
                f"{source.path}:{parser.first_odd_time}: times that cannot be true"
                f" ({parser.num_odd_times} in all, this is the first) were taken as not given"
            )
        if not scrapes:
            raise InputError(
                f"has no counter of the engine; expected samples such as '{PREFIX}{OUTCOMES}{{...}}"
                " 1.0' (--enable-metrics)",
                path=source.path,
            )
        parsed.append((source.path, scrapes))
        files.append(
            SourceFile(
                path=source.path,
                source="prometheus",
                num_bytes=source.num_bytes or source.done_bytes,
                num_lines=parser.num_lines,
                skipped={"damaged sample": parser.num_bad} if parser.num_bad else {},
            )
        )
    growth, num_restarts = measure_growth(put_in_order(parsed))
    if num_restarts:
        warnings.append(
            f"the engine was restarted {plural(num_restarts, 'time')} between the scrapes; what it"
            " counted between the last scrape before a restart and the restart is lost"
        )
    growth, note = _choose_base(growth)
    warnings += note
    decisions, notes = _decisions(growth, options)
    ranks = {_place(g.key[1])[0] for g in growth} - {None}
    roles = {dict(g.key[1]).get("engine_type") for g in growth}
    return Recording(
        engine=EngineInfo(
            dp_size=max(r for r in ranks if r is not None) + 1 if ranks else None,
            dp_size_source="tags" if ranks else None,
            # through 0.5.8 the label always says unified
            role=next((r for r in ("prefill", "decode") if r in roles), None),
        ),
        files=tuple(files),
        events=(),
        num_events=0,
        decisions=decisions,
        counters=_counters(growth, options),
        warnings=(*warnings, *notes),
    )


def _choose_base(growth: list[Growth]) -> tuple[list[Growth], list[str]]:
    """Keep or drop what the first scrape already held."""
    held, total = 0.0, 0.0
    passes_before = 0
    for g in growth:
        name, labels = g.key
        if not name.endswith("_total"):
            continue
        total += g.growth
        if g.is_first:
            held += g.growth
            if name == OUTCOMES and dict(labels).get("output_reason") == "delay":
                passes_before = max(passes_before, int(g.growth))
    if held == total:
        return growth, ["one scrape of the metrics only: they count since the engine's start"]
    if 2 * held <= total:
        return growth, []
    return [g for g in growth if not g.is_first], [
        "most of what the metrics count lies before the first scrape"
        f" ({passes_before} delay passes of a rank); only the growth since is taken"
    ]


def _place(labels: Labels) -> tuple[int | None, int, int]:
    """DP, TP and PP rank of a series."""
    said = dict(labels)

    def number(name: str) -> int | None:
        text = said.get(name, "")
        rank = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else MAX_RANKS
        return rank if rank < MAX_RANKS else None

    return number("dp_rank"), number("tp_rank") or 0, number("pp_rank") or 0


def _leaders(growth: Iterable[Growth]) -> set[tuple[int | None, int, int]]:
    """One process for each DP rank; with metrics of all schedulers each TP rank counts the same."""
    best: dict[int | None, tuple[int, int]] = {}
    for g in growth:
        if g.key[0].startswith("prefill_delayer_"):
            dp, tp, pp = _place(g.key[1])
            best[dp] = min(best.get(dp, (tp, pp)), (tp, pp))
    return {(dp, *rest) for dp, rest in best.items()}


def _decisions(growth: list[Growth], options: ReadOptions) -> tuple[pl.DataFrame, list[str]]:
    rows: list[dict[str, object]] = []
    waits: dict[tuple[int, int, int | None], dict[str, float]] = {}
    leaders = _leaders(growth)
    num_unknown = 0
    has_delay = False
    for g in growth:
        name, labels = g.key
        if _place(labels) not in leaders:
            continue
        dp = _place(labels)[0]
        if name == OUTCOMES and g.growth >= 1:
            said = dict(labels)
            reason, estimation = said.get("output_reason", ""), said.get("input_estimation")
            if reason not in OUTPUT_REASONS:
                num_unknown += 1
                continue
            has_delay |= reason == "delay"
            rows.append({
                "source_id": options.first_source_id + g.source_id,
                "ts": g.end, "engine_run": g.engine_run, "dp_rank": dp, "count": round(g.growth),
                "input_estimation": estimation if estimation in INPUT_ESTIMATIONS else None,
                "output_allow": said.get("output_allow") == "true", "output_reason": reason,
                "actual_execution": said.get("actual_execution") == "true",
                "wait_passes": None, "wait": None,
            })  # fmt: skip
        elif name in (f"{WAIT}_sum", f"{WAIT_PASSES}_sum"):
            at = waits.setdefault((g.source_id, g.engine_run, dp), {})
            at[name] = at.get(name, 0.0) + g.growth
    for (source_id, run, dp), said_wait in waits.items():
        seconds, passes = said_wait.get(f"{WAIT}_sum", 0.0), said_wait.get(f"{WAIT_PASSES}_sum", 0)
        if seconds > 0 or passes > 0:
            rows.append({
                "source_id": options.first_source_id + source_id, "ts": None, "engine_run": run,
                "dp_rank": dp, "count": 0, "input_estimation": None, "output_allow": True,
                "output_reason": "", "actual_execution": None,
                "wait_passes": round(passes), "wait": round(min(seconds, 1e9) * 1e9),
            })  # fmt: skip
    notes = []
    if has_delay and waits and not any(r["wait"] is not None for r in rows):
        notes.append(
            "the engine's prefill_delayer_wait_* histograms hold only zeros (its release has the"
            " error that 0.5.14 mended); no waiting time is taken from them"
        )
    if num_unknown:
        notes.append(f"{num_unknown} delayer counters have an outcome that is not known here")
    if not rows:
        return DECISIONS.empty(), notes
    frame = pl.DataFrame(
        rows,
        schema_overrides={"ts": pl.Int64, "wait": pl.Int64, "wait_passes": pl.UInt64,
                          "dp_rank": pl.UInt16, "input_estimation": pl.String,
                          "actual_execution": pl.Boolean},
    )  # fmt: skip
    return DECISIONS.conform(
        frame.with_columns(
            pl.lit("prometheus").alias("source"), _utc(pl.col("ts")), pl.col("wait").cast(SPAN)
        )
    ), notes


def _counters(growth: list[Growth], options: ReadOptions) -> pl.DataFrame:
    kept = [g for g in growth if g.growth > 0]
    frame = pl.DataFrame(
        {
            "source_id": [options.first_source_id + g.source_id for g in kept],
            "engine_run": [g.engine_run for g in kept],
            "counter": [g.key[0] for g in kept],
            "dp_rank": [_place(g.key[1])[0] for g in kept],
            "labels": [",".join(f"{k}={v}" for k, v in g.key[1] if k not in _PLACE) for g in kept],
            "start": [g.start for g in kept],
            "end": [g.end for g in kept],
            "growth": [g.growth for g in kept],
        },
        schema_overrides={"start": pl.Int64, "end": pl.Int64, "dp_rank": pl.UInt16},
    )
    return COUNTERS.conform(frame.with_columns(_utc(pl.col("start")), _utc(pl.col("end"))))


def _utc(column: pl.Expr) -> pl.Expr:
    return pl.from_epoch(column, time_unit="ns").dt.replace_time_zone("UTC")
