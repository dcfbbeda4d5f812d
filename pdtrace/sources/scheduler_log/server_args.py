"""The settings an engine prints at start: ``ServerArgs(...)`` (to 0.5.18), a dict (0.5.19+)."""

from __future__ import annotations

import ast
import math
from typing import Any

from pdtrace.sources.formats import MAX_RANKS

LARGEST = 1 << 53
_OPEN = {"(": ")", "[": "]", "{": "}"}


def split_top_level(text: str, separator: str = ",") -> list[str]:
    """Split at separators that stand in no quotes and no brackets; stops where a bracket closes."""
    parts: list[str] = []
    start = depth = 0
    quote = ""
    i = 0
    while i < len(text):
        c = text[i]
        if quote:
            if c == "\\":
                i += 1
            elif c == quote:
                quote = ""
        elif c in "'\"":
            quote = c
        elif c in "([{<":
            depth += 1
        elif c in ")]}>":
            depth -= 1
            if depth < 0:
                break
        elif c == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
        i += 1
    parts.append(text[start:i])
    return [p.strip() for p in parts if p.strip()]


def parse_server_args(text: str) -> dict[str, str]:
    """Read the text after ``server_args=``.

    Args:
        text: ``ServerArgs(name=value, …)`` or ``{'name': value, …}``; may be cut off.

    Returns:
        Setting → value as text; a quoted string without its quotes.
    """
    text = text.strip()
    settings: dict[str, str] = {}
    if text.startswith("{"):
        for part in split_top_level(text[1:]):
            key, _, value = part.partition(":")
            settings[key.strip().strip("'\"")] = _unquote(value.strip())
    else:
        _, _, inner = text.partition("(")
        for part in split_top_level(inner):
            key, equals, value = part.partition("=")
            if equals and key.strip().isidentifier():
                settings[key.strip()] = _unquote(value.strip())
    return settings


def _unquote(value: str) -> str:
    if value[:1] in ("'", '"'):
        try:
            return str(ast.literal_eval(value))
        except (ValueError, SyntaxError):
            return value.strip("'\"")
    return value


def read_int(settings: dict[str, str], name: str) -> int | None:
    """A setting as an integer; None if absent, not one, or too large to be true."""
    try:
        value = int(settings[name])
    except (KeyError, ValueError):
        return None
    return value if abs(value) < LARGEST else None


def read_float(settings: dict[str, str], name: str) -> float | None:
    """A setting as a float; None if absent, not one, or not finite."""
    try:
        value = float(settings[name])
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) else None


def read_bool(settings: dict[str, str], name: str) -> bool | None:
    """A setting as a truth value; None if absent or neither."""
    return {"True": True, "False": False, "true": True, "false": False}.get(settings.get(name, ""))


def read_text(settings: dict[str, str], name: str) -> str | None:
    """A setting as text; None if absent or ``None``."""
    value = settings.get(name)
    return None if value in (None, "None", "null", "") and name != "disaggregation_mode" else value


def settings_from_server_info(info: dict[str, Any]) -> dict[str, str]:
    """The settings that ``/server_info`` repeats at its top level, as a log would print them."""
    plain = (str, int, float, bool, type(None))
    return {k: str(v) for k, v in info.items() if isinstance(v, plain)}


def count_dp_ranks(settings: dict[str, str]) -> int | None:
    """DP ranks: ``dp_size``, from 0.5.22 times ``attn_dp_size``; None if that cannot be true."""
    dp_size = read_int(settings, "dp_size")
    if dp_size is None:
        return None
    ranks = dp_size * (read_int(settings, "attn_dp_size") or 1)
    return ranks if 1 <= ranks <= MAX_RANKS else None
