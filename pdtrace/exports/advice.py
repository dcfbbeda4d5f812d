"""What a tuning advises, as JSON and as a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pdtrace.delayer.remarks import name_change
from pdtrace.exports.forecast import (
    describe_engine,
    dump_json,
    name_setting,
    plain_number,
    rests_on,
    warn_of_arrivals,
    warn_of_misfit,
)
from pdtrace.exports.report import Report, Section
from pdtrace.wording import UNKNOWN, number, plural, seconds, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.delayer.engine_model import EngineModel
    from pdtrace.delayer.outcomes import Advice, Outcome, Range, RoutingOutcome


def write_advice(model: EngineModel, advice: Advice) -> str:
    """JSON of a tuning; ``docs/interface.md`` names the keys."""
    return dump_json(
        {
            "chosen": None if advice.chosen is None else _outcome(advice.chosen),
            "reason": advice.reason,
            "nearest": None if advice.nearest is None else _outcome(advice.nearest),
            "flags": list(advice.flags),
            "off": _outcome(advice.off),
            "outcomes": [_outcome(o) for o in advice.outcomes],
            "routings": [
                {
                    "routing": r.name,
                    "meaning": r.meaning,
                    "load_balance_method": r.method,
                    "off": _outcome(r.off),
                    "on": _outcome(r.on),
                }
                for r in advice.routings
            ],
            "sensitivity": [
                {"scheduler_turn_s": p.turn_s, "outcome": _outcome(p.outcome)}
                for p in advice.sensitivity
            ],
            "recorded": {
                "max_delay_passes": advice.recorded.max_delay_passes,
                "token_usage_low_watermark": advice.recorded.token_usage_low_watermark,
            },
            "measured": {k: plain_number(v) for k, v in advice.measured.items()},
            "reproduced": {k: plain_number(v) for k, v in advice.reproduced.items()},
            "remarks": list(advice.remarks),
            "engine": describe_engine(model),
        }
    )


def _outcome(o: Outcome) -> dict[str, Any]:
    def change(quantity: Range, absolute: Range) -> dict[str, float | None]:
        names = ("change_ratio", "low", "high", "value", "value_low", "value_high")
        return dict(zip(names, map(plain_number, (*quantity, *absolute)), strict=True))

    return {
        "max_delay_passes": o.setting.max_delay_passes,
        "token_usage_low_watermark": o.setting.token_usage_low_watermark,
        "longest_wait_s": o.bound_s,
        "longest_wait_low_s": o.bound_range_s[0],
        "longest_wait_high_s": o.bound_range_s[1],
        "request_latency_mean_s": change(o.latency, o.request_latency_mean_s),
        "ttft_p99_s": change(o.p99, o.ttft_p99_s),
        "prefill_throughput_tok_s": change(o.throughput, o.throughput_tok_s),
        "num_iterations": plain_number(o.num_iterations),
        "num_fully_fused_iterations": plain_number(o.num_fully_fused_iterations),
        "num_delay_passes": plain_number(o.num_delay_passes),
        "near_bound_ratio": o.near_bound_ratio,
        "is_bistable": o.is_bistable,
        "is_on_front": o.on_front,
        "does_nothing": o.does_nothing,
    }


def build_advice_report(model: EngineModel, advice: Advice) -> Report:
    """The report of a tuning."""
    sections = (*_sweep(model, advice), _routings(advice), _sensitivity(advice))
    warnings = (*warn_of_misfit(advice.measured, advice.reproduced), *warn_of_arrivals(model))
    return Report((*warnings, *_verdict(advice)), None, sections)


def _verdict(advice: Advice) -> tuple[str, ...]:
    o = advice.chosen
    if o is not None:
        return (
            f"Use {' '.join(advice.flags)}",
            f"Predicted: mean request latency {name_change(o.latency)}, p99 time to first token "
            f"{name_change(o.p99)}, tokens per busy second {name_change(o.throughput)}.",
            f"A request is held back at most {seconds(o.bound_s)} ({_span(o.bound_range_s)}); "
            f"{advice.reason}.",
        )
    lines: tuple[str, ...] = (f"Leave the delayer off: {advice.reason}.",)
    nearest, usual = advice.nearest, _find_default(advice)
    if nearest is not None and usual is not None and usual is not nearest:
        lines += (
            f"{name_setting(usual.setting)} would change: mean request latency "
            f"{name_change(usual.latency)}, p99 time to first token {name_change(usual.p99)}, "
            f"tokens per busy second {name_change(usual.throughput)}.",
        )
    return lines


def _find_default(advice: Advice) -> Outcome | None:
    """The setting of the routings' table: what the delayer does by default."""
    setting = advice.routings[0].on.setting
    plain = (setting.max_delay_passes, setting.token_usage_low_watermark)
    return next(
        (
            o
            for o in advice.outcomes
            if (o.setting.max_delay_passes, o.setting.token_usage_low_watermark) == plain
        ),
        None,
    )


