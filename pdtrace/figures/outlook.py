"""What a replay predicts of delayer settings, as the figures of a what-if draw it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pdtrace.delayer.engine_model import EngineModel, Setting
    from pdtrace.delayer.outcomes import Advice, Outcome, Range

COLOURS = {"latency": "prefill", "p99": "delayed", "throughput": "decode"}
SYMBOLS = {"latency": "circle", "p99": "diamond", "throughput": "square"}
TITLES = {
    "latency": "mean request latency",
    "p99": "p99 time to first token",
    "throughput": "prompt tokens per busy second",
}


@dataclass(frozen=True)
class Outlook:
    """A sweep over delayer settings.

    Attributes:
        model: The engine that was replayed.
        advice: What the sweep gave.
        asked: Settings that the user asked about; empty if none in particular.
    """

    subject: ClassVar[str] = "whatif"

    model: EngineModel
    advice: Advice
    asked: tuple[Setting, ...] = ()

    @property
    def bounds(self) -> tuple[Outcome, ...]:
        """Settings without a watermark, by their bound."""
        found = (o for o in self.advice.outcomes if o.setting.token_usage_low_watermark is None)
        return tuple(sorted(found, key=lambda o: o.setting.max_delay_passes or 0))

    @property
    def shown(self) -> Setting:
        """The setting that routings and turns are tried with."""
        return self.advice.routings[0].on.setting

    def is_asked(self, outcome: Outcome) -> bool:
        """Whether the user asked about it."""
        return outcome.setting in self.asked


def name_bound(outcome: Outcome) -> str:
    """A setting, short: passes, and the watermark if there is one."""
    passes = outcome.setting.max_delay_passes
    if not passes or passes <= 1:
        return "off"
    low = outcome.setting.token_usage_low_watermark
    return f"{passes}" if low is None else f"{passes}, watermark {low:g}"


def is_known(*ranges: Range) -> bool:
    """Whether all of these are numbers."""
    return all(math.isfinite(v) for r in ranges for v in r)


def halves(ranges: Sequence[Range], scale: float = 1.0) -> tuple[list[float], list[float]]:
    """Lengths of the intervals above and below their points, for error bars."""
    return (
        [scale * (high - point) for point, _, high in ranges],
        [scale * (point - low) for point, low, _ in ranges],
    )


def describe_range(value: Range, unit: str, scale: float, digits: int) -> str:
    """``534 ms (480 to 590)``."""
    point, low, high = (f"{scale * v:,.{digits}f}" for v in value)
    return f"{point} {unit} ({low} to {high})"


def span_of(values: Iterable[float]) -> float:
    """Largest ÷ smallest of positive values; 1 if there are none."""
    kept = [v for v in values if math.isfinite(v) and v > 0]
    return max(kept) / min(kept) if kept else 1.0
