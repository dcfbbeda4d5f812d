"""What a check judges without being asked: every measure with its noise, and what counts as worse.

Shares (0–1) are judged by their difference, because a ratio of two small shares says nothing;
everything else by candidate ÷ baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pdtrace.compare.quantities import QUANTITIES

if TYPE_CHECKING:
    from pdtrace.check.verdicts import Scale
    from pdtrace.compare.quantities import Better

FEATURES = (
    "iterations",
    "solo",
    "prefills",
    "idle",
    "known",
    "busy_s",
    "busy_tokens",
    "idle_s",
    "rank_s",
)
"""What is counted in each block of a run besides its requests: iterations that prefilled; those of
one rank; rank passes that prefilled, idled, are known. Of iterations that did not stall: seconds
and tokens; idle and all known rank-seconds."""

SKETCHES = ("request_latency", "ttft", "ttft_received")
"""Times of single requests: by the client; from arrival; from the bootstrap queue."""

EFFECT = 0.03  # a change for the worse below this is never called a failure
MARGIN = 0.05  # an interval that ends before this shows that nothing worse happened
# How much of the noise between runs no run shows in itself (the speed of the host, above all),
# as standard deviation of one run. docs/method.md has where they come from.
COUNT_NOISE = 0.012
SOLO_NOISE = 0.015
IDLE_NOISE = 0.010
TIME_NOISE = 0.025
MEDIAN_NOISE = 0.03
TAIL_NOISE = 0.06
IDLE_TIME_NOISE = 0.015
OTHER_NOISE = 0.05


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: As in ``analyze --json`` or ``compare --json``.
        title: In words.
        unit: As in table ``metrics``.
        better: Direction that users want.
        tier: ``A``: a count that the workload fixes; ``B``: wall-clock.
        scale: How a change of it is expressed.
        noise: Standard deviation between runs that blocks do not show, on its scale.
        family: A run must tell one measure of each family that its baseline tells.
        above, below, factor: A quotient of two features, ``requests`` being one too.
        sketch, share: Or a quantile of a sketch; its mean where there is no share.
        is_total: The quotient is shown for all requests of the baseline, and its noise and limits
            are relative to the rank-seconds of the baseline.
        effect, margin: As ``EFFECT`` and ``MARGIN``, on its scale.
    """

    name: str
    title: str
    unit: str
    better: Better
    tier: Literal["A", "B"]
    scale: Scale
    noise: float
    family: str
    above: str = ""
    below: str = ""
    factor: float = 1.0
    sketch: str = ""
    share: float | None = None
    is_total: bool = False
    effect: float = EFFECT
    margin: float = MARGIN


_KNOWN = {q.name: q for q in QUANTITIES}


def _measure(
    name: str,
    tier: Literal["A", "B"],
    scale: Scale,
    noise: float,
    family: str,
    *,
    above: str = "",
    below: str = "",
    factor: float = 1.0,
    sketch: str = "",
    share: float | None = None,
    is_total: bool = False,
) -> Measure:
    q = _KNOWN[name]
    return Measure(
        name, q.title, q.unit, q.better, tier, scale, noise, family,
        above, below, factor, sketch, share, is_total,
    )  # fmt: skip


def _times(name: str, sketch: str) -> tuple[Measure, ...]:
    shares = (("p50", 0.5, MEDIAN_NOISE), ("p90", 0.9, MEDIAN_NOISE), ("p99", 0.99, TAIL_NOISE))
    return (
        _measure(f"{name}_mean_s", "B", "relative", TIME_NOISE, "latency", sketch=sketch),
        *(
            _measure(
                f"{name}_{label}_s", "B", "relative", noise, "latency", sketch=sketch, share=share
            )
            for label, share, noise in shares
        ),
    )


COUNTS = (
    _measure(
        "iterations_per_thousand_requests", "A", "relative", COUNT_NOISE, "fusion",
        above="iterations", below="requests", factor=1000.0,
    ),
    _measure("solo_iteration_ratio", "A", "absolute", SOLO_NOISE, "fusion",
             above="solo", below="iterations"),
    _measure("idle_rank_pass_ratio", "A", "absolute", IDLE_NOISE, "fusion",
             above="idle", below="known"),
    _measure("fusion_width_mean", "A", "relative", COUNT_NOISE, "fusion",
             above="prefills", below="iterations"),
)  # fmt: skip
SPEEDS = (
    _measure("prefill_throughput_tok_s", "B", "relative", TIME_NOISE, "throughput",
             above="busy_tokens", below="busy_s"),
    _measure("idle_rank_seconds", "B", "absolute", IDLE_TIME_NOISE, "throughput",
             above="idle_s", below="requests", is_total=True),
)  # fmt: skip
LATENCIES = {
    "request_latency": _times("request_latency", "request_latency"),
    "ttft": _times("ttft", "ttft"),
    "ttft_received": _times("ttft", "ttft_received"),
}
"""By sketch; the first that both runs have is judged."""

ALL = (*COUNTS, *SPEEDS, *LATENCIES["request_latency"], *LATENCIES["ttft"])
