"""Which neighbouring lines belong to one iteration, when no label says so.

Every pass is a barrier, so all lines of an iteration precede all lines of the next: the task is to
cut the time-sorted lines into blocks of distinct ranks. A semi-Markov model is learned from the
log at hand by expectation-maximisation, from several starting guesses; their posteriors are
averaged by evidence, and the cut with the most blocks expected to be exactly right is taken. The
posterior of a block is its confidence. ``docs/method.md`` derives the model.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pdtrace.iterations import densities as den
from pdtrace.iterations import factors, kernel
from pdtrace.iterations.scales import pass_scales, shortest_pass

F64 = NDArray[np.float64]
I32 = NDArray[np.int32]

SPAN = 3.0  # longest spread of one iteration's lines, in shortest passes
# Starting guesses of a typical pass, in shortest passes; of ranks that take turns, the shortest gap
# is that of several passes.
STARTS = (0.35, 0.7, 1.0, 1.4)
LEARN_LINES = 4000
LEARN_STRETCHES = 4
WINDOW_LINES = 20_000
LOCAL_LINES = 25  # the composition of traffic is learned from this many lines either side
LOCAL_WEIGHT = 6.0  # pseudo-counts of the whole log in it
EVIDENCE_TEMPERATURE = 8.0  # neighbouring lines are not independent, so evidence is overstated
CONFIDENCE_CAP = 0.995  # no posterior of a learned model deserves more


@dataclass(frozen=True)
class Lines:
    """Time-sorted prefill lines of one engine run.

    Attributes:
        t: Time of each line in seconds, ascending, n values.
        rank: DP rank of each line.
        tokens: New tokens of each line.
        must: The rank is certain to run again in the very next pass (an unfinished chunk).
        selection: Selection time of its requests in seconds on the clock of ``t``; nan if unknown.
        window: Seconds by which ``t`` may be off, the same for all ranks or not; 0 if as stamped.
    """

    t: F64
    rank: NDArray[np.int64]
    tokens: F64
    must: NDArray[np.bool_]
    selection: F64
    window: F64

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, at: slice | NDArray[np.int64]) -> Lines:
        return Lines(
            self.t[at], self.rank[at], self.tokens[at], self.must[at], self.selection[at],
            self.window[at],
        )  # fmt: skip


@dataclass(frozen=True)
class Segmentation:
    """Blocks of lines: line i belongs to block ``block[i]``, right with ``confidence[block]``."""

    block: NDArray[np.int64]
    confidence: F64


@dataclass
class _Model:
    """One starting guess and what was learned from it."""

    scale_name: str
    num_kinds: int
    pass_s: float
    idle_s: float
    priors: den.Priors
    reference: F64
    log_gap: F64
    log_skew: F64
    log_selection: F64
    log_broken: float = -5.0
    kind_share: F64 | None = None
    size_share: F64 | None = None
    evidence: float = -np.inf


def neighbours(rank: NDArray[np.int64]) -> tuple[I32, I32]:
    """Index of the line of the same rank before and after each line (-1 and NEVER at the ends)."""
    n = len(rank)
    before = np.full(n, -1, np.int32)
    after = np.full(n, factors.NEVER, np.int32)
    order = np.argsort(rank, kind="stable").astype(np.int32)
    same = rank[order[1:]] == rank[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    after[order[:-1][same]] = order[1:][same]
    return before, after


def _weighted_median(value: F64, weight: F64, prior: float, prior_weight: float) -> float:
    v = np.append(value, prior)
    o = np.argsort(v)
    c = np.cumsum(np.append(weight, prior_weight)[o])
    return float(v[o][np.searchsorted(c, c[-1] / 2)])


def _around(x: F64) -> F64:
    """Sum of x over the lines around each, leaving out its own."""
    n = len(x)
    c = np.concatenate([np.zeros((1, *x.shape[1:])), np.cumsum(x, 0)])
    i = np.arange(n)
    low, high = np.maximum(0, i - LOCAL_LINES), np.minimum(n, i + LOCAL_LINES + 1)
    out: F64 = c[high] - c[low] - x
    return out


def _compositions(post: F64, kinds: F64) -> tuple[F64, F64]:
    """Expected number of (kind before, kind) and of (length, kind), none of them nought."""
    return kinds.sum(0) + 1.0, post.sum(0) + 0.5


class _Stretch:
    """The arrays of one stretch of lines that do not change while learning."""

    def __init__(self, lines: Lines, scale: F64, num_ranks: int, span_max: float) -> None:
        before, after = neighbours(lines.rank)
        same = np.flatnonzero(before >= 0)
        gaps = lines.t[same] - lines.t[before[same]]
        self.t, self.after = np.ascontiguousarray(lines.t), after
        self.floor = 0.85 * max(float(gaps.min()), 1e-3) if len(gaps) else 0.0
        self.count, latest, big, first, last, num = factors.find_blocks(
            self.t, before, after, lines.must, scale, lines.selection, lines.window, num_ranks,
            span_max,
        )  # fmt: skip
        # Trim to the longest block there is, so that the states stay few.
        self.m = m = max(int(self.count.max()), 1)
        trim = np.ascontiguousarray
        self.blk = (
            trim(latest[:, :m]), trim(big[:, :m]), trim(first[:, :m]), trim(last[:, :m]),
            trim(num[:, :m]),
        )  # fmt: skip

    def run(self, model: _Model, lp: F64) -> tuple[float, F64, F64, F64, F64, F64, F64, F64]:
        # Where no rank runs twice in a row, its shortest gap is that of two passes.
        floor = min(self.floor, 0.5 * model.pass_s)
        par = np.array([model.pass_s, model.idle_s, floor, model.log_broken, 7.0, 0.4, 5.0])
        return kernel.forward_backward(
            self.t, self.after, self.count, self.blk, model.log_gap, model.log_skew,
            model.log_selection, lp, par, model.reference, model.num_kinds,
        )  # fmt: skip

    def flat_prior(self, model: _Model) -> F64:
        """Log prior of (kind before, kind, length) before anything local is known."""
        n = len(self.t)
        if model.kind_share is None or model.size_share is None:
            return np.full((n, 2, 2, self.m), np.log(0.5 / self.m))
        size = np.full((self.m, 2), 1e-3)
        k = min(self.m, len(model.size_share))
        size[:k] += model.size_share[:k]
        size /= size.sum(0)
        one = np.log(model.kind_share)[:, :, None] + np.log(size).T[None]
        return np.ascontiguousarray(np.broadcast_to(one, (n, 2, 2, self.m)))

    def local_prior(self, model: _Model, post: F64, kinds: F64) -> F64:
        """Log prior from the composition of the traffic around each line."""
        kind_sum, size_sum = _compositions(post, kinds)
        kind = _around(kinds) + LOCAL_WEIGHT * (kind_sum / kind_sum.sum())[None]
        kind /= kind.sum(2, keepdims=True)
        size = _around(post) + LOCAL_WEIGHT * (size_sum / size_sum.sum())[None]
        size /= size.sum(1, keepdims=True)
        log_size = np.log(size).transpose(0, 2, 1)[:, None, :, :]
        if model.num_kinds == 1:
            return np.ascontiguousarray(np.broadcast_to(log_size, (len(post), 2, 2, self.m)))
        return np.ascontiguousarray(np.log(kind)[:, :, :, None] + log_size)


class _Learner:
    """Expectation-maximisation of one model on one stretch, resumable round by round."""

    def __init__(self, stretch: _Stretch, model: _Model) -> None:
        self.stretch, self.model = stretch, model
        self.start_pass, self.start_idle = model.pass_s, model.idle_s
        self.lp = stretch.flat_prior(model)
        self.post: F64 = np.empty(0)
        self.rounds = 0
        self.settled = False

    def learn(self, rounds: int) -> None:
        """Run up to that many more rounds; stop when the evidence settles."""
        model = self.model
        for _ in range(rounds):
            if self.settled:
                return
            z, post, gaps, skews, selections, kinds, broken, samples = self.stretch.run(
                model, self.lp
            )
            model.log_gap = model.priors.log_gap(gaps)
            model.log_skew = model.priors.log_skew(skews)
            model.log_selection = model.priors.log_selection(selections)
            model.log_broken = float(np.log((broken[0] + 0.5) / (broken[1] + 10.5)))
            if model.num_kinds == 2 and 1 <= self.rounds < 12:
                real = samples[:, 0] == 0
                model.pass_s = _weighted_median(
                    samples[real, 1], samples[real, 2], self.start_pass, 5.0
                )
                idle = _weighted_median(samples[~real, 1], samples[~real, 2], self.start_idle, 5.0)
                model.idle_s = min(idle, 0.9 * model.pass_s)
            self.lp = self.stretch.local_prior(model, post, kinds)
            kind_sum, size_sum = _compositions(post, kinds)
            model.kind_share = kind_sum / kind_sum.sum(1, keepdims=True)
            model.size_share = size_sum / size_sum.sum(0)
            self.settled = self.rounds > 12 and abs(z - model.evidence) < 0.05
            model.evidence, self.post = float(z), post.sum(2)
            self.rounds += 1


def _starting_models(
    lines: Lines, typical_s: float, *, before_launch: bool
) -> list[tuple[_Model, F64]]:
    models = []
    for name, scale in pass_scales(lines.tokens).items():
        # Through 0.5.8 lines are printed before the launch: there is no inner kind.
        for num_kinds, starts in ((1, (1.0,)), (2, () if before_launch else STARTS)):
            for start in starts:
                pass_s = start * typical_s
                reference = den.reference_gaps(pass_s, 0.6 * pass_s)
                priors = den.Priors(reference, before_launch=before_launch)
                model = _Model(
                    name, num_kinds, pass_s, 0.6 * pass_s, priors, reference,
                    priors.log_gap(np.zeros((den.NUM_GAP, den.NUM_BINS))),
                    priors.log_skew(np.zeros((den.NUM_SKEW, den.NUM_BINS))),
                    priors.log_selection(np.zeros((den.NUM_SELECTION, den.NUM_BINS))),
                )  # fmt: skip
                models.append((model, scale))
    return models


def learning_lines(lines: Lines, typical_s: float) -> Lines:
    """All lines, or a few stretches of a long log laid end to end with a pause between."""
    n = len(lines)
    if n <= LEARN_LINES:
        return lines
    size = LEARN_LINES // LEARN_STRETCHES
    starts = np.linspace(0, n - size, LEARN_STRETCHES).astype(int)
    parts, shift = [], 0.0
    for s in starts:
        part = lines[s : s + size]
        offset = shift - part.t[0]
        goes_on = neighbours(part.rank)[1] < factors.NEVER  # not into the next stretch
        parts.append(
            Lines(part.t + offset, part.rank, part.tokens, part.must & goes_on,
                  part.selection + offset, part.window)
        )  # fmt: skip
        shift = float(parts[-1].t[-1]) + 40 * typical_s
    return Lines(
        *(np.concatenate([getattr(p, f) for p in parts])
          for f in ("t", "rank", "tokens", "must", "selection", "window"))
    )  # fmt: skip


def segment(lines: Lines, num_ranks: int, *, before_launch: bool = False) -> Segmentation:
    """Cut time-sorted lines into iterations.

    Args:
        lines: Of one engine run.
        num_ranks: DP ranks of the engine.
        before_launch: Lines are printed before the launch (releases through 0.5.8).

    Returns:
        Blocks in order of time, with calibrated confidence.
    """
    n = len(lines)
    if n == 0:
        return Segmentation(np.empty(0, np.int64), np.empty(0))
    if num_ranks == 1:
        return Segmentation(np.arange(n), np.ones(n))
    typical_s = shortest_pass(lines.t, lines.rank)
    span_max = SPAN * typical_s
    sample = learning_lines(lines, typical_s)
    learners = [
        _Learner(_Stretch(sample, scale, num_ranks, span_max), model)
        for model, scale in _starting_models(sample, typical_s, before_launch=before_launch)
    ]
    with ThreadPoolExecutor(2) as pool:
        # Most starting guesses lose early and by far.
        for rounds, keep in ((4, 8), (6, 5), (20, 5)):
            list(pool.map(lambda x, r=rounds: x.learn(r), learners))
            learners = _distinct(sorted(learners, key=lambda x: -x.model.evidence))[:keep]
        weight = _evidence_weights(learners)
        if sample is lines:
            post = _average([x.post for x in learners], weight)
            return _decide([post])
        chosen = [(x.model, w) for x, w in zip(learners, weight, strict=True) if w >= 0.05][:2]
        cuts = _quiet_cuts(lines.t)
        scales = pass_scales(lines.tokens)
        return _decide(
            pool.map(
                lambda cut: _posterior(
                    lines[slice(*cut)],
                    {k: v[slice(*cut)] for k, v in scales.items()},
                    chosen,
                    num_ranks,
                    span_max,
                ),
                cuts,
            )
        )


def quick_evidence(lines: Lines, num_ranks: int) -> float:
    """Log evidence of a choice of clock offsets: one model, a few rounds."""
    typical_s = shortest_pass(lines.t, lines.rank)
    model, scale = _starting_models(lines, typical_s, before_launch=False)[2]
    learner = _Learner(_Stretch(lines, scale, num_ranks, SPAN * typical_s), model)
    learner.learn(6)
    return learner.model.evidence


def _distinct(learners: list[_Learner]) -> list[_Learner]:
    """Without those that learned what another did: prompts of one length give all scales one shape.

    Copies would crowd out other guesses, and count one guess several times.
    """
    found: dict[tuple[int, float, float], _Learner] = {}
    for x in learners:
        model = x.model
        found.setdefault((model.num_kinds, round(x.start_pass, 6), round(model.evidence, 1)), x)
    return list(found.values())


def _evidence_weights(learners: list[_Learner]) -> F64:
    z = np.array([x.model.evidence for x in learners])
    w = np.exp((z - z.max()) / EVIDENCE_TEMPERATURE)
    out: F64 = w / w.sum()
    return out


def _average(posts: list[F64], weight: F64) -> F64:
    out = np.zeros_like(posts[0])
    for w, p in zip(weight, posts, strict=True):
        out += w * p
    return out


def _quiet_cuts(t: F64) -> list[tuple[int, int]]:
    """Windows of a long log, cut where the pause between lines is longest."""
    cuts, start, n = [], 0, len(t)
    while n - start > 1.5 * WINDOW_LINES:
        low, high = start + int(0.9 * WINDOW_LINES), start + int(1.1 * WINDOW_LINES)
        cut = low + 1 + int(np.argmax(np.diff(t[low:high])))
        cuts.append((start, cut))
        start = cut
    return [*cuts, (start, n)]


def _posterior(
    lines: Lines,
    scales: dict[str, F64],
    chosen: list[tuple[_Model, float]],
    num_ranks: int,
    span_max: float,
) -> F64:
    posts = []
    for model, _ in chosen:
        stretch = _Stretch(lines, scales[model.scale_name], num_ranks, span_max)
        _, post, _, _, _, kinds, _, _ = stretch.run(model, stretch.flat_prior(model))
        lp = stretch.local_prior(model, post, kinds)
        posts.append(stretch.run(model, lp)[1].sum(2))
    weight = np.array([w for _, w in chosen])
    return _average(posts, weight / weight.sum())


def _decide(posts: Iterable[F64]) -> Segmentation:
    blocks, confidences, first = [], [], 0
    for post in posts:
        back = kernel.decode(post)
        lengths: list[int] = []
        at = len(post)
        while at > 0:
            lengths.append(int(back[at]))
            at -= lengths[-1]
        lengths.reverse()
        size = np.array(lengths)
        start = np.concatenate([[0], np.cumsum(size)[:-1]])
        blocks.append(np.repeat(np.arange(first, first + len(size)), size))
        confidences.append(np.minimum(post[start, size - 1], CONFIDENCE_CAP))
        first += len(size)
    return Segmentation(np.concatenate(blocks), np.concatenate(confidences))
