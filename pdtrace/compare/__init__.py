"""Two runs against each other: whether they can be compared, and what changed, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.compare.comparison import Comparison, compare_runs

__all__ = ["Comparison", "compare_runs"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a module attribute can be anything)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pdtrace.compare import comparison  # noqa: PLC0415 (polars and numpy: slow to import)

    return getattr(comparison, name)
