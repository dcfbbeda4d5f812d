"""The captures' arrivals through the served engine, in real time, against what was captured.

serve.py [--repeats N] [--phases REGEX]  - fits the engine to h100x2-off, serves it with the delayer
off and on, replays the arrivals of h100x2-off and h100x2-on over HTTP (both at once, about 100 s a
repeat), and prints the mean latency of every phase: captured, served (the median of the repeats),
how far off. Requests that met a stall of the captured engine are left out on both sides.

serve.py --in-simulated-time [--repeats N]  - the same engine without HTTP and without waiting: what
the model itself is off, whatever else this machine does.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import polars as pl  # noqa: E402

import pdtrace  # noqa: E402
from pdtrace.delayer.replay import fit_engine  # noqa: E402
from pdtrace.simulate.engine import Engine  # noqa: E402
from pdtrace.simulate.records import EngineSettings, Request  # noqa: E402
from pdtrace.simulate.serve.frontend import SENDING_S, Frontend, fit_front  # noqa: E402
from pdtrace.simulate.timeline import find_answer  # noqa: E402
from pdtrace.simulate.timing import fit_timing  # noqa: E402
from pdtrace.sources.joining import join_requests  # noqa: E402

LIKE = ROOT / "sample_logs" / "h100x2-off"
CAPTURES = {"off": LIKE, "on": ROOT / "sample_logs" / "h100x2-on"}
PDTRACE = (sys.executable, "-m", "pdtrace")
READY_S = 120.0


def find_phase(rid: str) -> str:
    """The phase of a request: its groups, seed0 to seed11 say, are one."""
    return re.sub(r"^(seed|burst|uneven)\d+$", r"\1", rid.partition("-")[0])


def read_captured(capture: Path) -> dict[str, float]:
    """Latency of the captured requests that no stall touched, by id, seconds."""
    run = pdtrace.load(capture)
    load = fit_engine(run, join_requests(run.requests))
    return {
        rid: float(finish - begin)
        for rid, begin, finish, touched in zip(
            load.load.rid, load.load.begin, load.load.finish, load.touched, strict=True
        )
        if not touched and finish > begin
    }


def select(capture: Path, phases: str, target: Path) -> None:
    """A client's log of the requests of some phases, without the pauses between them."""
    run = pdtrace.load(capture)
    rows = join_requests(run.requests).sort("sent")
    shift, before = 0.0, None
    with target.open("w", encoding="utf-8") as out:
        for row in rows.iter_rows(named=True):
            if row["sent"] is None or not re.search(phases, find_phase(row["rid"])):
                continue
            sent, answered = row["sent"].timestamp(), row["answered"].timestamp()
            if before is not None and sent - before > 2.0:
                shift += sent - before - 2.0
            before = sent
            line = {
                "phase": row["rid"].partition("-")[0],
                "rid": row["rid"],
                "n": row["num_prompt_tokens"],
                "rank": row["dp_rank"],
                "t0": sent - shift,
                "t1": answered - shift,
                "ok": True,
                "err": None,
            }
            out.write(json.dumps(line) + "\n")


def start_engine(folder: Path, *options: str) -> tuple[subprocess.Popen[str], str]:
    """A served engine, and its URL."""
    command = [*PDTRACE, "simulate", "-o", str(folder), "--serve", "0", "--like", str(LIKE)]
    engine = subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert engine.stderr is not None
    for line in engine.stderr:
        if found := re.search(r"http://[\w.:]+\d", line):
            return engine, found[0]
        print(line, end="", file=sys.stderr)
    raise SystemExit("the engine did not start")


def read_latencies(client_log: Path) -> dict[str, float]:
    """Latency of the requests that were answered, by id, seconds."""
    rows = [json.loads(line) for line in client_log.read_text(encoding="utf-8").splitlines()]
    return {row["rid"]: row["t1"] - row["t0"] for row in rows if row["ok"]}


