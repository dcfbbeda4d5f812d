"""Observability and trace analysis for LLM prefill engines with DP attention.

::

    run = pdtrace.load("server.log")
    pdtrace.measure(run)          # table metrics
    run.rank_passes.to_pandas()   # any table, with the extra pdtrace[pandas]

The names load on first use, so that ``import pdtrace`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.errors import (
        InputError,
        NothingMeasuredError,
        OutputError,
        PdtraceError,
        UsageError,
    )
    from pdtrace.loading import load
    from pdtrace.metrics import measure
    from pdtrace.run import Run
    from pdtrace.saved_run import load_run, save_run

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "NothingMeasuredError",
    "OutputError",
    "PdtraceError",
    "Run",
    "UsageError",
    "__version__",
    "load",
    "load_run",
    "measure",
    "save_run",
]

_HOMES = {
    "InputError": "errors",
    "NothingMeasuredError": "errors",
    "OutputError": "errors",
    "PdtraceError": "errors",
    "UsageError": "errors",
    "Run": "run",
    "load": "loading",
    "load_run": "saved_run",
    "measure": "metrics",
    "save_run": "saved_run",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module attribute can be anything)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
