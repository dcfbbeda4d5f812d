"""Events → iterations: choose the evidence, rebuild stretch by stretch, lay out the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from pdtrace.iterations.durations import measure_durations
from pdtrace.iterations.evidence import Evidence, Grouping, group_by_label, group_by_time
from pdtrace.iterations.parts import Parts
from pdtrace.iterations.spans import choose_selections, choose_source, group_by_spans
from pdtrace.run import Recording, Run
from pdtrace.schema import DURATION_SOURCES, ITERATIONS
from pdtrace.wording import name_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    F64 = NDArray[np.float64]

STRETCH_ROWS = 150_000
KEPT_ROWS = 400_000  # above this the parts are spilled

Progress = Callable[[int, int], None]


def build_run(
    recording: Recording, *, dp_size: int | None = None, progress: Progress | None = None
) -> Run:
    """Rebuild the iterations of a recording.

    Args:
        recording: What the sources read.
        dp_size: DP ranks, where the user knows better than the log.
        progress: Called with events done and events in all.

    Returns:
        A run whose every part holds whole iterations. Where lock-step does not hold or the times
        do not suffice, events keep a null iteration and a warning says why.
    """
    size = dp_size or recording.engine.dp_size or 1
    parts = Parts(recording.events, spill=recording.num_events > KEPT_ROWS)
    state = _State(
        replace(recording, requests=choose_selections(recording.requests)),
        size,
        source=choose_source(recording),
    )
    done = 0
    for stretch in _stretches(parts.read_chunks(), state.source):
        parts.add(stretch, *state.rebuild(stretch))
        done += len(stretch)
        if progress:
            progress(done, recording.num_events)
    return Run(
        engine=recording.engine,
        files=recording.files,
        parts=parts,
        requests=recording.requests,
        decisions=recording.decisions,
        incidents=recording.incidents,
        warnings=(*recording.warnings, *state.warnings()),
        dp_size=state.dp_size,
        grouping=state.main_grouping(),
        counters=recording.counters,
        missing_ranks=state.missing_ranks,
    )


def _stretches(chunks: Iterable[pl.DataFrame], source: str) -> Iterator[pl.DataFrame]:
    """Regroup chunks into stretches that no iteration crosses.

    A stretch ends at the longest pause near its planned end, and never inside a label.
    """
    held: list[pl.DataFrame] = []
    rows = 0
    for chunk in chunks:
        held.append(chunk)
        rows += len(chunk)
        if rows < STRETCH_ROWS:
            continue
        frame = pl.concat(held)
        cut = _cut_at(frame, source)
        yield frame[:cut]
        held, rows = [frame[cut:]], len(frame) - cut
    if rows:
        yield pl.concat(held)


def _cut_at(frame: pl.DataFrame, source: str) -> int:
    grouped = np.flatnonzero((frame["source"] == source).to_numpy())
    if len(grouped) < 3:
        return len(frame)
    n = len(grouped)
    low = min(int(0.9 * n), n - 2)
    tail = frame[grouped[low:]]
    pause = np.diff(tail["ts"].dt.timestamp("ns").to_numpy())
    label = tail["forward_iter"].to_numpy().astype(float)
    run = tail["engine_run"].to_numpy().astype(float)
    with np.errstate(invalid="ignore"):
        key = np.where(np.isnan(label), -1.0, label) + run * 1e12
    # The barrier orders labels, so a cut is clean where all labels before are below all after.
    clean = np.maximum.accumulate(key)[:-1] < np.minimum.accumulate(key[::-1])[::-1][1:]
    plain = np.isnan(label[:-1]) & np.isnan(label[1:])
    score = np.where(clean | plain, pause, -1)
    return int(grouped[low + 1 + int(np.argmax(score))])


@dataclass
class _State:
    """What is carried from one stretch to the next."""

    recording: Recording
    dp_size: int
    source: str
    next_iteration: int = 0
    previous_end: dict[int, float] = field(default_factory=dict)
    heard: set[int] = field(default_factory=set)
    labels: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def rebuild(self, events: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
        """One stretch: column ``iteration`` of its events, and its iterations."""
        top = events["dp_rank"].max()
        if isinstance(top, int):
            self.dp_size = max(self.dp_size, top + 1)
        own = events.filter(pl.col("source") == self.source)
        self.heard.update(own["dp_rank"].unique().to_list())
        number = np.zeros(len(events), np.uint32)
        is_placed = np.zeros(len(events), np.bool_)
        frames = []
        runs = events["engine_run"].to_numpy()
        # Several sources may have seen the same batches; only one's may become iterations.
        grouped = (events["kind"] == "prefill") & (events["source"] == self.source)
        prefill = grouped.to_numpy()
        for run in np.unique(runs).tolist():
            at = np.flatnonzero((runs == run) & prefill)
            if not len(at):
                continue
            evidence = Evidence.of(events, at, self.recording, self.dp_size, run)
            labelled = np.flatnonzero(evidence.is_labelled)
            num_left = 0
            if 0 < len(labelled) < len(at) and self.source != "otel_spans":
                num_left = len(at) - len(labelled)
                at, evidence = at[labelled], evidence.take(labelled)
            grouping = self._group(evidence)
            if grouping is None:
                continue
            if num_left:
                self._note(
                    "prefill lines without a label stand beside labelled ones (two engines in one "
                    "log?); they were not put into iterations",
                    num_left,
                )
            frame, mine = self._lay_out(evidence, grouping, run)
            frames.append(frame)
            number[at[grouping.lines]] = mine
            is_placed[at[grouping.lines]] = True
        column = pl.Series("iteration", number)
        if not is_placed.all():
            nothing = pl.Series([None], dtype=pl.UInt32)
            column = column.zip_with(pl.Series(is_placed), nothing)
        return column, pl.concat([ITERATIONS.empty(), *frames])

    def _group(self, evidence: Evidence) -> Grouping | None:
        if evidence.lock_step is False and self.dp_size > 1:
            self._note(evidence.why_not, len(evidence))
            return None
        if self.source == "otel_spans":
            return group_by_spans(evidence, evidence.rows, self._note)
        if evidence.is_labelled.any():
            return group_by_label(evidence, np.arange(len(evidence)), self._note)
        return group_by_time(evidence, self._note)

    def _lay_out(
        self, evidence: Evidence, grouping: Grouping, run: int
    ) -> tuple[pl.DataFrame, NDArray[np.int64]]:
        """Rows of ``iterations`` for one grouping, and the iteration of each of its lines."""
        lines, block = grouping.lines, grouping.block
        t, tokens = grouping.t, evidence.tokens[lines]
        num = int(block.max()) + 1
        end = np.full(num, np.inf)
        np.minimum.at(end, block, t)
        order = np.argsort(end, kind="stable")
        place = np.empty(num, np.int64)
        place[order] = np.arange(num)
        block, end = place[block], end[order]
        confidence = grouping.confidence[order]
        selected = np.full(num, np.nan)
        np.fmin.at(selected, block, evidence.selection_of(lines, t, grouping.shift))
        width = np.bincount(block, minlength=num)
        total = np.bincount(block, weights=tokens, minlength=num)
        biggest = np.zeros(num)
        np.maximum.at(biggest, block, tokens)
        duration, how = measure_durations(
            end, selected, biggest, self.previous_end.get(run, np.nan)
        )
        self.previous_end[run] = float(end[-1])
        start = np.where(how == 0, np.fmax(selected, end - duration), end - duration)
        start = np.where((how == 0) & (selected <= end), selected, start)
        forward = np.full(num, np.nan)
        if grouping.forward is not None:
            forward[block] = grouping.forward
            if evidence.silent_is_idle:  # elsewhere decode passes take numbers too
                self._count_labels(run, forward)
        silent = self.dp_size - width
        # A rank of which nothing was read may be in a file that is missing.
        unheard = len(self.missing_ranks)
        unknown = np.minimum(silent, unheard) if evidence.silent_is_idle else silent
        first = self.next_iteration
        self.next_iteration += num
        self.counts[grouping.name] = self.counts.get(grouping.name, 0) + num
        base = evidence.origin_ns
        known = ~np.isnan(duration)
        frame = pl.DataFrame(
            {
                "iteration": np.arange(first, first + num),
                "engine_run": np.full(num, run),
                "forward_iter": pl.Series(forward).fill_nan(None).cast(pl.Int64),
                "start": _times(np.where(known, start, np.nan), base),
                "end": _times(end, base),
                "duration": pl.Series(duration * 1e9).fill_nan(None).cast(pl.Int64),
                "duration_source": pl.Series(
                    np.array(DURATION_SOURCES)[how].tolist(), dtype=pl.String
                ),
                "grouping": [grouping.name] * num,
                "confidence": confidence,
                "dp_size": np.full(num, self.dp_size),
                "fusion_width": width,
                "num_idle_ranks": silent - unknown,
                "num_unknown_ranks": unknown,
                "num_new_tokens": total,
                "max_rank_new_tokens": biggest,
            }
        ).with_columns(
            pl.when(pl.Series(known)).then(pl.col("duration_source")).alias("duration_source")
        )
        return ITERATIONS.conform(frame), first + block

    def __post_init__(self) -> None:
        # Another source that knows a rank does not bring back the lines of it that are missing.
        said = self.recording
        for table in (said.requests, said.decisions):
            mine = table.filter(pl.col("source") == self.source)["dp_rank"]
            self.heard.update(mine.drop_nulls().unique().to_list())
        if self.source == "scheduler_log":
            self.heard.update(x.dp_rank for x in said.incidents if x.dp_rank is not None)
            self.heard.update(said.seen_ranks)

    @property
    def missing_ranks(self) -> tuple[int, ...]:
        """DP ranks of which nothing was read."""
        return tuple(sorted(set(range(self.dp_size)) - self.heard))

    def _count_labels(self, run: int, forward: F64) -> None:
        """Keep first, last and number of labels of an engine run, to see the holes at the end."""
        mine = np.unique(forward[~np.isnan(forward)])
        if not len(mine):
            return
        low, high, num = self.labels.get(run, (int(mine[0]), int(mine[-1]), 0))
        self.labels[run] = (min(low, int(mine[0])), max(high, int(mine[-1])), num + len(mine))

    def _note(self, text: str, num_lines: int) -> None:
        self.notes[text] = self.notes.get(text, 0) + num_lines

    def warnings(self) -> tuple[str, ...]:
        """One line for each kind of trouble, with the lines it touched."""
        silent = self.missing_ranks
        if silent and self.counts:
            its = "its" if len(silent) == 1 else "their"
            self._note(
                f"nothing was read of DP {name_ranks(silent)}: a missing file, or a rank without a "
                f"single request; {its} passes are counted as unknown, not idle", 0,
            )  # fmt: skip
        holes = sum(high - low + 1 - num for low, high, num in self.labels.values())
        if holes > 0:
            self._note(
                f"{holes} iteration labels between the first and the last have no line: lines or "
                "files are missing", 0,
            )  # fmt: skip
        return tuple(f"{text} ({n} lines)" if n else text for text, n in self.notes.items())

    def main_grouping(self) -> str:
        """The evidence behind most iterations."""
        return max(self.counts, key=lambda k: self.counts[k]) if self.counts else "none"


def _times(seconds: F64, base_ns: int) -> pl.Series:
    """Seconds since base → nanosecond times; nan becomes null."""
    return (
        (pl.Series(np.round(seconds * 1e9)).fill_nan(None).cast(pl.Int64) + base_ns)
        .cast(pl.Datetime("ns"))
        .dt.replace_time_zone("UTC")
    )
