"""Pages about settings tried on the replay of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pdtrace.exports.advice import build_advice_report
from pdtrace.exports.forecast import name_setting, rests_on
from pdtrace.figures.outlook import Outlook, is_known
from pdtrace.pages.content import Content, Number
from pdtrace.pages.head import describe_delayer, describe_engine, name_run
from pdtrace.pages.numbers import format_metric, spell_metric
from pdtrace.pages.page_file import load_page
from pdtrace.pages.rendering import render
from pdtrace.wording import change

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.delayer.outcomes import Outcome, Range
    from pdtrace.run import Run


def render_whatif(
    run: Run,
    outlook: Outlook,
    *,
    page: str = "whatif",
    request_filter: str | None = None,
    verdict: Sequence[str] = (),
) -> str:
    """Render a page of a what-if as one HTML file that needs nothing else.

    Args:
        run: The run that was replayed.
        outlook: What the sweep over settings gave.
        page: A name among the dashboards, or the path of a TOML file.
        request_filter: The regular expression that chose whose figures are given.
        verdict: Sentences for the head; those of ``tune`` if none are given.

    Raises:
        UsageError: The page, a tile or an option is not known, or it is not about a what-if.
    """
    told = load_page(page, subject="whatif")
    model, advice = outlook.model, outlook.advice
    facts = [*describe_engine(run)[:3], "recorded with " + (describe_delayer(run) or "it unknown")]
    facts.append(f"{len(model.load):,} requests replayed at {len(advice.outcomes) + 1} settings")
    if request_filter is not None:
        facts.append(f"figures of requests that match {request_filter}")
    content = Content(
        drawn=outlook,
        name=name_run(run),
        facts=tuple(facts),
        verdict=tuple(_state(outlook, verdict)),
        numbers=collect_outlook_numbers(outlook),
        command=" ".join(advice.flags),
        warnings=tuple(run.warnings),
        notes=tuple(dict.fromkeys((*advice.remarks, *rests_on(model)))),
    )
    return render(told, content)


def _state(outlook: Outlook, verdict: Sequence[str]) -> Iterator[str]:
    """The sentences of the head; the flags themselves stand under them."""
    advice = outlook.advice
    if verdict:
        yield from verdict
        if advice.chosen is not None:
            yield f"Of all settings tried, {_name(advice.chosen)} would be the one to use:"
        else:
            yield f"Of all settings tried, none is worth using: {advice.reason}."
        return
    if advice.chosen is not None:
        yield f"Turn the delayer on, with {_name(advice.chosen)}."
    yield from (
        line
        for line in build_advice_report(outlook.model, advice).verdict
        if not line.startswith("Use ")
    )


def _name(outcome: Outcome) -> str:
    return name_setting(outcome.setting).replace("pass", "delay pass", 1)


def collect_outlook_numbers(outlook: Outlook) -> dict[str, Number]:
    """Figures of one setting for a row of metrics, each beside the delayer off.

    The setting is the one to use or, where none is, the first that was asked about, or the one
    that the other routings are tried with.
    """
    advice = outlook.advice
    asked = [o for o in advice.outcomes if outlook.is_asked(o)]
    usual = [o for o in outlook.bounds if o.setting == outlook.shown]
    candidates = [*asked, *([advice.chosen] if advice.chosen else []), *usual, *advice.outcomes]
    o = next(iter(candidates), advice.off)
    at = name_setting(o.setting)
    turn, first, last = (" ".join(format_metric(v, "s")) for v in advice.turn_s)
    low, high = (" ".join(format_metric(v, "s")) for v in o.bound_range_s)
    return {
        "request_latency_mean_s": _change(
            "Mean latency", at, "s", o.latency, o.request_latency_mean_s
        ),
        "ttft_p99_s": _change("p99 TTFT", at, "s", o.p99, o.ttft_p99_s),
        "prefill_throughput_tok_s": _change(
            "Throughput", at, "tok/s", o.throughput, o.throughput_tok_s
        ),
        **{
            name: _count(name, at, getattr(o, name), getattr(advice.off, name))
            for name in ("num_iterations", "num_fully_fused_iterations", "num_delay_passes")
        },
        "longest_wait_s": Number(
            f"Held at most, {at}", " ".join(format_metric(o.bound_s, "s")), small=f"{low} – {high}"
        ),
        "scheduler_turn_s": Number("One delay pass", turn, small=f"{first} – {last}"),
    }


def _change(label: str, at: str, unit: str, ratio: Range, absolute: Range) -> Number:
    if not is_known(ratio, absolute):
        return Number(label, "–", small="the replay gave none")
    to = " ".join(format_metric(absolute[0], unit))
    small = f"to {to}; {change(ratio[1])} to {change(ratio[2])}"
    # A number and its unit stay on one line.
    small = small.replace(" %", "\u00a0%")
    return Number(f"{label}, {at}", change(ratio[0]), small=small)


def _count(name: str, at: str, value: float, off: float) -> Number:
    shown, other = (format_metric(round(v), "count")[0] for v in (value, off))
    return Number(f"{spell_metric(name)}, {at}", shown, small=f"off: {other}")
