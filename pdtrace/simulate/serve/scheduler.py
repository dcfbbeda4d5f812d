"""Keeps the time of a served engine: takes its turns when their time has come, in a thread."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeVar

from pdtrace.simulate.records import Request
from pdtrace.simulate.serve.lateness import Lateness
from pdtrace.simulate.timeline import draw_answer, find_answer
from pdtrace.simulate.workload import MAX_RID, UNSAFE

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from pdtrace.simulate.engine import Engine
    from pdtrace.simulate.records import Journey, Outcome
    from pdtrace.simulate.serve.clock import Clock
    from pdtrace.simulate.serve.frontend import FrontTiming, Passage
    from pdtrace.simulate.serve.prompts import Prompt

    Result = TypeVar("Result")

TELL_S = 0.05  # at least that often the recorder hears how far things have come
MEAN_ANSWER_S = 0.0015  # of draw_answer


@dataclass(eq=False, slots=True)
class Ticket:
    """A request on its way through the engine.

    Attributes:
        prompt, passage: What it is, and its way to its rank.
        release: Called in the scheduler's thread once it is to be answered.
        port: The client's.
        journey: What became of it on its rank.
        answer: From its hand-over to the answer, seconds.
        due: When it is to be answered, seconds since the origin.
    """

    prompt: Prompt
    passage: Passage
    release: Callable[[Ticket], None]
    port: int = 0
    journey: Journey | None = None
    answer: float = 0.0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class Progress:
    """What happened in the engine since the last time.

    Attributes:
        outcome: Passes, negotiations.
        tickets: Requests that are finished.
        until: Nothing that happened earlier is still to come; seconds since the origin.
    """

    outcome: Outcome
    tickets: list[Ticket]
    until: float


@dataclass
class Delays:
    """How late the loop took its turns, how late it answered, how late requests reached it."""

    turns: Lateness = field(default_factory=Lateness)
    answers: Lateness = field(default_factory=Lateness)
    arrivals: Lateness = field(default_factory=Lateness)


class Scheduler(threading.Thread):
    """The loop.

    Args:
        engine: The ranks.
        clock: Of everything.
        front: Durations before and behind the ranks.
        rng: Of the time that answering takes.
        tell: Given what happened, in this thread.
        fail: Given what went wrong, in this thread.

    Attributes:
        delays: How late things were, for reasons of this machine.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        front: FrontTiming,
        rng: np.random.Generator,
        tell: Callable[[Progress], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="scheduler", daemon=True)
        self.delays = Delays()
        self._engine, self._clock, self._rng = engine, clock, rng
        self._answering = front.answering / MEAN_ANSWER_S
        self._tell, self._fail = tell, fail
        self._inbox: deque[Ticket] = deque()
        self._questions: deque[Callable[[], None]] = deque()
        self._tickets: dict[Journey, Ticket] = {}
        self._due: list[tuple[float, int, Ticket]] = []
        self._order = count()
        self._told = 0.0
        self._taken = 0.0  # up to here turns are taken: an arrival before it is late
        self._wake = threading.Event()
        self._is_stopping = False

    def submit(self, tickets: list[Ticket]) -> None:
        """Send requests to their ranks; from any thread, in the order of their arrival."""
        self._inbox.extend(tickets)
        self._wake.set()

    def ask(self, question: Callable[[Engine], Result]) -> Future[Result]:
        """Do something with the engine between two turns, all that is past being told before.

        Once stopped, at once.
        """
        future: Future[Result] = Future()

        def answer() -> None:
            self._engine.settle(self._clock.now())
            self._report()
            future.set_result(question(self._engine))

        if self._is_stopping:
            future.set_result(question(self._engine))
        else:
            self._questions.append(answer)
            self._wake.set()
        return future

    def stop(self) -> None:
        """End after the turn that is being taken, and wait for that."""
        self._is_stopping = True
        self._wake.set()
        self.join()

    def run(self) -> None:
        """Take turns until told to stop."""
        try:
            while not self._is_stopping:
                self._wake.clear()
                self._take_in()
                pause = self._step()
                if pause is None or pause > 0:
                    self._wake.wait(pause)
            self._engine.settle(self._clock.now())
            self._report()
        except Exception as error:
            self._fail(error)

    def _step(self) -> float | None:
        """Do what is due; seconds until something else is, None: nothing is."""
        now = self._clock.now()
        self._answer(now)
        turn = self._engine.next_turn
        if turn is not None and turn <= now:
            if not self._engine.is_idle:  # which turns over until something comes
                self.delays.turns.note(now - turn)
            self._engine.turn()
            self._taken = turn
            if self._engine.has_results:
                self._report()
            return 0.0
        if now - self._told > TELL_S:
            self._report()
        moments = [self._due[0][0]] if self._due else []
        moments += [] if turn is None else [turn]
        # While nothing happens, lines of the HTTP server alone wait to be written.
        return min(*moments, now + TELL_S) - now if moments else TELL_S

    def _take_in(self) -> None:
        while self._inbox:
            ticket = self._inbox.popleft()
            prompt, arrival = ticket.prompt, ticket.passage.arrival
            self.delays.arrivals.note(self._taken - arrival)
            rid = UNSAFE.sub("_", prompt.rid)[:MAX_RID]  # it is written to the log
            request = Request(rid, prompt.rank, prompt.tokens, arrival, room=prompt.room)
            ticket.journey = self._engine.submit(request)
            self._tickets[ticket.journey] = ticket
        while self._questions:
            self._questions.popleft()()

    def _report(self) -> None:
        """Tell what happened, and put what is finished on the list of what is due."""
        outcome = self._engine.collect()
        finished = [self._tickets.pop(journey) for journey in outcome.journeys]
        for ticket in finished:
            assert ticket.journey is not None
            ticket.answer = draw_answer(self._rng) * self._answering
            ticket.due = find_answer(ticket.journey, self._engine.timing, ticket.answer)
            heapq.heappush(self._due, (ticket.due, next(self._order), ticket))
        now = self._clock.now()
        turn = self._engine.next_turn
        self._told = now
        self._tell(Progress(outcome, finished, now if turn is None else min(turn, now)))

    def _answer(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, ticket = heapq.heappop(self._due)
            self.delays.answers.note(now - ticket.due)
            ticket.release(ticket)
