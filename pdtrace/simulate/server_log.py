"""The engine's log: start, warm-up, prefill batches, time stats, access lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timeline import Moments, RankPass, Timeline

SECOND = 10**9
MARK = (
    "simulated: written by 'pdtrace simulate'; no engine ran, and every line below is made "
    "(seed {seed})"
)


@dataclass(frozen=True)
class WrittenLog:
    """The log, and where the batches are in it: (pass, rank) → line number and stamp."""

    text: str
    lines: dict[tuple[int, int], tuple[int, str]]


class LogWriter:
    """Collects lines in any order and puts them into the order of time."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._lines: list[tuple[int, int, str, tuple[int, int] | None]] = []

    def put(
        self, at: int, message: str, rank: int | None = None, batch: tuple[int, int] | None = None
    ) -> None:
        """A line of a scheduler, or of a process without a rank."""
        stamp = self._stamp(at, self._launch.logging.has_milliseconds)
        tags = "" if rank is None else f" DP{rank} TP{rank} EP{rank}"
        self._lines.append((at, len(self._lines), f"[{stamp}{tags}] {message}", batch))

    def put_access(self, at: int, text: str) -> None:
        """A line of the HTTP server, which never has milliseconds."""
        line = f"[{self._stamp(at, False)}] INFO:     {text}"
        self._lines.append((at, len(self._lines), line, None))

    def finish(self) -> WrittenLog:
        """The text, and where the batches are."""
        out, found = [MARK.format(seed=self._launch.seed)], {}
        width = 23 if self._launch.logging.has_milliseconds else 19
        for _, _, line, batch in sorted(self._lines):
            out.append(line)
            if batch is not None:
                found[batch] = len(out), line[1 : 1 + width]
        return WrittenLog("\n".join(out) + "\n", found)

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
    log = LogWriter(launch)
    built = timeline.origin - 2 * SECOND  # schedulers are built: the throughput's clock starts
    _put_start(log, launch, timeline.origin, built)
    _put_warm_up(log, launch, timeline)
    _put_batches(log, launch, timeline, built)
    for one in timeline.requests:
        if one.chunk_passes:
            _put_request(log, launch, one)
    if launch.logging.has_debug_lines:
        _put_debug_lines(log, launch, timeline)
    for at in scrapes:
        log.put_access(at, '127.0.0.1:40100 - "GET /metrics HTTP/1.1" 200 OK')
    return log.finish()


def _put_start(log: LogWriter, launch: Launch, origin: int, built: int) -> None:
    args = launch.list_server_args()
    if launch.release >= (0, 5, 19):
        log.put(origin - 40 * SECOND, f"server_args={args!r}")
    else:
        text = ", ".join(f"{name}={value!r}" for name, value in args.items())
        log.put(origin - 40 * SECOND, f"server_args=ServerArgs({text})")
    engine = launch.engine
    for rank in range(engine.dp_size):
        at = built - 10 * SECOND + rank * 3 * 10**6
        log.put(at, "Init torch distributed begin.", rank)
        log.put(at + SECOND, "Init torch distributed ends. elapsed=1.00 s", rank)
        if engine.max_delay_passes is not None:
            log.put(
                built + rank * 10**6,
                f"PrefillDelayer initialized with max_delay_passes={engine.max_delay_passes} "
                f"token_usage_low_watermark={engine.token_usage_low_watermark} "
                "queue_min_ratio=None max_delay_ms=5000.0 queue_trigger_enabled=False",
                rank,
            )
    if math.isfinite(engine.pool):
        log.put(
            built - 10**6,
            f"max_total_num_tokens={int(engine.pool)}, chunked_prefill_size={engine.chunk}, "
            f"max_prefill_tokens=16384, max_running_requests={engine.max_running_requests}, "
            "context_len=40960, available_gpu_mem=18.65 GB",
            0,
        )
    http = built + SECOND // 2
    log.put_access(http, "Started server process [4000]")
    log.put_access(http, "Waiting for application startup.")
    log.put_access(http, "Application startup complete.")
    log.put_access(http, "Uvicorn running on http://127.0.0.1:30000 (Press CTRL+C to quit)")
    log.put_access(http + SECOND, '127.0.0.1:40000 - "GET /model_info HTTP/1.1" 200 OK')


