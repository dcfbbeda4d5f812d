"""The fields of the batch lines, as data: what each key means, and what shows a release.

Both readers (``kernel`` and ``reference``) work from these tables, so a field of a new release is
one row here. The compiled kernel is cached by the dates of its own files: after an edit here, touch
``kernel.py`` and ``ranks.py``.

Source: the formats of SGLang 0.4.6 to 0.5.23, read from the published packages.
"""

from __future__ import annotations

from dataclasses import dataclass

ABSENT = -(2**63)
"""What an integer cell holds where the line printed no value."""

YEARS = range(1970, 2262)
"""Years whose times fit nanoseconds since 1970 in 64 bits; another year is no time stamp."""

# Integer columns of one batch line, in the order in which both readers lay them out.
LINE, TS, DP, TP, PP, LABEL, KIND, SEEN = range(8)
INT_FIELDS = (
    "num_new_seqs",
    "num_new_tokens",
    "num_cached_tokens",
    "num_running_reqs",
    "num_queue_reqs",
    "num_pending_tokens",
    "num_bootstrap_reqs",
    "num_inflight_reqs",
    "num_replay_tokens",
)
FIRST_FIELD = 8
NUM_INTS = FIRST_FIELD + len(INT_FIELDS)
NEW_TOKENS = FIRST_FIELD + INT_FIELDS.index("num_new_tokens")
FLOAT_FIELDS = ("token_usage", "throughput_tok_s")
PREFILL, DECODE = 0, 1

INT, FLOAT, USAGE, SKIP = range(4)
"""Kinds of cell: integer, number with decimals, share of a pool (the largest counts), not used."""

MOST_USAGE = 1.5
"""A share of a pool above this, or below 0, is no share: it is as if it were not printed."""


@dataclass(frozen=True)
class Field:
    """One key of a batch line: the text before ``: ``, the column it fills, and its kind."""

    key: bytes
    column: str | None
    kind: int

    @property
    def slot(self) -> int:
        """Index into the integer or float columns; 0 for a cell that is not used."""
        if self.kind == INT:
            return FIRST_FIELD + INT_FIELDS.index(self.column or "")
        return 0 if self.column is None else FLOAT_FIELDS.index(self.column)


FIELDS = (
    Field(b"#new-seq", "num_new_seqs", INT),
    Field(b"#new-token", "num_new_tokens", INT),
    Field(b"#cached-token", "num_cached_tokens", INT),
    Field(b"token usage", "token_usage", USAGE),
    Field(b"full token usage", "token_usage", USAGE),
    Field(b"swa token usage", "token_usage", USAGE),
    Field(b"mamba usage", "token_usage", USAGE),
    Field(b"#running-req", "num_running_reqs", INT),
    Field(b"#queue-req", "num_queue_reqs", INT),
    Field(b"#pending-token", "num_pending_tokens", INT),
    Field(b"#unbootstrapped-req", "num_bootstrap_reqs", INT),
    Field(b"#prealloc-req", "num_bootstrap_reqs", INT),
    Field(b"#bootstrap-req", "num_bootstrap_reqs", INT),
    Field(b"#transferring-req", "num_inflight_reqs", INT),
    Field(b"#inflight-req", "num_inflight_reqs", INT),
    Field(b"#replay-token", "num_replay_tokens", INT),
    Field(b"#optimistic-req", None, SKIP),
    Field(b"input throughput (token/s)", "throughput_tok_s", FLOAT),
    Field(b"gen throughput (token/s)", "throughput_tok_s", FLOAT),
    Field(b"cuda graph", None, SKIP),
    Field(b"cpu graph", None, SKIP),
    Field(b"npu graph", None, SKIP),
    Field(b"musa graph", None, SKIP),
    Field(b"fwd occupancy", None, SKIP),
    Field(b"fwd+idle occupancy", None, SKIP),
    Field(b"#token", None, SKIP),
    Field(b"pre-allocated usage", None, SKIP),
    Field(b"#transfer-req", None, SKIP),
    Field(b"#retracted-req", None, SKIP),
    Field(b"accept len", None, SKIP),
    Field(b"accept rate", None, SKIP),
)

