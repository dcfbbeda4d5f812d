"""What goes into a negotiation and what comes out of it: settings, inputs, memory, verdicts.

Field names follow the engine's, so that a recorded pass and these records can be laid side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pdtrace.errors import UsageError

Status = Literal["all", "none", "mixed"]
Row = tuple[int, ...]

DEFAULT_MAX_DELAY_MS = 5000


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Settings of one engine, the same on all its ranks.

    Attributes:
        dp_size: DP ranks.
        enable_dp_attention: Whether DP attention is on; without it only rank 0's row is read.
        attn_tp_size: Attention-TP ranks of one DP rank.
        attn_cp_size: Attention-CP ranks of one DP rank.
        world_size: Ranks in the gather, DP-major; null: ``dp_size × attn_tp_size × attn_cp_size``
            with DP attention, ``attn_tp_size × attn_cp_size`` without.
        max_delay_passes: The pass of a wait on which prefill is let through; 1 or less: no wait.
        token_usage_low_watermark: Token usage (0–1) below which a rank releases everybody.
        queue_min_ratio: Share of the running batch that must be waiting; null: no queue trigger.
        max_delay_ms: Deadline of the queue trigger in milliseconds; null: 5000.
        prefill_max_requests: Cap of the queue trigger's target (from 0.5.19).
        tracker_window: Attempts that max_prefill_bs looks back on (from 0.5.18).

    Raises:
        UsageError: A size is not positive, or the ranks do not divide into DP groups.
    """

    dp_size: int
    enable_dp_attention: bool = True
    attn_tp_size: int = 1
    attn_cp_size: int = 1
    world_size: int | None = None
    max_delay_passes: int = 30
    token_usage_low_watermark: float | None = None
    queue_min_ratio: float | None = None
    max_delay_ms: float | None = None
    prefill_max_requests: int | None = None
    tracker_window: int = 16

    def __post_init__(self) -> None:
        for name in ("dp_size", "attn_tp_size", "attn_cp_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}")
        if self.tracker_window < 1:
            raise UsageError(f"window_size must be positive, not {self.tracker_window}")
        if self.num_ranks < 1 or (self.enable_dp_attention and self.num_ranks % self.dp_size):
            raise UsageError(f"{self.num_ranks} ranks do not divide into {self.dp_size} DP ranks")

    @property
    def num_ranks(self) -> int:
        """Ranks in the gather."""
        if self.world_size is not None:
            return self.world_size
        groups = self.dp_size if self.enable_dp_attention else 1
        return groups * self.attn_tp_size * self.attn_cp_size

    @property
    def leaders(self) -> range:
        """Ranks whose rows are read: the first of each DP group, or rank 0 alone."""
        if not self.enable_dp_attention:
            return range(1)
        return range(0, self.num_ranks, self.num_ranks // self.dp_size)

    @property
    def deadline_ms(self) -> float:
        """Deadline of the queue trigger in milliseconds, with its default."""
        return DEFAULT_MAX_DELAY_MS if self.max_delay_ms is None else self.max_delay_ms

    def slots(self, max_running_requests: int) -> int:
        """Requests that may run on one DP rank: without DP attention a share, rounded up."""
        if self.enable_dp_attention:
            return max_running_requests
        return -(-max_running_requests // self.dp_size)


@dataclass(frozen=True, slots=True)
class Ask:
    """One question of the scheduler, while it builds a prefill batch, whether prefill may run.

    Attributes:
        running_batch: Requests running on the rank (B+).
        max_prefill_bs: Largest prefill batch of the rank, see ``max_prefill_bs_after`` (B+).
        max_running_requests: Requests that the rank may run (B+).
        waiting_queue_len: Requests waiting on the rank (D+).
    """

    running_batch: int = 0
    max_prefill_bs: int = 0
    max_running_requests: int = 0
    waiting_queue_len: int = 0


NO_ASK = Ask()
"""What a rank that asked nothing negotiates with, at the end of its pass: zeros."""


@dataclass(frozen=True, slots=True)
class RankInput:
    """What one rank brings to one pass.

    Attributes:
        token_usage: Share of the KV pool in use (0–1).
        asks: Its questions in order. The first takes part in the gather and gets the verdict;
            later ones get the same verdict. None: the rank has nothing to prefill.
        actual_prefill_bs: Requests in the batch that it ran in the end.
    """

    token_usage: float
    asks: tuple[Ask, ...] = ()
    actual_prefill_bs: int = 0

    @property
    def is_prefillable(self) -> bool:
        """Whether it asked."""
        return bool(self.asks)


@dataclass(frozen=True, slots=True)
class WaitState:
    """A wait under way: refusals so far, and the rank's clock (seconds) when it began."""

    delayed_count: int
    start_time: float


@dataclass(frozen=True, slots=True)
class RankState:
    """What one rank remembers from pass to pass; the default is a process just started.

    Attributes:
        wait: The wait under way, if any.
        is_skip_first_armed: Whether the first delay with all ranks prefillable is still to be
            skipped (B+).
        prefill_sizes: What max_prefill_bs is the maximum of: the lifetime maximum alone (B to E2),
            or the last ``tracker_window`` attempts, oldest first (F+).
    """

    wait: WaitState | None = None
    is_skip_first_armed: bool = True
    prefill_sizes: tuple[int, ...] = ()

    @property
    def max_prefill_bs(self) -> int:
        """The rank's high-watermark of prefill batch sizes."""
        return max(self.prefill_sizes, default=0)


@dataclass(frozen=True, slots=True)
class GlobalView:
    """What the rows that are read say together; fields that a release lacks are 0 and false."""

    status: Status
    num_prefillable: int
    num_token_watermark_force_allow: int
    max_running_batch: int = 0
    max_prefill_bs: int = 0
    max_waiting_queue_len: int = 0
    is_any_deadline_expired: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one rank decides.

    Attributes:
        input_estimation: Whether all, none or some DP ranks could prefill.
        output_allow: Whether prefill may run.
        output_reason: ``""``, ``no_wait``, ``wait_success``, ``wait_timeout``, ``token_watermark``
            or ``delay``.
        num_prefillable: Rows that were prefillable.
        num_token_watermark_force_allow: Rows that forced by watermark.
        wait_forward_passes: Refusals of the wait that an allowing verdict ends, else 0. The engine
            has this field from 0.5.14 (E); here it is filled for every release.
        wait_seconds: Age of that wait in seconds, by the rank's clock after the gather, else 0.
    """

    input_estimation: Status
    output_allow: bool
    output_reason: str
    num_prefillable: int
    num_token_watermark_force_allow: int
    wait_forward_passes: int = 0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RankOutput:
    """Everything that one rank lets out in one pass.

    Attributes:
        verdict: What it decided.
        gathered: The row that it sent, in the order of ``rules.gathered_fields``.
        metric_forward_passes: Delay passes that its metrics observe.
        metric_wait_seconds: Seconds of waiting that its metrics observe.
        finalize_return: Size of its attempt, as finalize returns it; null before F.
        max_prefill_bs_after: Its high-watermark after the pass; null in A.
    """

    verdict: Verdict
    gathered: Row
    metric_forward_passes: int
    metric_wait_seconds: float
    finalize_return: int | None = None
    max_prefill_bs_after: int | None = None
