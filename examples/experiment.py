"""The original experiment without a GPU: four prompts of 8192 tokens at once, over four DP ranks.

Starts two simulated engines whose timing is fitted to sample_logs/h100x2-off, one without the
PrefillDelayer and one with it, sends both the same prompts in turns, and compares what they and
their client wrote. With --url it does the same with two real engines that are running.

  python examples/experiment.py
  python examples/experiment.py --repeats 20 -o experiment/
  python examples/experiment.py --url http://prefill-a:30000 http://prefill-b:30000
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

import pdtrace

ROOT = Path(__file__).resolve().parents[1]
LIKE = ROOT / "sample_logs" / "h100x2-off"
PDTRACE = (sys.executable, "-m", "pdtrace")
SIDES = ("off", "on")
OPTIONS = {"off": ("--max-delay-passes", "off"), "on": ("--enable-prefill-delayer",)}
READY_S = 90.0
# sgl-project/sglang pull request 23588: Qwen3-30B-A3B, prefill engine, dp 4, H200
PUBLISHED = {"off": 3.023, "on": 1.957}
RULES = ("idle_rank_pass_ratio<=0.2", "fusion_width_mean>=3")


def run_pdtrace(*arguments: str, quiet: bool = False) -> int:
    """Run a command of pdtrace as a user would, and return its exit code."""
    print(f"\n$ pdtrace {' '.join(arguments)}", flush=True)
    out = subprocess.DEVNULL if quiet else None
    return subprocess.run([*PDTRACE, *arguments], check=False, stdout=out).returncode


def start_engine(folder: Path, side: str, dp_size: int, like: Path) -> subprocess.Popen[bytes]:
    """A simulated engine in a process of its own; it writes to the folder."""
    command = [*PDTRACE, "simulate", "--serve", "0", "-o", str(folder), "--like", str(like)]
    return subprocess.Popen(
        [*command, "--dp-size", str(dp_size), *OPTIONS[side]], stdout=subprocess.DEVNULL
    )


def wait_for(folder: Path, engine: subprocess.Popen[bytes]) -> str:
    """The engine's URL, once it says where it listens."""
    end = time.monotonic() + READY_S
    about = folder / "server_info.json"
    while time.monotonic() < end and engine.poll() is None:
        if about.exists() and (text := about.read_text(encoding="utf-8")).endswith("}\n"):
            port = json.loads(text)["port"]
            return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise SystemExit("an engine did not start; what it says stands above")


def load_engines(urls: list[str], folder: Path, args: argparse.Namespace) -> int:
    """Send both engines the same prompts, in turns."""
    return run_pdtrace(
        "load", "--ab", *urls, "-o", str(folder),
        "--batch-size", str(args.dp_size), "--input-len", "8192", "--output-len", "1",
        "--dp-size", str(args.dp_size), "--repeats", str(args.repeats),
        "--warmup", "1", "--flush-cache", "--wait", "10", quiet=True,
    )  # fmt: skip


