"""Paths of logs as CI systems want them: relative to the checkout where they lie below it."""

from __future__ import annotations

from pathlib import Path, PurePath
from urllib.parse import quote


def find_location(file: str, root: str | None = None) -> str:
    """The path relative to the checkout, with slashes; as it is where it lies elsewhere.

    Args:
        file: A path as the user named it.
        root: The checkout; the working directory if not given.
    """
    base = Path(root or ".").resolve()
    try:
        return Path(file).absolute().relative_to(base).as_posix()
    except (ValueError, OSError):
        pass
    try:
        return Path(file).resolve().relative_to(base).as_posix()
    except (ValueError, OSError, RuntimeError):
        return PurePath(file).as_posix()


def find_uri(file: str, root: str | None = None) -> str:
    """The same as a URI reference: relative to the checkout, or ``file:///…``."""
    place = find_location(file, root)
    encoded = quote(place.encode("utf-8", "surrogateescape"), safe="/")
    return f"file://{encoded}" if place.startswith("/") else encoded
