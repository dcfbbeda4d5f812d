"""Latency: requests, and how long they waited for their first token."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from pdtrace.metrics.tally import FAMILIES, Metric, Prices, Sample, measure_tallies

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
SEES_ARRIVALS = ("otel_spans", "client_log")
STAGES = (
    ("ttft", "received", "finished"),
    ("queue_wait", "queued", "selected"),
    ("forward", "selected", "finished"),
)


class LatencyTally:
    """Reads the request table of the run; parts hold no requests."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.requests = run.requests

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
            Metric("num_requests", n if n else None, "requests", seen.height, none),
            Metric(
                "num_unfinished_requests", unfinished if tells else None, "requests", n, tells_note
            ),
            Metric("num_failed_requests", failed if tells else None, "requests", n, tells_note),
        ]
        for name, start, end in STAGES:
            sample = Sample()
            times = finished.select(start, end).drop_nulls()
            sample.add((times[end] - times[start]).cast(pl.Int64) / 1e9)
            note = None if len(sample) else NO_REQUESTS
            rows += [
                Metric(f"{name}_p50_s", sample.quantile(0.5), "s", len(sample), note),
                Metric(f"{name}_p90_s", sample.quantile(0.9), "s", len(sample), note),
                Metric(f"{name}_p99_s", sample.quantile(0.99), "s", len(sample), note),
                Metric(f"{name}_mean_s", sample.mean(), "s", len(sample), note),
            ]
        return rows


FAMILIES.register("latency", LatencyTally)


def merge_sources(requests: pl.DataFrame) -> pl.DataFrame:
    """One row per request id: what the source nearest to the scheduler says, and the best status.

    Several sources may each know a request; their times are not mixed, because a difference of two
    clocks is not a latency. Any source that saw it finish makes it finished.

    Args:
        requests: Table ``requests``.

    Returns:
        Table ``requests`` with one row for each rid.
    """
    order = {name: i for i, name in enumerate(SOURCE_ORDER)}
    best = {"finished": 0, "failed": 1, "unfinished": 2}
    ranked = requests.with_columns(
        pl.col("source").cast(pl.String).replace_strict(order, default=9).alias("_near"),
        pl.col("status").cast(pl.String).replace_strict(best, default=9).alias("_best"),
        (pl.col("received").is_null() | pl.col("finished").is_null()).alias("_lacks"),
    )
    ranked = ranked.with_columns(
        pl.col("status").sort_by("_best").first().over("rid"),
    )
    return (
        ranked.sort("_lacks", "_near", maintain_order=True)
        .unique("rid", keep="first", maintain_order=True)
        .drop("_near", "_best", "_lacks")
    )


def measure_latency(run: Run) -> list[Metric]:
    """Measure requests from the table ``requests``, each id once.

    * ``num_requests``: ids seen; n is the number of rows over all sources. Prefill batch lines name
      no request, and ``#new-seq`` counts every chunk of a long prompt again, so lines alone cannot
      give it.
    * ``num_unfinished_requests``, ``num_failed_requests``: only where a source sees requests
      arrive; time stats are printed when one has finished.
    * ``ttft_*_s`` = finished − received. On a PD prefill engine a request is finished when its KV
      cache is handed over, which is all of the first token that this engine decides.
    * ``queue_wait_*_s`` = selected − queued; ``forward_*_s`` = finished − selected, transfer
      included.
    """
    return measure_tallies(run, [LatencyTally(run, Prices())])
