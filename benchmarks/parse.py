"""How fast logs are read: a hand-written loop, ``rg -c``, and pdtrace, measured in one run.

``python benchmarks/parse.py [--size-mb 200]`` writes a log to the temporary folder, times each
contender as a whole process (start and imports included), and prints ratios to the loop and to
ripgrep, and the peak resident memory. Only ratios are worth comparing between machines.
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

HERE = Path(__file__).parent
READ = "import sys; from pdtrace.sources import read; print(read([sys.argv[1]]).num_events)"


@dataclass(frozen=True)
class Timing:
    """Best wall-clock seconds and largest resident memory of a command."""

    name: str
    seconds: float
    peak_mb: float


def run_once(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds and peak MB of a process.

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return took, usage.ru_maxrss / 1024


def measure(name: str, command: list[str], *, rounds: int) -> Timing:
    """The best of some rounds."""
    root = str(HERE.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    runs = [run_once(command, environment) for _ in range(rounds)]
    return Timing(name, min(r[0] for r in runs), max(r[1] for r in runs))


def can_run(command: list[str]) -> bool:
    """Whether a command does its work at all; says so if not."""
    done = subprocess.run(command, check=False, capture_output=True, cwd=HERE.parent)
    if done.returncode:
        reason = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        print(f"left out: {' '.join(command[1:4])}: {reason}")
    return done.returncode == 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mb", type=float, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pdtrace-benchmark-") as folder:
        log = str(Path(folder) / "server.log")
        # by a process of its own: a child starts with its parent's memory, which would count
        subprocess.run([sys.executable, str(HERE / "generate_log.py"), log, str(options.size_mb)],
                       check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        size = Path(log).stat().st_size
        print(f"{size / 1e6:.0f} MB, {os.cpu_count()} cores, best of {options.rounds}")
        python = sys.executable
        contenders = {"pdtrace: read": [python, "-c", READ, log]}
        analyze = [python, "-m", "pdtrace", "analyze", log]
        if can_run(analyze):
            contenders["pdtrace analyze"] = analyze
        ripgrep = shutil.which("rg")
        if ripgrep:
            contenders["rg -c"] = [ripgrep, "-c", "Prefill batch", log]
        measure("compile", contenders["pdtrace: read"], rounds=1)  # the kernel is cached from here
        baseline = measure("regex loop", [python, str(HERE / "parse_baseline.py"), log], rounds=1)
        timings = [baseline]
        timings += [measure(n, c, rounds=options.rounds) for n, c in contenders.items()]
    fastest = next((t.seconds for t in timings if t.name == "rg -c"), None)
    print(f"{'':18}{'seconds':>9}{'× loop':>9}{'÷ rg':>8}{'peak MB':>9}")
    for t in timings:
        per_rg = f"{t.seconds / fastest:8.1f}" if fastest else f"{'-':>8}"
        ratio = baseline.seconds / t.seconds
        print(f"{t.name:18}{t.seconds:9.2f}{ratio:9.1f}{per_rg}{t.peak_mb:9.0f}")


if __name__ == "__main__":
    main()
