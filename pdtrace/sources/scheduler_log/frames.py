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

_MAX_U32, _MAX_U16 = 2**32 - 1, 2**16 - 1
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

CONTENT: tuple[tuple[str, type[pl.DataType]], ...] = (
    *((name, dtype) for name, _, dtype in _COLUMNS),
    *((name, pl.Float64) for name in cat.FLOAT_FIELDS),
)
"""What a line prints beside its stamp, rank and kind: columns and their types."""


def _build_column(
    values: NDArray[np.int64], low: int, high: int, dtype: type[pl.DataType]
) -> pl.Series | None:
    """A column with nulls where nothing was printed; None if nothing was printed at all."""
    if high == cat.ABSENT:
        return None
    if dtype == pl.Int64:
        series = pl.Series(values)
        return series if low != cat.ABSENT else _mask(series, values != cat.ABSENT)
    limit = _MAX_U32 if dtype == pl.UInt32 else _MAX_U16
    series = pl.Series(values.astype(np.uint32 if dtype == pl.UInt32 else np.uint16))
    if low >= 0 and high <= limit:
        return series
    return _mask(series, (values >= 0) & (values <= limit))


def _mask(series: pl.Series, is_known: NDArray[np.bool_]) -> pl.Series:
    # ten times faster than when/then on short columns, which goes through the query engine
    return series.zip_with(pl.Series(is_known), pl.Series([None], dtype=series.dtype))


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
    kind = pl.Series(["prefill"], dtype=_KINDS).new_from_index(0, ints.shape[1])
    if high[cat.KIND] == cat.DECODE:
        is_decode = ints[cat.KIND] == cat.DECODE
        # a decode engine's #prealloc-req is another queue
        ints[_BOOTSTRAP, is_decode] = low[_BOOTSTRAP] = cat.ABSENT
        kind = kind.zip_with(pl.Series(~is_decode), pl.Series(["decode"], dtype=_KINDS))
    columns: dict[str, pl.Series] = {
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
    columns["gap"] = _mask(pl.Series(rows.gaps), rows.gaps != cat.ABSENT).cast(SPAN)
    for i, name in enumerate(cat.FLOAT_FIELDS):
        columns[name] = pl.Series(floats[i], nan_to_null=True)
    return pl.DataFrame(columns)
