"""Rows as both readers lay them out → a chunk of ``events``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.schema import EVENT_KINDS, SPAN, TIME
from pdtrace.sources.scheduler_log import catalogue as cat

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pdtrace.sources.scheduler_log.ranks import Folded

_MAX_U32 = 2**32 - 1
_BOOTSTRAP = cat.FIRST_FIELD + cat.INT_FIELDS.index("num_bootstrap_reqs")
_KINDS = pl.Enum(EVENT_KINDS)
_COLUMNS = (
    ("tp_rank", cat.TP, pl.UInt16),
    ("pp_rank", cat.PP, pl.UInt16),
    ("forward_iter", cat.LABEL, pl.Int64),
    *(
        (
            name,
            cat.FIRST_FIELD + i,
            pl.Int64 if name == "num_cached_tokens" else pl.UInt32,
        )
        for i, name in enumerate(cat.INT_FIELDS)
        if name != "num_replay_tokens"
    ),
)


def _build_column(
    values: NDArray[np.int64], low: int, high: int, dtype: type[pl.DataType]
) -> pl.Series | pl.Expr | None:
    """A column with nulls where nothing was printed; None if nothing was printed at all."""
    if high == cat.ABSENT:
        return None
    if dtype == pl.UInt32 and low >= 0 and high <= _MAX_U32:
        return pl.Series(values.astype(np.uint32))
    if dtype == pl.UInt16 and low >= 0:
        return pl.Series(values.astype(np.uint16))
    series = pl.Series(values)
    if dtype == pl.Int64 and low != cat.ABSENT:
        return series
    is_known = series >= 0 if dtype != pl.Int64 else series != cat.ABSENT
    return pl.when(is_known).then(series).cast(dtype, strict=False)


def build_chunk(
    rows: Folded, *, ts: NDArray[np.int64], resolution: NDArray[np.int64]
) -> pl.DataFrame:
    """Build a chunk of ``events``, without the columns that are null or the same in all rows.

    Args:
        rows: The rows; their line number is that of the file.
        ts: UTC ns.
        resolution: Resolution of ``ts`` in ns.
    """
    ints, floats = rows.ints, rows.floats
    low, high = rows.bounds.tolist()
    kind: pl.Expr = pl.lit("prefill", dtype=_KINDS)
    if high[cat.KIND] == cat.DECODE:
        is_decode = ints[cat.KIND] == cat.DECODE
        # a decode engine's #prealloc-req is another queue
        ints[_BOOTSTRAP, is_decode] = cat.ABSENT
        low[_BOOTSTRAP] = cat.ABSENT
        decode = pl.lit("decode", dtype=_KINDS)
        kind = pl.when(pl.Series(is_decode)).then(decode).otherwise(kind)
    columns: dict[str, pl.Series | pl.Expr] = {
        "line": pl.Series(ints[cat.LINE].astype(np.uint32)),
        "ts": pl.Series(ts).cast(TIME),
        "ts_resolution": pl.Series(resolution).cast(SPAN),
        "engine_run": pl.Series(rows.run.astype(np.uint16)),
        "dp_rank": pl.Series(np.maximum(ints[cat.DP], 0).astype(np.uint16)),
        "kind": kind,
    }
    for name, row, dtype in _COLUMNS:
        column = _build_column(ints[row], low[row], high[row], dtype)
        if column is not None:
            columns[name] = column
    gaps = pl.Series(rows.gaps)
    columns["gap"] = pl.when(gaps != cat.ABSENT).then(gaps).cast(SPAN)
    for i, name in enumerate(cat.FLOAT_FIELDS):
        columns[name] = pl.Series(floats[i]).fill_nan(None)
    return pl.DataFrame().select(**columns)
