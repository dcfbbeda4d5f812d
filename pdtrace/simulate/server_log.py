"""The engine's log: start, warm-up, prefill batches, time stats, access lines."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.simulate.records import Negotiation
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timeline import Moments, RankPass, Timeline

SECOND = 10**9
MARK = (
    "simulated: written by 'pdtrace simulate'; no engine ran, and every line below is made "
    "(seed {seed})"
)

# (pass, rank)
Place = tuple[int, int]


@dataclass(frozen=True)
class WrittenLog:
    """Lines of the log, and where the batches are in it: (pass, rank) → line number and stamp."""

    text: str
    lines: dict[Place, tuple[int, str]]


class ServerLog:
    """Takes what happens in any order, and gives lines in the order of time.

    Args:
        launch: The engine start.
        built: When the schedulers were built: the clock of the printed throughput starts.
    """

    def __init__(self, launch: Launch, built: int) -> None:
        self._launch = launch
        self._lines: list[tuple[int, int, str, Place | None]] = []
        self._num_put = 0
        self._num_taken = 0
        self._printed = dict.fromkeys(range(launch.engine.dp_size), built)
        self._built = built

    def take(self, until: int | None = None) -> WrittenLog:
        """The lines from before a moment, or all, that were not taken yet."""
        out, found = [], {}
        if not self._num_taken:
            out.append(MARK.format(seed=self._launch.seed))
        width = 23 if self._launch.logging.has_milliseconds else 19
        while self._lines and (until is None or self._lines[0][0] < until):
            _, _, line, batch = heapq.heappop(self._lines)
            out.append(line)
            if batch is not None:
                found[batch] = self._num_taken + len(out), line[1 : 1 + width]
        self._num_taken += len(out)
        return WrittenLog("".join(line + "\n" for line in out), found)

    def put(
        self, at: int, message: str, rank: int | None = None, batch: Place | None = None
    ) -> None:
        """A line of a scheduler, or of a process without a rank."""
        stamp = self._stamp(at, self._launch.logging.has_milliseconds)
        tags = "" if rank is None else f" DP{rank} TP{rank} EP{rank}"
        self._push(at, f"[{stamp}{tags}] {message}", batch)

    def put_access(self, at: int, text: str) -> None:
        """A line of the HTTP server, which never has milliseconds."""
        self._push(at, f"[{self._stamp(at, False)}] INFO:     {text}", None)

    def put_start(self, began: int) -> None:
        """From the settings, printed at ``began``, to the HTTP server."""
        launch, built = self._launch, self._built
        args = launch.list_server_args()
        if launch.release >= (0, 5, 19):
            self.put(began, f"server_args={args!r}")
        else:
            text = ", ".join(f"{name}={value!r}" for name, value in args.items())
            self.put(began, f"server_args=ServerArgs({text})")
        engine = launch.engine
        step = (built - began) // 40
        for rank in range(engine.dp_size):
            at = began + 30 * step + rank * step // 300
            self.put(at, "Init torch distributed begin.", rank)
            seconds = step / SECOND
            self.put(at + step, f"Init torch distributed ends. elapsed={seconds:.2f} s", rank)
            if engine.max_delay_passes is not None:
                self.put(
                    built + rank * 10**6,
                    f"PrefillDelayer initialized with max_delay_passes={engine.max_delay_passes} "
                    f"token_usage_low_watermark={engine.token_usage_low_watermark} "
                    "queue_min_ratio=None max_delay_ms=5000.0 queue_trigger_enabled=False",
                    rank,
                )
        if math.isfinite(engine.pool):
            self.put(
                built - 10**6,
                f"max_total_num_tokens={int(engine.pool)}, chunked_prefill_size={engine.chunk}, "
                f"max_prefill_tokens=16384, max_running_requests={engine.max_running_requests}, "
                f"context_len={launch.context_len}, available_gpu_mem=18.65 GB",
                0,
            )
        http = built + engine.dp_size * 10**6
        self.put_access(http, "Started server process [4000]")
        self.put_access(http, "Waiting for application startup.")
        self.put_access(http, "Application startup complete.")
        self.put_access(http, f"Uvicorn running on {launch.url} (Press CTRL+C to quit)")

    def put_warm_up(self, began: int, ended: int) -> None:
        """The engine's own first requests, and that it is ready."""
        self.put(began, "Start of pd disaggregation warmup ...")
        if self._launch.release >= (0, 5, 16):
            num = self._launch.engine.dp_size
            self.put(ended, f"Disaggregation warmup requests completed for all {num} DP ranks")
        else:
            self.put(ended, "Disaggregation warmup request completed with status 200, resp: [...]")
        self.put(ended + 10**5, "End of disaggregation warmup")
        self.put(ended + 2 * 10**5, "The server is fired up and ready to roll!")

    def put_batch(self, shown: RankPass) -> None:
        """A rank's batch; in the order of time on each rank, for the throughput's sake."""
        seconds = (shown.printed - self._printed[shown.rank]) / 1e9
        self._printed[shown.rank] = shown.printed
        line = describe_batch(self._launch, shown, shown.batch.tokens / seconds)
        self.put(shown.printed, line, shown.rank, (shown.number, shown.rank))

    def put_time_stats(self, one: Moments) -> None:
        """A request's time stats, if the engine prints them."""
        if self._launch.logging.has_time_stats:
            line = describe_time_stats(one, self._launch.release)
            self.put(one.completed, line, one.request.rank)

    def put_decision(self, one: Negotiation, at: int) -> None:
        """What the delayer's debugging says of a pass; every rank does, also without a batch."""
        what = describe_decision(one)
        if what is None or not self._launch.logging.has_debug_lines:
            return
        for rank in range(self._launch.engine.dp_size):
            line = f"{what}, actual_execution={rank in one.executed})"
            self.put(at + 100_000 + rank * 1000, line, rank)

    def _push(self, at: int, line: str, batch: Place | None) -> None:
        heapq.heappush(self._lines, (at, self._num_put, line, batch))
        self._num_put += 1

    @staticmethod
    def _stamp(at: int, has_milliseconds: bool) -> str:
        moment = datetime.fromtimestamp(at // SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S")
        return f"{moment}.{at % SECOND // 10**6:03d}" if has_milliseconds else moment


def write_log(launch: Launch, timeline: Timeline, scrapes: tuple[int, int]) -> WrittenLog:
    """The log of a run.

    Args:
        launch: The engine start.
        timeline: What it did.
        scrapes: When its metrics were fetched, before and after the load.
    """
    log = ServerLog(launch, timeline.origin - 2 * SECOND)
    log.put_start(timeline.origin - 42 * SECOND)
    log.put_access(timeline.origin - SECOND, '127.0.0.1:40000 - "GET /model_info HTTP/1.1" 200 OK')
    warm = timeline.requests[: launch.engine.dp_size]
    log.put_warm_up(timeline.origin - 10**7, max(one.answered for one in warm) + 10**6)
    for shown in timeline.rank_passes:
        log.put_batch(shown)
    for one in timeline.requests:
        if one.chunk_passes:
            log.put_time_stats(one)
            log.put_access(one.finished, f'127.0.0.1:{one.port} - "POST /generate HTTP/1.1" 200 OK')
    for negotiation in timeline.outcome.negotiations:
        log.put_decision(negotiation, timeline.at(negotiation.at))
    for at in scrapes:
        log.put_access(at, '127.0.0.1:40100 - "GET /metrics HTTP/1.1" 200 OK')
    return log.take()


def describe_batch(launch: Launch, shown: RankPass, throughput: float) -> str:
    """The line of a prefill batch."""
    batch = shown.batch
    label = f" [{shown.number}]" if launch.logging.has_labels else ""
    optimistic = "#optimistic-req: 0, " if launch.release >= (0, 5, 16) else ""
    return (
        f"Prefill batch{label}, #new-seq: {len(batch.members)}, #new-token: {batch.tokens}, "
        f"#cached-token: 0, token usage: {batch.usage:.2f}, #running-req: 0, "
        f"#queue-req: {batch.queue_len}, #pending-token: {batch.pending_tokens}, "
        f"#bootstrap-req: 0, #inflight-req: {len(batch.finishing)}, {optimistic}"
        f"cuda graph: False, input throughput (token/s): {throughput:.2f}"
    )


def describe_time_stats(one: Moments, release: tuple[int, int, int]) -> str:
    """The line of a finished request."""
    request = one.request
    attempts = "attempts=1, " if release >= (0, 5, 16) else ""
    alloc = "alloc_wait_duration=0.00ms, " if release < (0, 5, 13) else ""
    retries = ", #retries=0" if release < (0, 5, 16) else ""
    return (
        f"ReqTimeStats(rid={request.rid}, bootstrap_room={one.room}, "
        f"input_len={request.tokens}, cached_input_len=0, output_len=1, {attempts}"
        f"type=prefill): bootstrap_duration={(one.queued - one.prepared) / 1e6:.2f}ms, {alloc}"
        f"queue_duration={(one.selected - one.queued) / 1e6:.2f}ms, "
        f"forward_duration={(one.completed - one.selected) / 1e6:.2f}ms, "
        f"entry_time={one.prepared / 1e9:.3f}, transfer_speed=0.00 GB/s, "
        f"transfer_total=0.00 MB{retries}"
    )


def describe_decision(one: Negotiation) -> str | None:
    """What is said of it in debugging, up to its counts; None: nothing."""
    verdict = one.verdict
    counts = f"(num_prefillable={verdict.num_prefillable}"
    if verdict.output_reason == "wait_timeout":
        return f"PrefillDelayer timeout thus not forbid prefill {counts}"
    if verdict.output_reason == "token_watermark":
        return (
            f"PrefillDelayer force allow prefill due to low watermark. {counts}, "
            f"num_token_watermark_force_allow={verdict.num_token_watermark_force_allow}"
        )
    return None
