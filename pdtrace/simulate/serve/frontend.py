"""What lies before the ranks: one API server, which takes posts one after the other, and a router.

A post is parsed, then each of its prompts is tokenized and sent on; meanwhile the next post waits.
That is why prompts that are sent together reach their ranks one after the other: on two recorded
engines 0.8 ms and 0.3 us a token apart, more than an idle turn of the schedulers if they are long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.simulate.timeline import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

MIN_SAMPLES = 24
SENDING_S = 0.0006  # what a recorded client and the loopback took of the way to the API server
PICKUP_S = 0.0003  # from the router's dispatch to a scheduler's view


@dataclass(frozen=True)
class FrontTiming:
    """Durations before and behind the schedulers, seconds.

    The default is near what two recorded engines of 0.5.13 took, with prompts of input ids.

    Attributes:
        parsing, parsing_token: Reading and checking a post, and for each token in it.
        dispatching, dispatching_token: Tokenizing and sending on a prompt, and for each token.
        relaying: Until the router has sent it to its rank.
        answering: From the hand-over of a finished request to the answer.
    """

    parsing: float = 0.0012
    parsing_token: float = 2.4e-7
    dispatching: float = 0.0005
    dispatching_token: float = 3.7e-8
    relaying: float = 0.0008
    answering: float = 0.0015

    def scale(self, factor: float) -> FrontTiming:
        """The same, so many times as long."""
        return replace(self, **{name: value * factor for name, value in vars(self).items()})


@dataclass(frozen=True, slots=True)
class Passage:
    """A prompt's way to its rank; seconds since the origin, names as in ``Moments``."""

    received: float
    tokenized: float
    dispatched: float
    routing: float
    routed: float
    arrival: float

    def build_entry(self, at: Callable[[float], int]) -> Entry:
        """The same as moments that files speak of."""
        return Entry(
            sent=at(self.received),
            received=at(self.received),
            tokenized=at(self.tokenized),
            dispatched=at(self.dispatched),
            routing=at(self.routing),
            routed=at(self.routed),
        )


class Frontend:
    """Gives posts their way, in the order in which they come."""

    def __init__(self, timing: FrontTiming) -> None:
        self.timing = timing
        self._free = 0.0

    def admit(self, came: float, tokens: Sequence[int]) -> list[Passage]:
        """The way of each prompt of a post.

        Args:
            came: When all of it was there.
            tokens: Length of each prompt.
        """
        timing = self.timing
        parsed = max(came, self._free) + timing.parsing + timing.parsing_token * sum(tokens)
        at, out = parsed, []
        for num in tokens:
            step = timing.dispatching + timing.dispatching_token * num
            dispatched = at + step
            routed = dispatched + timing.relaying
            out.append(
                Passage(
                    received=parsed,
                    tokenized=at + 0.5 * step,
                    dispatched=dispatched,
                    routing=dispatched + 0.5 * timing.relaying,
                    routed=routed,
                    arrival=routed + PICKUP_S,
                )
            )
            at = dispatched
        self._free = at
        return out


def fit_front(requests: pl.DataFrame) -> FrontTiming:
    """The durations of a recording; the default where it does not hold them.

    Args:
        requests: Table ``requests``, one row a request, with a client's times and the spans'.
    """
    default = FrontTiming()
    needed = ("sent", "arrived", "dispatched", "routed", "transferred", "finished")
    rows = requests.drop_nulls([*needed, "num_prompt_tokens"])
    if len(rows) < MIN_SAMPLES:
        return default
    tokens = rows["num_prompt_tokens"].cast(pl.Float64).to_numpy()

    def between(first: str, second: str) -> F64:
        out: F64 = (rows[second] - rows[first]).dt.total_nanoseconds().to_numpy() / 1e9
        return out

    parsing, parsing_token = _fit_line(tokens, between("sent", "arrived"))
    dispatching, dispatching_token = _fit_line(tokens, between("arrived", "dispatched"))
    return FrontTiming(
        parsing=max(parsing - SENDING_S, 1e-4),
        parsing_token=parsing_token,
        dispatching=dispatching,
        dispatching_token=dispatching_token,
        relaying=max(float(np.median(between("dispatched", "routed"))), 0.0),
        answering=max(float(np.median(between("transferred", "finished"))), 1e-4),
    )


def _fit_line(tokens: F64, seconds: F64) -> tuple[float, float]:
    """Seconds, and seconds a token, by the medians of the shorter and the longer prompts."""
    low, high = np.quantile(tokens, [1 / 3, 2 / 3])
    middle = float(np.median(seconds))
    if high <= low:
        return max(middle, 0.0), 0.0
    short, long = tokens <= low, tokens >= high
    x0, x1 = float(np.median(tokens[short])), float(np.median(tokens[long]))
    y0, y1 = float(np.median(seconds[short])), float(np.median(seconds[long]))
    slope = max((y1 - y0) / (x1 - x0), 0.0)
    return max(y0 - slope * x0, 0.0), slope
