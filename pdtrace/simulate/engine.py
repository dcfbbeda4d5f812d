"""The scheduler loop of a DP-attention prefill engine, all ranks in one process, pass by pass.

A pass: every rank takes in what arrived; the ranks meet (all-gather); the delayer decides; batches
are built within the chunk budget; if any rank has tokens, all launch, real or idle; then the result
of the pass before is processed. ``docs/method.md`` derives the timing. The same loop, compiled and
without the records, is :func:`pdtrace.delayer.replay_kernel.run_engine`; a test holds them equal.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from pdtrace.delayer.policy import negotiate
from pdtrace.delayer.records import Ask, PolicyConfig, RankInput, RankState, Verdict
from pdtrace.simulate.records import (
    Batch,
    EngineSettings,
    Journey,
    Negotiation,
    Outcome,
    Pass,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from pdtrace.delayer.records import RankOutput
    from pdtrace.simulate.timing import Timing

TURN_S = 0.0005  # what a loop turn costs a rank that had nothing to process
NOTHING_ASKED = Verdict("none", True, "", 0, 0)  # of passes that nobody asks anything in


@dataclass(slots=True)
class _Rank:
    """A scheduler process: what has not reached it, what waits, what is cut, what runs."""

    ready: float
    coming: deque[Journey] = field(default_factory=deque)
    waiting: deque[Journey] = field(default_factory=deque)
    cut: Journey | None = None
    used: float = 0.0
    running: Batch | None = None
    memory: RankState = field(default_factory=RankState)


class Engine:
    """One engine start.

    Either :meth:`run` it over all its requests, or :meth:`submit` them as they come, take
    :meth:`turn` after turn, each once the time :attr:`next_turn` has come, and :meth:`collect`.

    Args:
        requests: By arrival.
        settings: How it was started.
        timing: How long things take.
        rng: Of everything that varies.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        settings: EngineSettings,
        timing: Timing,
        rng: np.random.Generator,
    ) -> None:
        self.settings, self.timing, self.rng = settings, timing, rng
        self.passes: list[Pass] = []
        self.negotiations: list[Negotiation] = []
        self.delay_passes = [0]
        start = requests[0].arrival - 0.01 if requests else 0.0
        self._ranks = [_Rank(start) for _ in range(settings.dp_size)]
        self._number = 0
        self._flying: Pass | None = None
        self._inputs: list[RankInput] = []
        self._memories: tuple[RankState, ...] = ()
        self._device_free = 0.0
        passes = settings.max_delay_passes
        self._policy = PolicyConfig(
            dp_size=settings.dp_size,
            max_delay_passes=1 if passes is None else max(passes, 1),
            token_usage_low_watermark=settings.token_usage_low_watermark,
        )
        self._finished: list[Journey] = []
        self.journeys = [self.submit(request) for request in requests]

    def submit(self, request: Request) -> Journey:
        """Send a request to its rank; no earlier one of that rank may follow."""
        journey = Journey(request)
        self._ranks[request.rank].coming.append(journey)
        return journey

    def run(self) -> Outcome:
        """Run until every request is finished."""
        while self.turn():
            pass
        return Outcome(self.passes, self.journeys, self.negotiations, self.delay_passes)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing runs."""
        return self._flying is None and not self._has_work()

    @property
    def next_turn(self) -> float | None:
        """When all that the next turn depends on has happened; None: there is nothing to do."""
        if self.is_idle and not any(rank.coming for rank in self._ranks):
            return None
        return max(rank.ready for rank in self._ranks)

    @property
    def has_results(self) -> bool:
        """A request is finished that was not collected."""
        return bool(self._finished)

    @property
    def queues(self) -> list[int]:
        """Requests waiting on each rank."""
        return [len(rank.waiting) for rank in self._ranks]

    @property
    def usages(self) -> list[float]:
        """Share of each rank's KV pool in use."""
        return [min(rank.used / self.settings.pool, 1.0) for rank in self._ranks]

    def settle(self, until: float) -> None:
        """Turn over without work until then; nothing happens unless it is idle."""
        turn = self.timing.empty_turn
        meet = max(rank.ready for rank in self._ranks)
        if self.is_idle and turn and until > meet:
            self._turn_over(meet, meet + (until - meet) // turn * turn)

    def collect(self) -> Outcome:
        """What happened since the last time, which is then forgotten.

        Holds only passes whose every result was processed, and requests that are finished.
        """
        passes = [one for one in self.passes if one is not self._flying]
        out = Outcome(passes, self._finished, self.negotiations, self.delay_passes)
        self.passes = self.passes[len(passes) :]
        self._finished, self.negotiations, self.delay_passes = [], [], [0]
        return out

    def _has_work(self) -> bool:
        return any(rank.waiting or rank.cut is not None for rank in self._ranks)

    def turn(self) -> bool:
        """One pass of the loop; whether there may be another."""
        for rank in self._ranks:
            self._take_in(rank)
        meet = max(rank.ready for rank in self._ranks)
        if self.is_idle:
            return self._sleep(meet)

        outputs = self._negotiate(meet)
        allows = not outputs or outputs[0].verdict.output_allow
        if not allows:
            self.delay_passes[-1] += 1
        batches = {
            r: batch
            for r, rank in enumerate(self._ranks)
            if (batch := self._build(rank, allows, meet if outputs else rank.ready)) is not None
        }
        self._remember(meet, outputs, batches)
        if batches:
            self._launch(batches, meet)
        elif self._flying is not None:
            self._drain(meet)
        else:
            turn = self.timing.empty_turn if allows else self.timing.delayed_turn
            for rank in self._ranks:
                rank.ready = meet + turn
        return True

    def _take_in(self, rank: _Rank) -> None:
        polled, took = rank.ready, False
        while rank.coming and rank.coming[0].request.arrival <= polled:
            journey = rank.coming.popleft()
            journey.taken = polled
            rank.waiting.append(journey)
            took = True
        if took:
            rank.ready += self.timing.taking

    def _sleep(self, meet: float) -> bool:
        """Turn over until the next arrival; False if there is none."""
        arrivals = [rank.coming[0].request.arrival for rank in self._ranks if rank.coming]
        if not arrivals:
            return False
        turn = self.timing.empty_turn
        self._turn_over(meet, max(meet, min(arrivals) + (self.rng.random() * turn if turn else 0)))
        return True

    def _turn_over(self, meet: float, wake: float) -> None:
        """Pass the time without work; the delayer negotiates on every turn."""
        turn = self.timing.empty_turn
        if self.settings.max_delay_passes is not None:
            if turn and (count := round((wake - meet) / turn)):
                nothing = ((0, 0.0),) * self.settings.dp_size
                self.negotiations.append(Negotiation(meet, count, NOTHING_ASKED, waits=nothing))
            for rank in self._ranks:
                rank.memory = RankState(
                    None, rank.memory.is_skip_first_armed, rank.memory.prefill_sizes
                )
        for rank in self._ranks:
            rank.ready = wake

    def _negotiate(self, meet: float) -> tuple[RankOutput, ...]:
        """What the ranks decide; empty without a delayer."""
        if self.settings.max_delay_passes is None:
            return ()
        asking_mid_chunk = self.settings.rules.mid_chunk_asks
        self._inputs = [
            RankInput(
                token_usage=rank.used / self.settings.pool,
                asks=(
                    Ask(
                        max_prefill_bs=rank.memory.max_prefill_bs,
                        max_running_requests=self.settings.max_running_requests,
                        waiting_queue_len=len(rank.waiting),
                    ),
                )
                if rank.waiting or (asking_mid_chunk and rank.cut is not None)
                else (),
            )
            for rank in self._ranks
        ]
        self._memories, outputs = self._decide(self._inputs, meet)
        return outputs

    def _decide(
        self, inputs: Sequence[RankInput], meet: float
    ) -> tuple[tuple[RankState, ...], tuple[RankOutput, ...]]:
        memories = [rank.memory for rank in self._ranks]
        return negotiate(
            self._policy, self.settings.rules, memories, inputs, [meet] * len(memories)
        )

    def _remember(
        self, meet: float, outputs: Sequence[RankOutput], batches: dict[int, Batch]
    ) -> None:
        """End the negotiation: only now is it known how much each rank ran."""
        if not outputs:
            return
        if batches:
            inputs = [
                replace(given, actual_prefill_bs=len(batches[r].members) if r in batches else 0)
                for r, given in enumerate(self._inputs)
            ]
            self._memories, outputs = self._decide(inputs, meet)
        for rank, memory in zip(self._ranks, self._memories, strict=True):
            rank.memory = memory
        waits = tuple((o.metric_forward_passes, o.metric_wait_seconds) for o in outputs)
        self.negotiations.append(
            Negotiation(meet, 1, outputs[0].verdict, frozenset(batches), waits)
        )

    def _build(self, rank: _Rank, allows: bool, now: float) -> Batch | None:
        """A rank's batch: first the rest of the prompt that was cut, then whole ones, in order."""
        number, budget = self._number + 1, self.settings.chunk
        batch = Batch([], 0, 0, [])

        def put(journey: Journey) -> int:
            take = min(journey.request.tokens - journey.computed, budget)
            journey.computed += take
            journey.chunks.append((number, take))
            batch.members.append(journey)
            batch.tokens += take
            if journey.computed >= journey.request.tokens:
                batch.finishing.append(journey)
            return take

        if rank.cut is not None:
            budget -= put(rank.cut)
            if batch.finishing:
                rank.cut = None
        while allows and rank.cut is None and rank.waiting and budget > 0:
            journey = rank.waiting.popleft()
            journey.selected = now
            rank.used += journey.request.tokens
            budget -= put(journey)
            if journey.computed < journey.request.tokens:
                rank.cut = journey
        left = [*rank.waiting] if rank.cut is None else [rank.cut, *rank.waiting]
        batch.pending_tokens = sum(one.request.tokens - one.computed for one in left)
        return batch if batch.members else None

    def _weigh(self, batch: Batch) -> float:
        """What a batch adds to its pass: tokens, and attention over the longest of them."""
        parts = [(one.computed, one.chunks[-1][1]) for one in batch.members]
        longest = max((new for total, new in parts if total == new), default=0)
        squares = sum(
            2.0 * new * (longest if total == new else total) - new * new for total, new in parts
        )
        return self.timing.weigh(batch.tokens, squares)

    def _launch(self, batches: dict[int, Batch], meet: float) -> None:
        """Launch on all ranks, then let each process the result of the pass before."""
        timing, rng = self.timing, self.rng
        launched = meet + timing.launching
        took = timing.draw_pass(
            max(self._weigh(batch) for batch in batches.values()),
            sum(batch.tokens for batch in batches.values()),
            rng,
        )
        begun = launched
        if not timing.is_blocking:
            begun = max(launched + timing.asynchronous, self._device_free)
        done = self._device_free = begun + took
        for r, rank in enumerate(self._ranks):
            back = launched + timing.asynchronous
            if timing.is_blocking:
                idle = min(timing.draw_idle(rng), took) if r not in batches else took
                back = launched + idle
            skew = timing.draw_skew(rng)
            back += skew
            if self._flying is not None:
                back = max(back, self._flying.done)
                if rank.running is not None:
                    seen = back
                    if timing.is_blocking and r in batches:
                        seen = launched + timing.draw_return(took, rng) + skew
                        seen = max(min(seen, back), self._flying.done)
                    self._report(rank, seen)
                    back = max(back, seen + timing.processing)
            rank.ready = back + TURN_S
            rank.running = batches.get(r)
        self._number += 1
        self._flying = Pass(self._number, launched, done, took, batches)
        self.passes.append(self._flying)
        self.delay_passes.append(0)

    def _drain(self, meet: float) -> None:
        """Nothing to launch: every rank waits for the device and processes what is left."""
        assert self._flying is not None
        for rank in self._ranks:
            at = max(meet, self._flying.done) + self.timing.draw_skew(self.rng)
            if rank.running is not None:
                self._report(rank, at)
                at += self.timing.processing
            else:
                at += TURN_S
            rank.ready = at
            rank.running = None
        self._flying = None

    def _report(self, rank: _Rank, at: float) -> None:
        batch = rank.running
        assert batch is not None
        batch.reported = at
        batch.queue_len = len(rank.waiting)
        batch.usage = min(rank.used / self.settings.pool, 1.0)
        for journey in batch.finishing:
            journey.finished = at
            self._finished.append(journey)
            rank.used -= journey.request.tokens
