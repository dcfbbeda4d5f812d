"""The engine's ``/metrics``: the delayer's outcomes and waits, and the tokens of every rank."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pdtrace.simulate.settings import MODEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timeline import Timeline

MARK = "(simulated: written by 'pdtrace simulate', no engine ran)"
SECONDS = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)
COARSE_PASSES = (5, 20, 50, 100, 200)

# input_estimation, output_allow, output_reason, actual_execution
Label = tuple[str, bool, str, bool]


def count_outcomes(timeline: Timeline, dp_size: int, until: int) -> list[Counter[Label]]:
    """Outcomes of every rank's delayer up to a moment."""
    counts: list[Counter[Label]] = [Counter() for _ in range(dp_size)]
    for one in timeline.outcome.negotiations:
        if timeline.at(one.at) > until:
            break
        verdict = one.verdict
        for rank, count in enumerate(counts):
            count[
                verdict.input_estimation,
                verdict.output_allow,
                verdict.output_reason,
                rank in one.executed,
            ] += one.count
    return counts


def write_metrics(launch: Launch, timeline: Timeline, until: int) -> str:
    """The exposition as it was at a moment."""
    dp_size = launch.engine.dp_size
    out: list[str] = []
    _put_family(out, "realtime_tokens_total", "Total number of tokens processed.", "counter")
    tokens = [0] * dp_size
    for one in timeline.rank_passes:
        if one.printed <= until:
            tokens[one.rank] += one.batch.tokens
    for rank, value in enumerate(tokens):
        _put(out, "realtime_tokens_total", rank, value, mode="prefill_compute")
    if launch.engine.max_delay_passes is None:
        return "\n".join(out) + "\n"
    _put_family(out, "prefill_delayer_outcomes_total", "Prefill delayer outcome counts.", "counter")
    for rank, counts in enumerate(count_outcomes(timeline, dp_size, until)):
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
    limit = launch.engine.max_delay_passes
    bounds = sorted({0, max(limit - 1, 0)} | {b for b in COARSE_PASSES if b < limit})
    _put_waits(out, "forward_passes", "Passes waited", timeline, dp_size, until, 0, bounds)
    _put_waits(out, "seconds", "Seconds waited", timeline, dp_size, until, 1, SECONDS)
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
    out.append(f"sglang:{name}{{{text}}} {float(value)}")


def _put_waits(
    out: list[str],
    what: str,
    text: str,
    timeline: Timeline,
    dp_size: int,
    until: int,
    which: int,
    bounds: Sequence[float],
) -> None:
    """A histogram of what passes that were let through, and ran, observed of their wait."""
    name = f"prefill_delayer_wait_{what}"
    _put_family(out, name, text, "histogram")
    seen: list[list[float]] = [[] for _ in range(dp_size)]
    for one in timeline.outcome.negotiations:
        if one.verdict.output_allow and timeline.at(one.at) <= until:
            for rank in sorted(one.executed):
                seen[rank].append(one.waits[rank][which])
    for rank, values in enumerate(seen):
        _put(out, f"{name}_sum", rank, sum(values))
        for bound in (*(float(b) for b in bounds), float("inf")):
            shown = "+Inf" if bound == float("inf") else str(bound)
            _put(out, f"{name}_bucket", rank, sum(v <= bound for v in values), le=shown)
        _put(out, f"{name}_count", rank, len(values))
