"""What a page knows of every iteration, packed: its script draws and counts any stretch from it.

Up to about a million iterations on 8 ranks every iteration keeps its time and the state of each
rank, so that what the page counts of a stretch is exact. Larger runs are packed as blocks of
iterations. Tokens, lines, queues and requests take more room than states: each is packed to the
iteration where it fits, and to blocks of its own where it does not; :func:`describe_levels` says
which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pdtrace.figures.idle_causes import spell_cause
from pdtrace.figures.packing import count_chars, pack_array, pack_rows
from pdtrace.figures.request_paths import pack_requests
from pdtrace.figures.survey import (
    DECODE,
    DELAYED,
    PREFILL,
    QUEUES,
    ROLE_NAMES,
    UNKNOWN,
    Survey,
    name_cause,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Shares of the characters that a page may give to packed arrays.
_CORE_SHARE = 0.64
# What the times and states leave is divided so.
_SHARES = {
    "requests": 0.33, "tokens": 0.2, "line": 0.22, "queues": 0.1, "held": 0.1, "seqs": 0.05,
}  # fmt: skip
_UNITS = (1e-5, 1e-4, 1e-3)  # seconds that a tick of the page's clock may be
_STAMPED = 1e-3  # most logs print whole milliseconds
_USAGE = 10_000  # token usage in hundredths of a percent


def pack_cells(survey: Survey, max_chars: int) -> dict[str, Any]:
    """Pack a run for the page's script.

    Args:
        survey: The run.
        max_chars: Characters that all packed arrays together may take.

    Returns:
        Facts and packed arrays; ``size`` is the number of iterations to a block of the times and
        states, and ``tokens``, ``line`` and ``queues`` have a ``size`` of their own.
    """
    levels = _pack_core(survey, int(_CORE_SHARE * max_chars))
    left = max_chars - count_chars(levels)
    limit = {name: int(share * left) for name, share in _SHARES.items()}
    levels["tokens"] = _fit(
        lambda size: {
            "a": pack_array(np.add.reduceat(survey.tokens, _firsts(survey, size), axis=0).T)
        },
        survey,
        limit["tokens"],
    )
    levels["line"] = _pack_lines(survey, limit["line"], each=levels["size"] == 1)
    queues = _pack_queues(survey, limit["queues"])
    if queues:
        levels["queues"] = queues
    if levels["size"] == 1:
        if survey.held.any():
            levels["held"] = _pack_held(survey, levels["unit"], limit["held"])
        seqs = pack_array(survey.seqs.T)
        if len(seqs["b"]) <= limit["seqs"]:
            levels["seqs"] = seqs
    requests = pack_requests(survey, limit["requests"])
    if requests:
        levels["requests"] = requests
    return levels


def describe_levels(levels: dict[str, Any]) -> str:
    """Say what the page knows exactly, and what only in blocks."""
    size = levels["size"]
    unit = f"{1e3 * levels['unit']:g} ms"
    if size > 1:
        said = [f"At this length times and states are kept in blocks of {size} iterations."]
    else:
        said = [f"Times (to {unit}) and states are exact for every iteration."]
    blocks = [
        f"{name} in blocks of {levels[key]['size']} iterations"
        for key, name in (("tokens", "tokens"), ("queues", "queues"))
        if levels.get(key, {}).get("size", 1) > 1
    ]
    line = levels["line"]
    if not line["each"]:
        of = "of every iteration" if line["size"] == 1 else f"of every {line['size']} iterations"
        blocks.append(f"the first log line {of}")
    if blocks:
        text = "; ".join(blocks)
        said.append(text[:1].upper() + text[1:] + ".")
    requests = levels.get("requests")
    if requests and requests["carried"] < requests["total"]:
        carried, total = requests["carried"], requests["total"]
        said.append(f"Of {total:,} requests the {carried:,} slowest can be found.")
    return " ".join(said)


def _firsts(survey: Survey, size: int) -> NDArray[np.int64]:
    return np.arange(0, len(survey), size)


def _fit(
    pack: Callable[[int], dict[str, Any]], survey: Survey, limit: int, size: int = 1
) -> dict[str, Any]:
    """Pack in the smallest blocks, by powers of two from ``size`` on, that keep the limit."""
    while True:
        packed = pack(size)
        over = count_chars(packed) / max(limit, 1)
        if over <= 1 or size >= len(survey):
            return packed | {"size": size}
        size *= 2 ** max(1, int(np.log2(over)))


def _pack_core(survey: Survey, limit: int) -> dict[str, Any]:
    """Times, states, confidence, delays and labels, exact if they fit."""
    n, ranks = survey.role.shape
    base: dict[str, Any] = {
        "iterations": n,
        "ranks": ranks,
        "origin": survey.origin_ns / 1e6,
        "files": [f.path for f in survey.run.files],
    }
    states = _pack_states(survey)
    room = limit - count_chars(states)
    for unit in _choose_units(survey):
        core = _pack_times(survey, 1, unit)
        if count_chars(core) <= room:
            return base | core | states | {"size": 1, "blocks": n, "unit": unit}
    core = _fit(lambda size: _pack_blocks(survey, size), survey, limit, size=2)
    return base | core | {"blocks": -(-n // core["size"]), "unit": _UNITS[0]}


def _choose_units(survey: Survey) -> tuple[float, ...]:
    """Ticks to try: the coarsest that loses nothing, otherwise from the finest on."""
    for values in (survey.start, survey.end):
        if (np.abs(values - np.rint(values / _STAMPED) * _STAMPED) > 1e-6).any():
            return _UNITS
    return (_STAMPED,)


def _pack_times(survey: Survey, size: int, unit: float) -> dict[str, Any]:
    """Begin and extent of each block in ticks, and what the script tells of it beside."""
    n = len(survey)
    first = _firsts(survey, size)
    last = np.minimum(first + size, n) - 1
    begin = np.rint(survey.start[first] / unit).astype(np.int64)
    end = np.rint(survey.end[last] / unit).astype(np.int64)
    levels: dict[str, Any] = {
        "gap": pack_array(begin - np.r_[0, end[:-1]], signed=True),
        "extent": pack_array(end - begin),
        "delays": pack_array(np.add.reduceat(survey.delay_passes, first)),
        "confidence": pack_array(_permille(np.minimum.reduceat(survey.confidence, first))),
    }
    if (survey.iteration != np.arange(n)).any():
        levels["number"] = pack_array(survey.iteration[first] - first, delta=True)
    if (survey.forward_iter >= 0).any():
        levels["forward"] = pack_array(
            survey.forward_iter[first] - survey.iteration[first], delta=True
        )
    if size == 1:
        untimed = np.isnan(survey.duration)
        took = np.rint(np.where(untimed, 0, survey.duration) / unit).astype(np.int64)
        beyond = np.where(untimed, 0, took - (end - begin))
        if untimed.any():
            levels["untimed"] = pack_array(untimed)
        # A pass that the next one overlapped is drawn shorter than it took.
        if beyond.any():
            levels["beyond"] = pack_array(beyond, signed=True)
    return levels


def _permille(confidence: NDArray[np.float32]) -> NDArray[np.int64]:
    """Confidence in thousandths; one that is not whole is never rounded up to it."""
    rounded = np.rint(confidence.astype(np.float64) * 1000).astype(np.int64)
    return np.where(confidence < 1, np.minimum(rounded, 999), rounded)


def _pack_states(survey: Survey) -> dict[str, Any]:
    """What each rank did in each iteration: role, why it idled, whether a line says so."""
    # One number for all four, then a short code in order of first use.
    wide = survey.role.astype(np.uint16)
    wide |= survey.observed.astype(np.uint16) << 3
    wide |= (survey.line > 0).astype(np.uint16) << 4
    wide |= survey.cause.astype(np.uint16) << 5
    there = np.flatnonzero(np.bincount(wide.ravel(), minlength=1))
    codes = np.zeros(int(there.max(initial=0)) + 1, np.uint8)
    codes[there] = np.arange(len(there))
    states = []
    for key in there.tolist():
        cause = key >> 5
        states.append(
            {
                "role": key & 7,
                "observed": key >> 3 & 1,
                "line": key >> 4 & 1,
                "cause": spell_cause(*name_cause(cause)) if cause else None,
            }
        )
    packed: dict[str, Any] = {"states": states, "groups": pack_rows(codes[wide])}
    if ((survey.role == PREFILL).sum(axis=1) != survey.width).any():
        packed["width"] = pack_array(survey.width)
    return packed


def _pack_held(survey: Survey, unit: float, limit: int) -> dict[str, Any]:
    """Ticks before each iteration in which prefill was withheld, and on which ranks."""
    ranks = pack_rows(survey.held_ranks.astype(np.uint8))
    for coarse in (1, 10, 100, 1000):
        ticks = np.rint(survey.held / unit / coarse)
        ticks = np.where((ticks == 0) & (survey.held > 0), 1, ticks)
        packed = {"a": pack_array(ticks), "coarse": coarse, "groups": ranks}
        if count_chars(packed) <= limit:
            break
    return packed


def _pack_blocks(survey: Survey, size: int) -> dict[str, Any]:
    """Blocks of iterations: of each rank the share of its passes and of its time, by role."""
    first = _firsts(survey, size)
    levels = _pack_times(survey, size, _UNITS[0])
    busy = survey.busy
    whole = np.add.reduceat(busy, first)
    levels["busy"] = pack_array(np.rint(whole / _UNITS[0]))
    for code in (PREFILL, DECODE, DELAYED, UNKNOWN):
        mine = survey.role == code
        if mine.any():
            seconds = np.add.reduceat(mine * busy[:, None], first, axis=0)
            share = seconds / np.where(whole > 0, whole, 1)[:, None]
            levels[f"time{code}"] = pack_array(np.rint(share.T * 250))
            levels[f"count{code}"] = pack_array(
                np.add.reduceat(mine.astype(np.int64), first, axis=0).T
            )
    widths = [np.add.reduceat(survey.width == w, first) for w in range(survey.dp_size + 1)]
    levels["widths"] = pack_array(np.array(widths, np.int64))
    return levels


def _pack_lines(survey: Survey, limit: int, *, each: bool) -> dict[str, Any]:
    """The line of every rank pass if asked for and it fits, otherwise the first of each block."""
    several = len(survey.run.files) > 1
    cells = {"a": pack_array(_fill_forward(survey.line).T, delta=True)}
    if several:
        cells["source"] = pack_array(survey.source.T)
    if each and count_chars(cells) <= limit:
        return cells | {"each": True, "size": 1}
    # The line of the lowest rank that has one stands for the iteration.
    has = survey.line > 0
    rows = np.arange(len(survey))
    lead = has.argmax(axis=1)
    line = survey.line[rows, lead]
    source = survey.source[rows, lead]

    def pack(size: int) -> dict[str, Any]:
        first = _firsts(survey, size)
        packed = {"a": pack_array(_fill_forward(line[first][:, None]), delta=True)}
        if several:
            packed["source"] = pack_array(source[first])
        return packed

    return _fit(pack, survey, limit) | {"each": False}


def _fill_forward(lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Repeat the line above where there is none, so that differences stay small."""
    at = np.where(lines > 0, np.arange(len(lines))[:, None], 0)
    filled: NDArray[np.int64] = np.take_along_axis(lines, np.maximum.accumulate(at, axis=0), axis=0)
    return filled


