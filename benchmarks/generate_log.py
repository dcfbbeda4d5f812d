"""Writes a scheduler log of any size: eight ranks, five formats mixed, decoys and tracebacks.

``python benchmarks/generate_log.py OUT SIZE_MB [SEED]``. The mixture is harder than any one real
log, whose lines all look alike; it is meant for speed, not for iterations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

NUM_RANKS = 8
CHUNK_LINES = 300_000
FIRST_MS = 1_776_938_401_000  # 2026-04-23 10:00:01 UTC
# shares of Prefill, Decode, access, delayer, health, decoy, non-ASCII and traceback lines
KINDS = (0.60, 0.15, 0.15, 0.06, 0.0378, 0.0012, 0.0008, 0.0002)
# shares of the formats of a Prefill line: plain, labelled, old, sliding window, reordered
FORMATS = (0.70, 0.15, 0.05, 0.05, 0.05)
TRACEBACK = """Scheduler hit an exception: Traceback (most recent call last):
  File "/sgl/scheduler.py", line {}, in run_scheduler_process
    scheduler.event_loop_overlap()
  File "/sgl/scheduler.py", line {}, in event_loop_overlap
    batch = self.get_next_batch_to_run()  # Prefill batch, #new-seq: 9
RuntimeError: CUDA error: out of memory
"""


def draw_columns(rng: np.random.Generator, first_ms: int, first_label: int, n: int) -> pl.DataFrame:
    """Random values of ``n`` lines, in order of time."""
    integer = rng.integers
    ts = first_ms + np.cumsum(integer(0, 4, n))
    return pl.DataFrame(
        {
            "kind": rng.choice(len(KINDS), n, p=KINDS),
            "format": rng.choice(len(FORMATS), n, p=FORMATS),
            "rank": integer(0, NUM_RANKS, n),
            "ts": ts,
            "ms": ts % 1000,
            "label": first_label + np.cumsum(integer(0, 2, n)),
            "seqs": integer(1, 9, n),
            "tokens": np.where(rng.random(n) < 0.6, 8192, integer(1, 16384, n)),
            "cached": np.where(rng.random(n) < 0.5, 0, integer(0, 120_000, n)),
            "usage": integer(0, 100, n),
            "usage2": integer(0, 100, n),
            "is_negative": rng.random(n) < 0.001,
            "running": integer(0, 64, n),
            "queue": np.where(rng.random(n) < 0.5, 0, integer(0, 2000, n)),
            "pending": np.where(rng.random(n) < 0.5, 0, integer(0, 900_000, n)),
            "bootstrap": integer(0, 30, n),
            "inflight": integer(0, 9, n),
            "optimistic": integer(0, 3, n),
            "graph": rng.random(n) < 0.3,
            "rate": integer(0, 9_000_000, n),
            "has_no_rate": rng.random(n) < 0.02,
            "port": integer(30_000, 60_000, n),
            "share": rng.random(n),
        }
    )


def _two_digits(column: str) -> pl.Expr:
    return (pl.col(column) % 100).cast(pl.String).str.zfill(2)


def _pick(column: str, *cases: pl.Expr) -> pl.Expr:
    out = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        out = pl.when(pl.col(column) == i).then(cases[i]).otherwise(out)
    return out


def build_prefix() -> pl.Expr:
    """``[time tags] `` of each line."""
    c, text = pl.col, pl.format
    seconds = pl.from_epoch(c("ts") // 1000).dt.strftime("%Y-%m-%d %H:%M:%S")
    millis = text("{}.{}", seconds, c("ms").cast(pl.String).str.zfill(3))
    stamp = pl.when(c("format").is_in([1, 3])).then(millis).otherwise(seconds)
    old = (
        pl.when(c("share") < 0.3)
        .then(text("[{}] ", stamp))
        .when(c("share") < 0.6)
        .then(text("[{} TP{}] ", stamp, c("rank")))
        .otherwise(text("[{} DP{} TP{}] ", stamp, c("rank"), c("rank")))
    )
    new = text("[{} DP{} TP{} EP{}] ", stamp, c("rank"), c("rank"), c("rank"))
    return pl.when(c("format") == 2).then(old).otherwise(new)


def build_prefill() -> pl.Expr:
    """Message of a Prefill line in its format."""
    c, text = pl.col, pl.format
    sign = pl.when(c("is_negative")).then(pl.lit("-")).otherwise(pl.lit(""))
    usage = text("{}0.{}", sign, _two_digits("usage"))
    graph = pl.when(c("graph")).then(pl.lit("True")).otherwise(pl.lit("False"))
    rate = text("{}.{}", c("rate") // 100, _two_digits("rate"))
    rate_cell = (
        pl.when(c("has_no_rate"))
        .then(pl.lit(""))
        .otherwise(text(", input throughput (token/s): {}", rate))
    )
    head = (
        pl.when(c("format") == 1)
        .then(text("Prefill batch [{}], ", c("label")))
        .otherwise(pl.lit("Prefill batch, "))
    )
    new = text(
        "{}#new-seq: {}, #new-token: {}, #cached-token: {}, token usage: {}, #running-req: {},"
        " #queue-req: {}, #pending-token: {}, #bootstrap-req: {}, #inflight-req: {},"
        " #optimistic-req: {}, cuda graph: {}{}",
        head, c("seqs"), c("tokens"), c("cached"), usage, c("running"), c("queue"), c("pending"),
        c("bootstrap"), c("inflight"), c("optimistic"), graph, rate_cell,
    )  # fmt: skip
    old = text(
        "Prefill batch. #new-seq: {}, #new-token: {}, #cached-token: {}, token usage: {},"
        " #running-req: {}, #queue-req: {}, ",
        c("seqs"), c("tokens"), c("cached"), usage, c("running"), c("queue"),
    )  # fmt: skip
    window = text(
        "Prefill batch, #new-seq: {}, #new-token: {}, #cached-token: {}, full token usage: {},"
        " swa token usage: 0.{}, #running-req: {}, #queue-req: {}, #prealloc-req: {},"
        " #inflight-req: {}, input throughput (token/s): {}, ",
        c("seqs"), c("tokens"), c("cached"), usage, _two_digits("usage2"), c("running"), c("queue"),
        c("bootstrap"), c("inflight"), rate,
    )  # fmt: skip
    reordered = text(
        "Prefill batch, #new-token: {}, #new-seq: {}, token usage: {}, #cached-token: {},"
        " #queue-req: {}, #running-req: {}, #unbootstrapped-req: {}, cuda graph: {}{}",
        c("tokens"), c("seqs"), usage, c("cached"), c("queue"), c("running"), c("bootstrap"),
        graph, rate_cell,
    )  # fmt: skip
    return _pick("format", new, new, old, window, reordered)


def build_lines() -> pl.Expr:
    """The whole line of each row, without its newline."""
    c, text = pl.col, pl.format
    prefix = build_prefix()
    rate = text("{}.{}", c("rate") // 100, _two_digits("rate"))
    seconds = pl.from_epoch(c("ts") // 1000).dt.strftime("%Y-%m-%d %H:%M:%S")
    decode = text(
        "Decode batch, #running-req: {}, #token: {}, token usage: 0.{}, pre-allocated usage: 0.{},"
        " #prealloc-req: 0, #transfer-req: {}, #retracted-req: 0, cuda graph: True,"
        " gen throughput (token/s): {}, #queue-req: {}",
        c("running"), c("cached"), _two_digits("usage"), _two_digits("usage2"), c("bootstrap"),
        rate, c("queue"),
    )  # fmt: skip
    access = text(
        '[{}] INFO:     10.1.{}.{}:{} - "POST /generate HTTP/1.1" 200 OK',
        seconds, c("usage"), c("usage2"), c("port"),
    )  # fmt: skip
    delayer = text(
        "PrefillDelayer: delayed_count={}, wait_passes={}, prefillable={}/8, outcome=wait",
        c("seqs"), c("running"), c("seqs") - 1,
    )  # fmt: skip
    health = text("WARNING Health check: iteration took {} ms, queue {}", c("rate"), c("queue"))
    decoy = text(
        "WARNING slow step: last Prefill batch, #new-seq: {}, took {} ms", c("seqs"), c("tokens")
    )
    foreign = text("INFO 模型已加载 – elapsed {} µs", c("rate"))
    crash = text(TRACEBACK, c("running") + 2000, c("queue") + 900)
    return _pick(
        "kind", prefix + build_prefill(), prefix + decode, access, prefix + delayer,
        prefix + health, prefix + decoy, prefix + foreign, prefix + crash,
    )  # fmt: skip


def write_log(path: str, size_mb: float, seed: int = 0) -> int:
    """Write a log.

    Args:
        path: The file.
        size_mb: Its size in MB; the last line is whole.
        seed: Same seed, same log.

    Returns:
        Bytes written.
    """
    rng = np.random.default_rng(seed)
    target, written = int(size_mb * 1e6), 0
    first_ms, first_label = FIRST_MS, 1000
    with Path(path).open("wb") as f:
        while written < target:
            columns = draw_columns(rng, first_ms, first_label, CHUNK_LINES)
            first_ms, first_label = int(columns["ts"][-1]), int(columns["label"][-1])
            text = columns.select(build_lines().alias("line"))["line"].str.join("\n")[0]
            data = text.encode() + b"\n"
            if written + len(data) > target:
                data = data[: data.rfind(b"\n", 0, target - written) + 1]
                f.write(data)
                return written + len(data)
            f.write(data)
            written += len(data)
    return written


if __name__ == "__main__":
    print(write_log(sys.argv[1], float(sys.argv[2]), *map(int, sys.argv[3:4])))
