"""What is said beside an advice: launch flags, those that do nothing here, and what it rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pdtrace.delayer.startup import ENV_MAX_DELAY_PASSES, check_preconditions
from pdtrace.wording import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.delayer.engine_model import EngineModel, Setting
    from pdtrace.delayer.outcomes import Outcome, Range

ENABLE = "--enable-prefill-delayer"
PASSES = "--prefill-delayer-max-delay-passes"
WATERMARK = "--prefill-delayer-token-usage-low-watermark"
QUEUE_RATIO = "--prefill-delayer-queue-min-ratio"
DEADLINE = "--prefill-delayer-max-delay-ms"


def write_flags(model: EngineModel, setting: Setting) -> tuple[str, ...]:
    """Launch flags that ask for a setting; a variable before them where the flag has no effect."""
    flags: tuple[str, ...] = (ENABLE, f"{PASSES} {setting.max_delay_passes}")
    if model.rules.ignores_flag_passes:
        flags = (f"{ENV_MAX_DELAY_PASSES}={setting.max_delay_passes}", ENABLE)
    if setting.token_usage_low_watermark is not None:
        flags += (f"{WATERMARK} {setting.token_usage_low_watermark:g}",)
    return flags


def refuse_delayer(model: EngineModel) -> str:
    """Why the engine cannot have a delayer; empty if it can."""
    release = model.rules.release
    startup = check_preconditions(model.rules, disaggregation_mode=model.role or "prefill")
    if startup.outcome == "runs":
        return ""
    if startup.outcome == "ignored":
        return f"SGLang {release} ignores {ENABLE} on a {model.role} engine"
    return f"SGLang {release} does not start with it on a {model.role} engine: “{startup.message}”"


def name_change(change: Range) -> str:
    """A change with half its interval, in per cent."""
    if not np.isfinite(change[0]):
        return "not known"
    point, low, high = (100 * x for x in change)
    digits = 1 if abs(point) < 99.95 else 0
    signed = f"{point:+,.{digits}f}".replace("-", "−")
    return f"{signed} ± {(high - low) / 2:,.{digits}f} %"


def remark_on(
    model: EngineModel, off: Outcome, outcomes: list[Outcome], usage: NDArray[np.int64]
) -> tuple[str, ...]:
    """What must be said beside the numbers.

    Args:
        model: The engine.
        off: The delayer off.
        outcomes: What was swept.
        usage: Waits by the least KV pool usage among the ranks that ask, in thousandths.
    """
    said = [*remark_on_release(model), *_on_flags(model)]
    said += [*_on_watermark(model, usage), *_on_recording(model)]
    shaky = [
        str(o.setting.max_delay_passes)
        for o in outcomes
        if o.is_bistable and o.setting.token_usage_low_watermark is None
    ]
    if shaky:
        said.append(
            f"Bounds marked ~ ({', '.join(shaky)}): a tenth or more of the waits end so near the "
            "bound that a slightly longer or shorter turn ends them the other way; predictions "
            "there are less certain."
        )
    busiest = max(outcomes, key=lambda o: o.throughput[0], default=off)
    if busiest.throughput[0] > 0 and not busiest.latency[0] < 0:
        said.append(
            f"If only throughput counts: {busiest.setting.max_delay_passes} passes compute "
            f"{name_change(busiest.throughput)} tokens per busy second, at "
            f"{name_change(busiest.latency)} mean latency."
        )
    slower = [o for o in outcomes if o.latency[0] > 0]
    if slower or (model.recorded.max_delay_passes or 0) > 1:
        said.append(
            "Arrivals are replayed as recorded: a client that waits for answers before it sends "
            "more would send later wherever answers come later."
        )
    return tuple(said)


def remark_on_release(model: EngineModel) -> tuple[str, ...]:
    """What was assumed to know the negotiation of the release, as a sentence."""
    note = model.rules.note
    return (f"Negotiation: {note}.",) if note else ()


def _on_flags(model: EngineModel) -> list[str]:
    rules, said = model.rules, []
    if not rules.has_queue_trigger:
        said.append(
            f"{QUEUE_RATIO} and {DEADLINE} do not exist in {rules.release}: 0.5.12 is first"
        )
    elif model.role in (None, "prefill"):
        said.append(
            f"{QUEUE_RATIO} and {DEADLINE} do nothing on a prefill engine: its running batch is "
            "always empty."
        )
    if rules.ignores_flag_passes:
        said.append(
            f"{PASSES} has no effect in {rules.release} (its environment default of 30 wins); "
            f"{ENV_MAX_DELAY_PASSES} sets it."
        )
    if model.role == "null":
        said.append(
            "This engine decodes too; decode passes and their KV are not replayed, so take the "
            "figures as those of its prefill alone."
        )
    return said


def _on_watermark(model: EngineModel, usage: NDArray[np.int64]) -> list[str]:
    if np.isinf(model.pool):
        return [
            f"{WATERMARK} was left out: the recording does not tell the size of the KV pool (the "
            "line max_total_num_tokens=… of the log, or /server_info)."
        ]
    waits = int(usage.sum())
    if not waits:
        return []
    share = np.cumsum(usage) / waits
    most = (int(np.searchsorted(share, 0.99)) + 1) / 1000
    return [
        f"{WATERMARK} above {most:g} does nothing but undo the delayer: when a wait would begin, a "
        "rank that asks has its KV pool emptier than that (in 99 of 100 replayed cases; in "
        f"{percent(share[0])} it holds nothing), and prefill is let through at once."
    ]


def _on_recording(model: EngineModel) -> list[str]:
    passes = model.recorded.max_delay_passes
    if passes is None or passes <= 1:
        return []
    return [
        f"The recording was made with the delayer on ({passes} passes), so the delayer off is "
        "itself a prediction; a recording without the delayer tells more."
    ]
