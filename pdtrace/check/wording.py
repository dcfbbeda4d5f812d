"""Findings in words: values with their units, told apart where they differ, and the log line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pdtrace.check.verdicts import Verdict
from pdtrace.wording import UNKNOWN, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.check.verdicts import CheckResult, Finding, JudgedRun, Where

MOST_DIGITS = 8
NOUNS = {"count": "", "usd": " USD", "gpu_h": " GPU hours"}
WORDS = {
    Verdict.PASS: "pass",
    Verdict.EQUIVALENT: "pass, the same",
    Verdict.FAIL: "FAIL",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.UNMEASURED: "not measured",
    Verdict.UNCOMPARABLE: "not comparable",
}
# From the worst on: what a reader with little room should see first.
GRAVITY = (
    Verdict.FAIL,
    Verdict.UNCOMPARABLE,
    Verdict.UNMEASURED,
    Verdict.INCONCLUSIVE,
    Verdict.PASS,
    Verdict.EQUIVALENT,
)


def show_values(values: Sequence[float | None], unit: str) -> list[str]:
    """Values of one metric with their unit, in as many digits as keep different ones apart.

    A limit of 30 % beside a value of 30.04 % must not read as the same number.
    """
    known = {v for v in values if v is not None}
    for digits in range(3, MOST_DIGITS):
        shown = [_number(v, unit, digits) for v in values]
        if len({_plain(s) for s in shown if s != UNKNOWN}) == len(known):
            break
    return shown


def _plain(shown: str) -> str:
    """Without zeros that say nothing: 30.0 % reads as 30 %."""
    number, _, unit = shown.partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def show_value(value: float | None, unit: str) -> str:
    """One value with its unit, to three digits."""
    return show_values([value], unit)[0]


def _number(value: float | None, unit: str, digits: int) -> str:
    if value is None:
        return UNKNOWN
    if unit == "ratio":
        return _percent(value, digits)
    if unit == "s":
        size = abs(value)
        if 0 < size < 0.0009995:
            return f"{_digits(value * 1e6, digits)} µs"
        if 0 < size < 0.9995:
            return f"{_digits(value * 1e3, digits)} ms"
        return f"{_digits(value, digits)} s"
    return f"{_digits(value, digits)}{NOUNS.get(unit, f' {unit}')}"


def _digits(value: float, digits: int) -> str:
    """So many significant digits, but never fewer than the whole number has."""
    size = abs(value)
    whole = value == round(value)
    decimals = 0 if whole else max(0, digits - 1 - math.floor(math.log10(size)))
    return f"{value:,.{min(decimals, 12)}f}".replace("-", "−")


def _percent(share: float, digits: int) -> str:
    """A share in percent; 100 only where it is exactly that."""
    text = _digits(share * 100, digits)
    is_whole = text.partition(".")[0] == "100"
    if is_whole and share < 1 and digits < MOST_DIGITS:
        return _percent(share, digits + 1)
    return f"{text} %"


def show_change(change: float | None, finding: Finding) -> str:
    """A change with its sign: in percent of the baseline, in points of a share, or in the unit."""
    if change is None:
        return UNKNOWN
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    size = abs(change) * 100
    percent = _digits(size, 2 if size < 10 else 3)
    if finding.scale == "relative":
        return f"×{1 + change:,.3g}" if change >= 9 else f"{sign}{percent} %"
    if finding.unit == "ratio":
        return f"{sign}{percent} {'point' if percent == '1' else 'points'}"
    return f"{sign}{show_value(abs(change), finding.unit)}"


def has_bound(finding: Finding) -> bool:
    """Whether its limit bounds the value itself, and not its change."""
    return any(sign in finding.rule for sign in ("<", ">", "≤", "≥"))


def show_limit(finding: Finding) -> str:
    """What was allowed, as a value or as a change; see :func:`has_bound`."""
    if finding.limit is None:
        return UNKNOWN
    if has_bound(finding):
        return show_values([finding.value, finding.limit], finding.unit)[1]
    limit = abs(finding.limit)
    return show_change(-limit if finding.better == "higher" else limit, finding)


def show_place(where: Where) -> str:
    """``server.log:123``; the file alone where it has no lines."""
    return where.file if where.line is None else f"{where.file}:{where.line}"


def show_where(where: Where) -> str:
    """``server.log:123 (iteration 45, rank 1: one rank of two prefilled)``."""
    rank = "" if where.dp_rank is None else f", rank {where.dp_rank}"
    text = f": {where.text}" if where.text else ""
    return f"{show_place(where)} (iteration {where.iteration}{rank}{text})"


def show_rule(finding: Finding) -> str:
    """The rule, and where it stands if that is a file."""
    return finding.rule + (f" ({finding.rule_source})" if finding.rule_source else "")


def describe_values(finding: Finding) -> str:
    """The two values and the change: ``39.7 %, baseline 18.8 % (+20.9 points, …)``."""
    value, baseline = show_values([finding.value, finding.baseline], finding.unit)
    if finding.value is None:
        value = "not measured"
    elif has_bound(finding):
        value, limit = show_values([finding.value, finding.limit], finding.unit)
        if finding.limit is not None and finding.baseline is None:
            return f"{value}, limit {limit}"
    if finding.baseline is None:
        return value
    text = f"{value}, baseline {baseline}"
    if finding.change is None:
        return text
    inside = show_change(finding.change, finding)
    if finding.low is not None and finding.high is not None:
        ends = [show_change(end, finding) for end in (finding.low, finding.high)]
        inside += f", 95 % interval {ends[0]} to {ends[1]}"
    if finding.limit is not None and not has_bound(finding):
        inside += f", allowed {show_limit(finding)}"
    return f"{text} ({inside})"


def describe_finding(finding: Finding) -> str:
    """A finding in one line: metric, both values, rule, reason, and the log line to look at."""
    parts = [
        f"{_name(finding, '{title} ({metric})')}: {describe_values(finding)}",
        f"rule: {show_rule(finding)}",
        finding.reason,
    ]
    if needed := describe_runs_needed(finding):
        parts.append(needed)
    if finding.where is not None:
        parts.append(f"worst at {show_where(finding.where)}")
    return "; ".join(part for part in parts if part)


def describe_runs_needed(finding: Finding) -> str:
    """``2 more runs and 1 more baseline run would settle it``; empty where that is not known."""
    runs, baseline_runs = finding.runs_needed, finding.baseline_runs_needed
    counts = ((runs, "more run"), (baseline_runs, "more baseline run"))
    parts = [plural(count, noun) for count, noun in counts if count]
    return f"{' and '.join(parts)} would settle it" if parts else ""


def detail_lines(finding: Finding) -> Iterator[tuple[str, str]]:
    """A finding line by line, as a name and what stands beside it."""
    value, baseline = show_values([finding.value, finding.baseline], finding.unit)
    yield "verdict", WORDS[finding.verdict]
    yield "metric", _name(finding, "{metric} ({title})")
    yield "this run", "not measured" if finding.value is None else value
    if finding.baseline is not None:
        yield "baseline", baseline
    if finding.change is not None:
        text = show_change(finding.change, finding)
        if finding.low is not None and finding.high is not None:
            ends = [show_change(end, finding) for end in (finding.low, finding.high)]
            text += f", 95 % interval {ends[0]} to {ends[1]}"
        yield "change", text
    if finding.limit is not None:
        yield "limit" if has_bound(finding) else "allowed", show_limit(finding)
    yield "rule", show_rule(finding)
    yield "reason", finding.reason
    if needed := describe_runs_needed(finding):
        yield "needed", needed
    if finding.where is not None:
        yield "look at", show_where(finding.where)


def describe_run(run: JudgedRun) -> str:
    """A judged run in words: path, engine, ranks, delayer, size."""
    if not run.dp_size:  # it could not be read
        return run.name
    engine = " ".join(part for part in (run.engine, run.release) if part) or "unknown engine"
    parts = [engine, plural(run.dp_size, "DP rank"), run.delayer and f"delayer {run.delayer}"]
    parts += [plural(run.num_requests, "request"), plural(run.num_iterations, "iteration")]
    return f"{run.name}: {', '.join(part for part in parts if part)}"


def sort_by_gravity(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first: by verdict, and among equals by how far the value is off."""
    return sorted(findings, key=lambda f: (GRAVITY.index(f.verdict), -_excess(f)))


def _excess(finding: Finding) -> float:
    if has_bound(finding) and finding.value is not None and finding.limit is not None:
        return abs(finding.value - finding.limit) / max(abs(finding.limit), 1e-9)
    size = abs(finding.change or 0.0)
    return size / abs(finding.limit) if finding.limit else size  # seconds beside shares


def headline(result: CheckResult) -> str:
    """The verdict of the whole in a word or two, and its one sentence."""
    if result.exit_code == 2:
        return f"NOT JUDGED ({WORDS[result.verdict]}): {result.summary}"
    return f"{'FAILED' if result.exit_code else 'Passed'}: {result.summary}"


def other_reasons(result: CheckResult) -> list[str]:
    """Why it was not judged, without what the headline says already."""
    return [reason for reason in result.reasons if reason not in result.summary]


def _name(finding: Finding, form: str) -> str:
    """Title and metric, or the metric alone where it has no other title."""
    if finding.title == finding.metric:
        return finding.metric
    return form.format(title=finding.title, metric=finding.metric)
