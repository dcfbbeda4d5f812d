"""What the load client is asked to do."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from pdtrace.errors import UsageError

FAKE_HOST = "2.2.2.2"
"""The peer address for which every release hands the KV cache to nobody, at once."""

MAX_INPUT_LEN = 10_000_000
_PHASE = re.compile(r"[A-Za-z][A-Za-z_]{0,31}")


@dataclass(frozen=True)
class Target:
    """An engine's address.

    Attributes:
        url: Without a slash at the end, and without credentials.
        host: Name or address of the machine.
        is_local: Whether it is this machine, so that clocks are one.
    """

    url: str
    host: str
    is_local: bool


def parse_url(text: str) -> Target:
    """Check an address.

    Raises:
        UsageError: It is none, or holds credentials, which are not repeated.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"the URL cannot be used: {error}") from None
    if "@" in text:
        raise UsageError(
            "the URL holds a user name or password, which would end up in logs; an engine's API key"
            " is taken from the environment variable PDTRACE_API_KEY"
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(f"{text}: expected http://HOST:PORT or https://HOST:PORT")
    if parts.path.rstrip("/").endswith("/generate"):
        raise UsageError(f"{text}: name the engine, without /generate")
    try:
        is_local = host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        is_local = False
    return Target(text.rstrip("/"), host, is_local)


@dataclass(frozen=True)
class Lengths:
    """Tokens of the prompts.

    Attributes:
        values: Given to the requests in turn.
        is_range: Instead, drawn evenly from the first to the second of them.
    """

    values: tuple[int, ...] = (8192,)
    is_range: bool = False


def parse_lengths(text: str) -> Lengths:
    """``8192``, ``1024-4096`` (drawn evenly) or ``4096,1024`` (in turn).

    Raises:
        ValueError: It is none of these.
    """
    is_range = "-" in text
    values = tuple(int(part) for part in text.split("-" if is_range else ","))
    if not all(1 <= v <= MAX_INPUT_LEN for v in values):
        raise ValueError
    if is_range and (len(values) != 2 or values[0] > values[1]):
        raise ValueError
    return Lengths(values, is_range)


@dataclass(frozen=True)
class Route:
    """Which DP rank a request is sent to.

    Attributes:
        kind: ``round-robin`` (over the ranks, in order), ``rank``, ``balancer`` (the engine's own
            choice), or ``recorded`` (where a replayed request ran).
        rank: Of ``rank``.
    """

    kind: str = "round-robin"
    rank: int | None = None


def parse_route(words: list[str]) -> Route:
    """``round-robin``, ``balancer``, ``recorded``, or ``rank N``.

    Raises:
        UsageError: It is none of these.
    """
    if words in (["round-robin"], ["balancer"], ["recorded"]):
        return Route(words[0])
    if len(words) == 2 and words[0] == "rank" and words[1].isascii() and words[1].isdigit():
        return Route("rank", int(words[1]))
    raise UsageError(
        f"--route {' '.join(words)}: expected round-robin, rank N, balancer or recorded; put the"
        " URL before it"
    )


@dataclass(frozen=True)
class Arrivals:
    """When the requests of a repeat are sent; times in seconds.

    Attributes:
        kind: ``batch`` (one after another with a stagger, at once if that is 0), ``poisson``
            (random, independent, at a rate), ``burst`` (groups at once), ``closed`` (each client
            sends when its last request was answered), or ``replay``.
        num_requests: Of a repeat.
        stagger_s: From one request of a batch or burst to the next.
        rate: Requests a second of ``poisson``, of all ranks together.
        burst_size, burst_gap_s: Requests of a burst; from the begin of one to the next.
        concurrency, think_s: Clients of ``closed``; from an answer to that client's next request.
        rank_offsets_s: Added to a request's time by its rank.
    """

    kind: str = "batch"
    num_requests: int = 4
    stagger_s: float = 0.0
    rate: float = 1.0
    burst_size: int = 8
    burst_gap_s: float = 1.0
    concurrency: int = 4
    think_s: float = 0.0
    rank_offsets_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """What requests hold.

    Attributes:
        lengths: Tokens.
        output_len: Tokens to generate; a prefill engine computes one whatever is asked.
        vocab_size: Input ids are below it.
        tokenizer: File, directory or name of a tokenizer: texts are sent instead of input ids.
        per_post: Consecutive requests in one HTTP request.
        seed: Of everything drawn.
        phase: What request ids begin with; None: by the kind of arrivals.
    """

    lengths: Lengths = field(default_factory=Lengths)
    output_len: int = 1
    vocab_size: int = 32000
    tokenizer: str | None = None
    per_post: int = 1
    seed: int = 0
    phase: str | None = None


@dataclass(frozen=True)
class Peer:
    """Who takes the KV cache.

    Attributes:
        host: Bootstrap address; None: the fields of a transfer are left out, for unified engines.
        port: Bootstrap port, or none.
        decode: A decode engine that is sent each request too, and fetches its KV cache.
    """

    host: str | None = FAKE_HOST
    port: int | None = None
    decode: Target | None = None


@dataclass(frozen=True)
class Bounds:
    """What ends a run; times in seconds.

    Attributes:
        num_repeats: At least so many rounds.
        precision: Go on until the makespan's 95 % interval is within ± this share of its mean;
            None: do not.
        max_repeats: Then at most so many.
        max_requests: Sent in all, warm-up included, to each engine.
        max_duration: From the first request.
        timeout: From a request's sending to its answer.
        connect_timeout: For a connection.
        pause: Between repeats.
        wait: For the engine to answer at all, at the start.
    """

    num_repeats: int = 1
    precision: float | None = None
    max_repeats: int = 30
    max_requests: int = 100_000
    max_duration: float = 3600.0
    timeout: float = 300.0
    connect_timeout: float = 10.0
    pause: float = 0.3
    wait: float = 0.0


@dataclass(frozen=True)
class LoadSettings:
    """A whole run of the load client.

    Attributes:
        targets: One engine, or two that take turns.
        peer: None: the fake one, and none for an engine that says it is unified.
        directory: The run directory, of two engines its folders ``a`` and ``b``; None: nothing is
            written.
        is_forced: Take a directory that holds files.
        replay: A recording whose arrivals are sent again.
        dp_size: DP ranks; None: as the engine says.
        engine_version: Release; None: as the engine says.
        num_warm: Requests of every rank that are sent first, and neither measured nor written down.
        is_flushed: Flush the prefix cache before each repeat.
    """

    targets: tuple[Target, ...]
    arrivals: Arrivals = field(default_factory=Arrivals)
    prompts: Prompts = field(default_factory=Prompts)
    route: Route = field(default_factory=Route)
    peer: Peer | None = None
    bounds: Bounds = field(default_factory=Bounds)
    directory: str | None = None
    is_forced: bool = False
    replay: str | None = None
    dp_size: int | None = None
    engine_version: str | None = None
    num_warm: int = 0
    is_flushed: bool = False


def check_phase(text: str) -> str:
    """A word that request ids can begin with: letters, as readers cut it at digits and signs.

    Raises:
        UsageError: It is none.
    """
    if not _PHASE.fullmatch(text):
        raise UsageError(f"--phase {text!r}: expected letters and _, at most 32")
    return text
