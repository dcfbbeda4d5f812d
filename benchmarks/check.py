"""Whether the gate is to be believed: false alarms and detections over many simulated checks.

check.py [--trials N]  - for each load (the recorded one of two GPUs and of four emulated ranks, and
the default one of ``simulate``) simulates many repeats of one engine with what varies between real
repeats, and many of an engine that lost a tenth of its fused iterations or is 5 % slower. Then
checks are made of runs drawn from them:

* alike against alike: how many fail, though nothing changed;
* worse against alike, with as many runs as the gate itself says are needed: how many fail.

Then recorded repeats of one setting are mixed block by block and checked against each other.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import pdtrace  # noqa: E402
from pdtrace.check.cutting import cut_requests, find_blocks  # noqa: E402
from pdtrace.check.judge import Case, choose_measures, judge_cases, plan  # noqa: E402
from pdtrace.check.measures import FEATURES  # noqa: E402
from pdtrace.check.records import build_record  # noqa: E402
from pdtrace.check.rules import TIERS  # noqa: E402
from pdtrace.check.samples import Pool, Sample, Sketch, Workload, round_to  # noqa: E402
from pdtrace.check.verdicts import Verdict  # noqa: E402
from pdtrace.compare.matching import Requests  # noqa: E402
from pdtrace.delayer.replay import fit_engine  # noqa: E402
from pdtrace.delayer.rules import rules_for  # noqa: E402
from pdtrace.simulate.engine import Engine  # noqa: E402
from pdtrace.simulate.records import EngineSettings, Request  # noqa: E402
from pdtrace.simulate.timing import Timing, assume_timing, fit_timing  # noqa: E402
from pdtrace.simulate.workload import (  # noqa: E402
    LoadSettings,
    make_requests,
    replay_arrivals,
)
from pdtrace.sources.joining import join_requests  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pdtrace.simulate.records import Outcome

# What varies between repeats. Recorded repeats differ by 2.4 to 3.6 % in mean latency, their delay
# passes in length by about a tenth, and each has a few stalls of a second.
SPEED_SPREAD = 0.02
TURN_SPREAD = 0.10
ARRIVAL_SPREAD_S = 0.001
MEAN_STALLS = 4
LOST = 0.1
SLOWER = 0.05


@dataclass(frozen=True)
class Scene:
    """A load on an engine.

    Attributes:
        name: For the table.
        requests: The load.
        settings: The engine.
        timing: Its durations.
        workload: The load in blocks.
        blocks: Of each request.
    """

    name: str
    requests: list[Request]
    settings: EngineSettings
    timing: Timing
    workload: Workload
    blocks: np.ndarray


def build_scene(
    name: str, requests: list[Request], settings: EngineSettings, timing: Timing
) -> Scene:
    """Cut a load into blocks, as reading its recording would."""
    sent = np.array([r.arrival - r.lead for r in requests])
    nothing = np.full(len(requests), np.nan)
    tokens = np.array([r.tokens for r in requests], np.float64)
    known = Requests(
        rid=[r.rid for r in requests],
        tokens=tokens,
        rank=nothing,
        sent=sent,
        answered=nothing,
        arrived=nothing,
        received=nothing,
        selected=nothing,
        forward_end=nothing,
        finished=nothing,
        begin=sent,
        end=nothing,
        is_finished=np.ones(len(requests), np.bool_),
        num_internal=0,
    )
    workload = cut_requests(known)
    return Scene(name, requests, settings, timing, workload, find_blocks(known, workload))


def list_scenes(names: Sequence[str]) -> Iterator[Scene]:
    """The loads that are checked."""
    for name in names:
        if name == "simulated":
            settings = LoadSettings(num_requests=640, dp_size=4)
            requests = make_requests(settings, np.random.default_rng(7))
            engine = EngineSettings(4, 8192, 312_560.0, rules_for("0.5.13"), 30)
            yield build_scene("simulated, 4 ranks", requests, engine, assume_timing(4))
            continue
        run = pdtrace.load(ROOT / "sample_logs" / name)
        model = fit_engine(run, join_requests(run.requests))
        engine = EngineSettings(model.num_ranks, int(model.chunk), model.pool, model.rules, 30)
        yield build_scene(
            f"{name}, its load",
            replay_arrivals(model.load, None),
            engine,
            fit_timing(model, model.num_ranks),
        )


def simulate(
    scene: Scene, seed: int, *, slower: float = 0.0, lost: float = 0.0, spread: float = SPEED_SPREAD
) -> Sample:
    """One repeat, as the gate sees it; ``spread``: of the host's speed between repeats."""
    rng = np.random.default_rng([seed, round(slower * 1000), round(lost * 1000)])
    speed = float(np.exp(rng.normal(0, spread))) * (1 + slower)
    turn = float(np.exp(rng.normal(0, TURN_SPREAD)))
    t = scene.timing
    timing = replace(
        t,
        **{
            key: getattr(t, key) * speed
            for key in ("floor", "base", "per_ktoken", "per_msquare", "shared_per_ktoken",
                        "idle_launch", "taking", "launching", "processing", "asynchronous")
        },
        delayed_turn=t.delayed_turn * turn,
        empty_turn=t.empty_turn * turn,
        recorded_excess=None if t.recorded_excess is None else t.recorded_excess * speed,
        recorded_idle=None if t.recorded_idle is None else t.recorded_idle * speed,
    )  # fmt: skip
    late = rng.exponential(ARRIVAL_SPREAD_S, len(scene.requests))
    requests = [
        replace(q, arrival=q.arrival + float(d)) for q, d in zip(scene.requests, late, strict=True)
    ]
    order = np.argsort([q.arrival for q in requests], kind="stable")
    outcome = Engine(
        [requests[i] for i in order], scene.settings, timing, np.random.default_rng(seed + 10**6)
    ).run()
    return sample_outcome(scene, outcome, scene.blocks[order], rng, lost)