def measure_once(inputs: dict[str, Path], folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """Latencies of both engines under their captured arrivals, replayed at once."""
    engines, clients = {}, {}
    for name in inputs:
        passes = "off" if name == "off" else "30"
        options = ("--max-delay-passes", passes, "--seed", str(seed))
        engines[name] = start_engine(folder / f"engine-{name}", *options)
    for name, recorded in inputs.items():
        command = [*PDTRACE, "load", engines[name][1], "-o", str(folder / f"client-{name}")]
        clients[name] = subprocess.Popen(
            [*command, "--replay", str(recorded)], cwd=ROOT, stdout=subprocess.DEVNULL
        )
    if sum(client.wait() for client in clients.values()):
        raise SystemExit("a client failed")
    for engine, _ in engines.values():
        engine.send_signal(signal.SIGTERM)
        print(engine.communicate()[0].strip().rpartition("/")[2])
    return {name: read_latencies(folder / f"client-{name}" / "client.jsonl") for name in inputs}


def compute_latencies(phases: str, repeats: int) -> list[dict[str, dict[str, float]]]:
    """The same of the model alone: latencies of every repeat, by capture and request."""
    recorded = pdtrace.load(LIKE)
    requests = join_requests(recorded.requests)
    model, front = fit_engine(recorded, requests), fit_front(requests)
    timing = fit_timing(model, model.num_ranks)
    out: list[dict[str, dict[str, float]]] = [{} for _ in range(repeats)]
    for name, capture in CAPTURES.items():
        rows = join_requests(pdtrace.load(capture).requests).drop_nulls(["sent", "dp_rank"])
        rows = rows.sort("sent").with_columns(
            (pl.col("sent") - pl.col("sent").min()).dt.total_nanoseconds() / 1e9
        )
        frontend, sent, arriving = Frontend(front), {}, []
        for rid, at, rank, tokens in rows.select(
            "rid", "sent", "dp_rank", "num_prompt_tokens"
        ).iter_rows():
            passage = frontend.admit(at + SENDING_S, [tokens])[0]
            sent[rid] = at
            arriving.append(Request(rid, rank, tokens, passage.arrival))
        settings = EngineSettings(
            model.num_ranks, int(model.chunk), model.pool, model.rules,
            max_delay_passes=None if name == "off" else 30,
        )  # fmt: skip
        for seed, latencies in enumerate(out):
            outcome = Engine(arriving, settings, timing, np.random.default_rng(seed)).run()
            latencies[name] = {
                j.request.rid: find_answer(j, timing, front.answering) - sent[j.request.rid]
                for j in outcome.journeys
                if re.search(phases, find_phase(j.request.rid))
            }
    return out


def main() -> None:
    """Replay, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--phases", default="", help="regular expression; all by default")
    parser.add_argument("--in-simulated-time", action="store_true")
    args = parser.parse_args()
    if args.in_simulated_time:
        print_table(compute_latencies(args.phases, args.repeats))
        return
    served = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {key: folder / key / "client.jsonl" for key in CAPTURES}
        for key, path in inputs.items():
            path.parent.mkdir()
            select(CAPTURES[key], args.phases, path)
        for k in range(args.repeats):
            begun = time.monotonic()
            served.append(measure_once(inputs, folder / f"repeat{k}", k))
            print(f"repeat {k + 1}: {time.monotonic() - begun:.0f} s")
    print_table(served)


def print_table(repeats: list[dict[str, dict[str, float]]]) -> None:
    """Mean latency of every phase: captured, and the median of the repeats."""
    columns = f"{'requests':>9}{'captured':>10}{'served':>9}{'off by':>9}  range"
    print(f"{'delayer':8}{'phase':12}{columns}")
    errors = []
    for key, path in CAPTURES.items():
        captured = read_captured(path)
        groups: dict[str, list[str]] = defaultdict(list)
        for rid in repeats[0][key]:
            if rid in captured:
                groups[find_phase(rid)].append(rid)
        for phase, rids in groups.items():
            real = statistics.fmean(captured[r] for r in rids)
            means = [statistics.fmean(one[key][r] for r in rids) for one in repeats]
            error = statistics.median(means) / real - 1
            errors.append(abs(error))
            print(
                f"{key:8}{phase:12}{len(rids):9}{real:9.3f}s{statistics.median(means):8.3f}s"
                f"{error:+9.1%}  {min(means):.3f} to {max(means):.3f}"
            )
    print(f"mean of the absolute errors {statistics.fmean(errors):.1%}, largest {max(errors):.1%}")


if __name__ == "__main__":
    main()
