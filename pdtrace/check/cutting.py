"""Cutting a workload into blocks, and finding the blocks of one run in another."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pdtrace.check.samples import Cell, Workload
from pdtrace.compare.matching import build_groups, find_group_gap
from pdtrace.compare.phases import MAX_PHASES, MIN_REQUESTS, name_phases, name_stem

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pdtrace.check.samples import F64, I64
    from pdtrace.compare.matching import Requests
    from pdtrace.compare.passes import Passes

NO_PHASE = ""
BLOCK_REQUESTS = 4  # of a block, at least
MOST_BLOCKS = 60  # of a workload, about
LEAST_SHARE = 12  # blocks that a phase may have, however many phases there are
NOWHERE = -1
REACH = 8  # requests that may be missing or added before a block, beyond the difference in number


def cut_requests(requests: Requests) -> Workload:
    """Cut the requests of a run into phases and these into blocks, at gaps between groups.

    Phases are those of :func:`pdtrace.compare.phases.name_phases` with six requests or more;
    what belongs to none makes up a phase without a name.
    """
    phases = np.array(_name_cells(requests.rid), dtype=object)
    groups = build_groups([requests], find_group_gap([requests.begin]))
    names = list(dict.fromkeys(phases.tolist()))
    most = max(LEAST_SHARE, MOST_BLOCKS // max(len(names), 1))
    cells = {}
    for name in names:
        index = np.flatnonzero(phases == name)
        num = int(np.clip(len(index) // BLOCK_REQUESTS, 1, most))
        ends = _cut_groups(groups[index], len(index) / num)
        tokens = np.nan_to_num(requests.tokens[index])
        cells[str(name)] = Cell(
            tuple(int(n) for n in np.diff([0, *ends])),
            tuple(int(t.sum()) for t in np.split(tokens, ends[:-1])),
        )
    return Workload(cells, is_named=True)


def _name_cells(rids: list[str]) -> list[str]:
    phases = name_phases(rids)
    sizes = Counter(phases)
    kept = {name for name, n in sizes.items() if n >= MIN_REQUESTS}
    if len(kept) > MAX_PHASES:
        kept = set()
    return [p if p in kept else NO_PHASE for p in phases]


def _cut_groups(groups: I64, size: float) -> list[int]:
    """Ends of blocks of about so many requests; a group stays in one."""
    ends: list[int] = []
    limits = [*(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    for end in limits:
        # The first end of a group that is not short of the next multiple of the size.
        if end >= size * (len(ends) + 1) - 0.5 or end == len(groups):
            ends.append(int(end))
    return ends


def find_blocks(requests: Requests, workload: Workload) -> I64:
    """Block of each request of a run, ``NOWHERE`` where it is of none.

    In each phase requests count in order of sending: the i-th of one run is the i-th of the other.
    A block is found where as many requests in a row have as many tokens; some may be missing or
    added before it.
    """
    out = np.full(len(requests), NOWHERE, np.int64)
    members: dict[str, list[int]] = {name: [] for name in workload.cells}
    has_phases = set(members) != {NO_PHASE}
    for i, rid in enumerate(requests.rid):
        stem = name_stem(rid) if has_phases else NO_PHASE
        name = next((n for n in (stem, stem.rstrip("0123456789"), NO_PHASE) if n in members), None)
        if name is not None:
            members[name].append(i)
    for name, place in workload.places().items():
        cell = workload.cells[name]
        index = np.array(members[name], np.int64)
        starts = _align(requests.tokens[index], cell)
        for k, start in enumerate(starts):
            if start is not None:
                out[index[start : start + cell.requests[k]]] = place.start + k
    return out


def _align(tokens: F64, cell: Cell) -> list[int | None]:
    """First request of each block of a phase; None where it is not found."""
    total = np.concatenate([[0.0], np.cumsum(np.nan_to_num(tokens))])
    is_told = bool(np.isfinite(tokens).any()) and any(cell.tokens)
    reach = REACH + abs(len(tokens) - sum(cell.requests))
    out: list[int | None] = []
    least = shift = at = 0
    for num, wanted in zip(cell.requests, cell.tokens, strict=True):
        found = None
        for start in _near(at + shift, least, len(tokens) - num, reach):
            if not is_told or total[start + num] - total[start] == wanted:
                found = start
                break
        if found is not None:
            least, shift = found + num, found - at
        out.append(found)
        at += num
    return out


def _near(middle: int, low: int, high: int, reach: int) -> Iterable[int]:
    for step in range(reach + 1):
        for place in (middle + step, middle - step) if step else (middle,):
            if low <= place <= high:
                yield place


def cut_passes(passes: Passes) -> Workload:
    """Likewise where no request is named: blocks of iterations, cut at pauses where there are any.

    Iterations that run back to back depend on each other, and where no request waits one run can
    be laid beside another, so a block ends at a pause; without one, after twice its size.
    """
    order = np.flatnonzero(passes.width > 0)
    if not len(order):
        return Workload({}, is_named=False)
    size = max(3.0, len(order) / MOST_BLOCKS)
    usual = passes.duration[order][~passes.is_stall[order]]
    usual = usual[np.isfinite(usual)]
    pause = float(usual.max()) if len(usual) else np.inf
    ends, since = [], 0
    for k in range(1, len(order) + 1):
        is_last = k == len(order)
        is_pause = not is_last and passes.start[order[k]] - passes.end[order[k - 1]] > pause
        length = k - since
        if is_last or (is_pause and length >= size) or length >= 2 * size:
            ends.append(k)
            since = k
    tokens = tuple(int(t.sum()) for t in np.split(passes.tokens[order], ends[:-1]))
    return Workload({NO_PHASE: Cell((0,) * len(tokens), tokens)}, is_named=False)


def find_pass_blocks(passes: Passes, workload: Workload) -> I64:
    """Block of each iteration where no request is named, by the tokens computed so far.

    A block is found where its two ends fall between iterations, within a hundredth of its tokens.
    """
    out = np.full(len(passes), NOWHERE, np.int64)
    order = np.flatnonzero(passes.width > 0)
    so_far = np.concatenate([[0.0], np.cumsum(passes.tokens[order])])
    edges = np.concatenate([[0.0], np.cumsum(workload.tokens)])
    for k, (low, high) in enumerate(pairwise(edges)):
        slack = 0.01 * (high - low)
        first, last = (int(np.argmin(np.abs(so_far - x))) for x in (low, high))
        if abs(so_far[first] - low) <= slack and abs(so_far[last] - high) <= slack:
            out[order[first:last]] = k
    return out