def read_client(folder: Path) -> list[dict[str, Any]]:
    """The lines of the client's log."""
    text = (folder / "client.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def measure_makespans(folder: Path) -> dict[int, float]:
    """From the first prompt's sending to the last one's answer, of every repeat, seconds."""
    repeats: dict[int, list[dict[str, Any]]] = {}
    for row in read_client(folder):
        if row["ok"]:
            repeats.setdefault(row["repeat"], []).append(row)
    return {
        number: max(r["t1"] for r in rows) - min(r["t0"] for r in rows)
        for number, rows in repeats.items()
    }


def draw_repeats(folder: Path, dp_size: int) -> dict[int, list[str]]:
    """Who prefilled in each iteration of a repeat: a row a rank, a column an iteration."""
    repeats: dict[int, list[str]] = {}
    for row in read_client(folder):
        repeats.setdefault(row["repeat"], []).append(row["rid"])
    run = pdtrace.load(folder)
    drawn = {}
    for number, rids in repeats.items():
        requests = run.requests.filter(pl.col("rid").is_in(rids))
        first, last = requests["selected"].min(), requests["forward_end"].max()
        events = run.events.filter(
            pl.col("iteration").is_not_null()
            & (pl.col("source") == "scheduler_log")
            & pl.col("ts").is_between(first, last + pl.duration(milliseconds=50))
        )
        columns = sorted(events["iteration"].unique())
        ran = set(events.select("iteration", "dp_rank").iter_rows())
        drawn[number] = [
            "".join("█" if (column, rank) in ran else "·" for column in columns)
            for rank in range(dp_size)
        ]
    return drawn


def describe_widths(widths: Counter[int]) -> str:
    """In how many repeats the prompts took how many iterations."""
    of = f"of {widths.total()} repeats"
    return ", ".join(
        f"{width} iteration{'s' * (width != 1)} in {num} {of}"
        for width, num in sorted(widths.items())
    )


def print_result(folders: dict[str, Path], args: argparse.Namespace) -> None:
    """What was measured, beside what was published."""
    repeats = {side: measure_makespans(folders[side]) for side in SIDES}
    print("\nRepeat by repeat")
    for k in sorted(repeats["off"].keys() & repeats["on"].keys()):
        off, on = (repeats[side][k] for side in SIDES)
        sent = f"sent {args.dp_size} reqs in"
        print(f"  {k + 1:3}  delayer off: {sent} {off:.3f}s   delayer on: {sent} {on:.3f}s")
    spans = {side: statistics.median(values.values()) for side, values in repeats.items()}
    is_simulated = args.url is None
    if is_simulated:
        rows = {}
        for side in SIDES:
            drawn = draw_repeats(folders[side], args.dp_size)
            widths = Counter(len(one[0]) for one in drawn.values())
            print(f"  delayer {side}: {describe_widths(widths)}")
            typical = statistics.median_low(repeats[side].values())
            rows[side] = next(drawn[k] for k, took in repeats[side].items() if took == typical)
        print("\nThe repeat of median time: █ prefill, · idle, one column an iteration")
        print(f"{'':10}{'delayer off':16}delayer on")
        for rank in range(args.dp_size):
            print(f"  rank {rank:<3}{rows['off'][rank]:16}{rows['on'][rank]}")
    who = "this model, no GPU" if is_simulated else "these engines"
    print(f"\n{args.dp_size} prompts of 8192 tokens at once, first sent to last answered")
    print(f"{f'  median of {args.repeats} repeats':36}{'off':>9}{'on':>9}{'change':>8}")
    for name, values in ((who, spans), ("published: dp 4 on H200", PUBLISHED)):
        change = f"{100 * (values['on'] / values['off'] - 1):+.0f} %".replace("-", "−")
        print(f"  {name:34}{values['off']:7.3f} s{values['on']:7.3f} s{change:>8}")
    if is_simulated:
        print("The seconds are the model's own, as fitted to two H100: compare the changes.")


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, help="folder, new or empty (a temporary one)")
    parser.add_argument("--repeats", type=int, default=8, help="%(default)s")
    parser.add_argument("--dp-size", type=int, default=4, help="%(default)s")
    parser.add_argument("--like", type=Path, default=LIKE, help="recording to fit the timing to")
    parser.add_argument(
        "--url", nargs=2, metavar=("URL_OFF", "URL_ON"), help="engines that are running instead"
    )
    return parser.parse_args()


def main() -> int:
    """Run the experiment; the exit code is that of the first command that fails."""
    args = parse_arguments()
    output = args.output or Path(tempfile.mkdtemp(prefix="pdtrace-experiment-"))
    if output.exists() and any(output.iterdir()):
        raise SystemExit(f"{output}: holds files; name another")
    sent = output / "load"
    folders = {side: output / side for side in SIDES}
    engines: dict[str, subprocess.Popen[bytes]] = {}
    try:
        if args.url is None:
            print(f"Two simulated engines of {args.dp_size} DP ranks, timed like {args.like.name}")
            for side in SIDES:
                engines[side] = start_engine(folders[side], side, args.dp_size, args.like)
            urls = [wait_for(folders[side], engines[side]) for side in SIDES]
        else:
            urls = args.url
        if code := load_engines(urls, sent, args):
            return code
    finally:
        for engine in engines.values():
            engine.send_signal(signal.SIGTERM)
        for engine in engines.values():
            engine.wait()
    for side, name in zip(SIDES, "ab", strict=True):
        # What the client wrote belongs to the run of its engine.
        shutil.copytree(sent / name, folders[side], dirs_exist_ok=True)
    page = output / "comparison.html"
    code = run_pdtrace("compare", *(str(folders[s]) for s in SIDES), "--html", str(page))
    if args.url is None:
        code = run_pdtrace("check", str(folders["on"]), *RULES) or code
    print_result(folders, args)
    print(f"\nThe page: {page}\nThe runs: {folders['off']} {folders['on']}")
    return code


if __name__ == "__main__":
    sys.exit(main())
