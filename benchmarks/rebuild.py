"""Accuracy and speed of rebuilding iterations from lines without labels, in one run.

rebuild.py [--lines N]  - strips the sample runs as users' logs are stripped and prints the share of
iterations rebuilt exactly; then rebuilds N lines (default 500,000) of an 8-rank engine simulated in
the tests' own words, and prints seconds for each 100,000 lines.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zstandard

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pdtrace  # noqa: E402
from pdtrace.iterations.segmentation import Lines, segment  # noqa: E402
from tests.iterations.lockstep import run_engine  # noqa: E402
from tests.iterations.score import measure_calibration_error, score_run  # noqa: E402
from tests.iterations.strip import strip_log  # noqa: E402

VARIANTS = {
    "labels": (True, True, True),
    "ms + stats": (False, True, True),
    "seconds + stats": (False, False, True),
    "ms": (False, True, False),
    "seconds": (False, False, False),
}


def read_log(folder: Path) -> str:
    """Text of a sample's log, however it is compressed."""
    (path,) = folder.glob("server.log*")
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    return data.decode("utf-8", "replace")


def print_accuracy() -> None:
    """One row a sample run, one column a variant."""
    runs = sorted(p.parent for p in (ROOT / "sample_logs").glob("*/truth.json"))
    print(f"{'exact share':24}" + "".join(f"{v:>17}" for v in VARIANTS))
    shares: dict[str, list[float]] = {v: [] for v in VARIANTS}
    sure: dict[str, list[np.ndarray]] = {v: [] for v in VARIANTS}
    right: dict[str, list[np.ndarray]] = {v: [] for v in VARIANTS}
    for run in runs:
        text, cells = read_log(run), []
        truth = json.loads((run / "truth.json").read_text())
        for name, (label, ms, stats) in VARIANTS.items():
            kept = strip_log(io.StringIO(text), label=label, milliseconds=ms, time_stats=stats)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "server.log"
                path.write_text(kept.text)
                score = score_run(pdtrace.load(path), truth, kept.old_line)
            shares[name].append(score.exact)
            sure[name].append(score.confidence)
            right[name].append(score.is_right)
            cells.append(f"{score.exact:17.4f}")
        print(f"{run.name:24}" + "".join(cells))
    print(f"{'mean':24}" + "".join(f"{np.mean(shares[v]):17.4f}" for v in VARIANTS))
    errors = (
        measure_calibration_error(np.concatenate(sure[v]), np.concatenate(right[v]))
        for v in VARIANTS
    )
    print(f"{'calibration error':24}" + "".join(f"{e:17.4f}" for e in errors))


def print_speed(num_lines: int) -> None:
    """Seconds to segment many lines of an 8-rank engine, compilation left out."""
    rows = run_engine(8, num_lines // 3, seed=1)
    t, rank, tokens, _ = (np.array(x) for x in zip(*rows, strict=True))
    nothing, zero = np.full(len(t), np.nan), np.zeros(len(t))
    lines = Lines(t, rank.astype(np.int64), tokens, zero > 0, nothing, zero)
    segment(lines[:500], 8)
    start = time.perf_counter()
    segment(lines, 8)
    took = time.perf_counter() - start
    print(f"{len(t):,} lines of 8 ranks: {took:.1f} s, {took / len(t) * 1e5:.1f} s a 100,000")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=500_000)
    print_accuracy()
    print_speed(parser.parse_args().lines)
