"""The engine's ``/metrics``: the delayer's outcomes and waits, tokens, requests, queues."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pdtrace.simulate.settings import MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.simulate.records import Negotiation
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timeline import RankPass, Timeline

MARK = "(simulated: written by 'pdtrace simulate', no engine ran)"
SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
COARSE_PASSES = (5, 20, 50, 100, 200)

# input_estimation, output_allow, output_reason, actual_execution
Label = tuple[str, bool, str, bool]


@dataclass
class Histogram:
    """Observations as Prometheus keeps them; ``bounds`` end in infinity."""

    bounds: tuple[float, ...]
    total: float = 0.0
    counts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = [0] * len(self.bounds)

    def observe(self, value: float) -> None:
        """Count a value."""
        self.total += value
        for k, bound in enumerate(self.bounds):
            self.counts[k] += value <= bound


class Tally:
    """What an engine has counted since its start.

    Attributes:
        tokens: New tokens of each rank.
        outcomes: Of each rank's delayer.
        waits: Of each rank, what passes that were let through, and ran, observed of their wait:
            delay passes, seconds.
        num_requests: Requests answered.
        num_prompt_tokens: Their prompt tokens.
    """

    def __init__(self, launch: Launch) -> None:
        engine = launch.engine
        limit = engine.max_delay_passes or 0
        passes = sorted({0, max(limit - 1, 0)} | {b for b in COARSE_PASSES if b < limit})
        bounds = (tuple(float(b) for b in passes), SECONDS)
        self.tokens = [0] * engine.dp_size
        self.outcomes: list[Counter[Label]] = [Counter() for _ in range(engine.dp_size)]
        self.waits = [
            tuple(Histogram((*b, math.inf)) for b in bounds) for _ in range(engine.dp_size)
        ]
        self.num_requests = 0
        self.num_prompt_tokens = 0

    def note_negotiation(self, one: Negotiation) -> None:
        """Count a pass of the delayer, or equal ones."""
        verdict = one.verdict
        for rank, outcomes in enumerate(self.outcomes):
            has_run = rank in one.executed
            outcomes[
                verdict.input_estimation, verdict.output_allow, verdict.output_reason, has_run
            ] += one.count
            if verdict.output_allow and has_run:
                for histogram, value in zip(self.waits[rank], one.waits[rank], strict=True):
                    histogram.observe(value)

    def note_batch(self, shown: RankPass) -> None:
        """Count the tokens of a batch, once it is printed."""
        self.tokens[shown.rank] += shown.batch.tokens

    def note_request(self, num_tokens: int) -> None:
        """Count a request, once it is answered."""
        self.num_requests += 1
        self.num_prompt_tokens += num_tokens


def count_until(launch: Launch, timeline: Timeline, until: int) -> Tally:
    """What the engine had counted at a moment."""
    tally = Tally(launch)
    for one in timeline.outcome.negotiations:
        if timeline.at(one.at) > until:
            break
        tally.note_negotiation(one)
    for shown in timeline.rank_passes:
        if shown.printed <= until:
            tally.note_batch(shown)
    for request in timeline.requests:
        if request.chunk_passes and request.finished <= until:
            tally.note_request(request.request.tokens)
    return tally


@dataclass(frozen=True)
class Gauges:
    """The state at a moment, of each rank: requests waiting, share of the KV pool in use."""

    queues: Sequence[int]
    usages: Sequence[float]


def write_metrics(launch: Launch, tally: Tally, gauges: Gauges | None = None) -> str:
    """The exposition; without ``gauges`` the engine is idle."""
    engine = launch.engine
    gauges = gauges or Gauges([0] * engine.dp_size, [0.0] * engine.dp_size)
    out: list[str] = []
    if engine.max_delay_passes is not None:
        _put_family(out, "prefill_delayer_outcomes_total", "Outcomes of the delayer.", "counter")
        for rank, counts in enumerate(tally.outcomes):
            for (estimation, allow, reason, ran), count in sorted(counts.items()):
                _put(
                    out,
                    "prefill_delayer_outcomes_total",
                    rank,
                    count,
                    input_estimation=estimation,
                    output_allow=str(allow).lower(),
                    output_reason=reason,
                    actual_execution=str(ran).lower(),
                )
        _put_waits(out, "forward_passes", "Passes waited", tally, 0)
        _put_waits(out, "seconds", "Seconds waited", tally, 1)
    if math.isfinite(engine.pool):
        pools = [engine.pool] * engine.dp_size
        _put_ranks(out, "max_total_num_tokens", "KV tokens of a rank.", pools)
    _put_ranks(out, "num_running_reqs", "The number of running requests.", [0] * engine.dp_size)
    _put_ranks(out, "num_queue_reqs", "Requests in the waiting queue.", gauges.queues)
    _put_ranks(out, "token_usage", "Share of the KV pool in use.", gauges.usages)
    for name in ("num_prefill_bootstrap_queue_reqs", "num_prefill_inflight_queue_reqs"):
        _put_ranks(out, name, "Requests in that queue.", [0] * engine.dp_size)
    _put_family(out, "realtime_tokens_total", "Total number of tokens processed.", "counter")
    for rank, value in enumerate(tally.tokens):
        _put(out, "realtime_tokens_total", rank, value, mode="prefill_compute")
    totals = {
        "prompt_tokens_total": tally.num_prompt_tokens,
        "generation_tokens_total": tally.num_requests,
        "num_requests_total": tally.num_requests,
    }
    for name, total in totals.items():
        _put_family(out, name, "Of the requests answered.", "counter")
        out.append(f'sglang:{name}{{engine_type="prefill",model_name="{MODEL}"}} {float(total)}')
    return "\n".join(out) + "\n"


def _put_family(out: list[str], name: str, text: str, kind: str) -> None:
    out.append(f"# HELP sglang:{name} {text} {MARK}")
    out.append(f"# TYPE sglang:{name} {kind}")


def _put(out: list[str], name: str, rank: int, value: float, **labels: str) -> None:
    common = {
        "dp_rank": str(rank),
        "engine_type": "prefill",
        "model_name": MODEL,
        "moe_ep_rank": str(rank),
        "pp_rank": "0",
        "tp_rank": str(rank),
    }
    text = ",".join(f'{key}="{value}"' for key, value in sorted((common | labels).items()))
    out.append(f"sglang:{name}{{{text}}} {_show(value)}")


def _put_ranks(out: list[str], name: str, text: str, values: Sequence[float]) -> None:
    _put_family(out, name, text, "gauge")
    for rank, value in enumerate(values):
        _put(out, name, rank, value)


def _put_waits(out: list[str], what: str, text: str, tally: Tally, which: int) -> None:
    name = f"prefill_delayer_wait_{what}"
    _put_family(out, name, text, "histogram")
    for rank, waits in enumerate(tally.waits):
        histogram = waits[which]
        _put(out, f"{name}_sum", rank, histogram.total)
        for bound, count in zip(histogram.bounds, histogram.counts, strict=True):
            _put(out, f"{name}_bucket", rank, count, le=_show(bound))
        _put(out, f"{name}_count", rank, histogram.counts[-1])


def _show(value: float) -> str:
    return "+Inf" if value == math.inf else str(float(value))