def _span(limits: tuple[float, float]) -> str:
    return f"{seconds(limits[0])} to {seconds(limits[1])}"


def _name(advice: Advice, o: Outcome) -> str:
    """A setting, short, with its marks."""
    if o is advice.off:
        words = "off"
    else:
        words = str(o.setting.max_delay_passes)
        if o.setting.token_usage_low_watermark is not None:
            words += f", {o.setting.token_usage_low_watermark:g}"
    marks = "▸" if o is advice.chosen else ""
    marks += ("●" if o.on_front else "") + ("~" if o.is_bistable else "")
    return f"{words} {marks}".rstrip()


def _sweep(model: EngineModel, advice: Advice) -> tuple[Section, Section]:
    shown = [
        o
        for o in advice.outcomes
        if o.setting.token_usage_low_watermark is None or o.on_front or o is advice.chosen
    ]
    rows = [
        (
            _name(advice, o),
            seconds(o.bound_s),
            *(
                UNKNOWN if o is advice.off else name_change(x)
                for x in (o.latency, o.p99, o.throughput)
            ),
        )
        for o in (advice.off, *shown)
    ]
    columns = ("bound", "held", "mean latency", "TTFT p99", "tok per busy s")
    notes = [
        "● on the front: no other setting has both more tokens per busy second and a lower p99 of "
        "the time to first token (TTFT); ▸ chosen; ~ many waits end near the bound. Bound: delay "
        "passes, and the low watermark if there is one; held: at most so long. Changes are against "
        "the delayer off on a host as fast; nine in ten such runs are expected within ±.",
    ]
    left = len(advice.outcomes) - len(shown)
    if left:
        levels = sorted(
            {
                o.setting.token_usage_low_watermark
                for o in advice.outcomes
                if o.setting.token_usage_low_watermark is not None
            }
        )
        notes.append(
            f"Tried too, none of them on the front: {plural(left, 'setting')} with a low watermark "
            f"({', '.join(f'{w:g}' for w in levels)})."
        )
    notes += [*advice.remarks, *rests_on(model)]
    changes = Section("Sweep", columns, tuple(rows), tuple(dict.fromkeys(notes)))
    return changes, _absolute(advice, shown)


def _absolute(advice: Advice, shown: Sequence[Outcome]) -> Section:
    """What the changes come to."""
    rows = tuple(
        (
            _name(advice, o), seconds(o.request_latency_mean_s[0]), seconds(o.ttft_p99_s[0]),
            whole(o.throughput_tok_s[0]), whole(o.num_iterations), whole(o.num_delay_passes),
        )
        for o in (advice.off, *shown)
    )  # fmt: skip
    columns = (
        "bound", "mean latency", "TTFT p99", "tok per busy s", "iterations", "delay passes",
    )  # fmt: skip
    return Section("Predicted", columns, rows)


def _routings(advice: Advice) -> Section:
    def cells(r: RoutingOutcome) -> tuple[str, ...]:
        return (
            r.title, name_change(r.off.latency), name_change(r.off.throughput),
            name_change(r.on.latency), name_change(r.on.throughput),
        )  # fmt: skip

    columns = ("routing", "off: latency", "off: tok/s", "on: latency", "on: tok/s")
    notes = [
        f"{r.title}: {r.meaning}" + (f" (--load-balance-method {r.method})." if r.method else ".")
        for r in advice.routings
    ]
    on = name_setting(advice.routings[0].on.setting)
    notes.append(
        "Changes of mean latency and of tokens per busy second, against the recorded assignment "
        f"with the delayer off. On: {on}."
    )
    return Section("Other routings", columns, tuple(map(cells, advice.routings)), tuple(notes))


def _sensitivity(advice: Advice) -> Section:
    rows = tuple(
        (
            f"{number(p.turn_s * 1e3)} ms", seconds(p.outcome.bound_s),
            name_change(p.outcome.latency), name_change(p.outcome.p99),
            name_change(p.outcome.throughput),
        )
        for p in advice.sensitivity
    )  # fmt: skip
    columns = ("turn takes", "held", "mean latency", "TTFT p99", "tok per busy s")
    setting = name_setting(advice.routings[0].on.setting)
    note = "Replayed at each of these lengths; the sweep draws the length from all of them."
    return Section(f"If a turn takes longer or shorter ({setting})", columns, rows, (note,))
