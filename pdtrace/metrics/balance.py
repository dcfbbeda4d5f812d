"""Balance: how evenly the DP ranks shared passes, tokens and time."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pdtrace.metrics.tally import (
    FAMILIES,
    NO_DURATION,
    NO_ITERATION,
    Metric,
    Prices,
    as_seconds,
    measure_tallies,
    note_missing,
    note_partial,
    total,
)
from pdtrace.run import count_rank_passes
from pdtrace.schema import ROLES

if TYPE_CHECKING:
    from pdtrace.run import Part, Run


class BalanceTally:
    """Counts passes, tokens and nanoseconds by rank and role."""

    def __init__(self, run: Run, prices: Prices) -> None:
        self.dp_size = run.dp_size
        self.missing_ranks = run.missing_ranks
        self.missing, self.partial = note_missing(run), note_partial(run)
        self.passes: Counter[tuple[int, str]] = Counter()
        self.ns: Counter[tuple[int, str]] = Counter()
        self.tokens: Counter[int] = Counter()
        self.busy_ns = 0
        self.num_timed = 0

    def add(self, part: Part) -> None:
        """Take one part in."""
        durations = part.iterations["duration"]
        self.busy_ns += total(durations)
        self.num_timed += durations.count()
        groups = count_rank_passes(
            part.select("iteration", "dp_rank", "kind", "num_new_tokens"), part.iterations
        )
        for rank, role, passes, ns, tokens in groups.iter_rows():
            self.passes[rank, role] += passes
            self.ns[rank, role] += ns
            self.tokens[rank] += tokens if role == "prefill" else 0

    def rows(self) -> list[Metric]:
        """Rows of the family; see :func:`measure_balance`."""
        rows = [row for rank in range(self.dp_size) for row in self._rank_rows(rank)]
        num_passes = sum(self.passes.values())
        prefills = sum(n for (_, role), n in self.passes.items() if role == "prefill")
        prefill_ns = sum(ns for (_, role), ns in self.ns.items() if role == "prefill")
        tokens = sum(self.tokens.values())
        note = None if num_passes else NO_ITERATION
        most = max(self.tokens.values(), default=0)
        return [
            *rows,
            Metric(
                "num_prefill_passes",
                prefills if num_passes else None,
                "count",
                num_passes,
                note or self.partial,
                low=prefills if num_passes and self.partial else None,
            ),
            Metric(
                "prefill_rank_seconds",
                as_seconds(prefill_ns) if self.num_timed else None,
                "s",
                prefills,
                note or (self.partial if self.num_timed else NO_DURATION),
                low=as_seconds(prefill_ns) if self.num_timed and self.partial else None,
            ),
            Metric(
                "rank_token_imbalance_ratio",
                most * self.dp_size / tokens if tokens and not self.missing else None,
                "ratio",
                prefills,
                note or self.missing,
            ),
        ]

    def _rank_rows(self, rank: int) -> list[Metric]:
        num = {role: self.passes[rank, role] for role in ROLES}
        n = sum(num.values())
        if not n:
            return []
        if rank in self.missing_ranks:
            return self._missing_rank_rows(rank, n, num["unknown"])
        # an iteration that only an unread rank ran is not among them, so 0 says nothing either
        is_blind = num["idle"] == 0 and (num["unknown"] > 0 or self.missing is not None)
        blind = "its silent passes are unknown" if is_blind else self.partial
        untimed = None if self.num_timed else NO_DURATION

        def seconds(role: str) -> float | None:
            return as_seconds(self.ns[rank, role]) if self.num_timed else None

        return [
            Metric("num_prefill_passes", num["prefill"], "count", n, dp_rank=rank),
            Metric("idle_rank_passes", None if is_blind else num["idle"], "count", n, blind, rank),
            Metric("unknown_rank_passes", num["unknown"], "count", n, dp_rank=rank),
            Metric("num_decode_passes", num["decode"], "count", n, dp_rank=rank),
            Metric("num_new_tokens", self.tokens[rank], "tokens", num["prefill"], dp_rank=rank),
            Metric("prefill_rank_seconds", seconds("prefill"), "s", num["prefill"], untimed, rank),
            Metric(
                "idle_rank_seconds",
                None if is_blind else seconds("idle"),
                "s",
                num["idle"],
                blind or untimed,
                rank,
            ),
            Metric(
                "prefill_time_ratio",
                self.ns[rank, "prefill"] / self.busy_ns
                if self.busy_ns and not self.missing
                else None,
                "ratio",
                n,
                untimed or self.missing,
                rank,
            ),
        ]

    def _missing_rank_rows(self, rank: int, n: int, num_unknown: int) -> list[Metric]:
        names = (
            ("num_prefill_passes", "count"),
            ("idle_rank_passes", "count"),
            ("num_decode_passes", "count"),
            ("num_new_tokens", "tokens"),
            ("prefill_rank_seconds", "s"),
            ("idle_rank_seconds", "s"),
            ("prefill_time_ratio", "ratio"),
        )
        note = "nothing was read of this rank; its log, given with the others, tells it"
        return [
            Metric("unknown_rank_passes", num_unknown, "count", n, dp_rank=rank),
            *(Metric(name, None, unit, 0, note, rank) for name, unit in names),
        ]


FAMILIES.register("balance", BalanceTally)


def measure_balance(run: Run) -> list[Metric]:
    """Measure how evenly the ranks shared the work.

    For each rank: passes by role, tokens, seconds in prefill and idle batches (the sums over ranks
    are the engine's), and ``prefill_time_ratio`` = its prefill seconds ÷ the engine's busy seconds.

    * ``num_prefill_passes`` = rank passes that prefilled = Σ fusion widths.
    * ``rank_token_imbalance_ratio`` = tokens of the busiest rank ÷ mean over ranks; 1 is even,
      dp_size is everything on one rank. Unevenness *within* iterations is ``padded_tokens``.
    """
    return measure_tallies(run, [BalanceTally(run, Prices())])
