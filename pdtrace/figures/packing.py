"""Arrays and text as short text: byte planes, deflate, base64; undone by dashboards/packed.js."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_array(values: NDArray[Any], *, delta: bool = False) -> dict[str, Any]:
    """Pack an integer array for a page.

    Args:
        values: Integers ≥ 0, or any with ``delta``.
        delta: Store differences of neighbours, which are small where values climb slowly.

    Returns:
        ``n`` values of ``w`` bytes (``d``: as differences, signed) in ``b``.
    """
    flat = np.ascontiguousarray(values, dtype=np.int64).ravel()
    if delta:
        flat = np.diff(flat, prepend=0)
        flat = np.where(flat >= 0, flat * 2, -flat * 2 - 1)  # zigzag: keeps high bytes zero
    top = int(flat.max(initial=0))
    width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4 if top < 1 << 32 else 8
    raw = flat.astype(f"<u{width}").view(np.uint8).reshape(-1, width)
    # Planes of like bytes compress about a third better than interleaved ones.
    packed = zlib.compress(np.ascontiguousarray(raw.T).tobytes(), 9)
    text = base64.b64encode(packed).decode("ascii")
    return {"n": len(flat), "w": width, "d": int(delta), "b": text}


def count_chars(levels: dict[str, Any]) -> int:
    """Characters that the packed arrays take on a page."""
    return sum(len(v["b"]) for v in levels.values() if isinstance(v, dict) and "b" in v)


def pack_text(text: str) -> str:
    """Deflate text for a page: Plotly's script takes 2 of its 4.8 MB so."""
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")
