"""What keeps a page harmless: its security policy, and data that cannot leave its element."""

from __future__ import annotations

import base64
import hashlib
import json


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


def dump_data(data: object) -> str:
    """JSON that cannot end its script element, whatever strings it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
