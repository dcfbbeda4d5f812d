"""Whether two engines were set up alike, apart from the delayer: reasons against, and notes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdtrace.run import EngineInfo, Run

# Settings that cannot change what a pass costs or when it runs: (why they are ignored, which).
IGNORED: tuple[tuple[str, str], ...] = (
    ("where it listens", r"host|(.*_)?port|.*_addr|fastapi_root_path|.*_ipc_name|ssl_.*|.*ssl.*"),
    ("where files lie", r".*_(dir|folder)|file_storage_path|tokenizer_path|.*_ib_device"),
    ("what it logs, counts and traces", r"log_.*|.*_log_.*|.*_logging|decode_log_interval|"
     r".*metric.*|enable_trace|trace_.*|otlp_.*|.*_buckets|bucket_.*|show_time_cost|"
     r"kv_events_config|gc_warning_.*|uvicorn_.*|stat_loggers|enable_cache_report|debug_.*"),
    ("the seed of sampling, which no prefill depends on", r"random_seed"),
    ("names and keys of its API", r"api_key|admin_api_key|served_model_name|weight_version|"
     r"api_.*|tool_.*|reasoning_parser"),
    ("limits that only act on a failure", r".*watchdog_timeout|dist_timeout|custom_sig.*"),
)  # fmt: skip
DELAYER = re.compile(r"(enable_)?prefill_delayer.*")
_IGNORED = tuple((why, re.compile(pattern)) for why, pattern in IGNORED)
UNSET = ("None", "False", "")
# The model is compared by its name; the sizes have their own line.
COMPARED_APART = ("model_path", "dp_size", "tp_size", "ep_size", "pp_size")
SURE = 0.9  # mean grouping confidence below which counts of iterations are said to be uncertain


@dataclass(frozen=True)
class Findings:
    """What speaks against a comparison, and what a reader should know."""

    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def compare_settings(baseline: Run, candidate: Run) -> Findings:
    """Compare what two recordings say of their engines.

    A difference in what decides the work or its speed (ranks, model, release, role, any flag that
    is neither the delayer's nor ignored) is a reason; anything else that differs is a note.
    """
    found = compare_engines(
        baseline.engine, candidate.engine, (baseline.dp_size, candidate.dp_size)
    )
    notes = list(found.notes)
    for name, run in (("baseline", baseline), ("candidate", candidate)):
        confidence = run.iterations["confidence"].cast(float).mean()
        if isinstance(confidence, float) and confidence < SURE:
            notes.append(
                f"the {name}'s iterations are put together with a mean confidence of only "
                f"{confidence:.2f}: its counts of iterations are uncertain"
            )
    if baseline.grouping != candidate.grouping:
        notes.append(
            f"iterations were put together by {baseline.grouping} in the baseline and by "
            f"{candidate.grouping} in the candidate"
        )
    return Findings(found.reasons, tuple(notes))


def compare_engines(a: EngineInfo, b: EngineInfo, dp_sizes: tuple[int, int]) -> Findings:
    """Compare two engines by what they say of themselves.

    Args:
        a, b: Baseline and candidate.
        dp_sizes: Ranks that the iterations of either were put together for.
    """
    reasons: list[str] = []
    notes: list[str] = []
    if None in (a.dp_size, b.dp_size):
        notes.append(
            "the number of DP ranks is not known of both runs; that it is the same is assumed"
        )
    elif dp_sizes[0] != dp_sizes[1]:
        reasons.append(f"dp_size differs: {dp_sizes[0]} and {dp_sizes[1]}")
    for what in ("engine", "role", "tp_size", "ep_size", "pp_size", "enable_dp_attention"):
        x, y = getattr(a, what), getattr(b, what)
        if x is not None and y is not None and x != y:
            reasons.append(f"{what} differs: {x} and {y}")
    models = [None if e.model_path is None else PurePosixPath(e.model_path).name for e in (a, b)]
    if None not in models and models[0] != models[1]:
        reasons.append(f"model differs: {models[0]} and {models[1]}")
    elif None in models:
        notes.append("the model is not known of both runs; that it is the same is assumed")
    _compare_releases(a, b, reasons, notes)
    _compare_flags(a, b, reasons, notes)
    return Findings(tuple(reasons), tuple(notes))


def _compare_releases(a: EngineInfo, b: EngineInfo, reasons: list[str], notes: list[str]) -> None:
    ranges = [(e.release_min, e.release_max) for e in (a, b)]
    known = [(_version(low), _version(high)) for low, high in ranges if low and high]
    if len(known) < len(ranges):
        notes.append("the release is not known of both runs; that it is the same is assumed")
        return
    names = [low if low == high else f"{low}–{high}" for low, high in ranges]
    if known[0][1] < known[1][0] or known[1][1] < known[0][0]:
        reasons.append(f"engine release differs: {names[0]} and {names[1]}")
    elif known[0] != known[1] or known[0][0] != known[0][1]:
        told = f"{names[0]} and {names[1]}" if names[0] != names[1] else f"both within {names[0]}"
        notes.append(f"the releases may differ: {told}")


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", release))


def _compare_flags(a: EngineInfo, b: EngineInfo, reasons: list[str], notes: list[str]) -> None:
    if not a.server_args or not b.server_args:
        notes.append("the flags are not known of both runs (server_args line); they may differ")
        return
    ignored: dict[str, list[str]] = {}
    unsaid: list[str] = []
    for key in sorted({*a.server_args, *b.server_args}):
        x, y = a.server_args.get(key), b.server_args.get(key)
        if x == y or DELAYER.fullmatch(key) or key in COMPARED_APART:
            continue
        why = next((why for why, pattern in _IGNORED if pattern.fullmatch(key)), None)
        if why is not None:
            ignored.setdefault(why, []).append(key)
        elif x is None or y is None:
            # A release that prints one flag more, unset; or a source that leaves out some.
            if (x or y or "") not in UNSET:
                unsaid.append(key)
        else:
            reasons.append(f"flag {key} differs: {' and '.join(_tell_apart(x, y))}")
    if unsaid:
        notes.append(f"flags that only one of both says, which may differ: {', '.join(unsaid)}")
    notes.extend(f"ignored, {why}: {', '.join(keys)}" for why, keys in ignored.items())


def select_flags(server_args: dict[str, str]) -> dict[str, str]:
    """The flags that :func:`compare_engines` would look at."""
    return {
        key: value
        for key, value in sorted(server_args.items())
        if not DELAYER.fullmatch(key)
        and key not in COMPARED_APART
        and not any(pattern.fullmatch(key) for _, pattern in _IGNORED)
    }


def _tell_apart(x: str, y: str) -> tuple[str, str]:
    """Both values short, from just before where they part if they begin alike."""
    if _short(x) != _short(y):
        return _short(x), _short(y)
    begin = max(next(i for i in range(len(x) + 1) if x[: i + 1] != y[: i + 1]) - 12, 0)
    return f"…{_short(x[begin:])}", f"…{_short(y[begin:])}"


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:37]}…"
