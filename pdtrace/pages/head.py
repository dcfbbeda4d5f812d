"""The head of a page: what was recorded, the verdict, what it rests on, the warnings."""

from __future__ import annotations

import datetime as dt
from pathlib import PurePath
from typing import TYPE_CHECKING

from pdtrace.figures.survey import PREFILL, ROLE_NAMES, Survey
from pdtrace.pages.numbers import format_ratio, format_span
from pdtrace.pages.policy import show_text
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pdtrace.pages.content import Content
    from pdtrace.run import Run

_MOST_LISTED = 50


def name_run(run: Run) -> str:
    """Which recording: its directory if all its files stand in one, else the ends of its paths."""
    paths = [PurePath(f.path) for f in run.files]
    if len(paths) > 1 and len({p.parent for p in paths}) == 1 and paths[0].parent.name:
        return f"{paths[0].parent.name} ({len(paths)} files)"
    name = ", ".join("/".join(p.parts[-2:]) for p in paths[:3]) or "run"
    return f"{name} and {len(paths) - 3} more" if len(paths) > 3 else name


def describe_engine(run: Run) -> list[str]:
    """Engine and release, role, ranks and model, as far as the input says."""
    engine = run.engine
    low, high = engine.release_min, engine.release_max
    release = low or high
    if low and high and low != high:
        release = f"{low}–{high}"
    facts = [f"{engine.engine} {release}" if release else engine.engine]
    if engine.role and engine.role != "null":
        facts.append(f"{engine.role} engine")
    facts.append(f"{run.dp_size} DP ranks")
    if engine.model_path:
        facts.append(engine.model_path)
    return facts


def tell_facts(run: Run, survey: Survey) -> list[str]:
    """What was recorded: engine, role, ranks, time, delayer."""
    facts = describe_engine(run)
    if len(survey):
        begin = dt.datetime.fromtimestamp(survey.origin_ns / 1e9, dt.UTC)
        facts.append(f"from {begin:%Y-%m-%d %H:%M:%S} UTC, {_spell_length(float(survey.end[-1]))}")
    facts.append(f"iterations by {run.grouping}")
    state = describe_delayer(run)
    return [*facts, state] if state else facts


def _spell_length(seconds: float) -> str:
    """A run's length: in hours or days where seconds would be many."""
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:,.1f} days"
    return f"{seconds / 3600:,.1f} h" if seconds >= 3 * 3600 else format_span(seconds)


def describe_delayer(run: Run) -> str:
    """Whether the delayer was on, and how it was set; empty if nothing says it."""
    delayer = run.engine.delayer
    if delayer.enabled is None:
        return ""
    words = "delayer on" if delayer.enabled else "delayer off"
    if delayer.enabled and delayer.max_delay_passes is not None:
        words += f", at most {delayer.max_delay_passes} passes"
    if delayer.enabled and delayer.token_usage_low_watermark is not None:
        words += f", watermark {delayer.token_usage_low_watermark}"
    return words


def state_shares(survey: Survey) -> list[str]:
    """What the iterations alone say, where no verdict was given."""
    if not len(survey):
        return ["No iteration was rebuilt from this input."]
    if survey.run.missing_ranks:
        return [
            f"What all ranks did is not known: nothing was read of DP "
            f"{name_ranks(survey.run.missing_ranks)}."
        ]
    known = survey.role != ROLE_NAMES.index("unknown")
    idle = (known & (survey.role != PREFILL) & (survey.role != 1)).sum()
    full = (survey.width == survey.dp_size).mean()
    share = idle / max(int(known.sum()), 1)
    return [
        f"{format_ratio(float(share))} of the rank passes were idle; in "
        f"{format_ratio(float(full))} of {len(survey):,} iterations every rank prefilled."
    ]


def render_facts(content: Content) -> str:
    """What was recorded, in a line."""
    return "".join(f"<span>{show_text(f)}</span>" for f in content.facts)


def render_verdict(content: Content) -> str:
    """The verdict, why nothing is claimed, and the line to copy."""
    out = "".join(f"<p>{show_text(line)}</p>\n" for line in content.verdict)
    if content.worst:
        first, last, words = content.worst
        out += (
            f'<p class="worst">Worst stretch: {show_text(words)}. <button type="button" '
            f'data-first="{first}" data-last="{last}" hidden>Look there</button></p>\n'
        )
    if content.reasons:
        out += f'<ul class="reasons">{_list(content.reasons)}</ul>\n'
    if content.command:
        out += (
            f'<pre class="command" tabindex="0"><code>{show_text(content.command)}</code></pre>\n'
        )
    return out


def render_remarks(content: Content) -> str:
    """What the numbers rest on, and the warnings of reading, folded away."""
    out = ""
    for texts, word in ((content.notes, "note"), (content.warnings, "warning")):
        if texts:
            title = f"1 {word}" if len(texts) == 1 else f"{len(texts):,} {word}s"
            out += (
                f"<details class={word}s><summary>{title}</summary><ul>{_list(texts)}</ul>"
                "</details>\n"
            )
    return out


def _list(texts: Sequence[str]) -> str:
    items = "".join(f"<li>{show_text(t)}</li>" for t in texts[:_MOST_LISTED])
    if len(texts) > _MOST_LISTED:
        items += f"<li>and {len(texts) - _MOST_LISTED:,} more</li>"
    return items
