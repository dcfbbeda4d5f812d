"""The whole check: can the runs be judged, what does each measure and rule come to, what of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pdtrace.check.baseline import describe_delayer, is_same_delayer, is_same_run
from pdtrace.check.comparability import Tested, is_sure, match_run
from pdtrace.check.judge import ALPHA, choose_measures, judge_cases, plan
from pdtrace.check.measures import ALL
from pdtrace.check.records import build_record
from pdtrace.check.rules import Rules, require_known
from pdtrace.check.samples import Pool
from pdtrace.check.scope import describe_stalls, tell_apart
from pdtrace.check.user_rules import build_case, judge_bound
from pdtrace.check.verdicts import CheckResult, Finding, JudgedRun, Verdict
from pdtrace.check.worst import find_crash, find_worst
from pdtrace.compare.settings import SURE
from pdtrace.errors import UsageError
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.check.baseline import Baseline
    from pdtrace.check.records import Record
    from pdtrace.check.verdicts import Where
    from pdtrace.run import Run

ORDER = ("rule", "A", "B")
BLIND = 0.2  # a check that sees no change below this cannot be said to have passed
MIN_LOST = 5  # requests without an answer that are more than chance, beyond the baseline's share
LOST_SHARE = 0.01
LOST = "num_unfinished_requests"
DELAYER = "num_runs_without_delayer"


def check_runs(
    runs: Sequence[tuple[str, Run]], baseline: Baseline | None, rules: Rules, *, title: str = ""
) -> CheckResult:
    """Check a run, or several repeats of one.

    Args:
        runs: Name and run of each.
        baseline: What to judge against; None: only bounds on values are judged.
        rules: The user's, and which tiers are judged besides.
        title: The baseline's name.

    Raises:
        UsageError: There is nothing to judge by, or a rule makes no sense.
    """
    if baseline is None and not rules.rules:
        raise UsageError(
            "nothing to judge by: give --baseline FILE (--update-baseline writes one), or a rule "
            "such as 'idle_rank_pass_ratio<=0.3'"
        )
    tested: list[Tested] = []
    for name, run in runs:
        matched = None if baseline is None else match_run(run, name, baseline)
        record = build_record(run, name) if matched is None else matched.record
        again = next((t.name for t in tested if is_same_run(t.record, record)), None)
        if again is not None:
            raise UsageError(f"{show(name)} is the same recording as {show(again)}, not a repeat")
        tested.append(Tested(name, run, record, matched))
    known = {m.name for m in ALL} | {
        m for t in tested for m in (*t.record.metrics, *t.record.missing)
    }
    require_known(rules.rules, known)
    if baseline is None and any(r.kind == "change" for r in rules.rules):
        rule = next(r for r in rules.rules if r.kind == "change")
        raise UsageError(f"rule '{rule.text}' needs --baseline FILE")
    result = _judge(tested, baseline, rules)
    verdicts: list[Verdict | None] = [None]
    if len(tested) > 1:
        alone = [_judge([t], baseline, rules, ALPHA / len(tested)) for t in tested]
        verdicts = [r.verdict for r in alone]
        failed = [
            t.name
            for t, r in zip(tested, alone, strict=True)
            if any(f.tier != "rule" for f in r.of(Verdict.FAIL))
        ]
        if result.exit_code == 0 and failed:
            result = _disagree(result, failed)
    return replace(
        result,
        runs=tuple(_describe_run(t, v) for t, v in zip(tested, verdicts, strict=True)),
        baseline=None if baseline is None else _describe_baseline(baseline, title),
    )


def require_conclusive(result: CheckResult) -> CheckResult:
    """The same check where an inconclusive finding is no pass either."""
    if result.exit_code or not result.of(Verdict.INCONCLUSIVE):
        return result
    verdict = Verdict.INCONCLUSIVE
    return replace(
        result, verdict=verdict, summary=_summarise(verdict, result.findings, result.reasons)
    )


def _disagree(result: CheckResult, names: Sequence[str]) -> CheckResult:
    """Repeats of which one alone fails are no pass, even if their mean is as good as any."""
    why = f"the repeats disagree: {', '.join(names)} alone fail{'s' if len(names) == 1 else ''}"
    return replace(
        result, verdict=Verdict.INCONCLUSIVE, reasons=(*result.reasons, why), summary=why
    )


def _judge(
    tested: Sequence[Tested], baseline: Baseline | None, rules: Rules, alpha: float = ALPHA
) -> CheckResult:
    reasons: list[str] = []
    notes: list[str] = []
    findings = [judge_bound(r, tested) for r in rules.rules if r.kind != "change"]
    for t in tested:
        notes += t.matched.notes if t.matched else t.record.notes
        if t.matched:
            several = f"{t.name}: " if len(tested) > 1 else ""
            reasons += [several + why for why in t.matched.reasons]
        if baseline and any(is_same_run(t.record, known) for known in baseline.records):
            notes.append(f"{t.name} is itself a run of the baseline")
    if baseline is not None:
        if not any(t.matched and t.matched.is_alien for t in tested):
            findings += _judge_lost(tested, baseline)
        if not reasons:
            findings += _judge_delayer(tested, baseline, rules)
            changes = _judge_against(tested, baseline, rules, alpha, notes)
            findings = [*tell_apart(findings, changes, tested), *changes]
    notes += describe_stalls(findings, tested)
    worst: list[Where | None] = []
    findings = sorted(
        (_locate(f, tested, worst) for f in findings), key=lambda f: ORDER.index(f.tier)
    )
    verdict = _conclude(findings, reasons)
    return CheckResult(
        verdict=verdict,
        findings=tuple(findings),
        reasons=tuple(reasons),
        runs=(),
        baseline=None,
        summary=_summarise(verdict, findings, reasons),
        notes=tuple(dict.fromkeys(notes)),
    )


def _judge_lost(tested: Sequence[Tested], baseline: Baseline) -> list[Finding]:
    """Requests without an answer, of all that were sent; an engine that died may hide them."""
    sent, lost = (
        sum(getattr(t.record, name) for t in tested) / len(tested)
        for name in ("num_requests", "num_unanswered")
    )
    died = next((where for t in tested if (where := find_crash(t.run)) is not None), None)
    is_told = any("request_latency" in t.record.sample.sketches for t in tested)
    if not sent and died is None:
        return []
    known = sum(r.num_requests for r in baseline.records)
    share = sum(r.num_unanswered for r in baseline.records) / known if known else 0.0
    allowed = max(MIN_LOST, math.floor(LOST_SHARE * sent))
    is_worse = lost - share * sent > allowed
    reason = f"of {sent:,.0f} sent" + (", which is no chance" if is_worse else "")
    if died is not None:
        reason += "; the engine died"
        # Only a client's log says that nothing was lost by it.
        is_worse = is_worse or not is_told
    return [
        Finding(
            metric=LOST,
            title="requests without an answer",
            rule=f"at most {allowed} more than in the baseline",
            tier="A",
            verdict=Verdict.FAIL if is_worse else Verdict.PASS,
            value=lost,
            baseline=share * sent,
            unit="requests",
            reason=reason,
            better="lower",
            scale="absolute",
            change=lost - share * sent,
            limit=float(allowed),
            where=died if is_worse else None,
        )
    ]


def _judge_delayer(tested: Sequence[Tested], baseline: Baseline, rules: Rules) -> list[Finding]:
    """A delayer that the baseline had and a run has not: where it matters little, numbers hide it.

    There is no finding where the delayer was not lost; of repeats, each judged alone tells it.
    """
    before = baseline.engine.delayer
    off = sum(t.record.engine.delayer.enabled is False for t in tested)
    if "A" not in rules.tiers or not before.enabled or off < len(tested):
        return []
    return [
        Finding(
            metric=DELAYER,
            title="runs with the PrefillDelayer off",
            rule="on, as in the baseline",
            tier="A",
            verdict=Verdict.FAIL,
            value=float(off),
            baseline=0.0,
            unit="runs",
            reason=f"off, in the baseline {describe_delayer(before)}",
            better="lower",
            scale="absolute",
            change=float(off),
            limit=0.0,
        )
    ]


def _judge_against(
    tested: Sequence[Tested], baseline: Baseline, rules: Rules, alpha: float, notes: list[str]
) -> list[Finding]:
    pool = Pool.of(tuple(t.record.sample for t in tested)) if _is_alike(tested) else None
    if pool is None:
        raise UsageError("the runs under test are no repeats of each other: check each by itself")
    pools = (Pool.of(tuple(r.sample for r in baseline.records)), pool)
    workloads = (baseline.workload, tested[0].record.workload)
    cases = [build_case(r, tested, baseline, pools) for r in rules.rules if r.kind == "change"]
    cases += choose_measures(pools, workloads, rules.tiers)
    findings = judge_cases(cases, alpha=alpha)
    notes += _describe_plan(plan(cases))
    unsure = not is_sure((*baseline.records, *(t.record for t in tested)))
    if unsure and "A" in rules.tiers:
        least = min(
            r.confidence
            for r in (*baseline.records, *(t.record for t in tested))
            if r.confidence is not None
        )
        why = (
            f"iterations were put together with a mean confidence of only {least:.2f} "
            f"({SURE:g} is needed): labels (SGLANG_LOG_FORWARD_ITERS=1) make them certain"
        )
        findings = [
            replace(
                f,
                verdict=Verdict.UNMEASURED,
                reason=why,
                runs_needed=None,
                baseline_runs_needed=None,
            )
            if f.tier == "A"
            else f
            for f in findings
        ]
    return [_name_delayer(f, tested, baseline) for f in findings]


def _describe_plan(runs: tuple[int | None, int | None]) -> list[str]:
    texts = (
        "a tenth of the fused iterations lost (19 of 20 times)",
        "latency 5 % longer (4 of 5 times)",
    )
    told = [f"{n} for {text}" for n, text in zip(runs, texts, strict=True) if n is not None]
    return [f"runs of baseline and build that it takes to find: {'; '.join(told)}"] if told else []


def _is_alike(tested: Sequence[Tested]) -> bool:
    first = tested[0].record.workload
    return all(t.record.workload is first or t.record.workload.cells == first.cells for t in tested)


def _name_delayer(finding: Finding, tested: Sequence[Tested], baseline: Baseline) -> Finding:
    """Where the delayer is set otherwise than in the baseline, a failure names that."""
    before = baseline.engine.delayer
    others = (t.record.engine.delayer for t in tested)
    now = next((d for d in others if not is_same_delayer(d, before)), None)
    if finding.verdict is not Verdict.FAIL or now is None:
        return finding
    told = f"{describe_delayer(now)}, in the baseline {describe_delayer(before)}"
    return replace(finding, reason=f"{finding.reason}; the delayer is {told}")


def _locate(finding: Finding, tested: Sequence[Tested], known: list[Where | None]) -> Finding:
    """With the worst line of the first run that has one; it is looked for once."""
    if finding.verdict is not Verdict.FAIL or finding.metric == LOST:
        return finding
    if not known:
        places = (find_worst(t.run) for t in tested)
        known.append(next((p for p in places if p is not None), None))
    return replace(finding, where=known[0])


def _conclude(findings: Sequence[Finding], reasons: Sequence[str]) -> Verdict:
    verdicts = {f.verdict for f in findings}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if reasons:
        return Verdict.UNCOMPARABLE
    if Verdict.UNMEASURED in verdicts or not findings:
        return Verdict.UNMEASURED
    if any(f.verdict is Verdict.INCONCLUSIVE and f.tier == "rule" for f in findings):
        return Verdict.INCONCLUSIVE
    return Verdict.INCONCLUSIVE if _is_blind(findings) else Verdict.PASS


def _is_blind(findings: Sequence[Finding]) -> bool:
    """Whether no measure could have shown a change of ``BLIND``."""
    judged = [f for f in findings if f.tier != "rule" and f.metric != LOST]
    return bool(judged) and all(
        f.verdict is Verdict.INCONCLUSIVE and not (f.detectable or math.inf) <= BLIND
        for f in judged
    )


def _summarise(verdict: Verdict, findings: Sequence[Finding], reasons: Sequence[str]) -> str:
    if verdict is Verdict.FAIL:
        failed = [f for f in findings if f.verdict is Verdict.FAIL]
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        return f"{', '.join(f.title for f in failed[:3])}{more}"
    if verdict is Verdict.UNCOMPARABLE:
        return reasons[0]
    if verdict is Verdict.UNMEASURED:
        missing = [f.title for f in findings if f.verdict is Verdict.UNMEASURED]
        return ", ".join(missing[:3]) or "nothing was measured"
    open_ = [f for f in findings if f.verdict is Verdict.INCONCLUSIVE]
    if verdict is Verdict.INCONCLUSIVE:
        if not any(f.tier == "rule" for f in open_) and _is_blind(findings):
            return (
                "too little or too noisy: no measure could have shown a change of "
                f"{100 * BLIND:.0f} %; more runs of baseline and build would"
            )
        return f"the noise hides {', '.join(f.title for f in open_[:3])}"
    if not open_:
        return (
            f"all {len(findings)} findings are no worse than allowed"
            if len(findings) > 1
            else "the one finding is no worse than allowed"
        )
    is_are = "is" if len(open_) == 1 else "are"
    return (
        f"nothing is shown to be worse; {len(open_)} of {len(findings)} findings {is_are} "
        "inconclusive"
    )


def _describe_run(tested: Tested, verdict: Verdict | None) -> JudgedRun:
    record = tested.record
    return JudgedRun(
        name=tested.name,
        engine=record.engine.engine,
        release=_release(record),
        dp_size=record.dp_size,
        num_requests=record.num_requests,
        num_iterations=record.num_iterations,
        verdict=verdict,
        delayer=describe_delayer(record.engine.delayer),
    )


def _release(record: Record) -> str | None:
    low, high = record.engine.release_min, record.engine.release_max
    return low if low == high or high is None else f"{low}–{high}"


def _describe_baseline(baseline: Baseline, title: str) -> str:
    num = len(baseline.records)
    release = _release(baseline.records[0])
    return (
        f"{title}{': ' if title else ''}{num} run{'' if num == 1 else 's'}, "
        f"{baseline.engine.engine} {release or 'of unknown release'}, "
        f"{baseline.dp_size} DP ranks, delayer {describe_delayer(baseline.engine.delayer)}"
    )
