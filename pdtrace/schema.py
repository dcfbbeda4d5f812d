"""Every table of pdtrace: grain, columns, dtype, unit, meaning; and the enumerations in them.

``docs/data-model.md`` is generated from this module (``python -m pdtrace.schema``). Absent is null,
never zero: a column is nullable where a source may not know it, and the metric that needed it says
so in its note.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

SOURCES = ("scheduler_log", "otel_spans", "prometheus", "fpm", "client_log")
EVENT_KINDS = ("prefill", "decode", "idle")
ROLES = ("prefill", "decode", "idle", "unknown")
GROUPINGS = ("label", "span", "time", "gap")
DURATION_SOURCES = ("selection", "gap", "bounded")
OUTPUT_REASONS = ("", "no_wait", "wait_success", "wait_timeout", "token_watermark", "delay")
INPUT_ESTIMATIONS = ("all", "mixed", "none")
REQUEST_STATUSES = ("finished", "failed", "unfinished")
STAGES = (
    "sending", "tokenize", "dispatch", "pickup", "bootstrap", "waiting", "forward", "transfer",
    "answer", "returning", "unknown",
)  # fmt: skip
HOLDS = ("delayer", "forward", "loop")
CAUSES = (
    "nothing_arrived", "not_yet_eligible", "held_by_delayer", "other_rank_mid_chunk", "unknown",
)  # fmt: skip
CAUSE_DETAILS = (
    "arrived_after_selection", "in_bootstrap", "not_selected", "nothing_arrived", "withheld",
    "arrived_while_running",
)  # fmt: skip
WAIT_ENDS = ("fused", "timeout", "watermark", "open", "unknown")
PASSES_SOURCES = ("counted", "limit", "estimated")
PASS_SOURCES = ("timeouts", "pickups", "default")
VERDICTS = ("agrees", "differs", "not_comparable")
CHANGE_VERDICTS = ("better", "worse", "same", "inconclusive", "unmeasured")

TIME = pl.Datetime("ns", "UTC")
SPAN = pl.Duration("ns")


@dataclass(frozen=True)
class Column:
    """One column: its name, polars dtype, unit, meaning, and whether it may be null."""

    name: str
    dtype: pl.DataType | type[pl.DataType]
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A declared table: what one row is, and its columns in order."""

    name: str
    grain: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> dict[str, pl.DataType | type[pl.DataType]]:
        """Column name → dtype, in declared order."""
        return {c.name: c.dtype for c in self.columns}

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def empty(self) -> pl.DataFrame:
        """A frame with no rows and exactly the declared columns."""
        return pl.DataFrame(schema=self.schema)

    def conform(self, frame: pl.DataFrame, only: Collection[str] | None = None) -> pl.DataFrame:
        """Give a frame the declared columns, order and dtypes; missing columns become null.

        Args:
            frame: Any subset of the declared columns; others are dropped.
            only: Leave it at these columns.

        Raises:
            ValueError: A column that may not be null is missing or holds nulls.
        """
        out = frame.select(
            (pl.col(c.name) if c.name in frame.columns else pl.lit(None))
            .cast(c.dtype)
            .alias(c.name)
            for c in self.columns
            if only is None or c.name in only
        )
        for c in self.columns:
            if c.name in out.columns and not c.nullable and out[c.name].null_count():
                raise ValueError(f"{self.name}.{c.name} may not be null")
        return out


