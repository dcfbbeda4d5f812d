"""The PrefillDelayer: its negotiation by release, and what it cost or would have gained."""

from __future__ import annotations

from pdtrace.delayer.policy import negotiate
from pdtrace.delayer.records import (
    Ask,
    PolicyConfig,
    RankInput,
    RankOutput,
    RankState,
    Verdict,
    WaitState,
)
from pdtrace.delayer.rules import ReleaseRules, rules_for

__all__ = [
    "Ask",
    "PolicyConfig",
    "RankInput",
    "RankOutput",
    "RankState",
    "ReleaseRules",
    "Verdict",
    "WaitState",
    "negotiate",
    "rules_for",
]