def sample_outcome(
    scene: Scene, outcome: Outcome, blocks: np.ndarray, rng: np.random.Generator, lost: float
) -> Sample:
    """What an engine did, block by block; a share of its fused iterations taken apart."""
    num, size = scene.workload.num_blocks, scene.settings.dp_size
    counts = np.zeros((num, len(FEATURES)))
    at = {name: k for k, name in enumerate(FEATURES)}
    longer = np.zeros(len(outcome.journeys))
    fused = [one.number for one in outcome.passes if len(one.batches) > 1]
    apart = set(rng.choice(fused, round(lost * len(fused)), replace=False).tolist())
    index = {id(journey): k for k, journey in enumerate(outcome.journeys)}
    for one in outcome.passes:
        members = {r: [index[id(j)] for j in batch.members] for r, batch in one.batches.items()}
        block = int(blocks[min(i for batch in members.values() for i in batch)])
        if block < 0:
            continue
        ranks = sorted(one.batches)
        parts = [ranks]
        if one.number in apart:
            cut = int(rng.integers(1, len(ranks)))
            parts = [ranks[:cut], ranks[cut:]]
            for i in (i for r in parts[1] for i in members[r]):
                longer[i] += one.duration
        for part in parts:
            row = counts[block]
            row[at["iterations"]] += 1
            row[at["solo"]] += float(len(part) == 1)
            row[at["prefills"]] += len(part)
            row[at["idle"]] += size - len(part)
            row[at["known"]] += size
            row[at["busy_s"]] += one.duration
            row[at["busy_tokens"]] += sum(one.batches[r].tokens for r in part)
            row[at["idle_s"]] += (size - len(part)) * one.duration
            row[at["rank_s"]] += size * one.duration
    ends = np.array([j.finished if j.finished is not None else np.nan for j in outcome.journeys])
    begins = np.array([j.request.arrival - j.request.lead for j in outcome.journeys])
    took = ends + longer - begins
    told = np.isfinite(took) & (blocks >= 0)
    usable = counts[:, 0] > 0
    usable[rng.integers(0, num, rng.poisson(MEAN_STALLS))] = False
    return Sample(
        counts=round_to(counts),
        is_usable=usable,
        unanswered=np.zeros(num),
        span_s=np.zeros(num),
        sketches={"request_latency": Sketch.of(took[told], blocks[told])},
    )


def build_cases(scene_workload: Workload, base: list[Sample], test: list[Sample]) -> list[Case]:
    """What one check judges."""
    pools = (Pool.of(tuple(base)), Pool.of(tuple(test)))
    return choose_measures(pools, (scene_workload, scene_workload), TIERS)


def has_failed(cases: list[Case], tier: str | None = None) -> bool:
    """Whether a check of these fails."""
    return any(f.verdict is Verdict.FAIL and tier in (None, f.tier) for f in judge_cases(cases))


