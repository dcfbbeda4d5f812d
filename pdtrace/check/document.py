"""A check as JSON.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pdtrace.check.verdicts import CheckResult

SCHEMA_VERSION = 1


def build_check_json(result: CheckResult) -> dict[str, Any]:
    """The check as plain values; a value that does not exist is null, never NaN."""
    return {
        "schema_version": SCHEMA_VERSION,
        "verdict": str(result.verdict),
        "exit_code": result.exit_code,
        "summary": result.summary,
        "reasons": list(result.reasons),
        "findings": [_plain(asdict(finding)) for finding in result.findings],
        "runs": [_plain(asdict(run)) for run in result.runs],
        "baseline": result.baseline,
        "notes": list(result.notes),
    }


def _plain(value: Any) -> Any:  # noqa: ANN401 (any JSON value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, str) else value


def write_check_json(result: CheckResult) -> str:
    """The check as strict JSON, the same for the same result to the last byte."""
    return json.dumps(build_check_json(result), indent=1, allow_nan=False) + "\n"