EVENTS = Table(
    "events",
    "one batch seen on one DP rank, by one source",
    (
        Column("event_id", pl.UInt32, "number of the row within the run, in order of reading"),
        Column("source", pl.Enum(SOURCES), "which kind of input it was read from"),
        Column("source_id", pl.UInt16, "index into the run's list of files"),
        Column(
            "line",
            pl.UInt32,
            "1-based line of the file; null where the format has no lines",
            nullable=True,
        ),
        Column(
            "ts",
            TIME,
            "time stamp of the line (end of the forward from 0.5.10 on, before it through 0.5.8)",
        ),
        Column("ts_resolution", SPAN, "the true time lies in [ts, ts + ts_resolution)"),
        Column("engine_run", pl.UInt16, "0-based count of engine starts seen before this line"),
        Column("dp_rank", pl.UInt16, "attention-DP rank (0 where the log prints none)"),
        Column("tp_rank", pl.UInt16, "tensor-parallel rank", nullable=True),
        Column("pp_rank", pl.UInt16, "pipeline stage", nullable=True),
        Column("kind", pl.Enum(EVENT_KINDS), "what the rank ran"),
        Column(
            "forward_iter",
            pl.Int64,
            "the iteration label as printed (off by +1/+2 in 0.5.10 "
            "and 0.5.11; iterations.forward_iter is corrected)",
            nullable=True,
        ),
        Column("num_new_seqs", pl.UInt32, "requests in the batch", "requests", nullable=True),
        Column("num_new_tokens", pl.UInt32, "prompt tokens computed", "tokens", nullable=True),
        Column(
            "num_cached_tokens",
            pl.Int64,
            "prefix tokens reused (releases with optimistic bootstrap print negative numbers)",
            "tokens",
            nullable=True,
        ),
        Column("num_running_reqs", pl.UInt32, "running batch", "requests", nullable=True),
        Column(
            "num_queue_reqs", pl.UInt32, "waiting queue when printed", "requests", nullable=True
        ),
        Column(
            "num_pending_tokens",
            pl.UInt32,
            "tokens still waiting when the batch was scheduled",
            "tokens",
            nullable=True,
        ),
        Column(
            "num_bootstrap_reqs",
            pl.UInt32,
            "bootstrap queue (printed as #unbootstrapped-req, #prealloc-req or #bootstrap-req)",
            "requests",
            nullable=True,
        ),
        Column(
            "num_inflight_reqs",
            pl.UInt32,
            "KV-transfer queue (#transferring-req or #inflight-req)",
            "requests",
            nullable=True,
        ),
        Column(
            "token_usage",
            pl.Float64,
            "share of the KV pool in use, the largest of the pools printed",
            "ratio",
            nullable=True,
        ),
        Column(
            "throughput_tok_s",
            pl.Float64,
            "throughput as printed; two decimals",
            "tok/s",
            nullable=True,
        ),
        Column(
            "gap",
            SPAN,
            "time since this rank's previous line, from the printed throughput: "
            "numerator tokens ÷ throughput",
            nullable=True,
        ),
        Column("duration", SPAN, "duration of the batch where the source says it", nullable=True),
        Column(
            "iteration",
            pl.UInt32,
            "the iteration it belongs to; null where it could not be put "
            "into one, or before rebuilding",
            nullable=True,
        ),
    ),
)

DECISIONS = Table(
    "decisions",
    "one outcome of the delayer's negotiation, seen `count` times",
    (
        Column("source", pl.Enum(SOURCES), "which kind of input it was read from"),
        Column("source_id", pl.UInt16, "index into the run's list of files"),
        Column("line", pl.UInt32, "1-based line", nullable=True),
        Column("ts", TIME, "when, where the source says it", nullable=True),
        Column("engine_run", pl.UInt16, "0-based count of engine starts before it"),
        Column("dp_rank", pl.UInt16, "attention-DP rank", nullable=True),
        Column("count", pl.UInt64, "how often", "passes"),
        Column("input_estimation", pl.Enum(INPUT_ESTIMATIONS), "who could prefill", nullable=True),
        Column("output_allow", pl.Boolean, "whether prefill was allowed"),
        Column("output_reason", pl.Enum(OUTPUT_REASONS), "why"),
        Column("actual_execution", pl.Boolean, "whether this rank then ran a batch", nullable=True),
        Column("num_prefillable", pl.UInt16, "DP ranks that could prefill", "ranks", nullable=True),
        Column(
            "wait_passes",
            pl.UInt64,
            "delay passes before it; counters give the sum over all "
            "allowed passes of the rank, in a row of its own with count 0",
            "passes",
            nullable=True,
        ),
        Column("wait", SPAN, "wall time waited before it; of counters as above", nullable=True),
    ),
)