BIT = {f.key.decode(): 1 << i for i, f in enumerate(FIELDS)}
"""Key → its bit in the column SEEN."""

# Bits of SEEN above the fields: how the line was written.
HAS_MS, HAS_DOT, HAS_TRAILING_COMMA, THROUGHPUT_BEFORE_GRAPH, HAS_OTHER_TAG = (
    1 << 48,
    1 << 49,
    1 << 50,
    1 << 51,
    1 << 52,
)
GRAPH = BIT["cuda graph"] | BIT["cpu graph"] | BIT["npu graph"] | BIT["musa graph"]
THROUGHPUT = BIT["input throughput (token/s)"]
PD_PREFILL = (
    BIT["#unbootstrapped-req"]
    | BIT["#prealloc-req"]
    | BIT["#bootstrap-req"]
    | BIT["#transferring-req"]
    | BIT["#inflight-req"]
)
"""Any of these on a Prefill line: a PD prefill engine wrote it."""
PD_DECODE = BIT["pre-allocated usage"] | BIT["#transfer-req"] | BIT["#prealloc-req"]
"""Any of these on a Decode line: a PD decode engine wrote it."""
SIGNATURE = (
    HAS_MS | HAS_DOT | HAS_TRAILING_COMMA | HAS_OTHER_TAG | PD_PREFILL | THROUGHPUT
    | BIT["#pending-token"] | BIT["#optimistic-req"] | BIT["#running-req"]
)  # fmt: skip
"""What does not change between the Prefill lines of one rank of one engine."""

# Codes of the other lines that a Python reader looks at.
(
    SERVER_ARGS,
    POOL_SIZES,
    DELAYER,
    TIME_STATS,
    TORN,
    FLUSH,
    FLUSH_REFUSED,
    EXCEPTION,
    SIGQUIT,
    WATCHDOG,
    BOOTSTRAP_FAILED,
    TRANSFER_FAILED,
    WARMUP_START,
    WARMUP_END,
    READY,
    FPM_BOUND,
    DELAYER_IGNORED,
    ACCESS,
    TRACEBACK,
) = range(19)

NOTES: tuple[tuple[bytes, int], ...] = (
    (b"server_args=", SERVER_ARGS),
    (b"max_total_num_tokens=", POOL_SIZES),
    (b"PrefillDelayer ", DELAYER),
    (b"ReqTimeStats(", TIME_STATS),
    (b"Req Time Stats(", TIME_STATS),
    (b"Cache flushed successfully!", FLUSH),
    (b"Cache not flushed because", FLUSH_REFUSED),
    (b"Scheduler hit an exception", EXCEPTION),
    (b"DataParallelController hit an exception", EXCEPTION),
    (b"DetokenizerManager hit an exception", EXCEPTION),
    (b"TokenizerManager hit an exception", EXCEPTION),
    (b"Received sigquit", SIGQUIT),
    (b"SIGQUIT received", SIGQUIT),
    (b"Watchdog timeout", WATCHDOG),
    (b"Scheduler watchdog timeout", WATCHDOG),
    (b"DetokenizerManager watchdog timeout", WATCHDOG),
    (b"TokenizerManager watchdog timeout", WATCHDOG),
    (b"Prefill bootstrap failed", BOOTSTRAP_FAILED),
    (b"Prefill transfer failed", TRANSFER_FAILED),
    (b"Start of prefill warmup", WARMUP_START),
    (b"Start of pd disaggregation warmup", WARMUP_START),
    (b"End of prefill warmup", WARMUP_END),
    (b"End of prefill disaggregation mode warmup", WARMUP_END),
    (b"End of disaggregation warmup", WARMUP_END),
    (b"Disaggregation warmup request", WARMUP_END),
    (b"The server is fired up", READY),
    (b"FPM: ZMQ PUB bound", FPM_BOUND),
    (b"Ignoring --enable-prefill-delayer", DELAYER_IGNORED),
)
"""How a message begins → its code. A message begins right after the header's ``] ``."""

MARK = b'- "GET /health_generate'
"""In an access line: the probe that makes the engine run a forward."""
