"""When the requests of a round are sent, to which rank, and how long they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pdtrace.client.settings import Arrivals, Lengths, LoadSettings, Route

    F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Request:
    """One prompt to be sent.

    Attributes:
        rid: Request id; begins with the phase.
        phase: Which part of the load it belongs to.
        num_tokens: Of the prompt.
        rank: DP rank that is asked for; None: the engine's choice.
        at: Seconds from the start of the round; of no meaning with closed arrivals.
        index: Of its prompt, in the whole run.
    """

    rid: str
    phase: str
    num_tokens: int
    rank: int | None
    at: float
    index: int


def space_batch(num: int, stagger_s: float) -> F64:
    """Offsets of requests that follow each other at a fixed distance, seconds."""
    return np.arange(num, dtype=np.float64) * stagger_s


def draw_poisson(num: int, rate: float, rng: np.random.Generator) -> F64:
    """Offsets of a Poisson process, seconds: gaps are exponential with mean 1 ÷ rate."""
    out: F64 = np.cumsum(rng.exponential(1.0 / rate, num))
    return out


def space_bursts(num: int, size: int, gap_s: float, stagger_s: float) -> F64:
    """Offsets of bursts of ``size`` requests, seconds; the last may be smaller."""
    burst, place = np.divmod(np.arange(num), size)
    out: F64 = burst * gap_s + place * stagger_s
    return out


def choose_rank(route: Route, k: int, num_ranks: int | None) -> int | None:
    """The rank of the ``k``-th request of a round."""
    if route.kind == "round-robin":
        assert num_ranks is not None
        return k % num_ranks
    return route.rank


def draw_lengths(lengths: Lengths, num: int, rng: np.random.Generator) -> list[int]:
    """Tokens of each prompt of a round."""
    values = lengths.values
    if lengths.is_range:
        return [int(n) for n in rng.integers(values[0], values[1] + 1, num)]
    return [values[k % len(values)] for k in range(num)]


def draw_offsets(arrivals: Arrivals, rng: np.random.Generator) -> F64:
    """Offsets of a round before those of the ranks are added, seconds."""
    num = arrivals.num_requests
    if arrivals.kind == "poisson":
        return draw_poisson(num, arrivals.rate, rng)
    if arrivals.kind == "burst":
        return space_bursts(num, arrivals.burst_size, arrivals.burst_gap_s, arrivals.stagger_s)
    return space_batch(num, arrivals.stagger_s if arrivals.kind == "batch" else 0.0)


def plan_round(
    settings: LoadSettings, repeat: int, num_ranks: int | None, first_index: int
) -> list[Request]:
    """The requests of one repeat, by time.

    Args:
        settings: What to send; not a replay.
        repeat: Counts from 0; each draws its own times and lengths.
        num_ranks: DP ranks to spread over; needed where ranks are chosen in turn.
        first_index: Index of the first prompt.

    Returns:
        Requests whose ids are ``PHASE-PLACE-INDEX``. A phase carries the number of its repeat
        where its requests belong together (a batch), and not where each stands alone.

    Raises:
        UsageError: The offsets by rank do not fit the ranks.
    """
    arrivals, prompts = settings.arrivals, settings.prompts
    rng = np.random.default_rng([prompts.seed, repeat, 1])
    offsets = draw_offsets(arrivals, rng)
    lengths = draw_lengths(prompts.lengths, arrivals.num_requests, rng)
    name = prompts.phase or arrivals.kind
    phase = f"{name}{repeat}" if arrivals.kind == "batch" else name
    by_rank = arrivals.rank_offsets_s
    out = []
    for k in range(arrivals.num_requests):
        rank = choose_rank(settings.route, k, num_ranks)
        at = float(offsets[k])
        if by_rank:
            if rank is None or rank >= len(by_rank):
                raise UsageError(
                    f"--rank-offsets-ms names {len(by_rank)} ranks, and a request goes to"
                    f" {'no chosen one' if rank is None else f'rank {rank}'}"
                )
            at += by_rank[rank]
        index = first_index + k
        out.append(Request(f"{phase}-{k}-{index}", phase, lengths[k], rank, at, index))
    return sorted(out, key=lambda r: r.at)


def plan_warm_up(settings: LoadSettings, num_ranks: int | None, num_tokens: int) -> list[Request]:
    """The requests that are sent before anything is measured: all at once, over all ranks.

    Args:
        settings: What to send.
        num_ranks: DP ranks to spread over; None: the engine chooses.
        num_tokens: Of each prompt.
    """
    ranks: list[int | None] = [settings.route.rank]
    if settings.route.kind == "round-robin" and num_ranks is not None:
        ranks = list(range(num_ranks))
    return [
        Request(f"warm-{k}-{k}", "warm", num_tokens, ranks[k % len(ranks)], 0.0, k)
        for k in range(settings.num_warm * (num_ranks or 1))
    ]


def group_posts(requests: Sequence[Request], per_post: int) -> list[list[Request]]:
    """Requests that are sent in one post: at most so many, and of one time."""
    out: list[list[Request]] = []
    for request in requests:
        if out and len(out[-1]) < per_post and out[-1][0].at == request.at:
            out[-1].append(request)
        else:
            out.append([request])
    return out