REQUESTS = Table(
    "requests",
    "one request as one source knows it: a request that several sources know has a row of each",
    (
        Column("rid", pl.String, "request id, as the engine logged it (untrusted text)"),
        Column("source", pl.Enum(SOURCES), "which kind of input it was read from"),
        Column("source_id", pl.UInt16, "index into the run's list of files"),
        Column("line", pl.UInt32, "1-based line", nullable=True),
        Column("engine_run", pl.UInt16, "0-based count of engine starts before it"),
        Column("dp_rank", pl.UInt16, "attention-DP rank that prefilled it", nullable=True),
        Column("num_prompt_tokens", pl.UInt32, "length of the prompt", "tokens", nullable=True),
        Column("num_cached_tokens", pl.Int64, "prefix tokens reused", "tokens", nullable=True),
        Column("sent", TIME, "sent, by the client's clock", nullable=True),
        Column("arrived", TIME, "received by the API server", nullable=True),
        Column("tokenized", TIME, "tokenized by the API server", nullable=True),
        Column("dispatched", TIME, "sent on by the API server", nullable=True),
        Column("routed", TIME, "sent to its rank by the DP controller", nullable=True),
        Column(
            "received",
            TIME,
            "bootstrap-queue entry (entry_time); of a client's log: sent",
            nullable=True,
        ),
        Column("bootstrapped", TIME, "bootstrap done", nullable=True),
        Column("queued", TIME, "waiting-queue entry", nullable=True),
        Column("selected", TIME, "selection into a batch", nullable=True),
        Column("forward_end", TIME, "result of its last chunk processed", nullable=True),
        Column("transferred", TIME, "KV transfer done", nullable=True),
        Column("finished", TIME, "answered", nullable=True),
        Column("answered", TIME, "answer read, by the client's clock", nullable=True),
        Column("status", pl.Enum(REQUEST_STATUSES), "how it ended"),
    ),
)

COUNTERS = Table(
    "counters",
    "how much one counter of the engine grew between two scrapes",
    (
        Column("source_id", pl.UInt16, "index into the run's list of files: the later scrape"),
        Column("engine_run", pl.UInt16, "0-based count of engine starts before it"),
        Column(
            "counter",
            pl.String,
            "name without the prefix sglang:; of a histogram its _sum, _count and _bucket",
        ),
        Column("dp_rank", pl.UInt16, "attention-DP rank", nullable=True),
        Column("labels", pl.String, "its other labels as name=value, sorted, comma between"),
        Column(
            "start",
            TIME,
            "earlier scrape, where the input says when; null also where the "
            "growth is since the engine's start",
            nullable=True,
        ),
        Column("end", TIME, "later scrape, where the input says when", nullable=True),
        Column("growth", pl.Float64, "how much it grew"),
    ),
)

ITERATIONS = Table(
    "iterations",
    "one forward pass over all DP ranks of one engine",
    (
        Column("iteration", pl.UInt32, "number of the row within the run, in order of time"),
        Column("engine_run", pl.UInt16, "0-based count of engine starts before it"),
        Column(
            "forward_iter",
            pl.Int64,
            "the engine's own counter, corrected by release",
            nullable=True,
        ),
        Column(
            "start",
            TIME,
            "start of the pass: its first selection where known, otherwise end − duration",
            nullable=True,
        ),
        Column("end", TIME, "when the first of its ranks reported the result"),
        Column(
            "duration",
            SPAN,
            "share of the engine's time line that this pass took; the durations "
            "of consecutive passes do not overlap",
            nullable=True,
        ),
        Column(
            "duration_source",
            pl.Enum(DURATION_SOURCES),
            "selection: from a recorded selection "
            "time; gap: back to back with the pass before; bounded: the gap also holds waiting, "
            "so a pass of this size in this run was taken",
            nullable=True,
        ),
        Column(
            "grouping",
            pl.Enum(GROUPINGS),
            "how its ranks were put together: printed label, "
            "spans, time stamps, or throughput gaps under whole seconds",
        ),
        Column(
            "confidence", pl.Float32, "probability that exactly these ranks ran together", "ratio"
        ),
        Column("dp_size", pl.UInt16, "ranks of the engine", "ranks"),
        Column("fusion_width", pl.UInt16, "ranks that prefilled in it", "ranks"),
        Column("num_idle_ranks", pl.UInt16, "ranks that ran an idle batch", "ranks"),
        Column("num_unknown_ranks", pl.UInt16, "ranks of which nothing is known", "ranks"),
        Column("num_new_tokens", pl.UInt64, "prompt tokens computed on all ranks", "tokens"),
        Column("max_rank_new_tokens", pl.UInt32, "tokens of the busiest rank", "tokens"),
    ),
)

