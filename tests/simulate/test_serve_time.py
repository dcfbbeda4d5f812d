"""The time line of a served engine: reckoned, so a busy machine does not change it."""

from __future__ import annotations

import threading
import time

import numpy as np
import polars as pl
import pytest

import pdtrace
from pdtrace.delayer.rules import rules_for
from pdtrace.errors import UsageError
from pdtrace.simulate.engine import Engine
from pdtrace.simulate.records import EngineSettings, Request
from pdtrace.simulate.serve.clock import Clock
from pdtrace.simulate.serve.frontend import Frontend, FrontTiming, Passage, fit_front
from pdtrace.simulate.serve.lateness import Lateness
from pdtrace.simulate.serve.prompts import BadRequestError, Body, Prompt, Router
from pdtrace.simulate.serve.scheduler import Scheduler, Ticket
from pdtrace.simulate.settings import Launch
from pdtrace.simulate.timing import assume_timing
from pdtrace.sources.joining import join_requests
from tests.simulate.serving import ROOT


class CoarseClock(Clock):
    """A clock by which a thread gets its turn only every so often, as on a machine that is busy."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def now(self):
        """Seconds, rounded down to a step."""
        return super().now() // self.step * self.step


def take_turns(clock, requests, settings, timing):
    """Passes and finish times of an engine that is driven in real time."""
    done, errors, told = threading.Semaphore(0), [], []
    engine = Engine([], settings, timing, np.random.default_rng(3))
    scheduler = Scheduler(
        engine, clock, FrontTiming(), np.random.default_rng(0), told.append, errors.append
    )
    tickets = [
        Ticket(
            Prompt(q.rid, q.tokens, q.rank, 0), Passage(0, 0, 0, 0, 0, q.arrival),
            lambda ticket: done.release(),
        )
        for q in requests
    ]  # fmt: skip
    scheduler.submit(tickets)
    scheduler.start()
    for _ in tickets:
        assert done.acquire(timeout=30)
    scheduler.stop()
    assert errors == []
    passes = [one for progress in told for one in progress.outcome.passes]
    untils = [progress.until for progress in told]
    assert untils == sorted(untils)
    return passes, {t.prompt.rid: t.journey.finished for t in tickets}, scheduler.delays


@pytest.mark.parametrize("step", [1e-6, 0.05])
@pytest.mark.parametrize("limit", [None, 30])
def test_turns_are_those_of_simulated_time(step, limit):
    """Passes and finish times are the very numbers of a run without any waiting."""
    rng = np.random.default_rng(1)
    at = 0.3 + np.cumsum(rng.exponential(0.01, 60))
    requests = [
        Request(f"r-{k}", int(rng.integers(4)), int(rng.integers(1, 9000)), float(t))
        for k, t in enumerate(at)
    ]
    settings = EngineSettings(4, 4096, 1e6, rules_for("0.5.13"), max_delay_passes=limit)
    timing = assume_timing(4).scale(0.05)
    alone = Engine(requests, settings, timing, np.random.default_rng(3)).run()
    passes, finished, delays = take_turns(CoarseClock(step), requests, settings, timing)
    assert [(p.launched, p.done, sorted(p.batches)) for p in passes] == [
        (p.launched, p.done, sorted(p.batches)) for p in alone.passes
    ]
    assert finished == {j.request.rid: j.finished for j in alone.journeys}
    assert delays.answers.num == len(requests)
    if step == 0.05:
        assert delays.answers.max_s > 0.001


def test_answers_come_at_their_time():
    """On a machine that is not overloaded an answer is a few milliseconds late at most."""
    settings = EngineSettings(2, 4096, 1e6, rules_for("0.5.13"))
    requests = [Request(f"r-{k}", k % 2, 100, 0.3 + 0.02 * k) for k in range(30)]
    _, _, delays = take_turns(Clock(), requests, settings, assume_timing(2).scale(0.05))
    assert delays.answers.find_quantile(0.5) < 0.005


def test_simultaneous_posts_reach_their_ranks_one_after_the_other():
    """One API server reads them: the second waits for the first, a later one does not."""
    timing = FrontTiming()
    front = Frontend(timing)
    first, second = (front.admit(1.0, [8192])[0] for _ in range(2))
    apart = timing.parsing + timing.dispatching + 8192 * (
        timing.parsing_token + timing.dispatching_token
    )  # fmt: skip
    assert second.arrival - first.arrival == pytest.approx(apart)
    later = front.admit(2.0, [8192])[0]
    assert later.arrival - 2.0 == pytest.approx(first.arrival - 1.0)
    names = ("received", "tokenized", "dispatched", "routing", "routed", "arrival")
    times = [getattr(first, name) for name in names]
    assert times == sorted(times)


def test_prompts_of_one_post_are_read_together():
    """They are a dispatch apart, not a parse."""
    timing = FrontTiming()
    ways = Frontend(timing).admit(0.0, [100, 100, 100])
    gaps = np.diff([way.arrival for way in ways])
    assert gaps == pytest.approx([timing.dispatching + 100 * timing.dispatching_token] * 2)


def test_the_way_to_the_ranks_is_fitted_to_a_recording():
    """From sending to arrival as long as recorded, for short and for long prompts."""
    requests = join_requests(pdtrace.load(ROOT / "sample_logs" / "h100x2-on").requests)
    timing = fit_front(requests)
    assert timing != FrontTiming()
    rows = requests.drop_nulls(["sent", "routed"])
    for low, high in ((200, 1500), (3000, 5000), (8192, 8193)):
        some = rows.filter(pl.col("num_prompt_tokens").is_between(low, high, closed="left"))
        took = ((some["routed"] - some["sent"]).dt.total_nanoseconds() / 1e9).median()
        way = Frontend(timing).admit(0.0, [int(some["num_prompt_tokens"].median())])[0]
        assert way.routed == pytest.approx(took, rel=0.25)


def test_a_recording_without_spans_gives_the_assumed_way():
    """Nothing can be fitted to a log alone."""
    run = pdtrace.load(ROOT / "sample_logs" / "h100x2-on" / "server.log")
    assert fit_front(join_requests(run.requests)) == FrontTiming()


@pytest.mark.parametrize(
    ("version", "rank"), [("0.5.12", 2), ("0.5.15", 1), ("0.5.17", 1), ("0.5.18", 2), ("0.5.23", 2)]
)
def test_the_older_name_of_the_rank_counts_where_the_release_takes_it(version, rank):
    """0.5.15 to 0.5.17 ignore data_parallel_rank; the room then decides."""
    settings = EngineSettings(4, 4096, 1e6, rules_for("0.5.13"))
    router = Router(Launch(settings, version))
    post = router.read(Body(input_ids=[1], data_parallel_rank=2, bootstrap_room=5))
    assert post.prompts[0].rank == rank
    assert router.read(Body(input_ids=[1], routed_dp_rank=3)).prompts[0].rank == 3


def test_round_robin_engines_ignore_the_room():
    """As the recorded ones were started."""
    settings = EngineSettings(2, 4096, 1e6, rules_for("0.5.13"))
    router = Router(Launch(settings, "0.5.13", load_balance_method="round_robin"))
    posts = [router.read(Body(input_ids=[1], bootstrap_room=4)) for _ in range(4)]
    assert [post.prompts[0].rank for post in posts] == [0, 1, 0, 1]
    assert {post.prompts[0].room for post in posts} == {4}


def test_rooms_of_a_post_count_on_from_one():
    """One room for several prompts stands for a row of rooms."""
    router = Router(Launch(EngineSettings(4, 4096, 1e6, rules_for("0.5.13")), "0.5.13"))
    post = router.read(Body(input_ids=[[1], [1], [1]], bootstrap_room=7, rid="b"))
    assert [(p.rid, p.room, p.rank) for p in post.prompts] == [
        ("b_0", 7, 3), ("b_1", 8, 0), ("b_2", 9, 1),
    ]  # fmt: skip
    with pytest.raises(BadRequestError):
        router.read(Body(input_ids=[[1]] * 5000))


def test_lateness_is_counted_in_steps():
    """Quantiles are upper ends of steps, never beyond the largest."""
    late = Lateness()
    assert late.find_quantile(0.5) is None
    for k in range(100):
        late.note(k / 1e4)
    late.note(-1.0)
    late.note(7.0)
    assert late.find_quantile(0.5) == pytest.approx(0.005, abs=2e-4)
    assert late.find_quantile(1.0) <= 7.0
    assert late.describe()["max_s"] == 7.0


def test_durations_can_be_set_and_scaled():
    """Whoever measured an engine by other means gives its durations."""
    timing = assume_timing(4).override(["floor=0.5", "idle_launch=0.2"])
    assert (timing.floor, timing.idle_launch, timing.base) == (0.5, 0.2, assume_timing(4).base)
    half = timing.scale(0.5)
    rng = [np.random.default_rng(0) for _ in range(2)]
    assert half.draw_pass(0.1, 100, rng[0]) == pytest.approx(timing.draw_pass(0.1, 100, rng[1]) / 2)
    with pytest.raises(UsageError):
        timing.override(["speed=1"])


def test_the_clock_agrees_with_the_machine():
    """Stamps in files are the machine's time."""
    clock = Clock()
    assert abs(clock.stamp() - time.time_ns()) < 50_000_000
