"""Text that came from an input, made safe to show in Markdown; see :mod:`pdtrace.untrusted`."""

from __future__ import annotations

from pdtrace.untrusted import show


def show_in_markdown(text: str) -> str:
    """Likewise for Markdown, where markup, HTML and table bars are escaped too."""
    out = show(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + c if c in "\\`*_[]|~#!$" else c for c in out)
