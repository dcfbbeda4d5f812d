"""One walk over a run's parts: the columns every figure draws from, as arrays.

A run may be spilled to disk, so its parts are read once here and not once per figure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.joined.breakdown import nothing_left, read_idle_of_log
from pdtrace.schema import CAUSE_DETAILS, CAUSES, ROLES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

PREFILL, DECODE, IDLE, DELAYED, UNKNOWN = range(5)
ROLE_NAMES = ("prefill", "decode", "idle", "delayed", "unknown")

QUEUES = {
    "num_queue_reqs": "waiting queue",
    "num_bootstrap_reqs": "bootstrap queue",
    "num_inflight_reqs": "KV-transfer queue",
    "token_usage": "token usage",
}

_MATRICES = ("role", "tokens", "seqs", "cause", "line", "source", "observed")
_NUM_DETAILS = len(CAUSE_DETAILS) + 1
_CODES = {"prefill": PREFILL, "decode": DECODE, "idle": IDLE, "unknown": UNKNOWN}
_LEVELS_PER_ENUM = np.array([_CODES[r] for r in ROLES], dtype=np.uint8)


@dataclass(frozen=True)
class Survey:
    """What is drawn of a run: one entry per iteration, in order of time.

    Attributes:
        run: The run it was taken from.
        start, end: Seconds since ``origin_ns``; never overlapping, so ``end`` ≤ the next ``start``.
        duration: Seconds the pass took; NaN where unknown.
        origin_ns: Time zero of the axes, nanoseconds since 1970 (UTC).
        iteration, forward_iter: Numbers; ``forward_iter`` is −1 where the engine printed none.
        confidence: Of the grouping, 0–1.
        width: Ranks that prefilled.
        delay_passes: Passes on which the delayer withheld prefill since the iteration before.
        held: Seconds just before the iteration in which the delayer withheld prefill while nothing
            ran, as the stages of requests tell it; 0 where nothing does.
        held_ranks: Iteration × rank; whether a request of the rank was withheld then.
        role, tokens, seqs, line, source: Iteration × rank matrices; line 0 means no line, and
            ``seqs`` are the requests in the batch.
        cause: Iteration × rank; why the rank idled as ``name_cause`` spells it, 0 where it did not.
        observed: Whether the role was read, not inferred; iteration × rank.
        queues: One row per event that tells a queue, with its iteration, the queue columns, and
            ``t`` in seconds.
    """

    run: Run
    origin_ns: int
    iteration: NDArray[np.int64]
    forward_iter: NDArray[np.int64]
    start: NDArray[np.float64]
    end: NDArray[np.float64]
    duration: NDArray[np.float64]
    confidence: NDArray[np.float32]
    width: NDArray[np.int64]
    delay_passes: NDArray[np.int64]
    held: NDArray[np.float64]
    held_ranks: NDArray[np.bool_]
    role: NDArray[np.uint8]
    tokens: NDArray[np.int64]
    seqs: NDArray[np.int64]
    cause: NDArray[np.uint8]
    line: NDArray[np.int64]
    source: NDArray[np.int64]
    observed: NDArray[np.bool_]
    queues: pl.DataFrame

    def __len__(self) -> int:
        return len(self.iteration)

    @property
    def dp_size(self) -> int:
        """Ranks drawn."""
        return int(self.role.shape[1])

    @property
    def busy(self) -> NDArray[np.float64]:
        """Seconds drawn of each iteration."""
        return self.end - self.start


def survey_run(run: Run | Survey) -> Survey:
    """Read what the figures need from a run, in one pass; a survey is handed back as it is."""
    if isinstance(run, Survey):
        return run
    dp_size = max(run.dp_size, 1)
    columns: dict[str, list[NDArray[Any]]] = {}
    queues: list[pl.DataFrame] = []

    def keep(name: str, values: NDArray[Any]) -> None:
        columns.setdefault(name, []).append(values)

    # A log alone still tells a rank that idles beside another's chunk.
    is_told, before = not run.requests.is_empty(), nothing_left()
    for part in run:
        iterations = part.iterations
        for name in ("iteration", "fusion_width", "confidence"):
            keep(name, iterations[name].to_numpy())
        keep("forward_iter", iterations["forward_iter"].fill_null(-1).to_numpy())
        ends = iterations["end"].dt.epoch("ns")
        took_ns = iterations["duration"].dt.total_nanoseconds()
        starts = iterations["start"].dt.epoch("ns").fill_null(ends - took_ns.fill_null(0))
        keep("start", starts.to_numpy())
        keep("end", ends.to_numpy())
        keep("duration", took_ns.cast(pl.Float64).fill_null(float("nan")).to_numpy())
        matrices = _lay_out(part.rank_passes, iterations, dp_size)
        if not is_told:
            told, before = read_idle_of_log(part, before, run)
            codes = _code_causes(told["cause"], told["cause_detail"])
            idle = matrices["role"] == IDLE
            matrices["cause"] = np.where(idle, codes[:, None], matrices["cause"])
        for name, matrix in matrices.items():
            keep(name, matrix)
        queues.append(
            part.events.filter(
                pl.col("kind") == "prefill", pl.any_horizontal(pl.col(*QUEUES).is_not_null())
            ).select("ts", "dp_rank", "iteration", *QUEUES)
        )

    def join(name: str, dtype: type[np.generic]) -> NDArray[Any]:
        parts = columns.get(name)
        if not parts:
            two = name in _MATRICES
            return np.zeros((0, dp_size) if two else 0, dtype)
        return np.concatenate(parts).astype(dtype, copy=False)

    start_ns, end_ns = join("start", np.int64), join("end", np.int64)
    duration = join("duration", np.float64) / 1e9
    order = np.argsort(start_ns, kind="stable")
    start_ns, end_ns, duration = start_ns[order], end_ns[order], duration[order]
    origin_ns = int(start_ns[0]) if len(start_ns) else 0
    start = (start_ns - origin_ns) / 1e9
    took = np.where(np.isnan(duration), np.maximum(end_ns - start_ns, 0) / 1e9, duration)
    # With overlapped scheduling a pass is selected while the one ahead of it still runs: its share
    # of the time line begins where the share before ends.
    total = np.cumsum(took)
    end = total + np.maximum.accumulate(start - (total - took)) if len(took) else start
    start = end - took
    waited, held_ranks = _find_held(run, origin_ns, start, end, dp_size)
    lines = [q for q in queues if len(q)]
    events = pl.concat(lines) if lines else pl.DataFrame(schema={"ts": pl.Datetime("ns", "UTC")})
    return Survey(
        run=run,
        origin_ns=origin_ns,
        iteration=join("iteration", np.int64)[order],
        forward_iter=join("forward_iter", np.int64)[order],
        start=start,
        end=end,
        duration=duration,
        confidence=join("confidence", np.float32)[order],
        width=join("fusion_width", np.int64)[order],
        delay_passes=_count_delay_passes(run, start_ns),
        held=waited,
        held_ranks=held_ranks,
        role=join("role", np.uint8)[order],
        tokens=join("tokens", np.int64)[order],
        seqs=join("seqs", np.int64)[order],
        cause=join("cause", np.uint8)[order],
        line=join("line", np.int64)[order],
        source=join("source", np.int64)[order],
        observed=join("observed", np.bool_)[order],
        queues=events.with_columns(((pl.col("ts").dt.epoch("ns") - origin_ns) / 1e9).alias("t")),
    )


def _lay_out(
    passes: pl.DataFrame, iterations: pl.DataFrame, dp_size: int
) -> dict[str, NDArray[Any]]:
    """Rank passes as matrices of iteration × rank; a cell without a row is unknown."""
    numbers = iterations["iteration"].to_numpy()
    rows = np.searchsorted(numbers, passes["iteration"].to_numpy())
    ranks = passes["dp_rank"].to_numpy().astype(np.int64)
    fits = ranks < dp_size
    rows, ranks = rows[fits], ranks[fits]
    shape = (len(numbers), dp_size)
    role = np.full(shape, UNKNOWN, np.uint8)
    codes = _LEVELS_PER_ENUM[passes["role"].to_physical().to_numpy()]
    if passes["cause"].null_count() < len(passes):
        cause = passes["cause"].cast(pl.String)
        delayed = cause.str.contains("delayer", literal=True).fill_null(value=False).to_numpy()
        codes = np.where(delayed & (codes == IDLE), DELAYED, codes).astype(np.uint8)
    role[rows, ranks] = codes[fits]
    out: dict[str, NDArray[Any]] = {"role": role}
    for name, column in (
        ("tokens", "num_new_tokens"),
        ("seqs", "num_new_seqs"),
        ("line", "line"),
        ("source", "source_id"),
    ):
        matrix = np.zeros(shape, np.int64)
        matrix[rows, ranks] = passes[column].fill_null(0).to_numpy()[fits]
        out[name] = matrix
    causes = np.zeros(shape, np.uint8)
    why = _code_causes(passes["cause"], passes["cause_detail"])
    causes[rows, ranks] = np.where(np.isin(codes, (IDLE, DELAYED)), why, 0)[fits]
    out["cause"] = causes
    observed = np.zeros(shape, np.bool_)
    observed[rows, ranks] = passes["is_observed"].to_numpy()[fits]
    out["observed"] = observed
    return out


def _find_held(
    run: Run,
    origin_ns: int,
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    dp_size: int,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Seconds before each iteration in which requests were withheld, and on which ranks."""
    held, ranks = np.zeros(len(start)), np.zeros((len(start), dp_size), np.bool_)
    waits = run.stages.filter(
        pl.col("held_by").cast(pl.String) == "delayer",
        pl.col("stage").cast(pl.String) == "waiting",
        pl.col("dp_rank") < dp_size,
    )
    if waits.is_empty() or not len(start):
        return held, ranks
    begin = (waits["start"].dt.epoch("ns").to_numpy() - origin_ns) / 1e9
    until = begin + waits["duration"].dt.total_nanoseconds().to_numpy() / 1e9
    # A wait ends with the selection, so the pass behind its middle is the one that took it in.
    row = np.searchsorted(start, (begin + until) / 2)
    inside = row < len(start)
    row, rank = row[inside], waits["dp_rank"].to_numpy()[inside]
    before = np.where(row > 0, end[row - 1], -np.inf)
    seconds = np.minimum(until[inside], start[row]) - np.maximum(begin[inside], before)
    np.maximum.at(held, row, seconds)
    ranks[row[seconds > 0], rank[seconds > 0]] = True
    return held, ranks


