"""Results of checks made by hand, for what writes them; some as hostile as a log can be."""

from __future__ import annotations

from pdtrace.check.verdicts import CheckResult, Finding, JudgedRun, Verdict, Where

HOSTILE = (
    "x\x00\x1b[31m\x07|`<script>alert(1)</script>`|\n::error::owned%0A\r\u202e##[endgroup]]]>"
    "\udc80\ufffe,:#$_*[a](b)&amp;"
)
RUN = JudgedRun(
    name="runs/candidate",
    engine="sglang",
    release="0.5.23",
    dp_size=2,
    num_requests=554,
    num_iterations=381,
    delayer="off",
)
RULE = Finding(
    metric="idle_rank_pass_ratio",
    title="idle share of rank passes",
    rule="idle_rank_pass_ratio<=0.3",
    tier="rule",
    verdict=Verdict.FAIL,
    value=0.3885,
    baseline=None,
    unit="ratio",
    reason="the value is above the bound",
    better="lower",
    limit=0.3,
    where=Where("runs/candidate/server.log", 815, 211, 1, "one rank of 2 prefilled 8,192 tokens"),
    rule_source="gate.toml:4",
)
COUNT = Finding(
    metric="iterations_per_thousand_requests",
    title="iterations per 1000 requests",
    rule="at most 3 % worse than the baseline",
    tier="A",
    verdict=Verdict.FAIL,
    value=687.7,
    baseline=500.0,
    unit="count",
    reason="the whole interval is beyond what is allowed",
    better="lower",
    change=0.3754,
    low=0.341,
    high=0.411,
    limit=0.03,
    where=Where("runs/candidate/spans.pb", None, 5, None, ""),
)
TIME = Finding(
    metric="ttft_p99_s",
    title="TTFT, p99",
    rule="at most 5 % worse than the baseline",
    tier="B",
    verdict=Verdict.INCONCLUSIVE,
    value=0.8123,
    baseline=0.7934,
    unit="s",
    reason="the interval holds both no change and a loss that is not allowed",
    better="lower",
    change=0.0238,
    low=-0.021,
    high=0.0711,
    limit=0.05,
    detectable=0.09,
    runs_needed=2,
)
SAME = Finding(
    metric="prefill_throughput_tok_s",
    title="prompt tokens ÷ busy time",
    rule="at most 5 % worse than the baseline",
    tier="B",
    verdict=Verdict.EQUIVALENT,
    value=41_234.4,
    baseline=41_300.1,
    unit="tok/s",
    reason="the whole interval is within what is allowed",
    better="higher",
    change=-0.0016,
    low=-0.012,
    high=0.009,
    limit=0.05,
)
ABSENT = Finding(
    metric="num_delay_passes",
    title="delay passes",
    rule="num_delay_passes<=100",
    tier="rule",
    verdict=Verdict.UNMEASURED,
    value=None,
    baseline=None,
    unit="count",
    reason="no counters were recorded",
    limit=100.0,
)
BASELINE = "gate.json, 3 runs of sglang 0.5.23, 2 DP ranks, delayer on"


def passed(*findings: Finding) -> CheckResult:
    """A check that passed; one finding may have no verdict."""
    found = findings or (SAME, TIME)
    return CheckResult(Verdict.PASS, found, (), (RUN,), BASELINE, "2 findings, none failed")


def failed(*findings: Finding) -> CheckResult:
    """A check that failed."""
    found = findings or (RULE, COUNT, ABSENT, TIME, SAME)
    summary = "2 of 5 findings failed, idle share of rank passes first"
    return CheckResult(Verdict.FAIL, found, (), (RUN,), BASELINE, summary, ("A note.",))


def uncomparable() -> CheckResult:
    """A check that never came to judging."""
    reasons = ("the baseline has 2 DP ranks and the run 4", "only 3 % of the requests are the same")
    return CheckResult(
        Verdict.UNCOMPARABLE, (), reasons, (RUN,), BASELINE, "the run and the baseline differ"
    )


def inconclusive() -> CheckResult:
    """A check whose noise hides what happened."""
    return CheckResult(
        Verdict.INCONCLUSIVE, (TIME, SAME), ("too few runs",), (RUN,), BASELINE, "no verdict"
    )


def hostile() -> CheckResult:
    """A failed check in which every text is what an attacker would write into a log."""
    run = JudgedRun(HOSTILE, HOSTILE, HOSTILE, 2, 1, 1, delayer=HOSTILE)
    where = Where(HOSTILE, 7, 1, 0, HOSTILE)
    found = Finding(
        HOSTILE, HOSTILE, HOSTILE, "rule", Verdict.FAIL, 1.0, None, HOSTILE, HOSTILE,
        where=where, rule_source=HOSTILE,
    )  # fmt: skip
    return CheckResult(Verdict.FAIL, (found,), (HOSTILE,), (run,), HOSTILE, HOSTILE, (HOSTILE,))
