"""Progress of long work."""

import io
import time

import pytest

import pdtrace.reading
from pdtrace.reading import Waiting


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _wait(monkeypatch, stream: io.StringIO, *, patience_s: float) -> str:
    monkeypatch.setattr(pdtrace.reading, "PATIENCE_S", patience_s)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", stream)
    with Waiting("fitting the engine"):
        time.sleep(0.5)
    return stream.getvalue()


def test_says_what_takes_long(monkeypatch):
    """Someone who watches a terminal is told what is being worked out."""
    assert "fitting the engine" in _wait(monkeypatch, _Terminal(), patience_s=0.05)


@pytest.mark.parametrize(("stream", "patience_s"), [(io.StringIO(), 0.05), (_Terminal(), 5)])
def test_says_nothing(monkeypatch, stream, patience_s):
    """A pipe gets no progress, and neither does work that is done at once."""
    assert _wait(monkeypatch, stream, patience_s=patience_s) == ""
