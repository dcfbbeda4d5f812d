"""Writes a simulated run: the files of a run directory, marked, and the truth about them."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pdtrace.errors import OutputError
from pdtrace.simulate.engine import Engine
from pdtrace.simulate.exposition import count_until, write_metrics
from pdtrace.simulate.server_log import SECOND, WrittenLog, write_log
from pdtrace.simulate.timeline import Timeline, build_timeline
from pdtrace.simulate.traces import write_traces
from pdtrace.simulate.truth import SOURCE, describe_iteration, list_outcomes
from pdtrace.simulate.workload import add_warm_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.simulate.records import Request
    from pdtrace.simulate.settings import Launch
    from pdtrace.simulate.timing import Timing

ORIGIN = 1_767_571_260 * SECOND  # warm-up of every simulated run: 2026-01-05 00:01 UTC
LOAD_AFTER_S = 4.0
FILES = (
    "server.log",
    "spans.jsonl.gz",
    "metrics_before.txt",
    "metrics_after.txt",
    "client.jsonl",
    "server_info.json",
    "truth.json",
)


def open_directory(name: str, *, is_forced: bool) -> Path:
    """The directory to write to, new or empty, or any if forced.

    Raises:
        OutputError: It holds files, or cannot be made.
    """
    path = Path(name)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not is_forced and any(path.iterdir()):
            raise OutputError(f"{name}: holds files; name another, or give --force")
    except OSError as error:
        raise OutputError(f"{name}: cannot be used: {error.strerror or error}") from error
    return path


def simulate(
    launch: Launch, requests: Sequence[Request], timing: Timing, directory: Path
) -> Timeline:
    """Run an engine over a load, write what it would have written, and return what it did.

    Args:
        launch: The engine start.
        requests: By arrival, the first at about 0.
        timing: How long things take.
        directory: Where to; files of these names are replaced.

    Raises:
        OutputError: A file cannot be written.
    """
    # One stream a purpose: what is written does not change what happens.
    engine_rng, timeline_rng, trace_rng, warm_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence(launch.seed).spawn(4)
    )
    everything = add_warm_up(list(requests), launch.engine.dp_size, LOAD_AFTER_S, warm_rng)
    outcome = Engine(everything, launch.engine, timing, engine_rng).run()
    timeline = build_timeline(outcome, timing, launch.engine.dp_size, ORIGIN, timeline_rng)
    before = ORIGIN + round((LOAD_AFTER_S - 0.5) * SECOND)
    after = max(one.answered for one in timeline.requests) + SECOND
    log = write_log(launch, timeline, (before, after))
    spans = "".join(line + "\n" for line in write_traces(timeline, trace_rng)).encode()
    contents = (
        log.text.encode(),
        gzip.compress(spans, 6, mtime=0),
        write_metrics(launch, count_until(launch, timeline, before)).encode(),
        write_metrics(launch, count_until(launch, timeline, after)).encode(),
        _list_client_lines(timeline, launch.engine.dp_size).encode(),
        (json.dumps(launch.describe_server(), indent=1) + "\n").encode(),
        (json.dumps(_tell_truth(launch, timeline, log, after), indent=1) + "\n").encode(),
    )
    for name, content in zip(FILES, contents, strict=True):
        try:
            (directory / name).write_bytes(content)
        except OSError as error:
            where = directory / name
            raise OutputError(f"{where}: cannot be written: {error.strerror or error}") from error
    return timeline


def _list_client_lines(timeline: Timeline, num_warm: int) -> str:
    """The client's log; the engine's own warm-up did not come from it."""
    out = []
    for one in sorted(timeline.requests[num_warm:], key=lambda m: m.answered):
        out.append(
            json.dumps(
                {
                    "phase": one.request.phase,
                    "rid": one.request.rid,
                    "n": one.request.tokens,
                    "rank": one.request.rank,
                    "t0": one.sent / 1e9,
                    "t1": one.answered / 1e9,
                    "ok": True,
                    "err": None,
                    "simulated": True,
                }
            )
        )
    return "".join(line + "\n" for line in out)


def _tell_truth(launch: Launch, timeline: Timeline, log: WrittenLog, until: int) -> dict[str, Any]:
    widths = Counter(len(p.batches) for p in timeline.outcome.passes)
    iterations = [describe_iteration(one, log.lines) for one in timeline.outcome.passes]
    return {
        "source": SOURCE,
        "simulated": True,
        "num_iterations": len(iterations),
        "ranks_per_iteration": {str(w): n for w, n in sorted(widths.items())},
        "prefill_delayer_outcomes": list_outcomes(count_until(launch, timeline, until)),
        "iterations": iterations,
    }
