"""What the compiled engine hands back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]
    I64 = NDArray[np.int64]


class EngineTrace(NamedTuple):
    """What a replay saw.

    Attributes:
        finish: When each request's result was processed, seconds; nan: never.
        first, final: First and last iteration of each request.
        width, batch, busy: Of each iteration: ranks that prefilled, tokens, seconds.
        delays: Delay passes before each iteration, and one more value for the end.
        rank: Where each request ran.
        usage: Waits by the lowest KV pool usage among the ranks that asked when they began, in
            thousandths.
        num_waits: Waits that ended.
        num_near_bound: Of them, those that a bound 0.8 to 1.25 times as long would have ended the
            other way: joined in the bound's last fifth, or timed out less than a quarter of it
            before the missing ranks had work.
    """

    finish: F64
    first: I64
    final: I64
    width: I64
    batch: F64
    busy: F64
    delays: I64
    rank: I64
    usage: I64
    num_waits: int
    num_near_bound: int
