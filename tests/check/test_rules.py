"""Rules: every form that is documented, and errors that say where and what instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdtrace.check.measures import ALL
from pdtrace.check.rules import (
    Rules,
    drop_repeated,
    find_better,
    looks_like_rule,
    parse_rule,
    read_rules,
    require_known,
)
from pdtrace.errors import InputError, UsageError
from pdtrace.metrics import measure
from tests.check.recorded import load

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "ci" / "rules.toml"


@pytest.mark.parametrize(
    ("text", "kind", "limit", "better"),
    [
        ("idle_rank_pass_ratio<=0.3", "max", 0.3, None),
        (" idle_rank_pass_ratio ≤ 30% ", "max", 0.3, None),
        ("fusion_width_mean>=1.5", "min", 1.5, None),
        ("num_delay_passes<=1e3", "max", 1000, None),
        ("ttft_p50_s:5%", "change", 0.05, "lower"),
        ("prefill_throughput_tok_s: 2.5%", "change", 0.025, "higher"),
        ("num_requests:-1%", "change", 0.01, "higher"),
        ("num_new_tokens:+1%", "change", 0.01, "lower"),
        ("num_new_tokens:1%", "change", 0.01, None),
    ],
)
def test_every_form_is_understood(text, kind, limit, better):
    """A limit that was read otherwise than it was written would be judged in silence."""
    rule = parse_rule(text)
    assert (rule.kind, rule.better, rule.text) == (kind, better, text.strip())
    assert rule.limit == pytest.approx(limit)
    assert looks_like_rule(text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "x<0.3", "x==1", "x<=", "x<=y", "x:5", "x:%", "<=1", "x<=1.2.3", "x:-%", "x<=∞"],
)
def test_other_texts_are_refused(text):
    """Half a rule must not become one that is always kept."""
    with pytest.raises(UsageError, match=r"rule '.*'"):
        parse_rule(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_line(text):
    """Rules may come from a workflow's input."""
    try:
        rule = parse_rule(text)
    except UsageError as error:
        message = str(error)
        assert message.isprintable()
    else:
        assert rule.metric


@pytest.mark.parametrize(
    "text", ["x<=", "x=<0.3", '"x<=0.3"', "x<=nan", "<=0.3", "x >= y", "x: 5", "x=0.3", "a b<=1"]
)
def test_a_rule_gone_wrong_is_no_path(text):
    """'no such file' would send its author looking for a file."""
    assert looks_like_rule(text)


def test_a_rule_twice_is_one_finding():
    """Twice in a report, a test tab or a code quality widget it would look like two."""
    texts = ("a<=1", "a <= 1.0", "a>=1", "a:5%", "a:+5%", "a:5%", "a<=100%")
    kept = drop_repeated([parse_rule(text) for text in texts])
    assert [rule.text for rule in kept] == ["a<=1", "a>=1", "a:5%", "a:+5%"]


@pytest.mark.parametrize("path", ["run", "run/server.log", "a-b.log.gz", "-", "C:/runs/1", "x.zst"])
def test_paths_are_no_rules(path):
    """A path that was taken for a rule would not be read."""
    assert not looks_like_rule(path)


def test_a_file_named_like_a_rule_is_a_file(tmp_path, monkeypatch):
    """What is there is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x<=1").write_text("")
    assert not looks_like_rule("x<=1")


def test_the_example_is_a_rules_file():
    """People start from it."""
    rules = read_rules(str(EXAMPLE))
    assert [r.kind for r in rules.rules] == ["max", "min", "change", "change"]
    assert rules.tiers == ("A", "B")
    table = measure(load("h100x2-on"))
    require_known(rules.rules, set(table["metric"]) | {m.name for m in ALL})
    lines = EXAMPLE.read_text("utf-8").splitlines()
    for rule in rules.rules:
        line = int(str(rule.source).rpartition(":")[2])
        assert rule.text in lines[line - 1]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('rules = ["x<=1"\n', "it is not TOML"),
        ('\nrule = ["x<=1"]', ":2: unknown key 'rule'; known: rules, tiers"),
        ('rules = [\n "x<=1",\n "y<1",\n]', ":3: rule 'y<1': expected"),
        ("rules = 3", ":1: rules: expected an array of texts"),
        ('\n\ntiers = ["C"]', ':3: tiers: expected an array of "A" and "B"'),
        ("\udcff", "it is not UTF-8"),
    ],
)
def test_errors_name_file_and_line(text, told, tmp_path):
    """The file is edited by hand."""
    path = tmp_path / "rules.toml"
    path.write_text(text, "utf-8", errors="surrogateescape")
    with pytest.raises((InputError, UsageError)) as error:
        read_rules(str(path))
    assert str(error.value).startswith(str(path))
    assert told in str(error.value)


def test_unknown_metrics_name_those_that_are_near():
    """A typing error would otherwise be a rule that nothing breaks."""
    known = {m.name for m in ALL}
    with pytest.raises(UsageError, match=r"f:3: unknown metric 'fusion_width'.*fusion_width_mean"):
        require_known([parse_rule("fusion_width>=1", "f:3")], known)
    with pytest.raises(UsageError, match=r"num_requests:\+5%"):
        require_known([parse_rule("num_requests:5%")], {"num_requests"})


def test_directions_agree_with_those_of_comparisons():
    """A rule and the comparison page must not call opposite things worse."""
    for quantity in ALL:
        assert find_better(quantity.name) == quantity.better


def test_nothing_is_assumed_without_a_file():
    """Both tiers are judged unless a file says otherwise."""
    assert Rules().tiers == ("A", "B")
    assert Rules().rules == ()
