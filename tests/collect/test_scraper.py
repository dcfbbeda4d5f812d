"""Scrapes of an engine's metrics."""

from __future__ import annotations

import gzip
import http.server
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdtrace.sources import read
from tests.collect.running import collecting, wait_until

NAME = "sglang:realtime_tokens_total"


class Engine(http.server.ThreadingHTTPServer):
    """Answers /metrics with a counter that grows by one a scrape."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rank = rank
        self.num_asked = 0
        self.status = 200
        self.pause = 0.0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where the metrics are."""
        return f"http://127.0.0.1:{self.server_address[1]}/metrics"


class Handler(http.server.BaseHTTPRequestHandler):
    """One scrape."""

    server: Engine

    def do_GET(self) -> None:
        """Answer, compressed if the client likes that, as the real server does."""
        engine = self.server
        status = engine.status
        time.sleep(engine.pause)
        engine.num_asked += 1
        text = gzip.compress(
            f"# HELP {NAME} Tokens.\n# TYPE {NAME} counter\n"
            f'{NAME}{{dp_rank="{engine.rank}",mode="prefill_compute"}} {engine.num_asked}.0\n'
            .encode()
        )  # fmt: skip
        self.send_response(status)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """One server."""
    server = Engine()
    yield server
    server.shutdown()
    server.server_close()


def values(path: Path) -> list[int]:
    """The counter's values in a file."""
    return [int(v) for v in re.findall(rf"^{NAME}.* (\d+)\.0$", path.read_text(), re.M)]


def test_before_and_after(tmp_path: Path, engine: Engine) -> None:
    """Two dated scrapes, from which a reader takes the growth in between."""
    run = tmp_path / "run"
    with collecting(run, metrics_urls=(engine.url,)) as running:
        wait_until((run / "metrics_before.txt").exists)
    assert values(run / "metrics_before.txt") == [1]
    assert values(run / "metrics_after.txt") == [2]
    head = (run / "metrics_before.txt").read_text().splitlines()[0]
    assert re.fullmatch(r"# scraped \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", head)
    assert "2 scrapes" in running.summary
    assert not (run / "metrics_series.txt").exists()


def test_a_series_has_times_and_is_read_as_one(tmp_path: Path, engine: Engine) -> None:
    """The series, and both scrapes at its ends, are one engine's growing counters."""
    run = tmp_path / "run"
    with collecting(run, metrics_urls=(engine.url,), metrics_interval=0.1):
        wait_until(lambda: engine.num_asked >= 5)
    series = values(run / "metrics_series.txt")
    # one that was under way when the end came was given up
    assert set(range(1, engine.num_asked + 1)) - set(series) <= {engine.num_asked - 1}
    assert series == sorted(set(series))
    assert (run / "metrics_series.txt").read_text().count("# scraped ") == len(series)
    assert values(run / "metrics_after.txt") == series[-1:]
    recording = read([str(run)])
    assert sum(f.source == "prometheus" for f in recording.files) == 3
    assert not [w for w in recording.warnings if "restarted" in w]


def test_the_engine_may_start_later_and_end_sooner(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before is the first scrape that succeeds, after the last; a failure is said once."""
    run = tmp_path / "run"
    engine.status = 503
    with collecting(run, metrics_urls=(engine.url,), metrics_interval=0.1) as running:
        wait_until(lambda: engine.num_asked >= 3)
        engine.status = 200
        wait_until((run / "metrics_before.txt").exists)
        num_failed = values(run / "metrics_before.txt")[0] - 1
        wait_until(lambda: len(values(run / "metrics_series.txt")) >= 3)
        engine.status = 500
        at = engine.num_asked
        wait_until(lambda: engine.num_asked >= at + 2)
    series = values(run / "metrics_series.txt")
    assert num_failed >= 3
    assert values(run / "metrics_after.txt") == series[-1:]
    assert "scrapes failed" in running.summary
    said = capsys.readouterr().err
    assert said.count("answered 503") == 1
    assert said.count("answered 500") == 1


def test_several_servers_are_one_scrape(tmp_path: Path, engine: Engine) -> None:
    """Metrics of one engine's servers are declared once, or a reader would see two scrapes."""
    run = tmp_path / "run"
    other = Engine(rank=1)
    with collecting(run, metrics_urls=(engine.url, other.url)):
        wait_until((run / "metrics_before.txt").exists)
    other.shutdown()
    other.server_close()
    text = (run / "metrics_before.txt").read_text()
    assert text.count("# TYPE") == 1
    assert values(run / "metrics_before.txt") == [1, 1]


def test_a_server_that_hangs_does_not_hold_the_end(
    tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last scrape is given up in time, and spans are answered meanwhile."""
    monkeypatch.setattr("pdtrace.collect.scraper.TIMEOUT_S", 0.3)
    engine.pause = 2.0
    begun = time.monotonic()
    with collecting(tmp_path / "run", metrics_urls=(engine.url,)) as running:
        pass
    assert time.monotonic() - begun < 2
    assert "0 scrapes" in running.summary
