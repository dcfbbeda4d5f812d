"""What others measured, to lay beside a result: ``published.toml``, each with its source."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

LATENCY = "latency"
THROUGHPUT = "throughput"


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        source: Who said it, and where.
        setting: Hardware, model and load.
        of: ``latency`` or ``throughput``.
        low, high: Least and greatest change they report, candidate ÷ baseline − 1.
        note: What else they report.
    """

    source: str
    setting: str
    of: str
    low: float
    high: float
    note: str


def read_published() -> tuple[Published, ...]:
    """All published results, latency first."""
    text = Path(__file__).with_name("published.toml").read_text("utf-8")
    return tuple(
        Published(r["source"], r["setting"], r["of"], min(r["change"]), max(r["change"]), r["note"])
        for r in tomllib.loads(text)["result"]
    )


def find_band(of: str) -> tuple[float, float]:
    """Least and greatest published change of latency or of throughput."""
    mine = [p for p in read_published() if p.of == of]
    return min(p.low for p in mine), max(p.high for p in mine)
