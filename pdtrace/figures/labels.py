"""Labels made of untrusted text, for Plotly, which takes markup in labels for its own."""

from __future__ import annotations

import html

from pdtrace.untrusted import show

MOST_CHARACTERS = 40


def show_label(text: str, *, most: int = MOST_CHARACTERS) -> str:
    """Untrusted text as a label: nothing in it acts, and a long one is cut in its middle."""
    shown = show(text)
    if len(shown) > most:
        half = (most - 1) // 2
        shown = f"{shown[:half]}…{shown[-half:]}"
    return html.escape(shown, quote=False)
