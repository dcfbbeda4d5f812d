"""Says which extra a reader needs, where it is not installed."""

from __future__ import annotations

import importlib

from pdtrace.errors import InputError


def need(module: str, *, extra: str, path: str) -> None:
    """Make sure that an optional package is there.

    Args:
        module: What will be imported.
        extra: The extra of pdtrace that brings it.
        path: The file that needs it.

    Raises:
        InputError: It is not installed; the message names the extra.
    """
    try:
        importlib.import_module(module)
    except ImportError as e:
        raise InputError(
            f"reading it needs the extra pdtrace[{extra}]: pip install 'pdtrace[{extra}]'",
            path=path,
        ) from e