def _put_warm_up(log: LogWriter, launch: Launch, timeline: Timeline) -> None:
    log.put(timeline.origin - 10 * 10**6, "Start of pd disaggregation warmup ...")
    warm = timeline.requests[: launch.engine.dp_size]
    end = max(one.answered for one in warm) + 10**6
    if launch.release >= (0, 5, 16):
        log.put(
            end,
            f"Disaggregation warmup requests completed for all {launch.engine.dp_size} DP ranks",
        )
    else:
        log.put(end, "Disaggregation warmup request completed with status 200, resp: [...]")
    log.put(end + 10**5, "End of disaggregation warmup")
    log.put(end + 2 * 10**5, "The server is fired up and ready to roll!")


def _put_batches(log: LogWriter, launch: Launch, timeline: Timeline, built: int) -> None:
    before = dict.fromkeys(range(launch.engine.dp_size), built)
    for one in timeline.rank_passes:
        seconds = (one.printed - before[one.rank]) / 1e9
        before[one.rank] = one.printed
        log.put(
            one.printed,
            _describe_batch(launch, one, one.batch.tokens / seconds),
            one.rank,
            (one.number, one.rank),
        )


def _describe_batch(launch: Launch, one: RankPass, throughput: float) -> str:
    batch = one.batch
    label = f" [{one.number}]" if launch.logging.has_labels else ""
    optimistic = "#optimistic-req: 0, " if launch.release >= (0, 5, 16) else ""
    return (
        f"Prefill batch{label}, #new-seq: {len(batch.members)}, #new-token: {batch.tokens}, "
        f"#cached-token: 0, token usage: {batch.usage:.2f}, #running-req: 0, "
        f"#queue-req: {batch.queue_len}, #pending-token: {batch.pending_tokens}, "
        f"#bootstrap-req: 0, #inflight-req: {len(batch.finishing)}, {optimistic}"
        f"cuda graph: False, input throughput (token/s): {throughput:.2f}"
    )


def _put_request(log: LogWriter, launch: Launch, one: Moments) -> None:
    release, request = launch.release, one.request
    if launch.logging.has_time_stats:
        attempts = "attempts=1, " if release >= (0, 5, 16) else ""
        alloc = "alloc_wait_duration=0.00ms, " if release < (0, 5, 13) else ""
        retries = ", #retries=0" if release < (0, 5, 16) else ""
        log.put(
            one.completed,
            f"ReqTimeStats(rid={request.rid}, bootstrap_room={one.room}, "
            f"input_len={request.tokens}, cached_input_len=0, output_len=1, {attempts}"
            f"type=prefill): bootstrap_duration={(one.queued - one.prepared) / 1e6:.2f}ms, {alloc}"
            f"queue_duration={(one.selected - one.queued) / 1e6:.2f}ms, "
            f"forward_duration={(one.completed - one.selected) / 1e6:.2f}ms, "
            f"entry_time={one.prepared / 1e9:.3f}, transfer_speed=0.00 GB/s, "
            f"transfer_total=0.00 MB{retries}",
            request.rank,
        )
    log.put_access(one.finished, f'127.0.0.1:{one.port} - "POST /generate HTTP/1.1" 200 OK')


def _put_debug_lines(log: LogWriter, launch: Launch, timeline: Timeline) -> None:
    """Every rank says it, also those with nothing to run."""
    for one in timeline.outcome.negotiations:
        verdict = one.verdict
        if verdict.output_reason == "wait_timeout":
            what = "PrefillDelayer timeout thus not forbid prefill"
            counts = f"num_prefillable={verdict.num_prefillable}"
        elif verdict.output_reason == "token_watermark":
            what = "PrefillDelayer force allow prefill due to low watermark."
            counts = (
                f"num_prefillable={verdict.num_prefillable}, "
                f"num_token_watermark_force_allow={verdict.num_token_watermark_force_allow}"
            )
        else:
            continue
        for rank in range(launch.engine.dp_size):
            ran = rank in one.executed
            at = timeline.at(one.at) + 100_000 + rank * 1000
            log.put(at, f"{what} ({counts}, actual_execution={ran})", rank)
