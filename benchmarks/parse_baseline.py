"""What one writes by hand: a regular-expression loop over a scheduler log into a pandas frame.

``python benchmarks/parse_baseline.py LOG`` prints rows, seconds and MB/s: the 1× of ``parse.py``.
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pandas as pd

HEAD = re.compile(
    r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)((?: [A-Z]+\d+)*)\]"
    r" Prefill batch(?: \[(\d+)\])?[,.] "
)
FIELD = re.compile(r"([^,:]+): ([^,]+)")
RANK = re.compile(r"([A-Z]+)(\d+)")


def parse_value(text: str) -> float | bool:
    """A field's value as a number or a truth value."""
    if text in ("True", "False"):
        return text == "True"
    return float(text) if "." in text else int(text)


def parse_log(path: str) -> pd.DataFrame:
    """Every Prefill line of a log as a row, a column for each key."""
    rows = []
    with Path(path).open(encoding="utf-8", errors="replace") as f:
        for line in f:
            m = HEAD.match(line)
            if not m:
                continue
            row: dict[str, object] = {"ts": m[1], "iter": int(m[3]) if m[3] else None}
            for kind, n in RANK.findall(m[2]):
                row[kind.lower()] = int(n)
            for key, text in FIELD.findall(line[m.end() :].rstrip()):
                try:
                    row[key.strip()] = parse_value(text.strip())
                except ValueError:
                    continue
            rows.append(row)
    frame = pd.DataFrame(rows)
    frame["ts"] = pd.to_datetime(frame["ts"], format="ISO8601")
    return frame


if __name__ == "__main__":
    start = time.perf_counter()
    count = len(parse_log(sys.argv[1]))
    took = time.perf_counter() - start
    size = Path(sys.argv[1]).stat().st_size
    print(f"{count} rows in {took:.2f} s, {size / 1e6 / took:.1f} MB/s")
