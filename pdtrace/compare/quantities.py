"""What is compared: every metric with its unit, which direction is better, and what it stands for.

Names that ``pdtrace analyze`` also prints mean the same here and are computed over the same passes
where two whole runs are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class Quantity:
    """One compared metric.

    Attributes:
        name: Key in the JSON.
        title: In the report.
        unit: As in table ``metrics``.
        better: Direction that users want.
        is_cost: What a delayer spends rather than gains; it stands beside the gain.
    """

    name: str
    title: str
    unit: str
    better: Better
    is_cost: bool = False


# The one place that says which direction is better.
QUANTITIES: tuple[Quantity, ...] = (
    Quantity("group_makespan_mean_s", "simultaneous group, first sent to last answered", "s",
             "lower"),
    Quantity("makespan_s", "time with a request in flight", "s", "lower"),
    Quantity("served_throughput_tok_s", "prompt tokens ÷ that time", "tok/s", "higher"),
    Quantity("prefill_throughput_tok_s", "prompt tokens ÷ busy time", "tok/s", "higher"),
    Quantity("request_latency_mean_s", "request latency, mean", "s", "lower"),
    Quantity("request_latency_p50_s", "request latency, p50", "s", "lower"),
    Quantity("request_latency_p90_s", "request latency, p90", "s", "lower"),
    Quantity("request_latency_p99_s", "request latency, p99", "s", "lower"),
    Quantity("ttft_mean_s", "TTFT, mean", "s", "lower"),
    Quantity("ttft_p50_s", "TTFT, p50", "s", "lower"),
    Quantity("ttft_p90_s", "TTFT, p90", "s", "lower"),
    Quantity("ttft_p99_s", "TTFT, p99", "s", "lower"),
    Quantity("idle_rank_pass_ratio", "idle share of rank passes", "ratio", "lower"),
    Quantity("idle_rank_time_ratio", "idle share of rank time", "ratio", "lower"),
    Quantity("idle_rank_seconds", "idle rank-seconds", "s", "lower"),
    Quantity("num_iterations", "iterations", "count", "lower"),
    Quantity("num_solo_iterations", "solo iterations", "count", "lower"),
    Quantity("num_fully_fused_iterations", "fully fused iterations", "count", "higher"),
    Quantity("iterations_per_thousand_requests", "iterations per 1000 requests", "count", "lower"),
    Quantity("solo_iteration_ratio", "solo share", "ratio", "lower"),
    Quantity("fully_fused_iteration_ratio", "fully fused share", "ratio", "higher"),
    Quantity("fusion_width_mean", "fusion width, mean", "ranks", "higher"),
    Quantity("num_unfinished_requests", "requests without an answer", "requests", "lower", True),
    Quantity("num_delay_passes", "delay passes", "count", "lower", True),
    Quantity("delay_seconds_total", "delay seconds", "s", "lower", True),
)  # fmt: skip