def _code_causes(cause: pl.Series, detail: pl.Series) -> NDArray[np.uint8]:
    """Cause and detail in one number from 1 up; a cause that nothing tells is ``unknown``."""
    first = cause.cast(pl.Enum(CAUSES)).fill_null("unknown").to_physical().cast(pl.Int64)
    second = detail.cast(pl.Enum(CAUSE_DETAILS)).to_physical().cast(pl.Int64) + 1
    code: NDArray[np.uint8] = (
        (1 + first * _NUM_DETAILS + second.fill_null(0)).cast(pl.UInt8).to_numpy()
    )
    return code


def name_cause(code: int) -> tuple[str, str | None]:
    """Cause and detail of a number of ``Survey.cause`` from 1 up."""
    cause, detail = divmod(code - 1, _NUM_DETAILS)
    return CAUSES[cause], CAUSE_DETAILS[detail - 1] if detail else None


def _count_delay_passes(run: Run, start_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Delay passes before each iteration, from the decisions that carry a time."""
    counts = np.zeros(len(start_ns), np.int64)
    told = run.decisions.filter(pl.col("ts").is_not_null() & (pl.col("output_reason") == "delay"))
    if not len(told) or not len(start_ns):
        return counts
    # Every rank writes the same outcome; the passes are those of the rank that wrote most.
    per_rank = told.group_by("dp_rank").agg(pl.col("count").sum())
    rank = per_rank.sort("count", "dp_rank", nulls_last=True)["dp_rank"][-1]
    told = told.filter(pl.col("dp_rank").eq_missing(rank))
    rows = np.searchsorted(start_ns, told["ts"].dt.epoch("ns").to_numpy(), side="left")
    inside = rows < len(counts)
    np.add.at(counts, rows[inside], told["count"].to_numpy().astype(np.int64)[inside])
    return counts
