"""What pages of recorded runs say, taken apart; and runs whose ids try to act."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import polars as pl

from pdtrace.run import Run

EVIL = "<b onclick=alert(1)>\u202ex\x1b[31m{{plotly}}</script>-"


def read_data(page: str) -> dict[str, Any]:
    """The page's data block."""
    found = re.search(r'id="page-data">(.*?)</script>', page, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def body_of(page: str) -> str:
    """The page without scripts and styles."""
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def list_strings(node: object) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        node = [*node, *node.values()]
    return [s for child in node for s in list_strings(child)] if isinstance(node, list) else []


def with_evil_ids(run: Run) -> Run:
    """The run with markup, control and bidirectional characters in front of every request id."""
    requests = run.requests.with_columns((pl.lit(EVIL) + pl.col("rid")).alias("rid"))
    return dataclasses.replace(run, requests=requests)
