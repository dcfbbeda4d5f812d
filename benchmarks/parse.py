"""How fast logs are read: a hand-written loop, ``rg -c``, and pdtrace, measured in one run.

``python benchmarks/parse.py [--size-mb 200]`` writes a log to the temporary folder and runs each
contender as a whole process, start and imports included. They take turns, so that a busy spell of
the machine meets all of them; the medians are printed, with ratios to the loop and to ripgrep taken
within each turn. Only ratios are worth comparing between machines.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
READ = "import sys; from pdtrace.sources import read; print(read([sys.argv[1]]).num_events)"
LOOP, SEARCH, READING, ANALYZE = "regex loop", "rg -c", "pdtrace: read", "pdtrace analyze"


@dataclass(frozen=True)
class Timing:
    """One process: seconds on the wall, seconds of CPU, largest resident memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run_once(command: list[str]) -> Timing:
    """Run a process.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Timing(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[Timing]]:
    """Run all commands in turn, several times; the loop once where it takes minutes."""
    timings: dict[str, list[Timing]] = {name: [] for name in commands}
    for turn in range(rounds):
        for name, command in commands.items():
            is_slow = name == LOOP and turn and timings[LOOP][0].seconds > 60
            timings[name].append(timings[LOOP][0] if is_slow else run_once(command))
    return timings


def print_table(timings: dict[str, list[Timing]]) -> None:
    """One line a contender: medians over the turns, the peak over all of them."""

    def ratio(above: str, below: str, kind: str) -> str:
        if above not in timings or below not in timings:
            return "-"
        pairs = zip(timings[above], timings[below], strict=True)
        return f"{median(getattr(a, kind) / getattr(b, kind) for a, b in pairs):.1f}"

    print(f"{'':17}{'wall s':>8}{'CPU s':>8}{'x loop':>8}{'CPU':>7}{'÷ rg':>7}{'peak MB':>9}")
    for name, runs in timings.items():
        print(
            f"{name:17}{median(r.seconds for r in runs):8.2f}"
            f"{median(r.cpu_seconds for r in runs):8.2f}"
            f"{ratio(LOOP, name, 'seconds'):>8}{ratio(LOOP, name, 'cpu_seconds'):>7}"
            f"{ratio(name, SEARCH, 'seconds'):>7}{max(r.peak_mb for r in runs):9.0f}"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", help="measure on this log instead of writing one")
    parser.add_argument("--no-loop", action="store_true", help="leave the slow loop out")
    options = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory(prefix="pdtrace-benchmark-") as folder:
        log = options.log or str(Path(folder) / "server.log")
        if not options.log:
            # by a process of its own: a child starts with its parent's memory, which would count
            write = [python, str(HERE / "generate_log.py"), log, str(options.size_mb)]
            subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
        commands = {LOOP: [python, str(HERE / "parse_baseline.py"), log]}
        if options.no_loop:
            del commands[LOOP]
        ripgrep = shutil.which("rg")
        if ripgrep:
            commands[SEARCH] = [ripgrep, "-c", "Prefill batch", log]
        commands[READING] = [python, "-c", READ, log]
        commands[ANALYZE] = [python, "-m", "pdtrace", "analyze", log]
        run_once(commands[ANALYZE])  # from here the kernels are compiled, and the log is in memory
        size = Path(log).stat().st_size
        print(f"{size / 1e6:.0f} MB, {os.cpu_count()} cores, median of {options.rounds}")
        print_table(measure(commands, options.rounds))


if __name__ == "__main__":
    main()
