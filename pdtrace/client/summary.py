"""The sums of a load: as JSON, as lines, and as the description in its run directory.

History of ``schema_version``: 1, the first.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pdtrace.client.intervals import measure_interval
from pdtrace.client.outcomes import count_errors, measure_lateness
from pdtrace.client.settings import LoadSettings

if TYPE_CHECKING:
    from pathlib import Path

    from pdtrace.client.engine import Facts
    from pdtrace.client.outcomes import Outcome, RoundOutcome

SCHEMA_VERSION = 1
_MAIN = ("arrivals_kind", "arrivals_num_requests", "prompts_lengths_values", "prompts_seed")
LATE_MS = 2.0  # above which the times of sending are said not to be as planned


@dataclass(frozen=True)
class EngineResult:
    """What a load did with one engine.

    Attributes:
        name: ``a`` or ``b`` of two; empty for one alone.
        url: Its address.
        facts: What it said of itself.
        rounds: The repeats.
        num_warm: Warm-up requests that it answered.
        directory: Where its files are; None: nowhere.
    """

    name: str
    url: str
    facts: Facts
    rounds: tuple[RoundOutcome, ...]
    num_warm: int
    directory: Path | None

    @property
    def outcomes(self) -> list[Outcome]:
        """Of all repeats."""
        return [o for one in self.rounds for o in one.outcomes]

    @property
    def makespans(self) -> list[float]:
        """Of the repeats in which every request was answered, seconds."""
        return [m for one in self.rounds if one.is_complete and (m := one.makespan_s) is not None]


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    Attributes:
        settings: What was asked for.
        engines: One, or two.
        stopped: Why it ended: ``done``, ``interrupted``, ``max_duration``, ``max_requests``, or
            ``nothing_answered`` in a whole repeat.
        notes: What a reader should know.
    """

    settings: LoadSettings
    engines: tuple[EngineResult, ...]
    stopped: str
    notes: tuple[str, ...]

    @property
    def num_ok(self) -> int:
        """Requests that were answered as they should be, of all engines."""
        return sum(one.num_ok for engine in self.engines for one in engine.rounds)


def find_notes(engine: EngineResult) -> list[str]:
    """What the answers and the times of sending tell that a reader would not expect."""
    outcomes = engine.outcomes
    out = []
    asked = [o for o in outcomes if o.request.rank is not None and o.answer.rank is not None]
    if astray := sum(o.answer.rank != o.request.rank for o in asked):
        out.append(f"{astray} of {len(asked)} requests were served by another rank than asked for")
    if hits := sum(bool(o.answer.num_cached) for o in outcomes):
        out.append(
            f"the engine had the beginning of {hits} prompts in its prefix cache: give"
            " --flush-cache or another --seed"
        )
    counted = [o for o in outcomes if o.answer.num_tokens is not None]
    if other := sum(o.answer.num_tokens != o.request.num_tokens for o in counted):
        out.append(f"the engine counts another number of tokens in {other} prompts")
    late = measure_lateness(engine.rounds)
    if late is not None and late.p99 > LATE_MS:
        out.append(
            f"requests were sent late, by {late.p99:.1f} ms at the 99th percentile: this machine"
            " was busy, or more was to be sent than one core can"
        )
    return out


def describe(engine: EngineResult) -> list[str]:
    """Lines for a terminal."""
    out = []
    found = measure_interval(engine.makespans)
    if found is not None and found.low is not None:
        out.append(
            f"makespan {found.mean:.3f} s, 95 % interval {found.low:.3f} to {found.high:.3f} s"
            f" ({found.num} repeats)"
        )
    late = measure_lateness(engine.rounds)
    if late is not None:
        out.append(
            f"late by {late.p50:.2f} ms at the median, {late.p99:.2f} ms at the"
            f" 99th percentile, {late.most:.2f} ms at most (n = {late.num})"
        )
    errors = count_errors(engine.rounds)
    if errors:
        out.append("failed: " + ", ".join(f"{kind} {num}" for kind, num in errors.items()))
    return out


def build_summary_json(result: LoadResult) -> dict[str, Any]:
    """A load as plain values; what does not exist is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "stopped": result.stopped,
        "settings": _plain_settings(result.settings),
        "engines": [_engine_json(engine) for engine in result.engines],
        "notes": list(result.notes),
    }


def _engine_json(engine: EngineResult) -> dict[str, Any]:
    found = measure_interval(engine.makespans)
    late = measure_lateness(engine.rounds)
    return {
        "name": engine.name or None,
        "url": engine.url,
        "version": engine.facts.version,
        "dp_size": engine.facts.num_ranks,
        "simulated": engine.facts.is_simulated,
        "directory": None if engine.directory is None else str(engine.directory),
        "num_warm": engine.num_warm,
        "num_sent": len(engine.outcomes),
        "num_ok": sum(one.num_ok for one in engine.rounds),
        "errors": count_errors(engine.rounds),
        "makespan_s": {
            "mean": None if found is None else found.mean,
            "low": None if found is None else found.low,
            "high": None if found is None else found.high,
            "n": 0 if found is None else found.num,
        },
        "lateness_ms": {
            "p50": None if late is None else late.p50,
            "p99": None if late is None else late.p99,
            "max": None if late is None else late.most,
            "n": 0 if late is None else late.num,
        },
        "repeats": [
            {
                "repeat": one.repeat,
                "num_planned": one.num_planned,
                "num_sent": len(one.outcomes),
                "num_ok": one.num_ok,
                "makespan_s": one.makespan_s,
            }
            for one in engine.rounds
        ],
    }


def write_summary_json(result: LoadResult) -> str:
    """The same as text."""
    return json.dumps(build_summary_json(result), indent=1, allow_nan=False) + "\n"


def describe_run(engine: EngineResult, settings: LoadSettings) -> dict[str, dict[str, Any]]:
    """Sections of ``run.toml``; of the settings those that are not as usual, and the main ones."""
    plain, usual = _flatten(_plain_settings(settings)), _flatten(_plain_settings(LoadSettings(())))
    kind = "a simulated engine's" if engine.facts.is_simulated else "an engine's"
    return {
        "origin": {
            "what": f"Requests sent by pdtrace load, and {kind} answers",
            "engine": "sglang",
            "release": engine.facts.version,
            "simulated": engine.facts.is_simulated or None,
            "url": engine.url,
        },
        "load": {
            "num_sent": len(engine.outcomes),
            "num_ok": sum(one.num_ok for one in engine.rounds),
            "makespans_s": [round(m, 6) for m in engine.makespans],
        }
        | {k: v for k, v in plain.items() if k in _MAIN or v != usual.get(k)},
    }


def _plain_settings(settings: LoadSettings) -> dict[str, Any]:
    plain = asdict(settings)
    for name in ("targets", "directory", "is_forced"):
        del plain[name]
    return plain


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            out |= _flatten(value, f"{prefix}{name}_")
        else:
            out[prefix + name] = value
    return out
