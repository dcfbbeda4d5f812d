"""The summary of a run as JSON.

History of ``schema_version``: 1, the first. Added to it since: ``ttft_breakdown``,
``idle_causes``, ``agreement``, ``delay_ledger``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from pdtrace.exports.explained import Explained, explain, explained_values

if TYPE_CHECKING:
    import polars as pl

    from pdtrace.run import EngineInfo, Run

SCHEMA_VERSION = 1
WHOLE_UNITS = ("count", "tokens", "requests")
WIDTH_PREFIX = "num_iterations_width_"


def build_summary(
    run: Run, metrics: pl.DataFrame, explained: Explained | None = None
) -> dict[str, Any]:
    """The summary as plain values.

    Args:
        run: The run.
        metrics: Table ``metrics`` of it.
        explained: As :func:`pdtrace.exports.explained.explain` gives it; worked out here if not.

    Returns:
        ``schema_version``; ``run``: facts; ``metrics``: name → value, unit, n, note (and low, high
        where the value has an interval); ``ranks``: the same by DP rank;
        ``fusion_width_histogram``: width → iterations, widths that occurred;
        ``ttft_breakdown``: ``num_requests``, ``num_left_out``, ``p50_rid``, ``p99_rid``, their
        times, ``delay_ratio``, and the rows of the table as ``stages``; ``idle_causes`` and
        ``agreement``: the rows of these tables; ``delay_ledger``: ``totals``, ``counters``,
        ``balance``, ``reason``, ``notes``; ``incidents``; ``warnings``. No NaN or infinity.
    """
    engine: dict[str, dict[str, Any]] = {}
    ranks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in metrics.iter_rows(named=True):
        home = engine if row["dp_rank"] is None else ranks.setdefault(str(row["dp_rank"]), {})
        home[row["metric"]] = _cell(row)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": _run_facts(run),
        "metrics": engine,
        "ranks": ranks,
        "fusion_width_histogram": fusion_width_histogram(metrics),
        **explained_values(explained or explain(run)),
        "incidents": [
            {
                "kind": i.kind,
                "file": run.files[i.source_id].path if i.source_id < len(run.files) else None,
                "line": i.line,
                "dp_rank": i.dp_rank,
                "text": i.text,
            }
            for i in run.incidents
        ],
        "warnings": list(run.warnings),
    }


def write_summary(run: Run, metrics: pl.DataFrame, explained: Explained | None = None) -> str:
    """The summary as strict JSON, the same for the same run to the last byte."""
    return json.dumps(build_summary(run, metrics, explained), indent=1, allow_nan=False) + "\n"


def fusion_width_histogram(metrics: pl.DataFrame) -> dict[str, int]:
    """Fusion width → number of iterations, for the widths that occurred, ascending."""
    return {
        name.removeprefix(WIDTH_PREFIX): int(value)
        for name, value in metrics.select("metric", "value").iter_rows()
        if name.startswith(WIDTH_PREFIX) and value
    }


def release_of(engine: EngineInfo) -> str | None:
    """The release, or the range that fits the log; None if nothing says it."""
    low, high = engine.release_min, engine.release_max
    if low == high or low is None or high is None:
        return low or high
    return f"{low}–{high}"


def _number(value: float | None, unit: str) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return int(value) if unit in WHOLE_UNITS and value == int(value) else value


def _cell(row: dict[str, Any]) -> dict[str, Any]:
    cell = {
        "value": _number(row["value"], row["unit"]),
        "unit": row["unit"],
        "n": row["n"],
        "note": row["note"],
    }
    if row["low"] is not None or row["high"] is not None:
        cell["low"] = _number(row["low"], row["unit"])
        cell["high"] = _number(row["high"], row["unit"])
    return cell


def _run_facts(run: Run) -> dict[str, Any]:
    engine = run.engine
    skipped: Counter[str] = Counter()
    for file in run.files:
        skipped.update(file.skipped)
    return {
        "engine": engine.engine,
        "release": release_of(engine),
        "release_min": engine.release_min,
        "release_max": engine.release_max,
        "dp_size": run.dp_size,
        "dp_size_source": engine.dp_size_source,
        "tp_size": engine.tp_size,
        "ep_size": engine.ep_size,
        "pp_size": engine.pp_size,
        "role": engine.role,
        "grouping": run.grouping,
        "lock_step": engine.lock_step,
        "enable_dp_attention": engine.enable_dp_attention,
        "chunked_prefill_size": engine.chunked_prefill_size,
        "model_path": engine.model_path,
        "delayer": {
            "enabled": engine.delayer.enabled,
            "max_delay_passes": engine.delayer.max_delay_passes,
            "token_usage_low_watermark": _finite(engine.delayer.token_usage_low_watermark),
            "queue_min_ratio": _finite(engine.delayer.queue_min_ratio),
            "max_delay_ms": _finite(engine.delayer.max_delay_ms),
        },
        "files": [
            {
                "path": f.path,
                "source": f.source,
                "num_bytes": f.num_bytes,
                "num_lines": f.num_lines,
                "num_events": f.num_events,
                "skipped": f.skipped,
            }
            for f in run.files
        ],
        "num_lines_skipped": sum(skipped.values()),
        "lines_skipped": dict(sorted(skipped.items())),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
