"""The captures' arrivals through the served engine, in real time, against what was captured.

serve.py [--repeats N] [--phases REGEX]  - fits the engine to h100x2-off, serves it with the delayer
off and on, replays the arrivals of h100x2-off and h100x2-on over HTTP (both at once, about 100 s a
repeat), and prints the mean latency of every phase: captured, served (the median of the repeats),
how far off. Requests that met a stall of the captured engine are left out on both sides.
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

import pdtrace  # noqa: E402
from pdtrace.delayer.replay import fit_engine  # noqa: E402
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


def main() -> None:
    """Replay, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--phases", default="", help="regular expression; all by default")
    args = parser.parse_args()
    captured = {name: read_captured(path) for name, path in CAPTURES.items()}
    means: dict[tuple[str, str], list[float]] = defaultdict(list)
    numbers: dict[tuple[str, str], int] = {}
    recorded: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {key: folder / key / "client.jsonl" for key in CAPTURES}
        for key, path in inputs.items():
            path.parent.mkdir()
            select(CAPTURES[key], args.phases, path)
        for k in range(args.repeats):
            begun = time.monotonic()
            served = measure_once(inputs, folder / f"repeat{k}", k)
            print(f"repeat {k + 1}: {time.monotonic() - begun:.0f} s")
            for key, latencies in served.items():
                groups: dict[str, list[str]] = defaultdict(list)
                for rid in latencies:
                    if rid in captured[key]:
                        groups[find_phase(rid)].append(rid)
                for phase, rids in groups.items():
                    means[key, phase].append(statistics.fmean(latencies[r] for r in rids))
                    numbers[key, phase] = len(rids)
                    recorded[key, phase] = statistics.fmean(captured[key][r] for r in rids)
    print(
        f"{'delayer':8}{'phase':12}{'requests':>9}{'captured':>10}{'served':>9}{'off by':>9}  range"
    )
    errors = []
    for (key, phase), values in means.items():
        middle = statistics.median(values)
        error = middle / recorded[key, phase] - 1
        errors.append(abs(error))
        print(
            f"{key:8}{phase:12}{numbers[key, phase]:9}{recorded[key, phase]:9.3f}s{middle:8.3f}s"
            f"{error:+9.1%}  {min(values):.3f} to {max(values):.3f}"
        )
    print(f"mean of the absolute errors {statistics.fmean(errors):.1%}, largest {max(errors):.1%}")


if __name__ == "__main__":
    main()
