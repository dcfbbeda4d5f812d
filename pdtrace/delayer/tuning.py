"""Which delayer settings to use: a sweep over the replay, and what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.delayer.replay import EngineModel, Setting, choose_repeats, repeat_replay

if TYPE_CHECKING:
    from numpy.typing import NDArray

SWEPT_PASSES = (2, 4, 8, 16, 30, 60, 120, 240, 500)
LEAST_GAIN = 0.02  # below this a setting is not worth its risk


@dataclass(frozen=True)
class Outcome:
    """What one setting is predicted to change, against the delayer off.

    Attributes:
        setting: The setting.
        bound_s: The longest it holds a request back: delayed turns × their length.
        latency: Change of the mean request latency, as a ratio: point, low, high (90 %).
        p99: Change of the 99th percentile of the time to first token.
        throughput: Change of tokens ÷ busy time.
        num_iterations, num_delay_passes: Predicted counts.
    """

    setting: Setting
    bound_s: float
    latency: tuple[float, float, float]
    p99: tuple[float, float, float]
    throughput: tuple[float, float, float]
    num_iterations: float
    num_delay_passes: float


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        chosen: The outcome to choose; None: leave the delayer off.
        outcomes: All that were tried, by passes.
        flags: Launch flags to use.
        remarks: Flags that do nothing here, and what the numbers rest on.
    """

    chosen: Outcome | None
    outcomes: tuple[Outcome, ...]
    flags: tuple[str, ...]
    remarks: tuple[str, ...]


def tune(
    model: EngineModel,
    chosen: NDArray[np.bool_],
    *,
    passes: tuple[int, ...] = SWEPT_PASSES,
    repeats: int | None = None,
) -> Advice:
    """Sweep the bound on delay passes and say which to use.

    Settings are compared with the delayer off under the same draws, so what a setting changes is
    told apart from what draws differ in. A setting is taken only if its mean latency improves by
    more than ``LEAST_GAIN`` with nine in ten of the interval on that side; among those within half
    a per cent of the best, the smallest bound.

    Args:
        model: The engine.
        chosen: Requests that count.
        passes: Bounds to try.
        repeats: Replays of each; None: as many as the load's length asks for.
    """
    repeats = repeats or choose_repeats(model)
    off = repeat_replay(model, Setting(None), chosen, repeats)
    outcomes = []
    for bound in passes:
        setting = Setting(bound)
        on = repeat_replay(model, setting, chosen, repeats)
        outcomes.append(
            Outcome(
                setting,
                (bound - 1) * float(model.times[3]),
                _change(on["request_latency_mean_s"], off["request_latency_mean_s"]),
                _change(on["ttft_p99_s"], off["ttft_p99_s"]),
                _change(on["prefill_throughput_tok_s"], off["prefill_throughput_tok_s"]),
                float(on["num_iterations"].mean()),
                float(on["num_delay_passes"].mean()),
            )
        )
    good = [o for o in outcomes if o.latency[0] < -LEAST_GAIN and o.latency[2] < 0]
    best = min((o.latency[0] for o in good), default=0.0)
    pick = next((o for o in good if o.latency[0] <= best + 0.005), None)
    flags: tuple[str, ...] = ()
    if pick is not None:
        flags = (
            "--enable-prefill-delayer",
            f"--prefill-delayer-max-delay-passes {pick.setting.max_delay_passes}",
        )
    return Advice(pick, tuple(outcomes), flags, _remarks(model))


def _change(
    candidate: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[float, float, float]:
    ratio = candidate / baseline - 1
    ratio = ratio[np.isfinite(ratio)]
    if not len(ratio):
        return (float("nan"),) * 3
    half = 1.64 * float(ratio.std(ddof=1)) if len(ratio) > 1 else 0.0
    mean = float(ratio.mean())
    return mean, mean - half, mean + half


def _remarks(model: EngineModel) -> tuple[str, ...]:
    remarks = [
        "--prefill-delayer-queue-min-ratio and --prefill-delayer-max-delay-ms do nothing on a "
        "prefill engine: its running batch is always empty"
    ]
    if np.isfinite(model.pool):
        usual = float(np.median(model.passes.tokens.max(1))) / model.pool
        remarks.append(
            f"a low watermark above {usual:.3f}, the pool share of a usual batch, releases every "
            "prefill at once: the delayer would be on and do nothing"
        )
    return (*remarks, *model.notes)
