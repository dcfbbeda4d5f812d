"""What all tests share: in CI, tests that need a browser must not be skipped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Generator

# How long an example takes depends on what else the machine does, and is no defect.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped browser test into a failed one where PDTRACE_REQUIRE_BROWSER is set."""
    report = yield
    required = os.environ.get("PDTRACE_REQUIRE_BROWSER") and item.get_closest_marker("browser")
    if report.skipped and required and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"a browser is required here: {report.longrepr}"
    return report
