"""Text that came from an input (file names, request ids, log lines), made safe to show."""

from __future__ import annotations


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
