"""The user's rules: bounds on values, and how much a metric may worsen against the baseline."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pdtrace.check.measures import ALL
from pdtrace.errors import InputError, UsageError
from pdtrace.untrusted import show

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pdtrace.compare.quantities import Better

KEYS = ("rules", "tiers")
TIERS = ("A", "B")
MOST_BYTES = 1_000_000
_BOUND = re.compile(
    r"\s*(\w+)\s*(<=|>=|≤|≥)\s*([-+]?[\d.][\d._]*(?:e[-+]?\d+)?)\s*(%?)\s*", re.ASCII
)
_CHANGE = re.compile(r"\s*(\w+)\s*:\s*([-+]?)(\d[\d.]*)\s*%\s*", re.ASCII)
_LIKE_RULE = re.compile(r".*[<>≤≥]|\s*\w+\s*[=:]=?\s*[-+\d.%]", re.ASCII | re.DOTALL)
HIGHER = frozenset(
    {q.name for q in ALL if q.better == "higher"}
    | {"num_fully_fused_iterations", "fully_fused_iteration_ratio", "grouping_confidence_mean"}
)
LOWER = re.compile(
    r"(iteration_seconds|ttft|queue_wait|forward|request_latency|idle|padded|unknown|delay_seconds|"
    r"busy_seconds|span_seconds|num_(queue|bootstrap|inflight)_reqs|num_(delay_(passes|timeouts)|"
    r"(pending_tokens|unfinished|failed|unplaced|solo)_?|iterations$|prefill_passes|bounded)|"
    r"solo|iterations_per|rank_token_imbalance).*"
)


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: As the user wrote it, without spaces at its ends.
        metric: What it is about.
        kind: ``max`` or ``min``: a bound on the value; ``change``: on its worsening.
        limit: The bound; of a change a share of the baseline's value.
        better: Of a change: the direction that users want; None where nothing tells it.
        source: ``file:line``, if it stands in a file.
    """

    text: str
    metric: str
    kind: Literal["max", "min", "change"]
    limit: float
    better: Better | None = None
    source: str | None = None


@dataclass(frozen=True)
class Rules:
    """All rules of a check, and the tiers that are judged against the baseline besides."""

    rules: tuple[Rule, ...] = ()
    tiers: tuple[str, ...] = TIERS


def looks_like_rule(text: str) -> bool:
    """Whether an argument is meant as a rule and not as a path."""
    return _LIKE_RULE.match(text) is not None and not Path(text).exists()


def find_better(metric: str) -> Better | None:
    """Which direction of a metric users want; None where that is not known."""
    if metric in HIGHER:
        return "higher"
    return "lower" if LOWER.fullmatch(metric) else None


def parse_rule(text: str, source: str | None = None) -> Rule:
    """Parse one rule.

    Args:
        text: ``metric<=value``, ``metric>=value`` or ``metric:5%``; a value may be in percent.
            ``metric:+5%`` may not rise, ``metric:-5%`` not fall by more than that.
        source: ``file:line`` that it stands in.

    Raises:
        UsageError: It is none of these.
    """
    where = f"{source}: " if source else ""
    if found := _BOUND.fullmatch(text):
        limit = _number(found[3], text, where) / (100 if found[4] else 1)
        return Rule(
            text.strip(), found[1], "max" if found[2] in "<=≤" else "min", limit, source=source
        )
    if found := _CHANGE.fullmatch(text):
        sign: dict[str, Better | None] = {"+": "lower", "-": "higher", "": find_better(found[1])}
        limit = _number(found[3], text, where) / 100
        better = sign[found[2]]
        return Rule(text.strip(), found[1], "change", limit, better, source)
    raise UsageError(
        f"{where}rule '{show(text)[:100]}': expected metric<=value, metric>=value, or metric:5% "
        "(may not worsen by more than that against the baseline)"
    )


def _number(text: str, rule: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{where}rule '{show(rule)[:100]}': {show(text)} is not a number")
    return value


def read_rules(path: str) -> Rules:
    """Read a rules file.

    Args:
        path: A TOML file: ``rules``, an array of texts as on the command line; ``tiers``, which of
            ``A`` and ``B`` are judged against the baseline besides, both if not given.

    Raises:
        InputError: It cannot be read, is no TOML, or holds something else.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror or error}", path=show(path)) from error
    if len(data) > MOST_BYTES:
        raise InputError("a rules file has a megabyte at most", path=show(path))
    try:
        text = data.decode("utf-8")
        table = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError("it is not UTF-8 text", path=show(path)) from error
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        line = int(found[1]) if found else text.count("\n") + 1
        what = str(error).partition(" (at ")[0]
        raise InputError(f"it is not TOML: {show(what)}", path=show(path), line=line) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise InputError(f"it is not TOML: {error}", path=show(path)) from error
    for key in table:
        if key not in KEYS:
            raise InputError(
                f"unknown key '{show(key)}'; known: {', '.join(KEYS)}",
                path=show(path),
                line=_line_of(text, key),
            )
    tiers = table.get("tiers", list(TIERS))
    if not isinstance(tiers, list) or any(t not in TIERS for t in tiers):
        raise InputError(
            'tiers: expected an array of "A" and "B"', path=show(path), line=_line_of(text, "tiers")
        )
    rules = table.get("rules", [])
    if not isinstance(rules, list) or any(not isinstance(r, str) for r in rules):
        raise InputError(
            "rules: expected an array of texts", path=show(path), line=_line_of(text, "rules")
        )
    parsed, after = [], 0
    for rule in rules:
        line = _line_of(text, rule, after)
        after = line
        parsed.append(parse_rule(rule, f"{show(path)}:{line}"))
    return Rules(tuple(parsed), tuple(t for t in TIERS if t in tiers))


def _line_of(text: str, what: str, after: int = 0) -> int:
    """1-based line of a text, the first from a line on; the last one if none has it."""
    lines = text.splitlines()
    for number in range(max(after, 1), len(lines) + 1):
        if what in lines[number - 1]:
            return number
    return max(after, 1)


def drop_repeated(rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """Each rule once, where it stands first."""
    first: dict[tuple[object, ...], Rule] = {}
    for rule in rules:
        first.setdefault((rule.metric, rule.kind, rule.limit, rule.better), rule)
    return tuple(first.values())


def require_known(rules: Sequence[Rule], known: Collection[str]) -> None:
    """Refuse rules about metrics that there are not, or whose bad direction is not known.

    Raises:
        UsageError: With the names that come near, or all of them.
    """
    for rule in rules:
        where = f"{rule.source}: " if rule.source else ""
        if rule.metric not in known:
            near = difflib.get_close_matches(rule.metric, known, n=3, cutoff=0.6)
            names = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(
                f"{where}unknown metric '{show(rule.metric)}'; {names}known: "
                f"{', '.join(sorted(known))}"
            )
        if rule.kind == "change" and rule.better is None:
            raise UsageError(
                f"{where}rule '{show(rule.text)}': which direction of {rule.metric} is worse is "
                f"not known; write {rule.metric}:+5% (may not rise) or {rule.metric}:-5% (not fall)"
            )
