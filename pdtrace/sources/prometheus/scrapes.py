"""Prometheus exposition text → scrapes, and how much each series grew between them.

A file holds one scrape, or several after one another (told by a repeated ``# TYPE``, by ``# EOF``,
or by a comment ``# scraped 2026-05-28T03:21:01Z``, which also dates the scrape). Between two
scrapes a counter that fell was reset by a restart, and grew by its new value since.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PREFIX = "sglang:"
MAX_SERIES = 2_000_000
MAX_SCRAPES = 256
"""A longer series is thinned out: it only dates the growth more finely."""
MOST_COUNTED = 2**53
"""From there on a floating-point number does not count by ones."""
EARLIEST, LATEST = 10**18, 4 * 10**18  # 2001 and 2096, in nanoseconds since the epoch
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})?[ \t]+(\S+)(?:[ \t]+(-?\d+))?\s*$")
_LABEL = re.compile(r'\s*(\w+)="((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_SUFFIXES = ("_sum", "_count", "_bucket")

Labels = tuple[tuple[str, str], ...]
Key = tuple[str, Labels]


@dataclass
class Scrape:
    """One answer of ``/metrics``.

    Attributes:
        source_id: Index of its file among the reader's.
        ts: Nanoseconds since the epoch, where the text says it.
        values: Counters and the parts of histograms.
        pids: Processes that its gauges name: a new set is a restarted engine.
    """

    source_id: int
    ts: int | None = None
    values: dict[Key, float] = field(default_factory=dict)
    pids: set[str] = field(default_factory=set)


@dataclass
class Parser:
    """Folds the lines of one file into scrapes.

    Attributes:
        source_id: Index of the file among the reader's.
        scrapes: Those found so far.
        num_lines, num_bad, first_bad: Lines; damaged samples, and the line of the first.
        bad_name: The series of that, where it can be told.
        num_odd_times, first_odd_time: Times that are none of this century, and the line of the
            first; a scrape with such a time is undated.
    """

    source_id: int
    scrapes: list[Scrape] = field(default_factory=list)
    num_lines: int = 0
    num_bad: int = 0
    first_bad: int = 0
    bad_name: str = ""
    num_odd_times: int = 0
    first_odd_time: int = 0
    types: dict[str, str] = field(default_factory=dict)
    next_ts: int | None = None
    keys: dict[Key, Key] = field(default_factory=dict)

    def fold(self, line: str) -> None:
        """Take in one line."""
        self.num_lines += 1
        if not line or line.isspace():
            return
        if line[0] == "#":
            self._fold_comment(line)
            return
        if not line.startswith(PREFIX):
            return
        found = _SAMPLE.match(line)
        labels = _read_labels(found.group(2) or "") if found else None
        is_counter = found is not None and self._is_counter(found.group(1))
        value = _read_value(found.group(3)) if found and is_counter else 0.0
        if found is None or value is None or labels is None:
            self.num_bad += 1
            if self.num_bad == 1:
                self.first_bad, self.bad_name = self.num_lines, found.group(1) if found else ""
            return
        if not self.scrapes:
            self._start()
        scrape = self.scrapes[-1]
        if found.group(4) and scrape.ts is None:
            scrape.ts = self._take_time(int(found.group(4)[:15]) * 1_000_000)
        name = found.group(1)
        said = dict(labels)
        if "pid" in said:
            scrape.pids.add(said["pid"])
        if is_counter and len(scrape.values) < MAX_SERIES:
            key = (name[len(PREFIX) :], labels)
            # scrapes share their keys: a long series repeats them thousands of times
            scrape.values[self.keys.setdefault(key, key)] = value

    def _is_counter(self, name: str) -> bool:
        kind = self.types.get(name)
        if kind is None and name.endswith("_total"):
            return self.types.get(name[:-6], "counter") == "counter"  # OpenMetrics drops _total
        if kind is not None:
            return kind == "counter"
        return any(
            name.endswith(s) and self.types.get(name[: -len(s)]) == "histogram" for s in _SUFFIXES
        )

    def _fold_comment(self, line: str) -> None:
        words = line.split(None, 3)
        if line.startswith("# EOF"):
            self.types.clear()
        elif len(words) >= 3 and words[1] == "scraped":
            self.next_ts = self._take_time(_read_time(words[2]))
            self.types.clear()
        elif len(words) >= 4 and words[1] == "TYPE":
            # each metric is declared once a scrape, so a second time is the next scrape
            if words[2] in self.types:
                self.types.clear()
            if not self.types:
                self._start()
            self.types[words[2]] = words[3].strip()

    def _take_time(self, ts: int | None) -> int | None:
        """A time as it is, or None for one that no engine of this century was scraped at."""
        if ts is None or EARLIEST <= ts <= LATEST:
            return ts
        self.num_odd_times += 1
        self.first_odd_time = self.first_odd_time or self.num_lines
        return None

    def _start(self) -> None:
        if len(self.scrapes) >= MAX_SCRAPES:
            self.scrapes = thin_out(self.scrapes)
        self.scrapes.append(Scrape(self.source_id, self.next_ts))
        self.next_ts = None


def _read_value(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= MOST_COUNTED else None


def _read_time(text: str) -> int | None:
    try:
        return round(datetime.fromisoformat(text).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError):
        return None


def _read_labels(text: str) -> Labels | None:
    at, out = 0, []
    while at < len(text):
        found = _LABEL.match(text, at)
        if found is None:
            return None
        value = found.group(2)
        if "\\" in value:
            value = value.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
        out.append((found.group(1), value))
        at = found.end()
    return tuple(sorted(out))


@dataclass(frozen=True)
class Growth:
    """How much one series grew between two scrapes; ``start`` None: since the engine's start."""

    key: Key
    growth: float
    source_id: int
    engine_run: int
    start: int | None
    end: int | None
    is_first: bool


