"""Fingerprints of findings: the same finding keeps its own from run to run."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.check.verdicts import Finding


def find_fingerprint(finding: Finding | None) -> str:
    """The fingerprint of a finding, from its metric, rule and tier; None: of "not judged".

    Values, lines and paths stay out of it, or a lasting regression would look like a new one with
    each run.
    """
    parts = ("not judged",) if finding is None else (finding.tier, finding.metric, finding.rule)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]
