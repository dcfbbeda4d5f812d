"""What keeps a page harmless: its security policy, and texts that stay texts."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re

from pdtrace.untrusted import show

# An escape in JSON: a pair of surrogates is one character; what is not printable is made visible.
_ESCAPE = re.compile(r"\\(?:u(d[89ab]..)\\u(d[c-f]..)|u(....)|([bfnrt])|.)")


def one_newline(text: str) -> str:
    """A browser hashes a script after making every line end a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def build_policy(*scripts: str) -> str:
    """A Content-Security-Policy that runs these scripts alone and lets no request leave."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    )
    # Plotly sets style attributes, and shows a raster as a data: image.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def show_text(text: str) -> str:
    """Text for the page's HTML: markup escaped, control and bidirectional marks made visible."""
    # The pages' own numbers keep their unit by a no-break space.
    return html.escape("\u00a0".join(show(part) for part in text.split("\u00a0")))


def dump_data(data: object) -> str:
    """JSON that cannot end its script element, whatever strings it holds.

    Control and bidirectional marks in strings become their visible escapes.
    """
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    text = _ESCAPE.sub(_show_escape, text)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _show_escape(found: re.Match[str]) -> str:
    high, low, single, control = found.groups()
    if high is not None:
        character = chr(0x10000 + ((int(high, 16) & 0x3FF) << 10) + (int(low, 16) & 0x3FF))
        is_shown = character.isprintable()
    elif single is not None:
        is_shown = chr(int(single, 16)).isprintable()
    else:
        is_shown = control is None
    return found[0] if is_shown else found[0].replace("\\", "\\\\")