RANK_PASSES = Table(
    "rank_passes",
    "one iteration × DP rank; the grid is complete",
    (
        Column("iteration", pl.UInt32, "the iteration"),
        Column("dp_rank", pl.UInt16, "attention-DP rank"),
        Column("role", pl.Enum(ROLES), "what the rank ran"),
        Column("is_observed", pl.Boolean, "true: a line or message says so; false: inferred"),
        Column("event_id", pl.UInt32, "the event that says so", nullable=True),
        Column("source_id", pl.UInt16, "index into the run's list of files", nullable=True),
        Column("line", pl.UInt32, "1-based line of the file", nullable=True),
        Column("num_new_seqs", pl.UInt32, "requests in the batch", "requests", nullable=True),
        Column("num_new_tokens", pl.UInt32, "prompt tokens computed", "tokens", nullable=True),
        Column("start", TIME, "start of the iteration", nullable=True),
        Column("duration", SPAN, "duration of the iteration", nullable=True),
        Column("confidence", pl.Float32, "that of the iteration", "ratio"),
        Column(
            "cause",
            pl.Enum(CAUSES),
            "why the rank idled; null where it did not, or no source knows requests",
            nullable=True,
        ),
        Column(
            "cause_detail",
            pl.Enum(CAUSE_DETAILS),
            "how far its next request had come, or that it came while the others ran",
            nullable=True,
        ),
    ),
)

REQUEST_STAGES = Table(
    "request_stages",
    "one stretch of one request; those of a request follow one another without a gap",
    (
        Column("request", pl.UInt32, "number of the request within the run"),
        Column("rid", pl.String, "its id (untrusted text)"),
        Column("dp_rank", pl.UInt16, "attention-DP rank", nullable=True),
        Column("status", pl.Enum(REQUEST_STATUSES), "how the request ended"),
        Column(
            "stage",
            pl.Enum(STAGES),
            "sending: to the server, by the client's clock; tokenize, dispatch: in the server; "
            "pickup: until the scheduler took it; bootstrap: until the waiting queue; waiting: "
            "until selected; forward: until the result; transfer: of the KV cache; answer: until "
            "finished; returning: to the client; unknown: times between are missing",
        ),
        Column(
            "held_by",
            pl.Enum(HOLDS),
            "of pickup and waiting: delayer: prefill was withheld; forward: one ran; loop: the "
            "scheduler's own time",
            nullable=True,
        ),
        Column("iteration", pl.UInt32, "of forward: the iteration of the chunk", nullable=True),
        Column("start", TIME, "begin of the stretch"),
        Column("duration", SPAN, "its length"),
        Column("is_estimated", pl.Boolean, "an end of it is inferred, not read"),
        Column(
            "note", pl.String, "of unknown and shortened stretches: what is missing", nullable=True
        ),
    ),
)

