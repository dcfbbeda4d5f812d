"""What a simulated engine is given, and what it is seen to do; seconds since the load's origin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.delayer.records import Verdict
    from pdtrace.delayer.rules import ReleaseRules


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt.

    Attributes:
        rid: Its id, the phase of the load first.
        rank: DP rank that serves it.
        tokens: Prompt tokens; none of them is cached.
        arrival: When that rank can see it at the earliest.
        lead: From the client's sending to the arrival.
        room: Bootstrap room; None: numbered by whoever writes it down.
    """

    rid: str
    rank: int
    tokens: int
    arrival: float
    lead: float = 0.006
    room: int | None = None

    @property
    def phase(self) -> str:
        """The phase of the load that it belongs to."""
        return self.rid.partition("-")[0]


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine was started.

    Attributes:
        dp_size: DP ranks.
        chunk: Tokens that a rank's batch may hold.
        pool: KV tokens of a rank; admission does not stop at it, usage is reckoned by it.
        rules: The release's negotiation.
        max_delay_passes: None: the delayer is off.
        token_usage_low_watermark: Of the delayer.
        max_running_requests: Of a rank.
    """

    dp_size: int
    chunk: int
    pool: float
    rules: ReleaseRules
    max_delay_passes: int | None = None
    token_usage_low_watermark: float | None = None
    max_running_requests: int = 4096


@dataclass(slots=True, eq=False)
class Journey:
    """What became of a request.

    Attributes:
        request: It.
        computed: Tokens put into batches so far.
        taken: When its rank took it in.
        selected: When it was first put into a batch.
        chunks: For each of its chunks: pass number, tokens.
        finished: When the result of its last chunk was processed; None: never.
    """

    request: Request
    computed: int = 0
    taken: float = 0.0
    selected: float = 0.0
    chunks: list[tuple[int, int]] = field(default_factory=list)
    finished: float | None = None


@dataclass(slots=True)
class Batch:
    """What one rank ran in a pass.

    Attributes:
        members: Its requests, in the order of admission.
        tokens: New tokens.
        pending_tokens: Tokens still waiting on the rank when it was built.
        finishing: Members whose last chunk it holds.
        reported: When the rank processed the result.
        queue_len: Requests waiting at that time.
        usage: Share of the KV pool in use at that time.
    """

    members: list[Journey]
    tokens: int
    pending_tokens: int
    finishing: list[Journey]
    reported: float = 0.0
    queue_len: int = 0
    usage: float = 0.0


@dataclass(slots=True)
class Pass:
    """One iteration: the counter, when it was launched and done, and each busy rank's batch."""

    number: int
    launched: float
    done: float
    duration: float
    batches: dict[int, Batch]


@dataclass(frozen=True, slots=True)
class Negotiation:
    """One pass of the delayer, or ``count`` equal ones without work.

    Attributes:
        at: When the ranks had met.
        count: How many.
        verdict: Rank 0's; the ranks agree.
        executed: Ranks that ran tokens.
        waits: What each rank's metrics observe: delay passes, seconds.
    """

    at: float
    count: int
    verdict: Verdict
    executed: frozenset[int] = frozenset()
    waits: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class Outcome:
    """What a simulated engine did.

    ``delay_passes``: refusals before each pass, and one more for those after the last.
    """

    passes: list[Pass]
    journeys: list[Journey]
    negotiations: list[Negotiation]
    delay_passes: list[int]