def _pack_queues(survey: Survey, limit: int) -> dict[str, Any]:
    """The longest queue of any rank in each iteration, and the fullest pool; 0 is not printed."""
    events = survey.queues
    present = [c for c in QUEUES if c in events.columns and events[c].null_count() < len(events)]
    if not present or not len(survey):
        return {}
    found = (
        events.filter(pl.col("iteration").is_not_null())
        .with_columns((pl.col(c) * _USAGE).round() for c in present if c == "token_usage")
        .group_by("iteration")
        .agg((pl.col(present).max().cast(pl.Int64) + 1).fill_null(0))
    )
    order = np.argsort(survey.iteration, kind="stable")
    rows = order[np.searchsorted(survey.iteration[order], found["iteration"].to_numpy())]
    columns = np.zeros((len(present), len(survey)), np.int64)
    columns[:, rows] = found.select(present).to_numpy().T
    return _fit(
        lambda size: {"a": pack_array(np.maximum.reduceat(columns, _firsts(survey, size), axis=1))},
        survey,
        limit,
    ) | {"names": present}


def list_roles(survey: Survey) -> list[str]:
    """The roles that occur, in the order of the legend."""
    seen = np.bincount(survey.role.ravel(), minlength=len(ROLE_NAMES)) > 0
    seen[DELAYED] |= bool(survey.delay_passes.any() or survey.held.any())
    return [name for name, there in zip(ROLE_NAMES, seen, strict=True) if there]
