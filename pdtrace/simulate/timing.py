"""How long things take in a simulated engine: assumed by default, or fitted to a recording."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pdtrace.delayer.launches import find_like
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pdtrace.delayer.replay import EngineModel


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
        recorded_device, recorded_excess: Passes of a recording, by what the device needed for them,
            and how much longer than expected they took; empty: ``scatter`` says it.
        recorded_idle: Idle launches of a recording; empty: ``idle_launch`` and ``scatter`` say it.
        recorded_took, recorded_share: Passes of a recording by duration, and the share of it after
            which a rank with tokens had launched and saw the result before; empty: all of it.
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
    recorded_device: NDArray[np.float64] | None = None
    recorded_excess: NDArray[np.float64] | None = None
    recorded_idle: NDArray[np.float64] | None = None
    recorded_took: NDArray[np.float64] | None = None
    recorded_share: NDArray[np.float64] | None = None

    def weigh(self, tokens: float, squares: float) -> float:
        """What one rank's batch adds to a pass."""
        return self.per_ktoken * tokens / 1e3 + self.per_msquare * squares / 1e6

    def draw_pass(self, busiest: float, total_tokens: float, rng: np.random.Generator) -> float:
        """How long a pass takes.

        Args:
            busiest: Largest :meth:`weigh` of a rank.
            total_tokens: New tokens of all ranks.
            rng: Of the scatter.
        """
        device = self.base + busiest + self.shared_per_ktoken * total_tokens / 1e3
        expected = max(self.floor, device)
        return max(expected + self._draw_excess(expected, device, rng), 1e-4)

    def _draw_excess(self, expected: float, device: float, rng: np.random.Generator) -> float:
        """How much longer than expected a pass takes.

        Of a recording: as much as a pass with like work for the device. Below the floor that says
        more than the expectation, which is the same there for all.
        """
        known, excess = self.recorded_device, self.recorded_excess
        if known is not None and excess is not None and len(known):
            return float(excess[_draw_like(known, device, rng)])
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

    def draw_return(self, took: float, rng: np.random.Generator) -> float:
        """After how much of a launch with tokens the host is back to see the result before.

        A host launches in its own time, however long the device then works; the next launch must
        wait for the device all the same.
        """
        known, share = self.recorded_took, self.recorded_share
        if known is None or share is None or not len(known):
            return took
        return took * float(share[_draw_like(known, took, rng)])

    def draw_skew(self, rng: np.random.Generator) -> float:
        """How late a rank is, where all would come at once."""
        return float(rng.exponential(self.scatter.skew_s)) if self.scatter.skew_s else 0.0

    def scale(self, factor: float) -> Timing:
        """The same engine, everything taking so many times as long."""
        changes: dict[str, Any] = {name: getattr(self, name) * factor for name in COSTS}
        for name in RECORDED:
            values = getattr(self, name)
            changes[name] = None if values is None else values * factor
        scatter = replace(self.scatter, skew_s=self.scatter.skew_s * factor)
        return replace(self, scatter=scatter, **changes)

    def override(self, given: Sequence[str]) -> Timing:
        """The same engine with some durations of its own.

        Args:
            given: ``NAME=SECONDS`` each.

        Raises:
            UsageError: No such duration, or none at all.
        """
        values: dict[str, Any] = {}
        for text in given:
            name, _, number = text.partition("=")
            try:
                values[name] = float(number)
            except ValueError:
                values[name] = math.nan
            if name not in COSTS or not 0 <= values[name] < 1e4:
                raise UsageError(f"--cost {text}: expected NAME=SECONDS of {', '.join(COSTS)}")
        if "idle_launch" in values:
            values["recorded_idle"] = None
        return replace(self, **values)


COSTS = tuple(one.name for one in fields(Timing) if one.type == "float")
RECORDED = ("recorded_device", "recorded_excess", "recorded_idle", "recorded_took")  # seconds


def _draw_like(known: NDArray[np.float64], value: float, rng: np.random.Generator) -> int:
    """Index of one of the known values, in order, that are like this one."""
    return int(rng.integers(*find_like(known, value)))


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


def fit_timing(model: EngineModel, num_ranks: int) -> Timing:
    """The timing of a recording, as the replay fitted it; scatter is drawn from its passes.

    Args:
        model: From the recording.
        num_ranks: Of the engine to simulate. Its experts are spread over the ranks, so what a token
            adds to every rank's pass falls with their number.
    """
    cost = model.costs[0]
    floor, per_ktoken, per_msquare, shared, base = (float(x) for x in cost.theta)
    taking, launching, processing, delayed, empty, asynchronous = (float(x) for x in model.times)
    device, excess = _list_passes(model)
    return Timing(
        floor=floor,
        base=base,
        per_ktoken=per_ktoken,
        per_msquare=per_msquare,
        shared_per_ktoken=shared * model.num_ranks / num_ranks,
        is_blocking=cost.is_blocking,
        taking=taking,
        launching=launching,
        processing=processing,
        delayed_turn=delayed,
        empty_turn=empty,
        asynchronous=asynchronous,
        scatter=Scatter(skew_s=0.0006),
        recorded_device=device,
        recorded_excess=excess,
        recorded_idle=np.asarray(model.launches.idle),
        recorded_took=model.launches.took,
        recorded_share=model.launches.share,
    )


def _list_passes(model: EngineModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Device time and excess of the recorded passes, by device time, seconds."""
    cost, passes = model.costs[0], model.passes
    _, per_ktoken, per_msquare, shared, base = (float(x) for x in cost.theta)
    row = {at: i for i, at in enumerate(passes.launch.tolist())}
    at = np.array([row[launch] for launch in cost.time.tolist()], int)
    tokens, squares = passes.tokens[at] / 1e3, passes.squares[at] / 1e6
    busiest = (per_ktoken * tokens + per_msquare * squares).max(1)
    device = base + busiest + shared * tokens.sum(1)
    order = np.argsort(device, kind="stable")
    return device[order], np.asarray(cost.excess)[order]
