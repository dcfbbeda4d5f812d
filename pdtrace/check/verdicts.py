"""What a check concludes: plain values that the writers of every output take.

A writer (terminal, JSON, JUnit, annotations, …) needs only a :class:`CheckResult`. Everything in it
that came from the input (names, paths, reasons) may hold any text: escape it where it is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Tier = Literal["A", "B", "rule"]
Scale = Literal["relative", "absolute"]


class Verdict(StrEnum):
    """What one finding, or a whole check, comes to.

    ``pass``: no worse than allowed. ``equivalent``: shown to be the same within the margin; a pass.
    ``fail``: shown to be worse, or a rule is broken. ``inconclusive``: the noise hides it; more
    runs would settle it. ``unmeasured``: the input does not give the metric; never a pass.
    ``uncomparable``: the run and the baseline did not do the same work; never a pass.
    """

    PASS = "pass"
    FAIL = "fail"
    EQUIVALENT = "equivalent"
    INCONCLUSIVE = "inconclusive"
    UNMEASURED = "unmeasured"
    UNCOMPARABLE = "uncomparable"


EXIT_CODES = {
    Verdict.PASS: 0,
    Verdict.EQUIVALENT: 0,
    Verdict.FAIL: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.UNMEASURED: 2,
    Verdict.UNCOMPARABLE: 2,
}
"""Of a whole check. A single inconclusive finding does not make the check so; see ``judge``."""


@dataclass(frozen=True)
class Where:
    """Where to look: the log line of the worst iteration behind a finding.

    Attributes:
        file: As the user named it, or as it was found in a run directory.
        line: 1-based; None where the source has no lines (spans).
        iteration: Its number in ``export iterations``.
        dp_rank: The rank whose line it is.
        text: What happened there, in a few words.
    """

    file: str
    line: int | None
    iteration: int
    dp_rank: int | None
    text: str


@dataclass(frozen=True)
class Finding:
    """One metric judged by one rule.

    Attributes:
        metric: Its name, as in ``analyze --json`` or ``compare --json``.
        title: The same in words.
        rule: What it was judged by: the user's own text (``idle_rank_pass_ratio<=0.3``), or the
            default's (``at most 3 % worse than the baseline``).
        tier: ``A``: a count that the workload fixes; ``B``: wall-clock; ``rule``: the user's rule.
        verdict: Never ``uncomparable``: that is said of the check as a whole.
        value: Of the run, or over its repeats; None where not measured.
        baseline: Of the baseline; None where there is none.
        unit: Of both, as in the table ``metrics``: ``ratio`` (0–1), ``s``, ``tok/s``, ``count``, ….
        better: Which direction users want; None where a rule names another metric.
        scale: Of the next four: ``relative`` (candidate ÷ baseline − 1) or ``absolute``
            (candidate − baseline, in ``unit``: shares of 0–1 change by points).
        change: From baseline to run; None without a baseline.
        low, high: 95 % interval of the change; None where there is none.
        limit: What the change may not exceed in the bad direction; of a rule with ``<=`` or ``>=``
            the bound on the value itself, in ``unit``.
        detectable: The smallest change for the worse that a check like this one finds in four of
            five cases; None where there is no baseline.
        reason: Why this verdict; one sentence without a full stop at its end.
        runs_needed: So many more repeats of the run would settle it; None where it is settled, or
            where no number of them would.
        baseline_runs_needed: Likewise so many more of the baseline.
        where: The worst iteration; None where it passed, or nothing is known of it.
        rule_source: ``file:line`` of a rule that stands in a rules file.
    """

    metric: str
    title: str
    rule: str
    tier: Tier
    verdict: Verdict
    value: float | None
    baseline: float | None
    unit: str
    reason: str
    better: Literal["lower", "higher"] | None = None
    scale: Scale = "relative"
    change: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    detectable: float | None = None
    runs_needed: int | None = None
    baseline_runs_needed: int | None = None
    where: Where | None = None
    rule_source: str | None = None

    @property
    def has_passed(self) -> bool:
        """Whether it is ``pass`` or ``equivalent``."""
        return self.verdict in (Verdict.PASS, Verdict.EQUIVALENT)


@dataclass(frozen=True)
class JudgedRun:
    """One run under test.

    Attributes:
        name: Its path, as the user named it.
        engine: ``sglang`` or what the log says; None if nothing does.
        release: Of the engine, or a range that fits; None if nothing says it.
        dp_size: DP ranks.
        num_requests: That were compared, or are known where there is no baseline.
        num_iterations: Of the run.
        verdict: Of this run alone, where there are several; None if it is the only one.
        delayer: The delayer's settings in words.
    """

    name: str
    engine: str | None
    release: str | None
    dp_size: int
    num_requests: int
    num_iterations: int
    verdict: Verdict | None = None
    delayer: str = ""


@dataclass(frozen=True)
class CheckResult:
    """What a check gave.

    Attributes:
        verdict: ``fail`` if any finding failed; else ``uncomparable``, ``unmeasured`` or
            ``inconclusive`` where it could not be judged; else ``pass``.
        findings: In the order to show them: rules first, then tier A, then tier B.
        reasons: Why it could not be compared or judged; empty if it could. One sentence each.
        runs: The run under test and its repeats; one at least.
        baseline: The baseline in words (file, runs, engine, delayer); None without one.
        summary: The whole in one sentence, fit for a title.
        notes: What a reader should know besides.
    """

    verdict: Verdict
    findings: tuple[Finding, ...]
    reasons: tuple[str, ...]
    runs: tuple[JudgedRun, ...]
    baseline: str | None
    summary: str
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 2 could not be judged."""
        return EXIT_CODES[self.verdict]

    def of(self, verdict: Verdict) -> tuple[Finding, ...]:
        """The findings with this verdict."""
        return tuple(f for f in self.findings if f.verdict is verdict)
