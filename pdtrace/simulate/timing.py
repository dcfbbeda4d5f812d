"""How long things take in a simulated engine: assumed by default, or fitted to a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.delayer.replay import EngineModel

MIN_NEIGHBOURS = 15


@dataclass(frozen=True)
class Scatter:
    """What varies from pass to pass; the default is that nothing does.

    Attributes:
        width: Relative width of a pass about its expectation, upwards only.
        host_tail: Mean part by which the host's launching exceeds the floor of a pass.
        idle_width: Sigma of the log-normal duration of an idle launch.
        skew_s: Mean delay with which a rank comes back from a launch or sees a result.
    """

    width: float = 0.0
    host_tail: float = 0.0
    idle_width: float = 0.0
    skew_s: float = 0.0


@dataclass(frozen=True)
class Timing:
    """The engine's durations, seconds unless said otherwise.

    A pass takes max(floor, base + max over ranks(per_ktoken·thousands of tokens +
    per_msquare·millions of squares) + shared_per_ktoken·thousands of tokens of all ranks);
    squares = Σ 2·l·(s + l) − l² over the sequences of a batch, as ``docs/method.md`` has it.

    Attributes:
        floor, base, per_ktoken, per_msquare, shared_per_ktoken: Of a pass, as above.
        is_blocking: A launch with real tokens returns only when the device is done with it.
        idle_launch: Launching an idle batch, where launches block.
        taking, launching, processing, delayed_turn, empty_turn, asynchronous: Taking requests in;
            from the meeting to the launch; processing a result; a turn on which prefill was
            withheld; a turn without work; a launch that does not block.
        scatter: What varies.
        recorded_expected, recorded_excess: Passes of a recording, by what was expected of them, and
            how much longer they took; empty: ``scatter`` says it.
        recorded_idle: Idle launches of a recording; empty: ``idle_launch`` and ``scatter`` say it.
    """

    floor: float
    base: float
    per_ktoken: float
    per_msquare: float
    shared_per_ktoken: float
    is_blocking: bool = True
    idle_launch: float = 0.075
    taking: float = 0.0009
    launching: float = 0.0017
    processing: float = 0.002
    delayed_turn: float = 0.0016
    empty_turn: float = 0.0016
    asynchronous: float = 0.002
    scatter: Scatter = Scatter()
    recorded_expected: NDArray[np.float64] | None = None
    recorded_excess: NDArray[np.float64] | None = None
    recorded_idle: NDArray[np.float64] | None = None

    def expect_pass(self, busiest: float, total_tokens: float) -> float:
        """Expected duration of a pass.

        Args:
            busiest: Largest :meth:`weigh` of a rank.
            total_tokens: New tokens of all ranks.
        """
        return max(self.floor, self.base + busiest + self.shared_per_ktoken * total_tokens / 1e3)

    def weigh(self, tokens: float, squares: float) -> float:
        """What one rank's batch adds to a pass."""
        return self.per_ktoken * tokens / 1e3 + self.per_msquare * squares / 1e6

    def draw_excess(self, expected: float, rng: np.random.Generator) -> float:
        """How much longer than expected a pass takes."""
        known, excess = self.recorded_expected, self.recorded_excess
        if known is not None and excess is not None and len(known):
            low = int(np.searchsorted(known, expected * 0.95))
            high = int(np.searchsorted(known, expected * 1.05, side="right"))
            if high - low < MIN_NEIGHBOURS:
                middle = (low + high) // 2
                low = max(0, min(len(known) - MIN_NEIGHBOURS, middle - MIN_NEIGHBOURS // 2))
                high = min(len(known), low + MIN_NEIGHBOURS)
            return float(excess[rng.integers(low, high)])
        took = expected
        if self.scatter.width:
            took *= 1.0 + abs(rng.normal(0.0, self.scatter.width))
        if self.scatter.host_tail:
            took = max(took, self.floor * (1.0 + rng.exponential(self.scatter.host_tail)))
        return float(took - expected)

    def draw_idle(self, rng: np.random.Generator) -> float:
        """How long an idle launch takes."""
        if self.recorded_idle is not None and len(self.recorded_idle):
            return float(rng.choice(self.recorded_idle))
        width = self.scatter.idle_width
        return self.idle_launch * (float(rng.lognormal(0.0, width)) if width else 1.0)

    def draw_skew(self, rng: np.random.Generator) -> float:
        """How late a rank is, where all would come at once."""
        return float(rng.exponential(self.scatter.skew_s)) if self.scatter.skew_s else 0.0


def assume_timing(num_ranks: int, *, is_blocking: bool = True) -> Timing:
    """The default engine: a small mixture-of-experts model, its experts spread over the ranks.

    T = max(H, 24 ms + max over ranks(3.2 µs·tokens + 2 ms per million squares) + 11.3 µs ÷
    ranks·tokens of all ranks) and two per cent of scatter; H, the host's launching, is 90 ms and an
    exponential 36 ms; an idle launch takes about 75 ms. Near what two H100 took; assumed for any
    other number of ranks.
    """
    return Timing(
        floor=0.090,
        base=0.024,
        per_ktoken=0.0032,
        per_msquare=0.0020,
        shared_per_ktoken=0.0113 / num_ranks,
        is_blocking=is_blocking,
        scatter=Scatter(width=0.02, host_tail=0.4, idle_width=0.25, skew_s=0.0006),
    )


def fit_timing(model: EngineModel) -> Timing:
    """The timing of a recording, as the replay fitted it; scatter is drawn from its passes."""
    cost = model.costs[0]
    floor, per_ktoken, per_msquare, shared, base = (float(x) for x in cost.theta)
    taking, launching, processing, delayed, empty, asynchronous = (float(x) for x in model.times)
    return Timing(
        floor=floor,
        base=base,
        per_ktoken=per_ktoken,
        per_msquare=per_msquare,
        shared_per_ktoken=shared,
        is_blocking=cost.is_blocking,
        taking=taking,
        launching=launching,
        processing=processing,
        delayed_turn=delayed,
        empty_turn=empty,
        asynchronous=asynchronous,
        scatter=Scatter(skew_s=0.0006),
        recorded_expected=np.asarray(cost.expected),
        recorded_excess=np.asarray(cost.excess),
        recorded_idle=np.asarray(model.idle_launch),
    )