def measure_growth(scrapes: Sequence[Scrape]) -> tuple[list[Growth], int]:
    """Differences of consecutive scrapes, each series; a counter starts at zero with its process.

    Args:
        scrapes: In order of time.

    Returns:
        The growths, those of the first scrape (since the engine's start) included and marked; and
        the number of restarts.
    """
    out: list[Growth] = []
    run = 0
    previous = Scrape(0)
    for k, scrape in enumerate(scrapes):
        if k and _is_restart(previous, scrape):
            run += 1
            previous = Scrape(scrape.source_id)
        for key, value in scrape.values.items():
            before = previous.values.get(key, 0.0)
            growth = value - before if value >= before else value
            if growth > 0 or not k:
                out.append(
                    Growth(key, growth, scrape.source_id, run, previous.ts, scrape.ts, k == 0)
                )
        previous = scrape
    return out, run


def _is_restart(before: Scrape, after: Scrape) -> bool:
    if before.pids and after.pids and not before.pids & after.pids:
        return True
    return any(after.values[k] < v for k, v in before.values.items() if k in after.values)


def thin_out(scrapes: list[Scrape]) -> list[Scrape]:
    """Every other scrape, the first and last, and those beside a restart: no growth is lost."""
    last = len(scrapes) - 1
    return [
        s
        for k, s in enumerate(scrapes)
        if k % 2 == 0
        or k == last
        or _is_restart(scrapes[k - 1], s)
        or _is_restart(s, scrapes[k + 1])
    ]


def put_in_order(files: Sequence[tuple[str, list[Scrape]]]) -> list[Scrape]:
    """Scrapes of all files in order of time.

    By their times where all have one; otherwise the order of the files in which fewer counters
    fall, of the order of their names and its reverse (``after`` stands before ``before``).
    """
    scrapes = [s for _, file in files for s in file]
    if all(s.ts is not None for s in scrapes):
        return sorted(scrapes, key=lambda s: s.ts or 0)
    forward = [file for _, file in sorted(files, key=lambda f: _natural(f[0]))]

    def falls(order: Iterable[list[Scrape]]) -> int:
        flat = [s for file in order for s in file]
        return sum(
            b.values[k] < v for a, b in pairwise(flat) for k, v in a.values.items() if k in b.values
        )

    backward = forward[::-1]
    chosen = forward if falls(forward) <= falls(backward) else backward
    return [s for file in chosen for s in file]


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p[:15]), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
