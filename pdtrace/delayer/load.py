"""The recorded load and passes as arrays: what the replay repeats and what it is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.run import Run

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]
    Flags = NDArray[np.bool_]

# Requests whose batches were not recorded may be among a load, but not that many.
MOST_PASSES_RATIO, FEW_PASSES = 10, 1000
DAY_S = 86_400.0
LONGEST_S = 31 * DAY_S


@dataclass(frozen=True)
class Load:
    """Requests in order of arrival; n values each, seconds since ``origin_ns``.

    Attributes:
        origin_ns: Nanoseconds since the epoch.
        rid: Request ids (untrusted text).
        arrival: When the controller had dispatched it, the earliest time a scheduler can see it.
        arrival_source: ``routed``, ``dispatched``, ``sent`` or ``received``; the last is stamped at
            pickup, up to a pass late, so simultaneous requests look staggered.
        rank, tokens: DP rank; uncached prompt tokens.
        picked, selected, forward_end: As recorded; nan where unknown.
        begin, finish: Ends of its latency as recorded: the client's sending and answer where there
            is a client log, otherwise receipt and completion at the engine.
        first: Receipt by the engine, from which its time to first token counts.
        done: Completion at the engine.
        hold: How long its KV was held after its forward (the transfer), seconds; 0 where nothing
            says it.
    """

    origin_ns: int
    rid: list[str]
    arrival: F64
    arrival_source: str
    rank: I64
    tokens: F64
    picked: F64
    selected: F64
    forward_end: F64
    begin: F64
    finish: F64
    first: F64
    done: F64
    hold: F64

    def __len__(self) -> int:
        return len(self.arrival)


@dataclass(frozen=True)
class Passes:
    """Recorded passes; n of them, R ranks, seconds since the load's origin.

    Attributes:
        launch: When the batch was launched.
        end: When the first rank reported.
        report: n × R, when each rank reported; nan where it ran nothing.
        tokens: n × R new tokens.
        busy: n durations as reports have them (``duration`` of an iteration); nan: unknown.
        squares: n × R sums of 2·L·l − l² over the sequences of a batch (l new tokens after s
            computed ones: 2·l·(s + l) − l²; L the longest): attention's work.
    """

    launch: F64
    end: F64
    report: F64
    tokens: F64
    squares: F64
    busy: F64

    def __len__(self) -> int:
        return len(self.launch)


def read_load(requests: pl.DataFrame) -> Load:
    """Arrays of the recorded requests.

    Args:
        requests: Table ``requests``, one row a request.

    Raises:
        InputError: No request has an arrival, a rank and a length.
    """
    rows = requests.filter(
        pl.col("dp_rank").is_not_null() & pl.col("num_prompt_tokens").is_not_null()
    )
    source = next(
        (
            c
            for c in ("routed", "dispatched", "sent", "received")
            if rows[c].count() >= 0.9 * len(rows) > 0
        ),
        None,
    )
    if source is None:
        raise InputError(
            "nothing to replay: no request with its arrival and its rank; record spans "
            "(--enable-trace), or at least request time stats "
            "(--enable-request-time-stats-logging)"
        )
    rows = rows.filter(pl.col(source).is_not_null()).sort(source, maintain_order=True)
    stamp = rows[source].dt.timestamp("ns").to_numpy()
    origin = int(stamp[0]) - 10**9

    def seconds(*names: str) -> F64:
        column = rows.select(pl.coalesce(*names).dt.timestamp("ns"))[:, 0]
        out: F64 = (column.cast(pl.Float64) - origin).fill_null(np.nan).to_numpy() / 1e9
        return out

    cached = rows["num_cached_tokens"].cast(pl.Float64).fill_null(0.0).clip(0.0).to_numpy()
    held = seconds("transferred") - seconds("forward_end")
    both = rows["sent"].is_not_null() & rows["answered"].is_not_null()
    has_client = int(both.sum()) > 0.5 * len(rows)
    return Load(
        origin_ns=origin,
        rid=rows["rid"].to_list(),
        arrival=(stamp - origin) / 1e9,
        arrival_source=source,
        rank=rows["dp_rank"].to_numpy().astype(np.int64),
        tokens=np.maximum(rows["num_prompt_tokens"].to_numpy() - cached, 1.0),
        picked=seconds("received"),
        selected=seconds("selected"),
        forward_end=seconds("forward_end", "transferred", "finished"),
        begin=seconds("sent") if has_client else seconds("arrived", "received"),
        finish=seconds("answered") if has_client else seconds("finished", "transferred"),
        first=seconds("arrived", "received"),
        done=seconds("finished", "transferred"),
        hold=np.maximum(np.nan_to_num(held), 0.0),
    )


def read_passes(run: Run, load: Load) -> Passes:
    """Arrays of the rebuilt passes.

    Args:
        run: The run; its spans' schedule events give launch times where there are any.
        load: From :func:`read_load`.

    Raises:
        InputError: No iteration was rebuilt.
    """
    iterations, events = run.iterations, run.events
    if not len(iterations):
        raise InputError("nothing to replay: no iteration could be rebuilt from this recording")
    origin, ranks, n = load.origin_ns, run.dp_size, len(iterations)
    first = int(iterations["iteration"][0])
    placed = events.filter(pl.col("iteration").is_not_null()).sort("iteration", "dp_rank")
    at = placed["iteration"].to_numpy().astype(np.int64) - first
    rank = placed["dp_rank"].to_numpy().astype(np.int64)
    tokens = np.zeros((n, ranks))
    tokens[at, rank] = placed["num_new_tokens"].fill_null(0).to_numpy()
    seqs = np.zeros((n, ranks), np.int64)
    seqs[at, rank] = placed["num_new_seqs"].fill_null(1).to_numpy()
    report = np.full((n, ranks), np.nan)
    t = (placed["ts"].dt.timestamp("ns").to_numpy() - origin) / 1e9
    by_span = bool((placed["source"] == "otel_spans").all())
    length = placed["duration"].dt.total_nanoseconds().cast(pl.Float64).fill_null(np.nan) / 1e9
    report[at, rank] = t + length.to_numpy() if by_span else t
    end = (iterations["end"].dt.timestamp("ns").to_numpy() - origin) / 1e9
    launch = _launches(events, placed, at, n, origin)
    start = iterations["start"].dt.timestamp("ns").cast(pl.Float64).fill_null(np.nan).to_numpy()
    launch = np.where(np.isnan(launch), (start - origin) / 1e9, launch)
    lasted = iterations["duration"].dt.total_nanoseconds().cast(pl.Float64) / 1e9
    busy = lasted.fill_null(np.nan).to_numpy()
    return Passes(launch, end, report, tokens, _squares(load, tokens, seqs, report), busy)


def require_believable(load: Load, passes: Passes, chunk: float) -> None:
    """Refuse a load that the recorded passes cannot have computed: its replay would take for ever.

    Args:
        load: The requests.
        passes: The passes of the same recording.
        chunk: Tokens that a rank computes in a pass, at most.

    Raises:
        InputError: It needs far more passes than there are, or lasts longer than any recording.
    """
    needed = float(np.bincount(load.rank, weights=load.tokens).max()) / chunk
    if needed > MOST_PASSES_RATIO * len(passes) + FEW_PASSES:
        raise InputError(
            f"nothing to replay: the requests of a rank have the tokens of {needed:,.0f} passes of "
            f"{chunk:,.0f}, and the recording has {len(passes):,} passes; the longest prompt is "
            f"said to have {load.tokens.max():,.0f} tokens"
        )
    lasted = float(load.arrival.max() - load.arrival.min())
    if lasted > LONGEST_S:
        raise InputError(
            f"nothing to replay: the requests arrived within {lasted / DAY_S:,.0f} days; at most "
            f"{LONGEST_S / DAY_S:.0f} can be replayed"
        )


def find_passes(load: Load, passes: Passes) -> tuple[I64, I64]:
    """First and last pass of each request, as indices; last < first where neither is known.

    The first is the next to be launched after its selection, the last the one that its rank
    reported nearest to the end of its last forward.
    """
    first = np.searchsorted(passes.launch, load.selected)
    last = np.full(len(load), -1)
    for r in range(passes.report.shape[1]):
        ran = np.flatnonzero(~np.isnan(passes.report[:, r]))
        mine = np.flatnonzero((load.rank == r) & ~np.isnan(load.forward_end))
        if len(ran):
            ran = ran[np.argsort(passes.report[ran, r])]
            middles = (passes.report[ran[1:], r] + passes.report[ran[:-1], r]) / 2
            last[mine] = ran[np.searchsorted(middles, load.forward_end[mine])]
    return np.where(np.isnan(load.selected), np.maximum(last, 0), first), last


def _launches(events: pl.DataFrame, placed: pl.DataFrame, at: I64, n: int, origin: int) -> F64:
    """Latest schedule event of each pass; nan where spans say nothing of it.

    A rank's schedule events and its placed batches are the same batches in the same order.
    """
    out = np.full(n, np.nan)
    spans = events.filter((pl.col("source") == "otel_spans") & (pl.col("kind") == "prefill"))
    for r in placed["dp_rank"].unique().to_list():
        mine = at[(placed["dp_rank"] == r).to_numpy()]
        stamps = np.sort(
            (spans.filter(pl.col("dp_rank") == r)["ts"].dt.timestamp("ns").to_numpy() - origin)
            / 1e9
        )
        if len(stamps) == len(mine):
            out[mine] = np.fmax(out[mine], stamps)
    return out


def _squares(load: Load, tokens: F64, seqs: I64, report: F64) -> F64:
    """Attention work of every batch, from the lengths of the requests that were in it."""
    out = np.zeros_like(tokens)
    for r in range(tokens.shape[1]):
        mine = np.flatnonzero(load.rank == r)
        mine = mine[np.argsort(load.selected[mine], kind="stable")]
        lengths, picked = load.tokens[mine], load.selected[mine]
        at, done, rest = 0, 0.0, 0.0
        previous = -np.inf
        for i in np.flatnonzero(seqs[:, r]):
            left, num = tokens[i, r], int(seqs[i, r])
            parts: list[tuple[float, float]] = []
            if rest > 0:
                take = min(rest, left)
                parts.append((done, take))
                rest, done, left, num = rest - take, done + take, left - take, num - 1
            # Requests that were never seen to run must not shift the later ones.
            while at < len(mine) and picked[at] < previous - 60.0:
                at += 1
            for _ in range(num):
                if at < len(mine) and left > 0 and not picked[at] > report[i, r]:
                    take = min(lengths[at], left)
                    parts.append((0.0, take))
                    left -= take
                    if take < lengths[at]:
                        rest, done = lengths[at] - take, take
                    at += 1
            previous = report[i, r]
            known = sum(x for _, x in parts)
            if abs(known - tokens[i, r]) > 0.1 * tokens[i, r] + 64 * seqs[i, r]:
                each = tokens[i, r] / max(seqs[i, r], 1)
                parts, rest = [(0.0, each)] * int(seqs[i, r]), 0.0
            longest = max((s + x for s, x in parts), default=0.0)
            out[i, r] = sum(2 * x * (longest if s == 0 else s + x) - x * x for s, x in parts)
    return out
