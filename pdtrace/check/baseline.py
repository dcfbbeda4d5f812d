"""A baseline: runs of one engine setting on one workload, as what a check needs of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.compare.settings import compare_engines, select_flags
from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from pdtrace.check.records import Record
    from pdtrace.check.samples import Workload
    from pdtrace.run import DelayerInfo, EngineInfo

MOST_RUNS = 100


@dataclass(frozen=True)
class Baseline:
    """Runs to judge against.

    Attributes:
        records: The runs, all in the same blocks; one at least.
        version: Of the pdtrace that wrote the file.
    """

    records: tuple[Record, ...]
    version: str

    @property
    def engine(self) -> EngineInfo:
        """What the first run says of its engine."""
        return self.records[0].engine

    @property
    def dp_size(self) -> int:
        """DP ranks."""
        return self.records[0].dp_size

    @property
    def workload(self) -> Workload:
        """Its phases and blocks."""
        return self.records[0].workload

    def merge(self, other: Baseline) -> Baseline:
        """Both baselines' runs, each once; the order of merging does not matter to any verdict.

        Raises:
            UsageError: They are not of one setting and workload, or are too many.
        """
        why = find_difference(self.records[0], other.records[0])
        if why is not None:
            raise UsageError(f"these runs do not make one baseline: {why}")
        records = list(self.records)
        for record in other.records:
            if not any(is_same_run(record, known) for known in records):
                records.append(replace(record, workload=self.workload))
        if len(records) > MOST_RUNS:
            raise UsageError(f"a baseline holds {MOST_RUNS} runs at most, not {len(records)}")
        return Baseline(tuple(records), self.version)


def find_difference(a: Record, b: Record) -> str | None:
    """Why two runs are not repeats of each other; None if they may be."""
    x, y = (replace(r.engine, server_args=select_flags(r.engine.server_args)) for r in (a, b))
    reasons = list(compare_engines(x, y, (a.dp_size, b.dp_size)).reasons)
    if not is_same_delayer(a.engine.delayer, b.engine.delayer):
        reasons.append(
            f"the delayer is {describe_delayer(a.engine.delayer)} and "
            f"{describe_delayer(b.engine.delayer)}"
        )
    if a.workload.cells != b.workload.cells:
        reasons.append("their workloads differ")
    return "; ".join(reasons) or None


def is_same_run(a: Record, b: Record) -> bool:
    """Whether two records are of the very same recording, read twice."""
    if a.sample.counts.shape != b.sample.counts.shape or a.metrics.keys() != b.metrics.keys():
        return False
    x, y = (np.array([r.metrics[m][0] for m in sorted(a.metrics)]) for r in (a, b))
    return bool(np.allclose(x, y, rtol=1e-5, atol=0))


def is_same_delayer(a: DelayerInfo, b: DelayerInfo) -> bool:
    """Whether two engines delay alike, as far as both say it.

    A watermark or ratio that nothing names is unset; the bounds have defaults, which one source may
    name and another leave out.
    """
    if not (a.enabled and b.enabled):
        return a.enabled == b.enabled or None in (a.enabled, b.enabled)
    bounds = ((a.max_delay_passes, b.max_delay_passes), (a.max_delay_ms, b.max_delay_ms))
    return (
        a.token_usage_low_watermark == b.token_usage_low_watermark
        and a.queue_min_ratio == b.queue_min_ratio
        and all(x == y or None in (x, y) for x, y in bounds)
    )


def describe_delayer(delayer: DelayerInfo) -> str:
    """The delayer's settings in a few words."""
    if delayer.enabled is None:
        return "not said"
    if not delayer.enabled:
        return "off"
    told = {
        "max_delay_passes": delayer.max_delay_passes,
        "token_usage_low_watermark": delayer.token_usage_low_watermark,
        "queue_min_ratio": delayer.queue_min_ratio,
        "max_delay_ms": delayer.max_delay_ms,
    }
    text = ", ".join(f"{k} {v:g}" for k, v in told.items() if v is not None)
    return f"on ({text})" if text else "on"
