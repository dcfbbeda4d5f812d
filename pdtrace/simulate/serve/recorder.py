"""Writes the files of a served engine while it runs, in a thread."""

from __future__ import annotations

import json
import queue
import threading
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from pdtrace.errors import OutputError
from pdtrace.simulate.exposition import Gauges, Tally, write_metrics
from pdtrace.simulate.server_log import ServerLog
from pdtrace.simulate.timeline import show_pass, show_request
from pdtrace.simulate.traces import Bundles, trace_request
from pdtrace.simulate.truth import SOURCE, describe_iteration, list_outcomes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    import numpy as np

    from pdtrace.simulate.records import Pass
    from pdtrace.simulate.serve.clock import Clock
    from pdtrace.simulate.serve.scheduler import Progress, Ticket
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timeline import RankPass
    from pdtrace.simulate.timing import Timing

    Spans = dict[int, list[dict[str, Any]]]

FLUSH_S = 0.5  # as the engine's exporter waits for more spans


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the log: when, what; of the HTTP server if ``is_access``, or of a rank."""

    at: int
    text: str
    is_access: bool = False
    rank: int | None = None


class Recorder(threading.Thread):
    """Writes ``server.log``, ``spans.jsonl`` and ``truth.json``, and counts for ``/metrics``.

    Args:
        launch, timing, clock: Of the engine.
        directory: Where to.
        log: That what came before is in.
        rngs: Of what is drawn for lines, and of the ids of spans.
        export: Given the spans of every request besides; None: nobody is.
        fail: Given what went wrong, in this thread.
    """

    def __init__(
        self,
        launch: Launch,
        timing: Timing,
        clock: Clock,
        directory: Path,
        log: ServerLog,
        rngs: tuple[np.random.Generator, np.random.Generator],
        export: Callable[[Spans], None] | None,
        fail: Callable[[BaseException], None],
    ) -> None:
        super().__init__(name="recorder", daemon=True)
        self.tally = Tally(launch)
        self._launch, self._timing, self._clock = launch, timing, clock
        self._log, self._rngs, self._export, self._fail = log, rngs, export, fail
        self._directory = directory
        self._work: queue.SimpleQueue[Progress | Line | Callable[[], None] | None] = (
            queue.SimpleQueue()
        )
        self._bundles = Bundles()
        self._flushed = 0.0
        # Of each rank, what it showed of passes that a request may still need.
        self._shown: list[deque[RankPass]] = [deque() for _ in range(launch.engine.dp_size)]
        self._unprinted: deque[Pass] = deque()
        self._places: dict[tuple[int, int], tuple[int, str]] = {}
        self._widths: Counter[int] = Counter()
        self._files: dict[str, IO[str]] = {}
        for name in ("server.log", "spans.jsonl", "truth.json"):
            self._files[name] = self._open(name)
        self._files["truth.json"].write('{\n "iterations": [')

    def tell(self, progress: Progress) -> None:
        """Take what happened in the engine."""
        self._work.put(progress)

    def put(self, line: Line) -> None:
        """Take a line of the log."""
        self._work.put(line)

    def put_warm_up(self, began: int, ended: int) -> None:
        """Take that the engine is ready, and when its warm-up began and ended."""
        self._work.put(lambda: self._log.put_warm_up(began, ended))

    def expose(self, gauges: Gauges) -> Future[str]:
        """The exposition, of all that was told before."""
        future: Future[str] = Future()

        def answer() -> None:
            future.set_result(write_metrics(self._launch, self.tally, gauges))

        self._work.put(answer)
        return future

    def write_file(self, name: str, text: str) -> None:
        """Write a whole file of the directory.

        Raises:
            OutputError: It cannot be written.
        """
        path = self._directory / name
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def finish(self, facts: dict[str, Any]) -> int:
        """Write all that is left, wait for it, and return the number of iterations.

        Args:
            facts: Added to the truth.

        Raises:
            OutputError: A file cannot be written.
        """
        self._work.put(None)
        self.join()
        try:
            self._write_lines(None)
            self._write_spans(self._bundles.empty())
            num = sum(self._widths.values())
            truth = {
                "source": SOURCE,
                "simulated": True,
                "num_iterations": num,
                "ranks_per_iteration": {str(w): n for w, n in sorted(self._widths.items())},
                "prefill_delayer_outcomes": list_outcomes(self.tally),
                **facts,
            }
            self._files["truth.json"].write("\n ],\n" + json.dumps(truth, indent=1)[2:] + "\n")
            for stream in self._files.values():
                stream.close()
        except OSError as error:
            where = self._directory
            raise OutputError(f"{where}: cannot be written: {error.strerror or error}") from error
        return num

    def run(self) -> None:
        """Write until told to finish."""
        try:
            while True:
                work = self._work.get()
                if work is None:
                    return
                if isinstance(work, Line):
                    self._put_line(work)
                elif callable(work):
                    work()
                else:
                    self._take(work)
        except Exception as error:
            self._fail(error)

    def _open(self, name: str) -> IO[str]:
        path = self._directory / name
        try:
            return path.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error

    def _put_line(self, line: Line) -> None:
        if line.is_access:
            self._log.put_access(line.at, line.text)
        else:
            self._log.put(line.at, line.text, line.rank)

    def _take(self, progress: Progress) -> None:
        origin = self._clock.origin
        for negotiation in progress.outcome.negotiations:
            self.tally.note_negotiation(negotiation)
            self._log.put_decision(negotiation, self._clock.at(negotiation.at))
        for one in progress.outcome.passes:
            self._widths[len(one.batches)] += 1
            self._unprinted.append(one)
            for shown in show_pass(one, self._timing, origin, self._rngs[0]):
                self._log.put_batch(shown)
                self.tally.note_batch(shown)
                self._shown[shown.rank].append(shown)
        for ticket in progress.tickets:
            self._put_request(ticket)
        self._forget()
        self._write_lines(self._clock.at(progress.until))
        if progress.until - self._flushed > FLUSH_S:
            self._flushed = progress.until
            self._write_spans(self._bundles.empty())
            for stream in self._files.values():
                stream.flush()

    def _put_request(self, ticket: Ticket) -> None:
        journey, prompt = ticket.journey, ticket.prompt
        assert journey is not None
        numbers = {number for number, _ in journey.chunks}
        shown = [one for one in self._shown[prompt.rank] if one.number in numbers]
        moments = show_request(
            journey, shown, self._timing, self._clock.origin,
            ticket.passage.build_entry(self._clock.at), ticket.answer,
            room=prompt.room, port=ticket.port,
        )  # fmt: skip
        self._log.put_time_stats(moments)
        self.tally.note_request(prompt.tokens)
        spans = trace_request(moments, shown, self._rngs[1])
        self._write_spans(self._bundles.put(spans))
        if self._export is not None:
            self._export(spans)

    def _forget(self) -> None:
        """Drop what no request needs: only a prompt that was cut does need earlier passes."""
        for held in self._shown:
            if not held:
                continue
            last = held[-1]
            unfinished = [m for m in last.batch.members if m not in last.batch.finishing]
            needed = min((m.chunks[0][0] for m in unfinished), default=last.number + 1)
            while held and held[0].number < needed:
                held.popleft()

    def _write_lines(self, until: int | None) -> None:
        written = self._log.take(until)
        self._files["server.log"].write(written.text)
        self._places.update(written.lines)
        truth = self._files["truth.json"]
        while self._unprinted:
            one = self._unprinted[0]
            keys = [(one.number, rank) for rank in one.batches]
            if not all(key in self._places for key in keys):
                break
            truth.write("," if one.number > 1 else "")
            truth.write("\n  " + json.dumps(describe_iteration(one, self._places)))
            for key in keys:
                del self._places[key]
            self._unprinted.popleft()

    def _write_spans(self, messages: Iterator[str]) -> None:
        for message in messages:
            self._files["spans.jsonl"].write(message + "\n")
