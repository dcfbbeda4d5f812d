"""Latency: requests, and how long they waited for their first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import FAMILIES, Metric, Prices, Sample, measure_tallies, note_partial

if TYPE_CHECKING:
    from pdtrace.run import Part, Run

NO_REQUESTS = (
    "request time stats (--enable-request-time-stats-logging), spans or a client log give it; "
    "prefill batch lines name no request"
)
FINISHED_ONLY = (
    "request time stats are printed for finished requests only; spans or a client log give it"
)
# Nearest to the scheduler first: the client's clock also holds the network and the tokenizer.
SOURCE_ORDER = ("scheduler_log", "otel_spans", "prometheus", "fpm", "client_log")
TIME = pl.int_range(pl.len())  # how often a source had an id before: after a restart it is new
SEES_ARRIVALS = ("otel_spans", "client_log")
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
STAGES = (("queue_wait", "queued", "selected"), ("forward", "selected", "finished"))
FROM_ARRIVAL = "from arrival at the server"
FROM_ENTRY = "from entry into the scheduler; spans would tell the arrival at the server"
NO_TTFT = (
    "request time stats (--enable-request-time-stats-logging) or spans give it; a client's log "
    "only tells request_latency, which holds the way there and back"
)
NO_CLIENT = "a load client's log beside the recording gives it"


class LatencyTally:
    """Reads the request table of the run; parts hold no requests."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.requests = run.requests
        only_log = (run.requests["source"] == "scheduler_log").all()
        self.partial = note_partial(run) if only_log else None

    def add(self, part: Part) -> None:
        """Parts hold no requests."""

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_latency`."""
        seen = self.requests
        one_each = merge_sources(seen)
        n = one_each.height
        finished = one_each.filter(pl.col("status") == "finished")
        failed = one_each.filter(pl.col("status") == "failed").height
        unfinished = one_each.filter(pl.col("status") == "unfinished").height
        tells = unfinished + failed > 0 or seen["source"].cast(pl.String).is_in(SEES_ARRIVALS).any()
        tells_note = None if tells else FINISHED_ONLY if n else NO_REQUESTS
        none = None if n else NO_REQUESTS
        rows = [
            Metric(
                "num_requests",
                n if n else None,
                "requests",
                seen.height,
                none or self.partial,
                low=n if n and self.partial else None,
            ),
            Metric(
                "num_unfinished_requests", unfinished if tells else None, "requests", n, tells_note
            ),
            Metric("num_failed_requests", failed if tells else None, "requests", n, tells_note),
        ]
        served = first_served(seen)
        is_arrival = served["begin"].len() > 0 and served["is_arrival"].all()
        ttft_note = FROM_ARRIVAL if is_arrival else FROM_ENTRY
        rows += spread(
            "ttft", served, "begin", "finished", ttft_note, NO_TTFT if n else NO_REQUESTS
        )
        for name, start, end in STAGES:
            rows += spread(name, finished, start, end, None, NO_REQUESTS)
        client = seen.filter(
            pl.col("source").cast(pl.String) == "client_log",
            pl.col("status").cast(pl.String) == "finished",
        )
        rows += spread("request_latency", client, "sent", "answered", None, NO_CLIENT)
        return rows


def spread(
    name: str, frame: pl.DataFrame, start: str, end: str, note: str | None, missing: str
) -> list[Metric]:
    """Quantiles and mean of the time from one column to another, over rows that have both."""
    sample = Sample()
    times = frame.select(start, end).drop_nulls()
    sample.add((times[end] - times[start]).cast(pl.Int64) / 1e9)
    n = len(sample)
    said = note if n else missing
    rows = [Metric(f"{name}_{q}_s", sample.quantile(share), "s", n, said) for q, share in QUANTILES]
    return [*rows, Metric(f"{name}_mean_s", sample.mean(), "s", n, said)]


def first_served(requests: pl.DataFrame) -> pl.DataFrame:
    """The earliest time of each finished request on the engine, and its finish, by one source.

    Args:
        requests: Table ``requests``.

    Returns:
        A row for each rid with ``begin``, ``finished`` and ``is_arrival``: whether the begin is its
        arrival at the server, not its entry into the scheduler.
    """
    source = pl.col("source").cast(pl.String)
    own = (source != "client_log") | pl.col("arrived").is_not_null()
    return (
        requests.filter(own, pl.col("status").cast(pl.String) == "finished")
        .select(
            "rid",
            pl.coalesce("arrived", "received").alias("begin"),
            "finished",
            pl.col("arrived").is_not_null().alias("is_arrival"),
            source.replace_strict({n: i for i, n in enumerate(SOURCE_ORDER)}, default=9).alias(
                "near"
            ),
            TIME.over("rid", "source").alias("time"),
        )
        .drop_nulls(["begin", "finished"])
        .sort(~pl.col("is_arrival"), "near", maintain_order=True)
        .unique(["rid", "time"], keep="first", maintain_order=True)
    )


FAMILIES.register("latency", LatencyTally)


def merge_sources(requests: pl.DataFrame) -> pl.DataFrame:
    """One row per request: what the source nearest to the scheduler says, and the best status.

    An id that a source has again, as after a restart, is another request.

    Several sources may each know a request; their times are not mixed, because a difference of two
    clocks is not a latency. Any source that saw it finish makes it finished.

    Args:
        requests: Table ``requests``.

    Returns:
        Table ``requests`` with one row for each request.
    """
    order = {name: i for i, name in enumerate(SOURCE_ORDER)}
    best = {"finished": 0, "failed": 1, "unfinished": 2}
    ranked = requests.with_columns(
        pl.col("source").cast(pl.String).replace_strict(order, default=9).alias("_near"),
        pl.col("status").cast(pl.String).replace_strict(best, default=9).alias("_best"),
        (pl.col("received").is_null() | pl.col("finished").is_null()).alias("_lacks"),
        TIME.over("rid", "source").alias("_time"),
    )
    ranked = ranked.with_columns(
        pl.col("status").sort_by("_best").first().over("rid", "_time"),
    )
    return (
        ranked.sort("_lacks", "_near", maintain_order=True)
        .unique(["rid", "_time"], keep="first", maintain_order=True)
        .drop("_near", "_best", "_lacks", "_time")
    )


def measure_latency(run: Run) -> list[Metric]:
    """Measure requests from the table ``requests``, each once whatever sources know it.

    * ``num_requests``: seen; n is the number of rows over all sources. Prefill batch lines name
      no request, and ``#new-seq`` counts every chunk of a long prompt again, so lines alone cannot
      give it.
    * ``num_unfinished_requests``, ``num_failed_requests``: only where a source sees requests
      arrive; time stats are printed when one has finished.
    * ``ttft_*_s`` = finished − arrived at the server, where spans tell it, otherwise − received by
      the scheduler. On a PD prefill engine a request is finished when its KV cache is handed over,
      which is all of the first token that this engine decides. A client's log does not enter.
    * ``request_latency_*_s`` = answered − sent, by the client's clock.
    * ``queue_wait_*_s`` = selected − queued; ``forward_*_s`` = finished − selected, transfer
      included.
    """
    return measure_tallies(run, [LatencyTally(run, Prices())])