DELAY_EPISODES = Table(
    "delay_episodes",
    "one episode in which the negotiation withheld prefill",
    (
        Column("episode", pl.UInt32, "number of the row within the run, in order of time"),
        Column("engine_run", pl.UInt16, "0-based count of engine starts before it"),
        Column(
            "begin",
            TIME,
            "from when a request could have been running and was withheld; null where no source "
            "knows requests",
            nullable=True,
        ),
        Column("end", TIME, "when prefill was allowed, or the recording ended", nullable=True),
        Column("wait", SPAN, "wall time between", nullable=True),
        Column(
            "iteration", pl.UInt32, "the iteration that ended it; null: none did", nullable=True
        ),
        Column(
            "ended_by",
            pl.Enum(WAIT_ENDS),
            "fused: every rank had a request; timeout: the wait ran out; watermark: the KV pool "
            "was under the low watermark; open: the recording ended before; unknown",
        ),
        Column("is_observed", pl.Boolean, "a line says how it ended; false: inferred from who ran"),
        Column(
            "num_prefillable",
            pl.UInt16,
            "ranks that had a request at its end",
            "ranks",
            nullable=True,
        ),
        Column(
            "held_ranks",
            pl.String,
            "ranks whose requests were withheld, comma between",
            nullable=True,
        ),
        Column(
            "joined_ranks",
            pl.String,
            "ranks of requests that came in its course and ran in the iteration that ended it",
            nullable=True,
        ),
        Column("num_held", pl.UInt32, "requests withheld", "requests", nullable=True),
        Column("num_joined", pl.UInt32, "requests that joined", "requests", nullable=True),
        Column(
            "held",
            pl.String,
            "requests withheld, JSON: a list of {dp_rank, rids} (ids are untrusted text)",
            nullable=True,
        ),
        Column("joined", pl.String, "requests that joined, likewise", nullable=True),
        Column(
            "num_delay_passes",
            pl.UInt32,
            "scheduler passes on which prefill was withheld",
            "passes",
            nullable=True,
        ),
        Column(
            "passes_source",
            pl.Enum(PASSES_SOURCES),
            "counted: the engine's counters tell; limit: a wait that runs out lasts "
            "max_delay_passes − 1; estimated: time ÷ length of a pass",
            nullable=True,
        ),
        Column("pass_s", pl.Float64, "length of a delay pass about then", "s", nullable=True),
        Column(
            "pass_source",
            pl.Enum(PASS_SOURCES),
            "timeouts: waits that ran out ÷ their passes; pickups: how unevenly requests are taken "
            "in; default: of a usual host",
            nullable=True,
        ),
        Column(
            "num_forwards",
            pl.UInt32,
            "forwards in its course, which only went on with prompts of other ranks",
            "forwards",
            nullable=True,
        ),
        Column(
            "request_seconds",
            pl.Float64,
            "Σ time that requests were withheld in it",
            "s",
            nullable=True,
        ),
        Column(
            "ttft_ratio",
            pl.Float64,
            "that ÷ Σ time to first token of the requests withheld",
            "ratio",
            nullable=True,
        ),
        Column(
            "num_saved_forwards",
            pl.Int32,
            "estimate: forwards that its requests would have taken had each run as soon as it "
            "could, less the one they took",
            "forwards",
            nullable=True,
        ),
        Column(
            "saved_s",
            pl.Float64,
            "estimate: time of these forwards less that of the one they took; negative where "
            "running together took longer",
            "s",
            nullable=True,
        ),
        Column(
            "saved_idle_rank_s",
            pl.Float64,
            "estimate: idle rank time in these forwards less that in the one they took",
            "s",
            nullable=True,
        ),
    ),
)

TTFT_BREAKDOWN = Table(
    "ttft_breakdown",
    "one stage of the time to first token, and what held it",
    (
        Column("stage", pl.Enum(STAGES), "as in request_stages"),
        Column("held_by", pl.Enum(HOLDS), "as in request_stages", nullable=True),
        Column("mean_s", pl.Float64, "mean over the requests; these sum to their mean time", "s"),
        Column("p50_s", pl.Float64, "of the request at the 50th percentile", "s"),
        Column("p99_s", pl.Float64, "of the request at the 99th percentile", "s"),
        Column("share", pl.Float64, "of the mean", "ratio"),
        Column("is_estimated", pl.Boolean, "an end of some stretch is inferred, not read"),
        Column("note", pl.String, "what it holds besides, or lacks", nullable=True),
    ),
)

IDLE_CAUSES = Table(
    "idle_causes",
    "one cause of idle rank passes",
    (
        Column("cause", pl.Enum(CAUSES), "as in rank_passes"),
        Column("cause_detail", pl.Enum(CAUSE_DETAILS), "as in rank_passes", nullable=True),
        Column("num_passes", pl.UInt64, "idle rank passes", "passes"),
        Column("seconds", pl.Float64, "Σ durations of their iterations, where known", "s"),
        Column("share", pl.Float64, "of all idle rank passes", "ratio"),
    ),
)

