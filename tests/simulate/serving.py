"""Served engines to test: real processes on free ports, and what they answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60.0


@dataclass
class Served:
    """An engine in a process of its own.

    ``said`` and ``complained`` are its standard output and error, once it has ended.
    """

    url: str
    directory: Path
    process: subprocess.Popen[str]
    said: str = ""
    complained: str = ""

    def ask(
        self, path: str, body: Any = None, *, method: str | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer; ``body`` is sent as JSON unless it is bytes."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=DEADLINE_S) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()

    def generate(self, **body: Any) -> Any:
        """What a post is answered with; it must be 200."""
        status, _, content = self.ask("/generate", body)
        assert status == 200, content
        return json.loads(content)

    def generate_at_once(self, bodies: list[dict[str, Any]]) -> list[tuple[int, Any]]:
        """Statuses and answers of posts that are sent together."""
        barrier = threading.Barrier(len(bodies))

        def send(body: dict[str, Any]) -> tuple[int, Any]:
            barrier.wait()
            status, _, content = self.ask("/generate", body)
            return status, json.loads(content)

        with ThreadPoolExecutor(len(bodies)) as pool:
            return list(pool.map(send, bodies))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.said, rest = self.process.communicate(timeout=DEADLINE_S)
        self.complained += rest
        return self.process.returncode


def start(directory: Path, *options: str) -> Served:
    """A served engine that is ready."""
    command = [sys.executable, "-m", "pdtrace", "simulate", "-o", str(directory), "--serve", "0"]
    process = subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    complained = ""
    for line in process.stderr:
        complained += line
        if found := re.search(r" on (http://\S+);", line):
            return Served(found[1], directory, process, complained=complained)
    raise AssertionError(complained)


@contextmanager
def serving(directory: Path, *options: str) -> Iterator[Served]:
    """A served engine until the block ends."""
    served = start(directory, *options)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.stop()


def prompt(tokens: int, **fields: Any) -> dict[str, Any]:
    """A body with so many ids."""
    return {"input_ids": [7] * tokens, "sampling_params": {"max_new_tokens": 1}, **fields}


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for something that will be so soon."""
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < end, "it never became so"
        time.sleep(0.02)
