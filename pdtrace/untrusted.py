"""Text from outside: file names, request ids and log lines made safe to show; users' patterns."""

from __future__ import annotations

import re
import warnings

from pdtrace.errors import UsageError

MOST_SHOWN = 80


def show(text: str) -> str:
    r"""Replace whatever a terminal or a reader could be fooled with by its visible escape.

    Control characters could move the cursor or start an escape sequence, bidirectional marks could
    reorder what is read, and surrogates (undecodable bytes of a file name) cannot be encoded: all
    are "not printable", and become ``\x1b`` and the like.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text
    )


def shorten(text: str, most: int = MOST_SHOWN) -> str:
    """Text cut to so many characters, with an ellipsis for the rest; not made safe to show."""
    return text if len(text) <= most else text[: most - 1] + "…"


def compile_pattern(option: str, text: str) -> re.Pattern[str]:
    """Compile a regular expression that a user wrote.

    Args:
        option: The option that it was given by.
        text: The pattern.

    Raises:
        UsageError: It is no pattern, or one that cannot be compiled.
    """
    try:
        with warnings.catch_warnings():
            # Of what future releases of Python may read differently; this one decides.
            warnings.simplefilter("ignore")
            return re.compile(text)
    except (re.error, OverflowError, RecursionError, MemoryError) as error:
        why = str(error) or type(error).__name__
        raise UsageError(
            f"{option} '{show(shorten(text))}' is not a regular expression: {why}"
        ) from None
