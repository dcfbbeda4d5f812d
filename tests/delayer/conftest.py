"""Gives the tests of the delayer the reader of recordings and the paths of the recorded data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def recordings() -> ModuleType:
    """The neighbour module ``recordings``; importlib import mode gives tests no package."""
    name = "tests_delayer_recordings"
    spec = importlib.util.spec_from_file_location(name, HERE / "recordings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module
