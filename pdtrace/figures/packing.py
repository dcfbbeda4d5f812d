"""Arrays and text as short text: byte planes, deflate, base64; undone by dashboards/packed.js."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def pack_array(
    values: NDArray[Any], *, delta: bool = False, signed: bool = False
) -> dict[str, Any]:
    """Pack an integer array for a page.

    Args:
        values: Integers ≥ 0, or any with ``delta`` or ``signed``.
        delta: Store differences of neighbours, which are small where values climb slowly.
        signed: Values may be negative.

    Returns:
        ``n`` values of ``w`` bytes (``d``: as differences, ``s``: signed) in ``b``.
    """
    flat = np.ascontiguousarray(values, dtype=np.int64).ravel()
    if delta:
        flat = np.diff(flat, prepend=0)
    if delta or signed:
        flat = np.where(flat >= 0, flat * 2, -flat * 2 - 1)  # zigzag: keeps high bytes zero
    top = int(flat.max(initial=0))
    width = 1 if top < 1 << 8 else 2 if top < 1 << 16 else 4 if top < 1 << 32 else 8
    raw = flat.astype(f"<u{width}").view(np.uint8).reshape(-1, width)
    # Planes of like bytes compress about a third better than interleaved ones.
    text = base64.b64encode(_deflate(np.ascontiguousarray(raw.T).tobytes())).decode("ascii")
    return {"n": len(flat), "w": width, "d": int(delta), "s": int(delta or signed), "b": text}


def _deflate(raw: bytes) -> bytes:
    """The shorter of two: with repetitions sought, and by frequency of bytes alone.

    Numbers that do not repeat come out a tenth shorter by frequency alone.
    """
    plain = zlib.compressobj(6, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    return min(zlib.compress(raw, 6), plain.compress(raw) + plain.flush(), key=len)


def count_chars(levels: dict[str, Any]) -> int:
    """Characters that the packed arrays take on a page, nested ones too."""
    found = 0
    for key, value in levels.items():
        if isinstance(value, dict):
            found += count_chars(value)
        elif isinstance(value, list):
            found += sum(count_chars(v) for v in value if isinstance(v, dict))
        elif key == "b":
            found += len(value)
    return found


def pack_rows(rows: NDArray[np.uint8], group: int = 8) -> list[dict[str, Any]]:
    """Pack a matrix of small codes, most of whose rows repeat.

    Columns are taken in groups; each group is a table of its distinct rows, the commonest first,
    and the number of its row in that table for every row: ranks that act together cost one symbol.

    Args:
        rows: Codes under 256.
        group: Columns that share a table.

    Returns:
        For each group ``first`` and ``num`` of its columns, ``table`` (distinct × columns), and
        ``index`` (one entry a row).
    """
    packed = []
    for first in range(0, rows.shape[1], group):
        part = rows[:, first : first + group]
        wide = np.zeros((len(part), 8), np.uint8)
        wide[:, : part.shape[1]] = part
        keys, index, counts = np.unique(
            wide.view(np.uint64).ravel(), return_inverse=True, return_counts=True
        )
        order = np.argsort(-counts, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        table = keys[order].view(np.uint8).reshape(-1, 8)[:, : part.shape[1]]
        packed.append(
            {
                "first": first,
                "num": part.shape[1],
                "table": pack_array(table),
                "index": pack_array(place[index]),
            }
        )
    return packed


def pack_text(text: str) -> str:
    """Deflate text for a page: Plotly's script takes 2 of its 4.8 MB so."""
    return base64.b64encode(zlib.compress(text.encode("utf-8"), 9)).decode("ascii")
