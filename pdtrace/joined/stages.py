"""Where each request's time went: contiguous stretches from its sending to its answer.

Every stretch ends where the next begins, so those of a request sum to its time exactly; what no
source knows becomes a stretch ``unknown`` that names the missing times, never a zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.joined.passes import NEVER, Passes, join_stretches, overlap
from pdtrace.schema import REQUEST_STAGES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.joined.waits import Waits

    I64 = NDArray[np.int64]
    Rows = dict[str, I64]

# Each time of a request, and the stage that it ends.
ENDS = (
    ("sent", None),
    ("arrived", "sending"),
    ("tokenized", "tokenize"),
    ("dispatched", "dispatch"),
    ("received", "pickup"),
    ("queued", "bootstrap"),
    ("selected", "waiting"),
    ("forward_end", "forward"),
    ("transferred", "transfer"),
    ("finished", "answer"),
    ("answered", "returning"),
)
RECEIVED, SELECTED, FORWARD_END, FINISHED = 4, 6, 7, 9  # columns of ENDS
HOLDERS = ("loop", "forward", "delayer", None)  # −1 is the last
LOOP, FORWARD, DELAYER = 0, 1, 2
OUT_OF_ORDER_NS = 1_000_000


def build_stages(
    joined: pl.DataFrame,
    passes: Passes,
    links: pl.DataFrame,
    settled: I64,
    waits: Waits,
    delayer: bool | None,
) -> pl.DataFrame:
    """Lay out the stretches of every request.

    A stretch of ``pickup`` or ``waiting`` is held by a ``forward`` while one ran on the engine
    (last selection of an iteration to its last report), and by the ``delayer`` in its episodes:
    ``waiting`` after the time that a request waits which nobody withholds, ``pickup`` while no
    forward ran. Everything else is ``loop``. ``forward`` is cut at the reports of its chunks.

    Args:
        joined: Table ``requests``, one row a request.
        passes: The prefill passes of the run.
        links: As :func:`pdtrace.joined.passes.link_requests` gives them for ``joined``.
        settled: As :func:`pdtrace.joined.passes.settle_iterations` gives it.
        waits: As :func:`pdtrace.joined.waits.find_waits` gives it.
        delayer: Whether it was on; None: not known.

    Returns:
        Table ``request_stages``, in order of request and time. A request of which fewer than two
        times are known has no row.
    """
    times, is_inferred = _times(joined, passes, links)
    times, notes = _put_in_order(times)
    rows = _lay_out(times)
    rows["is_estimated"] |= (rows["column"] == FORWARD_END) & is_inferred[rows["request"]]
    rows = _cut_chunks(rows, passes, links)
    busy = join_stretches(settled, passes.iterations["report"].to_numpy())
    rows = _cut_waits(rows, busy, waits, delayer)
    return _as_table(rows, notes, passes, joined)


def _times(
    joined: pl.DataFrame, passes: Passes, links: pl.DataFrame
) -> tuple[I64, NDArray[np.bool_]]:
    """Times of each request (a column for each of ``ENDS``, ``NEVER`` where unknown).

    Also whether the end of its forward is inferred.
    """
    queued = pl.coalesce("queued", "bootstrapped").alias("queued")
    frame = joined.with_columns(queued)
    # Time statistics end when the KV cache has gone; the answer is in the same number.
    alone = pl.col("source").cast(pl.String) == "scheduler_log"
    same = alone & (pl.col("transferred") == pl.col("finished"))
    frame = frame.with_columns(pl.when(~same.fill_null(value=False)).then(pl.col("transferred")))
    # A client's "received" and "finished" are its own times, told already as sent and answered.
    own = pl.col("arrived").is_null() & (pl.col("source").cast(pl.String) == "client_log")
    frame = frame.with_columns(
        pl.when(~own).then(pl.col(name)).alias(name) for name in ("received", "finished")
    )
    times = np.column_stack(
        [frame[name].dt.epoch("ns").fill_null(NEVER).to_numpy() for name, _ in ENDS]
    )
    # Where the client's clock lies beside the server's, its two ends say nothing of the stages.
    early = (times[:, 1] < NEVER) & (times[:, 0] < NEVER) & (times[:, 0] > times[:, 1])
    late = (times[:, 9] < NEVER) & (times[:, 10] < times[:, 9])
    for column in (0, len(ENDS) - 1):
        times[early | late, column] = NEVER
    last = links["last"].fill_null(-1).to_numpy()
    # The time statistics of the log do not tell the forward from the transfer; its last pass does.
    lacks = (times[:, FORWARD_END] == NEVER) & (last >= 0)
    report = np.minimum(passes.report[last[lacks]], times[lacks, FINISHED])
    fits = (report >= times[lacks, SELECTED]) & (times[lacks, SELECTED] < NEVER)
    times[np.flatnonzero(lacks)[fits], FORWARD_END] = report[fits]
    estimated = np.zeros(len(times), np.bool_)
    estimated[np.flatnonzero(lacks)[fits]] = True
    return times, estimated


def _put_in_order(times: I64) -> tuple[I64, NDArray[np.str_]]:
    """Times that never go back, up to the last of each request; and what had to be changed."""
    known = times < NEVER
    last = times.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    final = times[np.arange(len(times)), last]
    ordered = np.maximum.accumulate(np.where(known, times, 0), axis=1)
    ordered = np.where(known, np.minimum(ordered, final[:, None]), NEVER)
    wrong = (known & (np.abs(np.where(known, ordered - times, 0)) > OUT_OF_ORDER_NS)).any(axis=1)
    return ordered, np.where(wrong, "times out of order by more than 1 ms", "")


def _lay_out(times: I64) -> Rows:
    """One stretch between each two neighbouring known times."""
    request, column = np.nonzero(times < NEVER)
    at = times[request, column]
    begin = np.flatnonzero(request[1:] == request[:-1])
    end = begin + 1
    whole = column[end] == column[begin] + 1
    # Without the end of the transfer the answer is in the same stretch.
    named = whole | ((column[begin] == FORWARD_END) & (column[end] == FINISHED))
    stage = np.where(whole, column[end], np.where(named, FORWARD_END + 1, -1))
    return {
        "request": request[begin],
        "column": stage,
        "from": column[begin],
        "to": column[end],
        "start": at[begin],
        "end": at[end],
        "held": np.full(len(begin), -1),
        "pass": np.full(len(begin), -1),
        # the first and the last are between two clocks
        "is_estimated": (np.isin(column[end], (1, 10)) & whole).astype(np.int64),
    }


def _repeat(rows: Rows, pieces: I64) -> tuple[Rows, I64, I64]:
    """Each stretch as often as it has pieces; the stretch and the turn of each piece."""
    at = np.repeat(np.arange(len(pieces)), pieces)
    turn = np.arange(len(at)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return {name: values[at] for name, values in rows.items()}, at, turn


def _split(rows: Rows, chosen: NDArray[np.bool_], marks: I64) -> tuple[Rows, NDArray[np.bool_]]:
    """Cut the chosen stretches at the marks inside them; whether each piece is behind an odd mark.

    Args:
        rows: The stretches.
        chosen: Those to cut.
        marks: Begin, end, begin, end … of something, ascending.
    """
    low = np.searchsorted(marks, rows["start"], side="right")
    high = np.searchsorted(marks, rows["end"], side="left")
    pieces = np.where(chosen, np.maximum(high - low, 0) + 1, 1)
    out, at, turn = _repeat(rows, pieces)
    index = low[at] + turn
    later, more = turn > 0, turn < pieces[at] - 1
    out["start"][later] = marks[index[later] - 1]
    out["end"][more] = marks[index[more]]
    return out, (index % 2 == 1) & chosen[at]


def _cut_chunks(rows: Rows, passes: Passes, links: pl.DataFrame) -> Rows:
    """Cut each forward at the reports of its chunks but the last."""
    first = links["first"].fill_null(-1).to_numpy()[rows["request"]]
    last = links["last"].fill_null(-1).to_numpy()[rows["request"]]
    is_forward = (rows["column"] == FORWARD_END) & (first >= 0)
    pieces = np.where(is_forward, last - first + 1, 1)
    out, at, turn = _repeat(rows, pieces)
    chunk = np.where(is_forward[at], first[at] + turn, -1)
    out["pass"] = chunk
    low, high = rows["start"][at], rows["end"][at]
    later, more = turn > 0, turn < pieces[at] - 1
    reports = pl.Series(passes.report[chunk[more]])
    if reports.dtype.is_float():  # some are not known; nanoseconds are exact as integers alone
        reports = reports.fill_nan(None).cast(pl.Int64)
    ends = pl.DataFrame({"of": at[more], "end": reports, "low": low[more]})
    # A chunk whose report is not known takes no time: it ends where the one before it does.
    known = pl.col("end").forward_fill().over("of")
    ends = ends.select(pl.coalesce(known, "low"))
    out["end"][more] = np.clip(ends.to_series().to_numpy(), low[more], high[more])
    out["start"][later] = out["end"][np.flatnonzero(later) - 1]
    return out


def _cut_waits(rows: Rows, busy: I64, waits: Waits, delayer: bool | None) -> Rows:
    """Say what held each stretch of pickup and waiting."""
    rows, running = _split(rows, np.isin(rows["column"], (RECEIVED, SELECTED)), busy)
    ours = np.isin(rows["column"], (RECEIVED, SELECTED))
    rows["held"] = np.where(ours, np.where(running, FORWARD, LOOP), -1)
    if waits.episodes.is_empty():
        if delayer is not False:
            rows["is_estimated"] |= rows["held"] == LOOP
        return rows
    begin, end = (waits.episodes[c].dt.epoch("ns").to_numpy() for c in ("begin", "end"))
    windows = join_stretches(begin, end)
    # In an episode a forward can only have gone on with a prompt: what waits beside it is withheld.
    queued = (rows["column"] == SELECTED) & (overlap(windows, rows["start"], rows["end"]) > 0)
    first = np.r_[True, rows["request"][1:] != rows["request"][:-1]]
    first |= np.r_[True, rows["column"][1:] != rows["column"][:-1]]
    rows, is_head = _cut_heads(rows, queued & first, waits.look_ns)
    queued = (rows["column"] == SELECTED) & ~is_head
    idle = (rows["column"] == RECEIVED) & (rows["held"] == LOOP)
    rows, inside = _split(rows, queued | idle, windows)
    rows["held"] = np.where(inside, DELAYER, rows["held"])
    rows["is_estimated"] |= np.isin(rows["held"], (LOOP, DELAYER))
    return rows


def _cut_heads(
    rows: Rows, chosen: NDArray[np.bool_], head_ns: float
) -> tuple[Rows, NDArray[np.bool_]]:
    """Cut the first ``head_ns`` off the chosen stretches; whether each piece is such a head."""
    out, at, turn = _repeat(rows, 1 + chosen.astype(np.int64))
    cut = np.minimum(rows["start"] + int(head_ns), rows["end"])[at]
    chosen = chosen[at]
    out["end"] = np.where(chosen & (turn == 0), cut, out["end"])
    out["start"] = np.where(turn == 1, cut, out["start"])
    return out, chosen & (turn == 0)


def _as_table(
    rows: Rows, notes: NDArray[np.str_], passes: Passes, joined: pl.DataFrame
) -> pl.DataFrame:
    missing = {
        (a, b): f"not known: {', '.join(name for name, _ in ENDS[a + 1 : b])}"
        for a in range(len(ENDS))
        for b in range(a + 2, len(ENDS))
    }
    missing[FORWARD_END, FINISHED] = "with the answer, which is not told apart"
    pairs = zip(rows["from"].tolist(), rows["to"].tolist(), strict=True)
    absent = pl.Series([missing.get(pair) for pair in pairs], dtype=pl.String)
    wrong = pl.Series(notes[rows["request"]].tolist(), dtype=pl.String).replace("", None)
    names = pl.Series([name for _, name in ENDS[1:]] + ["unknown"], dtype=pl.String)
    holders = pl.Series(HOLDERS, dtype=pl.String)
    who = joined.select("rid", "dp_rank", "status")[rows["request"]]
    number = pl.Series(np.r_[passes.iteration, 0][rows["pass"]])
    frame = pl.DataFrame(
        {
            "request": rows["request"],
            "stage": names.gather(np.where(rows["column"] < 0, len(ENDS), rows["column"]) - 1),
            "held_by": holders.gather(rows["held"]),
            "iteration": pl.select(pl.when(pl.Series(rows["pass"] >= 0)).then(number)).to_series(),
            "start": rows["start"],
            "duration": rows["end"] - rows["start"],
            "is_estimated": rows["is_estimated"] > 0,
            "note": pl.select(pl.coalesce(absent, wrong)).to_series(),
        }
    )
    frame = pl.concat([frame, who], how="horizontal").with_columns(
        pl.from_epoch("start", time_unit="ns").dt.replace_time_zone("UTC")
    )
    # A cut on the very edge leaves an empty piece; a stage that took no time stays.
    empty = (pl.col("duration") == 0) & (pl.len().over("request", "stage") > 1)
    return REQUEST_STAGES.conform(frame.filter(~empty))
