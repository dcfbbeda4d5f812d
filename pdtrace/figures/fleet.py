"""Many runs, each analysed by itself: one row each, and what they add up to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar

import polars as pl

from pdtrace.metrics import measure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pdtrace.run import Run

# Counts and times of separate engines add up; shares and quantiles do not.
ADDED = (
    "num_iterations",
    "num_solo_iterations",
    "num_fully_fused_iterations",
    "num_new_tokens",
    "num_requests",
    "num_unfinished_requests",
    "idle_rank_passes",
    "idle_rank_seconds",
    "num_delay_passes",
    "delay_seconds_total",
)


@dataclass(frozen=True)
class Measured:
    """One metric of one run, or of all; ``note`` says what would give a value that is None."""

    value: float | None
    unit: str
    note: str = ""


@dataclass(frozen=True)
class FleetRow:
    """One run of a fleet.

    Attributes:
        name: As the user named it (untrusted text).
        reason: Why there is nothing of it; empty if it was read.
        facts: What was recorded, in words.
        metrics: Name → the engine's value.
        num_warnings: Of reading it.
    """

    name: str
    reason: str = ""
    facts: tuple[str, ...] = ()
    metrics: dict[str, Measured] = field(default_factory=dict)
    num_warnings: int = 0


@dataclass(frozen=True)
class Fleet:
    """Rows in the order in which they were named."""

    subject: ClassVar[str] = "fleet"

    rows: tuple[FleetRow, ...]

    def label(self, row: FleetRow) -> str:
        """A run's name without the directory that all of them stand in."""
        parents = {PurePath(r.name).parent for r in self.rows}
        if len(parents) > 1 or len(self.rows) < 2:
            return row.name
        return PurePath(row.name).name or row.name

    @property
    def read(self) -> tuple[FleetRow, ...]:
        """Those that could be read."""
        return tuple(r for r in self.rows if not r.reason)

    def values(self, metric: str) -> list[tuple[FleetRow, float]]:
        """Runs that know a metric, with its value."""
        found = ((r, r.metrics.get(metric)) for r in self.read)
        return [(r, m.value) for r, m in found if m is not None and m.value is not None]

    def find_unit(self, metric: str) -> str:
        """Unit of a metric; empty if no run was read."""
        return next((r.metrics[metric].unit for r in self.read if metric in r.metrics), "")

    def add_up(self) -> dict[str, Measured]:
        """Sums over the runs that know them, with a note where some do not."""
        out = {}
        for metric in ADDED:
            values = [v for _, v in self.values(metric)]
            missing = len(self.read) - len(values)
            note = f"{missing} of {len(self.read)} runs do not tell it" if missing else ""
            total = sum(values) if values else None
            out[metric] = Measured(total, self.find_unit(metric), note)
        return out


def measure_row(name: str, run: Run, facts: Iterable[str], reason: str = "") -> FleetRow:
    """Measure one run.

    Args:
        name: As the user named it.
        run: The run.
        facts: What was recorded, in words.
        reason: Why nothing was found in it, if nothing was.
    """
    rows = measure(run).filter(pl.col("dp_rank").is_null())
    metrics = {
        name: Measured(value, unit, note or "")
        for name, value, unit, note in rows.select("metric", "value", "unit", "note").iter_rows()
    }
    return FleetRow(name, reason, tuple(facts), metrics, len(run.warnings))
