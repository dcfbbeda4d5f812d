"""The load of a simulated run: requests in phases, like those of the sample recordings."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.errors import UsageError
from pdtrace.simulate.records import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pdtrace.delayer.load import Load

# With the share that each has in a load of all of them, as in the sample recordings.
PATTERNS = {"seed": 0.06, "stagger": 0.14, "burst": 0.15, "poisson": 0.25, "mixed": 0.40}
STAGGERS_MS = (1, 2, 5, 10, 20, 50, 100, 200)
PAUSE_S = 0.5  # between groups and phases, on top of what a group takes to be served
LEAST_LEAD_S = 0.004
UNSAFE = re.compile(r"[^\w.:@-]", re.ASCII)
MAX_RID = 200

# phase, rank, tokens, seconds after the pattern's start
_Sent = tuple[str, int, int, float]


@dataclass(frozen=True)
class LoadSettings:
    """What the client sends.

    Attributes:
        num_requests: In all.
        dp_size: DP ranks to spread them over.
        pattern: One of ``PATTERNS``; None: a phase of each.
        rate: Requests a second of ``poisson``, twice that in ``mixed``; None: 2.2 a rank.
        lengths: Tokens of a prompt, shortest and longest; None: the pattern's own.
    """

    num_requests: int
    dp_size: int
    pattern: str | None = None
    rate: float | None = None
    lengths: tuple[int, int] | None = None


def make_requests(settings: LoadSettings, rng: np.random.Generator) -> list[Request]:
    """The requests of a load, by arrival; the first is sent at 0.

    Raises:
        UsageError: A setting makes no sense.
    """
    if settings.num_requests < 1:
        raise UsageError("--requests must be at least 1")
    if settings.pattern is not None and settings.pattern not in PATTERNS:
        raise UsageError(f"--pattern {settings.pattern}: expected one of {', '.join(PATTERNS)}")
    if settings.rate is not None and not 0 < settings.rate < 1e6:
        raise UsageError("--rate must be positive")
    lengths = settings.lengths
    if lengths is not None and not 1 <= lengths[0] <= lengths[1] <= 10**7:
        raise UsageError("--input-len: expected N, or SHORTEST-LONGEST")
    chosen = PATTERNS if settings.pattern is None else {settings.pattern: 1.0}
    makers: dict[str, Callable[[int, LoadSettings, np.random.Generator], Iterator[_Sent]]] = {
        "seed": _send_seed,
        "stagger": _send_stagger,
        "burst": _send_burst,
        "poisson": _send_poisson,
        "mixed": _send_mixed,
    }
    sent: list[_Sent] = []
    start = share = 0.0
    for name, part_of_all in chosen.items():
        share += part_of_all
        num = round(settings.num_requests * share) - len(sent)
        if num:
            part = list(makers[name](num, settings, rng))
            sent += [(phase, rank, tokens, start + at) for phase, rank, tokens, at in part]
            start = max(at for *_, at in sent) + 2 * PAUSE_S
    requests = []
    for k, (phase, rank, tokens, at) in enumerate(sent):
        lead = 0.005 + float(rng.exponential(0.0008))
        requests.append(Request(f"{phase}-{rank}-{k}", rank, tokens, at + lead, lead))
    return sorted(requests, key=lambda q: q.arrival)


def _draw_length(settings: LoadSettings, rng: np.random.Generator, low: int, high: int) -> int:
    shortest, longest = settings.lengths or (low, high)
    return int(rng.integers(shortest, longest + 1))


def _pause(settings: LoadSettings, tokens: int) -> float:
    """Time that a group of one prompt a rank surely takes, with a pause."""
    return PAUSE_S + 5e-5 * tokens * max(1.0, settings.dp_size / 8)


def _send_seed(num: int, settings: LoadSettings, rng: np.random.Generator) -> Iterator[_Sent]:
    """One prompt of equal length for every rank, all at once."""
    at = 0.0
    for k in range(num):
        group, rank = divmod(k, settings.dp_size)
        if rank == 0:
            tokens = _draw_length(settings, rng, 8192, 8192)
            at += _pause(settings, tokens) if k else 0.0
        yield f"seed{group}", rank, tokens, at


def _send_stagger(num: int, settings: LoadSettings, rng: np.random.Generator) -> Iterator[_Sent]:
    """One prompt for every rank, half of them 1 to 200 ms after the others."""
    at = 0.0
    for k in range(num):
        group, place = divmod(k, settings.dp_size)
        apart = STAGGERS_MS[group % len(STAGGERS_MS)]
        if place == 0:
            order = rng.permutation(settings.dp_size)
            tokens = _draw_length(settings, rng, 8192, 8192)
            at += _pause(settings, tokens) if k else 0.0
        is_late = 2 * place >= settings.dp_size
        yield f"stagger{apart}", int(order[place]), tokens, at + is_late * apart / 1e3


def _send_burst(num: int, settings: LoadSettings, rng: np.random.Generator) -> Iterator[_Sent]:
    """Four prompts a rank at once, on random ranks."""
    at, size = 0.0, 4 * settings.dp_size
    for k in range(num):
        if k and k % size == 0:
            at += 2 * _pause(settings, 16384)
        rank = int(rng.integers(settings.dp_size))
        yield "burst", rank, _draw_length(settings, rng, 1024, 4096), at


def _send_poisson(num: int, settings: LoadSettings, rng: np.random.Generator) -> Iterator[_Sent]:
    """Prompts of 4096 tokens at random times."""
    at = 0.0
    for _ in range(num):
        at += float(rng.exponential(1.0 / _rate(settings)))
        rank = int(rng.integers(settings.dp_size))
        yield "poisson", rank, _draw_length(settings, rng, 4096, 4096), at


def _send_mixed(num: int, settings: LoadSettings, rng: np.random.Generator) -> Iterator[_Sent]:
    """Log-normal lengths at random times, twice as fast."""
    at = 0.0
    for _ in range(num):
        at += float(rng.exponential(0.5 / _rate(settings)))
        shortest, longest = settings.lengths or (64, 16000)
        tokens = int(np.clip(rng.lognormal(np.log(850.0), 1.0), shortest, longest))
        yield "mixed", int(rng.integers(settings.dp_size)), tokens, at


def _rate(settings: LoadSettings) -> float:
    return settings.rate if settings.rate is not None else 2.2 * settings.dp_size


def replay_arrivals(load: Load, num_requests: int | None) -> list[Request]:
    """The recorded arrivals, lengths and ranks again; the first is sent at about 0.

    Args:
        load: From the recording.
        num_requests: The first so many of them; None: all.
    """
    names: set[str] = set()
    requests = []
    start = float(load.arrival[0]) - LEAST_LEAD_S if len(load) else 0.0
    for i in range(min(len(load), num_requests or len(load))):
        rid = UNSAFE.sub("_", load.rid[i])[:MAX_RID]
        if rid in names:
            rid = f"{rid}-again{i}"
        names.add(rid)
        lead = float(load.arrival[i] - load.begin[i])
        requests.append(
            Request(
                rid,
                int(load.rank[i]),
                int(load.tokens[i]),
                float(load.arrival[i]) - start,
                lead if LEAST_LEAD_S <= lead < 60.0 else LEAST_LEAD_S,
            )
        )
    return requests


def add_warm_up(
    requests: list[Request], dp_size: int, pause: float, rng: np.random.Generator
) -> list[Request]:
    """The engine's own first request on every rank at 0, and the load ``pause`` seconds later."""
    warm = [Request(rng.bytes(16).hex(), r, 4, 0.002, 0.005) for r in range(dp_size)]
    return warm + [replace(q, arrival=q.arrival + pause) for q in requests]
