"""A pytest plugin: an engine's own tests record a run and fail where its ranks do not fuse.

::

    @pytest.mark.pdtrace(max_idle_ratio=0.3, baseline="ci/pdtrace-baseline.json")
    def test_fusion(pdtrace_run):
        with serve(log=pdtrace_run.directory / "server.log") as engine:
            send_workload(engine)

It loads with every pytest run of the environment, so it imports nothing but the standard library
and pytest. Judging is ``pdtrace check`` in a process of its own, which leaves the test's process as
it was.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MARKER, FIXTURE = "pdtrace", "pdtrace_run"
# Argument of the marker → rule that it stands for.
BOUNDS = {
    "max_idle_ratio": "idle_rank_pass_ratio<={}",
    "max_solo_ratio": "solo_iteration_ratio<={}",
    "min_fusion_width": "fusion_width_mean>={}",
}
SHARES = ("max_idle_ratio", "max_solo_ratio")
OPTIONS = {"baseline": "--baseline", "dp_size": "--dp-size", "tz": "--tz"}
KNOWN = (*BOUNDS, "rules", *OPTIONS)
HELP = (
    "pdtrace(max_idle_ratio=None, max_solo_ratio=None, min_fusion_width=None, rules=(), "
    "baseline=None, dp_size=None, tz=None): judge what the test recorded with the fixture "
    "pdtrace_run; rules are texts such as 'ttft_p99_s:5%' or a TOML file"
)
# -P: a folder of that name beside the tests is not taken for it.
PROGRAM = (sys.executable, "-P", "-m", "pdtrace")
READY_S, STOP_S = 30.0, 60.0


@dataclass(frozen=True)
class Judgement:
    """What ``pdtrace check`` said.

    Attributes:
        exit_code: 0 passed, 1 failed, 2 could not be judged.
        text: Its report, or the line that says why there is none.
        result: The result as JSON; None where there is none.
        page: The page; None where none was written.
    """

    exit_code: int
    text: str
    result: dict[str, Any] | None
    page: Path | None

    @property
    def message(self) -> str:
        """What a failing test shows."""
        lines = [self.text.rstrip()]
        return "\n".join(lines + ([f"page: {self.page}"] if self.page else []))


@dataclass
class RecordedRun:
    """A run that a test records.

    Attributes:
        directory: Where the test puts what the engine writes: log, spans, metrics, client log,
            under any names.
        output: Where page and result go.
        paths: Recordings that lie elsewhere.
        judgement: Of the run, once it was judged.
    """

    directory: Path
    output: Path
    paths: list[Path] = field(default_factory=list)
    judgement: Judgement | None = None
    _tails: list[tuple[Path, int]] = field(default_factory=list)

    def add(self, path: str | os.PathLike[str]) -> None:
        """Judge what lies elsewhere: run directories, which are repeats, or the logs of one run."""
        self.paths.append(Path(path))

    def follow(self, path: str | os.PathLike[str]) -> None:
        """Judge what is appended to a log from now on, for an engine that outlives the test.

        What the log said before, its settings for instance, is not seen: name ``dp_size`` in the
        marker.
        """
        source = Path(path)
        self._tails.append((source, source.stat().st_size if source.exists() else 0))

    @contextmanager
    def collect(
        self, *, metrics_url: str | Sequence[str] = (), fpm: Sequence[str] = ()
    ) -> Iterator[Receivers]:
        """Receive spans, scrape metrics and subscribe frames into the directory, meanwhile.

        Args:
            metrics_url: Scraped before and after.
            fpm: ZeroMQ endpoints of forward-pass metrics.

        Yields:
            Where the engine is to send its spans.
        """
        urls = [metrics_url] if isinstance(metrics_url, str) else metrics_url
        command = [*PROGRAM, "collect", "-o", str(self.directory), "--force"]
        command += ["--grpc-port", "0", "--http-port", "0"]
        command += [part for url in urls for part in ("--metrics-url", url)]
        command += ["--fpm", *fpm] if fpm else []
        notes = self.output / "collect.txt"
        with notes.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            yield _wait_for_ports(process, notes)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                code = process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        if code != 0:
            pytest.fail(f"pdtrace collect did not end well: {_read(notes)}", pytrace=False)

    def judge(self, **arguments: Any) -> Judgement:  # noqa: ANN401 (those of the marker)
        """Judge what was recorded so far, with the arguments of the marker."""
        complaint = find_complaint(arguments)
        if complaint:
            pytest.fail(complaint, pytrace=False)
        for i, (source, start) in enumerate(self._tails):
            _copy_end(source, start, self.directory / f"{i}-{source.name}")
        paths = [self.directory] if any(self.directory.iterdir()) else []
        if not paths + self.paths:
            pytest.fail(f"pdtrace: nothing was recorded in {self.directory}", pytrace=False)
        self.judgement = _run_check(paths + self.paths, self.output, arguments)
        return self.judgement


@dataclass(frozen=True)
class Receivers:
    """Where a collection listens: ``host:port`` for gRPC, and the URL for HTTP."""

    grpc: str
    http: str


def _copy_end(source: Path, start: int, target: Path) -> None:
    with source.open("rb") as stream, target.open("wb") as out:
        # A log that is shorter now was begun anew.
        stream.seek(start if source.stat().st_size >= start else 0)
        shutil.copyfileobj(stream, out)


def _wait_for_ports(process: subprocess.Popen[bytes], notes: Path) -> Receivers:
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        if found := re.search(r"gRPC port (\d+), HTTP port (\d+)", _read(notes)):
            return Receivers(f"127.0.0.1:{found[1]}", f"http://127.0.0.1:{found[2]}/v1/traces")
        if process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    pytest.fail(f"pdtrace collect did not start: {_read(notes)}", pytrace=False)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() or "it said nothing"


def find_complaint(arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with a marker's arguments, in one line; None if nothing is."""
    if unknown := [name for name in arguments if name not in KNOWN]:
        return f"pdtrace: unknown argument {unknown[0]!r}; there are: {', '.join(KNOWN)}"
    for name in BOUNDS:
        value = arguments.get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value)):
            return f"pdtrace: {name} is a number, not {value!r}"
        if value is not None and name in SHARES and not 0 <= value <= 1:
            return f"pdtrace: {name} is a share of 0 to 1, not {value!r}"
    rules = arguments.get("rules")
    if isinstance(rules, list | tuple) and not all(isinstance(rule, str) for rule in rules):
        return f"pdtrace: rules are texts such as 'ttft_p99_s:5%', not {rules!r}"
    given = [name for name in (*BOUNDS, "rules", "baseline") if arguments.get(name) is not None]
    if not given:
        needed = ", ".join((*BOUNDS, "rules", "baseline"))
        return f"pdtrace: nothing to judge by; name at least one of: {needed}"
    return None