AGREEMENT = Table(
    "agreement",
    "one quantity as two sources give it",
    (
        Column("what", pl.String, "the quantity"),
        Column("source_a", pl.String, "the first source"),
        Column("value_a", pl.Float64, "what it says", nullable=True),
        Column("source_b", pl.String, "the second source"),
        Column("value_b", pl.Float64, "what it says", nullable=True),
        Column("difference", pl.Float64, "second − first", nullable=True),
        Column("verdict", pl.Enum(VERDICTS), "whether they agree, known reasons allowed for"),
        Column("reason", pl.String, "why they may differ, or cannot be compared", nullable=True),
    ),
)

METRICS = Table(
    "metrics",
    "one number",
    (
        Column("metric", pl.String, "name, with its unit as suffix where it has one"),
        Column("dp_rank", pl.UInt16, "the rank it is of; null: the whole engine", nullable=True),
        Column("value", pl.Float64, "the number; null where the input cannot tell", nullable=True),
        Column("unit", pl.String, "count, ratio, s, tok/s, tokens, ranks, requests, usd, gpu_h"),
        Column("low", pl.Float64, "lower end of its interval", nullable=True),
        Column("high", pl.Float64, "upper end of its interval", nullable=True),
        Column("n", pl.UInt64, "rows it was computed from", "rows"),
        Column("note", pl.String, "where it comes from, or what would give it", nullable=True),
    ),
)

COMPARISONS = Table(
    "comparisons",
    "one metric of two runs",
    (
        Column("metric", pl.String, "name, as in metrics where it is measured there too"),
        Column("unit", pl.String, "as in metrics"),
        Column("better", pl.Enum(("lower", "higher")), "the direction that users want"),
        Column("baseline", pl.Float64, "value, stalls left out of times", nullable=True),
        Column("candidate", pl.Float64, "likewise", nullable=True),
        Column("change_ratio", pl.Float64, "candidate ÷ baseline − 1", "ratio", nullable=True),
        Column("low", pl.Float64, "lower end of its 95 % interval", "ratio", nullable=True),
        Column("high", pl.Float64, "upper end of it", "ratio", nullable=True),
        Column("verdict", pl.Enum(CHANGE_VERDICTS), "of the candidate"),
        Column("num_blocks", pl.UInt32, "independent blocks behind the interval", "blocks"),
        Column("baseline_n", pl.UInt64, "rows it was computed from", "rows"),
        Column("candidate_n", pl.UInt64, "likewise", "rows"),
        Column("baseline_raw", pl.Float64, "with stalls and warm-up", nullable=True),
        Column("candidate_raw", pl.Float64, "likewise", nullable=True),
        Column("note", pl.String, "what limits it, or would give it", nullable=True),
    ),
)

TABLES = (
    EVENTS, DECISIONS, REQUESTS, COUNTERS, ITERATIONS, RANK_PASSES, REQUEST_STAGES, DELAY_EPISODES,
    TTFT_BREAKDOWN, IDLE_CAUSES, AGREEMENT, METRICS, COMPARISONS,
)  # fmt: skip


def describe_tables() -> str:
    """Markdown of all tables: the text of ``docs/data-model.md``."""
    lines = [
        "# Data model",
        "",
        "Generated from `pdtrace/schema.py` by `python -m pdtrace.schema`; do not edit.",
        "Absent is null, never zero. Times are UTC with nanoseconds.",
    ]
    for table in TABLES:
        lines += ["", f"## {table.name}", "", f"One row: {table.grain}.", ""]
        lines += ["| column | type | null | unit | meaning |", "|---|---|---|---|---|"]
        for c in table:
            kind = (
                "enum{" + ", ".join(x or "''" for x in c.dtype.categories) + "}"
                if isinstance(c.dtype, pl.Enum)
                else str(c.dtype() if isinstance(c.dtype, type) else c.dtype)
            )
            null = "yes" if c.nullable else ""
            lines.append(f"| {c.name} | {kind} | {null} | {c.unit} | {c.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(describe_tables(), end="")  # noqa: T201  (this module run is the generator)
