"""What a sweep over delayer settings concludes: the dataclasses that reports and pages draw."""

from __future__ import annotations

from dataclasses import dataclass

from pdtrace.delayer.engine_model import Setting

Range = tuple[float, float, float]
"""Point, low, high; nine in ten runs are expected between. nan where it is not known."""

BISTABLE_RATIO = 0.1


@dataclass(frozen=True)
class Outcome:
    """What one setting is predicted to give, and to change against the delayer off.

    Changes are ratios (candidate ÷ off − 1) and hold for one host: their intervals are of the fit
    and the draws. Absolute values also carry the host's drift between runs and the error with
    which the replay reproduces the recording.

    Attributes:
        setting: The setting.
        bound_s: The longest it holds a request back: delayed turns × their length.
        bound_range_s: The same for the shortest and the longest turn that the recording allows.
        latency: Change of the mean request latency.
        p99: Change of the 99th percentile of the time to first token.
        throughput: Change of prompt tokens ÷ busy time.
        request_latency_mean_s, ttft_p99_s, throughput_tok_s: The same three, absolute.
        num_iterations, num_fully_fused_iterations, num_delay_passes: Predicted counts, means.
        near_bound_ratio: Share of waits that a bound 0.8 to 1.25 times as long would end the other
            way; None where nothing waits.
        on_front: No other setting, the delayer off included, has both more throughput and a lower
            p99 (or equals it in one and beats it in the other).
        does_nothing: It holds prefill back less than once in a hundred iterations.
    """

    setting: Setting
    bound_s: float
    bound_range_s: tuple[float, float]
    latency: Range
    p99: Range
    throughput: Range
    request_latency_mean_s: Range
    ttft_p99_s: Range
    throughput_tok_s: Range
    num_iterations: float
    num_fully_fused_iterations: float
    num_delay_passes: float
    near_bound_ratio: float | None = None
    on_front: bool = False
    does_nothing: bool = False

    @property
    def is_bistable(self) -> bool:
        """So many waits end near the bound that a slightly other turn changes the outcome."""
        return self.near_bound_ratio is not None and self.near_bound_ratio >= BISTABLE_RATIO


@dataclass(frozen=True)
class RoutingOutcome:
    """The same arrivals under another assignment to ranks.

    Attributes:
        name, title, meaning, method: As in :class:`pdtrace.delayer.routing.Routing`.
        off: With the delayer off. Changes, here and below, are against the recorded assignment
            with the delayer off.
        on: With the setting that was chosen, or 30 passes where none was.
    """

    name: str
    title: str
    meaning: str
    method: str | None
    off: Outcome
    on: Outcome


@dataclass(frozen=True)
class TurnPoint:
    """The prediction if a delayed turn took so long.

    Attributes:
        turn_s: The turn.
        outcome: The chosen setting's, or that of 30 passes where none was chosen.
    """

    turn_s: float
    outcome: Outcome


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        chosen: The outcome to choose; None: leave the delayer off.
        reason: Why it is, or why none is, in one sentence.
        nearest: Where none was chosen, the setting that came nearest; None if there is none.
        off: The delayer off, as predicted.
        outcomes: All that were tried, by watermark, then passes.
        flags: Launch flags to use.
        remarks: Flags that do nothing here, and what the numbers rest on.
        routings: Other assignments of requests to ranks, the recorded one first.
        sensitivity: How the prediction moves over the range of a delayed turn's length, shortest
            first.
        turn_s: Length of a delayed turn; low and high are what the recording allows.
        recorded: The setting that the recording was made with.
        measured: Figures of the recording, as :func:`pdtrace.delayer.replay.measure_recording`
            gives them.
        reproduced: The same figures, replayed with the recorded setting.
    """

    chosen: Outcome | None
    reason: str
    nearest: Outcome | None
    off: Outcome
    outcomes: tuple[Outcome, ...]
    flags: tuple[str, ...]
    remarks: tuple[str, ...]
    routings: tuple[RoutingOutcome, ...]
    sensitivity: tuple[TurnPoint, ...]
    turn_s: Range
    recorded: Setting
    measured: dict[str, float | None]
    reproduced: dict[str, float | None]

    @property
    def front(self) -> tuple[Outcome, ...]:
        """Settings on the front of throughput against p99, the delayer off included."""
        return tuple(o for o in (self.off, *self.outcomes) if o.on_front)