def build_command(paths: Sequence[Path], output: Path, arguments: Mapping[str, Any]) -> list[str]:
    """The command line that judges recordings as a marker's arguments say.

    Args:
        paths: The run, and its repeats.
        output: Where page and result go.
        arguments: Those of the marker.
    """
    command = [*PROGRAM, "check"]
    command += ["--json", str(output / "check.json"), "--html", str(output / "check.html")]
    for name, option in OPTIONS.items():
        if arguments.get(name) is not None:
            command.append(f"{option}={arguments[name]}")
    rules = arguments.get("rules") or ()
    if isinstance(rules, str | os.PathLike):
        command.append(f"--rules={os.fspath(rules)}")
        rules = ()
    bounds = [
        rule.format(arguments[name])
        for name, rule in BOUNDS.items()
        if arguments.get(name) is not None
    ]
    return [*command, *(f"--rule={rule}" for rule in (*bounds, *rules)), "--", *map(str, paths)]


def _run_check(paths: Sequence[Path], output: Path, arguments: Mapping[str, Any]) -> Judgement:
    document, page = output / "check.json", output / "check.html"
    document.unlink(missing_ok=True)
    page.unlink(missing_ok=True)
    done = subprocess.run(
        build_command(paths, output, arguments),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    result = json.loads(document.read_text(encoding="utf-8")) if document.exists() else None
    text = done.stdout.strip("\n") or done.stderr.strip()
    return Judgement(done.returncode, text, result, page if page.exists() else None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where recordings and pages go."""
    group = parser.getgroup("pdtrace", "fusion of a prefill engine's ranks")
    group.addoption(
        "--pdtrace-output",
        metavar="DIR",
        help="keep recordings, results and pages of judged tests there (default: pytest's own "
        "temporary directory)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", HELP)


@pytest.fixture
def pdtrace_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> RecordedRun:
    """A run to record: a directory for what the engine writes, judged after the test."""
    root = request.config.getoption("--pdtrace-output")
    name = _name_of(request.node.nodeid)
    base = Path(root).absolute() / name if root else tmp_path_factory.mktemp(name)
    recording = base / "recording"
    shutil.rmtree(recording, ignore_errors=True)  # of an earlier session
    recording.mkdir(parents=True)
    return RecordedRun(recording, base)


def _name_of(test: str) -> str:
    """A folder's name for a test: readable, and different for different tests."""
    words = re.sub(r"\W+", "-", test.rpartition("/")[2], flags=re.ASCII).strip("-")
    return f"{words[:60]}-{zlib.crc32(test.encode('utf-8', 'surrogatepass')):08x}"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a marker that cannot work, before an engine is started for it."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return
    if marker.args:
        pytest.fail(f"pdtrace: name its arguments, of: {', '.join(KNOWN)}", pytrace=False)
    if complaint := find_complaint(marker.kwargs):
        pytest.fail(complaint, pytrace=False)
    if FIXTURE not in getattr(item, "fixturenames", ()):
        pytest.fail(
            f"pdtrace: the marker judges what the fixture {FIXTURE} recorded: "
            f"take it as an argument of the test",
            pytrace=False,
        )


@pytest.hookimpl(trylast=True)  # after the test itself, and only if it passed
def pytest_runtest_call(item: pytest.Item) -> None:
    """Judge what a marked test recorded, and fail it with what the check says."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return
    recorded: RecordedRun = item.funcargs[FIXTURE]  # type: ignore[attr-defined]
    judgement = recorded.judge(**marker.kwargs)
    verdict = (judgement.result or {}).get("verdict", "unmeasured")
    item.user_properties.append(("pdtrace_verdict", verdict))
    if judgement.page:
        item.user_properties.append(("pdtrace_page", str(judgement.page)))
    if judgement.exit_code != 0:
        message = f"{judgement.message}\nrecording: {recorded.directory}"
        pytest.fail(message, pytrace=False)