def wilson(hits: int, num: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    z, p = 1.96, hits / num
    middle = (p + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * math.sqrt(p * (1 - p) / num + z * z / (4 * num * num))
    return max(0.0, middle - half), min(1.0, middle + half)


def print_share(what: str, hits: int, num: int) -> None:
    """One row."""
    low, high = wilson(hits, num)
    print(f"  {what:56} {hits:5d} of {num:5d} = {hits / num:6.1%} (95 %: {low:.1%} to {high:.1%})")


def check_scene(
    scene: Scene, *, num_trials: int, num_runs: int, spread: float = SPEED_SPREAD
) -> dict[str, tuple[int, int]]:
    """All checks of one load.

    Args:
        scene: The load.
        num_trials: Checks of each kind.
        num_runs: Repeats to simulate of each engine; each check draws among them.
        spread: Of the host's speed between repeats.

    Returns:
        What was tried → hits, and trials.
    """
    rng = np.random.default_rng(11)
    banks = {
        "alike": [simulate(scene, k, spread=spread) for k in range(num_runs)],
        "lost": [simulate(scene, 10_000 + k, lost=LOST, spread=spread) for k in range(num_runs)],
        "slower": [
            simulate(scene, 20_000 + k, slower=SLOWER, spread=spread) for k in range(num_runs)
        ],
    }

    def draw(bank: str, n: int) -> list[Sample]:
        return [banks[bank][i] for i in rng.choice(num_runs, n, replace=False)]

    out: dict[str, tuple[int, int]] = {}
    for size in (1, 3, 5):
        hits = 0
        for _ in range(num_trials):
            both = draw("alike", 2 * size)
            hits += has_failed(build_cases(scene.workload, both[:size], both[size:]))
        out[f"alike, {size} against {size}: failed"] = (hits, num_trials)
    for k, (bank, tier) in enumerate((("lost", "A"), ("slower", "B"))):
        hits, needed = 0, []
        for _ in range(num_trials):
            both = draw("alike", 2)
            n = plan(build_cases(scene.workload, both[:1], both[1:]))[k]
            n = num_runs if n is None else min(n, num_runs)
            needed.append(n)
            cases = build_cases(scene.workload, draw("alike", n), draw(bank, n))
            hits += has_failed(cases, tier)
        what = "a tenth of the fused lost" if bank == "lost" else "5 % slower"
        runs = f"{min(needed)} to {max(needed)}" if min(needed) < max(needed) else str(needed[0])
        out[f"{what}, {runs} runs each: failed"] = (hits, num_trials)
    return out


def check_mixed(pair: tuple[str, str], num_trials: int) -> tuple[int, int]:
    """Recorded repeats of one setting, their blocks dealt anew to both sides."""
    first = build_record(pdtrace.load(ROOT / "sample_logs" / pair[0]), pair[0])
    second = build_record(pdtrace.load(ROOT / "sample_logs" / pair[1]), pair[1], first.workload)
    samples = (first.sample, second.sample)
    usable = samples[0].is_usable & samples[1].is_usable
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(num_trials):
        swap = rng.random(len(usable)) < 0.5
        sides = [_mix(samples, swap, usable), _mix(samples, ~swap, usable)]
        hits += has_failed(build_cases(first.workload, sides[:1], sides[1:]))
    return hits, num_trials


def _mix(samples: tuple[Sample, Sample], swap: np.ndarray, usable: np.ndarray) -> Sample:
    a, b = samples
    sketches = {}
    for name in a.sketches.keys() & b.sketches.keys():
        x, y = a.sketches[name], b.sketches[name]
        mine, theirs = ~swap[x.blocks], swap[y.blocks]
        sketches[name] = Sketch(
            np.concatenate([x.values[mine], y.values[theirs]]),
            np.concatenate([x.blocks[mine], y.blocks[theirs]]),
            np.concatenate([x.weights[mine], y.weights[theirs]]),
        )
    counts = np.where(swap[:, None], b.counts, a.counts)
    return Sample(counts, usable, a.unanswered, a.span_s, sketches)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200, help="checks of each kind")
    parser.add_argument("--runs", type=int, default=60, help="repeats simulated of each engine")
    parser.add_argument(
        "--loads", nargs="+", default=["h100x2-on", "cpu-dp4-on", "simulated"], help="which loads"
    )
    parser.add_argument(
        "--spread", type=float, default=SPEED_SPREAD, help="of the host's speed between repeats"
    )
    args = parser.parse_args()
    for scene in list_scenes(args.loads):
        start = time.perf_counter()
        found = check_scene(scene, num_trials=args.trials, num_runs=args.runs, spread=args.spread)
        took = time.perf_counter() - start
        print(f"{scene.name}: {len(scene.requests):,} requests, {took:.0f} s")
        for what, (hits, num) in found.items():
            print_share(what, hits, num)
    print("recorded repeats, blocks dealt anew")
    for pair in (("h100x2-off", "h100x2-off-crash"), ("cpu-dp4-on", "cpu-dp4-on-defaultlog")):
        print_share(f"{pair[0]} and {pair[1]}: failed", *check_mixed(pair, args.trials))


if __name__ == "__main__":
    main()
