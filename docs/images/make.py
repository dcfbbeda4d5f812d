"""Makes the pictures of the README from the sample logs: ``python docs/images/make.py``.

The report becomes an SVG through rich; the page, and the same requests in both runs of the
experiment, are opened in headless Chromium.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

import pdtrace
from pdtrace.exports.report import build_report
from pdtrace.exports.terminal import render_terminal

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLE = "sample_logs/h100x2-off"
CHROMIUM = "/usr/bin/chromium"
WIDTH = 96
LAST_SECTION = "Requests"


def draw_report() -> str:
    """The terminal report of the sample, down to the last section that the picture shows."""
    run = pdtrace.load(SAMPLE)
    report = build_report(run, pdtrace.measure(run))
    text = Text.from_ansi(render_terminal(report, width=WIDTH))
    heading = text.plain.index(f"\n{LAST_SECTION}\n")
    end = text.plain.find("\n\n", heading + 1)
    console = Console(record=True, width=WIDTH, file=StringIO())
    console.print(Text(f"$ pdtrace analyze {SAMPLE}", style="bold"))
    console.print(text[:end])
    return console.export_svg(title="pdtrace", theme=MONOKAI, unique_id="report")


def photograph_page(target: Path) -> None:
    """The page of the sample as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        command = [sys.executable, "-m", "pdtrace", "analyze", SAMPLE, "--html", str(page)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        photograph(page, target, "1280,1180")


def photograph_experiment(target: Path) -> None:
    """One group of prompts without and with the delayer, of the experiment run anew."""
    with tempfile.TemporaryDirectory() as folder:
        page, runs = Path(folder) / "page.html", Path(folder) / "runs"
        commands = [
            [sys.executable, "examples/experiment.py", "-o", str(runs)],
            [sys.executable, "-m", "pdtrace", "dashboard", str(runs / "off"), str(runs / "on"),
             "--page", str(HERE / "experiment.toml"), "-o", str(page)],
        ]  # fmt: skip
        for command in commands:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        photograph(page, target, "1100,640")


def photograph(page: Path, target: Path, size: str) -> None:
    """A page as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder}/profile", f"--window-size={size}",
            "--virtual-time-budget=5000", f"--screenshot={target}",
        ]  # fmt: skip
        subprocess.run([CHROMIUM, *flags, page.as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    os.chdir(ROOT)
    (HERE / "report.svg").write_text(draw_report(), encoding="utf-8")
    if Path(CHROMIUM).exists():
        photograph_page(HERE / "page.png")
        photograph_experiment(HERE / "experiment.png")
