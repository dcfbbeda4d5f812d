"""Simulated runs for the tests, made by the command as a user would."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pdtrace.__main__ import main

_ROOT = TemporaryDirectory(prefix="pdtrace-simulated-")


@cache
def make_run(*options):
    """Directory of a run simulated with these options."""
    directory = Path(_ROOT.name) / f"run{len(list(Path(_ROOT.name).iterdir()))}"
    assert main(["simulate", "-o", str(directory), *options]) == 0
    return directory


def read_truth(directory):
    """Content of its ``truth.json``."""
    return json.loads((directory / "truth.json").read_text())
